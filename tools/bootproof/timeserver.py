# SPDX-License-Identifier: MIT
"""A time server of NTS on this machine under a made-up authority, for boots that are to be told the time.

It is the chronyd of the image under proof, which neither reads nor sets the clock of this machine beyond asking it.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import pwd
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from outlayer_attestation.measure.pe import parse_pe, section_data
from tools.bootproof.programs import chronyd_of
from tools.imageaudit.difference import files_of
from tools.imagebuild.errors import BootError

# valid at the date of any image, so that a VM whose clock starts there can be told the time
_BEFORE: Final = dt.timedelta(days=3650)
_AFTER: Final = dt.timedelta(days=2)
_CONFIGURATION: Final = """\
port {port}
ntsport {port}
bindaddress {address}
allow
cmdport 0
pidfile /
ntsservercert {folder}/server.pem
ntsserverkey {folder}/server.key
"""
_OWN_CLOCK: Final = "local stratum 1\n"
_ANOTHER_CLOCK: Final = "refclock SOCK {folder}/clock poll -1 filter 1 delay 0.001\n"
# struct sock_sample of chrony's refclock_sock.c
_SAMPLE: Final = struct.Struct("<qqdiiii")
_MAGIC: Final = 0x534F434B


@dataclass(frozen=True, slots=True)
class Authority:
    """A made-up authority."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls) -> Authority:
        """A new one, valid from long ago on, for some days more."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate("Authority of a boot proof", "Authority of a boot proof", key.public_key())
        certificate = certificate.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        return cls(key, certificate.sign(key, hashes.SHA256()))

    @property
    def pem(self) -> str:
        """The certificate, as a configuration names it."""
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def write_server(self, folder: Path, addresses: Sequence[str]) -> None:
        """Certificate and key of a server at these addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.IPAddress(ipaddress.ip_address(text)) for text in addresses]
        issuer = self.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        builder = _certificate("Time server of a boot proof", str(issuer), key.public_key())
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        (folder / "server.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        path = folder / "server.key"
        path.touch(mode=0o600)
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _certificate(subject: str, issuer: str, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    return (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEFORE)
        .not_valid_after(now + _AFTER)
    )


def unpack_chronyd(image: bytes, folder: Path) -> Path:
    """Write the chronyd of a unified kernel image into ``folder``, with its libraries; a start script for it."""
    (section,) = (item for item in parse_pe(image).sections if item.name == ".initrd")
    root = folder / "chrony-root"
    for entry in files_of(bytes(section_data(image, section))):
        if entry.path != "usr/sbin/chronyd" and not entry.path.startswith("usr/lib/x86_64-linux-gnu/"):
            continue
        target = root / entry.path
        if entry.mode & 0o170000 == 0o040000:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if entry.mode & 0o170000 == 0o120000:
            target.symlink_to(entry.content.decode())
        else:
            target.write_bytes(entry.content)
            target.chmod(0o755)
    return chronyd_of(root, folder)


@contextmanager
def time_server(
    chronyd: Path,
    folder: Path,
    authority: Authority,
    *,
    port: int,
    address: str = "127.0.0.1",
    names: Sequence[str] = (),
    ahead: float = 0.0,
    within: Sequence[str] = (),
    seconds: float = 20.0,
) -> Iterator[None]:
    """Serve time for the length of the block, at TCP and UDP ``port`` of ``address``.

    Args:
        folder: a folder for its files, which is made.
        names: addresses at which clients see it, besides ``address``.
        ahead: how far it is ahead of this machine's clock, in seconds.
        within: words that start a program in another network namespace.

    Raises:
        BootError: it does not start; with what it said.
    """
    folder.mkdir(parents=True)
    authority.write_server(folder, [address, *names])
    text = _CONFIGURATION + (_ANOTHER_CLOCK if ahead else _OWN_CLOCK)
    (folder / "chrony.conf").write_text(text.format(port=port, address=address, folder=folder))
    user = pwd.getpwuid(os.getuid()).pw_name
    words = [*within, str(chronyd), "-d", "-U", "-x", "-u", user, "-f", str(folder / "chrony.conf")]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    stop = threading.Event()
    feeder = threading.Thread(target=_feed, args=(folder / "clock", ahead, stop), daemon=True)
    try:
        if ahead:
            feeder.start()
        _wait_until_serving(process, log, "Selected source" if ahead else "Disabled control", seconds)
        yield
    finally:
        stop.set()
        process.kill()
        process.wait()
        if ahead:
            feeder.join()


def _wait_until_serving(process: subprocess.Popen[bytes], log: Path, mark: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while mark not in (said := log.read_text(errors="replace")) or "Could not" in said:
        if process.poll() is not None or time.monotonic() > deadline or "Could not" in said:
            raise BootError(f"the time server does not start: {' '.join(said.splitlines())[-800:]}")
        time.sleep(0.05)


def _feed(path: Path, ahead: float, stop: threading.Event) -> None:
    """Tell chronyd, twice a second, how far its clock is behind."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        while not stop.wait(0.5):
            now = time.time_ns()
            sample = _SAMPLE.pack(now // 10**9, now % 10**9 // 1000, ahead, 0, 0, 0, _MAGIC)
            try:
                out.sendto(sample, str(path))
            except (FileNotFoundError, ConnectionError):
                continue  # it has not made its socket yet, or is gone
