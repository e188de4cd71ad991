# SPDX-License-Identifier: MIT
"""Byte layout of DCAP quotes: TDX version 4 and 5, SGX version 3. All integers are little endian.

Parsing proves nothing; it only says where things are. Source of the offsets: Intel TDX DCAP Quoting
Library API, appendix "TD Quote format" (versions 4 and 5), and SGX ECDSA quote format (version 3).
Anything that does not have exactly these lengths is a ``QuoteError``, never another exception.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from outlayer_attestation.errors import QuoteError
from outlayer_attestation.measurements import Measurements
from outlayer_attestation.memory import remembered

if TYPE_CHECKING:
    from cryptography import x509

# --- constants, the one place for each -----------------------------------------------------------------

HEADER_SIZE: Final = 48
V5_BODY_DESCRIPTOR_SIZE: Final = 6
"""Version 5 puts u16 body type and u32 body size between header and body."""

TEE_TYPE_SGX: Final = 0x00
TEE_TYPE_TDX: Final = 0x81
KEY_TYPE_ECDSA_P256: Final = 2
INTEL_QE_VENDOR_ID: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")

BODY_SGX: Final = 1
BODY_TD10: Final = 2
BODY_TD15: Final = 3
BODY_TD15EX: Final = 4
BODY_SIZES: Final = {BODY_SGX: 384, BODY_TD10: 584, BODY_TD15: 648, BODY_TD15EX: 885}

REGISTER: Final = 48
TD_REPORT_DATA: Final = 520
"""Offset of REPORTDATA inside a TD report body; the registers end here."""

MRTD_OFFSET: Final = 184
RTMR0_OFFSET: Final = 376
RTMR1_OFFSET: Final = 424
RTMR2_OFFSET: Final = 472
RTMR3_OFFSET: Final = 520
"""Offset of RTMR3 in a version 4 quote (rule R14); version 5 adds ``V5_BODY_DESCRIPTOR_SIZE``."""
REPORT_DATA_OFFSET: Final = 568
REPORT_DATA_SIZE: Final = 64

CERTIFICATION_PCK_CHAIN: Final = 5
CERTIFICATION_QE_REPORT: Final = 6
QE_AUTH_DATA_SIZE: Final = 32
SGX_REPORT_SIZE: Final = 384
MAX_QUOTE_SIZE: Final = 64 * 1024
"""Cloud providers pad quotes to 8,000 bytes; nothing real comes near this."""

PCK_EXTENSION_OID: Final = "1.2.840.113741.1.13.1"

_PEM_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----\r?\n[A-Za-z0-9+/=\r\n]+-----END CERTIFICATE-----")


# --- parts ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class QuoteHeader:
    """The first 48 bytes (offset: field): 0 version, 2 key type, 4 TEE type, 8 and 10 QE and PCE SVN
    (version 3 only, else reserved), 12 QE vendor id (16), 28 user data (20)."""

    version: int
    attestation_key_type: int
    tee_type: int
    qe_svn: int
    pce_svn: int
    qe_vendor_id: bytes
    user_data: bytes


@dataclass(frozen=True, slots=True)
class TdReport:
    """A TD report body. Offsets inside the body: TEE_TCB_SVN 0, MRSEAM 16, MRSIGNERSEAM 64,
    SEAMATTRIBUTES 112, TDATTRIBUTES 120, XFAM 128, MRTD 136, MRCONFIGID 184, MROWNER 232,
    MROWNERCONFIG 280, RTMR0..3 328/376/424/472, REPORTDATA 520; TD 1.5 adds TEE_TCB_SVN2 584 and
    MRSERVICETD 600; TD 1.5ex adds 237 further bytes at 648 that are kept as they are."""

    tee_tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: bytes
    td_attributes: bytes
    xfam: bytes
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmr0: bytes
    rtmr1: bytes
    rtmr2: bytes
    rtmr3: bytes
    report_data: bytes
    tee_tcb_svn2: bytes | None
    mr_service_td: bytes | None
    extension: bytes

    @property
    def measurements(self) -> Measurements:
        """MRTD and RTMR0 to RTMR3."""
        return Measurements(
            mrtd=self.mr_td.hex(),
            rtmr0=self.rtmr0.hex(),
            rtmr1=self.rtmr1.hex(),
            rtmr2=self.rtmr2.hex(),
            rtmr3=self.rtmr3.hex(),
        )


@dataclass(frozen=True, slots=True)
class SgxReport:
    """An SGX report body of 384 bytes: CPUSVN 0, MISCSELECT 16, ATTRIBUTES 48, MRENCLAVE 64, MRSIGNER 128,
    ISVPRODID 256, ISVSVN 258, REPORTDATA 320."""

    cpu_svn: bytes
    misc_select: bytes
    attributes: bytes
    mr_enclave: bytes
    mr_signer: bytes
    isv_prod_id: int
    isv_svn: int
    report_data: bytes


@dataclass(frozen=True, slots=True)
class AuthData:
    """What follows the body: signature and key of the quoting enclave, and what vouches for that key."""

    signature: bytes
    attestation_key: bytes
    certification_type: int
    qe_report: SgxReport
    qe_report_raw: bytes
    qe_report_signature: bytes
    qe_auth_data: bytes
    inner_certification_type: int
    inner_certification_data: bytes


@dataclass(frozen=True, slots=True)
class PckExtension:
    """Intel's extension of a PCK certificate (OID 1.2.840.113741.1.13.1)."""

    ppid: bytes
    cpu_svn: bytes
    pce_svn: int
    pce_id: bytes
    fmspc: bytes
    sgx_type: int | None
    platform_instance_id: bytes | None
    dynamic_platform: bool | None
    cached_keys: bool | None
    smt_enabled: bool | None


@dataclass(frozen=True)
class Quote:
    """A parsed quote. ``canonical`` is cut to the computed length; ``trailing`` is what came after it."""

    header: QuoteHeader
    body_type: int
    report: TdReport | SgxReport
    auth: AuthData
    canonical: bytes
    trailing: bytes
    signed_size: int

    @property
    def signed(self) -> bytes:
        """The bytes under the quoting enclave's signature: header (with body descriptor) and body."""
        return self.canonical[: self.signed_size]

    @property
    def is_canonical(self) -> bool:
        """Whether nothing but zero padding follows. A quote's hash is no identity: signatures and PEM
        text are malleable; only ``signed`` is not."""
        return not self.trailing.strip(b"\0")

    @property
    def td_report(self) -> TdReport:
        """The TD report; an SGX quote is a ``QuoteError``."""
        if not isinstance(self.report, TdReport):
            raise QuoteError("this is an SGX quote, not a TDX quote", hint="TDX quotes have TEE type 0x81")
        return self.report

    @cached_property
    def _pck(self) -> _PckChain:
        if self.auth.inner_certification_type != CERTIFICATION_PCK_CHAIN:
            kind = self.auth.inner_certification_type
            raise QuoteError(f"certification data of type {kind} holds no PCK chain", hint="type 5 does")
        return _pck_chain(self.auth.inner_certification_data)

    @property
    def pck_chain_pem(self) -> tuple[bytes, ...]:
        """PEM blocks of the PCK chain, leaf first.

        Raises:
            QuoteError: certification data that is not a PEM chain, or bytes between the blocks.
        """
        return self._pck.pem

    @property
    def pck_chain(self) -> tuple[x509.Certificate, ...]:
        """The same as parsed certificates; nothing is verified."""
        return self._pck.certificates

    @property
    def pck_extension(self) -> PckExtension:
        """Intel's extension of the leaf certificate."""
        return self._pck.extension


class _PckChain:
    """The PCK chain of a quote, read when it is first asked for. Quotes of one platform carry the same."""

    def __init__(self, pem: tuple[bytes, ...]) -> None:
        self.pem = pem

    @cached_property
    def certificates(self) -> tuple[x509.Certificate, ...]:
        from cryptography import x509

        try:
            return tuple(x509.load_pem_x509_certificate(block) for block in self.pem)
        except (ValueError, x509.InvalidVersion) as error:
            raise QuoteError(f"a certificate of the PCK chain cannot be read: {error}") from error

    @cached_property
    def extension(self) -> PckExtension:
        return pck_extension(self.certificates[0])


@remembered()
def _pck_chain(data: bytes) -> _PckChain:
    data = data.rstrip(b"\0")
    blocks = tuple(match.group() for match in _PEM_BLOCK.finditer(data))
    if not blocks or _PEM_BLOCK.sub(b"", data).strip():
        raise QuoteError("the PCK chain is not a list of PEM certificates")
    return _PckChain(blocks)


def pck_chain(certification_data: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates in certification data of type 5, leaf first; nothing is verified.

    Raises:
        QuoteError: anything else.
    """
    return _pck_chain(certification_data).certificates


# --- parser --------------------------------------------------------------------------------------------


class _Reader:
    def __init__(self, data: bytes, start: int, end: int) -> None:
        self.data, self.position, self.end = data, start, end

    def take(self, size: int, what: str) -> bytes:
        stop = self.position + size
        if stop > self.end:
            raise QuoteError(
                f"the quote ends inside {what}", hint=f"{size} bytes expected at {self.position}"
            )
        piece = self.data[self.position : stop]
        self.position = stop
        return piece

    def number(self, size: int, what: str) -> int:
        return int.from_bytes(self.take(size, what), "little")


def parse(data: bytes) -> Quote:
    """Parse a quote of version 3 (SGX), 4 or 5.

    Raises:
        QuoteError: unknown version or types, or a length that does not fit.
    """
    if len(data) > MAX_QUOTE_SIZE:
        raise QuoteError(f"a quote has at most {MAX_QUOTE_SIZE} bytes, not {len(data)}")
    reader = _Reader(bytes(data), 0, len(data))
    header = _header(reader)
    body_type = _body_type(header, reader)
    body = reader.take(BODY_SIZES[body_type], "the report body")
    signed_size = reader.position
    auth_size = reader.number(4, "the authentication data length")
    auth_end = reader.position + auth_size
    if auth_end > len(data):
        raise QuoteError(f"authentication data of {auth_size} bytes exceeds the quote")
    inner = _Reader(reader.data, reader.position, auth_end)
    auth = _auth_data(inner, wrapped=header.version > 3)
    return Quote(
        header=header,
        body_type=body_type,
        report=_sgx_report(body) if body_type == BODY_SGX else _td_report(body),
        auth=auth,
        canonical=reader.data[:auth_end],
        trailing=reader.data[auth_end:],
        signed_size=signed_size,
    )


def _header(reader: _Reader) -> QuoteHeader:
    header = QuoteHeader(
        version=reader.number(2, "the header"),
        attestation_key_type=reader.number(2, "the header"),
        tee_type=reader.number(4, "the header"),
        qe_svn=reader.number(2, "the header"),
        pce_svn=reader.number(2, "the header"),
        qe_vendor_id=reader.take(16, "the header"),
        user_data=reader.take(20, "the header"),
    )
    if header.version not in (3, 4, 5):
        raise QuoteError(f"quote version {header.version} is not known", hint="3 is SGX; 4 and 5 can be TDX")
    if header.attestation_key_type != KEY_TYPE_ECDSA_P256:
        raise QuoteError(f"attestation key type {header.attestation_key_type} is not ECDSA P-256 (2)")
    return header


def _body_type(header: QuoteHeader, reader: _Reader) -> int:
    by_tee = {TEE_TYPE_SGX: BODY_SGX, TEE_TYPE_TDX: BODY_TD10}
    if header.tee_type not in by_tee or (header.version == 3 and header.tee_type != TEE_TYPE_SGX):
        raise QuoteError(f"TEE type {header.tee_type:#x} does not go with quote version {header.version}")
    if header.version < 5:
        return by_tee[header.tee_type]
    body_type, size = reader.number(2, "the body type"), reader.number(4, "the body size")
    if BODY_SIZES.get(body_type) != size:
        raise QuoteError(f"body type {body_type} does not have {size} bytes")
    if (body_type == BODY_SGX) != (header.tee_type == TEE_TYPE_SGX):
        raise QuoteError(f"body type {body_type} does not go with TEE type {header.tee_type:#x}")
    return body_type


_TD_REPORT_10 = struct.Struct("16s 48s 48s 8s 8s 8s 48s 48s 48s 48s 48s 48s 48s 48s 64s")
_TD_REPORT_15 = struct.Struct("16s 48s")
"""What TD 1.5 adds: TEE_TCB_SVN2 and MRSERVICETD."""


def _td_report(body: bytes) -> TdReport:
    """A body of one of ``BODY_SIZES``; the fields are in the order of ``TdReport``."""
    end = _TD_REPORT_10.size
    tee_tcb_svn2 = mr_service_td = None
    if len(body) >= BODY_SIZES[BODY_TD15]:
        tee_tcb_svn2, mr_service_td = _TD_REPORT_15.unpack_from(body, end)
        end += _TD_REPORT_15.size
    fields = (*_TD_REPORT_10.unpack_from(body), tee_tcb_svn2, mr_service_td, body[end:])
    return TdReport(*fields)


def _sgx_report(body: bytes) -> SgxReport:
    return SgxReport(
        cpu_svn=body[0:16],
        misc_select=body[16:20],
        attributes=body[48:64],
        mr_enclave=body[64:96],
        mr_signer=body[128:160],
        isv_prod_id=int.from_bytes(body[256:258], "little"),
        isv_svn=int.from_bytes(body[258:260], "little"),
        report_data=body[320:384],
    )


def _auth_data(reader: _Reader, *, wrapped: bool) -> AuthData:
    """Versions 4 and 5 wrap the part from the QE report on into certification data of type 6."""
    signature = reader.take(64, "the quote signature")
    key = reader.take(64, "the attestation key")
    outer_type = CERTIFICATION_QE_REPORT
    if wrapped:
        outer_type = reader.number(2, "the certification data type")
        size = reader.number(4, "the certification data size")
        if reader.position + size != reader.end:
            raise QuoteError("certification data does not fill the authentication data")
    report = reader.take(SGX_REPORT_SIZE, "the QE report")
    report_signature = reader.take(64, "the QE report signature")
    qe_auth = reader.take(reader.number(2, "the QE authentication data size"), "the QE authentication data")
    inner_type = reader.number(2, "the inner certification data type")
    inner = reader.take(reader.number(4, "the inner certification data size"), "the certification data")
    if reader.position != reader.end:
        raise QuoteError(f"{reader.end - reader.position} bytes follow the certification data")
    return AuthData(
        signature=signature,
        attestation_key=key,
        certification_type=outer_type,
        qe_report=_sgx_report(report),
        qe_report_raw=report,
        qe_report_signature=report_signature,
        qe_auth_data=qe_auth,
        inner_certification_type=inner_type,
        inner_certification_data=inner,
    )


# --- PCK certificate extension -------------------------------------------------------------------------

_TAG_BOOLEAN, _TAG_INTEGER, _TAG_OCTETS, _TAG_OID, _TAG_ENUM, _TAG_SEQUENCE = 1, 2, 4, 6, 10, 0x30


def pck_extension(certificate: x509.Certificate) -> PckExtension:
    """Read Intel's extension: .1 PPID, .2 TCB (.17 PCESVN, .18 CPUSVN), .3 PCEID, .4 FMSPC, .5 SGX type,
    .6 platform instance id, .7 configuration (.1 dynamic, .2 cached keys, .3 SMT).

    Raises:
        QuoteError: no such extension, or one of another shape.
    """
    from cryptography import x509

    try:
        extension = certificate.extensions.get_extension_for_oid(
            x509.ObjectIdentifier(PCK_EXTENSION_OID)
        ).value
    except (
        ValueError,
        x509.ExtensionNotFound,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ) as error:
        raise QuoteError("the leaf certificate has no Intel SGX extension, so it is no PCK") from error
    if not isinstance(extension, x509.UnrecognizedExtension):
        raise QuoteError("the Intel SGX extension cannot be read")
    return pck_extension_from_der(extension.value)


def pck_extension_from_der(der: bytes) -> PckExtension:
    """The same from the extension's DER."""
    values = _pairs(der)
    tcb = _pairs_of(values.get("2"), "the TCB")
    configuration = _pairs_of(values["7"], "the configuration") if "7" in values else {}
    return PckExtension(
        ppid=_octets(values.get("1"), 16, "PPID"),
        cpu_svn=_octets(tcb.get("18"), 16, "CPUSVN"),
        pce_svn=_integer(tcb.get("17"), _TAG_INTEGER, "PCESVN"),
        pce_id=_octets(values.get("3"), 2, "PCEID"),
        fmspc=_octets(values.get("4"), 6, "FMSPC"),
        sgx_type=_integer(values["5"], _TAG_ENUM, "SGX type") if "5" in values else None,
        platform_instance_id=_octets(values["6"], 16, "platform instance id") if "6" in values else None,
        dynamic_platform=_boolean(configuration.get("1")),
        cached_keys=_boolean(configuration.get("2")),
        smt_enabled=_boolean(configuration.get("3")),
    )


def _der(data: bytes, position: int) -> tuple[int, bytes, int]:
    """One DER value: tag, content, position after it."""
    if position + 2 > len(data):
        raise QuoteError("the Intel SGX extension is cut off")
    tag, size, position = data[position], data[position + 1], position + 2
    if size & 0x80:
        count = size & 0x7F
        if not 0 < count <= 3 or position + count > len(data):
            raise QuoteError("the Intel SGX extension has a length that is not DER")
        size, position = int.from_bytes(data[position : position + count], "big"), position + count
    if position + size > len(data):
        raise QuoteError("the Intel SGX extension is cut off")
    return tag, data[position : position + size], position + size


_Value = tuple[int, bytes]


def _pairs(data: bytes) -> dict[str, _Value]:
    """SEQUENCE OF SEQUENCE {OID, value} -> last arc of the OID -> (tag, content)."""
    tag, content, end = _der(data, 0)
    if tag != _TAG_SEQUENCE or end != len(data):
        raise QuoteError("the Intel SGX extension is not a sequence")
    return _pairs_of((tag, content), "the extension")


def _pairs_of(value: _Value | None, what: str) -> dict[str, _Value]:
    if value is None or value[0] != _TAG_SEQUENCE:
        raise QuoteError(f"the Intel SGX extension lacks {what}")
    found: dict[str, _Value] = {}
    position = 0
    while position < len(value[1]):
        tag, pair, position = _der(value[1], position)
        oid_tag, oid, middle = _der(pair, 0)
        item_tag, item, end = _der(pair, middle)
        if tag != _TAG_SEQUENCE or oid_tag != _TAG_OID or not oid or end != len(pair):
            raise QuoteError("the Intel SGX extension holds something else than (OID, value)")
        # all arcs here are below 128, so the last byte of an OID is its last arc
        if str(oid[-1]) in found:
            raise QuoteError("the Intel SGX extension names a value twice")
        found[str(oid[-1])] = (item_tag, item)
    return found


def _octets(value: _Value | None, size: int, what: str) -> bytes:
    if value is None or value[0] != _TAG_OCTETS or len(value[1]) != size:
        raise QuoteError(f"the Intel SGX extension has no {what} of {size} bytes")
    return value[1]


def _integer(value: _Value | None, tag: int, what: str) -> int:
    if value is None or value[0] != tag or not 0 < len(value[1]) <= 4:
        raise QuoteError(f"the Intel SGX extension has no {what}")
    return int.from_bytes(value[1], "big")


def _boolean(value: _Value | None) -> bool | None:
    if value is None:
        return None
    if value[0] != _TAG_BOOLEAN or len(value[1]) != 1:
        raise QuoteError("the Intel SGX extension has a flag that is no boolean")
    return value[1] != b"\0"
