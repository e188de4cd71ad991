# SPDX-License-Identifier: MIT
"""RTMR3 of a running TD through the kernel's `tsm` measurements: read, extend, and check that it took."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from outlayer_attestation.errors import VmError
from outlayer_attestation.measure.registers import extend
from outlayer_attestation.vm.files import read_bounded

SIZE: Final = 48
ZERO: Final = bytes(SIZE)
_HINT: Final = "the kernel has to offer TDX measurements (tdx_guest of Linux 6.16 or later)"


@dataclass(frozen=True, slots=True)
class Register:
    """The file of a runtime register: reading gives its value, writing 48 bytes extends it."""

    path: Path

    def read(self) -> bytes:
        """The 48 bytes. Raises ``VmError``."""
        try:
            value = read_bounded(self.path, 2 * SIZE, "the register")
        except OSError as error:
            raise VmError(f"{self.path} cannot be read: {error.strerror}", hint=_HINT) from error
        if len(value) != SIZE:
            raise VmError(f"{self.path} has {len(value)} bytes, not {SIZE}", hint=_HINT)
        return value

    def extend(self, digest: bytes) -> None:
        """Extend by a SHA-384 digest. Raises ``VmError``."""
        try:
            with self.path.open("r+b", buffering=0) as file:
                written = file.write(digest)
        except OSError as error:
            raise VmError(f"{self.path} cannot be extended: {error.strerror}", hint=_HINT) from error
        if written != SIZE:
            raise VmError(f"{self.path} took {written} of {SIZE} bytes", hint=_HINT)

    def require(self, digests: Iterable[bytes]) -> None:
        """Raise ``VmError`` unless the register holds exactly these extensions."""
        found, expected = self.read(), extend(list(digests))
        if found != expected:
            raise VmError(
                f"RTMR3 is {found.hex()}, expected is {expected.hex()}",
                hint="something else extended it: this VM does not run what its image says",
            )
