# SPDX-License-Identifier: MIT
"""A cpio archive in the newc form (cpio(5)), as an initrd has it: bytes in, entries out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

MAGIC = b"070701"
_HEADER = 110
_FIELDS = 13
_LAST = "TRAILER!!!"
_MAX_NAME = 4096


class CpioError(ValueError):
    """The bytes are no such archive."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, link or folder; `content` of a link is its target."""

    path: str
    mode: int
    user: int
    group: int
    mtime: int
    content: bytes


def parse(data: bytes | memoryview) -> list[Entry]:
    """The entries of the first archive in the bytes, in order.

    Errors:
        CpioError: it is cut off, or a field is not what it must be.
    """
    return list(_entries(memoryview(data)))


def _entries(data: memoryview) -> Iterator[Entry]:
    at = 0
    while True:
        header = bytes(data[at : at + _HEADER])
        if len(header) < _HEADER or not header.startswith(MAGIC):
            raise CpioError(f"at byte {at} there is no entry of a cpio archive")
        try:
            fields = [int(header[6 + 8 * n : 14 + 8 * n], 16) for n in range(_FIELDS)]
        except ValueError as error:
            raise CpioError(f"the header at byte {at} is not in hex digits") from error
        name_size, size = fields[11], fields[6]
        start = (at + _HEADER + name_size + 3) & ~3
        if not 0 < name_size <= _MAX_NAME or start + size > len(data):
            raise CpioError(f"the entry at byte {at} is cut off")
        name = bytes(data[at + _HEADER : at + _HEADER + name_size - 1]).decode(errors="replace")
        if name == _LAST:
            return
        path = name.removeprefix("./").strip("/")
        yield Entry(path, fields[1], fields[2], fields[3], fields[5], bytes(data[start : start + size]))
        at = (start + size + 3) & ~3
