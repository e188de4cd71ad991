# SPDX-License-Identifier: MIT
"""Appraisal of a quote: our pre-check, then dcap-qvl; policy judges the result (see ``policy``).

The pre-check runs on all collateral, whoever supplied it, and does not rely on what a version of the
library checks. It repeats every signature with another implementation (``cryptography``), so each has a
name of its own in the verdict and the two implementations must agree before anything is accepted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from outlayer_attestation import endorsements as endorsed
from outlayer_attestation import quote as layout
from outlayer_attestation.checks import Check, Outcome, failed, overall, passed, unproven
from outlayer_attestation.collateral import Collateral
from outlayer_attestation.endorsements import (
    TCB_SIGNING_COMMON_NAME,
    CollateralFacts,
    collateral_facts,
    collateral_window,
    revoked_by,
    signatures_valid,
)
from outlayer_attestation.errors import QuoteError
from outlayer_attestation.measurements import Measurements
from outlayer_attestation.signatures import (
    RefusedError,
    common_name,
    guarded,
    require,
    verify_p256,
)
from outlayer_attestation.tcb import Shortfall, shortfall_text, tcb_shortfall

if TYPE_CHECKING:
    import dcap_qvl

__all__ = [
    "INTEL_ROOT_CA_SHA256",
    "TCB_SIGNING_COMMON_NAME",
    "Appraisal",
    "CollateralFacts",
    "Shortfall",
    "appraise",
    "collateral_facts",
    "collateral_window",
    "revoked_by",
    "shortfall_text",
    "signatures_valid",
    "tcb_shortfall",
    "verifier_version",
]

INTEL_ROOT_CA_SHA256: Final = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"

# what dcap-qvl 0.7.0 says -> the check that says it in our verdict; the first match counts
_LIBRARY_CHECKS: Final = (
    ("CrlExpired", "crl_time"),
    ("CertRevoked", "revocation"),
    # before "Revoked", which the error of an unknown status lists among the known ones
    ("Failed to decode TcbInfo", "tcb_info"),
    ("Failed to decode QeIdentity", "qe_identity"),
    ("Revoked", "tcb_level"),
    ("Crl", "revocation"),
    ("UnknownRevocationStatus", "revocation"),
    ("CRL", "revocation"),
    ("CertExpired", "certificate_time"),
    ("CertNotValidYet", "certificate_time"),
    ("certificate chain", "certificate_chain"),
    ("TCBInfo", "tcb_info_time"),
    ("QE Identity expired", "qe_identity_time"),
    ("QE Identity issue date", "qe_identity_time"),
    ("TCB level", "tcb_level"),
    ("TDX module", "tdx_module"),
    ("component count", "tcb_info"),
    ("TcbInfo", "tcb_info"),
    ("TCB info in the collateral", "tcb_info"),
    ("Fmspc", "tcb_info_fmspc"),
    ("Debug mode is enabled", "td_attributes"),
    ("SEPT_VE_DISABLE", "td_attributes"),
    ("Reserved bits in TD attributes", "td_attributes"),
    ("TD migration", "td_attributes"),
    ("MR service TD", "mr_service_td"),
    ("ISV enclave report signature", "quote_signature"),
    ("vendor ID", "qe_vendor_id"),
    ("Intel extension", "pck_chain"),
    ("PCK cert", "pck_chain"),
    ("invalid for tcb_info", "tcb_info_signature"),
    ("invalid for qe_identity", "qe_identity_signature"),
    ("QE auth data", "qe_auth_data"),
    ("qe_report", "qe_report_signature"),
    ("QE report hash", "attestation_key_binding"),
    ("QE ", "qe_identity"),
)

# what dcap-qvl says when a component is behind every level
_BEHIND: Final = ("TCB level", "ISVSVN")


@dataclass(frozen=True)
class Appraisal:
    """The result for one quote at one time, with all that is needed to repeat it.

    ``status`` is the TCB status ("UpToDate", …), None when the library did not accept the quote. A
    status says nothing by itself: policy must decide on it. ``issued_at`` is that of
    ``CollateralFacts``, and ``evaluation_data_number`` is known of an accepted quote only.
    """

    checks: tuple[Check, ...]
    now: int
    quote: layout.Quote | None
    status: str | None
    advisory_ids: tuple[str, ...]
    root_ca_sha256: str
    verifier: str
    issued_at: int | None
    evaluation_data_number: int | None
    _given: endorsed.Endorsements = field(repr=False, compare=False)

    @property
    def outcome(self) -> Outcome:
        """PASS: the quote is genuine at ``now``. TCB policy is not part of this."""
        return overall(self.checks)

    @property
    def collateral_sha256(self) -> str:
        """``Collateral.sha256`` of the collateral that judged."""
        return self._given.parsed.sha256

    @property
    def simulated(self) -> bool:
        """Whether the root of trust is another than Intel's."""
        return self.root_ca_sha256 != INTEL_ROOT_CA_SHA256

    @property
    def measurements(self) -> Measurements | None:
        """MRTD and RTMRs of a TDX quote."""
        if self.quote is None or not isinstance(self.quote.report, layout.TdReport):
            return None
        return self.quote.report.measurements

    @cached_property
    def claims(self) -> dict[str, Any]:
        """All that dcap-qvl says about an accepted quote; {} for another. Made when first asked for."""
        if self.quote is None or self.status is None:
            return {}
        return _claims(self.quote, self._given, self.now)

    @property
    def tcb_shortfall(self) -> list[Shortfall]:
        """What keeps the platform from a better TCB status, for people; empty when nothing does."""
        return tcb_shortfall(self.quote, self._given.given) if self.quote else []

    @property
    def tcb_date(self) -> int | None:
        """The date (unix seconds) of the TCB level that an accepted quote's platform matches."""
        date: int | None = self.claims.get("platform", {}).get("tcb_date_tag")
        return date

    def failing(self) -> tuple[str, ...]:
        """Names of the checks that did not pass, in order."""
        return tuple(check.name for check in self.checks if check.outcome is not Outcome.PASS)


@cache
def verifier_version() -> str:
    """The implementations that judged, for the result record."""
    return f"outlayer-attestation {version('outlayer-attestation')}, dcap-qvl {version('dcap-qvl')}"


def appraise(quote_bytes: bytes, collateral: Collateral, *, root_ca_der: bytes, now: int) -> Appraisal:
    """Judge a quote with this collateral under this root, as of ``now`` (unix seconds).

    Never raises for what the quote or the collateral hold: whatever is wrong is a failed check.
    """
    checks: list[Check] = []
    parsed = _parse(quote_bytes, checks)
    given = endorsed.endorsements(collateral, root_ca_der)
    report: dcap_qvl.VerifiedReport | None = None
    advisory_ids: tuple[str, ...] = ()
    if parsed is not None:
        checks += _Precheck(parsed, given, now).run()
        report = _library(parsed, given, now, checks)
        if report is not None:
            advisory_ids = _advisories(report, parsed, given, now, checks)
    return Appraisal(
        checks=tuple(checks),
        now=now,
        quote=parsed,
        status=report.status if report else None,
        advisory_ids=advisory_ids,
        root_ca_sha256=hashlib.sha256(root_ca_der).hexdigest(),
        verifier=verifier_version(),
        issued_at=given.parsed.issued_at,
        evaluation_data_number=given.parsed.evaluation_number if report else None,
        _given=given,
    )


def _parse(quote_bytes: bytes, checks: list[Check]) -> layout.Quote | None:
    try:
        parsed = layout.parse(quote_bytes)
    except QuoteError as error:
        checks.append(failed("quote_layout", "quote_malformed", str(error)))
        return None
    detail = f"version {parsed.header.version}, {len(parsed.canonical)} bytes"
    checks.append(passed("quote_layout", detail))
    trailing = len(parsed.trailing)
    if parsed.is_canonical:
        checks.append(passed("quote_canonical", f"{trailing} bytes of zero padding" if trailing else ""))
    else:
        detail = f"{trailing} bytes follow the quote and are not all zero"
        checks.append(failed("quote_canonical", "quote_not_canonical", detail))
    return parsed


# --- pre-check ----------------------------------------------------------------------------------------


class _Precheck:
    """Our own checks, each independent of the others, so that one verdict can name all that is wrong."""

    def __init__(self, quote: layout.Quote, given: endorsed.Endorsements, now: int) -> None:
        self.quote = quote
        self.given = given
        self.collateral = given.parsed
        self.now = now

    def run(self) -> list[Check]:
        given = self.given
        steps: list[Check | tuple[str, Callable[[], str]]] = [
            ("certification_data_type", self.certification_data_type),
            ("qe_auth_data", self.qe_auth_data),
            ("pck_chain", self.pck_chain),
            given.tcb_signing_certificate,
            given.tcb_info_signature,
            given.qe_identity_signature,
            given.tcb_info_type,
            ("tcb_info_fmspc", self.tcb_info_fmspc),
            ("tcb_info_pceid", self.tcb_info_pceid),
            ("pck_crl_issuer_chain", self.pck_crl_issuer_chain),
            ("crl_signature", self.crl_signature),
            ("crl_time", self.crl_time),
            ("qe_report_signature", self.qe_report_signature),
            ("attestation_key_binding", self.attestation_key_binding),
            ("quote_signature", self.quote_signature),
        ]
        return [step if isinstance(step, Check) else guarded(*step) for step in steps]

    def certification_data_type(self) -> str:
        kind = self.quote.auth.certification_type
        require(kind == layout.CERTIFICATION_QE_REPORT, "wrong_type", f"type {kind}, expected 6")
        return ""

    def qe_auth_data(self) -> str:
        size = len(self.quote.auth.qe_auth_data)
        require(size == layout.QE_AUTH_DATA_SIZE, "wrong_size", f"{size} bytes, expected 32")
        return ""

    def pck_chain(self) -> str:
        """The quote's own chain, leaf to the trusted root. (Validity in time is the library's.)"""
        chain = self.quote.pck_chain
        require(len(chain) == 3, "wrong_length", f"{len(chain)} certificates, expected 3")
        root = endorsed.verify_pck_chain(self.quote.auth.inner_certification_data, self.given.root_der)
        return f"FMSPC {self.quote.pck_extension.fmspc.hex()}, to {root}"

    def tcb_info_fmspc(self) -> str:
        given, own = self.collateral.fmspc, self.quote.pck_extension.fmspc.hex()
        require(given == own, "fmspc_mismatch", f"TCB info is for {given}, the platform is {own}")
        return own

    def tcb_info_pceid(self) -> str:
        given = str(self.collateral.tcb_info.get("pceId")).lower()
        own = self.quote.pck_extension.pce_id.hex()
        require(given == own, "pceid_mismatch", f"TCB info is for PCE {given}, the platform has {own}")
        return ""

    def pck_crl_issuer_chain(self) -> str:
        """The chain that came with the PCK CRL is the quote's PCK CA (by name and key) and the root."""
        given, own = self.given.pck_crl_issuer(), self.quote.pck_chain[1]
        if given != own and (given.subject != own.subject or given.public_key() != own.public_key()):
            names = f"{common_name(given.subject)!r}, the quote's PCK CA is {common_name(own.subject)!r}"
            raise RefusedError("wrong_issuer", f"it is of {names}")
        return ""

    def crl_signature(self) -> str:
        self.given.crls_signed_by(self.quote.pck_chain[1])
        return ""

    def crl_time(self) -> str:
        moment = datetime.fromtimestamp(self.now, UTC)
        for crl in (self.collateral.root_crl, self.collateral.pck_crl):
            if crl.last_update_utc > moment:
                dated = f"{crl.last_update_utc:%Y-%m-%dT%H:%M:%SZ}"
                raise RefusedError("crl_in_future", f"CRL of {common_name(crl.issuer)!r} is dated {dated}")
        return ""

    def qe_report_signature(self) -> str:
        auth = self.quote.auth
        verify_p256(self.quote.pck_chain[0].public_key(), auth.qe_report_signature, auth.qe_report_raw)
        return ""

    def attestation_key_binding(self) -> str:
        auth = self.quote.auth
        expected = hashlib.sha256(auth.attestation_key + auth.qe_auth_data).digest() + bytes(32)
        require(auth.qe_report.report_data == expected, "not_bound", "the QE report is for another key")
        return ""

    def quote_signature(self) -> str:
        auth = self.quote.auth
        point = b"\x04" + auth.attestation_key
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
        verify_p256(key, auth.signature, self.quote.signed)
        return ""


# --- library ------------------------------------------------------------------------------------------


def _library(
    quote: layout.Quote, endorsements: endorsed.Endorsements, now: int, checks: list[Check]
) -> dcap_qvl.VerifiedReport | None:
    """dcap-qvl over the canonical bytes: its report, or None and a failed check named after what it says."""
    import dcap_qvl

    if not 0 <= now < 2**63:
        checks.append(unproven("dcap_qvl", "time_out_of_range", f"cannot judge as of {now}"))
        return None
    try:
        given = endorsements.parsed.library
    except ValueError as error:
        checks.append(failed("dcap_qvl", "collateral_unreadable", str(error)[:300]))
        return None
    try:
        report = dcap_qvl.verify_with_root_ca(quote.canonical, given, endorsements.root_der, now)
    except ValueError as error:
        text = " ".join(str(error).split())
        name = _library_check(text)
        detail = text[:300]
        if any(word in text for word in _BEHIND):
            detail = "; ".join([detail, *map(str, tcb_shortfall(quote, endorsements.given))])
        checks.append(failed(name, "dcap_qvl_refuses", detail))
        return None
    checks.append(passed("dcap_qvl", f"TCB status {report.status}"))
    return report


def _advisories(
    report: dcap_qvl.VerifiedReport,
    quote: layout.Quote,
    endorsements: endorsed.Endorsements,
    now: int,
    checks: list[Check],
) -> tuple[str, ...]:
    """Those of the platform's and module's levels at launch and of the quoting enclave, which the library has
    merged, and for a TD 1.5 those of the levels that it runs on now (TEE_TCB_SVN2), which only its claims tell."""
    found = list(report.advisory_ids)
    if isinstance(quote.report, layout.TdReport) and quote.report.tee_tcb_svn2 is not None:
        level = _claims(quote, endorsements, now).get("platform", {}).get("current_tcb_level")
        if level is None:
            checks.append(failed("dcap_qvl", "claims_unavailable", "the current TCB level is not told"))
        else:
            found += level.get("advisoryIDs", [])
    return tuple(dict.fromkeys(found))


def _claims(quote: layout.Quote, endorsements: endorsed.Endorsements, now: int) -> dict[str, Any]:
    import dcap_qvl

    verifier = dcap_qvl.QuoteVerifier(endorsements.root_der)
    policy = dcap_qvl.QuotePolicy.claims_only(now)
    given = endorsements.parsed.library
    try:
        text = verifier.verify_with_policy(quote.canonical, given, now, policy).to_json()
    except ValueError:
        return {}  # no claim is a safe answer: each of them only ever widens what policy accepts
    claims: dict[str, Any] = json.loads(text)
    return claims


def _library_check(message: str) -> str:
    return next((name for text, name in _LIBRARY_CHECKS if text in message), "dcap_qvl")
