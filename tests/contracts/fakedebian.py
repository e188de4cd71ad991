# SPDX-License-Identifier: MIT
"""A small Debian archive of made-up packages, signed by a key of its own."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tools.debroot.lockfile import Lock, Package, Request, ordered

ARCHITECTURE = "amd64"


def need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"this machine has no {program}")


@dataclass(frozen=True)
class Deb:
    """A package to make. `files` maps a path in the root to its text."""

    name: str
    version: str
    files: tuple[tuple[str, str], ...] = ()
    depends: str = ""
    essential: bool = False


def build(deb: Deb, folder: Path, archive: Path) -> Path:
    """Make the .deb under pool/ of the archive."""
    need("dpkg-deb")
    tree = folder / f"{deb.name}-{deb.version}".replace(":", "-")
    shutil.rmtree(tree, ignore_errors=True)
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "usr").mkdir()
    for name, text in deb.files:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    depends = f"Depends: {deb.depends}\n" if deb.depends else ""
    (tree / "DEBIAN/control").write_text(
        f"Package: {deb.name}\nVersion: {deb.version}\nArchitecture: {ARCHITECTURE}\n"
        f"Maintainer: Nobody <nobody@example.org>\n{depends}Description: made up\n"
    )
    target = archive / "pool/main" / deb.name[0] / f"{deb.name}_{deb.version.rpartition(':')[2]}_amd64.deb"
    target.parent.mkdir(parents=True, exist_ok=True)
    words = ["dpkg-deb", "--build", "--root-owner-group", "-Zgzip", str(tree), str(target)]
    subprocess.run(words, check=True, capture_output=True)
    return target


def locked(deb: Deb, path: Path, archive: Path, suite: str = "trixie") -> Package:
    data = path.read_bytes()
    return Package(
        package=deb.name,
        version=deb.version,
        architecture=ARCHITECTURE,
        filename=path.relative_to(archive).as_posix(),
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        suite=suite,
    )


def request(*packages: str, suites: tuple[str, ...] = ("trixie",), **versions: str) -> Request:
    return Request(ARCHITECTURE, suites, ("main",), packages, versions)


def lock_of(*packages: Package, suites: tuple[str, ...] = ("trixie",)) -> Lock:
    names = tuple(sorted(package.package for package in packages))
    dates = dict.fromkeys(suites, "2026-01-02T03:04:05Z")
    return Lock(request(*names, suites=suites), dates, ordered(list(packages)))


class Key:
    """A signing key in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        need("gpg", "gpgv")
        self.home = folder
        folder.mkdir(mode=0o700)
        self._gpg("--quick-gen-key", "Nobody <nobody@example.org>", "ed25519", "sign", "never")
        self.keyring = folder / "keyring.gpg"
        self.keyring.write_bytes(self._gpg("--export"))

    def _gpg(self, *words: str) -> bytes:
        command = ["gpg", "--homedir", str(self.home), "--batch", "--passphrase", "", *words]
        return subprocess.run(command, check=True, capture_output=True).stdout

    def sign(self, text: str, target: Path) -> None:
        source = target.with_suffix(".plain")
        source.write_text(text)
        self._gpg("--yes", "--clearsign", "--output", str(target), str(source))
        source.unlink()


@dataclass(frozen=True)
class Source:
    """A source package: its files are made with these bytes."""

    name: str
    version: str
    files: tuple[tuple[str, bytes], ...]


def _sources_index(archive: Path, sources: tuple[Source, ...]) -> str:
    text = ""
    for source in sources:
        folder = archive / "pool/main" / source.name[0] / source.name
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in source.files:
            (folder / name).write_bytes(data)
        lines = "".join(
            f"\n {hashlib.sha256(data).hexdigest()} {len(data)} {name}" for name, data in source.files
        )
        text += (
            f"Package: {source.name}\nBinary: x\nVersion: {source.version}\nArchitecture: any\nFormat: 3.0 (quilt)\n"
            f"Maintainer: Nobody <nobody@example.org>\n"
            f"Directory: {folder.relative_to(archive).as_posix()}\nChecksums-Sha256:{lines}\n\n"
        )
    return text


def publish(
    archive: Path,
    suite: str,
    packages: list[tuple[Package, Deb]],
    key: Key,
    sources: tuple[Source, ...] = (),
) -> None:
    """Write dists/<suite> with a signed InRelease that lists the packages."""
    folder = archive / "dists" / suite
    index = folder / "main/binary-amd64/Packages"
    index.parent.mkdir(parents=True, exist_ok=True)
    text = ""
    for package, deb in packages:
        depends = f"Depends: {deb.depends}\n" if deb.depends else ""
        depends += "Essential: yes\n" if deb.essential else ""
        text += (
            f"Package: {package.package}\nVersion: {package.version}\nArchitecture: {ARCHITECTURE}\n{depends}"
            f"Filename: {package.filename}\nSize: {package.size}\nSHA256: {package.sha256}\n"
            f"Description: made up\n\n"
        )
    index.write_text(text)
    listed = folder / "main/source/Sources"
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text(_sources_index(archive, sources))
    hashes = "".join(
        f" {hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_size} {path.relative_to(folder)}\n"
        for path in (index, listed)
    )
    now = datetime.now(UTC)
    key.sign(
        f"Origin: Debian\nLabel: Debian\nSuite: {suite}\nCodename: {suite}\n"
        f"Date: {format_datetime(now - timedelta(hours=1), usegmt=True)}\n"
        f"Valid-Until: {format_datetime(now + timedelta(days=7), usegmt=True)}\n"
        f"Architectures: {ARCHITECTURE}\nComponents: main\nSHA256:\n"
        f"{hashes}",
        folder / "InRelease",
    )


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder, or fails with the code that the test sets."""

    failure: int | None = None

    def do_GET(self) -> None:
        failure = type(self).failure
        if failure is not None:
            self.send_error(failure)
        else:
            super().do_GET()

    def log_message(self, *words: Any) -> None:
        """Says nothing."""


@contextmanager
def serve(folder: Path) -> Iterator[tuple[str, type[Quiet]]]:
    """A mirror on loopback: its URL and its handler class."""
    folder.mkdir(exist_ok=True)
    handler = type("Handler", (Quiet,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", handler
        running.shutdown()
