# SPDX-License-Identifier: MIT
"""What the JSON documents of this subpackage share: strict models, and errors that name the field."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from outlayer_attestation.errors import AttestationError, EventLogError, MetadataError

MAX_DOCUMENT_SIZE: Final = 16 * 1024 * 1024

Sha384Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{96}$")]
Sha256Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Version = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,3}(\.[0-9]{1,3}){1,2}$")]

_Model = TypeVar("_Model", bound="Model")
_Loaded = TypeVar("_Loaded", bound="Document")


class UndecidedError(AttestationError):
    """What was given can be read, and what was asked cannot be found out from it."""


class UndecidedVmError(MetadataError, UndecidedError):
    """A VM whose measurements do not follow from what is published about it."""


class UndecidedLogError(EventLogError, UndecidedError):
    """A recording of a boot from which the registers of a TD cannot be computed."""


class Model(BaseModel):
    """Strict: an unknown field is a setting that would silently not count."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Document(Model):
    """A model that is a file of its own."""

    def to_text(self) -> str:
        """The document as JSON text, one form only."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), indent=2, ensure_ascii=False) + "\n"


def load_document(
    kind: type[_Loaded], data: bytes | str, what: str, error: type[AttestationError], hint: str
) -> _Loaded:
    """Read a document of this kind; anything that is not one is ``error`` with ``hint``."""
    return validated(kind, load_json(data, what, error, hint), what, error, hint)


def load_json(
    data: bytes | str,
    what: str,
    error: type[AttestationError],
    hint: str,
    limit: int = MAX_DOCUMENT_SIZE,
) -> Any:
    """A JSON text of up to ``limit`` bytes that says one thing only; anything else is ``error`` with ``hint``.

    That is UTF-8 without a byte order mark, no key twice in an object, no lone surrogates, no NaN or Infinity.
    """
    if len(data) > limit:
        raise error(f"{what} has {len(data)} bytes, more than {limit}", hint=hint)
    try:
        text = data if isinstance(data, str) else data.decode()
        value = json.loads(text, object_pairs_hook=_without_repeats)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as invalid:
        raise error(f"{what} is not JSON: {str(invalid)[:120]}", hint=hint) from invalid
    return value


def validated(
    kind: type[_Model], value: object, what: str, error: type[AttestationError], hint: str
) -> _Model:
    """A parsed JSON value as this model; ``error`` names the field that is unknown, missing or of another kind."""
    try:
        return kind.model_validate_json(json.dumps(value))
    except ValidationError as invalid:
        first = invalid.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])[:120] or "the document"
        if first["type"] == "extra_forbidden":
            raise error(f"{what} has the unknown key {place!r}", hint=hint) from invalid
        raise error(f"{what}: {place}: {first['msg']}", hint=hint) from invalid
    except AttestationError:
        raise
    except (ValueError, RecursionError) as invalid:
        raise error(f"{what} is not JSON: {str(invalid)[:120]}", hint=hint) from invalid


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object; one that has a key twice says two things."""
    value: dict[str, object] = {}
    for key, item in pairs:
        if key in value:
            raise ValueError(f"the key {key[:60]!r} is there twice")
        value[key] = item
    return value


def packed(data: bytes) -> str:
    """Bytes for a JSON document: zlib, then base64 (ACPI tables are mostly padding)."""
    return base64.b64encode(zlib.compress(data, 9)).decode()


def unpacked(text: str, limit: int) -> bytes:
    """The bytes that ``packed`` took, of which there may be up to ``limit``. Raises ``ValueError``."""
    try:
        decoder = zlib.decompressobj()
        data = decoder.decompress(base64.b64decode(text, validate=True), limit + 1)
    except (binascii.Error, zlib.error) as error:
        raise ValueError("is not base64 of zlib data") from error
    if len(data) > limit or not decoder.eof or decoder.unused_data:
        raise ValueError(f"is cut off, or has more than {limit} bytes")
    return data
