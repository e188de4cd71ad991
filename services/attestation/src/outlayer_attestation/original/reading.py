# SPDX-License-Identifier: MIT
"""Reading what the original publishes: a record of its API, several, or a bundle of format 1."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from outlayer_attestation.collateral import Collateral
from outlayer_attestation.errors import EvidenceError, RecordError
from outlayer_attestation.evidence.bundle import KnownCollateral
from outlayer_attestation.evidence.reading import loads, maybe_text, read_object, read_text
from outlayer_attestation.original.ambiguity import MAX_NUMBER
from outlayer_attestation.quote import MAX_QUOTE_SIZE
from outlayer_attestation.record import V1_CUTOFF, TaskRecordV1

BUNDLE_FORMAT_1: Final = 1
MAX_RECORDS: Final = 100
_HASHED: Final = tuple(item.name for item in fields(TaskRecordV1))
_HASHED_SINCE_V1: Final = ("caller_account_id", "project_id", "secrets_ref", "timestamp", "attached_usd")
_MEMBERS: Final = ("bundle_format", "network", "attestation")
_MAYBE: Final = (
    *("how_to_verify", "collateral", "collateral_info", "register_contract", "measurements_approved"),
    *("input", "output", "input_raw", "output_raw", "verification"),
)
_STATEMENTS: Final = (
    *("network", "register_contract", "measurements_approved", "collateral_info", "verification"),
    "how_to_verify",
)


@dataclass(frozen=True, slots=True)
class Payload:
    """Bytes to compare with a hash. ``exact`` False: written anew from JSON, and a number may be spelt otherwise."""

    data: bytes
    exact: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A record as it was published, with what came beside it.

    ``uncovered`` are the members that say something and that no hash covers. ``statements`` are what a bundle
    says about itself: nothing of it is believed.
    """

    record: TaskRecordV1
    quote: bytes = field(repr=False)
    worker_measurement: str | None
    uncovered: tuple[str, ...]
    collaterals: tuple[KnownCollateral, ...] = ()
    statements: Mapping[str, Any] = field(default_factory=dict)
    input: Payload | None = None
    output: Payload | None = None


def read_records(text: str | bytes) -> tuple[Published, ...]:
    """The record or records of a file: one object, a list of them, or an object with such a list as ``items``.

    Raises:
        EvidenceError: not JSON, or not of that form.
        RecordError: a record with a missing or malformed field.
    """
    value = loads(text)
    if isinstance(value, Mapping) and set(value) == {"items"}:
        value = value["items"]
    items = value if isinstance(value, list) else [value]
    if not 0 < len(items) <= MAX_RECORDS:
        raise EvidenceError(f"the file holds {len(items)} records", hint=f"1 to {MAX_RECORDS} are read")
    return tuple(read_record(item) for item in items)


def read_record(value: object) -> Published:
    """One record of the original's API. Raises ``AttestationError``."""
    if not isinstance(value, Mapping):
        raise EvidenceError("a record is an object", hint="as the original's /attestations/{id} answers")
    if "tdx_quote" not in value:
        raise EvidenceError(
            "the record has no tdx_quote", hint="a record of this project? outlayer verify bundle"
        )
    record = TaskRecordV1.from_json(value)
    _check_text(record)
    bound = set(_HASHED) if record.timestamp >= V1_CUTOFF else set(_HASHED) - set(_HASHED_SINCE_V1)
    uncovered = [
        str(name) for name, item in value.items() if item is not None and name not in {*bound, "tdx_quote"}
    ]
    return Published(
        record=record,
        quote=_quote(value["tdx_quote"]),
        worker_measurement=maybe_text(value.get("worker_measurement"), "worker_measurement"),
        uncovered=tuple(sorted(uncovered)),
    )


def _check_text(record: TaskRecordV1) -> None:
    """What makes the places of the numbers in the hashed bytes certain (see ``ambiguity``). A start-up has task -1."""
    for name in _HASHED:
        value = getattr(record, name)
        if isinstance(value, str) and any(ord(character) < 0x20 for character in value):
            raise RecordError(f"{name} holds control characters", hint="no published record does")
        if isinstance(value, int) and not (-1 if name == "task_id" else 0) <= value <= MAX_NUMBER:
            raise RecordError(f"{name} is beyond any real value", hint="no published record has it")


def _quote(value: object) -> bytes:
    text = read_text(value, "tdx_quote")
    if len(text) > 2 * MAX_QUOTE_SIZE:
        raise EvidenceError("tdx_quote is too long for a quote")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise EvidenceError("tdx_quote is not base64") from error
    if base64.b64encode(data).decode() != text:
        raise EvidenceError("tdx_quote is not canonical base64")
    return data


# --- bundles ------------------------------------------------------------------------------------------


def is_format_1(value: object) -> bool:
    """Whether parsed JSON calls itself a bundle of format 1."""
    version = value.get("bundle_format") if isinstance(value, Mapping) else None
    return type(version) is int and version == BUNDLE_FORMAT_1


def read_bundle_1(bundle: object) -> Published:
    """A bundle of format 1 from its text, its bytes or its JSON.

    Raises:
        AttestationError: another format, or a missing, unknown or malformed member.
    """
    value = loads(bundle) if isinstance(bundle, str | bytes) else bundle
    if not is_format_1(value):
        raise EvidenceError("this is no bundle of format 1", hint='its "bundle_format" would be 1')
    given = read_object(value, "the bundle", _MEMBERS, _MAYBE)
    read_text(given["network"], "network")
    found = read_record(given["attestation"])
    return Published(
        record=found.record,
        quote=found.quote,
        worker_measurement=found.worker_measurement,
        uncovered=found.uncovered,
        collaterals=_collaterals(given.get("collateral")),
        statements={name: given[name] for name in _STATEMENTS if given.get(name) is not None},
        input=_payload(given, "input", sort_keys=False),
        output=_payload(given, "output", sort_keys=True),
    )


def _collaterals(text: object) -> tuple[KnownCollateral, ...]:
    if text is None:
        return ()
    return (KnownCollateral("the bundle", Collateral.from_json(read_text(text, "collateral"))),)


def _payload(given: Mapping[str, Any], name: str, *, sort_keys: bool) -> Payload | None:
    """The text as it was on chain, else the JSON in the spelling that the original hashes: compact, and for
    outputs with sorted keys."""
    raw = given.get(f"{name}_raw")
    if raw is not None:
        if type(raw) is not str:
            raise EvidenceError(f"{name}_raw is not text")
        return Payload(_encoded(raw, f"{name}_raw"), exact=True)
    if given.get(name) is None:
        return None
    try:
        text = json.dumps(given[name], separators=(",", ":"), ensure_ascii=False, sort_keys=sort_keys)
        exact = not _has_fraction(given[name])
    except (ValueError, RecursionError) as error:
        raise EvidenceError(f"{name} cannot be written as JSON: {error}") from error
    return Payload(_encoded(text, name), exact=exact)


def _has_fraction(value: object) -> bool:
    """Whether a number is in it that has more than one spelling: 1e3, 1000.0."""
    if isinstance(value, Mapping):
        return any(map(_has_fraction, value.values()))
    if isinstance(value, list):
        return any(map(_has_fraction, value))
    return isinstance(value, float)


def _encoded(text: str, name: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise EvidenceError(f"{name} is not valid Unicode") from error
