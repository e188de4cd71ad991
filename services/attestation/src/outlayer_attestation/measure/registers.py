# SPDX-License-Identifier: MIT
"""SHA-384 registers: the extend operation, and one predicted event of a register."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from outlayer_attestation.measurements import REGISTER_SIZE

RTMR_NAMES = ("rtmr0", "rtmr1", "rtmr2", "rtmr3")


def sha384(data: bytes | bytearray | memoryview) -> bytes:
    """SHA-384 (48 bytes)."""
    return hashlib.sha384(data).digest()


def extend(digests: Iterable[bytes]) -> bytes:
    """The value of a register, zero at start, after it was extended with these digests (48 bytes each).

    Intel TDX module specification, TDG.MR.RTMR.EXTEND: ``R' = SHA384(R || digest)``.
    """
    register = bytes(REGISTER_SIZE)
    for digest in digests:
        register = hashlib.sha384(register + digest).digest()
    return register


@dataclass(frozen=True, slots=True)
class Event:
    """One predicted extend of a runtime register.

    Attributes:
        rtmr: 0 to 3.
        type: the event type that a log shows (TCG PC Client Platform Firmware Profile, table "Events").
        name: short and stable, for programs: ``td-hob``, ``acpi-tables``, ``uki-section .cmdline``.
        digest: 48 bytes.
        cause: what decides this digest, that is, what changed when it is another one.
        td_only: a measured boot with a TPM instead of TDX has no such event.
        unverified: why only TDX hardware can confirm it; "" when it was confirmed.
    """

    rtmr: int
    type: int
    name: str
    digest: bytes
    cause: str
    td_only: bool = False
    unverified: str = ""

    def to_json(self) -> dict[str, object]:
        """As a JSON object; ``type`` in hex as event logs print it."""
        return {
            "register": RTMR_NAMES[self.rtmr],
            "type": f"{self.type:#x}",
            "name": self.name,
            "digest": self.digest.hex(),
            "cause": self.cause,
            "unverified": self.unverified,
        }


def registers_of(events: Iterable[Event]) -> tuple[bytes, bytes, bytes, bytes]:
    """RTMR0 to RTMR3 after these events."""
    listed = list(events)
    values = [extend(event.digest for event in listed if event.rtmr == rtmr) for rtmr in range(4)]
    return values[0], values[1], values[2], values[3]
