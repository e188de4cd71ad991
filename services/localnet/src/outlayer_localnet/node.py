# SPDX-License-Identifier: MIT
"""The running node: makes blocks when there is work, keeps a heartbeat when there is none.

All contract code runs in one worker thread, so the event loop stays free to answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog

from outlayer_localnet.blocks import Block
from outlayer_localnet.chain import CallResult, Chain

log = structlog.get_logger()
T = TypeVar("T")


class Node:
    """Drives a chain. ``heartbeat`` False makes blocks only on demand, for tests that count them."""

    def __init__(self, chain: Chain, *, heartbeat: bool = True) -> None:
        self.chain = chain
        self.started_at = time.time()
        self.failure: BaseException | None = None
        self._heartbeat = heartbeat
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="localnet-vm")
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.stopped = asyncio.Event()

    async def start(self) -> None:
        """Begin to make blocks."""
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._make_blocks())

    async def stop(self) -> None:
        """Finish the block at work, then close the chain."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await asyncio.get_running_loop().run_in_executor(None, self._worker.shutdown)
        self.chain.close()
        self.stopped.set()

    async def run(self, work: Callable[[], T]) -> T:
        """Run something in the worker thread, between blocks."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)

    # -- blocks ------------------------------------------------------------------------------------

    async def _make_blocks(self) -> None:
        interval = self.chain.config.block_interval
        last = time.monotonic()
        try:
            while True:
                if not self.chain.has_work:
                    self._wake.clear()
                    idle = max(0.0, last + interval - time.monotonic()) if self._heartbeat else None
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._wake.wait(), idle)
                    if not self.chain.has_work and not self._heartbeat:
                        continue
                delay = self.chain.block_delay()
                if delay:
                    await asyncio.sleep(delay)
                await self.run(self.chain.produce_block)
                last = time.monotonic()
                self._announce()
        except Exception as error:
            log.exception("block production failed; the node stops")
            self.failure = error
            self.stopped.set()
            self._announce()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """There is work: do not wait for the heartbeat."""
        self._wake.set()

    def wake_threadsafe(self) -> None:
        """The same, from another thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake.set)

    async def wait_until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait until a condition holds, looking after every block; False after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            changed = self._changed
            if condition():
                return True
            left = deadline - time.monotonic()
            if left <= 0 or self.stopped.is_set():
                return False
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), left)

    # -- operations --------------------------------------------------------------------------------

    def submit(self, data: bytes) -> bytes:
        """Queue a signed transaction; returns its hash. CodecError or InvalidTxError if it is bad."""
        tx_hash = self.chain.submit(self.chain.decode(data), len(data))
        self.wake()
        return tx_hash

    async def view_call(self, account_id: str, method: str, args: bytes, block: Block) -> CallResult:
        """Run a view call in the worker thread."""
        return await self.run(lambda: self.chain.view_call(account_id, method, args, block))

    async def fast_forward(self, delta: int) -> Block:
        """Skip heights; see :meth:`Chain.fast_forward`."""
        return await self.run_then_announce(lambda: self.chain.fast_forward(delta))

    async def shift_time(self, delta_seconds: float) -> Block:
        """Move the clock; see :meth:`Chain.shift_time`."""
        return await self.run_then_announce(lambda: self.chain.shift_time(delta_seconds))

    async def snapshot(self, name: str) -> None:
        """Keep a copy of the chain as it is between two blocks."""
        await self.run(lambda: self.chain.snapshot(name))

    async def restore(self, name: str) -> Block:
        """Go back to a snapshot."""
        return await self.run_then_announce(lambda: self.chain.restore(name))

    async def produce_block(self) -> Block:
        """Make one block now."""
        return await self.run_then_announce(self.chain.produce_block)

    async def run_then_announce(self, work: Callable[[], T]) -> T:
        """Run something that changes the chain in the worker thread, and tell who waits."""
        result = await self.run(work)
        self._announce()
        self.wake()
        return result
