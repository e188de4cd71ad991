# SPDX-License-Identifier: MIT
"""What a coordinator may answer, read strictly: a reply of another form is a ``CliError`` that says what was expected.

Nothing here does I/O. Sizes and times are bounded where the bytes come in (``api``).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NoReturn, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from outlayer_cli.errors import CliError

MOST_LEVELS = 512
"""How deep a reply may be nested; the coordinator takes no deeper inputs either."""
HINT = "see that the URL is that of a coordinator, and that this program is not older than it"

_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")

Uuid = Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", max_length=36)]
Count = Annotated[int, Field(ge=0, lt=2**64)]
Amount = Annotated[str, Field(pattern=r"^[0-9]{1,20}$")]
Url = Annotated[str, Field(max_length=2048)]
Base64 = Annotated[str, Field(max_length=128 * 1024 * 1024)]


class Reply(BaseModel):
    """A JSON object. What a later coordinator adds must not break an older client, so other members are let be."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


class CallReply(Reply):
    """``POST /call`` and ``GET /calls/{id}``. Money is micro-USD; ``output`` is any JSON value."""

    call_id: Uuid
    status: Literal["pending", "completed", "failed"]
    output: Any = None
    error: str | None = None
    compute_cost: Amount | None = None
    instructions: Count | None = None
    time_ms: Count | None = None
    attestation_url: Url | None = None
    poll_url: Url | None = None

    @model_validator(mode="after")
    def _says_what_came_of_it(self) -> Self:
        if self.status == "completed" and "output" not in self.model_fields_set:
            raise ValueError("a completed call has an output")
        if self.status == "failed" and self.error is None:
            raise ValueError("a failed call has an error")
        return self


class PayloadReply(Reply):
    """``GET /calls/{id}/payload``."""

    input_base64: Base64 | None = None
    output_base64: Base64 | None = None


class BalanceReply(Reply):
    """``GET /payment-keys/balance``, in micro-USD."""

    owner: str
    nonce: Count
    initial_balance: Amount
    spent: Amount
    reserved: Amount
    available: Annotated[str, Field(pattern=r"^-?[0-9]{1,20}$")]
    is_grant: bool
    last_used_at: str | None = None


R = TypeVar("R", bound=Reply)


def unexpected(what: str, found: str, expected: str = "") -> CliError:
    """The error for a reply of another form."""
    wanted = f"; expected {expected}" if expected else ""
    return CliError(f"the reply to {what} cannot be used: {found}{wanted}", hint=HINT)


def read_json(content: bytes, what: str) -> Any:
    """The JSON of a reply: UTF-8, no key twice in one object, no NaN, not nested too deep. Raises ``CliError``."""

    def pairs(members: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(members)) != len(members):
            raise unexpected(what, "a key occurs twice in one object")
        return dict(members)

    def constant(name: str) -> NoReturn:
        raise unexpected(what, f"{name} is not JSON")

    try:
        text = content.decode("utf-8")
        if _depth(text) > MOST_LEVELS:
            raise unexpected(what, f"it is nested deeper than {MOST_LEVELS} levels")
        return json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except UnicodeDecodeError as error:
        raise unexpected(what, "it is not UTF-8", "JSON") from error
    except (ValueError, RecursionError) as error:
        raise unexpected(what, f"it is not JSON ({shown(error)})") from error


def _depth(text: str) -> int:
    if text.count("[") + text.count("{") <= MOST_LEVELS:
        return 0
    depth = deepest = 0
    for bracket in _BRACKET.finditer(_STRING.sub("", text)):
        depth += 1 if bracket[0] in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def read(model: type[R], value: object, what: str) -> R:
    """A reply of this model. Raises ``CliError`` that names the first member that is wrong, and never its value."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the reply"
        raise unexpected(what, f"{shown(place)}: {shown(first['msg'])}") from None


def decode_base64(text: str | None, what: str) -> bytes | None:
    """The bytes of a base64 member, None for null. Raises ``CliError``."""
    if text is None:
        return None
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise unexpected(what, "a member is not base64") from error


def shown(text: object, longest: int = 300) -> str:
    """Text of a stranger, safe to print: no control characters, no half surrogate pairs, not too long."""
    clean = "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"
        for character in str(text)[: longest + 1]
    )
    return clean if len(clean) <= longest else f"{clean[:longest]}…"


def shown_lines(text: object, longest: int = 20_000) -> str:
    """The same for a text of our own with several lines, in which a stranger's words may stand."""
    return "\n".join(shown(line, 2000) for line in str(text)[:longest].split("\n"))


# --- the text of a member -----------------------------------------------------------------------------


def member_text(content: bytes, name: str) -> bytes | None:
    """The exact bytes between a top-level member's colon and the comma or brace after it; None without it.

    A guest's output is spliced into the reply as it was written, so these are the bytes that were delivered.
    ``content`` is a reply that ``read_json`` has read.
    """
    text = content.decode("utf-8")
    for found, start, end in _members(text):
        if found == name:
            return text[start:end].encode()
    return None


_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)
_BLANK = re.compile(r"[ \t\n\r]*")


def _members(text: str) -> Iterator[tuple[str, int, int]]:
    """Name, start and end of each member's value, blanks around it included."""
    position = _skip(text, _skip(text, 0) + 1)
    while text[position] == '"':
        name, position = _DECODER.raw_decode(text, position)
        start = _skip(text, position) + 1
        _, position = _DECODER.raw_decode(text, _skip(text, start))
        end = _skip(text, position)
        yield name, start, end
        position = _skip(text, end + 1) if text[end] == "," else end


def _skip(text: str, position: int) -> int:
    match = _BLANK.match(text, position)
    return match.end() if match else position


def delivered_digests(content: bytes) -> tuple[str, ...]:
    """SHA-256 of what the reply delivers as ``output``: of its exact text and, for a JSON string, of its value.

    A program that writes text which is not JSON has it delivered as a JSON string, so both readings count.
    """
    from outlayer_attestation.record import sha256_hex

    text = member_text(content, "output")
    if text is None:
        return ()
    value = json.loads(text)
    found = [sha256_hex(text)]
    if isinstance(value, str):
        found.append(sha256_hex(value.encode("utf-8", "surrogatepass")))
    return tuple(found)
