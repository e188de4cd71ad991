# SPDX-License-Identifier: MIT
"""Evidence bundles, format 2: everything that a verifier needs to judge one execution with no network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from outlayer_attestation.collateral import Collateral
from outlayer_attestation.errors import EvidenceError
from outlayer_attestation.evidence.reading import (
    loads,
    maybe_base64,
    read_number,
    read_object,
    read_text,
)
from outlayer_attestation.evidence.statement import Approval, ChainWord, read_receipt
from outlayer_attestation.evidence.trust import TrustAnchors
from outlayer_attestation.record import Batch, TaskRecordV2, unhex

BUNDLE_FORMAT: Final = 2
MAX_COLLATERALS: Final = 16
_MEMBERS: Final = (
    "bundle_format",
    "simulated",
    "record",
    "leaf_index",
    "inclusion_proof",
    "batch",
    "collaterals",
    "root_ca_sha256",
    "approval",
    "chain",
    "payload",
    "receipt",
)


@dataclass(frozen=True, slots=True)
class KnownCollateral:
    """Collateral, and where it is from: "register contract worker.near at block 7", "the file new.json"."""

    source: str
    collateral: Collateral

    @classmethod
    def from_json(cls, value: object) -> KnownCollateral:
        """Strict: collateral has one form in a bundle."""
        given = read_object(value, "collaterals", ("source", "collateral"))
        return cls(
            read_text(given["source"], "collaterals.source"),
            Collateral.from_json(given["collateral"], canonical=True),
        )

    def to_json(self) -> dict[str, Any]:
        """As in a bundle."""
        return {"source": self.source, "collateral": self.collateral.to_json()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle of format 2, parsed. ``input``/``output`` None: not in the bundle."""

    simulated: bool
    record: TaskRecordV2
    leaf_index: int
    inclusion_proof: tuple[bytes, ...]
    batch: Batch
    collaterals: tuple[KnownCollateral, ...]
    root_ca_sha256: str
    approval: Approval | None
    chain: ChainWord | None
    input: bytes | None
    output: bytes | None
    receipt: Mapping[str, Any] | None

    @classmethod
    def from_json(cls, value: object) -> Bundle:
        """Read a bundle.

        Raises:
            AttestationError: unknown format, or any missing, unknown or malformed member.
        """
        if not isinstance(value, Mapping):
            raise EvidenceError("the bundle is not an object")
        version = value.get("bundle_format")
        if type(version) is not int or version != BUNDLE_FORMAT:
            raise EvidenceError(f"bundle format {version!r} is not known", hint="this program reads format 2")
        given = read_object(value, "the bundle", _MEMBERS)
        if type(given["simulated"]) is not bool:
            raise EvidenceError("simulated is not a boolean")
        payload = read_object(given["payload"], "payload", ("input_base64", "output_base64"))
        return cls(
            simulated=given["simulated"],
            record=TaskRecordV2.from_json(given["record"]),
            leaf_index=read_number(given["leaf_index"], "leaf_index"),
            inclusion_proof=_proof(given["inclusion_proof"]),
            batch=Batch.from_json(given["batch"]),
            collaterals=_collaterals(given["collaterals"]),
            root_ca_sha256=read_text(given["root_ca_sha256"], "root_ca_sha256"),
            approval=None if given["approval"] is None else Approval.from_json(given["approval"]),
            chain=None if given["chain"] is None else ChainWord.from_json(given["chain"]),
            input=maybe_base64(payload["input_base64"], "payload.input_base64"),
            output=maybe_base64(payload["output_base64"], "payload.output_base64"),
            receipt=read_receipt(given["receipt"]),
        )


def parse(bundle: object) -> Bundle:
    """A bundle from its text, its bytes, its JSON, or itself. Raises ``AttestationError``."""
    if isinstance(bundle, Bundle):
        return bundle
    return Bundle.from_json(loads(bundle) if isinstance(bundle, str | bytes) else bundle)


def _proof(value: object) -> tuple[bytes, ...]:
    if not isinstance(value, list) or len(value) > 64:
        raise EvidenceError("inclusion_proof is not a list of hashes")
    return tuple(unhex("inclusion_proof", item) for item in value)


def _collaterals(value: object) -> tuple[KnownCollateral, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_COLLATERALS:
        raise EvidenceError(f"collaterals is not a list of 1 to {MAX_COLLATERALS}")
    return tuple(KnownCollateral.from_json(item) for item in value)


def make_bundle(
    *,
    attestation: Mapping[str, Any],
    collaterals: Sequence[KnownCollateral],
    trust: TrustAnchors,
    approval: Mapping[str, Any] | None,
    chain: Mapping[str, Any] | None,
    input_bytes: bytes | None,
    output_bytes: bytes | None,
    receipt: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Assemble a bundle from what the coordinator, the chain and the caller gave.

    ``attestation`` holds record, leaf_index, inclusion_proof and batch (other keys are left aside).
    ``approval`` is the JSON of ``Approval``, ``chain`` that of ``ChainWord``. Equal collaterals are kept once.
    The result is checked by reading it back.
    """
    try:
        taken = {name: attestation[name] for name in ("record", "leaf_index", "inclusion_proof", "batch")}
    except KeyError as error:
        raise EvidenceError(f"the attestation lacks {error}") from error
    distinct = {known.collateral.sha256(): known for known in reversed(collaterals)}
    bundle: dict[str, Any] = {
        "bundle_format": BUNDLE_FORMAT,
        "simulated": trust.simulated,
        **taken,
        "collaterals": [known.to_json() for known in reversed(distinct.values())],
        "root_ca_sha256": trust.root_ca_sha256,
        "approval": None if approval is None else dict(approval),
        "chain": None if chain is None else dict(chain),
        "payload": {"input_base64": _base64(input_bytes), "output_base64": _base64(output_bytes)},
        "receipt": None if receipt is None else dict(receipt),
    }
    Bundle.from_json(bundle)
    return bundle


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()
