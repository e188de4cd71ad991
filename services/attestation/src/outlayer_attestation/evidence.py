# SPDX-License-Identifier: MIT
"""Evidence bundles: everything that proves one execution, judged again with no network.

``appraise`` is pure. It asks named questions in five layers (Approval, Platform, Identity, Binding,
Payload) and shows the three others as not asked. Whatever a bundle holds can only make checks fail or
stay unproven; it never raises. What no check covers is listed in docs/reference/evidence.md.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from outlayer_attestation import merkle
from outlayer_attestation.checks import Check, Outcome, decide, failed, overall, passed, unproven
from outlayer_attestation.collateral import Collateral
from outlayer_attestation.errors import AttestationError, CollateralError, EvidenceError
from outlayer_attestation.measurements import Measurements, describe
from outlayer_attestation.record import Batch, TaskRecordV2, report_data_v2, sha256_hex, unhex

if TYPE_CHECKING:
    from outlayer_attestation.appraisal import Appraisal
    from outlayer_attestation.policy import Policy

BUNDLE_FORMAT: Final = 2
MAX_BUNDLE_SIZE: Final = 256 * 1024 * 1024
"""Payloads are inside: input and output of up to tens of megabytes, in base64."""

CLOCK_SKEW_SECONDS: Final = 300
_HASH = re.compile(r"[0-9a-f]{64}")


class Layer(StrEnum):
    """The links of the trust chain, in order."""

    SOURCE = "Source"
    PROVENANCE = "Provenance"
    MEASUREMENT = "Measurement"
    APPROVAL = "Approval"
    PLATFORM = "Platform"
    IDENTITY = "Identity"
    BINDING = "Binding"
    PAYLOAD = "Payload"


ASKED: Final = (Layer.APPROVAL, Layer.PLATFORM, Layer.IDENTITY, Layer.BINDING, Layer.PAYLOAD)
NOT_ASKED: Final = (Layer.SOURCE, Layer.PROVENANCE, Layer.MEASUREMENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustAnchors:
    """What the verifier trusts before it opens a bundle. A name left out leaves its question unproven.

    ``root_ca_der`` is Intel's root, or that of a local stack's simulated platform. ``contract_id`` is the
    main contract, ``register_contract_id`` the one that approves workers.
    """

    root_ca_der: bytes
    network_id: str | None = None
    contract_id: str | None = None
    register_contract_id: str | None = None

    @property
    def root_ca_sha256(self) -> str:
        """Digest of the root certificate's DER."""
        return hashlib.sha256(self.root_ca_der).hexdigest()

    @property
    def simulated(self) -> bool:
        """Whether this root is another than Intel's."""
        from outlayer_attestation.appraisal import INTEL_ROOT_CA_SHA256

        return self.root_ca_sha256 != INTEL_ROOT_CA_SHA256


@dataclass(frozen=True, slots=True)
class LayerVerdict:
    """One layer: its checks in order. ``asked`` is False for the layers that only an audit judges."""

    layer: Layer
    checks: tuple[Check, ...]
    asked: bool = True

    @property
    def outcome(self) -> Outcome:
        """Of this layer alone."""
        return overall(self.checks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer about one bundle. ``exit_code``: 0 proven, 1 failed, 2 unproven."""

    layers: tuple[LayerVerdict, ...]
    simulated: bool
    now: int
    judged_at: int | None
    tcb_status: str | None
    advisory_ids: tuple[str, ...]
    measurements: Measurements | None
    policy_sha256: str | None
    collateral_sha256: str | None
    root_ca_sha256: str
    verifier: str

    @property
    def checks(self) -> tuple[Check, ...]:
        """All checks of the layers that were asked, in order."""
        return tuple(check for layer in self.layers if layer.asked for check in layer.checks)

    @property
    def outcome(self) -> Outcome:
        """PASS only if every check of every asked layer passed."""
        return overall(self.checks)

    @property
    def exit_code(self) -> int:
        """For a command line."""
        return {Outcome.PASS: 0, Outcome.FAIL: 1, Outcome.UNPROVEN: 2}[self.outcome]

    def layer(self, layer: Layer) -> LayerVerdict:
        """The verdict of one layer."""
        return next(verdict for verdict in self.layers if verdict.layer is layer)

    def failing(self) -> tuple[str, ...]:
        """ "Layer/check" of all that did not pass, in order."""
        return tuple(
            f"{verdict.layer.value}/{check.name}"
            for verdict in self.layers
            if verdict.asked
            for check in verdict.checks
            if check.outcome is not Outcome.PASS
        )

    def to_json(self) -> dict[str, Any]:
        """For programs; ``checks`` is flat, each with its layer."""
        return {
            "verdict": self.outcome.value,
            "simulated": self.simulated,
            "layers": {
                verdict.layer.value: verdict.outcome.value if verdict.asked else "not asked: outlayer audit"
                for verdict in self.layers
            },
            "checks": [
                {"layer": verdict.layer.value, **check.to_json()}
                for verdict in self.layers
                if verdict.asked
                for check in verdict.checks
            ],
            "tcb_status": self.tcb_status,
            "advisory_ids": list(self.advisory_ids),
            "measurements": self.measurements.to_json() if self.measurements else None,
            "policy_sha256": self.policy_sha256,
            "collateral_sha256": self.collateral_sha256,
            "root_ca_sha256": self.root_ca_sha256,
            "judged_at": self.judged_at,
            "now": self.now,
            "verifier": self.verifier,
        }


# --- reading ------------------------------------------------------------------------------------------


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise EvidenceError("a key occurs twice in one object of the bundle")
    return dict(pairs)


def loads(text: str | bytes) -> Any:
    """The JSON of a bundle; duplicate keys are refused, since two readers could see two values.

    Raises:
        EvidenceError: too large or not JSON.
    """
    if len(text) > MAX_BUNDLE_SIZE:
        raise EvidenceError("the bundle is too large")
    try:
        return json.loads(text, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise EvidenceError(f"the bundle is not JSON: {error}") from error


def _object(
    value: object, what: str, required: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise EvidenceError(f"{what} is not an object")
    missing = [name for name in required if name not in value]
    unknown = sorted(str(name) for name in value if name not in required and name not in optional)
    if missing or unknown:
        raise EvidenceError(f"{what}: missing {missing}, unknown {unknown[:5]}")
    return dict(value)


def _text(value: object, what: str) -> str:
    if type(value) is not str or not value:
        raise EvidenceError(f"{what} is not text")
    return value


def _number(value: object, what: str) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise EvidenceError(f"{what} is not an unsigned integer")
    return value


def _maybe_number(value: object, what: str) -> int | None:
    return None if value is None else _number(value, what)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurementSet:
    """A measurement set as the register contract holds it. Times are unix seconds, None is open."""

    id: int
    name: str | None
    measurements: Measurements
    not_before: int | None
    not_after: int | None
    added_at: int | None

    @classmethod
    def from_json(cls, value: object) -> MeasurementSet:
        """Strict."""
        keys = ("id", "name", "measurements", "not_before", "not_after", "added_at")
        given = _object(value, "approval.measurement_set", keys)
        return cls(
            id=_number(given["id"], "measurement_set.id"),
            name=None if given["name"] is None else _text(given["name"], "measurement_set.name"),
            measurements=Measurements.from_json(given["measurements"]),
            not_before=_maybe_number(given["not_before"], "measurement_set.not_before"),
            not_after=_maybe_number(given["not_after"], "measurement_set.not_after"),
            added_at=_maybe_number(given["added_at"], "measurement_set.added_at"),
        )

    def active(self, moment: int) -> bool:
        """Whether the set is active; the end is exclusive."""
        return (self.not_before is None or self.not_before <= moment) and (
            self.not_after is None or moment < self.not_after
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerKey:
    """A worker's registration as the register contract holds it."""

    public_key: str
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
        keys = ("public_key", "measurement_set", "measurements", "tcb_status", "fmspc", "verified_at")
        given = _object(value, "approval.worker_key", (*keys, "expires_at", "quote_report_sha256"))
        return cls(
            public_key=_text(given["public_key"], "worker_key.public_key"),
            measurement_set=_number(given["measurement_set"], "worker_key.measurement_set"),
            measurements=Measurements.from_json(given["measurements"]),
            tcb_status=_text(given["tcb_status"], "worker_key.tcb_status"),
            fmspc=_text(given["fmspc"], "worker_key.fmspc").lower(),
            verified_at=_number(given["verified_at"], "worker_key.verified_at"),
            expires_at=_number(given["expires_at"], "worker_key.expires_at"),
            quote_report_sha256=_text(given["quote_report_sha256"], "worker_key.quote_report_sha256"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """What the chain said when the bundle was made: recorded at a block by an endpoint, not proven."""

    contract: str
    network_id: str
    measurement_set: MeasurementSet | None
    worker_key: WorkerKey | None
    collateral_sha256: str
    block_height: int
    block_hash: str
    endpoint: str
    recorded_at: int

    @classmethod
    def from_json(cls, value: object) -> Approval:
        """Strict; ``measurement_set`` and ``worker_key`` may be null: the chain had none."""
        keys = ("contract", "network_id", "measurement_set", "worker_key", "collateral_sha256")
        given = _object(value, "approval", (*keys, "block_height", "block_hash", "endpoint", "recorded_at"))
        a_set, key = given["measurement_set"], given["worker_key"]
        return cls(
            contract=_text(given["contract"], "approval.contract"),
            network_id=_text(given["network_id"], "approval.network_id"),
            measurement_set=None if a_set is None else MeasurementSet.from_json(a_set),
            worker_key=None if key is None else WorkerKey.from_json(key),
            collateral_sha256=_text(given["collateral_sha256"], "approval.collateral_sha256"),
            block_height=_number(given["block_height"], "approval.block_height"),
            block_hash=_text(given["block_hash"], "approval.block_hash"),
            endpoint=_text(given["endpoint"], "approval.endpoint"),
            recorded_at=_number(given["recorded_at"], "approval.recorded_at"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle of format 2, parsed. ``input``/``output`` None: not in the bundle."""

    simulated: bool
    record: TaskRecordV2
    leaf_index: int
    inclusion_proof: tuple[bytes, ...]
    batch: Batch
    collateral: Collateral
    root_ca_sha256: str
    approval: Approval | None
    input: bytes | None
    output: bytes | None
    chain: Mapping[str, Any] | None

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
        keys = (
            "bundle_format",
            "simulated",
            "record",
            "leaf_index",
            "inclusion_proof",
            "batch",
            "collateral",
        )
        given = _object(value, "the bundle", (*keys, "root_ca_sha256", "approval", "payload"), ("chain",))
        if type(given["simulated"]) is not bool:
            raise EvidenceError("simulated is not a boolean")
        proof = given["inclusion_proof"]
        if not isinstance(proof, list) or len(proof) > 64:
            raise EvidenceError("inclusion_proof is not a list of hashes")
        payload = given["payload"]
        if payload is None:
            payload = {"input_base64": None, "output_base64": None}
        payload = _object(payload, "payload", ("input_base64", "output_base64"))
        chain = given.get("chain")
        if chain is not None and not isinstance(chain, Mapping):
            raise EvidenceError("chain is not an object")
        return cls(
            simulated=given["simulated"],
            record=TaskRecordV2.from_json(given["record"]),
            leaf_index=_number(given["leaf_index"], "leaf_index"),
            inclusion_proof=tuple(unhex("inclusion_proof", item) for item in proof),
            batch=Batch.from_json(given["batch"]),
            collateral=Collateral.from_json(given["collateral"]),
            root_ca_sha256=_text(given["root_ca_sha256"], "root_ca_sha256"),
            approval=None if given["approval"] is None else Approval.from_json(given["approval"]),
            input=_payload(payload["input_base64"], "input_base64"),
            output=_payload(payload["output_base64"], "output_base64"),
            chain=chain,
        )


def _payload(value: object, what: str) -> bytes | None:
    if value is None:
        return None
    try:
        if type(value) is not str:
            raise EvidenceError(f"payload.{what} is not text")
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise EvidenceError(f"payload.{what} is not base64") from error
    if base64.b64encode(data).decode() != value:
        raise EvidenceError(f"payload.{what} is not canonical base64")
    return data


# --- appraisal ----------------------------------------------------------------------------------------


def appraise(bundle: object, trust: TrustAnchors, policy: Policy | None, now: int) -> Verdict:
    """Judge a bundle (parsed JSON, its text, or a ``Bundle``) as of its record's time.

    Args:
        bundle: what to judge; nothing in it is believed without a check.
        trust: the root certificate and the names that the verifier expects.
        policy: the signed policy to judge Approval by (``policy.load``); None leaves it unproven, and
            the TCB is judged by rule R12.
        now: the verifier's clock, unix seconds.
    """
    try:
        parsed = _parsed(bundle)
    except AttestationError as error:
        return _unreadable(error, trust, policy, now)
    return _Judge(parsed, trust, policy, now).verdict()


def _parsed(bundle: object) -> Bundle:
    if isinstance(bundle, Bundle):
        return bundle
    return Bundle.from_json(loads(bundle) if isinstance(bundle, str | bytes) else bundle)


def _not_asked() -> list[LayerVerdict]:
    return [LayerVerdict(layer, (), asked=False) for layer in NOT_ASKED]


def _unreadable(error: AttestationError, trust: TrustAnchors, policy: Policy | None, now: int) -> Verdict:
    detail = f"{error}" + (f" ({error.hint})" if error.hint else "")
    layers = _not_asked()
    for layer in ASKED:
        if layer is Layer.BINDING:
            checks = (failed("bundle_format", "malformed", detail),)
        else:
            checks = (unproven("bundle_format", "bundle_unreadable", "the bundle could not be read"),)
        layers.append(LayerVerdict(layer, checks))
    return Verdict(
        layers=tuple(layers),
        simulated=trust.simulated,
        now=now,
        judged_at=None,
        tcb_status=None,
        advisory_ids=(),
        measurements=None,
        policy_sha256=policy.sha256 if policy else None,
        collateral_sha256=None,
        root_ca_sha256=trust.root_ca_sha256,
        verifier=_verifier(),
    )


def _verifier() -> str:
    from outlayer_attestation.appraisal import verifier_version

    return verifier_version()


class _Judge:
    """Asks the questions of each layer. Each method gives checks and changes nothing."""

    def __init__(self, bundle: Bundle, trust: TrustAnchors, policy: Policy | None, now: int) -> None:
        self.bundle = bundle
        self.record = bundle.record
        self.trust = trust
        self.policy = policy
        self.now = now
        self.moment = self.record.timestamp
        self.window = self._window_check()
        self.judged_at = self._clamped()
        self.appraisal = self._appraise()

    def verdict(self) -> Verdict:
        steps: dict[Layer, Callable[[], list[Check]]] = {
            Layer.APPROVAL: self.approval,
            Layer.PLATFORM: self.platform,
            Layer.IDENTITY: self.identity,
            Layer.BINDING: self.binding,
            Layer.PAYLOAD: self.payload,
        }
        asked = [LayerVerdict(layer, tuple(steps[layer]())) for layer in ASKED]
        return Verdict(
            layers=(*_not_asked(), *asked),
            simulated=self.trust.simulated,
            now=self.now,
            judged_at=self.judged_at,
            tcb_status=self.appraisal.status,
            advisory_ids=self.appraisal.advisory_ids,
            measurements=self.measurements,
            policy_sha256=self.policy.sha256 if self.policy else None,
            collateral_sha256=self.bundle.collateral.sha256(),
            root_ca_sha256=self.trust.root_ca_sha256,
            verifier=self.appraisal.verifier,
        )

    @property
    def measurements(self) -> Measurements | None:
        return self.appraisal.measurements

    # --- time and the quote ---

    def _window(self) -> tuple[int, int] | None:
        from outlayer_attestation.appraisal import collateral_window

        try:
            start, end = collateral_window(self.bundle.collateral)
        except CollateralError:
            return None
        return (start, end) if start < end else None

    def _window_check(self) -> Check:
        window = self._window()
        if window is None:
            return failed("collateral_window", "collateral_dates", "the collateral is valid at no time")
        detail = f"valid {_time(window[0])} to {_time(window[1])}, the record is of {_time(self.moment)}"
        if window[0] <= self.moment < window[1]:
            return passed("collateral_window", detail)
        hint = "; give collateral of the record's time"
        return unproven("collateral_window", "collateral_not_of_that_time", detail + hint)

    def _clamped(self) -> int:
        """The record's time, or the nearest instant at which the collateral is valid: the signatures can
        be judged even when the window is not the right one (which stays unproven)."""
        window = self._window()
        return self.moment if window is None else min(max(self.moment, window[0]), window[1] - 1)

    def _appraise(self) -> Appraisal:
        from outlayer_attestation.appraisal import appraise as appraise_quote

        root = self.trust.root_ca_der
        return appraise_quote(
            self.bundle.batch.quote, self.bundle.collateral, root_ca_der=root, now=self.judged_at
        )

    # --- Approval ---

    def approval(self) -> list[Check]:
        return [*self._policy_approval(), *self._chain_approval()]

    def _policy_approval(self) -> list[Check]:
        if self.policy is None:
            detail = "no signed policy was given; offline, approval is judged by it"
            return [unproven("policy_signature", "no_policy", detail)]
        from outlayer_attestation.policy import measurement_checks, validity_check

        signed = f"sha256 {describe(self.policy.sha256)}, signed by {len(self.policy.signers)}"
        return [
            decide("policy_signature", bool(self.policy.signers), "not_signed", signed),
            validity_check(self.policy, self.moment),
            *measurement_checks(self.policy, self.appraisal),
        ]

    def _chain_approval(self) -> list[Check]:
        approval = self.bundle.approval
        if approval is None:
            detail = "the bundle holds no word of the chain"
            return [unproven("chain_word", "no_approval", detail)]
        word = f"recorded at block {approval.block_height} by endpoint {approval.endpoint}"
        recorded = approval.recorded_at <= self.now + CLOCK_SKEW_SECONDS
        return [
            decide("chain_word", recorded, "recorded_in_future", word),
            *self._names(approval),
            self._collateral_digest(approval),
            *self._measurement_set(approval),
            *self._worker_key(approval),
        ]

    def _names(self, approval: Approval) -> list[Check]:
        expected = (
            ("network", approval.network_id, self.record.network_id, self.trust.network_id),
            ("main_contract", self.record.contract_id, self.record.contract_id, self.trust.contract_id),
            ("register_contract", approval.contract, approval.contract, self.trust.register_contract_id),
        )
        checks = []
        for name, found, again, wanted in expected:
            if found != again:
                detail = f"the record is of {again}, the approval of {found}"
                checks.append(failed(name, "inconsistent", detail))
            elif wanted is None:
                checks.append(unproven(name, "not_expected", f"{found}; name the one you expect"))
            elif found is None:
                checks.append(unproven(name, "not_in_record", f"expected {wanted}"))
            else:
                checks.append(decide(name, found == wanted, "other_name", f"{found}, expected {wanted}"))
        return checks

    def _collateral_digest(self, approval: Approval) -> Check:
        own = self.bundle.collateral.sha256()
        same = approval.collateral_sha256 == own
        return decide("collateral_digest", same, "other_collateral", describe(own))

    def _measurement_set(self, approval: Approval) -> list[Check]:
        found = approval.measurement_set
        if found is None:
            return [
                unproven("measurement_set", "not_on_chain", "the chain had no set with these measurements")
            ]
        checks = [
            decide(
                "measurement_set_active",
                found.active(self.moment),
                "set_not_active_then",
                f"set {found.id}, active {_time(found.not_before)} to {_time(found.not_after)}",
            )
        ]
        if self.policy is not None:
            from outlayer_attestation.policy import find_measurements

            known = find_measurements(self.policy, found.measurements) is not None
            checks.append(decide("measurement_set", known, "not_in_policy", f"set {found.id} and the policy"))
        return checks

    def _worker_key(self, approval: Approval) -> list[Check]:
        key = approval.worker_key
        if key is None:
            detail = "the register contract had no such key when the bundle was made"
            return [unproven("worker_key", "key_not_registered", detail)]
        same = key.public_key == self.record.worker_public_key
        checks = [decide("worker_key", same, "other_key", key.public_key)]
        ends = f"valid until {_time(key.expires_at)}"
        checks.append(decide("worker_key_valid", self.moment < key.expires_at, "key_expired_then", ends))
        sane = (
            key.verified_at < key.expires_at and key.verified_at <= approval.recorded_at + CLOCK_SKEW_SECONDS
        )
        verified = f"verified {_time(key.verified_at)}"
        checks.append(decide("worker_key_verified", sane, "dates_inconsistent", verified))
        checks.append(self._key_set(approval, key))
        statuses = self.policy.document.platform.statuses if self.policy else ["UpToDate"]
        checks.append(decide("worker_key_tcb", key.tcb_status in statuses, "tcb_status", key.tcb_status))
        fmspc = self._fmspc()
        if fmspc is None:
            checks.append(unproven("worker_key_fmspc", "quote_unreadable"))
        else:
            detail = f"{key.fmspc}, the quote has {fmspc}"
            checks.append(decide("worker_key_fmspc", key.fmspc == fmspc, "other_platform", detail))
        digest = _HASH.fullmatch(key.quote_report_sha256) is not None
        checks.append(decide("worker_key_report", digest, "malformed", "digest of the registration's report"))
        return checks

    def _key_set(self, approval: Approval, key: WorkerKey) -> Check:
        """The key's registration names the set that the quote is judged by. A key that was registered
        again after the execution says nothing about the registration of that time."""
        name = "worker_key_measurements"
        found = approval.measurement_set
        if found is None:
            return unproven(name, "not_on_chain")
        if key.measurement_set == found.id and key.measurements == found.measurements:
            return passed(name, f"set {found.id}")
        if key.verified_at > self.moment and key.measurement_set != found.id:
            return unproven(name, "registered_again_later", f"now registered with set {key.measurement_set}")
        return failed(name, "inconsistent", f"key has set {key.measurement_set}, the approval set {found.id}")

    def _fmspc(self) -> str | None:
        try:
            return self.appraisal.quote.pck_extension.fmspc.hex() if self.appraisal.quote else None
        except AttestationError:
            return None

    # --- Platform ---

    def platform(self) -> list[Check]:
        from outlayer_attestation import policy as rules

        trusted = self.bundle.root_ca_sha256 == self.trust.root_ca_sha256
        root = f"{describe(self.trust.root_ca_sha256)}, {'SIMULATED' if self.trust.simulated else 'Intel'}"
        honest = self.bundle.simulated == self.trust.simulated
        flag = f"the bundle says {self.bundle.simulated}, the root {self.trust.simulated}"
        sane = self.moment <= self.now + CLOCK_SKEW_SECONDS
        checks = [
            decide("root_of_trust", trusted, "other_root", root),
            decide("simulated_flag", honest, "flag_and_root_differ", flag),
            decide("clock", sane, "record_in_future", f"the record is of {_time(self.moment)}"),
            self.window,
            *self.appraisal.checks,
        ]
        if self.policy is None:
            return checks + rules.tcb_checks(self.appraisal.status, self.appraisal.advisory_ids)
        document = self.policy.document
        checks += rules.quote_checks(document.quote, self.appraisal)
        return checks + rules.platform_checks(document.platform, self.appraisal)

    # --- Identity ---

    def identity(self) -> list[Check]:
        """The quote's five measurements, one by one, against the approved set (or the policy's entry)."""
        from outlayer_attestation.quote import TdReport

        quote = self.appraisal.quote
        names = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
        if quote is None:
            return [unproven(name, "quote_unreadable") for name in names]
        if not isinstance(quote.report, TdReport):
            return [failed("quote_kind", "not_tdx", "an SGX quote has no TDX measurements")]
        found = quote.report.measurements.to_json()
        approved = self._approved_set()
        if approved is None:
            return [unproven(name, "no_approved_set", describe(found[name])) for name in names]
        wanted = approved.to_json()
        return [
            decide(
                name,
                found[name] == wanted[name],
                "measurement_differs",
                f"{describe(found[name])}, approved {describe(wanted[name])}",
            )
            for name in names
        ]

    def _approved_set(self) -> Measurements | None:
        approval = self.bundle.approval
        if approval is not None and approval.measurement_set is not None:
            return approval.measurement_set.measurements
        if self.policy is None or self.measurements is None:
            return None
        from outlayer_attestation.policy import find_measurements

        entry = find_measurements(self.policy, self.measurements)
        if entry is None or entry.rtmr3 == "replay":
            return None
        return Measurements.from_json(entry.model_dump(include=set(self.measurements.to_json())))

    # --- Binding ---

    def binding(self) -> list[Check]:
        batch, leaf = self.bundle.batch, self.record.leaf_hash()
        included = merkle.verify(
            leaf, self.bundle.leaf_index, batch.tree_size, self.bundle.inclusion_proof, batch.root
        )
        place = f"record {self.bundle.leaf_index + 1} of {batch.tree_size}, leaf {describe(leaf.hex())}"
        return [
            passed("bundle_format", "bundle 2, record 2, batch 2"),
            decide("inclusion_proof", included, "record_not_in_batch", place),
            self._report_data(batch),
            self._scheme(),
        ]

    def _report_data(self, batch: Batch) -> Check:
        from outlayer_attestation.quote import TdReport

        quote = self.appraisal.quote
        if quote is None or not isinstance(quote.report, TdReport):
            return failed("report_data", "no_td_report", "the batch holds no TDX quote")
        expected = report_data_v2(batch.tree_size, batch.root)
        bound = quote.report.report_data == expected
        detail = f"all 64 bytes; root {describe(batch.root.hex())}"
        return decide("report_data", bound, "report_data_mismatch", detail)

    def _scheme(self) -> Check:
        from outlayer_attestation.policy import BATCH_SCHEME

        if self.policy is None:
            return passed("report_data_scheme", BATCH_SCHEME)
        wanted = self.policy.document.report_data.scheme
        return decide("report_data_scheme", wanted == BATCH_SCHEME, "other_scheme", wanted)

    # --- Payload ---

    def payload(self) -> list[Check]:
        pieces = (
            ("input", self.bundle.input, self.record.input_sha256),
            ("output", self.bundle.output, self.record.output_sha256),
        )
        checks = []
        for name, data, digest in pieces:
            if data is None:
                checks.append(unproven(name, "not_in_bundle", "give the bytes to have them compared"))
            else:
                detail = f"{len(data)} bytes"
                checks.append(decide(name, sha256_hex(data) == digest, "digest_differs", detail))
        return checks


def _time(moment: int | None) -> str:
    if moment is None:
        return "open"
    from outlayer_attestation.policy import time_text

    try:
        return time_text(moment)
    except (ValueError, OverflowError, OSError):
        return str(moment)


# --- making -------------------------------------------------------------------------------------------


def make_bundle(
    *,
    attestation: Mapping[str, Any],
    collateral: Collateral,
    trust: TrustAnchors,
    approval: Mapping[str, Any] | None,
    input_bytes: bytes | None,
    output_bytes: bytes | None,
    chain: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Assemble a bundle from what the coordinator, the chain and the caller gave.

    ``attestation`` holds record, leaf_index, inclusion_proof and batch (other keys are left aside).
    ``approval`` is the JSON of ``Approval``. The result is checked by reading it back.
    """
    try:
        taken = {name: attestation[name] for name in ("record", "leaf_index", "inclusion_proof", "batch")}
    except KeyError as error:
        raise EvidenceError(f"the attestation lacks {error}") from error
    bundle: dict[str, Any] = {
        "bundle_format": BUNDLE_FORMAT,
        "simulated": trust.simulated,
        **taken,
        "collateral": collateral.to_json(),
        "root_ca_sha256": trust.root_ca_sha256,
        "approval": None if approval is None else dict(approval),
        "payload": {"input_base64": _base64(input_bytes), "output_base64": _base64(output_bytes)},
    }
    if chain is not None:
        bundle["chain"] = dict(chain)
    Bundle.from_json(bundle)
    return bundle


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()
