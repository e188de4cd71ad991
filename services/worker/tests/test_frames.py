# SPDX-License-Identifier: MIT
"""Frames between worker and executor survive any content and refuse any garbage."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlayer_worker.errors import ProtocolError
from outlayer_worker.executor.frames import (
    MAX_HEADER,
    PREFIX,
    Frame,
    decode_header,
    decode_prefix,
    encode,
)
from outlayer_worker.executor.model import Kind, Limits, bounded_text, kind_of
from outlayer_worker.executor.pool import _decode_result

LIMITS = Limits(1000, 1 << 20, 1.0, 100)


@given(
    st.dictionaries(st.text(max_size=5), st.text(max_size=20) | st.integers(), max_size=4),
    st.binary(max_size=99),
)
def test_a_frame_comes_back_as_it_was(header: dict[str, object], payload: bytes) -> None:
    data = encode(Frame(header, payload))
    header_size, payload_size = decode_prefix(data[: PREFIX.size])
    rest = data[PREFIX.size :]
    assert decode_header(rest[:header_size]) == header
    assert rest[header_size:] == payload
    assert len(payload) == payload_size


@given(st.binary(max_size=12))
def test_a_prefix_is_in_bounds_or_refused(data: bytes) -> None:
    try:
        header, _ = decode_prefix(data)
    except ProtocolError:
        return
    assert len(data) == PREFIX.size
    assert header <= MAX_HEADER


@given(st.binary(max_size=60))
def test_a_header_is_an_object_or_refused(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        assert isinstance(decode_header(data), dict)


@given(
    st.dictionaries(
        st.sampled_from(["op", "output_bytes", "instructions", "time_ms", "category", "message"]),
        st.none() | st.integers(-5, 2000) | st.sampled_from(["result", "timeout", "x"]),
    ),
    st.binary(max_size=150),
)
def test_an_executor_that_lies_gives_a_result_in_range_or_an_error(
    header: dict[str, object], payload: bytes
) -> None:
    try:
        result = _decode_result(Frame(header, payload), LIMITS)
    except ProtocolError:
        return
    assert len(result.output) <= LIMITS.output_bytes
    assert 0 <= result.instructions <= LIMITS.instructions
    assert result.time_ms >= 0


@given(st.text(), st.integers(1, 40))
def test_bounded_text_is_short_and_printable(text: str, limit: int) -> None:
    short = bounded_text(text, limit)
    assert len(short.encode()) <= limit
    assert all(char.isprintable() for char in short)


@given(st.binary(max_size=16))
def test_the_kind_is_decided_by_the_first_eight_bytes(data: bytes) -> None:
    expected = {b"\0asm\x01\0\0\0": Kind.MODULE, b"\0asm\x0d\0\x01\0": Kind.COMPONENT}.get(data[:8])
    assert kind_of(data) is expected


def test_a_frame_that_is_too_large_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ProtocolError, match="too large"):
        encode(Frame({"x": "y" * MAX_HEADER}))
