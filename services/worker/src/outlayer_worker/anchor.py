# SPDX-License-Identifier: MIT
"""The chain anchor of records: a recent final block, before which a record cannot have been made.

The worker reads it by its own connection. The host sets the worker's clock and carries its traffic, so neither
is believed alone: a block that does not fit the clock is refused, and no record is made until one does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from outlayer_near.rpc import Header
from outlayer_worker.errors import AnchorError

FRESH_SECONDS = 3.0
"""How long a block that was read serves the records made after it: a round trip is not paid for each call."""

MAX_AGE_SECONDS = 60
"""How old a block may be by this machine's clock. A final block is 1 to 3 s old when a node in step tells it, and
serves for 3 s more; the rest is for a node that lags and for pauses of the chain. Whoever holds blocks back gains
no more than this."""

MAX_AHEAD_SECONDS = 10
"""How far a block may be ahead of this machine's clock: block producers' clocks differ from ours by seconds."""


class AnchorReader:
    """The newest final block, read at most every ``FRESH_SECONDS``, by one request however many jobs wait for it.

    The highest block seen counts, for as long as its time fits the clock: a node that lags behind, as one of
    several behind an address may, does not take the anchor back.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[Header]],
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._clock = clock
        self._monotonic = monotonic
        self._highest: Header | None = None
        self._asked_at = float("-inf")
        self._reading: asyncio.Task[Header] | None = None

    def prefetch(self) -> None:
        """Begin to read, unless there is a fresh block: so that ``current`` need not wait when it is asked."""
        if self._fresh() is None:
            self._start()

    async def current(self) -> Header:
        """The anchor for a record that is made now.

        Raises ``AnchorError`` when the block does not fit the clock or contradicts one seen before, ``NearError``
        when the node does not tell one.
        """
        block = self._fresh()
        if block is None:
            # one caller that is cancelled must not take the reading away from the others
            block = await asyncio.shield(self._start())
        try:
            check_clock(block, self._clock())
        except AnchorError:
            self._asked_at = float("-inf")  # the next try asks again
            raise
        return block

    async def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})

    def _fresh(self) -> Header | None:
        return self._highest if self._monotonic() - self._asked_at < FRESH_SECONDS else None

    def _start(self) -> asyncio.Task[Header]:
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._refresh())
            self._reading.add_done_callback(_note_end)
        return self._reading

    async def _refresh(self) -> Header:
        asked_at = self._monotonic()  # an answer may be as old as its question, however late it comes
        found, now = await self._read(), self._clock()
        known = self._highest
        # a block made up by a node, and too high for any other to follow, counts no longer than it could serve
        if known is not None and _age(known, now) > MAX_AGE_SECONDS:
            known = None
        block = newer(known, found)
        check_clock(block, now)
        self._highest, self._asked_at = block, asked_at
        return block


def newer(known: Header | None, found: Header) -> Header:
    """The higher of two final blocks of one chain. Raises ``AnchorError`` when they cannot be of one."""
    if known is None or known == found:
        return found
    low, high = sorted((known, found), key=lambda header: header.height)
    if low.height == high.height or low.hash == high.hash or low.timestamp_ns >= high.timestamp_ns:
        raise AnchorError(
            f"two final blocks contradict each other: {_describe(known)}, then {_describe(found)}",
            hint="a NEAR node is on another chain or makes its blocks up; see NEAR_RPC_URL",
        )
    return high


def check_clock(block: Header, now: float) -> None:
    """Raises ``AnchorError`` unless the block's time fits ``now`` (unix seconds)."""
    age = _age(block, now)
    if age > MAX_AGE_SECONDS:
        raise AnchorError(
            f"the newest final block, {_describe(block)}, is {age:.0f} s old; {MAX_AGE_SECONDS} s are allowed",
            hint="see that the NEAR node is in step, and that this machine's clock is not ahead",
        )
    if age < -MAX_AHEAD_SECONDS:
        raise AnchorError(
            f"the newest final block, {_describe(block)}, is {-age:.0f} s ahead of this machine's clock; "
            f"{MAX_AHEAD_SECONDS} s are allowed",
            hint="see that this machine's clock is synchronised",
        )


def _age(block: Header, now: float) -> float:
    return now - block.timestamp_ns / 1e9


def _describe(block: Header) -> str:
    return f"{block.height} ({block.hash}) of {block.time}"


def _note_end(task: asyncio.Task[Header]) -> None:
    """A reading that nobody waited for any more may fail unseen: the next one tells."""
    if not task.cancelled():
        task.exception()
