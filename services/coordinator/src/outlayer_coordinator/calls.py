# SPDX-License-Identifier: MIT
"""Calls over HTTPS: check, reserve, queue, wait, answer (outlayer.md §4.9).

Reservation, call and job are one statement: there is no state in which a reservation exists without its call,
whatever fails (R37), and no job that is queued before its row is committed (R28).
"""

from __future__ import annotations

import asyncio
import hmac
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import orjson
import structlog

from outlayer_coordinator import metrics
from outlayer_coordinator.call_request import CallBody, KeyClaim, splice_output
from outlayer_coordinator.chain import ProjectCache
from outlayer_coordinator.config import Settings
from outlayer_coordinator.db import Database, retried
from outlayer_coordinator.doorbell import Doorbell
from outlayer_coordinator.errors import ApiError
from outlayer_coordinator.money import Reservation

log = structlog.get_logger(__name__)

PENDING = "pending"
_MAX_WINDOWS = 50_000
_RACES = 3

# The conditions are those of `_refusal`, which says which of them failed. PostgreSQL checks them again on the
# row's newest version after it got the row lock, so concurrent calls cannot overspend.
_ACCEPT = """
WITH key AS (
    UPDATE payment_keys
    SET reserved = reserved + $6::bigint + $7::bigint, open_calls = open_calls + 1, last_used_at = now()
    WHERE owner = $1 AND nonce = $2 AND key_hash = $3 AND deleted_at IS NULL
      AND (cardinality(project_ids) = 0 OR $4 = ANY (project_ids))
      AND (NOT is_grant OR $7::bigint = 0)
      AND (max_per_call = 0 OR $6::bigint + $7::bigint <= max_per_call)
      AND open_calls < $8
      AND initial_balance - spent - reserved >= $6::bigint + $7::bigint
    RETURNING owner, nonce
), call AS (
    INSERT INTO https_calls (call_id, owner, nonce, project_id, project_uuid, version_key, secrets_ref, input,
                             compute_limit, attached_deposit, reserved)
    SELECT $9, owner, nonce, $4, $5, $10, $11, $12, $6, $7, $6::bigint + $7::bigint FROM key
    RETURNING call_id
)
INSERT INTO jobs (job_id, kind, call_id, max_instructions, max_memory_mb, max_execution_seconds)
SELECT $13, 'https', call_id, $14, $15, $16 FROM call
RETURNING job_id
"""

_KEY = """
SELECT key_hash, deleted_at IS NOT NULL AS deleted, project_ids, is_grant, max_per_call, open_calls,
       initial_balance, spent, reserved, last_used_at
FROM payment_keys WHERE owner = $1 AND nonce = $2
"""

_CALL = """
SELECT c.call_id, c.owner, c.nonce, c.status, c.input, c.output, c.error, c.instructions, c.time_ms, c.compute_cost,
       c.attested, k.key_hash, k.deleted_at IS NOT NULL AS deleted
FROM https_calls c JOIN payment_keys k USING (owner, nonce) WHERE c.call_id = $1
"""

_RESULT = """
SELECT call_id, status, output, error, instructions, time_ms, compute_cost, attested
FROM https_calls WHERE call_id = $1 AND status <> 'pending'
"""


@dataclass(frozen=True, slots=True)
class NewCall:
    """A call whose headers and body were read."""

    claim: KeyClaim
    project_id: str
    reservation: Reservation
    body: CallBody


@dataclass
class RateLimiter:
    """Uses per minute of a presented key. Counted in Redis; by this process alone while Redis is away.

    Windows are those of the clock, so steady use never stretches one. The bucket is that of the key *with its
    secret*: who does not hold the secret cannot use up another's rate.
    """

    doorbell: Doorbell
    per_minute: int
    window_seconds: int = 60
    clock: Callable[[], float] = time.time
    _windows: dict[str, tuple[int, int]] = field(default_factory=dict)

    async def check(self, claim: KeyClaim) -> None:
        """Raises ``ApiError`` 429."""
        bucket = f"pk_rate:{claim.owner}:{claim.nonce}:{claim.key_hash[:16]}"
        window = int(self.clock()) // self.window_seconds
        used = await self.doorbell.count(f"{bucket}:{window}", self.window_seconds)
        if used is None:
            used = self._count_here(bucket, window)
        if used > self.per_minute:
            raise ApiError(
                429, f"Rate limit exceeded: {self.per_minute} requests/minute allowed. Try again later."
            )

    def _count_here(self, bucket: str, window: int) -> int:
        if len(self._windows) >= _MAX_WINDOWS:
            self._windows.clear()
        before, used = self._windows.get(bucket, (window, 0))
        used = used + 1 if before == window else 1
        self._windows[bucket] = (window, used)
        return used


@dataclass
class Calls:
    """The HTTPS API's operations; one object per process."""

    settings: Settings
    database: Database
    doorbell: Doorbell
    projects: ProjectCache
    limiter: RateLimiter
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def call(self, new: NewCall) -> bytes:
        """Run a call; gives the JSON answer. Raises ``ApiError``, ``ChainError``.

        A failed execution is an answer, not an error. When the wait is over before the call is, the call and
        its reservation stay (R38) and the answer says where to ask.
        """
        await self.limiter.check(new.claim)
        project_uuid = await self.projects.uuid(new.project_id)
        call_id = uuid.uuid4()
        if new.body.asynchronous:
            await self._accept(new, call_id, project_uuid)
            return _pending(call_id)
        with self.doorbell.waiting(call_id) as finished:
            await self._accept(new, call_id, project_uuid)
            row = await self._wait(call_id, finished)
        return _pending(call_id) if row is None else render(row, self.settings.public_base_url)

    async def _accept(self, new: NewCall, call_id: uuid.UUID, project_uuid: str | None) -> None:
        for _ in range(_RACES):
            job_id = None
            if project_uuid is not None:
                job_id = await self._insert(new, call_id, project_uuid)
            if job_id is not None:
                self.doorbell.work()
                metrics.CALLS_ACCEPTED.inc()
                log.info("call_accepted", job_id=str(job_id), call_id=str(call_id), project_id=new.project_id)
                return
            key = await self.database.main.fetchrow(_KEY, new.claim.owner, new.claim.nonce)
            refusal = refusal_of(key, new, self.settings.max_concurrent_calls)
            if refusal is not None:
                raise refusal
            if project_uuid is None:
                raise ApiError(404, f"Project not found: {new.project_id}")
            # the key could not pay a moment ago and can now: another call settled in between
        raise ApiError(429, "The payment key is busy. Try again later.")

    async def _insert(self, new: NewCall, call_id: uuid.UUID, project_uuid: str) -> uuid.UUID | None:
        body, limits = new.body, new.body.limits
        arguments = (
            new.claim.owner,
            new.claim.nonce,
            new.claim.key_hash,
            new.project_id,
            project_uuid,
            new.reservation.compute_limit,
            new.reservation.attached_deposit,
            self.settings.max_concurrent_calls,
            call_id,
            body.version_key,
            body.secrets_ref,
            body.input,
            uuid.uuid4(),
            limits.max_instructions,
            limits.max_memory_mb,
            limits.max_execution_seconds,
        )
        found: uuid.UUID | None = await retried(lambda: self.database.main.fetchval(_ACCEPT, *arguments))
        return found

    async def _wait(self, call_id: uuid.UUID, finished: asyncio.Future[Any]) -> Any:
        """The settled call's row, or None when the time is over or this process stops."""
        deadline = time.monotonic() + self.settings.sync_timeout_seconds
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or self._stopping.is_set():
                return None
            if not finished.done():
                await asyncio.wait((finished,), timeout=min(left, self.settings.poll_seconds))
                if finished.done() and finished.result() is not None:
                    return finished.result()
            row = await self.database.main.fetchrow(_RESULT, call_id)
            if row is not None:
                return row
            if finished.done():
                # a bell for something else (a reconnected Redis, a stopping server): from here on, poll
                await asyncio.sleep(min(self.settings.poll_seconds, max(0.0, left)))

    def stop(self) -> None:
        """Answer every waiting client with "pending"; their calls go on."""
        self._stopping.set()

    async def result(self, claim: KeyClaim, call_id: str) -> bytes:
        """The JSON answer for ``GET /calls/{id}``. Raises ``ApiError``."""
        return render(await self._own_call(claim, call_id), self.settings.public_base_url)

    async def payload(self, claim: KeyClaim, call_id: str) -> tuple[bytes, bytes]:
        """Exact input and output bytes of a finished call. Raises ``ApiError``."""
        row = await self._own_call(claim, call_id)
        if row["status"] == PENDING:
            raise ApiError(409, "The call is not finished")
        return row["input"], row["output"] or b""

    async def _own_call(self, claim: KeyClaim, call_id: str) -> asyncpg.Record:
        """R30: the secret is checked here as it is for a call. Another key's call is answered as an unknown one."""
        key = await self.database.main.fetchrow(_KEY, claim.owner, claim.nonce)
        if not authentic(key, claim):
            raise ApiError(401, "Invalid payment key")
        try:
            wanted = uuid.UUID(call_id)
        except ValueError as error:
            raise ApiError(404, "Call not found") from error
        row = await self.database.main.fetchrow(_CALL, wanted)
        if row is None or (row["owner"], row["nonce"]) != (claim.owner, claim.nonce):
            raise ApiError(404, "Call not found")
        return row

    async def balance(self, claim: KeyClaim) -> dict[str, Any]:
        """What a key has, spent and holds back; strings of micro-USD. Raises ``ApiError``."""
        key = await self.database.main.fetchrow(_KEY, claim.owner, claim.nonce)
        if not authentic(key, claim):
            raise ApiError(401, "Invalid payment key")
        used = key["last_used_at"]
        return {
            "owner": claim.owner,
            "nonce": claim.nonce,
            "initial_balance": str(key["initial_balance"]),
            "spent": str(key["spent"]),
            "reserved": str(key["reserved"]),
            "available": str(key["initial_balance"] - key["spent"] - key["reserved"]),
            "is_grant": key["is_grant"],
            "last_used_at": None if used is None else used.isoformat(),
        }


def authentic(key: Any, claim: KeyClaim) -> bool:
    """Whether a stored key is the one presented, and in use."""
    return key is not None and not key["deleted"] and hmac.compare_digest(key["key_hash"], claim.key_hash)


def refusal_of(key: Any, new: NewCall, max_concurrent: int) -> ApiError | None:
    """Why this key cannot pay for this call: the first failing check, in the order of outlayer.md §4.9."""
    reservation = new.reservation
    if not authentic(key, new.claim):
        return ApiError(401, "Invalid payment key")
    if key["project_ids"] and new.project_id not in key["project_ids"]:
        return ApiError(403, f"Payment key is not allowed to call {new.project_id}")
    if key["is_grant"] and reservation.attached_deposit > 0:
        return ApiError(403, "Grant keys cannot attach a deposit")
    if 0 < key["max_per_call"] < reservation.amount:
        return ApiError(400, f"The call exceeds max_per_call of this key ({key['max_per_call']})")
    if key["open_calls"] >= max_concurrent:
        return ApiError(429, f"Too many calls at once: {max_concurrent} open calls allowed per payment key.")
    available = key["initial_balance"] - key["spent"] - key["reserved"]
    if available < reservation.amount:
        return ApiError(402, f"Insufficient balance: {reservation.amount} needed, {available} available")
    return None


def _pending(call_id: uuid.UUID) -> bytes:
    return orjson.dumps({"call_id": str(call_id), "status": PENDING, "poll_url": f"/calls/{call_id}"})


def render(row: Any, public_base_url: str) -> bytes:
    """A call's JSON answer. Absent members are left out; ``output`` is spliced in as the guest wrote it."""
    call_id = str(row["call_id"])
    if row["status"] == PENDING:
        return _pending(row["call_id"])
    answer: dict[str, Any] = {"call_id": call_id, "status": row["status"]}
    if row["status"] == "completed":
        answer["output"] = orjson.Fragment(splice_output(row["output"] or b""))
    else:
        answer["error"] = row["error"] or "The execution failed"
    answer["compute_cost"] = str(row["compute_cost"])
    answer["instructions"] = row["instructions"]
    answer["time_ms"] = row["time_ms"]
    if row["attested"]:  # R32: only when there is something to read
        answer["attestation_url"] = f"{public_base_url}/attestations/by-call/{call_id}"
    return orjson.dumps(answer)
