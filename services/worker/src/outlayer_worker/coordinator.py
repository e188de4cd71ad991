# SPDX-License-Identifier: MIT
"""The coordinator's worker routes (INTERFACES: tee-challenge, register-tee, heartbeat, claim, complete)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import aiohttp
import orjson
import structlog

from outlayer_attestation.record import Batch
from outlayer_worker.errors import (
    CoordinatorError,
    CoordinatorRefusedError,
    ProtocolError,
    SessionLostError,
)
from outlayer_worker.identity import Identity
from outlayer_worker.jobs import Completion, Job, parse_jobs

log = structlog.get_logger(__name__)

REQUEST_SECONDS = 30.0


class Coordinator:
    """Client with one TEE session, opened when it is first needed and again when the coordinator forgot it."""

    def __init__(self, url: str, token: str, worker_id: str, identity: Identity) -> None:
        self._url = url
        self._worker_id = worker_id
        self._identity = identity
        self._http = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
        )
        self._session: str | None = None
        self._opening = asyncio.Lock()

    @property
    def has_session(self) -> bool:
        return self._session is not None

    async def close(self) -> None:
        await self._http.close()

    async def open_session(self) -> str:
        """The session's id. Raises ``SessionLostError`` when the coordinator does not accept the key."""
        async with self._opening:
            if self._session is not None:
                return self._session
            reply = await self._post("/workers/tee-challenge", {})
            try:
                challenge = bytes.fromhex(reply["challenge"])
            except (KeyError, TypeError, ValueError) as error:
                raise ProtocolError("the challenge is not hex") from error
            reply = await self._post(
                "/workers/register-tee",
                {
                    "public_key": self._identity.public_key,
                    "challenge": challenge.hex(),
                    "signature": self._identity.sign_challenge(challenge).hex(),
                },
            )
            session = reply.get("session_id")
            if not isinstance(session, str) or not session:
                raise ProtocolError("the reply holds no session")
            self._session = session
            log.info("session_opened", expires_at=reply.get("expires_at"))
            return session

    async def claim(self, max_jobs: int, wait_ms: int) -> list[Job]:
        """New jobs, or an empty list after ``wait_ms``."""
        reply = await self._with_session(
            "/jobs/claim",
            {
                "worker_id": self._worker_id,
                "capabilities": ["execute"],
                "max_jobs": max_jobs,
                "wait_ms": wait_ms,
            },
            REQUEST_SECONDS + wait_ms / 1000,
        )
        return parse_jobs(reply)

    async def heartbeat(self, status: str, jobs: Sequence[str]) -> list[str]:
        """Renew the leases of these jobs; gives those that are not ours any more."""
        body = {"worker_id": self._worker_id, "status": status, "jobs": list(jobs)}
        reply = await self._with_session("/workers/heartbeat", body, REQUEST_SECONDS)
        lost = reply.get("lost", [])
        if not isinstance(lost, list):
            raise ProtocolError("'lost' is not a list")
        return [str(item) for item in lost]

    async def complete(self, batch: Batch | None, completions: Sequence[Completion]) -> dict[str, str | None]:
        """Report finished jobs. Per job: None when it is final by this call, else the coordinator's reason."""
        body = {
            "batch": None if batch is None else batch.to_json(),
            "completions": [completion.to_json() for completion in completions],
        }
        return await self.complete_raw(body)

    async def complete_raw(self, body: dict[str, Any]) -> dict[str, str | None]:
        """The same for a body that was kept on disk."""
        reply = await self._with_session("/jobs/complete", body, REQUEST_SECONDS)
        results = reply.get("results")
        if not isinstance(results, list) or not all(isinstance(item, dict) for item in results):
            raise ProtocolError("the reply to a completion has no results")
        return {
            str(item.get("job_id")): None if item.get("finalized") else str(item.get("reason"))
            for item in results
        }

    async def _with_session(self, path: str, body: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Post within the session; a session that is gone is opened again, once."""
        for attempt in (1, 2):
            session = await self.open_session()
            try:
                return await self._post(path, body, session=session, seconds=seconds)
            except SessionLostError:
                if self._session == session:
                    self._session = None
                if attempt == 2:
                    raise
        raise AssertionError("unreachable: the second attempt returns or raises")

    async def _post(
        self, path: str, body: dict[str, Any], *, session: str | None = None, seconds: float = REQUEST_SECONDS
    ) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if session is not None:
            headers["X-TEE-Session"] = session
        try:
            async with self._http.post(
                self._url + path,
                data=orjson.dumps(body),
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=seconds),
                allow_redirects=False,
            ) as answer:
                data = await answer.read()
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise CoordinatorError(
                f"{path}: the coordinator does not answer ({type(error).__name__})"
            ) from error
        return _reply(path, status, data)


def _reply(path: str, status: int, data: bytes) -> dict[str, Any]:
    try:
        reply = orjson.loads(data)
    except orjson.JSONDecodeError:
        reply = None
    # a completion of nobody's job is answered 403 too, but with results: that is no matter of the session
    if status == 403 and isinstance(reply, dict) and "results" in reply:
        return reply
    if status == 200:
        if not isinstance(reply, dict):
            raise ProtocolError(f"{path}: the reply is not a JSON object")
        return reply
    reason = str(reply.get("error", ""))[:300] if isinstance(reply, dict) else ""
    text = f"{path}: HTTP {status} {reason}".rstrip()
    if status in (401, 403):
        raise SessionLostError(text)
    if status >= 500 or status in (408, 429):
        raise CoordinatorError(text)
    raise CoordinatorRefusedError(text)
