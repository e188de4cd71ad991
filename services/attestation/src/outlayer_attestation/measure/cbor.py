# SPDX-License-Identifier: MIT
"""The little of CBOR (RFC 8949) that dstack's measurement file uses: integers, text, bytes, arrays, maps.

Strict: definite lengths in their shortest form, text keys, no key twice, nothing after the item.
"""

from __future__ import annotations

from typing import Final

from outlayer_attestation.errors import MetadataError
from outlayer_attestation.measure.reader import Reader

MAX_SIZE: Final = 64 * 1024
MAX_DEPTH: Final = 8
_HINT: Final = "give measurement.tdx.cbor as dstack publishes it with an OS image"

Value = int | bytes | str | list["Value"] | dict[str, "Value"]


def loads(data: bytes) -> Value:
    """Decode one item. Raises ``MetadataError``."""
    if len(data) > MAX_SIZE:
        raise MetadataError(f"the CBOR has {len(data)} bytes", hint=_HINT)
    reader = Reader(data, "CBOR", MetadataError, hint=_HINT)
    value = _item(reader, 0)
    if reader.remaining:
        raise reader.fail(f"{reader.remaining} bytes follow the item")
    return value


def _item(reader: Reader, depth: int) -> Value:
    head = reader.u8("item")
    major, count = head >> 5, _argument(reader, head & 0x1F)
    if depth > MAX_DEPTH or major not in (0, 2, 3, 4, 5):
        raise reader.fail(f"an item of major type {major} at depth {depth} is not known")
    match major:
        case 0:
            return count
        case 2:
            return reader.take(count, "bytes")
        case 3:
            return _text(reader, count)
        case 4:
            _bounded(reader, count)
            return [_item(reader, depth + 1) for _ in range(count)]
    _bounded(reader, count)
    found: dict[str, Value] = {}
    for _ in range(count):
        key = _item(reader, depth + 1)
        if not isinstance(key, str) or key in found:
            raise reader.fail(f"the key {key!r} is not text, or there twice")
        found[key] = _item(reader, depth + 1)
    return found


def _argument(reader: Reader, short: int) -> int:
    if short < 24:
        return short
    size = {24: 1, 25: 2, 26: 4, 27: 8}.get(short)
    if size is None:
        raise reader.fail("an item of indefinite length")
    value = int.from_bytes(reader.take(size, "argument"), "big")
    smallest = 24 if size == 1 else 1 << (4 * size)
    if value < smallest:
        raise reader.fail("an argument that is not in its shortest form")
    return value


def _bounded(reader: Reader, count: int) -> None:
    if count > reader.remaining:
        raise reader.fail(f"{count} elements in {reader.remaining} bytes")


def _text(reader: Reader, size: int) -> str:
    try:
        return reader.take(size, "text").decode()
    except UnicodeDecodeError as error:
        raise reader.fail("text that is not UTF-8") from error
