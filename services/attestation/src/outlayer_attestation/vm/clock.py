# SPDX-License-Identifier: MIT
"""Bounds for a clock that the host sets: it must not turn time back to before the image was made."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from outlayer_attestation.errors import VmError

YEARS: Final = 5
LIFETIME_SECONDS: Final = YEARS * 366 * 86400


def check_clock(now: float, epoch: int) -> None:
    """Raise ``VmError`` unless ``now`` is between the date of the image's inputs and some years after it (seconds)."""
    if epoch <= now <= epoch + LIFETIME_SECONDS:
        return
    found, oldest = (datetime.fromtimestamp(value, UTC).isoformat() for value in (now, epoch))
    raise VmError(
        f"the clock says {found}; this image runs from {oldest} on, for {YEARS} years",
        hint="set the host's clock (QEMU -rtc base=utc), or rebuild the image",
    )
