# SPDX-License-Identifier: MIT
"""Jobs as the coordinator hands them out, and completions as it takes them back."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any

from outlayer_attestation.record import Batch, TaskRecordV2
from outlayer_worker.errors import ProtocolError

_UINT64 = 2**64


@dataclass(frozen=True)
class ResourceLimits:
    """What the request allows: instructions (fuel), MiB, seconds."""

    max_instructions: int
    max_memory_mb: int
    max_execution_seconds: int


@dataclass(frozen=True)
class HttpsCall:
    """A call that came over HTTPS. ``input`` is the exact bytes for stdin."""

    call_id: str
    project_id: str
    version_key: str | None
    input: bytes
    payment_key_owner: str
    payment_key_nonce: int
    compute_limit_usd: int
    attached_deposit_usd: int
    secrets_ref: str | None


@dataclass(frozen=True)
class NearRequest:
    """Where a request is said to be on chain. Nothing else about it is taken from the coordinator."""

    request_id: int
    data_id: bytes
    block_height: int
    contract_id: str


@dataclass(frozen=True)
class Job:
    """One claimed job: either ``https`` or ``near`` is set."""

    job_id: str
    attempt: int
    lease_seconds: float
    limits: ResourceLimits
    https: HttpsCall | None
    near: NearRequest | None

    @property
    def kind(self) -> str:
        return "https" if self.https is not None else "near"


def parse_jobs(value: object) -> list[Job]:
    """The jobs of a claim reply. Raises ``ProtocolError``."""
    jobs = _mapping(value, "reply").get("jobs")
    if not isinstance(jobs, list):
        raise ProtocolError("the claim reply has no list of jobs")
    return [parse_job(item) for item in jobs]


def parse_job(value: object) -> Job:
    """One job, checked field by field. Raises ``ProtocolError``."""
    item = _mapping(value, "job")
    kind = _text(item, "kind")
    https = _https(_mapping(item.get("https"), "https")) if kind == "https" else None
    near = _near(_mapping(item.get("near"), "near")) if kind == "near" else None
    if https is None and near is None:
        raise ProtocolError(f"a job of an unknown kind: {kind!r}")
    return Job(
        job_id=_text(item, "job_id"),
        attempt=_uint(item, "attempt"),
        lease_seconds=float(_uint(item, "lease_seconds")),
        limits=_limits(_mapping(item.get("resource_limits"), "resource_limits")),
        https=https,
        near=near,
    )


def _limits(item: dict[str, Any]) -> ResourceLimits:
    names = ("max_instructions", "max_memory_mb", "max_execution_seconds")
    return ResourceLimits(*(_uint(item, name) for name in names))


def _https(item: dict[str, Any]) -> HttpsCall:
    try:
        data = base64.b64decode(_text(item, "input_base64", empty=True), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProtocolError("input_base64 is not base64") from error
    return HttpsCall(
        call_id=_text(item, "call_id"),
        project_id=_text(item, "project_id"),
        version_key=_optional_text(item, "version_key"),
        input=data,
        payment_key_owner=_text(item, "payment_key_owner"),
        payment_key_nonce=_uint(item, "payment_key_nonce"),
        compute_limit_usd=_uint(item, "compute_limit_usd"),
        attached_deposit_usd=_uint(item, "attached_deposit_usd"),
        secrets_ref=_secrets_ref(item.get("secrets_ref")),
    )


def _secrets_ref(value: object) -> str | None:
    """ "account/profile", whether it comes as that text or as an object of both."""
    if value is None:
        return None
    if isinstance(value, dict):
        return f"{_text(value, 'account_id')}/{_text(value, 'profile')}"
    if isinstance(value, str) and value.count("/") == 1:
        return value
    raise ProtocolError("secrets_ref is not account/profile")


def _near(item: dict[str, Any]) -> NearRequest:
    data_id = _text(item, "data_id")
    if not re.fullmatch(r"[0-9a-f]{64}", data_id):
        raise ProtocolError("data_id is not 64 lower-case hex digits")
    return NearRequest(
        request_id=_uint(item, "request_id"),
        data_id=bytes.fromhex(data_id),
        block_height=_uint(item, "block_height"),
        contract_id=_text(item, "contract_id"),
    )


def _mapping(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ProtocolError(f"{name} is not an object")
    return value


def _text(item: dict[str, Any], name: str, *, empty: bool = False) -> str:
    value = item.get(name)
    if not isinstance(value, str) or not (value or empty):
        raise ProtocolError(f"{name} is not a text")
    return value


def _optional_text(item: dict[str, Any], name: str) -> str | None:
    return None if item.get(name) is None else _text(item, name)


def _uint(item: dict[str, Any], name: str) -> int:
    """An unsigned 64-bit number; amounts may come as decimal text."""
    value = item.get(name)
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,20}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _UINT64:
        raise ProtocolError(f"{name} is not an unsigned 64-bit number")
    return value


@dataclass(frozen=True)
class Attested:
    """A record with its place in a quoted batch."""

    record: TaskRecordV2
    batch: Batch
    leaf_index: int
    proof: tuple[bytes, ...]


@dataclass(frozen=True)
class Completion:
    """What the coordinator is told about a finished job. Without ``attested`` nothing was run."""

    job_id: str
    attempt: int
    success: bool
    output: bytes
    instructions: int
    time_ms: int
    error: str | None = None
    error_category: str | None = None
    refund_usd: int | None = None
    resolve_tx_hash: str | None = None
    attested: Attested | None = None

    def to_json(self) -> dict[str, Any]:
        """The wire form; the batch itself travels once beside all completions of one reply."""
        value: dict[str, Any] = {
            "job_id": self.job_id,
            "attempt": self.attempt,
            "success": self.success,
            "output_base64": base64.b64encode(self.output).decode(),
            "instructions": self.instructions,
            "time_ms": self.time_ms,
            "record": None,
            "leaf_index": None,
            "inclusion_proof": None,
        }
        optional = {
            "error": self.error,
            "error_category": self.error_category,
            "refund_usd": self.refund_usd,
            "resolve_tx_hash": self.resolve_tx_hash,
        }
        value |= {name: item for name, item in optional.items() if item is not None}
        if self.attested is not None:
            value |= {
                "record": self.attested.record.to_json(),
                "leaf_index": self.attested.leaf_index,
                "inclusion_proof": [item.hex() for item in self.attested.proof],
            }
        return value
