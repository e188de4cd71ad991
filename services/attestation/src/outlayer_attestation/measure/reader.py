# SPDX-License-Identifier: MIT
"""Reading little-endian fields from bytes that nobody vouches for: a field out of bounds is a named error."""

from __future__ import annotations

import uuid

from outlayer_attestation.errors import AttestationError


class Reader:
    """A position in some bytes. ``error`` and ``hint`` are what a reader out of bounds raises."""

    def __init__(
        self,
        data: bytes | memoryview,
        what: str,
        error: type[AttestationError],
        *,
        hint: str,
        offset: int = 0,
        end: int | None = None,
    ) -> None:
        self._data = memoryview(data)
        self._what = what
        self._error = error
        self._hint = hint
        self.offset = offset
        self.end = len(data) if end is None else end
        self.ran_out = False
        """Whether a field was asked for that lies outside the data."""

    @property
    def remaining(self) -> int:
        """Bytes between the position and the end."""
        return self.end - self.offset

    def fail(self, problem: str) -> AttestationError:
        """The error to raise about what stands here."""
        return self._error(f"{self._what}: {problem}", hint=self._hint)

    def take(self, size: int, field: str) -> bytes:
        """The next ``size`` bytes."""
        if not 0 <= size <= self.remaining or self.offset < 0 or self.end > len(self._data):
            self.ran_out = True
            raise self.fail(f"{field} ({size} bytes) at offset {self.offset:#x} lies outside the data")
        start = self.offset
        self.offset += size
        return bytes(self._data[start : self.offset])

    def integer(self, size: int, field: str) -> int:
        """An unsigned little-endian integer of ``size`` bytes."""
        return int.from_bytes(self.take(size, field), "little")

    def u8(self, field: str) -> int:
        """An unsigned byte."""
        return self.integer(1, field)

    def u16(self, field: str) -> int:
        """An unsigned 16-bit integer."""
        return self.integer(2, field)

    def u32(self, field: str) -> int:
        """An unsigned 32-bit integer."""
        return self.integer(4, field)

    def u64(self, field: str) -> int:
        """An unsigned 64-bit integer."""
        return self.integer(8, field)

    def guid(self, field: str) -> str:
        """An EFI GUID (first three fields little endian) in its usual text form."""
        return str(uuid.UUID(bytes_le=self.take(16, field)))
