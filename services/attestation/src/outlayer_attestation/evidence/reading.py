# SPDX-License-Identifier: MIT
"""Strict reading of a bundle's JSON: one text per value, nothing missing, nothing unknown."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from outlayer_attestation.errors import EvidenceError

MAX_BUNDLE_SIZE: Final = 256 * 1024 * 1024
"""Payloads are inside: input and output of up to tens of megabytes, in base64."""


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise EvidenceError("a key occurs twice in one object of the bundle")
    return dict(pairs)


def _no_constant(text: str) -> Any:
    raise EvidenceError(f"{text} is not JSON")


def loads(text: str | bytes) -> Any:
    """The JSON of a bundle, in UTF-8; duplicate keys are refused, since two readers could see two values.

    Raises:
        EvidenceError: too large, not UTF-8 or not JSON.
    """
    if len(text) > MAX_BUNDLE_SIZE:
        raise EvidenceError("the bundle is too large")
    try:
        # bytes are decoded here: the JSON module would guess UTF-16 and UTF-32 as well
        document = text.decode("utf-8") if isinstance(text, bytes) else text
        return json.loads(document, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise EvidenceError("the bundle is not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise EvidenceError(f"the bundle is not JSON: {error}") from error


def read_object(
    value: object, what: str, required: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, Any]:
    """An object with exactly these members."""
    if not isinstance(value, Mapping):
        raise EvidenceError(f"{what} is not an object")
    missing = [name for name in required if name not in value]
    unknown = sorted(str(name) for name in value if name not in required and name not in optional)
    if missing or unknown:
        raise EvidenceError(f"{what}: missing {missing}, unknown {unknown[:5]}")
    return dict(value)


def read_text(value: object, what: str) -> str:
    """Text that is not empty and can be encoded."""
    if type(value) is not str or not value:
        raise EvidenceError(f"{what} is not text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise EvidenceError(f"{what} is not valid Unicode") from error
    return value


def read_number(value: object, what: str) -> int:
    """An unsigned integer below 2**63."""
    if type(value) is not int or not 0 <= value < 2**63:
        raise EvidenceError(f"{what} is not an unsigned integer")
    return value


def maybe_text(value: object, what: str) -> str | None:
    """Text or null."""
    return None if value is None else read_text(value, what)


def maybe_number(value: object, what: str) -> int | None:
    """An unsigned integer or null."""
    return None if value is None else read_number(value, what)


def maybe_base64(value: object, what: str) -> bytes | None:
    """The bytes of canonical base64, or null."""
    if value is None:
        return None
    try:
        if type(value) is not str:
            raise EvidenceError(f"{what} is not text")
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise EvidenceError(f"{what} is not base64") from error
    if base64.b64encode(data).decode() != value:
        raise EvidenceError(f"{what} is not canonical base64")
    return data
