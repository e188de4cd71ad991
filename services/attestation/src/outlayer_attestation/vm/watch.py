# SPDX-License-Identifier: MIT
"""Keeps an eye on the clock while a VM or container runs: what objects to it now, and what was last confirmed.

A VM's chronyd steers the clock (``SteeredClock``); a container's clock is of its platform, so it is compared and never
set (``ComparedClock``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final, NoReturn, Protocol

import structlog

from outlayer_attestation.errors import VmError
from outlayer_attestation.vm import chrony
from outlayer_attestation.vm.chrony import Answer, Tracking
from outlayer_attestation.vm.clock import Comparison, Instant, objection

log = structlog.get_logger("outlayer.vm")

STEERED_SECONDS: Final = 5.0
"""Between two looks at the chronyd of a VM."""
COMPARED_SECONDS: Final = 600.0
"""Between two comparisons of a container's clock with the servers."""
RETRY_SECONDS: Final = 15.0
"""After a comparison that did not succeed."""
CONFIRM_SECONDS: Final = 1.0
"""Between two looks at a clock that was never confirmed."""


def this_instant() -> Instant:
    """What the clocks of this machine say."""
    return Instant(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME))


class Clock(Protocol):
    """A clock that is watched."""

    def look(self) -> float:
        """Compare the clock with its servers if it is time to; seconds until the next look. Blocks."""

    def objection(self) -> str | None:
        """Why the clock does not count now; None when it does."""

    def confirmed(self) -> Comparison | None:
        """The last comparison."""


@dataclass(slots=True)
class SteeredClock:
    """The clock of a VM. ``ask`` gives the report of its chronyd."""

    ask: Callable[[], Tracking | None] = chrony.tracking
    now: Callable[[], Instant] = this_instant
    _last: Comparison | None = None
    _updated: float | None = None

    def look(self) -> float:
        """Take over what chronyd says."""
        report = self.ask()
        if report is not None and report.updated != self._updated:
            self._updated = report.updated
            now = self.now()
            age = now.realtime - report.updated
            self._last = Comparison(Instant(report.updated, now.boottime - age), report.difference)
        elif report is not None and self._last is not None:
            # no server answered since, but a correction may have gone on
            self._last = replace(self._last, difference=report.difference)
        return STEERED_SECONDS

    def objection(self) -> str | None:
        """Why the clock does not count now."""
        return objection(self._last, self.now())

    def confirmed(self) -> Comparison | None:
        """The last comparison."""
        return self._last


@dataclass(slots=True)
class ComparedClock:
    """The clock of a container. ``ask`` queries the servers."""

    ask: Callable[[], Answer]
    now: Callable[[], Instant] = this_instant
    said: str = ""
    _last: Comparison | None = None
    _due: float = 0.0

    def look(self) -> float:
        """Query the servers when that is due; a jump in between is found without them."""
        if self.now().boottime >= self._due:
            answer = self.ask()
            self.said = answer.said
            self._last = answer.comparison or self._last
            good = answer.comparison is not None and self.objection() is None
            self._due = self.now().boottime + (COMPARED_SECONDS if good else RETRY_SECONDS)
        return STEERED_SECONDS

    def objection(self) -> str | None:
        """Why the clock does not count now."""
        found = objection(self._last, self.now())
        # without any answer, what chronyd said is the reason
        return f"{found} ({self.said})" if found and self._last is None and self.said else found

    def confirmed(self) -> Comparison | None:
        """The last comparison."""
        return self._last


async def look(clock: Clock) -> float:
    """One look, whose failure is said: without a new comparison the old one becomes too old."""
    try:
        return await asyncio.to_thread(clock.look)
    except VmError as error:
        log.warning("clock_not_compared", error=str(error))
        return RETRY_SECONDS


async def confirm(
    clock: Clock,
    seconds: float,
    *,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Return once the clock counts. Raises ``VmError`` when it does not within ``seconds``."""
    deadline = monotonic() + seconds
    while True:
        await look(clock)
        if (found := clock.objection()) is None:
            return
        if monotonic() >= deadline:
            raise VmError(
                f"the clock was not confirmed within {seconds:.0f} s: {found}",
                hint="let the time servers of the configuration be reached (NTS: TCP 4460, UDP 123), and give the"
                " machine a clock at which their certificates are valid",
            )
        await sleep(CONFIRM_SECONDS)


async def keep_looking(clock: Clock) -> None:
    """Look at the clock until cancelled; say when it stops to count, and when it counts again."""
    counted = False
    while True:
        wait = await look(clock)
        found = clock.objection()
        if found is not None and counted:
            log.error("clock_does_not_count", reason=found)
        elif found is None and not counted:
            log.info("clock_confirmed")
        counted = found is None
        await asyncio.sleep(wait)


async def require_confirmed(clock: Clock) -> NoReturn:
    """Look at the clock as long as it counts. Raises ``VmError`` when it does not any more."""
    while True:
        wait = await look(clock)
        if found := clock.objection():
            raise VmError(
                f"the service is stopped: {found}",
                hint="set the clock of the machine that runs the container",
            )
        await asyncio.sleep(wait)
