# SPDX-License-Identifier: MIT
"""Appraisal of a quote: our pre-check, then dcap-qvl; policy judges the result (see ``policy``).

The pre-check runs on all collateral, whoever supplied it, and does not rely on what a version of the
library checks. It repeats every signature with another implementation (``cryptography``), so each has a
name of its own in the verdict and the two implementations must agree before anything is accepted.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from outlayer_attestation import quote as layout
from outlayer_attestation.checks import Check, Outcome, failed, overall, passed, unproven
from outlayer_attestation.collateral import Collateral
from outlayer_attestation.errors import AttestationError, CollateralError, QuoteError
from outlayer_attestation.measurements import Measurements

TCB_SIGNING_COMMON_NAME: Final = "Intel SGX TCB Signing"
INTEL_ROOT_CA_SHA256: Final = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"

_UNREADABLE: Final = (
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    OSError,
    InvalidSignature,
    UnsupportedAlgorithm,
    AttestationError,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    x509.AttributeNotFound,
)

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


@dataclass(frozen=True)
class Appraisal:
    """The result for one quote at one time, with all that is needed to repeat it.

    ``status`` is the TCB status ("UpToDate", …), None when the library did not accept the quote. A
    status says nothing by itself: policy must decide on it.
    """

    checks: tuple[Check, ...]
    now: int
    quote: layout.Quote | None
    status: str | None
    advisory_ids: tuple[str, ...]
    claims: dict[str, Any] = field(repr=False)
    collateral_sha256: str
    root_ca_sha256: str
    verifier: str
    issued_at: int | None
    evaluation_data_number: int | None
    tcb_date: int | None

    @property
    def outcome(self) -> Outcome:
        """PASS: the quote is genuine at ``now``. TCB policy is not part of this."""
        return overall(self.checks)

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
    verdict: dict[str, Any] = {}
    if parsed is not None:
        checks += _Precheck(parsed, collateral, root_ca_der, now).run()
        verdict = _library(parsed, collateral, root_ca_der, now, checks)
    tcb = verdict.get("tcb", {})
    times = [_issue_time(text) for text in (collateral.tcb_info, collateral.qe_identity)]
    return Appraisal(
        checks=tuple(checks),
        now=now,
        quote=parsed,
        status=tcb.get("status"),
        advisory_ids=tuple(tcb.get("advisory_ids", ())),
        claims=verdict,
        collateral_sha256=collateral.sha256(),
        root_ca_sha256=hashlib.sha256(root_ca_der).hexdigest(),
        verifier=verifier_version(),
        issued_at=None if None in times else min(time for time in times if time is not None),
        evaluation_data_number=_evaluation_number(verdict),
        tcb_date=verdict.get("platform", {}).get("tcb_date_tag"),
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


class _FailedError(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def _require(condition: bool, reason: str, detail: str) -> None:
    if not condition:
        raise _FailedError(reason, detail)


class _Precheck:
    """Our own checks, each independent of the others, so that one verdict can name all that is wrong."""

    def __init__(self, quote: layout.Quote, collateral: Collateral, root_ca_der: bytes, now: int) -> None:
        self.quote = quote
        self.collateral = collateral
        self.root_der = root_ca_der
        self.now = now

    def run(self) -> list[Check]:
        steps: list[tuple[str, Callable[[], str]]] = [
            ("certification_data_type", self.certification_data_type),
            ("qe_auth_data", self.qe_auth_data),
            ("pck_chain", self.pck_chain),
            ("tcb_signing_certificate", self.tcb_signing_certificate),
            ("tcb_info_signature", self.tcb_info_signature),
            ("qe_identity_signature", self.qe_identity_signature),
            ("tcb_info_type", self.tcb_info_type),
            ("tcb_info_fmspc", self.tcb_info_fmspc),
            ("tcb_info_pceid", self.tcb_info_pceid),
            ("crl_signature", self.crl_signature),
            ("crl_time", self.crl_time),
            ("qe_report_signature", self.qe_report_signature),
            ("attestation_key_binding", self.attestation_key_binding),
            ("quote_signature", self.quote_signature),
        ]
        return [_guarded(name, step) for name, step in steps]

    def certification_data_type(self) -> str:
        kind = self.quote.auth.certification_type
        _require(kind == layout.CERTIFICATION_QE_REPORT, "wrong_type", f"type {kind}, expected 6")
        return ""

    def qe_auth_data(self) -> str:
        size = len(self.quote.auth.qe_auth_data)
        _require(size == layout.QE_AUTH_DATA_SIZE, "wrong_size", f"{size} bytes, expected 32")
        return ""

    def pck_chain(self) -> str:
        """The quote's own chain, leaf to the trusted root. (Validity in time is the library's.)"""
        chain = self.quote.pck_chain
        _require(len(chain) == 3, "wrong_length", f"{len(chain)} certificates, expected 3")
        _require(
            chain[2].public_bytes(Encoding.DER) == self.root_der,
            "untrusted_root",
            "the chain ends in another root than the trusted one",
        )
        for child, parent in itertools.pairwise(chain):
            child.verify_directly_issued_by(parent)
        fmspc = self.quote.pck_extension.fmspc.hex()
        return f"FMSPC {fmspc}, to {_common_name(chain[2].subject)}"

    def _signing_certificate(self, chain_pem: str) -> x509.Certificate:
        chain = x509.load_pem_x509_certificates(chain_pem.encode())
        root = x509.load_der_x509_certificate(self.root_der)
        _require(len(chain) == 2, "wrong_length", f"{len(chain)} certificates, expected 2")
        same_root = chain[1].public_bytes(Encoding.DER) == self.root_der
        _require(same_root, "untrusted_root", "the chain ends in another root than the trusted one")
        name = _common_name(chain[0].subject)
        _require(name == TCB_SIGNING_COMMON_NAME, "wrong_signer", f"signed by {name!r}")
        chain[0].verify_directly_issued_by(root)
        return chain[0]

    def tcb_signing_certificate(self) -> str:
        for chain in (self.collateral.tcb_info_issuer_chain, self.collateral.qe_identity_issuer_chain):
            self._signing_certificate(chain)
        return TCB_SIGNING_COMMON_NAME

    def _signed_json(self, chain: str, text: str, signature: str) -> str:
        leaf = x509.load_pem_x509_certificates(chain.encode())[0]
        _verify(leaf.public_key(), bytes.fromhex(signature), text.encode())
        return ""

    def tcb_info_signature(self) -> str:
        given = self.collateral
        return self._signed_json(given.tcb_info_issuer_chain, given.tcb_info, given.tcb_info_signature)

    def qe_identity_signature(self) -> str:
        given = self.collateral
        return self._signed_json(
            given.qe_identity_issuer_chain, given.qe_identity, given.qe_identity_signature
        )

    def tcb_info_type(self) -> str:
        kind = self.collateral.tcb_info_json().get("tcbType")
        _require(type(kind) is int and kind == 0, "wrong_type", f"tcbType {kind!r}, expected 0")
        return ""

    def tcb_info_fmspc(self) -> str:
        given, own = self.collateral.fmspc(), self.quote.pck_extension.fmspc.hex()
        _require(given == own, "fmspc_mismatch", f"TCB info is for {given}, the platform is {own}")
        return own

    def tcb_info_pceid(self) -> str:
        given = str(self.collateral.tcb_info_json().get("pceId")).lower()
        own = self.quote.pck_extension.pce_id.hex()
        _require(given == own, "pceid_mismatch", f"TCB info is for PCE {given}, the platform has {own}")
        return ""

    def _crls(self) -> tuple[x509.CertificateRevocationList, x509.CertificateRevocationList]:
        return (
            x509.load_der_x509_crl(bytes.fromhex(self.collateral.root_ca_crl)),
            x509.load_der_x509_crl(bytes.fromhex(self.collateral.pck_crl)),
        )

    def crl_signature(self) -> str:
        root = x509.load_der_x509_certificate(self.root_der)
        for crl, issuer in zip(self._crls(), (root, self.quote.pck_chain[1]), strict=True):
            _require(crl.issuer == issuer.subject, "wrong_issuer", f"CRL of {_common_name(crl.issuer)!r}")
            key = issuer.public_key()
            _require(isinstance(key, ec.EllipticCurvePublicKey), "wrong_key", "the issuer's key is not EC")
            # the condition above is what the type checker cannot see
            valid = isinstance(key, ec.EllipticCurvePublicKey) and crl.is_signature_valid(key)
            _require(valid, "signature_invalid", f"CRL of {_common_name(crl.issuer)!r}")
        return ""

    def crl_time(self) -> str:
        moment = datetime.fromtimestamp(self.now, UTC)
        for crl in self._crls():
            dated = f"CRL of {_common_name(crl.issuer)!r} is dated {crl.last_update_utc:%Y-%m-%dT%H:%M:%SZ}"
            _require(crl.last_update_utc <= moment, "crl_in_future", dated)
        return ""

    def qe_report_signature(self) -> str:
        auth = self.quote.auth
        _verify(self.quote.pck_chain[0].public_key(), auth.qe_report_signature, auth.qe_report_raw)
        return ""

    def attestation_key_binding(self) -> str:
        auth = self.quote.auth
        expected = hashlib.sha256(auth.attestation_key + auth.qe_auth_data).digest() + bytes(32)
        _require(auth.qe_report.report_data == expected, "not_bound", "the QE report is for another key")
        return ""

    def quote_signature(self) -> str:
        auth = self.quote.auth
        point = b"\x04" + auth.attestation_key
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
        _verify(key, auth.signature, self.quote.signed)
        return ""


def _guarded(name: str, step: Callable[[], str]) -> Check:
    try:
        return passed(name, step())
    except _FailedError as error:
        return failed(name, error.reason, str(error))
    except InvalidSignature:
        return failed(name, "signature_invalid", "the signature does not verify")
    except _UNREADABLE as error:
        return failed(name, "unreadable", f"{type(error).__name__}: {error}"[:200])


def _common_name(name: x509.Name) -> str:
    values = [str(entry.value) for entry in name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    return values[0] if len(values) == 1 else ""


def _verify(key: object, signature: bytes, data: bytes) -> None:
    """ECDSA-SHA256 over P-256 with a signature of r ‖ s (64 bytes)."""
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _FailedError("wrong_key", "the signer's key is not P-256")
    if len(signature) != 64:
        raise _FailedError("signature_invalid", f"a signature has 64 bytes, not {len(signature)}")
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    key.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))


# --- library ------------------------------------------------------------------------------------------


def _library(
    quote: layout.Quote, collateral: Collateral, root_ca_der: bytes, now: int, checks: list[Check]
) -> dict[str, Any]:
    """dcap-qvl over the canonical bytes: claims, or {} and a failed check named after what it says."""
    import dcap_qvl

    if not 0 <= now < 2**63:
        checks.append(unproven("dcap_qvl", "time_out_of_range", f"cannot judge as of {now}"))
        return {}
    try:
        given = dcap_qvl.QuoteCollateralV3.from_json(collateral.to_text())
    except ValueError as error:
        checks.append(failed("dcap_qvl", "collateral_unreadable", str(error)[:300]))
        return {}
    try:
        policy = dcap_qvl.QuotePolicy.claims_only(now)
        verifier = dcap_qvl.QuoteVerifier(root_ca_der)
        claims: dict[str, Any] = json.loads(
            verifier.verify_with_policy(quote.canonical, given, now, policy).to_json()
        )
    except ValueError as error:
        text = _library_message(quote, given, root_ca_der, now) or str(error)
        checks.append(failed(_library_check(text), "dcap_qvl_refuses", text[:300]))
        return {}
    checks.append(passed("dcap_qvl", f"TCB status {claims['tcb']['status']}"))
    return claims


def _library_message(quote: layout.Quote, collateral: Any, root_ca_der: bytes, now: int) -> str:
    """The plain call says the cause of an error too, which the call with a policy leaves out."""
    import dcap_qvl

    try:
        dcap_qvl.verify_with_root_ca(quote.canonical, collateral, root_ca_der, now)
    except ValueError as error:
        return " ".join(str(error).split())
    return ""


def _library_check(message: str) -> str:
    return next((name for text, name in _LIBRARY_CHECKS if text in message), "dcap_qvl")


def _evaluation_number(claims: dict[str, Any]) -> int | None:
    numbers = (
        claims.get("tcb", {}).get("eval_data_number"),
        claims.get("qe", {}).get("tcb_eval_data_number"),
    )
    known = [number for number in numbers if type(number) is int]
    return min(known) if len(known) == len(numbers) else None


def _issue_time(text: str) -> int | None:
    return _json_time(text, "issueDate")


def _json_time(text: str, key: str) -> int | None:
    try:
        value = json.loads(text)[key]
        return int(datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp())
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def collateral_window(collateral: Collateral) -> tuple[int, int]:
    """Unix seconds from which and until which (exclusive) all parts of the collateral are valid.

    Raises:
        CollateralError: a date that cannot be read.
    """
    starts: list[int] = []
    ends: list[int] = []
    for text in (collateral.tcb_info, collateral.qe_identity):
        start, end = _json_time(text, "issueDate"), _json_time(text, "nextUpdate")
        if start is None or end is None:
            raise CollateralError("TCB info or QE identity has no readable dates")
        starts.append(start)
        ends.append(end + 1)  # valid up to and including nextUpdate, unlike a CRL
    for der in (collateral.root_ca_crl, collateral.pck_crl):
        try:
            crl = x509.load_der_x509_crl(bytes.fromhex(der))
            following = crl.next_update_utc
            starts.append(int(crl.last_update_utc.timestamp()))
        except (ValueError, x509.InvalidVersion) as error:
            raise CollateralError(f"a CRL cannot be read: {error}") from error
        if following is None:
            raise CollateralError("a CRL has no next update")
        ends.append(int(following.timestamp()))
    return max(starts), min(ends)
