# SPDX-License-Identifier: MIT
"""Quotes for batches: while one quote is made, the records that finish meanwhile form the next batch."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from outlayer_attestation.errors import AttestationError
from outlayer_attestation.record import Batch, TaskRecordV2, batch_report_data
from outlayer_worker.jobs import Attested

log = structlog.get_logger(__name__)

Quote = Callable[[bytes], Awaitable[bytes]]
FIRST_WAIT_SECONDS = 0.2
LONGEST_WAIT_SECONDS = 10.0


async def attest(records: Sequence[TaskRecordV2], quote: Quote) -> list[Attested]:
    """One quote over all records; each gets its leaf index and inclusion proof."""
    tree, report_data = batch_report_data(records)
    batch = Batch(tree_size=tree.size, root=tree.root, quote=await quote(report_data))
    return [Attested(record, batch, index, tree.proofs[index]) for index, record in enumerate(records)]


class Batcher:
    """Collects records and attests them in batches of at most ``max_batch``."""

    def __init__(self, quote: Quote, max_batch: int) -> None:
        self._quote = quote
        self._max_batch = max_batch
        self._waiting: list[tuple[TaskRecordV2, asyncio.Future[Attested]]] = []
        self._more = asyncio.Event()

    async def attested(self, record: TaskRecordV2) -> Attested:
        """Wait until the record is part of a quoted batch."""
        future: asyncio.Future[Attested] = asyncio.get_running_loop().create_future()
        self._waiting.append((record, future))
        self._more.set()
        return await future

    async def run(self) -> None:
        """Serve until cancelled. A guest agent that fails is asked again; nothing is lost meanwhile."""
        wait = FIRST_WAIT_SECONDS
        while True:
            await self._more.wait()
            # a job that was given up does not need its record any more
            self._waiting = [item for item in self._waiting if not item[1].done()]
            taken = self._waiting[: self._max_batch]
            if not taken:
                self._more.clear()
                continue
            try:
                results = await attest([record for record, _ in taken], self._quote)
            except (AttestationError, OSError) as error:
                log.warning("quote_failed", error=str(error), records=len(taken), retry_seconds=wait)
                await asyncio.sleep(wait)
                wait = min(wait * 2, LONGEST_WAIT_SECONDS)
                continue
            wait = FIRST_WAIT_SECONDS
            self._waiting = self._waiting[len(taken) :]
            for (_, future), result in zip(taken, results, strict=True):
                if not future.done():
                    future.set_result(result)
