# SPDX-License-Identifier: MIT
"""The quoting enclave of the software platform: TD report in, signed quote out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from outlayer_attestation import quote as layout
from outlayer_attestation.measurements import Measurements
from outlayer_attestation.platform import pki
from outlayer_attestation.platform.endorsements import (
    CPU_SVN,
    QE_ATTRIBUTES,
    QE_ISV_PROD_ID,
    QE_ISV_SVN,
    QE_MRSIGNER,
    TEE_TCB_SVN,
)

USER_DATA: Final = b"SIMULATED OutLayerQE"
QE_AUTH_DATA: Final = b"SIMULATED OutLayer QE auth data."
MRSEAM: Final = hashlib.sha384(b"SIMULATED TDX module").digest()
TD_ATTRIBUTES: Final = bytes.fromhex("0000001000000000")  # SEPT_VE_DISABLE only
XFAM: Final = bytes.fromhex("e702060000000000")


def report_data_field(report_data: bytes) -> bytes:
    """Pad to 64 bytes with zeros on the right, as the guest agent does."""
    return report_data.ljust(layout.REPORT_DATA_SIZE, b"\0")


@dataclass(frozen=True, slots=True, kw_only=True)
class TdFields:
    """The free fields of a TD report. The defaults are those of an ordinary production TD."""

    measurements: Measurements
    report_data: bytes
    tee_tcb_svn: bytes = TEE_TCB_SVN
    mr_seam: bytes = MRSEAM
    mr_signer_seam: bytes = bytes(48)
    seam_attributes: bytes = bytes(8)
    td_attributes: bytes = TD_ATTRIBUTES
    xfam: bytes = XFAM
    mr_config_id: bytes = bytes(48)
    mr_owner: bytes = bytes(48)
    mr_owner_config: bytes = bytes(48)
    tee_tcb_svn2: bytes = TEE_TCB_SVN
    mr_service_td: bytes = bytes(48)

    def body(self, body_type: int) -> bytes:
        """The report body: TD 1.0 (584 bytes) or TD 1.5 (648)."""
        mrtd, *rtmrs = self.measurements.registers()
        parts = [self.tee_tcb_svn, self.mr_seam, self.mr_signer_seam, self.seam_attributes]
        parts += [self.td_attributes, self.xfam, mrtd, self.mr_config_id, self.mr_owner, self.mr_owner_config]
        parts += [*rtmrs, report_data_field(self.report_data)]
        if body_type == layout.BODY_TD15:
            parts += [self.tee_tcb_svn2, self.mr_service_td]
        return b"".join(parts)


class QuotingEnclave:
    """Holds the attestation key and what vouches for it; one ECDSA signature per quote."""

    def __init__(
        self,
        attestation_key: ec.EllipticCurvePrivateKey,
        pck: pki.Authority,
        chain_pem: str,
        *,
        qe_svn: int = QE_ISV_SVN,
    ) -> None:
        self._key = attestation_key
        point = attestation_key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        report = _qe_report(hashlib.sha256(point[1:] + QE_AUTH_DATA).digest(), qe_svn)
        chain = chain_pem.encode() + b"\0"  # Intel's platforms end the chain with one NUL
        inner = (
            layout.CERTIFICATION_PCK_CHAIN.to_bytes(2, "little") + len(chain).to_bytes(4, "little") + chain
        )
        certified = report + pki.sign(pck.key, report)
        certified += len(QE_AUTH_DATA).to_bytes(2, "little") + QE_AUTH_DATA + inner
        # all but the signature is the same in every quote
        self._rest = (
            point[1:]
            + layout.CERTIFICATION_QE_REPORT.to_bytes(2, "little")
            + len(certified).to_bytes(4, "little")
            + certified
        )

    def quote(self, fields: TdFields, *, version: int = 4, body_type: int = layout.BODY_TD10) -> bytes:
        """A quote of version 4 (TD 1.0) or 5 (TD 1.0 or 1.5) over these fields."""
        body = fields.body(body_type)
        signed = _header(version)
        if version == 5:
            signed += body_type.to_bytes(2, "little") + len(body).to_bytes(4, "little")
        signed += body
        auth = pki.sign(self._key, signed) + self._rest
        return signed + len(auth).to_bytes(4, "little") + auth


def _header(version: int) -> bytes:
    return (
        version.to_bytes(2, "little")
        + layout.KEY_TYPE_ECDSA_P256.to_bytes(2, "little")
        + layout.TEE_TYPE_TDX.to_bytes(4, "little")
        + bytes(4)
        + layout.INTEL_QE_VENDOR_ID
        + USER_DATA
    )


def _qe_report(binding: bytes, svn: int) -> bytes:
    report = bytearray(layout.SGX_REPORT_SIZE)
    report[0:16] = CPU_SVN
    report[48:64] = QE_ATTRIBUTES
    report[64:96] = hashlib.sha256(b"SIMULATED quoting enclave").digest()
    report[128:160] = QE_MRSIGNER
    report[256:258] = QE_ISV_PROD_ID.to_bytes(2, "little")
    report[258:260] = svn.to_bytes(2, "little")
    report[320:352] = binding
    return bytes(report)
