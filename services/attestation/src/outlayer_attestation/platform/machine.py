# SPDX-License-Identifier: MIT
"""The software platform as one object: keys and certificates, quotes and collateral, kept in a folder.

``DIR/platform.json`` (mode 0600, in a folder of mode 0700) holds everything and is written in one step,
so a start that was cut off leaves either nothing or all of it. ``DIR/root_ca.der`` is the public root.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from outlayer_attestation import quote as layout
from outlayer_attestation.collateral import Collateral
from outlayer_attestation.errors import PlatformError
from outlayer_attestation.measurements import Measurements
from outlayer_attestation.platform import endorsements, pki
from outlayer_attestation.platform.quoting import QuotingEnclave, TdFields

STATE_FILE: Final = "platform.json"
ROOT_FILE: Final = "root_ca.der"
COLLATERAL_FOLDER: Final = "collateral"
FORMAT: Final = 1
COLLATERAL_LIFETIME: Final = timedelta(days=30)
BACKDATING: Final = timedelta(hours=1)
"""Collateral is dated a little back, so that a chain whose last block is older accepts it."""

_ROLES: Final = ("root", "platform_ca", "pck", "tcb_signing")


class SoftwarePlatform:
    """One simulated machine: its root of trust, its PCK and its quoting enclave."""

    def __init__(
        self, authorities: dict[str, pki.Authority], attestation_key: ec.EllipticCurvePrivateKey
    ) -> None:
        self.root = authorities["root"]
        self.platform_ca = authorities["platform_ca"]
        self.pck = authorities["pck"]
        self.tcb_signing = authorities["tcb_signing"]
        self.attestation_key = attestation_key
        self.pck_chain = self.pck.pem() + self.platform_ca.pem() + self.root.pem()
        self.enclave = QuotingEnclave(attestation_key, self.pck, self.pck_chain)

    @classmethod
    def generate(cls, now: datetime | None = None) -> SoftwarePlatform:
        """A new platform with keys of its own; certificates start one day back."""
        start = (now or datetime.now(UTC)).replace(microsecond=0) - timedelta(days=1)
        years = timedelta(days=365)
        root = pki.issue(pki.name(pki.ROOT_NAME), None, start, 30 * years, path_length=1)
        ca = pki.issue(pki.name(pki.PLATFORM_CA_NAME), root, start, 25 * years, path_length=0)
        identity = pki.PckIdentity(
            ppid=secrets.token_bytes(16),
            cpu_svn=endorsements.CPU_SVN,
            pce_svn=endorsements.PCE_SVN,
            pce_id=endorsements.PCE_ID,
            fmspc=endorsements.FMSPC,
            instance_id=secrets.token_bytes(16),
        )
        extension = pki.sgx_extension(identity)
        pck = pki.issue(pki.name(pki.PCK_NAME), ca, start, 20 * years, extension=extension)
        signing = pki.issue(pki.name(pki.TCB_SIGNING_NAME), root, start, 20 * years)
        authorities = dict(zip(_ROLES, (root, ca, pck, signing), strict=True))
        return cls(authorities, pki.new_key())

    @property
    def root_der(self) -> bytes:
        """The root certificate, DER: what a verifier of this platform trusts."""
        return self.root.certificate.public_bytes(Encoding.DER)

    def quote(self, measurements: Measurements, report_data: bytes, *, version: int = 4) -> bytes:
        """A quote for a TD with these measurements; version 5 carries a TD 1.5 report."""
        if not 0 < len(report_data) <= layout.REPORT_DATA_SIZE:
            raise PlatformError(f"REPORTDATA has 1 to 64 bytes, not {len(report_data)}")
        fields = TdFields(measurements=measurements, report_data=report_data)
        body_type = layout.BODY_TD15 if version == 5 else layout.BODY_TD10
        return self.enclave.quote(fields, version=version, body_type=body_type)

    def collateral(self, now: datetime | None = None) -> Collateral:
        """Fresh collateral: TCB info, QE identity and CRLs valid for 30 days."""
        issued = (now or datetime.now(UTC)).replace(microsecond=0) - BACKDATING
        until = issued + BACKDATING + COLLATERAL_LIFETIME
        return endorsements.assemble(
            self.root,
            self.platform_ca,
            self.tcb_signing,
            endorsements.tcb_info(issued, until),
            endorsements.qe_identity(issued, until),
            pki.revocation_list(self.root, issued, until),
            pki.revocation_list(self.platform_ca, issued, until),
        )

    # --- state folder ---

    def publish_collateral(self, folder: Path, out: Path, now: datetime | None = None) -> Collateral:
        """Make fresh collateral, write it to ``out`` and keep a copy in ``folder/collateral``.

        An execution is judged with collateral of its own time, so older copies stay useful; collateral
        proves itself, so it does not matter where a copy was kept.
        """
        collateral = self.collateral(now)
        text = collateral.to_text().encode()
        issued = collateral.tcb_info_json()["issueDate"].replace(":", "")
        archive = folder / COLLATERAL_FOLDER
        try:
            archive.mkdir(exist_ok=True, mode=0o700)
            _replace(archive / f"{issued}-{collateral.sha256()[:8]}.json", text, 0o644)
            _replace(out, text, 0o644)
        except OSError as error:
            raise PlatformError(f"cannot write collateral: {error}") from error
        return collateral

    @classmethod
    def init(cls, folder: Path) -> SoftwarePlatform:
        """Load the platform of this folder; make it first if there is none. Safe to run twice at once."""
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)
            if not (folder / STATE_FILE).exists():
                _store_once(folder / STATE_FILE, cls.generate().to_bytes())
            platform = cls.load(folder)
            root_file = folder / ROOT_FILE
            if not root_file.exists() or root_file.read_bytes() != platform.root_der:
                _replace(root_file, platform.root_der, 0o644)
        except OSError as error:
            raise PlatformError(f"cannot keep the platform's state in {folder}: {error}") from error
        return platform

    @classmethod
    def load(cls, folder: Path) -> SoftwarePlatform:
        """Load the platform of a folder that ``init`` made."""
        try:
            data = json.loads((folder / STATE_FILE).read_bytes())
            if data["format"] != FORMAT:
                raise PlatformError(f"{folder / STATE_FILE} is of another format")
            authorities = {role: _load_authority(data[role]) for role in _ROLES}
            return cls(authorities, _load_key(data["attestation_key"]))
        except FileNotFoundError as error:
            raise PlatformError(
                f"{folder} holds no software platform",
                hint=f"python -m outlayer_attestation.platform init --state {folder}",
            ) from error
        except (KeyError, TypeError, ValueError) as error:
            raise PlatformError(
                f"{folder / STATE_FILE} cannot be read: {type(error).__name__}",
                hint="remove it to make a new platform; then the register contract must get its new root",
            ) from error

    def to_bytes(self) -> bytes:
        """The state file: keys and certificates. Secret."""
        authorities = (self.root, self.platform_ca, self.pck, self.tcb_signing)
        data: dict[str, object] = {
            role: {"certificate": authority.pem(), "key": _key_pem(authority.key)}
            for role, authority in zip(_ROLES, authorities, strict=True)
        }
        data["note"] = "keys of a SIMULATED TDX platform; they vouch for nothing outside this stack"
        data["format"] = FORMAT
        data["attestation_key"] = _key_pem(self.attestation_key)
        return json.dumps(data, indent=1).encode()

    def describe(self) -> dict[str, str]:
        """What a person may want to know; public values only."""
        return {
            "simulated": "true",
            "root_ca_sha256": hashlib.sha256(self.root_der).hexdigest(),
            "fmspc": endorsements.FMSPC.hex(),
        }


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _load_key(pem: str) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(pem.encode(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not a P-256 key")  # noqa: TRY004  (a bad file, reported by the caller)
    return key


def _load_authority(data: dict[str, str]) -> pki.Authority:
    certificate = x509.load_pem_x509_certificate(data["certificate"].encode())
    return pki.Authority(certificate, _load_key(data["key"]))


def _write_temporary(path: Path, data: bytes, mode: int) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def _store_once(path: Path, data: bytes) -> None:
    """Write a secret file completely or not at all, and never over one that another process made."""
    temporary = _write_temporary(path, data, 0o600)
    try:
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()


def _replace(path: Path, data: bytes, mode: int) -> None:
    _write_temporary(path, data, mode).replace(path)
