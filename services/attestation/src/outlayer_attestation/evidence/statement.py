# SPDX-License-Identifier: MIT
"""What the chain says of one execution: who was approved at which block, and when the request was settled.

In a bundle these are statements: somebody recorded them. They become proof only for a verifier that asked the
chain itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from outlayer_attestation.errors import EvidenceError
from outlayer_attestation.evidence.reading import (
    maybe_number,
    maybe_text,
    read_number,
    read_object,
    read_text,
)
from outlayer_attestation.measurements import Measurements


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurementSet:
    """A measurement set as the register contract holds it. Times are unix seconds, None is open."""

    id: int
    name: str | None
    role: str
    measurements: Measurements
    not_before: int | None
    not_after: int | None
    added_at: int | None

    @classmethod
    def from_json(cls, value: object) -> MeasurementSet:
        """Strict."""
        keys = ("id", "name", "role", "measurements", "not_before", "not_after", "added_at")
        given = read_object(value, "measurement_set", keys)
        return cls(
            id=read_number(given["id"], "measurement_set.id"),
            name=maybe_text(given["name"], "measurement_set.name"),
            role=read_text(given["role"], "measurement_set.role"),
            measurements=Measurements.from_json(given["measurements"]),
            not_before=maybe_number(given["not_before"], "measurement_set.not_before"),
            not_after=maybe_number(given["not_after"], "measurement_set.not_after"),
            added_at=maybe_number(given["added_at"], "measurement_set.added_at"),
        )

    def active(self, moment: int) -> bool:
        """Whether the set is active; the end is exclusive."""
        return (self.not_before is None or self.not_before <= moment) and not self.ended(moment)

    def ended(self, moment: int) -> bool:
        """Whether its end has come."""
        return self.not_after is not None and self.not_after <= moment


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerKey:
    """A worker's registration as the register contract holds it. ``verified_at`` is of its newest quote."""

    public_key: str
    role: str
    measurement_set: int
    measurements: Measurements
    tcb_status: str
    fmspc: str
    verified_at: int
    expires_at: int
    quote_report_sha256: str

    @classmethod
    def from_json(cls, value: object) -> WorkerKey:
        """Strict."""
        keys = ("public_key", "role", "measurement_set", "measurements", "tcb_status", "fmspc", "verified_at")
        given = read_object(value, "worker_key", (*keys, "expires_at", "quote_report_sha256"))
        return cls(
            public_key=read_text(given["public_key"], "worker_key.public_key"),
            role=read_text(given["role"], "worker_key.role"),
            measurement_set=read_number(given["measurement_set"], "worker_key.measurement_set"),
            measurements=Measurements.from_json(given["measurements"]),
            tcb_status=read_text(given["tcb_status"], "worker_key.tcb_status"),
            fmspc=read_text(given["fmspc"], "worker_key.fmspc"),
            verified_at=read_number(given["verified_at"], "worker_key.verified_at"),
            expires_at=read_number(given["expires_at"], "worker_key.expires_at"),
            quote_report_sha256=read_text(given["quote_report_sha256"], "worker_key.quote_report_sha256"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """The register contract's answer at one block. ``collateral_sha256`` None: it held none for the platform."""

    contract: str
    network_id: str
    measurement_set: MeasurementSet | None
    worker_key: WorkerKey | None
    collateral_sha256: str | None
    block_height: int
    block_hash: str
    endpoint: str
    recorded_at: int

    @classmethod
    def from_json(cls, value: object) -> Statement:
        """Strict; ``measurement_set`` and ``worker_key`` may be null: the chain had none."""
        keys = ("contract", "network_id", "measurement_set", "worker_key", "collateral_sha256")
        given = read_object(
            value, "statement", (*keys, "block_height", "block_hash", "endpoint", "recorded_at")
        )
        a_set, key = given["measurement_set"], given["worker_key"]
        return cls(
            contract=read_text(given["contract"], "statement.contract"),
            network_id=read_text(given["network_id"], "statement.network_id"),
            measurement_set=None if a_set is None else MeasurementSet.from_json(a_set),
            worker_key=None if key is None else WorkerKey.from_json(key),
            collateral_sha256=maybe_text(given["collateral_sha256"], "statement.collateral_sha256"),
            block_height=read_number(given["block_height"], "statement.block_height"),
            block_hash=read_text(given["block_hash"], "statement.block_hash"),
            endpoint=read_text(given["endpoint"], "statement.endpoint"),
            recorded_at=read_number(given["recorded_at"], "statement.recorded_at"),
        )

    @property
    def words(self) -> str:
        """Where it is from, as it is shown."""
        return f"recorded at block {self.block_height} by endpoint {self.endpoint}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """The chain's word on measurements and key: now, at the record's anchor, and at its settlement.

    ``anchor`` and ``settlement`` are None where the node did not keep the state of those blocks.
    """

    now: Statement
    anchor: Statement | None
    settlement: Statement | None

    @classmethod
    def from_json(cls, value: object) -> Approval:
        """Strict."""
        given = read_object(value, "approval", ("now", "anchor", "settlement"))
        now, anchor, settlement = given["now"], given["anchor"], given["settlement"]
        return cls(
            now=Statement.from_json(now),
            anchor=None if anchor is None else Statement.from_json(anchor),
            settlement=None if settlement is None else Statement.from_json(settlement),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorHeader:
    """The chain's own header of the record's anchor: hash in base58, time in unix seconds, rounded down."""

    height: int
    hash: str
    time: int

    @classmethod
    def from_json(cls, value: object) -> AnchorHeader:
        """Strict."""
        given = read_object(value, "chain.anchor", ("height", "hash", "time"))
        return cls(
            height=read_number(given["height"], "chain.anchor.height"),
            hash=read_text(given["hash"], "chain.anchor.hash"),
            time=read_number(given["time"], "chain.anchor.time"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """The receipt in which the main contract delivered the answer. ``record_sha256`` is the V2 leaf that it carries."""

    transaction_hash: str
    receipt_id: str
    block_hash: str
    block_height: int
    block_time: int
    record_sha256: str | None

    @classmethod
    def from_json(cls, value: object) -> Settlement:
        """Strict."""
        keys = ("transaction_hash", "receipt_id", "block_hash", "block_height", "block_time", "record_sha256")
        given = read_object(value, "chain.settlement", keys)
        return cls(
            transaction_hash=read_text(given["transaction_hash"], "chain.settlement.transaction_hash"),
            receipt_id=read_text(given["receipt_id"], "chain.settlement.receipt_id"),
            block_hash=read_text(given["block_hash"], "chain.settlement.block_hash"),
            block_height=read_number(given["block_height"], "chain.settlement.block_height"),
            block_time=read_number(given["block_time"], "chain.settlement.block_time"),
            record_sha256=maybe_text(given["record_sha256"], "chain.settlement.record_sha256"),
        )


_REQUEST_TEXTS = ("transaction_hash", "receipt_id", "predecessor_id", "signer_id", "block_hash")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainRequest:
    """The request as its event on chain says it."""

    transaction_hash: str
    receipt_id: str
    request_id: int
    predecessor_id: str
    signer_id: str
    project_id: str | None
    block_height: int
    block_hash: str

    @classmethod
    def from_json(cls, value: object) -> ChainRequest:
        """Strict."""
        names = (*_REQUEST_TEXTS, "request_id", "project_id", "block_height")
        given = read_object(value, "chain.request", names)
        return cls(
            **{name: read_text(given[name], f"chain.request.{name}") for name in _REQUEST_TEXTS},
            request_id=read_number(given["request_id"], "chain.request.request_id"),
            project_id=maybe_text(given["project_id"], "chain.request.project_id"),
            block_height=read_number(given["block_height"], "chain.request.block_height"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainWord:
    """Headers and receipts that the endpoint answered with. None: it had none, or did not keep it any more."""

    endpoint: str
    anchor: AnchorHeader | None
    settlement: Settlement | None
    request: ChainRequest | None

    @classmethod
    def from_json(cls, value: object) -> ChainWord:
        """Strict."""
        given = read_object(value, "chain", ("endpoint", "anchor", "settlement", "request"))
        anchor, settlement, request = given["anchor"], given["settlement"], given["request"]
        return cls(
            endpoint=read_text(given["endpoint"], "chain.endpoint"),
            anchor=None if anchor is None else AnchorHeader.from_json(anchor),
            settlement=None if settlement is None else Settlement.from_json(settlement),
            request=None if request is None else ChainRequest.from_json(request),
        )


def read_receipt(value: object) -> Mapping[str, Any] | None:
    """A client's receipt, which its own reader judges; here it is an object or null."""
    if value is not None and not isinstance(value, Mapping):
        raise EvidenceError("receipt is not an object")
    return value
