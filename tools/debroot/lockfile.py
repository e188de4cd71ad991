# SPDX-License-Identifier: MIT
"""The lock: what was asked for, and every package that answers it. Pure: text in, values out.

One JSON file holds both, so that the request can never drift from its answer:

    {"format": 1,
     "request": {"architecture", "suites", "components", "packages", "require_versions",
                 optional: "essential", "suite_of", "sources"},
     "indexes": {suite: date of the signed index, RFC 3339},
     "packages": [{"package", "version", "architecture", "filename", "size", "sha256", "suite"}],
     with sources: "sources": [{"source", "version", "filename", "size", "sha256", "suite"}]}
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from tools.debroot.errors import LockError
from tools.debroot.versions import compare

Item = TypeVar("Item", "Package", "SourceFile")

FORMAT = 1
MAX_SIZE = 4 << 30

_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+", re.ASCII)
_VERSION = re.compile(r"(?:[0-9]+:)?[0-9A-Za-z][0-9A-Za-z.+~-]*", re.ASCII)
_WORD = re.compile(r"[a-z0-9][a-z0-9-]*", re.ASCII)
_FILENAME = re.compile(r"pool(?:/[A-Za-z0-9][A-Za-z0-9+._~%:-]*)+\.deb", re.ASCII)
_SOURCE_FILENAME = re.compile(r"pool(?:/[A-Za-z0-9][A-Za-z0-9+._~%:-]*)+\.tar\.(?:gz|bz2|xz)", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Package:
    """One .deb: where the archive keeps it (relative to the mirror) and what its bytes are."""

    package: str
    version: str
    architecture: str
    filename: str
    size: int
    sha256: str
    suite: str

    @property
    def key(self) -> tuple[str, str]:
        return (self.package, self.architecture)

    @property
    def from_security(self) -> bool:
        return self.suite.endswith("-security")

    @property
    def local_name(self) -> str:
        """The name in a cache or an input bundle: by content alone."""
        return f"{self.sha256}.deb"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a source package: an upstream tarball or Debian's changes."""

    source: str
    version: str
    filename: str
    size: int
    sha256: str
    suite: str

    @property
    def key(self) -> tuple[str, str]:
        return (self.source, self.filename)

    @property
    def from_security(self) -> bool:
        return self.suite.endswith("-security")

    @property
    def local_name(self) -> str:
        """The name in a cache or an input bundle: by content alone."""
        return f"{self.sha256}.source"


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of the archive.

    Attributes:
        require_versions: package -> the upstream version it must have.
        essential: take every package that Debian marks as essential, too.
        suite_of: package name -> the suite it must come from, where that is not the newest.
        sources: source packages.
    """

    architecture: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    packages: tuple[str, ...]
    require_versions: Mapping[str, str] = field(default_factory=dict)
    essential: bool = False
    suite_of: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """As in the file; what was not asked for is left out."""
        optional = {"essential": self.essential, "suite_of": dict(self.suite_of), "sources": self.sources}
        return {
            "architecture": self.architecture,
            "suites": self.suites,
            "components": self.components,
            "packages": self.packages,
            "require_versions": dict(self.require_versions),
            **{name: value for name, value in optional.items() if value},
        }


@dataclass(frozen=True, slots=True)
class Lock:
    """A request and its answer."""

    request: Request
    indexes: Mapping[str, str]
    packages: tuple[Package, ...]
    sources: tuple[SourceFile, ...] = ()

    def digest(self) -> str:
        """SHA-256 over what decides a root's content: the packages' bytes, in order."""
        lines = "".join(f"{item.sha256}  {item.package}\n" for item in self.packages)
        return hashlib.sha256(lines.encode()).hexdigest()

    def to_text(self) -> str:
        document: dict[str, Any] = {
            "format": FORMAT,
            "request": self.request.document(),
            "indexes": dict(sorted(self.indexes.items())),
            "packages": [asdict(item) for item in self.packages],
        }
        if self.request.sources:
            document["sources"] = [asdict(item) for item in self.sources]
        return json.dumps(document, indent=1) + "\n"

    def version_of(self, package: str) -> str:
        for item in self.packages:
            if item.package == package:
                return item.version
        raise LockError(f"the lock holds no package {package}", hint="refresh the lock")


def ordered(items: list[Item]) -> tuple[Item, ...]:
    return tuple(sorted(items, key=lambda item: item.key))


def parse(text: str) -> Lock:
    """Read a lock.

    Errors:
        LockError: not JSON, an unknown or missing field, a value of the wrong form, a package twice or out of order.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LockError(f"the lock is not JSON: {error}") from error
    top = _object(document, "the lock", {"format", "request", "indexes", "packages"}, {"sources"})
    if top["format"] != FORMAT or isinstance(top["format"], bool):
        raise LockError(f"the lock has format {top['format']!r}; this tool reads format {FORMAT}")
    request = _request(top["request"])
    packages = tuple(_package(item, request) for item in _list(top["packages"], "packages"))
    keys = [item.key for item in packages]
    if keys != sorted(set(keys)):
        raise LockError("the packages are not sorted, or one is there twice", hint="refresh the lock")
    sources = tuple(_source_file(item, request) for item in _list(top.get("sources", []), "sources"))
    keys = [item.key for item in sources]
    if keys != sorted(set(keys)):
        raise LockError("the source files are not sorted, or one is there twice", hint="refresh the lock")
    lock = Lock(request, _indexes(top["indexes"], request), packages, sources)
    _check_versions(lock)
    return lock


def _request(value: object) -> Request:
    fields = {"architecture", "suites", "components", "packages", "require_versions"}
    item = _object(value, "request", fields, {"essential", "suite_of", "sources"})
    versions = _object(item["require_versions"], "require_versions")
    for name, version in versions.items():
        _matches(name, _NAME, "a package in require_versions")
        _matches(version, _VERSION, f"the required version of {name}")
    suites = _words(item["suites"], _WORD, "suites")
    suite_of = _object(item.get("suite_of", {}), "suite_of")
    for name, suite in suite_of.items():
        _matches(name, _NAME, "a package in suite_of")
        if suite not in suites:
            raise LockError(f"suite_of sends {name} to {suite!r}, which is not in the request")
    if not isinstance(item.get("essential", False), bool):
        raise LockError("essential is true or false")
    return Request(
        architecture=_matches(item["architecture"], _WORD, "architecture"),
        suites=suites,
        components=_words(item["components"], _WORD, "components"),
        packages=_words(item["packages"], _NAME, "packages of the request"),
        require_versions=versions,
        essential=item.get("essential", False),
        suite_of=suite_of,
        sources=_words(item["sources"], _NAME, "sources of the request") if "sources" in item else (),
    )


def _package(value: object, request: Request) -> Package:
    fields = {"package", "version", "architecture", "filename", "size", "sha256", "suite"}
    item = _object(value, "a package", fields)
    name = _matches(item["package"], _NAME, "package")
    architecture = item["architecture"]
    if architecture not in (request.architecture, "all"):
        raise LockError(f"{name}: architecture {architecture!r} is neither the request's nor 'all'")
    return Package(
        package=name,
        architecture=architecture,
        filename=_matches(item["filename"], _FILENAME, f"{name}: filename"),
        **_common(item, name, request),
    )


def _source_file(value: object, request: Request) -> SourceFile:
    fields = {"source", "version", "filename", "size", "sha256", "suite"}
    item = _object(value, "a source file", fields)
    name = _matches(item["source"], _NAME, "source")
    if name not in request.sources:
        raise LockError(f"{name}: this source package is not in the request")
    return SourceFile(
        source=name,
        filename=_matches(item["filename"], _SOURCE_FILENAME, f"{name}: filename"),
        **_common(item, name, request),
    )


def _common(item: Mapping[str, Any], name: str, request: Request) -> dict[str, Any]:
    """Version, size, SHA-256 and suite, which packages and source files have in common."""
    if item["suite"] not in request.suites:
        raise LockError(f"{name}: suite {item['suite']!r} is not in the request")
    size = item["size"]
    if not isinstance(size, int) or isinstance(size, bool) or not 0 < size < MAX_SIZE:
        raise LockError(f"{name}: size {size!r} is not a number of bytes")
    return {
        "version": _matches(item["version"], _VERSION, f"{name}: version"),
        "size": size,
        "sha256": _matches(item["sha256"], _SHA256, f"{name}: sha256"),
        "suite": item["suite"],
    }


def _indexes(value: object, request: Request) -> dict[str, str]:
    dates = _object(value, "indexes")
    for suite, date in dates.items():
        if suite not in request.suites:
            raise LockError(f"the index of {suite} is not one of the request")
        _matches(date, _DATE, f"the date of {suite}")
    return dates


def _check_versions(lock: Lock) -> None:
    if not lock.packages:
        return
    for name, wanted in lock.request.require_versions.items():
        found = lock.version_of(name)
        if not has_upstream_version(found, wanted):
            raise LockError(
                f"{name} must be {wanted}, and the lock has {found}",
                hint="another compiler makes other bytes: change require_versions only on purpose",
            )


def has_upstream_version(version: str, wanted: str) -> bool:
    """Whether a Debian version is of that upstream version: 1.85.1+dfsg1-2 is of 1.85.1, not of 1.85."""
    rest = version.partition(":")[2] or version
    return rest == wanted or (rest.startswith(wanted) and rest[len(wanted)] in "+-~")


def _object(
    value: object, what: str, fields: set[str] | None = None, optional: Set[str] = frozenset()
) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise LockError(f"{what} is not an object")
    if fields is not None and set(value) - optional != fields:
        wrong = ", ".join(sorted((set(value) - optional) ^ fields))
        raise LockError(f"{what} has unknown or missing fields: {wrong}")
    return value


def _list(value: object, what: str) -> list[object]:
    if not isinstance(value, list):
        raise LockError(f"{what} is not a list")
    return value


def _matches(value: object, form: re.Pattern[str], what: str) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise LockError(f"{what} has the wrong form: {value!r}")
    return value


def _words(value: object, form: re.Pattern[str], what: str) -> tuple[str, ...]:
    words = tuple(_matches(item, form, what) for item in _list(value, what))
    if not words or len(set(words)) != len(words):
        raise LockError(f"{what}: empty, or one is there twice")
    return words


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the difference between two locks. `old` or `new` is None for an added or removed package."""

    package: str
    old: str | None
    new: str | None
    security: bool

    @property
    def kind(self) -> str:
        if self.old is None:
            return "added"
        if self.new is None:
            return "removed"
        order = compare(self.old, self.new)
        return "upgraded" if order < 0 else "DOWNGRADED" if order > 0 else "SAME VERSION, OTHER BYTES"

    def __str__(self) -> str:
        versions = " -> ".join(version for version in (self.old, self.new) if version)
        note = "  [security update]" if self.security else ""
        return f"{self.kind:10} {self.package} {versions}{note}"


def difference(old: Lock, new: Lock) -> list[Change]:
    """What changes between two locks, by package name; a security update is a change that comes from that suite."""
    before = {item.key: item for item in old.packages}
    after = {item.key: item for item in new.packages}
    changes = []
    for key in sorted(before.keys() | after.keys()):
        was, now = before.get(key), after.get(key)
        if was is not None and now is not None and was.sha256 == now.sha256:
            continue
        changes.append(
            Change(
                package=key[0],
                old=was.version if was else None,
                new=now.version if now else None,
                security=was is not None and now is not None and now.from_security,
            )
        )
    return changes
