# SPDX-License-Identifier: MIT
"""From a guest's stdout to the bytes that are delivered, and hashed into the record.

HTTPS: stdout as it is. NEAR: the JSON text that the contract's callback returns to the caller (outlayer.md §1.4):
Json is the guest's own text without insignificant white space, Text a JSON string, Bytes a JSON string of base64;
a failure is ``null``.
"""

from __future__ import annotations

import base64
import enum
import json
import re
from dataclasses import dataclass

import orjson

from outlayer_worker.errors import JobError

NEAR_FAILURE = b"null"
HTTPS_FAILURE = b""

# A string, or white space outside of one. JSON allows four white-space characters (RFC 8259 §2).
_STRING_OR_SPACE = re.compile(rb'"(?:[^"\\]|\\.)*"|[ \t\n\r]+', re.DOTALL)


class ResponseFormat(enum.StrEnum):
    """How a NEAR caller wants its value."""

    BYTES = "Bytes"
    TEXT = "Text"
    JSON = "Json"


@dataclass(frozen=True)
class NearOutput:
    """``argument``: the JSON of ``ExecutionOutput`` sent to the contract; ``delivered``: what the caller gets."""

    argument: bytes
    delivered: bytes


def compact_json(text: bytes) -> bytes:
    """The same JSON text without white space between tokens; order, numbers and escapes stay as written.

    Raises ``JobError`` (bad_output) for anything that is not one JSON value in UTF-8.
    """
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise JobError("bad_output", f"the guest's output is not JSON: {error}") from error
    return _STRING_OR_SPACE.sub(lambda found: found[0] if found[0][:1] == b'"' else b"", text)


def near_output(stdout: bytes, response_format: ResponseFormat) -> NearOutput:
    """Convert by the requested format. Raises ``JobError`` (bad_output) when stdout cannot be that."""
    if response_format is ResponseFormat.JSON:
        value = compact_json(stdout)
        return NearOutput(b'{"Json":' + value + b"}", value)
    if response_format is ResponseFormat.TEXT:
        try:
            text = stdout.decode()
        except UnicodeDecodeError as error:
            raise JobError("bad_output", f"the guest's output is not UTF-8 text: {error}") from error
        quoted = json_string(text)
        return NearOutput(b'{"Text":' + quoted + b"}", quoted)
    # the caller receives base64 either way; as text it costs the operator an eighth of an array of numbers
    quoted = b'"' + base64.b64encode(stdout) + b'"'
    return NearOutput(b'{"Text":' + quoted + b"}", quoted)


def json_string(text: str) -> bytes:
    """A JSON string with the escapes that serde_json writes: quote, backslash, and controls below U+0020."""
    return json.dumps(text, ensure_ascii=False).encode()
