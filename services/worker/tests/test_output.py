# SPDX-License-Identifier: MIT
"""What the guest wrote becomes exactly the bytes that the caller gets."""

from __future__ import annotations

import base64
import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlayer_worker.errors import JobError
from outlayer_worker.output import ResponseFormat, compact_json, json_string, near_output

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | TEXT
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES, st.sampled_from([None, 0, 2, "\t", " \r\n"]), st.booleans())
def test_compacting_keeps_the_value_and_drops_white_space(value: Any, indent: Any, ascii_only: bool) -> None:
    written = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    compact = compact_json(b" \n" + written + b"\t")
    assert orjson.loads(compact) == orjson.loads(written)
    assert compact == json.dumps(value, separators=(",", ":"), ensure_ascii=ascii_only).encode()
    assert compact_json(compact) == compact


@pytest.mark.parametrize(
    ("written", "compact"),
    [
        (b'{ "b" : 1 , "a" : [ 1.50 , 1e2 ] }', b'{"b":1,"a":[1.50,1e2]}'),
        (b'"a b\\" c"', b'"a b\\" c"'),
        (b'{"a": 1, "a": 2}', b'{"a":1,"a":2}'),
        (b"123456789012345678901234567890", b"123456789012345678901234567890"),
        (b'"\\u0041 \\/"', b'"\\u0041 \\/"'),
    ],
)
def test_order_numbers_and_escapes_stay_as_written(written: bytes, compact: bytes) -> None:
    assert near_output(written, ResponseFormat.JSON).delivered == compact
    assert near_output(written, ResponseFormat.JSON).argument == b'{"Json":' + compact + b"}"


@pytest.mark.parametrize(
    "bad", [b"", b"{", b"NaN", b"hello", b'"\xff"', b'{"a":1} x', b"\xef\xbb\xbf1", b"01"]
)
def test_json_that_is_none_is_a_clear_failure(bad: bytes) -> None:
    with pytest.raises(JobError, match="not JSON") as caught:
        near_output(bad, ResponseFormat.JSON)
    assert caught.value.category == "bad_output"


@given(st.binary(max_size=200))
def test_any_bytes_are_json_or_refused(data: bytes) -> None:
    try:
        compact = compact_json(data)
    except JobError:
        with pytest.raises(orjson.JSONDecodeError):
            orjson.loads(data)
    else:
        assert orjson.loads(compact) == orjson.loads(data)


@given(TEXT)
def test_text_is_a_json_string(text: str) -> None:
    output = near_output(text.encode(), ResponseFormat.TEXT)
    assert json.loads(output.delivered) == text
    assert json.loads(output.argument) == {"Text": text}


def test_text_is_escaped_as_serde_json_does() -> None:
    text = '"\\/\b\f\n\r\t\x00\x1f\x7fä\u2028😀'
    assert json_string(text) == '"\\"\\\\/\\b\\f\\n\\r\\t\\u0000\\u001f\x7fä\u2028😀"'.encode()


def test_text_that_is_not_utf8_is_a_clear_failure() -> None:
    with pytest.raises(JobError, match="UTF-8"):
        near_output(b"\xff", ResponseFormat.TEXT)


@given(st.binary(max_size=300))
def test_bytes_are_base64_for_the_caller_and_for_the_contract(data: bytes) -> None:
    output = near_output(data, ResponseFormat.BYTES)
    assert base64.b64decode(json.loads(output.delivered)) == data
    assert json.loads(output.argument) == {"Text": json.loads(output.delivered)}
