# SPDX-License-Identifier: MIT
"""Judging a bundle: five layers of named questions. Pure, and never raises for what a bundle holds.

What no check covers is listed in docs/reference/evidence.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from outlayer_attestation import merkle
from outlayer_attestation import policy as rules
from outlayer_attestation.appraisal import verifier_version
from outlayer_attestation.checks import Check, decide, failed, passed, unproven
from outlayer_attestation.errors import AttestationError
from outlayer_attestation.evidence import approval as approvals
from outlayer_attestation.evidence.basis import CLOCK_SKEW_SECONDS, Basis, signed_by
from outlayer_attestation.evidence.bundle import Bundle, KnownCollateral, parse
from outlayer_attestation.evidence.platform_layer import Appraisals
from outlayer_attestation.evidence.timing import DEFAULT_MAX_AGE_SECONDS, interval_of, time_checks
from outlayer_attestation.evidence.trust import TrustAnchors
from outlayer_attestation.evidence.verdict import (
    ASKED,
    Layer,
    LayerVerdict,
    Verdict,
    not_asked,
    shown,
)
from outlayer_attestation.measurements import Measurements, describe
from outlayer_attestation.quote import TdReport
from outlayer_attestation.record import report_data_v2, sha256_hex


def appraise(
    bundle: object,
    trust: TrustAnchors,
    policy: rules.Policy | None,
    now: int,
    *,
    asked: bool = False,
    known: Sequence[KnownCollateral] = (),
) -> Verdict:
    """Judge a bundle (parsed JSON, its text, or a ``Bundle``) over the interval in which its record was made.

    Args:
        bundle: what to judge; nothing in it is believed without a check.
        trust: the root certificate and the names that the verifier expects.
        policy: the signed policy to judge Approval by (``policy.load``); None leaves it unproven, and
            the TCB is judged by rule R12.
        now: the verifier's clock, unix seconds.
        asked: the chain's words in it are answers that the caller has just got by its own connection. Else
            they are what the bundle states.
        known: collateral beside that of the bundle, newer for example.
    """
    try:
        parsed = parse(bundle)
    except AttestationError as error:
        return _unreadable(error, trust, policy, now)
    return _Judge(parsed, trust, policy, now, Basis(asked), known).verdict()


def _unreadable(
    error: AttestationError, trust: TrustAnchors, policy: rules.Policy | None, now: int
) -> Verdict:
    detail = f"{error}" + (f" ({error.hint})" if error.hint else "")
    layers = list(not_asked())
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
        verifier=verifier_version(),
    )


class _Judge:
    """Asks the questions of each layer. Each method gives checks and changes nothing."""

    def __init__(
        self,
        bundle: Bundle,
        trust: TrustAnchors,
        policy: rules.Policy | None,
        now: int,
        basis: Basis,
        known: Sequence[KnownCollateral],
    ) -> None:
        self.bundle = bundle
        self.record = bundle.record
        self.trust = trust
        self.policy = policy
        self.now = now
        self.basis = basis
        self.interval = interval_of(self.record, bundle.chain, now, asked=basis.asked)
        self.collaterals = (*bundle.collaterals, *known)
        self.appraisals = Appraisals(
            bundle.batch.quote, self.collaterals, trust.root_ca_der, self.interval, now
        )
        self.appraisal = self.appraisals.then.appraisal

    def verdict(self) -> Verdict:
        steps: dict[Layer, Callable[[], list[Check]]] = {
            Layer.APPROVAL: self.approval,
            Layer.PLATFORM: self.platform,
            Layer.IDENTITY: self.identity,
            Layer.BINDING: self.binding,
            Layer.PAYLOAD: self.payload,
        }
        asked = [LayerVerdict(layer, tuple(steps[layer]())) for layer in ASKED]
        used = self.appraisals.then.judged
        return Verdict(
            layers=(*not_asked(), *asked),
            simulated=self.trust.simulated,
            now=self.now,
            judged_at=used.at,
            tcb_status=self.appraisal.status,
            advisory_ids=self.appraisal.advisory_ids,
            measurements=self.appraisal.measurements,
            policy_sha256=self.policy.sha256 if self.policy else None,
            collateral_sha256=used.collateral_sha256,
            root_ca_sha256=self.trust.root_ca_sha256,
            verifier=self.appraisal.verifier,
            interval=self.interval,
            judged=tuple(line.judged for line in self.appraisals.lines),
        )

    # --- Approval ---

    def approval(self) -> list[Check]:
        facts = approvals.Facts(
            record=self.record,
            interval=self.interval,
            trust=self.trust,
            policy=self.policy,
            collaterals=frozenset(item.collateral.sha256() for item in self.collaterals),
            fmspc=self._fmspc(),
            settlement=self.bundle.chain.settlement if self.bundle.chain else None,
            now=self.now,
        )
        measured = [] if self.policy is None else rules.measurement_checks(self.policy, self.appraisal)
        return [
            *approvals.policy_checks(facts, measured),
            *approvals.chain_checks(facts, self.bundle.approval, self.basis),
        ]

    def _fmspc(self) -> str | None:
        try:
            return self.appraisal.quote.pck_extension.fmspc.hex() if self.appraisal.quote else None
        except AttestationError:
            return None

    # --- Platform ---

    def platform(self) -> list[Check]:
        trusted = self.bundle.root_ca_sha256 == self.trust.root_ca_sha256
        root = f"{describe(self.trust.root_ca_sha256)}, {'SIMULATED' if self.trust.simulated else 'Intel'}"
        honest = self.bundle.simulated == self.trust.simulated
        flag = f"the bundle says {self.bundle.simulated}, the root {self.trust.simulated}"
        return [
            decide("root_of_trust", trusted, "other_root", root),
            decide("simulated_flag", honest, "flag_and_root_differ", flag),
            self._clock(),
            *self.appraisals.checks(self.policy),
        ]

    def _clock(self) -> Check:
        for what, moment in (("record", self.record.timestamp), ("anchor", self.record.anchor_time)):
            if moment > self.now + CLOCK_SKEW_SECONDS:
                return failed("clock", f"{what}_in_future", f"the {what} is of {shown(moment)}")
        return passed("clock", f"the record is of {shown(self.record.timestamp)}")

    # --- Identity ---

    def identity(self) -> list[Check]:
        """The quote's five measurements, one by one, against the approved set (or the policy's entry)."""
        quote = self.appraisal.quote
        names = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
        if quote is None:
            return [unproven(name, "quote_unreadable") for name in names]
        if not isinstance(quote.report, TdReport):
            return [failed("quote_kind", "not_tdx", "an SGX quote has no TDX measurements")]
        found = quote.report.measurements.to_json()
        of_policy = self._policy_entry(quote.report.measurements)
        approved = approvals.approved_set(self.bundle.approval) or of_policy
        if approved is None:
            return [unproven(name, "no_approved_set", describe(found[name])) for name in names]
        wanted = approved.to_json()
        basis = Basis(self.basis.asked or of_policy is not None)
        checks = [
            basis.holds(
                name,
                found[name] == wanted[name],
                "measurement_differs",
                f"{describe(found[name])}, approved {describe(wanted[name])}",
            )
            for name in names
        ]
        if of_policy is None or self.policy is None:
            return checks
        return signed_by(self.policy.signers, checks)

    def _policy_entry(self, measurements: Measurements) -> Measurements | None:
        """The policy's values for this quote; None when it has none, or leaves RTMR3 to an event log."""
        entry = None if self.policy is None else rules.find_measurements(self.policy, measurements)
        if entry is None or entry.rtmr3 == "replay":
            return None
        return Measurements.from_json(entry.model_dump(include=set(measurements.to_json())))

    # --- Binding ---

    def binding(self) -> list[Check]:
        batch, leaf = self.bundle.batch, self.record.leaf_hash()
        included = merkle.verify(
            leaf, self.bundle.leaf_index, batch.tree_size, self.bundle.inclusion_proof, batch.root
        )
        place = f"record {self.bundle.leaf_index + 1} of {batch.tree_size}, leaf {describe(leaf.hex())}"
        limit = self.policy.document.report_data.max_age_seconds if self.policy else DEFAULT_MAX_AGE_SECONDS
        return [
            passed("bundle_format", "bundle 2, record 2, batch 2"),
            decide("inclusion_proof", included, "record_not_in_batch", place),
            self._report_data(),
            self._scheme(),
            *time_checks(self.record, self.bundle.chain, self.interval, self.basis, limit, self.now),
            *self._request(),
        ]

    def _report_data(self) -> Check:
        batch, quote = self.bundle.batch, self.appraisal.quote
        if quote is None or not isinstance(quote.report, TdReport):
            return failed("report_data", "no_td_report", "the batch holds no TDX quote")
        expected = report_data_v2(batch.tree_size, batch.root)
        bound = quote.report.report_data == expected
        detail = f"all 64 bytes; root {describe(batch.root.hex())}"
        return decide("report_data", bound, "report_data_mismatch", detail)

    def _scheme(self) -> Check:
        if self.policy is None:
            return passed("report_data_scheme", rules.BATCH_SCHEME)
        wanted = self.policy.document.report_data.scheme
        return decide("report_data_scheme", wanted == rules.BATCH_SCHEME, "other_scheme", wanted)

    def _request(self) -> list[Check]:
        """A contract's request, as its event on chain says it. (An HTTPS call has its client's receipt.)"""
        record = self.record
        if record.request_id is None:
            return []
        request = None if self.bundle.chain is None else self.bundle.chain.request
        if request is None:
            return [unproven("chain_request", "no_request", f"request {record.request_id} was not read")]
        pairs = {
            "transaction": (record.transaction_hash, request.transaction_hash),
            "request": (record.request_id, request.request_id),
            "receipt": (record.receipt_id, request.receipt_id),
            "caller": (record.caller, request.predecessor_id),
            "signer": (record.signer_id, request.signer_id),
            "project": (record.project_id, request.project_id),
            "block": (record.block_height, request.block_height),
        }
        return [
            self.basis.holds(
                f"chain_{name}", stated == found, "differs_from_chain", f"record {stated}, chain {found}"
            )
            for name, (stated, found) in pairs.items()
        ]

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
