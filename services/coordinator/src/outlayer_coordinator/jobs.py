# SPDX-License-Identifier: MIT
"""Jobs under leases: claim, renew, complete, give up (R24, R25, R27, R28, R33 to R39).

A job is queued, claimed, completed or failed. Each step is one statement that checks the state it starts from,
so of two who try, one wins, and each job settles exactly once.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import math
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import orjson
import structlog

from outlayer_attestation.record import Batch
from outlayer_coordinator import jobs_sql, metrics
from outlayer_coordinator.chain import Fresh
from outlayer_coordinator.completion import Completion, JobFacts, Report, check_batch, join_proof, mismatch
from outlayer_coordinator.config import Settings
from outlayer_coordinator.db import Database, retried
from outlayer_coordinator.doorbell import Doorbell
from outlayer_coordinator.money import NOTHING_CHARGED, Pricing, Reservation, Settlement, settle
from outlayer_coordinator.sessions import Session

log = structlog.get_logger(__name__)

MAX_JOBS_PER_CLAIM = 64
LONGEST_WAIT_SECONDS = 60.0
MAX_REMEMBERED = 1024
LARGEST_REMEMBERED_INPUT = 16_384
GIVEN_UP = "lease_expired"
NEVER_TAKEN = "no_worker"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one completion; ``reason`` when it was not taken (or had been taken before)."""

    job_id: uuid.UUID
    finalized: bool
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {"job_id": str(self.job_id), "finalized": self.finalized}
        return value if self.reason is None else {**value, "reason": self.reason}


NOT_CLAIMER = "not_claimer"
ALREADY = "already_finalized"


@dataclass
class Jobs:
    """The worker side of the coordinator; one object per process."""

    settings: Settings
    database: Database
    doorbell: Doorbell
    pricing: Fresh[Pricing]
    _claimed: OrderedDict[uuid.UUID, Any] = field(default_factory=OrderedDict)
    """Rows of jobs claimed through this process: saves reading them again when they are completed here."""
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def stop(self) -> None:
        """Answer waiting workers with no jobs."""
        self._stopping.set()

    # -- claim and renew ---------------------------------------------------------------------------------------

    async def claim(
        self, session: Session, worker_id: str, max_jobs: int, wait_seconds: float, still: Callable[[], Any]
    ) -> list[dict[str, Any]]:
        """Up to ``max_jobs`` jobs under a lease; waits for the first one. ``still`` checks the session again."""
        deadline = time.monotonic() + min(wait_seconds, LONGEST_WAIT_SECONDS)
        while True:
            rows = [] if self._stopping.is_set() else await self._claim_once(session, worker_id, max_jobs)
            left = deadline - time.monotonic()
            if rows or left <= 0 or self._stopping.is_set():
                for row in rows:
                    metrics.JOBS_CLAIMED.labels(row["kind"]).inc()
                    log.info(
                        "job_claimed", job_id=str(row["job_id"]), worker_id=worker_id, attempt=row["attempt"]
                    )
                return [self._job(row) for row in rows]
            await self.doorbell.wait_for_work(min(left, self.settings.poll_seconds))
            await still()

    async def _claim_once(self, session: Session, worker_id: str, max_jobs: int) -> list[asyncpg.Record]:
        rows: list[asyncpg.Record] = await self.database.quick.fetch(
            jobs_sql.CLAIM,
            max(1, min(max_jobs, MAX_JOBS_PER_CLAIM)),
            worker_id,
            session.token.token_hash,
            session.worker_public_key,
            session.session_id,
            self.settings.lease_seconds,
        )
        for row in rows:
            if len(row["input"] or b"") <= LARGEST_REMEMBERED_INPUT:
                self._claimed[row["job_id"]] = row
        while len(self._claimed) > MAX_REMEMBERED:
            self._claimed.popitem(last=False)
        return rows

    def _job(self, row: Any) -> dict[str, Any]:
        job: dict[str, Any] = {
            "job_id": str(row["job_id"]),
            "attempt": row["attempt"],
            "lease_seconds": math.ceil(self.settings.lease_seconds),
            "kind": row["kind"],
            "resource_limits": {
                "max_instructions": row["max_instructions"],
                "max_memory_mb": row["max_memory_mb"],
                "max_execution_seconds": row["max_execution_seconds"],
            },
            "https": None,
            "near": None,
        }
        if row["kind"] == "near":
            job["near"] = {
                "request_id": row["request_id"],
                "data_id": row["data_id"].hex(),
                "block_height": row["block_height"],
                "contract_id": row["contract_id"],
            }
        else:
            job["https"] = {
                "call_id": str(row["call_id"]),
                "project_id": row["project_id"],
                "version_key": row["version_key"],
                "input_base64": base64.b64encode(row["input"]).decode(),
                "payment_key_owner": row["owner"],
                "payment_key_nonce": row["nonce"],
                "compute_limit_usd": row["compute_limit"],
                "attached_deposit_usd": row["attached_deposit"],
                "secrets_ref": row["secrets_ref"],
            }
        return job

    async def renew(self, session: Session, job_ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
        """Renew the leases of these jobs; gives those that are no longer this worker's."""
        if not job_ids:
            return []
        rows = await self.database.quick.fetch(
            jobs_sql.RENEW,
            list(job_ids),
            session.token.token_hash,
            session.worker_public_key,
            self.settings.lease_seconds,
        )
        held = {row["job_id"] for row in rows}
        return [job_id for job_id in job_ids if job_id not in held]

    # -- complete ----------------------------------------------------------------------------------------------

    async def complete(self, session: Session, report: Report) -> list[Result]:
        """Settle and archive finished jobs, each once. A completion that does not fit is refused alone.

        Raises:
            ApiError: 400 when the batch's quote is not about the batch.
            ChainError: no price is known.
        """
        if report.batch is not None:
            check_batch(report.batch)
        facts = {item.job_id: self._claimed.pop(item.job_id, None) for item in report.completions}
        results = await self._complete(session, report.completions, facts, report.batch)
        # what is not remembered here, or did not go as remembered, is judged again on what is stored
        again = [item for item in report.completions if not results[item.job_id].finalized]
        if again:
            rows = await self.database.main.fetch(jobs_sql.FACTS, [item.job_id for item in again])
            stored = {row["job_id"]: row for row in rows}
            results |= await self._complete(session, again, stored, report.batch)
        for result in results.values():
            if not result.finalized:
                metrics.COMPLETIONS_REFUSED.labels((result.reason or "").partition(":")[0]).inc()
                log.warning("completion_refused", job_id=str(result.job_id), reason=result.reason)
        return [results[item.job_id] for item in report.completions]

    async def _complete(
        self,
        session: Session,
        items: Sequence[Completion],
        facts: Mapping[uuid.UUID, Any],
        batch: Batch | None,
    ) -> dict[uuid.UUID, Result]:
        results: dict[uuid.UUID, Result] = {}
        good: list[Completion] = []
        for item in items:
            refusal = self._refusal(session, item, facts.get(item.job_id), batch)
            if refusal is None:
                good.append(item)
            else:
                results[item.job_id] = refusal
        if good:
            settled = await self._settle(session, good, facts, batch)
            for item in good:
                # between the reading and the writing another reply of the same worker may have come first
                taken = item.job_id in settled
                results[item.job_id] = Result(item.job_id, taken, None if taken else NOT_CLAIMER)
        return results

    def _refusal(self, session: Session, item: Completion, row: Any, batch: Batch | None) -> Result | None:
        mine = row is not None and (
            row["token_hash"] == session.token.token_hash
            and row["worker_public_key"] == session.worker_public_key
            and row["attempt"] == item.attempt
        )
        if not mine:
            return Result(item.job_id, False, NOT_CLAIMER)
        if row["state"] in ("completed", "failed"):
            # a repeated reply of the worker whose completion was taken; a job that was given up is nobody's
            taken = row["success"] == item.success and row["error_category"] not in (GIVEN_UP, NEVER_TAKEN)
            return Result(item.job_id, taken, ALREADY)
        if row["state"] != "claimed":
            return Result(item.job_id, False, NOT_CLAIMER)
        wrong = mismatch(
            item,
            job_facts(row),
            batch,
            network_id=self.settings.near_network_id,
            worker_public_key=session.worker_public_key,
        )
        return None if wrong is None else Result(item.job_id, False, f"mismatch: {wrong}")

    async def _settle(
        self,
        session: Session,
        items: Sequence[Completion],
        facts: Mapping[uuid.UUID, Any],
        batch: Batch | None,
    ) -> set[uuid.UUID]:
        pricing = await self.pricing.get()
        settlements = [settlement_of(pricing, item, facts[item.job_id]) for item in items]
        records = [item.attested.record if item.attested else None for item in items]
        arguments = (
            *_item_columns([(item.job_id, item.attempt) for item in items], items, settlements),
            session.token.token_hash,
            session.worker_public_key,
            [item.refund_usd for item in items],
            [item.resolve_tx_hash for item in items],
            *_batch_columns(batch),
            [None if record is None else orjson.dumps(record.to_json()).decode() for record in records],
            [None if record is None else record.leaf_hash() for record in records],
            [item.attested.leaf_index if item.attested else None for item in items],
            [join_proof(item.attested.proof) if item.attested else None for item in items],
            [None if record is None else record.contract_id for record in records],
            [None if record is None else record.request_id for record in records],
            [None if record is None else record.transaction_hash for record in records],
        )
        rows = await retried(lambda: self.database.main.fetch(jobs_sql.COMPLETE, *arguments))
        if batch is not None:
            metrics.BATCH_RECORDS.observe(len(items))
        by_id = {item.job_id: (item, cost) for item, cost in zip(items, settlements, strict=True)}
        calls = {}
        for row in rows:
            item, settlement = by_id[row["job_id"]]
            self._finished(row, "completed" if item.success else "failed", item.error_category)
            if row["call_id"] is not None:
                calls[row["call_id"]] = call_result(row["call_id"], item, settlement)
        self.doorbell.done(calls)
        return {row["job_id"] for row in rows}

    def _finished(self, row: Any, state: str, category: str | None) -> None:
        metrics.JOBS_FINISHED.labels(row["kind"], state).inc()
        log.info("job_finished", job_id=str(row["job_id"]), kind=row["kind"], state=state, category=category)

    # -- leases that end ---------------------------------------------------------------------------------------

    async def sweep(self) -> int:
        """Queue again or give up what lost its lease, and close calls that nobody took; how many were touched."""
        requeued = await self.database.main.fetch(jobs_sql.REQUEUE, self.settings.max_attempts)
        for row in requeued:
            metrics.JOBS_REQUEUED.inc()
            self.doorbell.work()
            log.warning(
                "lease_expired",
                job_id=str(row["job_id"]),
                worker_id=row["worker_id"],
                attempt=row["attempt"],
            )
        exhausted = await self.database.main.fetch(jobs_sql.EXHAUSTED, self.settings.max_attempts)
        given_up = await self._fail(
            exhausted,
            f"Given up after {self.settings.max_attempts} attempts: the workers did not finish",
            GIVEN_UP,
        )
        stuck = await self.database.main.fetch(jobs_sql.STUCK, self.settings.stuck_call_seconds)
        closed = await self._fail(stuck, "No worker took the call in time", NEVER_TAKEN)
        return len(requeued) + given_up + closed

    async def _fail(self, rows: Sequence[Any], error: str, category: str) -> int:
        """End jobs without a result. Nothing was proven, so nothing is charged and the reservation is free again."""
        if not rows:
            return 0
        # in one order everywhere, so that two coordinators do not lock each other out
        jobs = sorted((row["job_id"], row["attempt"]) for row in rows)
        size = len(jobs)
        ended = await retried(
            lambda: self.database.main.fetch(
                jobs_sql.FAIL,
                [job_id for job_id, _ in jobs],
                [attempt for _, attempt in jobs],
                [False] * size,
                [None] * size,
                [error] * size,
                [category] * size,
                [0] * size,
                [0] * size,
                *_money_columns([NOTHING_CHARGED] * size),
                [False] * size,
            )
        )
        for row in ended:
            self._finished(row, "failed", category)
        self.doorbell.done({row["call_id"]: None for row in ended if row["call_id"] is not None})
        return len(ended)

    async def sweep_forever(self) -> None:
        """Sweep again and again; the database being away is waited out."""
        while True:
            try:
                await self.sweep()
                metrics.QUEUED.set(
                    await self.database.quick.fetchval("SELECT count(*) FROM jobs WHERE state = 'queued'")
                )
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
                log.warning("sweep_failed", error=str(error))
            await asyncio.sleep(self.settings.sweep_seconds)


def job_facts(row: Any) -> JobFacts:
    """The stored side of the comparison with a record."""
    return JobFacts(
        job_id=row["job_id"],
        kind=row["kind"],
        max_instructions=row["max_instructions"],
        max_memory_mb=row["max_memory_mb"],
        max_execution_seconds=row["max_execution_seconds"],
        call_id=row["call_id"],
        owner=row["owner"],
        nonce=row["nonce"],
        project_id=row["project_id"],
        project_uuid=row["project_uuid"],
        version_key=row["version_key"],
        secrets_ref=row["secrets_ref"],
        input=row["input"],
        attached_deposit=row["attached_deposit"],
        contract_id=row["contract_id"],
        request_id=row["request_id"],
        block_height=row["block_height"],
    )


def settlement_of(pricing: Pricing, item: Completion, row: Any) -> Settlement:
    """What a job costs its key: nothing for a chain request (settled there), nothing for what was not attested."""
    if row["kind"] != "https" or item.attested is None:
        return NOTHING_CHARGED
    return settle(
        pricing,
        Reservation(row["compute_limit"], row["attached_deposit"]),
        success=item.success,
        instructions=item.instructions,
        time_ms=item.time_ms,
        refund=item.refund_usd,
    )


def call_result(call_id: uuid.UUID, item: Completion, settlement: Settlement) -> dict[str, Any]:
    """The call as it was just stored: what a client that waits in this process is answered with."""
    return {
        "call_id": call_id,
        "status": "completed" if item.success else "failed",
        "output": item.output if item.success else None,
        "error": storable(item.error),
        "instructions": item.instructions,
        "time_ms": item.time_ms,
        "compute_cost": settlement.compute_cost,
        "attested": item.attested is not None,
    }


def storable(text: str | None) -> str | None:
    """PostgreSQL's text has no NUL."""
    return None if text is None else text.replace("\x00", "\ufffd")


def _item_columns(
    jobs: Sequence[tuple[uuid.UUID, int]], items: Sequence[Completion], settlements: Sequence[Settlement]
) -> tuple[list[Any], ...]:
    return (
        [job_id for job_id, _ in jobs],
        [attempt for _, attempt in jobs],
        [item.success for item in items],
        [item.output if item.success else None for item in items],
        [storable(item.error) for item in items],
        [item.error_category for item in items],
        [item.instructions for item in items],
        [item.time_ms for item in items],
        *_money_columns(settlements),
        [item.attested is not None for item in items],
    )


def _money_columns(settlements: Sequence[Settlement]) -> tuple[list[int], ...]:
    return (
        [settlement.compute_cost for settlement in settlements],
        [settlement.refund for settlement in settlements],
        [settlement.charged for settlement in settlements],
        [settlement.credit for settlement in settlements],
    )


def _batch_columns(batch: Batch | None) -> tuple[Any, ...]:
    if batch is None:
        return (None, None, None, None)
    digest = hashlib.sha256(batch.tree_size.to_bytes(8, "big") + batch.root + batch.quote).digest()
    return (digest, batch.tree_size, batch.root, batch.quote)
