# SPDX-License-Identifier: MIT
"""Frames between worker and executor: u32be header length, u32be payload length, JSON header, payload.

File descriptors travel with the first byte of a frame (SCM_RIGHTS). Both sides bound what they accept: an
executor that a guest has taken over must not be able to make the worker allocate without end.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

from outlayer_worker.errors import ProtocolError

PREFIX = struct.Struct(">II")
MAX_HEADER = 64 * 1024
MAX_PAYLOAD = 64 * 1024 * 1024


@dataclass(frozen=True)
class Frame:
    """One message."""

    header: dict[str, Any]
    payload: bytes = b""


def encode(frame: Frame) -> bytes:
    """The bytes of a frame. Raises ``ProtocolError`` when it is larger than the other side accepts."""
    header = json.dumps(frame.header, separators=(",", ":")).encode()
    if len(header) > MAX_HEADER or len(frame.payload) > MAX_PAYLOAD:
        raise ProtocolError(f"frame too large: header {len(header)}, payload {len(frame.payload)} bytes")
    return PREFIX.pack(len(header), len(frame.payload)) + header + frame.payload


def decode_prefix(data: bytes) -> tuple[int, int]:
    """Lengths of header and payload. Raises ``ProtocolError`` for ones beyond the bounds."""
    if len(data) != PREFIX.size:
        raise ProtocolError("the frame ends in its prefix")
    header, payload = PREFIX.unpack(data)
    if header > MAX_HEADER or payload > MAX_PAYLOAD:
        raise ProtocolError(f"frame too large: header {header}, payload {payload} bytes")
    return header, payload


def decode_header(data: bytes) -> dict[str, Any]:
    """The header object. Raises ``ProtocolError`` for anything that is not a JSON object."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("the frame's header is not JSON") from error
    if not isinstance(value, dict):
        raise ProtocolError("the frame's header is not an object")
    return value
