# SPDX-License-Identifier: MIT
"""Certificates and CRLs of the software platform, shaped like Intel's.

Shapes that verifiers insist on: P-256, CA constraints, key usage, key identifiers, the SGX extension in
the PCK certificate, and the common name of the TCB signing certificate. Every other name says SIMULATED.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from outlayer_attestation.quote import PCK_EXTENSION_OID

ORGANISATION = "OutLayer software TDX platform (SIMULATED, not Intel)"
ROOT_NAME = "SIMULATED OutLayer SGX Root CA"
PLATFORM_CA_NAME = "SIMULATED OutLayer SGX PCK Platform CA"
PCK_NAME = "SIMULATED OutLayer SGX PCK Certificate"
TCB_SIGNING_NAME = "Intel SGX TCB Signing"
"""This common name is what the pre-check demands, so here the organisation says SIMULATED."""

_PREFIX = tuple(int(arc) for arc in PCK_EXTENSION_OID.split("."))


def name(common_name: str, organisation: str = ORGANISATION) -> x509.Name:
    """A subject of this platform."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
        ]
    )


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate and the key that signs with it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def pem(self) -> str:
        """The certificate in PEM."""
        return self.certificate.public_bytes(Encoding.PEM).decode()


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """ECDSA-SHA256, as r ‖ s of 32 big-endian bytes each: the form in quotes and collateral."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def issue(
    subject: x509.Name,
    issuer: Authority | None,
    not_before: datetime,
    lifetime: timedelta,
    *,
    path_length: int | None = None,
    extension: bytes | None = None,
    key: ec.EllipticCurvePrivateKey | None = None,
) -> Authority:
    """Issue a certificate; ``issuer`` None makes it self-signed, ``path_length`` None an end entity."""
    key = key or new_key()
    signer = issuer.key if issuer else key
    is_ca = path_length is not None
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_before + lifetime)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_key_usage(is_ca), critical=True)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=path_length), critical=True)
    )
    if extension is not None:
        oid = x509.ObjectIdentifier(PCK_EXTENSION_OID)
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, extension), critical=False)
    return Authority(builder.sign(signer, hashes.SHA256()), key)


def _key_usage(is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=not is_ca,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


def revocation_list(
    issuer: Authority, this_update: datetime, next_update: datetime, revoked: Sequence[x509.Certificate] = ()
) -> bytes:
    """A CRL in DER."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(this_update)
        .next_update(next_update)
        .add_extension(x509.CRLNumber(int(this_update.timestamp())), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False
        )
    )
    for certificate in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number)
        builder = builder.add_revoked_certificate(entry.revocation_date(this_update).build())
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(Encoding.DER)


# --- the SGX extension of a PCK certificate ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PckIdentity:
    """What a PCK certificate says about its platform."""

    ppid: bytes
    cpu_svn: bytes
    pce_svn: int
    pce_id: bytes
    fmspc: bytes
    instance_id: bytes


def sgx_extension(identity: PckIdentity) -> bytes:
    """DER of the extension 1.2.840.113741.1.13.1 with all seven members, as on a multi-package platform."""
    components = [_pair((2, i + 1), _integer(svn)) for i, svn in enumerate(identity.cpu_svn)]
    tcb = [*components, _pair((2, 17), _integer(identity.pce_svn)), _pair((2, 18), _octets(identity.cpu_svn))]
    flags = [_pair((7, i), b"\x01\x01\xff") for i in (1, 2, 3)]
    members = [
        _pair((1,), _octets(identity.ppid)),
        _pair((2,), _sequence(tcb)),
        _pair((3,), _octets(identity.pce_id)),
        _pair((4,), _octets(identity.fmspc)),
        _pair((5,), b"\x0a\x01\x01"),
        _pair((6,), _octets(identity.instance_id)),
        _pair((7,), _sequence(flags)),
    ]
    return _sequence(members)


def _tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def _sequence(items: Sequence[bytes]) -> bytes:
    return _tlv(0x30, b"".join(items))


def _octets(data: bytes) -> bytes:
    return _tlv(4, data)


def _integer(value: int) -> bytes:
    return _tlv(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _base128(arc: int) -> bytes:
    digits = [arc & 0x7F]
    while arc := arc >> 7:
        digits.append(0x80 | arc & 0x7F)
    return bytes(reversed(digits))


def _pair(arcs: tuple[int, ...], value: bytes) -> bytes:
    oid = bytes([_PREFIX[0] * 40 + _PREFIX[1]]) + b"".join(map(_base128, (*_PREFIX[2:], *arcs)))
    return _sequence([_tlv(6, oid), value])
