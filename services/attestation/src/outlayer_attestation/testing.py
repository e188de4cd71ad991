# SPDX-License-Identifier: MIT
"""Test support: quotes and collateral that are wrong in one chosen way, under a root of their own.

The same cases are judged off chain and by the contracts' tests. Nothing outside of tests imports this.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from outlayer_attestation import quote as layout
from outlayer_attestation.collateral import Collateral
from outlayer_attestation.measurements import Measurements
from outlayer_attestation.platform import endorsements, pki
from outlayer_attestation.platform.machine import SoftwarePlatform
from outlayer_attestation.platform.quoting import QuotingEnclave, TdFields
from outlayer_attestation.simulated import predict_simulated_measurements

NOW: Final = 1_800_000_000
"""The time as of which the cases are judged (2027-01-15)."""

MEASUREMENTS: Final = predict_simulated_measurements("worker", bytes(range(32)))
REPORT_DATA: Final = bytes(range(64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What is wrong. Times are relative to ``NOW``; the defaults are a healthy platform."""

    status: str = "UpToDate"
    advisories: tuple[str, ...] = ()
    tcb_info: Mapping[str, Any] = field(default_factory=dict)
    qe_identity: Mapping[str, Any] = field(default_factory=dict)
    tcb_age: timedelta = timedelta(hours=1)
    tcb_lifetime: timedelta = timedelta(days=30)
    qe_age: timedelta = timedelta(hours=1)
    qe_lifetime: timedelta = timedelta(days=30)
    crl_age: timedelta = timedelta(hours=1)
    crl_lifetime: timedelta = timedelta(days=30)
    root_revokes: Sequence[str] = ()
    platform_ca_revokes: Sequence[str] = ()
    signer: str = "tcb_signing"
    crl_signer: str = "platform_ca"
    resigned: bool = True
    td: Mapping[str, Any] = field(default_factory=dict)
    qe_svn: int = endorsements.QE_ISV_SVN
    version: int = 4
    body_type: int = layout.BODY_TD10
    mutate: Callable[[bytes], bytes] | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One case: ``accepted`` is the verdict of pre-check and library, ``status`` the TCB status then;
    ``check`` is the check that must fail when it is refused."""

    name: str
    quote: bytes
    collateral: Collateral
    accepted: bool
    status: str | None = None
    check: str | None = None

    def write(self, folder: Path) -> None:
        """Write it in the form of the shared vectors: quote.bin, collateral.json, expected.json."""
        place = folder / self.name
        place.mkdir(parents=True)
        (place / "quote.bin").write_bytes(self.quote)
        (place / "collateral.json").write_text(json.dumps(self.collateral.to_json(), indent=1))
        verdict: dict[str, Any] = {"verdict": "accept" if self.accepted else "reject"}
        if self.check:
            verdict["check"] = self.check
        expected = {"now": NOW, "want": self.status or "reject", "ours": verdict}
        (place / "expected.json").write_text(json.dumps(expected, indent=1))


def platform() -> SoftwarePlatform:
    """A platform whose certificates are valid at ``NOW``."""
    return SoftwarePlatform.generate(datetime.fromtimestamp(NOW, UTC) - timedelta(days=30))


def collateral_with(source: SoftwarePlatform, faults: Faults) -> Collateral:
    """Collateral of this platform with these faults."""
    now = datetime.fromtimestamp(NOW, UTC)
    tcb_from, qe_from, crl_from = now - faults.tcb_age, now - faults.qe_age, now - faults.crl_age
    crl_until = crl_from + faults.crl_lifetime
    made = endorsements.assemble(
        source.root,
        source.platform_ca,
        _authority(source, faults.signer),
        endorsements.tcb_info(
            tcb_from,
            tcb_from + faults.tcb_lifetime,
            status=faults.status,
            advisories=faults.advisories,
            changes=faults.tcb_info,
        ),
        endorsements.qe_identity(qe_from, qe_from + faults.qe_lifetime, faults.qe_identity),
        pki.revocation_list(source.root, crl_from, crl_until, _certificates(source, faults.root_revokes)),
        pki.revocation_list(
            replace(source.platform_ca, key=_authority(source, faults.crl_signer).key),
            crl_from,
            crl_until,
            _certificates(source, faults.platform_ca_revokes),
        ),
    )
    if faults.resigned:
        return made
    return replace(made, tcb_info=made.tcb_info.replace('"version":3', '"version": 3'))


def running_on_older(advisory: str) -> Faults:
    """A TD 1.5 that was launched on an up-to-date module and runs on an older one now, whose level has an advisory."""
    launch = endorsements.TEE_TCB_SVN
    older = bytes([*launch[:2], launch[2] - 1, *launch[3:]])
    levels = [
        endorsements.level("UpToDate", endorsements.platform_tcb()),
        endorsements.level("OutOfDate", endorsements.platform_tcb(tee_tcb_svn=older), (advisory,)),
    ]
    return Faults(version=5, body_type=3, td={"tee_tcb_svn2": older}, tcb_info={"tcbLevels": levels})


def quote_with(source: SoftwarePlatform, faults: Faults, measurements: Measurements = MEASUREMENTS) -> bytes:
    """A quote of this platform with these faults."""
    fields = replace(TdFields(measurements=measurements, report_data=REPORT_DATA), **faults.td)
    enclave = source.enclave
    if faults.qe_svn != endorsements.QE_ISV_SVN:
        chain = source.pck_chain
        enclave = QuotingEnclave(source.attestation_key, source.pck, chain, qe_svn=faults.qe_svn)
    made = enclave.quote(fields, version=faults.version, body_type=faults.body_type)
    return faults.mutate(made) if faults.mutate else made


def _authority(source: SoftwarePlatform, name: str) -> pki.Authority:
    if name == "stranger":
        other = platform()
        return other.tcb_signing
    found: pki.Authority = getattr(source, name)
    return found


def _certificates(source: SoftwarePlatform, names: Sequence[str]) -> list[x509.Certificate]:
    return [_authority(source, name).certificate for name in names]


def flipped(offset: int) -> Callable[[bytes], bytes]:
    """A mutation: one bit at this offset."""

    def mutate(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[offset] ^= 1
        return bytes(changed)

    return mutate


def same_but_for_pem(first: bytes, second: bytes) -> bool:
    """Whether two quotes differ only in how the PEM text of the same certificates is written: its line
    ends and the unused last bits of its base64."""
    one, other = layout.parse(first), layout.parse(second)
    start = first.index(b"-----BEGIN")
    return first[:start] == second[:start] and one.pck_chain == other.pck_chain


def _levels(*levels: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {"tcbLevels": [endorsements.level(status, tcb) for status, tcb in levels]}


_HIGHER_CPU = endorsements.platform_tcb(cpu_svn=bytes([9]) * 16)
_DAY = timedelta(days=1)

ACCEPTED: Final[dict[str, tuple[str, Faults]]] = {
    "ok_v4": ("UpToDate", Faults()),
    "ok_v5_td10": ("UpToDate", Faults(version=5)),
    "ok_v5_td15": ("UpToDate", Faults(version=5, body_type=layout.BODY_TD15)),
    "ok_zero_padding": ("UpToDate", Faults(mutate=lambda data: data + bytes(434))),
    "ok_second_level": (
        "OutOfDate",
        Faults(tcb_info=_levels(("UpToDate", _HIGHER_CPU), ("OutOfDate", endorsements.platform_tcb()))),
    ),
    "ok_advisory": ("UpToDate", Faults(advisories=("INTEL-SA-09999",))),
    "ok_informational_advisory": ("UpToDate", Faults(advisories=("INTEL-DOC-10000",))),
    **{
        f"ok_status_{status}": (status, Faults(status=status, advisories=("INTEL-SA-00837",)))
        for status in (
            "SWHardeningNeeded",
            "ConfigurationNeeded",
            "OutOfDate",
            "OutOfDateConfigurationNeeded",
        )
    },
}

REFUSED: Final[dict[str, tuple[str, Faults]]] = {
    "bad_tcb_revoked": ("tcb_level", Faults(status="Revoked")),
    "bad_tcb_no_level": ("tcb_level", Faults(tcb_info=_levels(("UpToDate", _HIGHER_CPU)))),
    "bad_tcb_expired": ("tcb_info_time", Faults(tcb_age=40 * _DAY)),
    "bad_tcb_future": ("tcb_info_time", Faults(tcb_age=-1 * _DAY)),
    "bad_qe_identity_expired": ("qe_identity_time", Faults(qe_age=40 * _DAY)),
    "bad_qe_identity_future": ("qe_identity_time", Faults(qe_age=-1 * _DAY)),
    "bad_crl_expired": ("crl_time", Faults(crl_age=40 * _DAY)),
    "bad_crl_future": ("crl_time", Faults(crl_age=-1 * _DAY)),
    "bad_crl_signer": ("crl_signature", Faults(crl_signer="stranger")),
    "bad_pck_revoked": ("revocation", Faults(platform_ca_revokes=("pck",))),
    "bad_platform_ca_revoked": ("revocation", Faults(root_revokes=("platform_ca",))),
    "bad_tcb_signer_revoked": ("revocation", Faults(root_revokes=("tcb_signing",))),
    "bad_tcb_signed_by_pck": ("tcb_signing_certificate", Faults(signer="pck")),
    "bad_tcb_signed_by_stranger": ("tcb_signing_certificate", Faults(signer="stranger")),
    "bad_tcb_reserialised": ("tcb_info_signature", Faults(resigned=False)),
    "bad_tcb_fmspc": ("tcb_info_fmspc", Faults(tcb_info={"fmspc": "00906ED50000"})),
    "bad_tcb_pceid": ("tcb_info_pceid", Faults(tcb_info={"pceId": "0001"})),
    "bad_tcb_type": ("tcb_info_type", Faults(tcb_info={"tcbType": 1})),
    "bad_tcb_sgx": ("tcb_info", Faults(tcb_info={"id": "SGX"})),
    "bad_qe_identity_sgx": ("qe_identity", Faults(qe_identity={"id": "QE"})),
    "bad_qe_mrsigner": ("qe_identity", Faults(qe_identity={"mrsigner": "11" * 32})),
    "bad_qe_svn": ("qe_identity", Faults(qe_svn=3)),
    "bad_td_debug": ("td_attributes", Faults(td={"td_attributes": bytes.fromhex("0100001000000000")})),
    "bad_td_migratable": ("td_attributes", Faults(td={"td_attributes": bytes.fromhex("0000003000000000")})),
    "bad_td_no_sept_ve": ("td_attributes", Faults(td={"td_attributes": bytes(8)})),
    "bad_seam_signer": ("tdx_module", Faults(td={"mr_signer_seam": b"\x01" * 48})),
    "bad_seam_attributes": ("tdx_module", Faults(td={"seam_attributes": b"\x01" + bytes(7)})),
    "bad_service_td": (
        "mr_service_td",
        Faults(version=5, body_type=layout.BODY_TD15, td={"mr_service_td": b"\x01" * 48}),
    ),
    "bad_mrtd_flip": ("quote_signature", Faults(mutate=flipped(layout.MRTD_OFFSET))),
    "bad_rtmr3_flip": ("quote_signature", Faults(mutate=flipped(layout.RTMR3_OFFSET))),
    "bad_report_data_flip": ("quote_signature", Faults(mutate=flipped(layout.REPORT_DATA_OFFSET))),
    "bad_signature_flip": ("quote_signature", Faults(mutate=flipped(640))),
    "bad_attestation_key_flip": ("attestation_key_binding", Faults(mutate=flipped(705))),
    "bad_certification_type": ("certification_data_type", Faults(mutate=flipped(764))),
    "bad_qe_report_flip": ("qe_report_signature", Faults(mutate=flipped(800))),
    "bad_qe_signature_flip": ("qe_report_signature", Faults(mutate=flipped(1160))),
    "bad_qe_auth_flip": ("attestation_key_binding", Faults(mutate=flipped(1225))),
    "bad_trailing": ("quote_canonical", Faults(mutate=lambda data: data + b"\x01")),
    "bad_truncated": ("quote_layout", Faults(mutate=lambda data: data[:-1])),
    "bad_empty": ("quote_layout", Faults(mutate=lambda _: b"")),
}


def cases(source: SoftwarePlatform) -> Iterator[Case]:
    """All cases under one root, plus a quote and collateral of a stranger's platform."""
    healthy = collateral_with(source, Faults())
    for name, (status, faults) in ACCEPTED.items():
        yield Case(name, quote_with(source, faults), collateral_with(source, faults), True, status)
    for name, (check, faults) in REFUSED.items():
        yield Case(name, quote_with(source, faults), collateral_with(source, faults), False, None, check)
    stranger = platform()
    yield Case("bad_stranger_quote", quote_with(stranger, Faults()), healthy, False, None, "pck_chain")
    foreign = collateral_with(stranger, Faults())
    yield Case(
        "bad_stranger_collateral",
        quote_with(source, Faults()),
        foreign,
        False,
        None,
        "tcb_signing_certificate",
    )
