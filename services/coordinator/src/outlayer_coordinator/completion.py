# SPDX-License-Identifier: MIT
"""What a worker says about finished jobs, and whether it hangs together. Pure.

The coordinator does not judge the quote's signatures (verifiers do, without trusting it); it refuses junk: a
batch whose quote says something else, a record that is not in the batch, or one that is not about the job.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from outlayer_attestation import merkle, quote
from outlayer_attestation.errors import AttestationError
from outlayer_attestation.record import Batch, TaskRecordV2, clip_error, report_data_v2, unhex
from outlayer_coordinator.errors import ApiError

MAX_COMPLETIONS: Final = 1024
MAX_ERROR_CHARS: Final = 4096
NEAR_EMPTY_OUTPUT: Final = b"null"
_AMOUNTS: Final = ("refund_usd", "attached_usd")

_MAX_INT: Final = 2**63 - 1
_CATEGORY: Final = re.compile(r"[a-z_]{1,40}")
_TX_HASH: Final = re.compile(r"[1-9A-HJ-NP-Za-km-z]{32,64}")


@dataclass(frozen=True, slots=True)
class Attested:
    """A record and its place under the batch's root."""

    record: TaskRecordV2
    leaf_index: int
    proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Completion:
    """The end of one attempt. ``attested`` is None only for a job that was refused before it ran."""

    job_id: uuid.UUID
    attempt: int
    success: bool
    output: bytes
    error: str | None
    error_category: str | None
    instructions: int
    time_ms: int
    refund_usd: int
    resolve_tx_hash: str | None
    attested: Attested | None


@dataclass(frozen=True, slots=True)
class Report:
    """One request of a worker: completions and the quoted batch that their records are in."""

    batch: Batch | None
    completions: tuple[Completion, ...]


@dataclass(frozen=True, slots=True)
class JobFacts:
    """What the coordinator stored about a job; its record must say the same."""

    job_id: uuid.UUID
    kind: str
    max_instructions: int
    max_memory_mb: int
    max_execution_seconds: int
    call_id: uuid.UUID | None = None
    owner: str | None = None
    nonce: int | None = None
    project_id: str | None = None
    project_uuid: str | None = None
    version_key: str | None = None
    secrets_ref: str | None = None
    input: bytes | None = None
    attached_deposit: int | None = None
    contract_id: str | None = None
    request_id: int | None = None
    block_height: int | None = None


def parse_report(body: bytes) -> Report:
    """Read the body of ``/jobs/complete``.

    Raises:
        ApiError: 400 for anything that is not exactly of its form.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"The body is not JSON: {error}") from error
    if not isinstance(value, Mapping) or not isinstance(value.get("completions"), list):
        raise ApiError(400, "Expected {batch, completions}")
    items = value["completions"]
    if not 0 < len(items) <= MAX_COMPLETIONS:
        raise ApiError(400, f"Expected 1 to {MAX_COMPLETIONS} completions, found {len(items)}")
    try:
        batch = None if value.get("batch") is None else Batch.from_json(value["batch"])
        completions = tuple(_completion(item) for item in items)
    except AttestationError as error:
        raise ApiError(400, str(error)) from error
    if len({item.job_id for item in completions}) != len(completions):
        raise ApiError(400, "A job is named twice")
    if batch is None and any(item.attested for item in completions):
        raise ApiError(400, "Records without the batch they are in")
    return Report(batch, completions)


def check_batch(batch: Batch) -> None:
    """The quote's REPORTDATA is the batch's root and size; else ``ApiError`` 400."""
    try:
        report_data = quote.parse(batch.quote).td_report.report_data
    except AttestationError as error:
        raise ApiError(400, f"The quote cannot be read: {error}") from error
    if report_data != report_data_v2(batch.tree_size, batch.root):
        raise ApiError(400, "The quote's REPORTDATA is not that of this batch")


def mismatch(
    completion: Completion, facts: JobFacts, batch: Batch | None, *, network_id: str, worker_public_key: str
) -> str | None:
    """The first thing that does not fit, by name; None when the completion is good."""
    if completion.attested is None:
        # what ran must be attested: only a refusal may come without a record
        refused = not completion.success and completion.error_category and not completion.output
        return None if refused else "record"
    if batch is None:
        return "batch"
    record, place = completion.attested.record, completion.attested
    leaf = record.leaf_hash()
    if not merkle.verify(leaf, place.leaf_index, batch.tree_size, place.proof, batch.root):
        return "inclusion_proof"
    expected = {
        **_said(completion, facts.kind),
        **_stored(facts),
        "network_id": network_id,
        "worker_public_key": worker_public_key,
    }
    for name, value in expected.items():
        found = getattr(record, name)
        # no amount and an amount of 0 say the same
        if (found or 0 if name in _AMOUNTS else found) != value:
            return f"record.{name}"
    if record.transaction_hash is not None and _TX_HASH.fullmatch(record.transaction_hash) is None:
        return "record.transaction_hash"
    return None


def _said(completion: Completion, kind: str) -> dict[str, Any]:
    """What the worker says beside the record."""
    empty = NEAR_EMPTY_OUTPUT if kind == "near" else b""
    delivered = (completion.output or empty) if kind == "near" else completion.output
    if not completion.success:
        delivered = empty
    return {
        "success": completion.success,
        "output_sha256": hashlib.sha256(delivered).hexdigest(),
        "instructions": completion.instructions,
        "time_ms": completion.time_ms,
        "refund_usd": completion.refund_usd,
        "error": None if completion.error is None else clip_error(completion.error),
    }


def _stored(facts: JobFacts) -> dict[str, Any]:
    common = {
        "job_id": str(facts.job_id),
        "max_instructions": facts.max_instructions,
        "max_memory_mb": facts.max_memory_mb,
        "max_execution_seconds": facts.max_execution_seconds,
    }
    if facts.kind == "near":
        # limits, input and caller of a request are the chain's to say; the worker reads them there
        return {
            "job_id": str(facts.job_id),
            "contract_id": facts.contract_id,
            "request_id": facts.request_id,
            "block_height": facts.block_height,
            "call_id": None,
        }
    expected = {
        **common,
        "call_id": str(facts.call_id),
        "request_id": None,
        "payment_key_owner": facts.owner,
        "payment_key_nonce": facts.nonce,
        "project_id": facts.project_id,
        "project_uuid": facts.project_uuid,
        "secrets_ref": facts.secrets_ref,
        "input_sha256": hashlib.sha256(facts.input or b"").hexdigest(),
        "attached_usd": facts.attached_deposit,
    }
    if facts.version_key is not None:
        expected["version_key"] = facts.version_key
    return expected


def join_proof(proof: Sequence[bytes]) -> bytes:
    """A proof as it is stored: its hashes one after the other."""
    return b"".join(proof)


def split_proof(stored: bytes) -> list[str]:
    """A stored proof as it travels: each hash in hex."""
    size = merkle.HASH_SIZE
    return [stored[start : start + size].hex() for start in range(0, len(stored), size)]


# --- reading ---------------------------------------------------------------------------------------------------


def _completion(item: Any) -> Completion:
    if not isinstance(item, Mapping):
        raise ApiError(400, "A completion is an object")
    return Completion(
        job_id=_uuid(item.get("job_id")),
        attempt=_uint(item, "attempt"),
        success=_bool(item, "success"),
        output=_base64(item.get("output_base64")),
        error=_error(item.get("error")),
        error_category=_matching(item, "error_category", _CATEGORY),
        instructions=_uint(item, "instructions"),
        time_ms=_uint(item, "time_ms"),
        refund_usd=0 if item.get("refund_usd") is None else _uint(item, "refund_usd"),
        resolve_tx_hash=_matching(item, "resolve_tx_hash", _TX_HASH),
        attested=_attested(item),
    )


def _attested(item: Mapping[str, Any]) -> Attested | None:
    if item.get("record") is None:
        return None
    proof = item.get("inclusion_proof")
    if not isinstance(proof, list) or len(proof) > 64:
        raise ApiError(400, "inclusion_proof must be a list of hashes")
    hashes = tuple(unhex("inclusion_proof", part) for part in proof)
    return Attested(TaskRecordV2.from_json(item["record"]), _uint(item, "leaf_index"), hashes)


def _uuid(value: Any) -> uuid.UUID:
    try:
        found = uuid.UUID(value)
    except (ValueError, TypeError, AttributeError) as error:
        raise ApiError(400, "job_id must be a UUID") from error
    return found


def _uint(item: Mapping[str, Any], name: str) -> int:
    value = item.get(name)
    if type(value) is not int or not 0 <= value <= _MAX_INT:
        raise ApiError(400, f"{name} must be a whole number from 0 to {_MAX_INT}")
    return value


def _bool(item: Mapping[str, Any], name: str) -> bool:
    value = item.get(name)
    if type(value) is not bool:
        raise ApiError(400, f"{name} must be true or false")
    return value


def _base64(value: Any) -> bytes:
    if value is None:
        return b""
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise ApiError(400, "output_base64 must be base64") from error


def _error(value: Any) -> str | None:
    if value is None:
        return None
    if type(value) is not str:
        raise ApiError(400, "error must be a string")
    return value[:MAX_ERROR_CHARS]


def _matching(item: Mapping[str, Any], name: str, pattern: re.Pattern[str]) -> str | None:
    value = item.get(name)
    if value is None:
        return None
    if type(value) is not str or pattern.fullmatch(value) is None:
        raise ApiError(400, f"{name} has a wrong form")
    return value
