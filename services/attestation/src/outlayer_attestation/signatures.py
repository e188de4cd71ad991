# SPDX-License-Identifier: MIT
"""Signatures of certificates, CRLs and signed texts: the second implementation beside dcap-qvl's.

That a signature verifies depends on neither quote nor time, so what was verified is remembered (see
``memory``): the key is the signed bytes with their signature, and the signer's certificate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from outlayer_attestation.checks import Check, failed, passed
from outlayer_attestation.errors import AttestationError
from outlayer_attestation.memory import remembered

UNREADABLE: Final = (
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
"""What the parsers of certificates, CRLs and JSON raise for bytes that they cannot read."""

_ECDSA_SHA256: Final = ec.ECDSA(hashes.SHA256())


class RefusedError(Exception):
    """A check that does not hold. ``reason`` is a stable code for programs."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def require(condition: bool, reason: str, detail: str) -> None:
    """Refuse unless the condition holds."""
    if not condition:
        raise RefusedError(reason, detail)


def guarded(name: str, step: Callable[[], str]) -> Check:
    """Run one check: whatever it cannot read, or refuses, is a failed check of this name."""
    try:
        return passed(name, step())
    except RefusedError as error:
        return failed(name, error.reason, str(error))
    except InvalidSignature:
        return failed(name, "signature_invalid", "the signature does not verify")
    except UNREADABLE as error:
        return failed(name, "unreadable", f"{type(error).__name__}: {error}"[:200])


def common_name(name: x509.Name) -> str:
    """The common name, or nothing when there is not exactly one."""
    values = [str(entry.value) for entry in name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    return values[0] if len(values) == 1 else ""


def verify_p256(key: object, signature: bytes, data: bytes) -> None:
    """ECDSA-SHA256 over P-256 with a signature of r ‖ s (64 bytes).

    Raises:
        RefusedError: another key or size.
        InvalidSignature: the signature does not verify.
    """
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise RefusedError("wrong_key", "the signer's key is not P-256")
    if len(signature) != 64:
        raise RefusedError("signature_invalid", f"a signature has 64 bytes, not {len(signature)}")
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    key.verify(encode_dss_signature(r, s), data, _ECDSA_SHA256)


def require_whole_bytes(der: bytes, signature: bytes) -> None:
    """That a certificate's or CRL's DER ends in its signature as a BIT STRING without unused bits.

    Their number is a byte that no signature covers, and ``cryptography`` does not look at it.

    Raises:
        RefusedError: it does not.
    """
    whole = der.endswith(b"\0" + signature)
    require(whole, "not_canonical", "the signature's BIT STRING has unused bits, or bytes follow it")


@remembered(size=lambda *_: 0)
def verify_issued_by(child: x509.Certificate, parent: x509.Certificate) -> None:
    """That ``parent`` is the issuer of ``child`` by name and signature. Certificates compare by their DER.

    Raises:
        ValueError, TypeError, InvalidSignature: it is not.
    """
    child.verify_directly_issued_by(parent)


@remembered()
def load_crl(der: bytes) -> x509.CertificateRevocationList:
    """A CRL from its DER; nothing is verified. Errors are among ``UNREADABLE``."""
    return x509.load_der_x509_crl(der)


@remembered(size=lambda der, _: len(der))
def verify_crl(der: bytes, issuer: x509.Certificate) -> None:
    """That a CRL names this issuer and is signed by its key. (Its dates are not asked.)

    Raises:
        RefusedError: another issuer, or the signature does not verify.
    """
    crl = load_crl(der)
    key, named = issuer.public_key(), crl.issuer
    if named != issuer.subject:
        raise RefusedError("wrong_issuer", f"CRL of {common_name(named)!r}")
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise RefusedError("wrong_key", "the issuer's key is not EC")
    require_whole_bytes(der, crl.signature)
    if not crl.is_signature_valid(key):
        raise RefusedError("signature_invalid", f"CRL of {common_name(named)!r}")
