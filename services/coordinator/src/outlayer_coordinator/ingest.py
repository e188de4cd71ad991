# SPDX-License-Identifier: MIT
"""Execution requests from the chain become jobs, each once and none lost (R48).

The cursor moves in the transaction that inserts a block's jobs. One coordinator at a time does this: the one
that holds an advisory lock, on a connection of its own; when it dies the lock is free and another goes on.
"""

from __future__ import annotations

import asyncio
import signal
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
import structlog

from outlayer_coordinator import metrics
from outlayer_coordinator.config import Settings
from outlayer_near.errors import EventError, NearError
from outlayer_near.events import (
    REQUESTED,
    Block,
    BlockSource,
    BlockStream,
    RequestEvent,
    events_of_block,
    open_source,
    parse_request,
)

log = structlog.get_logger(__name__)

_LEADER_LOCK = 0x6F75745F696E6773
_RETRY_SECONDS = 1.0
_MAX_INT = 2**63 - 1

_INSERT = """
INSERT INTO jobs (job_id, kind, contract_id, request_id, data_id, block_height, request_data,
                  max_instructions, max_memory_mb, max_execution_seconds)
VALUES ($1, 'near', $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (contract_id, request_id, data_id) DO NOTHING
"""

_MOVE = """
INSERT INTO event_cursors (stream, cursor, height) VALUES ($1, $2, $3)
ON CONFLICT (stream) DO UPDATE SET cursor = excluded.cursor, height = excluded.height, updated_at = now()
WHERE event_cursors.height < excluded.height
"""


@dataclass
class Ingest:
    """Follows one contract's events. ``ring`` is called once per new job."""

    settings: Settings
    ring: Callable[[], None]
    open_blocks: Callable[[], BlockSource]
    height: int | None = None
    leader: bool = False
    last_error: str | None = None
    _stream: BlockStream | None = None

    @property
    def trouble(self) -> str | None:
        """What keeps it from going on at this moment, if anything does."""
        return self.last_error or (self._stream.last_error if self._stream else None)

    @classmethod
    def of(cls, settings: Settings, ring: Callable[[], None]) -> Ingest:
        return cls(settings, ring, lambda: open_source(settings.near_rpc_url, settings.block_feed_url))

    @property
    def stream_name(self) -> str:
        """One cursor per network and contract."""
        return f"{self.settings.near_network_id}/{self.settings.contract_id}"

    async def run_forever(self) -> None:
        """Lead when nobody else does, and begin again after any failure."""
        while True:
            try:
                await self._lead()
            except (NearError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
                self.last_error = f"{type(error).__name__}: {error}"
                log.warning("ingest_interrupted", error=self.last_error)
            finally:
                self.leader, self._stream = False, None
            await asyncio.sleep(_RETRY_SECONDS)

    async def _lead(self) -> None:
        # what a crash of the server forgets, it forgets together with the cursor, and it is read again
        server_settings = {"application_name": "outlayer-ingest", "synchronous_commit": "off"}
        connection = await asyncpg.connect(
            self.settings.database_url, timeout=10, server_settings=server_settings
        )
        try:
            if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LEADER_LOCK):
                return
            self.leader = True
            source = self.open_blocks()
            async with BlockStream(source, await self._start(connection, source)) as stream:
                self._stream = stream
                while True:
                    await self.store(connection, await stream.next())
        finally:
            await connection.close(timeout=5)

    async def _start(self, connection: asyncpg.Connection[Any], source: BlockSource) -> int:
        """The block after the cursor; without one the configured height, else all that the source still has.

        Raises:
            EventError: the source no longer has that block. Skipping is a person's decision (``admin set-cursor``).
        """
        height = await connection.fetchval(
            "SELECT height FROM event_cursors WHERE stream = $1", self.stream_name
        )
        first = await source.first()
        if height is None and self.settings.start_block_height is None:
            return first
        start = self.settings.start_block_height or 0 if height is None else int(height) + 1
        if start < first:
            raise EventError(
                f"blocks {start} to {first - 1} are no longer served by the block source",
                hint="give an archival source, or skip them: python -m outlayer_coordinator.admin set-cursor",
            )
        return start

    async def store(self, connection: asyncpg.Connection[Any], block: Block) -> int:
        """Insert a block's requests and move the cursor past it, both or neither; how many jobs are new."""
        self.height, self.last_error = block.height, None
        requests = list(self._requests(block))
        created = 0
        async with connection.transaction():
            for request in requests:
                created += await self._insert(connection, request)
            await connection.execute(_MOVE, self.stream_name, block.hash, block.height)
        metrics.BLOCK_HEIGHT.set(block.height)
        metrics.EVENTS.inc(created)
        for _ in range(created):
            self.ring()
        return created

    def _requests(self, block: Block) -> list[RequestEvent]:
        found = []
        for event in events_of_block(block, self.settings.contract_id):
            if event.event != REQUESTED:
                continue
            try:
                request = parse_request(event)
                if request.request.request_id > _MAX_INT:
                    raise EventError(f"request id {request.request.request_id} is out of range")
                found.append(request)
            except EventError as error:
                # no program can run what it cannot read; the contract's cancel returns the payment
                metrics.EVENTS_UNREADABLE.inc()
                log.exception(
                    "event_unreadable", error=str(error), block=block.height, receipt=event.receipt.receipt_id
                )
        return found

    async def _insert(self, connection: asyncpg.Connection[Any], event: RequestEvent) -> int:
        limits = event.request.resource_limits
        job_id = uuid.uuid4()
        status = await connection.execute(
            _INSERT,
            job_id,
            self.settings.contract_id,
            event.request.request_id,
            event.data_id,
            event.block_height,
            event.request.model_dump_json(by_alias=True),
            min(limits.max_instructions, _MAX_INT),
            limits.max_memory_mb,
            min(limits.max_execution_seconds, _MAX_INT),
        )
        if status != "INSERT 0 1":
            return 0
        log.info(
            "request_ingested",
            job_id=str(job_id),
            request_id=event.request.request_id,
            block=event.block_height,
            transaction_hash=event.tx_hash,
        )
        return 1


async def _main(settings: Settings) -> None:
    from outlayer_coordinator.doorbell import Doorbell
    from outlayer_coordinator.migrate import migrate_url

    await migrate_url(settings.database_url)
    doorbell = Doorbell(settings.redis_url)
    task = asyncio.create_task(Ingest.of(settings, doorbell.work).run_forever())
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        log.info("ingest_stopped")
    finally:
        await doorbell.close()


def main() -> int:
    """Ingestion alone, beside coordinators that run with COORDINATOR_INGEST=0."""
    import os
    import sys

    from outlayer_coordinator.errors import CoordinatorError
    from outlayer_coordinator.logs import configure

    configure()
    try:
        asyncio.run(_main(Settings.from_env(os.environ)))
    except CoordinatorError as error:
        sys.stderr.write(f"{error}\n  hint: {error.hint}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
