# SPDX-License-Identifier: MIT
"""What a client sends to ``POST /call``: headers and body, read strictly and without I/O (outlayer.md §4.9)."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from outlayer_coordinator.errors import ApiError
from outlayer_near.primitives import is_valid_account_id

MAX_MONEY: Final = 10**15
"""A thousand million USD: more than any balance, so a larger header value is answered with 402, not an overflow."""

_PAYMENT_KEY = re.compile(r"(?P<owner>[^:]{1,64}):(?P<nonce>[0-9]{1,10}):(?P<secret>[0-9a-fA-F]{64})")
_DIGITS = re.compile(r"[0-9]{1,20}")
_PROJECT_NAME = re.compile(r"[^/\x00-\x1f]{1,128}")
_MAX_NONCE = 2**32 - 1


@dataclass(frozen=True, slots=True)
class KeyClaim:
    """A presented payment key. The secret itself is not kept, only its SHA-256."""

    owner: str
    nonce: int
    key_hash: str


def parse_payment_key(header: str | None) -> KeyClaim:
    """Read ``X-Payment-Key: owner:nonce:<64 hex>``.

    Raises:
        ApiError: 401 without the header, 400 when it has another form.
    """
    if not header:
        raise ApiError(401, "Missing X-Payment-Key header")
    match = _PAYMENT_KEY.fullmatch(header)
    if match is None or int(match["nonce"]) > _MAX_NONCE or not is_valid_account_id(match["owner"]):
        raise ApiError(400, "Invalid X-Payment-Key format, expected owner:nonce:key")
    secret = match["secret"].lower()
    return KeyClaim(match["owner"], int(match["nonce"]), hashlib.sha256(secret.encode()).hexdigest())


def parse_money(header: str | None, default: int) -> int:
    """Micro-USD of a header; a value that is not a number falls back to the default, as in the original."""
    if header is None or _DIGITS.fullmatch(header) is None:
        return default
    return min(int(header), MAX_MONEY)


@dataclass(frozen=True, slots=True)
class ResourceLimits:
    """Limits of one execution. Defaults are those of the HTTPS API."""

    max_instructions: int = 10_000_000_000
    max_memory_mb: int = 128
    max_execution_seconds: int = 60


LARGEST_LIMITS: Final = ResourceLimits(
    max_instructions=500_000_000_000, max_memory_mb=4096, max_execution_seconds=180
)
"""The contract's own maxima (outlayer.md §1.1); memory is bounded by 32-bit addresses."""


@dataclass(frozen=True, slots=True)
class CallBody:
    """``input`` is the text of that member, compact, key order and number spelling kept: what the guest reads."""

    input: bytes
    asynchronous: bool = False
    limits: ResourceLimits = field(default_factory=ResourceLimits)
    version_key: str | None = None
    secrets_ref: str | None = None


def parse_body(body: bytes) -> CallBody:
    """Read the JSON body of a call.

    Raises:
        ApiError: 400 with what is wrong.
    """
    members = _members(body)
    if "input" not in members:
        raise ApiError(400, "Missing field: input")
    start, end, text = members["input"]
    values = {
        name: _value(text[start:end], name) for name, (start, end, text) in members.items() if name != "input"
    }
    asynchronous = values.get("async")
    if asynchronous is not None and type(asynchronous) is not bool:
        raise ApiError(400, "async must be true or false")
    version_key = values.get("version_key")
    if version_key is not None and not _is_plain(version_key, 256):
        raise ApiError(400, "version_key must be a string of 1 to 256 printable characters")
    return CallBody(
        input=compact_json(text[start:end]),
        asynchronous=bool(asynchronous),
        limits=_limits(values.get("resource_limits")),
        version_key=version_key,
        secrets_ref=_secrets_ref(values.get("secrets_ref")),
    )


def check_project_id(owner: str, project: str) -> str:
    """``owner/project`` with exactly one slash (R3), or 400."""
    if not is_valid_account_id(owner) or _PROJECT_NAME.fullmatch(project) is None:
        raise ApiError(400, "Invalid project, expected /call/{owner}/{project}")
    return f"{owner}/{project}"


def _is_plain(value: Any, longest: int) -> bool:
    return type(value) is str and 0 < len(value) <= longest and value.isprintable()


def _limits(value: Any) -> ResourceLimits:
    if value is None:
        return ResourceLimits()
    if type(value) is not dict:
        raise ApiError(400, "resource_limits must be an object")
    defaults = ResourceLimits()
    return ResourceLimits(
        **{
            name: _limit(name, value.get(name), getattr(defaults, name), getattr(LARGEST_LIMITS, name))
            for name in ("max_instructions", "max_memory_mb", "max_execution_seconds")
        }
    )


def _limit(name: str, value: Any, default: int, largest: int) -> int:
    if value is None:
        return default
    if type(value) is not int or not 1 <= value <= largest:
        raise ApiError(400, f"resource_limits.{name} must be a whole number from 1 to {largest}")
    return value


def _secrets_ref(value: Any) -> str | None:
    if value is None:
        return None
    profile = value.get("profile") if type(value) is dict else None
    account = value.get("account_id") if type(value) is dict else None
    if type(profile) is not str or type(account) is not str or not is_valid_account_id(account):
        raise ApiError(400, "secrets_ref must be {profile, account_id}")
    if not _is_plain(profile, 64):
        raise ApiError(400, "secrets_ref.profile must have 1 to 64 printable characters")
    return f"{account}/{profile}"


# --- JSON without losing a digit -------------------------------------------------------------------------------
#
# A parser that turns numbers into floats would change 12345678901234567890.5, and the guest must read what the
# client wrote. So the span of each top-level member is found, and the text itself is compacted.


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_SCAN = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse_constant).raw_decode
_BLANK = re.compile(r"[ \t\n\r]*")
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")
_MOST_LEVELS: Final = 512
_TOKEN = re.compile(r'("[^"\\]*(?:\\.[^"\\]*)*")|[ \t\n\r]+')


def _members(body: bytes) -> dict[str, tuple[int, int, str]]:
    """Name -> (start, end, text) of each member of the top-level object."""
    try:
        text = body.decode("utf-8")
        _check_depth(text)
        return _scan_object(text)
    except UnicodeDecodeError as error:
        raise ApiError(400, "The body is not UTF-8") from error
    except (ValueError, IndexError) as error:
        raise ApiError(400, f"The body is not JSON: {error}") from error


def _check_depth(text: str) -> None:
    """Refuse what would go deep into the scanner's recursion, whatever the interpreter's limit is."""
    if text.count("[") + text.count("{") <= _MOST_LEVELS:
        return
    depth = 0
    for bracket in _BRACKET.finditer(_STRING.sub("", text)):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > _MOST_LEVELS:
            raise ApiError(400, f"The body is nested deeper than {_MOST_LEVELS} levels")


def _scan_object(text: str) -> dict[str, tuple[int, int, str]]:
    found: dict[str, tuple[int, int, str]] = {}
    position = _skip(text, 0)
    if text[position : position + 1] != "{":
        raise ApiError(400, "The body must be a JSON object")
    position = _skip(text, position + 1)
    if text[position : position + 1] == "}":
        position += 1
    else:
        while True:
            name, position = _SCAN(text, position)
            position = _skip(text, position)
            if type(name) is not str or text[position : position + 1] != ":":
                raise ValueError(f"expected a name and a colon at {position}")
            start = _skip(text, position + 1)
            _, end = _SCAN(text, start)
            if name in found:
                raise ApiError(400, f"The body has two members named {name!r}")
            found[name] = (start, end, text)
            position = _skip(text, end)
            mark = text[position : position + 1]
            position += 1
            if mark == "}":
                break
            if mark != ",":
                raise ValueError(f"expected ',' or '}}' at {position - 1}")
            position = _skip(text, position)
    if _skip(text, position) != len(text):
        raise ValueError(f"something follows the object at {position}")
    return found


def _skip(text: str, position: int) -> int:
    match = _BLANK.match(text, position)
    return match.end() if match else position


def _value(text: str, name: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"{name} is not JSON: {error}") from error


def _compact_token(match: re.Match[str]) -> str:
    token = match[1]
    if token is None:
        return ""
    return json.dumps(json.loads(token), ensure_ascii=False) if "\\" in token else token


def compact_json(text: str) -> bytes:
    """A JSON value without blanks between tokens, strings in UTF-8 with only the escapes JSON demands.

    Key order, duplicate keys in inner objects and the spelling of numbers stay as they are.

    Raises:
        ApiError: 400 for half a surrogate pair, which no UTF-8 text can hold.
    """
    try:
        return _TOKEN.sub(_compact_token, text).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ApiError(400, "input holds half a surrogate pair") from error


def splice_output(output: bytes) -> bytes:
    """The guest's stdout as a JSON value: verbatim when it is JSON, else as a JSON string."""
    try:
        orjson.loads(output)
    except orjson.JSONDecodeError:
        return orjson.dumps(output.decode("utf-8", "replace"))
    return output
