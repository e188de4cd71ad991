# SPDX-License-Identifier: MIT
"""The verdict on a published V1 record. Pure, and never raises for what a record or its bundle holds.

A V1 record carries no word of the chain: it is judged as of its own time, which its host chose, by collateral of
that time and by the newest known; approval is judged by the verifier's own policy alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from outlayer_attestation import policy as rules
from outlayer_attestation.appraisal import Appraisal, verifier_version
from outlayer_attestation.checks import Check, decide, failed, passed, stated, unproven
from outlayer_attestation.errors import AttestationError, QuoteError
from outlayer_attestation.evidence.basis import CLOCK_SKEW_SECONDS, signed_by
from outlayer_attestation.evidence.bundle import KnownCollateral
from outlayer_attestation.evidence.platform_layer import Appraisals
from outlayer_attestation.evidence.trust import TrustAnchors
from outlayer_attestation.evidence.verdict import (
    ASKED,
    Interval,
    Layer,
    LayerVerdict,
    Verdict,
    not_asked,
    shown,
)
from outlayer_attestation.measurements import Measurements, describe
from outlayer_attestation.original.ambiguity import ambiguous_fields
from outlayer_attestation.original.reading import Payload, Published, is_format_1, read_bundle_1, read_record
from outlayer_attestation.quote import Quote, TdReport
from outlayer_attestation.quote import parse as parse_quote
from outlayer_attestation.record import V1_CUTOFF, sha256_hex

V1_SCHEME: Final = "outlayer/task/v1"
"""What a policy calls the REPORTDATA of these records: SHA-256 of the joined fields, then 32 zero bytes."""

PLACEHOLDER: Final = b"no-attestation-dev-mode"
"""What the original stores in place of a quote when it runs without a TEE."""

FAILED_OUTPUT: Final = b"[EXECUTION-FAILED]"
"""What is hashed for a request of a contract whose execution had no output."""

ROLE: Final = "worker"
_REGISTERS: Final = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")


def appraise_original(
    published: object,
    trust: TrustAnchors,
    policy: rules.Policy | None,
    now: int,
    known: Sequence[KnownCollateral] = (),
) -> Verdict:
    """Judge a published record, or a bundle of format 1, as of the record's own time.

    Args:
        published: a ``Published``, or the JSON of a record or of a bundle of format 1.
        trust: the root certificate, Intel's for real records. V1 binds no names, so none are compared.
        policy: the signed policy to judge Approval by; None leaves it unproven. What a bundle says of an
            approval is never believed.
        now: the verifier's clock, unix seconds.
        known: collateral beside that of the bundle. One must cover the record's time; the newest decides
            about revocation.
    """
    try:
        found = published if isinstance(published, Published) else _read(published)
    except AttestationError as error:
        return _unreadable(error, trust, policy, now)
    return _Judge(found, trust, policy, now, known).verdict()


def _read(value: object) -> Published:
    return read_bundle_1(value) if is_format_1(value) else read_record(value)


def _unreadable(
    error: AttestationError, trust: TrustAnchors, policy: rules.Policy | None, now: int
) -> Verdict:
    detail = f"{error}" + (f" ({error.hint})" if error.hint else "")
    wrong = failed("record_format", "malformed", detail)
    other = unproven("record_format", "record_unreadable", "the record could not be read")
    layers = [LayerVerdict(layer, (wrong if layer is Layer.BINDING else other,)) for layer in ASKED]
    return _verdict(layers, trust, policy, now, None, None)


def _verdict(
    asked: Sequence[LayerVerdict],
    trust: TrustAnchors,
    policy: rules.Policy | None,
    now: int,
    appraisals: Appraisals | None,
    measurements: Measurements | None,
) -> Verdict:
    used = None if appraisals is None else appraisals.then
    return Verdict(
        layers=(*not_asked(), *asked),
        simulated=trust.simulated,
        now=now,
        judged_at=used.judged.at if used else None,
        tcb_status=used.appraisal.status if used else None,
        advisory_ids=used.appraisal.advisory_ids if used else (),
        measurements=measurements,
        policy_sha256=policy.sha256 if policy else None,
        collateral_sha256=used.judged.collateral_sha256 if used else None,
        root_ca_sha256=trust.root_ca_sha256,
        verifier=verifier_version(),
        judged=tuple(line.judged for line in appraisals.lines) if appraisals else (),
    )


class _Judge:
    """Asks the questions of each layer. Each method gives checks and changes nothing."""

    def __init__(
        self,
        published: Published,
        trust: TrustAnchors,
        policy: rules.Policy | None,
        now: int,
        known: Sequence[KnownCollateral],
    ) -> None:
        self.published = published
        self.record = published.record
        self.trust = trust
        self.policy = policy
        self.now = now
        self.quote, self.problem = _parsed(published.quote)
        self.appraisals = self._appraisals((*published.collaterals, *known))

    def _appraisals(self, collaterals: Sequence[KnownCollateral]) -> Appraisals | None:
        """None without collateral. The record's own time stands for the interval in which it was made."""
        if not collaterals:
            return None
        moment = self.record.timestamp
        interval = Interval(start=moment, end=moment, bounded=True)
        root = self.trust.root_ca_der
        # nothing but the record's own clock says when it was made
        return Appraisals(self.published.quote, collaterals, root, interval, self.now, time_proven=False)

    @property
    def appraisal(self) -> Appraisal | None:
        return None if self.appraisals is None else self.appraisals.then.appraisal

    @property
    def report(self) -> TdReport | None:
        if self.quote is None or not isinstance(self.quote.report, TdReport):
            return None
        return self.quote.report

    def verdict(self) -> Verdict:
        steps = {
            Layer.APPROVAL: self.approval,
            Layer.PLATFORM: self.platform,
            Layer.IDENTITY: self.identity,
            Layer.BINDING: self.binding,
            Layer.PAYLOAD: self.payload,
        }
        asked = [LayerVerdict(layer, tuple(steps[layer]())) for layer in ASKED]
        measurements = self.report.measurements if self.report else None
        return _verdict(asked, self.trust, self.policy, self.now, self.appraisals, measurements)

    # --- Approval ---

    def approval(self) -> list[Check]:
        return [*self._policy_checks(), *self._statements()]

    def _policy_checks(self) -> list[Check]:
        policy = self.policy
        if policy is None:
            detail = (
                "no signed policy was given; what the record's publisher says of approval is not believed"
            )
            return [unproven("policy_signature", "no_policy", detail)]
        role = policy.document.role
        detail = f"the policy is for the role {role}, the record is a {ROLE}'s"
        checks = [
            decide(
                "policy_signature", bool(policy.signers), "not_signed", f"sha256 {describe(policy.sha256)}"
            ),
            decide("policy_role", role == ROLE, "other_role", detail),
            rules.validity_check(policy, self.record.timestamp),
        ]
        if self.appraisal is None:
            checks.append(unproven("policy_measurements", "no_collateral", "the quote could not be judged"))
        else:
            checks += rules.measurement_checks(policy, self.appraisal)
        return signed_by(policy.signers, checks)

    def _statements(self) -> list[Check]:
        """What a bundle says of itself, by name."""
        return [stated(name, _brief(value)) for name, value in self.published.statements.items()]

    # --- Platform ---

    def platform(self) -> list[Check]:
        root = f"{describe(self.trust.root_ca_sha256)}, {'SIMULATED' if self.trust.simulated else 'Intel'}"
        moment = self.record.timestamp
        checks = [passed("root_of_trust", root), *self._quote_checks()]
        if moment > self.now + CLOCK_SKEW_SECONDS or moment < 0:
            checks.append(failed("clock", "record_in_future", f"the record is of {shown(moment)}"))
        else:
            checks.append(passed("clock", f"the record is of {shown(moment)}"))
        if self.appraisals is None:
            detail = f"give collateral of {shown(moment)}: --collateral FILE"
            return [*checks, unproven("collateral_window", "no_collateral", detail)]
        return [*checks, *self.appraisals.checks(self.policy)]

    def _quote_checks(self) -> list[Check]:
        if self.published.quote == PLACEHOLDER:
            detail = "the worker ran without a TEE: its record holds a placeholder instead of a quote"
            return [failed("quote_present", "development_placeholder", detail)]
        if self.quote is None:
            return [failed("quote_present", "quote_malformed", self.problem)]
        return [passed("quote_present", f"{len(self.published.quote)} bytes")]

    # --- Identity ---

    def identity(self) -> list[Check]:
        if self.quote is None:
            return [unproven(name, "quote_unreadable") for name in _REGISTERS]
        if self.report is None:
            return [failed("quote_kind", "not_tdx", "an SGX quote has no TDX measurements")]
        return [*self._registers(self.report.measurements), *self._worker_measurement(self.report)]

    def _registers(self, measurements: Measurements) -> list[Check]:
        found = measurements.to_json()
        entry = None if self.policy is None else rules.find_measurements(self.policy, measurements)
        if self.policy is None or entry is None or entry.rtmr3 == "replay":
            return [unproven(name, "no_approved_set", describe(found[name])) for name in _REGISTERS]
        wanted = entry.model_dump(include=set(_REGISTERS))
        checks = [
            decide(name, found[name] == wanted[name], "measurement_differs", describe(found[name]))
            for name in _REGISTERS
        ]
        return signed_by(self.policy.signers, checks)

    def _worker_measurement(self, report: TdReport) -> list[Check]:
        """What the API calls the worker's measurement is RTMR3; its older versions read other bytes.

        The record's hash does not cover it and no other check uses it, so a wrong one leaves undecided what it
        was meant to say, and disproves nothing else.
        """
        name, claimed = "worker_measurement", self.published.worker_measurement
        rtmr3 = report.measurements.rtmr3
        if claimed is None:
            return []
        if claimed == rtmr3:
            return [passed(name, f"{describe(rtmr3)}, the quote's RTMR3")]
        found = f"the record states {describe(claimed)}{self._place_of(claimed)}"
        detail = f"{found}, the quote's RTMR3 is {describe(rtmr3)}"
        return [unproven(name, "not_the_quotes_rtmr3", detail)]

    def _place_of(self, claimed: str) -> str:
        try:
            place = self.published.quote.find(bytes.fromhex(claimed))
        except ValueError:
            return " (not hex)"
        return f" (bytes of the quote from offset {place})" if place >= 0 else " (nowhere in the quote)"

    # --- Binding ---

    def binding(self) -> list[Check]:
        newer = self.record.timestamp >= V1_CUTOFF
        which = "with" if newer else "without"
        formula = f"V1 {which} caller, project, secrets, time and payment, as records of its time are hashed"
        uncovered, ambiguous = self.published.uncovered, ambiguous_fields(self.record)
        checks = [passed("record_format", formula), self._report_data(), *self._scheme(), self._time(newer)]
        if uncovered:
            detail = f"published beside the record and not covered by its hash: {', '.join(uncovered)}"
            checks.append(stated("uncovered_fields", detail))
        if ambiguous:
            detail = (
                f"the hash covers the joined text of these, not where one ends and the next begins: "
                f"{', '.join(ambiguous)}"
            )
            checks.append(stated("ambiguous_fields", detail))
        return checks

    def _report_data(self) -> Check:
        if self.report is None:
            return failed("report_data", "no_td_report", "the record holds no TDX quote")
        bound = self.report.report_data == self.record.report_data()
        detail = f"all 64 bytes; commitment {describe(self.record.commitment().hex())}"
        return decide("report_data", bound, "report_data_mismatch", detail)

    def _scheme(self) -> list[Check]:
        if self.policy is None:
            return []
        name, wanted = "report_data_scheme", self.policy.document.report_data.scheme
        if wanted == V1_SCHEME:
            return [passed(name, wanted)]
        return [
            unproven(name, "policy_of_another_scheme", f"the policy is for {wanted}, this is {V1_SCHEME}")
        ]

    def _time(self, covered: bool) -> Check:
        whose = "hashed, by its host's clock" if covered else "published beside the record and not hashed"
        return stated("record_time", f"{shown(self.record.timestamp)}, {whose}; no block bounds it")

    # --- Payload ---

    def payload(self) -> list[Check]:
        return [
            _payload_check("input", self.published.input, self.record.input_hash),
            self._output(),
        ]

    def _output(self) -> Check:
        digest = self.record.output_hash
        if self.published.output is None and digest in (sha256_hex(FAILED_OUTPUT), sha256_hex(b"")):
            return passed("output", "the execution had no output", reason="no_output")
        return _payload_check("output", self.published.output, digest)


def _parsed(quote: bytes) -> tuple[Quote | None, str]:
    try:
        return parse_quote(quote), ""
    except QuoteError as error:
        return None, str(error)


def _payload_check(name: str, payload: Payload | None, digest: str | None) -> Check:
    if digest is None:
        return unproven(name, "not_in_record", f"the record has no hash of its {name}")
    if payload is None:
        return unproven(name, "not_given", "give the bytes to have them compared")
    detail = f"{len(payload.data)} bytes"
    if sha256_hex(payload.data) == digest:
        return passed(name, detail)
    if payload.exact:
        return failed(name, "digest_differs", detail)
    return unproven(name, "spelling_not_known", f"{detail}, written anew from JSON with fractions")


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
