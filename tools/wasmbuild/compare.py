# SPDX-License-Identifier: MIT
"""Where two WASM files part. Pure: bytes in, a sentence out."""

from __future__ import annotations

from dataclasses import dataclass

_HEADER = 8
_NAMES: tuple[str, ...] = (
    *("custom", "type", "import", "function", "table", "memory", "global"),
    *("export", "start", "element", "code", "data", "data-count", "tag"),
)


@dataclass(frozen=True, slots=True)
class Section:
    """A section of a core module or component: byte range from its id byte to its end."""

    name: str
    start: int
    end: int


def sections(data: bytes) -> list[Section]:
    """The sections of a WASM file, as far as it is well-formed (WebAssembly core 1.0 §5.5.2)."""
    found = []
    position = _HEADER
    while position < len(data):
        size, body = _leb128(data, position + 1)
        if size is None or body + size > len(data):
            break
        name = _NAMES[data[position]] if data[position] < len(_NAMES) else f"id {data[position]}"
        if data[position] == 0:
            name = f"custom {_text(data, body, body + size)!r}"
        found.append(Section(name, position, body + size))
        position = body + size
    return found


def _leb128(data: bytes, position: int) -> tuple[int | None, int]:
    value = 0
    for shift in range(0, 35, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, position
    return None, position


def _text(data: bytes, start: int, end: int) -> str:
    size, body = _leb128(data, start)
    if size is None or body + size > end:
        return "?"
    return data[body : body + size].decode(errors="replace")


def first_difference(committed: bytes, rebuilt: bytes) -> str | None:
    """None if equal; else offset and section of the first byte that differs, and both sizes."""
    if committed == rebuilt:
        return None
    shorter = min(len(committed), len(rebuilt))
    offset = next((index for index in range(shorter) if committed[index] != rebuilt[index]), shorter)
    where = next(
        (f"section {part.name}" for part in sections(committed) if part.start <= offset < part.end),
        "header" if offset < _HEADER else "no section of the committed file",
    )
    sizes = f"{len(committed)} bytes committed, {len(rebuilt)} rebuilt"
    return f"first difference at offset {offset} (0x{offset:x}), in {where}; {sizes}"
