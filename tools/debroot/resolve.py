# SPDX-License-Identifier: MIT
"""Answer a request from signed indexes: apt's own resolver in a private root, then the indexes' own SHA-256.

apt checks the signatures when it fetches. They are checked here once more, together with the hash of each index,
so that a lock never rests on the apt configuration of the machine it was made on.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import cmp_to_key
from pathlib import Path

from tools.debroot.errors import CommandError, ConfigurationError, LockError, SignatureError
from tools.debroot.lockfile import Lock, Package, Request, SourceFile, has_upstream_version, ordered
from tools.debroot.mirror import Mirrors, acquire_options
from tools.debroot.process import run
from tools.debroot.versions import compare

KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
)
# a field of deb822 with its continuation lines
_FIELD = re.compile(r"^([A-Za-z0-9-]+): ?(.*(?:\n[ \t].*)*)", re.MULTILINE)
_PRINTED = re.compile(r"^'[^']+' ([^ ]+)_([^_ ]+)_([^_ ]+)\.deb [0-9]+ ", re.MULTILINE)


def default_keyring() -> Path:
    """The keys of the Debian archive, as this machine's package of them has them."""
    for path in KEYRINGS:
        if path.is_file():
            return path
    raise ConfigurationError(
        "this machine has no keys of the Debian archive", hint="apt install debian-archive-keyring"
    )


@dataclass(frozen=True, slots=True)
class Index:
    """A signed index of one suite, checked: its date, its packages by name, version and architecture, its sources."""

    suite: str
    date: str
    packages: dict[tuple[str, str, str], Package]
    sources: tuple[SourceFile, ...] = ()


def resolve(request: Request, mirrors: Mirrors, keyring: Path) -> Lock:
    """A new lock for the request, from the archive as it is now.

    Errors:
        SignatureError: an index is not signed by a key of the keyring, or differs from what was signed.
        CommandError: apt could not reach the mirror or cannot satisfy the request.
        LockError: a package of require_versions has another version.
    """
    with tempfile.TemporaryDirectory(prefix="debroot-apt-") as folder:
        root = Path(folder)
        configuration = _private_apt(root, request, mirrors, keyring)
        environment = {"APT_CONFIG": str(configuration)}
        run(["apt-get", "update", "--error-on=any"], environment=environment, what="apt-get update")
        indexes = [_index(root, suite, request, mirrors, keyring) for suite in request.suites]
        words = ["apt-get", "install", "--print-uris", "--yes", "--no-install-recommends", "-qq"]
        # with an empty machine, all that is essential is installed as a matter of course, if it is named
        essential = ["?essential"] if request.essential else []
        printed = run(
            [*words, *essential, *request.packages], environment=environment, what="resolving the packages"
        )
    chosen = [
        _locate(name, version.replace("%3a", ":"), architecture, indexes)
        for name, version, architecture in _PRINTED.findall(printed)
    ]
    files = [file for name in request.sources for file in _newest_source(name, indexes)]
    dates = {index.suite: index.date for index in indexes}
    lock = Lock(request, dates, ordered(chosen), ordered(files))
    for name, wanted in request.require_versions.items():
        if not has_upstream_version(lock.version_of(name), wanted):
            raise LockError(
                f"{name} must be {wanted}; the archive now has {lock.version_of(name)}",
                hint="another compiler makes other bytes: change require_versions only on purpose",
            )
    return lock


def _private_apt(root: Path, request: Request, mirrors: Mirrors, keyring: Path) -> Path:
    """An apt that sees these sources and an empty machine, and nothing of this one but its proxy settings."""
    for name in ("etc/apt/apt.conf.d", "etc/apt/preferences.d", "lists/partial", "cache/archives/partial"):
        (root / name).mkdir(parents=True)
    (root / "status").touch()
    components = " ".join(request.components)
    kinds = [f"deb [arch={request.architecture} signed-by={keyring}]"]
    if request.sources:
        kinds.append(f"deb-src [signed-by={keyring}]")
    sources = "".join(
        f"{kind} {mirrors.base(suite)} {suite} {components}\n" for suite in request.suites for kind in kinds
    )
    (root / "etc/apt/sources.list").write_text(sources)
    (root / "etc/apt/preferences.d/suite-of").write_text(
        "".join(
            f"Package: {name}\nPin: release n={suite}\nPin-Priority: 990\n\n"
            for name, suite in sorted(request.suite_of.items())
        )
    )
    options = {
        **acquire_options(),
        "Dir::Etc": str(root / "etc/apt"),
        "Dir::State": str(root),
        "Dir::State::lists": str(root / "lists"),
        "Dir::State::status": str(root / "status"),
        "Dir::Cache": str(root / "cache"),
        "APT::Architecture": request.architecture,
        "APT::Architectures": request.architecture,
        "APT::Sandbox::User": "root",
        # apt counts itself as essential; a machine without a package manager needs none
        "pkgCacheGen::ForceEssential": ",",
        "Acquire::Languages": "none",
        "Acquire::GzipIndexes": "false",
        "Acquire::Check-Valid-Until": "true",
        "Acquire::AllowInsecureRepositories": "false",
        "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled": "false",
        "Acquire::IndexTargets::deb-src::Contents-dsc::DefaultEnabled": "false",
    }
    configuration = root / "apt.conf"
    configuration.write_text("".join(f'{name} "{value}";\n' for name, value in options.items()))
    return configuration


def _index(root: Path, suite: str, request: Request, mirrors: Mirrors, keyring: Path) -> Index:
    lists = root / "lists"
    stem = re.sub(r"^[a-z+]+://", "", f"{mirrors.base(suite)}/dists/{suite}").lstrip("/")
    stem = stem.replace("_", "%5f").replace("/", "_")
    release = _verified(lists / f"{stem}_InRelease", keyring)

    def checked(name: str) -> str:
        kept = lists / f"{stem}_{name.replace('/', '_')}"
        # apt keeps no empty index; that this one is empty must then be what was signed
        data = kept.read_bytes() if kept.is_file() else b""
        check_index(release, name, data, suite)
        return data.decode()

    packages: dict[tuple[str, str, str], Package] = {}
    sources: list[SourceFile] = []
    for component in request.components:
        for package in parse_index(checked(f"{component}/binary-{request.architecture}/Packages"), suite):
            packages[(package.package, package.version, package.architecture)] = package
        if request.sources:
            sources += parse_sources(checked(f"{component}/source/Sources"), suite, set(request.sources))
    return Index(suite, _date(release), packages, tuple(sources))


def _verified(path: Path, keyring: Path) -> str:
    """The signed text of an InRelease file."""
    if not path.is_file():
        raise SignatureError(f"apt kept no {path.name}: the mirror has no signed index of that name")
    try:
        return run(["gpgv", "--quiet", "--keyring", keyring, "--output", "-", path], what="gpgv")
    except CommandError as error:
        raise SignatureError(
            f"{path.name} is not signed by a key of {keyring}",
            hint="the mirror may be in the middle of an update; try again, and do not go on without this check",
        ) from error


def check_index(release: str, name: str, data: bytes, suite: str) -> None:
    """Hold an index against the signed release file that lists it.

    Errors:
        SignatureError: the release file lists no such index, or another SHA-256.
    """
    _, _, section = release.partition("\nSHA256:")
    digest = hashlib.sha256(data).hexdigest()
    for line in section.splitlines()[1:]:
        if not line.startswith(" "):
            break
        words = line.split()
        # the security archive signs its components as updates/main and serves them as main
        if len(words) == 3 and words[2].removeprefix("updates/") == name:
            if words[0] != digest:
                raise SignatureError(f"{suite}: {name} has SHA-256 {digest}, signed was {words[0]}")
            return
    raise SignatureError(f"{suite}: the signed release file lists no {name}")


def _date(release: str) -> str:
    found = re.search(r"^Date: (.+)$", release, re.MULTILINE)
    if found is None:
        raise SignatureError("the signed release file has no date")
    return parsedate_to_datetime(found.group(1)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_index(text: str, suite: str) -> Iterator[Package]:
    """The packages of a Packages file (deb-control(5) paragraphs)."""
    for paragraph in text.split("\n\n"):
        fields = {
            name: value
            for name, colon, value in (line.partition(": ") for line in paragraph.splitlines())
            if colon and not name.startswith((" ", "\t"))
        }
        if "Package" not in fields:
            continue
        try:
            yield Package(
                package=fields["Package"],
                version=fields["Version"],
                architecture=fields["Architecture"],
                filename=fields["Filename"].removeprefix("./"),
                size=int(fields["Size"]),
                sha256=fields["SHA256"],
                suite=suite,
            )
        except (KeyError, ValueError) as error:
            raise LockError(
                f"{suite}: the index entry of {fields['Package']} lacks or garbles {error}"
            ) from error


def parse_sources(text: str, suite: str, wanted: set[str]) -> Iterator[SourceFile]:
    """The tarballs of the wanted source packages in a Sources file.

    Signatures and the .dsc are left out: the signed index says the same, and not every mirror has them.
    """
    for paragraph in text.split("\n\n"):
        fields = dict(_FIELD.findall(paragraph))
        if fields.get("Package") not in wanted:
            continue
        try:
            folder, version = fields["Directory"], fields["Version"]
            for line in fields["Checksums-Sha256"].split("\n")[1:]:
                digest, size, name = line.split()
                if not name.endswith((".asc", ".dsc")):
                    yield SourceFile(fields["Package"], version, f"{folder}/{name}", int(size), digest, suite)
        except (KeyError, ValueError) as error:
            raise LockError(
                f"{suite}: the index entry of source {fields['Package']} lacks or garbles {error}"
            ) from error


def _newest_source(name: str, indexes: list[Index]) -> list[SourceFile]:
    files = [file for index in indexes for file in index.sources if file.source == name]
    if not files:
        raise LockError(f"no verified index holds a source package {name}")
    newest = max((file.version for file in files), key=cmp_to_key(compare))
    found = [file for file in files if file.version == newest]
    suite = max(found, key=lambda file: file.from_security).suite
    return [file for file in found if file.suite == suite]


def _locate(name: str, version: str, architecture: str, indexes: list[Index]) -> Package:
    """The index entry of a package that apt chose. Of equal ones the security archive's is named."""
    found = [
        index.packages[(name, version, architecture)]
        for index in indexes
        if (name, version, architecture) in index.packages
    ]
    if not found:
        raise LockError(f"apt chose {name} {version} {architecture}, which no verified index holds")
    return max(found, key=lambda package: package.from_security)
