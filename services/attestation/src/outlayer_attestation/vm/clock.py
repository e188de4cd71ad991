# SPDX-License-Identifier: MIT
"""When a clock counts: pure rules over what it says and what time servers said about it. Seconds throughout."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from outlayer_attestation.errors import VmError

YEARS: Final = 5
LIFETIME_SECONDS: Final = YEARS * 366 * 86400
BOUND_SECONDS: Final = 30.0
"""How far a clock may be from the time servers, and how far it may jump between two comparisons."""
LOST_SECONDS: Final = 3600.0
"""How old the last comparison may be; chronyd asks a server at least every 1024 s."""
DRIFT: Final = 500e-6
"""How much faster or slower one clock may run than another, in seconds per second: what NTP allows for."""


def check_clock(now: float, epoch: int) -> None:
    """Raise ``VmError`` unless ``now`` is between the date of the image's inputs and some years after it (seconds)."""
    if epoch <= now <= epoch + LIFETIME_SECONDS:
        return
    found, oldest = (_date(value) for value in (now, epoch))
    raise VmError(
        f"the clock says {found}; this image runs from {oldest} on, for {YEARS} years",
        hint="set the host's clock (QEMU -rtc base=utc), or rebuild the image",
    )


def _date(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    except (OverflowError, ValueError, OSError):
        return f"{seconds:.0f} s after 1970"


@dataclass(frozen=True, slots=True)
class Instant:
    """What two clocks say at once.

    Attributes:
        realtime: since 1970; whoever holds the clock may set it.
        boottime: since the start; nobody sets it.
    """

    realtime: float
    boottime: float

    @property
    def offset(self) -> float:
        """Changes only when the realtime clock is set or slewed."""
        return self.realtime - self.boottime


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a time server said.

    Attributes:
        at: when.
        difference: how far the realtime clock was from the server's, at most: its uncertainty is in it. Not negative.
    """

    at: Instant
    difference: float


def objection(last: Comparison | None, now: Instant) -> str | None:
    """Why the clock does not count now; None when it does. ``last`` is the newest comparison with a server."""
    if last is None:
        return "no time server of the configuration has confirmed the clock yet"
    # written so that a difference that is no number counts as too large
    if not last.difference <= BOUND_SECONDS:
        return f"the clock differs by {last.difference:.1f} s from the time servers; {BOUND_SECONDS:.0f} s are allowed"
    elapsed = now.boottime - last.at.boottime
    if not 0 <= elapsed <= LOST_SECONDS:
        return (
            f"the time servers confirmed the clock {elapsed:.0f} s ago; {LOST_SECONDS:.0f} s are allowed, and none"
            " has answered since"
        )
    jump = now.offset - last.at.offset
    if not abs(jump) <= BOUND_SECONDS + DRIFT * elapsed:
        return f"the clock jumped by {jump:.1f} s since the time servers confirmed it"
    return None
