# SPDX-License-Identifier: MIT
"""Find the locked .debs: input bundle, cache, mirror, snapshot. Whatever the source, the SHA-256 decides."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from tools.debroot.cache import cache_home
from tools.debroot.errors import ConfigurationError, CorruptInputError, FetchError, InputsMovedError
from tools.debroot.ledger import Kind, Ledger, Origin
from tools.debroot.lockfile import Lock, Package, SourceFile
from tools.debroot.mirror import SNAPSHOT_VARIABLE, Mirrors, discover

INPUTS_VARIABLE = "OUTLAYER_INPUTS"
PARALLEL = 4
TIMEOUT_SECONDS = 60
TRIES = 3
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Sources:
    """Where .debs and source files may be found, in this order. A bundle is a folder of <sha256>.deb files.

    Attributes:
        ledger: says afterwards where each was found.
    """

    bundles: tuple[Path, ...]
    cache: Path
    mirrors: Mirrors | None
    ledger: Ledger = field(default_factory=Ledger, compare=False)

    @classmethod
    def of_this_machine(
        cls, bundles: Sequence[Path] = (), *, offline: bool = False, ledger: Ledger | None = None
    ) -> Sources:
        """Errors:
        ConfigurationError: a bundle is no folder.
        """
        named = os.environ.get(INPUTS_VARIABLE)
        folders = (*bundles, *([Path(named)] if named else []))
        for folder in folders:
            if not folder.is_dir():
                raise ConfigurationError(
                    f"the input bundle {folder} is no folder", hint="name a folder of inputs by hash"
                )
        mirrors = None if offline else discover()
        return cls(folders, cache_home() / "debs", mirrors, Ledger() if ledger is None else ledger)


def sha256_of(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def fetch(lock: Lock, sources: Sources) -> dict[str, Path]:
    """A verified local file for every package and source file of the lock, by SHA-256.

    Errors:
        InputsMovedError: packages that are in no source, each named.
        CorruptInputError: a source has the file with other bytes.
        FetchError: a mirror could not be reached.
    """
    sources.cache.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(PARALLEL) as pool:
        wanted: list[Package | SourceFile] = [*lock.packages, *lock.sources]
        found = list(pool.map(lambda item: _one(item, lock, sources), wanted))
    missing = [item for item, path in zip(wanted, found, strict=True) if path is None]
    if missing:
        raise InputsMovedError(_moved(missing, sources), hint=_MOVED_HINT)
    return {item.sha256: path for item, path in zip(wanted, found, strict=True) if path is not None}


_MOVED_HINT = (
    f"give the inputs by hash (--bundle DIR or {INPUTS_VARIABLE}), or a snapshot service"
    f" ({SNAPSHOT_VARIABLE}=https://HOST/archive/{{archive}}/{{timestamp}}), or refresh the lock on purpose, or pass"
    " --allow-current to build with what the archive has now (the pinned values are then not checked)"
)


def _name(item: Package | SourceFile) -> str:
    return item.package if isinstance(item, Package) else f"{item.source} (source)"


def _moved(missing: Sequence[Package | SourceFile], sources: Sources) -> str:
    where = "input bundles, cache" + (", mirror" if sources.mirrors else " (offline: no mirror was asked)")
    lines = "".join(f"\n  {_name(item)} {item.version}  sha256:{item.sha256}" for item in missing)
    return f"{len(missing)} locked packages are in none of: {where}{lines}"


def _one(package: Package | SourceFile, lock: Lock, sources: Sources) -> Path | None:
    found = _found(package, lock, sources)
    if found is None:
        return None
    path, origin = found
    sources.ledger.note(Kind.PACKAGE, package.sha256, origin, package.size)
    return path


def _found(package: Package | SourceFile, lock: Lock, sources: Sources) -> tuple[Path, Origin] | None:
    name = package.local_name
    for bundle in sources.bundles:
        if (bundle / name).is_file():
            return _checked(bundle / name, package), Origin.BUNDLE
    cached = sources.cache / name
    if cached.is_file():
        return _checked(cached, package), Origin.CACHE
    if sources.mirrors is None:
        return None
    snapshot = sources.mirrors.snapshot_base(package.suite, lock.indexes.get(package.suite))
    for base in (sources.mirrors.base(package.suite), snapshot):
        if base and _download(f"{base}/{quote(package.filename)}", package, cached):
            return cached, Origin.DOWNLOADED
    return None


def _checked(path: Path, package: Package | SourceFile) -> Path:
    digest = sha256_of(path)
    if digest != package.sha256:
        raise CorruptInputError(
            f"{path} should be {_name(package)} {package.version} with SHA-256 {package.sha256}, and has {digest}",
            hint="the file was changed or damaged; remove it, and find out how it came to be so",
        )
    return path


def _download(url: str, package: Package | SourceFile, target: Path) -> bool:
    """Whether the file is there. It takes its name in the cache only once its hash is right."""
    handle, name = tempfile.mkstemp(prefix=".download-", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        if not _get(url, temporary):
            return False
        digest = sha256_of(temporary)
        if digest != package.sha256:
            raise CorruptInputError(
                f"the mirror's {package.filename} has SHA-256 {digest}, locked is {package.sha256}",
                hint="the mirror is broken or tampered with; nothing was kept",
            )
        temporary.chmod(0o644)
        temporary.rename(target)
        return True
    finally:
        temporary.unlink(missing_ok=True)


def _get(url: str, target: Path) -> bool:
    for attempt in range(1, TRIES + 1):
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer, target.open("wb") as out:
                shutil.copyfileobj(answer, out, _CHUNK)
            return True
        except urllib.error.HTTPError as error:
            if error.code in (404, 410):
                return False
            problem: Exception = error
        except urllib.error.URLError as error:
            if isinstance(error.reason, FileNotFoundError):
                return False
            problem = error
        except (OSError, http.client.HTTPException) as error:
            problem = error
        print(f"fetch: {url.rpartition('/')[2]}: {problem} (try {attempt} of {TRIES})", file=sys.stderr)
    raise FetchError(
        f"{url.rpartition('/')[2]} could not be fetched: {problem}",
        hint="is the network up? With a full cache or an input bundle, --offline needs none",
    ) from problem


def bundle(lock: Lock, sources: Sources, target: Path) -> int:
    """Copy every input of a lock into a folder, named by hash; returns how many bytes it holds then.

    With the folder as input bundle, the lock can be rebuilt when the archive has moved on.
    """
    names = {package.sha256: package.local_name for package in lock.packages}
    names |= {file.sha256: file.local_name for file in lock.sources}
    return copy_by_hash(fetch(lock, sources), names, target)


def copy_by_hash(files: Mapping[str, Path], names: Mapping[str, str], target: Path) -> int:
    """Copy files (SHA-256 -> path) under their local names, unless they are there; returns their bytes."""
    target.mkdir(parents=True, exist_ok=True)
    total = 0
    for digest, path in files.items():
        copy = target / names[digest]
        if not copy.exists() or sha256_of(copy) != digest:
            shutil.copyfile(path, copy)
        total += copy.stat().st_size
    return total
