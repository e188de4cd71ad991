# SPDX-License-Identifier: MIT
"""TCB info (TDX, version 3), QE identity (TD_QE, version 2) and their assembly into collateral."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from outlayer_attestation.collateral import Collateral
from outlayer_attestation.platform import pki

FMSPC: Final = b"SIMTDX"
PCE_ID: Final = bytes(2)
PCE_SVN: Final = 11
CPU_SVN: Final = bytes([3, 3, 2, 2, 4, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0])
TEE_TCB_SVN: Final = bytes([5, 1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
"""TDX module ISVSVN 5, module major version 1 (so the identity TDX_01 applies), late microcode 3."""

QE_MRSIGNER: Final = b"SIMULATED OutLayer quoting encl."
QE_ISV_PROD_ID: Final = 2
QE_ISV_SVN: Final = 4
QE_ATTRIBUTES: Final = bytes([0x11]) + bytes(15)
TCB_EVALUATION_DATA_NUMBER: Final = 20
_TCB_DATE: Final = "2026-01-01T00:00:00Z"
_ZERO_REGISTER: Final = "00" * 48

Json = dict[str, Any]


def timestamp(moment: datetime) -> str:
    """Intel's time format: UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def level(status: str, tcb: Json, advisories: tuple[str, ...] = ()) -> Json:
    """One TCB level."""
    found: Json = {"tcb": tcb, "tcbDate": _TCB_DATE, "tcbStatus": status}
    if advisories:
        found["advisoryIDs"] = list(advisories)
    return found


def platform_tcb(cpu_svn: bytes = CPU_SVN, tee_tcb_svn: bytes = TEE_TCB_SVN, pce_svn: int = PCE_SVN) -> Json:
    """The component SVNs of a platform level. Component 1 of TDX is the module's version, which a level
    does not constrain."""
    tdx = [tee_tcb_svn[0], 0, *tee_tcb_svn[2:]]
    return {
        "sgxtcbcomponents": [{"svn": svn} for svn in cpu_svn],
        "pcesvn": pce_svn,
        "tdxtcbcomponents": [{"svn": svn} for svn in tdx],
    }


def tcb_info(
    issued: datetime,
    next_update: datetime,
    *,
    status: str = "UpToDate",
    advisories: tuple[str, ...] = (),
    changes: Mapping[str, Any] | None = None,
) -> Json:
    """TCB info for the one platform that exists here; ``changes`` replace members, for negative cases."""
    module_level = level("UpToDate", {"isvsvn": TEE_TCB_SVN[0]})
    module = {"mrsigner": _ZERO_REGISTER, "attributes": "00" * 8, "attributesMask": "FF" * 8}
    value: Json = {
        "id": "TDX",
        "version": 3,
        "issueDate": timestamp(issued),
        "nextUpdate": timestamp(next_update),
        "fmspc": FMSPC.hex().upper(),
        "pceId": PCE_ID.hex(),
        "tcbType": 0,
        "tcbEvaluationDataNumber": TCB_EVALUATION_DATA_NUMBER,
        "tdxModule": module,
        "tdxModuleIdentities": [{"id": "TDX_01", **module, "tcbLevels": [module_level]}],
        "tcbLevels": [level(status, platform_tcb(), advisories)],
    }
    return value | dict(changes or {})


def qe_identity(issued: datetime, next_update: datetime, changes: Mapping[str, Any] | None = None) -> Json:
    """Identity of the quoting enclave."""
    value: Json = {
        "id": "TD_QE",
        "version": 2,
        "issueDate": timestamp(issued),
        "nextUpdate": timestamp(next_update),
        "tcbEvaluationDataNumber": TCB_EVALUATION_DATA_NUMBER,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": QE_ATTRIBUTES.hex().upper(),
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": QE_MRSIGNER.hex().upper(),
        "isvprodid": QE_ISV_PROD_ID,
        "tcbLevels": [level("UpToDate", {"isvsvn": QE_ISV_SVN})],
    }
    return value | dict(changes or {})


def assemble(
    root: pki.Authority,
    platform_ca: pki.Authority,
    tcb_signing: pki.Authority,
    tcb: Json,
    identity: Json,
    root_crl: bytes,
    pck_crl: bytes,
) -> Collateral:
    """Sign TCB info and QE identity over their exact text and put everything together. No PCK chain."""
    tcb_text, identity_text = (json.dumps(value, separators=(",", ":")) for value in (tcb, identity))
    signing_chain = tcb_signing.pem() + root.pem()
    return Collateral(
        pck_crl_issuer_chain=platform_ca.pem() + root.pem(),
        root_ca_crl=root_crl.hex(),
        pck_crl=pck_crl.hex(),
        tcb_info_issuer_chain=signing_chain,
        tcb_info=tcb_text,
        tcb_info_signature=pki.sign(tcb_signing.key, tcb_text.encode()).hex(),
        qe_identity_issuer_chain=signing_chain,
        qe_identity=identity_text,
        qe_identity_signature=pki.sign(tcb_signing.key, identity_text.encode()).hex(),
    )
