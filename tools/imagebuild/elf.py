# SPDX-License-Identifier: MIT
"""Which shared libraries an ELF file asks for (System V ABI, ELF-64, little-endian). Bytes in, names out."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

MAGIC = b"\x7fELF\x02\x01"
_HEADER = 64
_PROGRAM_HEADER = 56
_LOAD, _DYNAMIC, _INTERPRETER = 1, 2, 3
_NEEDED, _STRING_TABLE = 1, 5


class ElfError(ValueError):
    """The file begins as an ELF file and does not go on as one."""


def needed(data: bytes) -> list[str]:
    """The DT_NEEDED names, in order, and the program interpreter's file name; [] for what is no ELF-64 file.

    Errors:
        ElfError: a table points outside the file.
    """
    if not data.startswith(MAGIC):
        return []
    if len(data) < _HEADER:
        raise ElfError("the ELF header is cut off")
    (offset,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    if size != _PROGRAM_HEADER or offset + size * count > len(data):
        raise ElfError("the program headers are not where the ELF header says")
    segments = [struct.unpack_from("<IIQQQQQQ", data, offset + size * index) for index in range(count)]
    names = []
    for kind, _, start, _, _, length, _, _ in segments:
        if kind == _INTERPRETER:
            names.append(_text(data, start, start + length).rpartition("/")[2])
        elif kind == _DYNAMIC:
            names += _dynamic(data, start, length, segments)
    return names


def _dynamic(data: bytes, start: int, length: int, segments: list[tuple[int, ...]]) -> list[str]:
    if start + length > len(data):
        raise ElfError("the dynamic section is cut off")
    entries = [struct.unpack_from("<QQ", data, start + at) for at in range(0, length - 15, 16)]
    tables = [value for tag, value in entries if tag == _STRING_TABLE]
    wanted = [value for tag, value in entries if tag == _NEEDED]
    if not wanted:
        return []
    if not tables:
        raise ElfError("the dynamic section has no string table")
    strings = _file_offset(tables[0], segments)
    return [_text(data, strings + value, len(data)) for value in wanted]


def _file_offset(address: int, segments: list[tuple[int, ...]]) -> int:
    for kind, _, start, virtual, _, length, _, _ in segments:
        if kind == _LOAD and virtual <= address < virtual + length:
            return start + address - virtual
    raise ElfError("the string table lies in no segment of the file")


def _text(data: bytes, start: int, end: int) -> str:
    stop = data.find(b"\0", start, end)
    if not 0 <= start < len(data) or stop < 0:
        raise ElfError("a name is cut off")
    return data[start:stop].decode(errors="replace")


def closure(roots: Iterable[str], libraries: Mapping[str, list[str]]) -> set[str]:
    """All libraries that the roots need, directly or not; names that `libraries` lacks are in it, too."""
    found: set[str] = set()
    pending = list(roots)
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += libraries.get(name, [])
    return found
