# SPDX-License-Identifier: MIT
"""Hands finished jobs to the coordinator, and keeps what could not be handed over until it can."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import structlog

from outlayer_attestation.record import Batch
from outlayer_worker.coordinator import Coordinator
from outlayer_worker.errors import (
    CoordinatorError,
    CoordinatorRefusedError,
    ProtocolError,
    SessionLostError,
)
from outlayer_worker.jobs import Attested, Completion

log = structlog.get_logger(__name__)

FIRST_WAIT_SECONDS = 0.25
LONGEST_WAIT_SECONDS = 15.0


class Outbox:
    """Completions on disk, so that a result outlives the worker's process. One file per job."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def put(self, job_id: str, body: dict[str, Any], *, near_tx: str | None) -> None:
        path = self._path(job_id)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(orjson.dumps({"job_id": job_id, "body": body, "near_tx": near_tx}))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    def remove(self, job_id: str) -> None:
        self._path(job_id).unlink(missing_ok=True)

    def entries(self) -> list[dict[str, Any]]:
        """What an earlier process left; a file that cannot be read is put aside."""
        found = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                entry = orjson.loads(path.read_bytes())
                if not isinstance(entry["job_id"], str) or not isinstance(entry["body"], dict):
                    raise TypeError("fields of other types")
                found.append(entry)
            except (OSError, KeyError, TypeError, orjson.JSONDecodeError) as error:
                log.warning("outbox_entry_unreadable", file=path.name, error=str(error))
                with contextlib.suppress(OSError):
                    path.rename(path.with_suffix(".unreadable"))
        return found

    def _path(self, job_id: str) -> Path:
        safe = "".join(char for char in job_id if char.isalnum() or char == "-")[:80]
        return self._folder / f"{safe}.json"


@dataclass
class _Group:
    batch: Batch
    completions: list[Completion] = field(default_factory=list)
    done: asyncio.Future[dict[str, str | None]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


def completion_body(batch: Batch | None, completions: list[Completion]) -> dict[str, Any]:
    """The body of ``/jobs/complete``."""
    return {
        "batch": None if batch is None else batch.to_json(),
        "completions": [item.to_json() for item in completions],
    }


class Delivery:
    """Sends completions. HTTPS jobs of one batch share a request; what fails is tried again for ever."""

    def __init__(self, coordinator: Coordinator, outbox: Outbox) -> None:
        self._coordinator = coordinator
        self._outbox = outbox
        self._groups: dict[bytes, _Group] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def together(self, attested: Attested, completion: Completion) -> None:
        """Deliver with the other completions of the same batch that are ready in this moment."""
        root = attested.batch.root
        group = self._groups.get(root)
        if group is None:
            group = self._groups[root] = _Group(attested.batch)
            task = asyncio.create_task(self._flush(root, group))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        group.completions.append(completion)
        await asyncio.shield(group.done)

    async def _flush(self, root: bytes, group: _Group) -> None:
        # the jobs of a batch wake up in one round of the loop; the next one finds them all here
        await asyncio.sleep(0)
        del self._groups[root]
        try:
            group.done.set_result(await self.send(completion_body(group.batch, group.completions)))
        except BaseException:
            group.done.cancel()
            raise

    async def alone(self, batch: Batch | None, completion: Completion, near_tx: str | None = None) -> None:
        """Deliver one completion by itself."""
        await self.send(completion_body(batch, [completion]), near_tx=near_tx)

    def keep(self, batch: Batch | None, completion: Completion, near_tx: str) -> None:
        """Write a completion down before the chain has answered."""
        body = completion_body(batch, [completion])
        self._outbox.put(completion.job_id, body, near_tx=near_tx)

    def forget(self, job_id: str) -> None:
        self._outbox.remove(job_id)

    async def send(self, body: dict[str, Any], *, near_tx: str | None = None) -> dict[str, str | None]:
        """Send until the coordinator has answered for good; kept on disk from the first failure on."""
        jobs = [str(item["job_id"]) for item in body["completions"]]
        wait, kept = FIRST_WAIT_SECONDS, near_tx is not None
        while True:
            try:
                results = await self._coordinator.complete_raw(body)
                break
            except (CoordinatorRefusedError, ProtocolError) as error:
                log.warning("completion_refused", jobs=jobs, error=str(error))
                results = dict.fromkeys(jobs, str(error))
                break
            except (CoordinatorError, SessionLostError) as error:
                if not kept:
                    kept = True
                    for item in body["completions"]:
                        single = {"batch": body["batch"], "completions": [item]}
                        self._outbox.put(str(item["job_id"]), single, near_tx=None)
                log.warning("completion_delayed", jobs=jobs, error=str(error), retry_seconds=wait)
                await asyncio.sleep(wait)
                wait = min(wait * 2, LONGEST_WAIT_SECONDS)
        for job_id in jobs:
            reason = results.get(job_id)
            if reason is not None:
                log.warning("completion_not_final", job_id=job_id, reason=reason)
            if kept:
                self._outbox.remove(job_id)
        return results

    async def resend(self, succeeded: Callable[[str], Awaitable[bool]]) -> None:
        """Deliver what an earlier process left; a NEAR result counts only if its transaction did."""
        for entry in self._outbox.entries():
            job_id, near_tx = entry["job_id"], entry.get("near_tx")
            if near_tx is not None and not await succeeded(near_tx):
                log.warning("outbox_entry_dropped", job_id=job_id, transaction=near_tx)
                self._outbox.remove(job_id)
                continue
            log.info("outbox_entry_sent", job_id=job_id)
            await self.send(entry["body"], near_tx=near_tx or "kept")
