# SPDX-License-Identifier: MIT
"""Collateral as endorsements: what it says, and whether it is genuine under a root. No quote, no clock.

Each part is parsed once, and each signature is verified once. The result for one collateral is
remembered, and its key is the collateral itself with all of its bytes, and the root: so one that shares
parts with another is still judged by its own chains.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509

from outlayer_attestation import quote as layout
from outlayer_attestation import signatures
from outlayer_attestation.checks import Check, Outcome
from outlayer_attestation.collateral import Collateral, certificates_der, fmspc_of
from outlayer_attestation.errors import CollateralError
from outlayer_attestation.memory import remembered
from outlayer_attestation.signatures import (
    RefusedError,
    common_name,
    guarded,
    require,
    require_whole_bytes,
    verify_crl,
    verify_issued_by,
    verify_p256,
)

if TYPE_CHECKING:
    import dcap_qvl

TCB_SIGNING_COMMON_NAME: Final = "Intel SGX TCB Signing"

_REMEMBERED: Final = 16
_MAX_REMEMBERED_SIZE: Final = 256 * 1024
"""Characters of the fields together; real collateral has about 20,000."""
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)


# --- what it says -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CollateralFacts:
    """What the parts of collateral say about themselves. Times are unix seconds. Nothing is verified here:
    see ``signatures_valid`` and ``appraise``.

    ``window_end`` is exclusive. CRL numbers are None when the CRL carries none.
    The numbers of TCB info and QE identity are their tcbEvaluationDataNumber.
    """

    tcb_info_issued: int
    qe_identity_issued: int
    root_crl_issued: int
    pck_crl_issued: int
    root_crl_number: int | None
    pck_crl_number: int | None
    tcb_info_number: int
    qe_identity_number: int
    window_start: int
    window_end: int

    @property
    def tcb_evaluation_data_number(self) -> int:
        """The lower of TCB info's and QE identity's."""
        return min(self.tcb_info_number, self.qe_identity_number)

    @property
    def issued_at(self) -> int:
        """Issue time of the oldest part that Intel issues anew at least every 30 days: TCB info, QE
        identity and PCK CRL. (The root CRL is issued once a year, so an age in days says nothing of it.)"""
        return min(self.tcb_info_issued, self.qe_identity_issued, self.pck_crl_issued)

    @property
    def oldest_issued_at(self) -> int:
        """Issue time of the oldest of all four parts."""
        return min(self.issued_at, self.root_crl_issued)


class _Parsed:
    """One collateral, each part parsed when it is first asked for. Nothing is verified.

    Every property raises one of ``signatures.UNREADABLE`` or ``RefusedError`` for a part that cannot be
    read; the others are not touched by that.
    """

    def __init__(self, collateral: Collateral) -> None:
        self.collateral = collateral

    @cached_property
    def sha256(self) -> str:
        return self.collateral.sha256()

    @cached_property
    def tcb_info(self) -> dict[str, Any]:
        return self.collateral.tcb_info_json()

    @cached_property
    def qe_identity(self) -> dict[str, Any]:
        return self.collateral.qe_identity_json()

    @cached_property
    def fmspc(self) -> str:
        return fmspc_of(self.tcb_info)

    @cached_property
    def root_crl_der(self) -> bytes:
        return bytes.fromhex(self.collateral.root_ca_crl)

    @cached_property
    def pck_crl_der(self) -> bytes:
        return bytes.fromhex(self.collateral.pck_crl)

    @cached_property
    def root_crl(self) -> x509.CertificateRevocationList:
        return signatures.load_crl(self.root_crl_der)

    @cached_property
    def pck_crl(self) -> x509.CertificateRevocationList:
        return signatures.load_crl(self.pck_crl_der)

    @cached_property
    def crl_numbers(self) -> tuple[int | None, int | None]:
        """CRL numbers of the root CRL and the PCK CRL. Raises CollateralError, or as the CRLs do."""
        return _crl_number(self.root_crl), _crl_number(self.pck_crl)

    @cached_property
    def window(self) -> tuple[int, int]:
        """Raises CollateralError only."""
        starts: list[int] = []
        ends: list[int] = []
        for part in (self.tcb_info, self.qe_identity):
            start, end = (_time(part, key) for key in ("issueDate", "nextUpdate"))
            if start is None or end is None:
                raise CollateralError("TCB info or QE identity has no readable dates")
            starts.append(start)
            ends.append(end + 1)  # valid up to and including nextUpdate, unlike a CRL
        for name in ("root_crl", "pck_crl"):
            start, end = _crl_dates(self, name)
            if end is None:
                raise CollateralError("a CRL has no next update")
            starts.append(start)
            ends.append(end)
        return max(starts), min(ends)

    @cached_property
    def facts(self) -> CollateralFacts:
        """Raises CollateralError only."""
        start, end = self.window
        issued = [_time(part, "issueDate") for part in (self.tcb_info, self.qe_identity)]
        if issued[0] is None or issued[1] is None:
            raise CollateralError("TCB info or QE identity has no readable dates")
        numbers = self.evaluation_numbers
        if numbers is None:
            raise CollateralError("TCB info or QE identity has no tcbEvaluationDataNumber")
        return CollateralFacts(
            tcb_info_issued=issued[0],
            qe_identity_issued=issued[1],
            root_crl_issued=_crl_dates(self, "root_crl")[0],
            pck_crl_issued=_crl_dates(self, "pck_crl")[0],
            root_crl_number=self.crl_numbers[0],
            pck_crl_number=self.crl_numbers[1],
            tcb_info_number=numbers[0],
            qe_identity_number=numbers[1],
            window_start=start,
            window_end=end,
        )

    @cached_property
    def evaluation_numbers(self) -> tuple[int, int] | None:
        """tcbEvaluationDataNumber of TCB info and of QE identity; None when one has none."""
        try:
            numbers = [part.get("tcbEvaluationDataNumber") for part in (self.tcb_info, self.qe_identity)]
        except CollateralError:
            return None
        known = [number for number in numbers if type(number) is int and 0 <= number < 2**32]
        return (known[0], known[1]) if len(known) == len(numbers) else None

    @property
    def evaluation_number(self) -> int | None:
        """The lower of the two."""
        return min(self.evaluation_numbers) if self.evaluation_numbers else None

    @cached_property
    def issued_at(self) -> int | None:
        """As ``CollateralFacts.issued_at``, for collateral that lacks another fact; None when a date does."""
        try:
            times = [_time(self.tcb_info, "issueDate"), _time(self.qe_identity, "issueDate")]
            pck_crl = _crl_dates(self, "pck_crl")[0]
        except CollateralError:
            return None
        known = [time for time in times if time is not None]
        return min(*known, pck_crl) if len(known) == len(times) else None

    @cached_property
    def library(self) -> dcap_qvl.QuoteCollateralV3:
        """The same for dcap-qvl. Raises ValueError for what it cannot read."""
        import dcap_qvl

        given = self.collateral
        return dcap_qvl.QuoteCollateralV3(
            pck_crl_issuer_chain=given.pck_crl_issuer_chain,
            root_ca_crl=self.root_crl_der,
            pck_crl=self.pck_crl_der,
            tcb_info_issuer_chain=given.tcb_info_issuer_chain,
            tcb_info=given.tcb_info,
            tcb_info_signature=bytes.fromhex(given.tcb_info_signature),
            qe_identity_issuer_chain=given.qe_identity_issuer_chain,
            qe_identity=given.qe_identity,
            qe_identity_signature=bytes.fromhex(given.qe_identity_signature),
        )


@remembered()
def _chain(pem: str) -> tuple[x509.Certificate, ...]:
    found = []
    for der in certificates_der(pem):
        certificate = x509.load_der_x509_certificate(der)
        require_whole_bytes(der, certificate.signature)
        found.append(certificate)
    return tuple(found)


def _time(part: dict[str, Any], key: str) -> int | None:
    """A date in Intel's one format, as unix seconds; None for anything else."""
    text = part.get(key)
    if not isinstance(text, str) or _DATE.fullmatch(text) is None:
        return None
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except ValueError:
        return None


def _crl_dates(parsed: _Parsed, name: str) -> tuple[int, int | None]:
    """thisUpdate, and nextUpdate if there is one."""
    try:
        crl: x509.CertificateRevocationList = getattr(parsed, name)
        following = crl.next_update_utc
        return int(crl.last_update_utc.timestamp()), None if following is None else int(following.timestamp())
    except signatures.UNREADABLE as error:
        raise CollateralError(f"a CRL cannot be read: {error}") from error


def _crl_number(crl: x509.CertificateRevocationList) -> int | None:
    try:
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return None
    except signatures.UNREADABLE as error:
        raise CollateralError(f"a CRL cannot be read: {error}") from error


def collateral_window(collateral: Collateral) -> tuple[int, int]:
    """Unix seconds from which and until which (exclusive) all parts of the collateral are valid.

    Raises:
        CollateralError: a date that cannot be read.
    """
    return parsed(collateral).window


def collateral_facts(collateral: Collateral) -> CollateralFacts:
    """Issue times, CRL numbers, evaluation data number and window, from the signed texts.

    Raises:
        CollateralError: a part that cannot be read or lacks one of them.
    """
    return parsed(collateral).facts


# --- whether it is genuine ----------------------------------------------------------------------------


class Endorsements:
    """One collateral under one root: the checks that depend on nothing else, each made once."""

    def __init__(self, part: _Parsed, root_der: bytes) -> None:
        self.parsed = part
        self.given = part.collateral
        self.root_der = root_der

    @cached_property
    def root(self) -> x509.Certificate:
        """The trusted root; an error of ``UNREADABLE`` when it is no certificate."""
        return _load_root(self.root_der)

    @cached_property
    def tcb_signing_certificate(self) -> Check:
        """TCB info and QE identity come with a chain of the TCB signing certificate and the root."""

        def step() -> str:
            for pem in (self.given.tcb_info_issuer_chain, self.given.qe_identity_issuer_chain):
                _tcb_signing_certificate(pem, self.root_der)
            return TCB_SIGNING_COMMON_NAME

        return guarded("tcb_signing_certificate", step)

    @cached_property
    def tcb_info_signature(self) -> Check:
        """The exact text of TCB info is signed by the first certificate of its chain."""

        def step() -> str:
            given = self.given
            return _signed_text(given.tcb_info_issuer_chain, given.tcb_info, given.tcb_info_signature)

        return guarded("tcb_info_signature", step)

    @cached_property
    def qe_identity_signature(self) -> Check:
        """The exact text of QE identity is signed by the first certificate of its chain."""

        def step() -> str:
            given = self.given
            return _signed_text(
                given.qe_identity_issuer_chain, given.qe_identity, given.qe_identity_signature
            )

        return guarded("qe_identity_signature", step)

    @cached_property
    def tcb_info_type(self) -> Check:
        """tcbType is 0, the one whose comparison of components is defined."""

        def step() -> str:
            kind = self.parsed.tcb_info.get("tcbType")
            require(type(kind) is int and kind == 0, "wrong_type", f"tcbType {kind!r}, expected 0")
            return ""

        return guarded("tcb_info_type", step)

    def pck_crl_issuer(self) -> x509.Certificate:
        """The CA of ``pck_crl_issuer_chain``, verified under the root.

        Raises:
            RefusedError, or one of ``UNREADABLE``: another chain than such a CA and the root.
        """
        return _crl_issuer(self.given.pck_crl_issuer_chain, self.root_der)

    def crls_signed_by(self, pck_ca: x509.Certificate) -> None:
        """The root CRL is the root's, the PCK CRL that of this CA, and both numbers can be compared.

        Raises:
            RefusedError, or one of ``UNREADABLE``: they are not.
        """
        verify_crl(self.parsed.root_crl_der, self.root)
        verify_crl(self.parsed.pck_crl_der, pck_ca)
        # what dcap-qvl's claims hold
        fits = all(number is None or number < 2**32 for number in self.parsed.crl_numbers)
        require(fits, "crl_number", "a CRL's number has more than 32 bits")

    @cached_property
    def crl_signatures(self) -> Check:
        """The root CRL is the root's, the PCK CRL that of the CA in ``pck_crl_issuer_chain``."""

        def step() -> str:
            self.crls_signed_by(self.pck_crl_issuer())
            return ""

        return guarded("crl_signature", step)

    def genuine_tcb_signers(self) -> tuple[x509.Certificate, ...]:
        """First certificates of the two signing chains, those that the root did issue."""
        found: list[x509.Certificate] = []
        for pem in (self.given.tcb_info_issuer_chain, self.given.qe_identity_issuer_chain):
            try:
                found.append(_tcb_signing_certificate(pem, self.root_der))
            except (RefusedError, *signatures.UNREADABLE):
                continue  # not genuine: its serial says nothing
        return tuple(found)


@remembered()
def _load_root(der: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(der)


def _signed_text(chain_pem: str, text: str, signature: str) -> str:
    verify_p256(_chain(chain_pem)[0].public_key(), bytes.fromhex(signature), text.encode())
    return ""


def _two_to_root(chain_pem: str, root_der: bytes) -> tuple[x509.Certificate, x509.Certificate]:
    """A chain of two certificates, the second of which is the root; nothing is verified."""
    chain = _chain(chain_pem)
    require(len(chain) == 2, "wrong_length", f"{len(chain)} certificates, expected 2")
    # certificates are equal when their DER is
    same_root = chain[1] == _load_root(root_der)
    require(same_root, "untrusted_root", "the chain ends in another root than the trusted one")
    return chain[0], chain[1]


@remembered()
def _tcb_signing_certificate(chain_pem: str, root_der: bytes) -> x509.Certificate:
    found, root = _two_to_root(chain_pem, root_der)
    name = common_name(found.subject)
    require(name == TCB_SIGNING_COMMON_NAME, "wrong_signer", f"signed by {name!r}")
    verify_issued_by(found, root)
    return found


@remembered()
def _crl_issuer(chain_pem: str, root_der: bytes) -> x509.Certificate:
    found, root = _two_to_root(chain_pem, root_der)
    is_ca = found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    signs_crls = found.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
    require(is_ca and signs_crls, "wrong_signer", "its first certificate is no CA that signs CRLs")
    verify_issued_by(found, root)
    return found


@remembered()
def verify_pck_chain(certification_data: bytes, root_der: bytes) -> str:
    """That a quote's PCK chain, from its certification data, leads to this root, whose name is returned.
    (Validity in time is the library's.)

    Raises:
        RefusedError, or one of ``UNREADABLE``: it does not.
    """
    chain = layout.pck_chain(certification_data)
    same_root = chain[-1] == _load_root(root_der)
    require(same_root, "untrusted_root", "the chain ends in another root than the trusted one")
    for child, parent in itertools.pairwise(chain):
        verify_issued_by(child, parent)
    return common_name(chain[-1].subject)


def signatures_valid(collateral: Collateral, root_ca_der: bytes) -> tuple[bool, str]:
    """Whether TCB info, QE identity and both CRLs are genuine under this root, without a quote.

    The PCK CRL is verified by the CA of ``pck_crl_issuer_chain``, and that CA under the root. Dates and
    revocation are not asked. The second value names the first check that fails and why; "ok" if none does.
    """
    found = endorsements(collateral, root_ca_der)
    for check in (
        found.tcb_signing_certificate,
        found.tcb_info_signature,
        found.qe_identity_signature,
        found.crl_signatures,
    ):
        if check.outcome is not Outcome.PASS:
            return False, f"{check.name}: {check.reason}: {check.detail}"
    return True, "ok"


# --- revocation ---------------------------------------------------------------------------------------


def revoked_by(
    quote: layout.Quote,
    collaterals: Iterable[Collateral],
    root_ca_der: bytes,
    *,
    endorsed_by: Iterable[Collateral] | None = None,
) -> str | None:
    """Which certificate behind this quote is revoked by a genuine CRL of any of these collaterals, in words
    for people; None when none is.

    Asked are the root, the quote's PCK CA and PCK certificate, and the TCB signing certificates of
    ``endorsed_by`` (by default of all ``collaterals``): those on whose TCB info a verdict rests. A CRL counts
    when its issuer signed it, whatever its dates: a revocation counts backwards and stays. A certificate
    that the root did not issue is not asked about, since a serial number names it only under its issuer;
    ``appraise`` refuses it.

    Raises:
        QuoteError: the quote carries no PCK chain.
        CollateralError: the root is no certificate, or a genuine CRL has entries that cannot be read.
    """
    known = [endorsements(collateral, root_ca_der) for collateral in collaterals]
    judged = known if endorsed_by is None else [endorsements(item, root_ca_der) for item in endorsed_by]
    root = _root(root_ca_der)
    chain = quote.pck_chain
    ca = chain[1] if len(chain) > 1 and _issued(chain[1], root) else None
    of_root = [("the root CA", root)]
    if ca is not None:
        of_root.append(("the PCK CA", ca))
    for item in judged:
        of_root += [("the TCB signing certificate", signer) for signer in item.genuine_tcb_signers()]
    for item in known:
        found = _listed(item.parsed, "root_crl", root, of_root)
        if found is None and ca is not None and _issued(chain[0], ca):
            found = _listed(item.parsed, "pck_crl", ca, [("the PCK certificate", chain[0])])
        if found is not None:
            return found
    return None


def _root(der: bytes) -> x509.Certificate:
    try:
        return _load_root(der)
    except signatures.UNREADABLE as error:
        raise CollateralError(f"the trusted root is no certificate: {error}") from error


def _issued(child: x509.Certificate, parent: x509.Certificate) -> bool:
    try:
        verify_issued_by(child, parent)
    except signatures.UNREADABLE:
        return False
    return True


def _listed(
    part: _Parsed, name: str, issuer: x509.Certificate, certificates: list[tuple[str, x509.Certificate]]
) -> str | None:
    """The first of these certificates that the CRL lists, when the CRL is this issuer's."""
    try:
        verify_crl(getattr(part, f"{name}_der"), issuer)
    except (RefusedError, *signatures.UNREADABLE):
        return None  # nobody's word: whoever made it is not the issuer
    try:
        crl: x509.CertificateRevocationList = getattr(part, name)
        for what, certificate in certificates:
            if crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
                by = f"the CRL of {common_name(crl.issuer)!r}, number {_crl_number(crl)}"
                dated = f"{crl.last_update_utc:%Y-%m-%dT%H:%M:%SZ}"
                return f"{what} (serial {certificate.serial_number:x}) is revoked by {by}, of {dated}"
    except signatures.UNREADABLE as error:
        raise CollateralError(f"a CRL cannot be read: {error}") from error
    return None


# --- memory -------------------------------------------------------------------------------------------


@remembered(entries=_REMEMBERED, max_size=_MAX_REMEMBERED_SIZE, size=lambda collateral: collateral.size)
def parsed(collateral: Collateral) -> _Parsed:
    """The parts of this collateral."""
    return _Parsed(collateral)


@remembered(
    entries=_REMEMBERED,
    max_size=_MAX_REMEMBERED_SIZE,
    size=lambda collateral, root_der: collateral.size + len(root_der),
)
def endorsements(collateral: Collateral, root_der: bytes) -> Endorsements:
    """This collateral under this root."""
    return Endorsements(parsed(collateral), root_der)
