# SPDX-License-Identifier: MIT
"""Every input of the images that is not in the repository, as files named by hash."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tools.debroot.__main__ import read_lock
from tools.debroot.cache import cache_home
from tools.debroot.fetch import Sources, bundle, copy_by_hash
from tools.debroot.lockfile import Lock
from tools.imagebuild.locks import TOOLS, lock_path, wheels_path
from tools.imagebuild.wheels import Wheel, fetch_wheels, parse_wheels


@dataclass(frozen=True, slots=True)
class Locked:
    """All locks of some roles."""

    locks: tuple[Lock, ...]
    wheels: tuple[Wheel, ...]

    def sizes(self) -> dict[str, int]:
        """Local name -> bytes, each input once."""
        packages = {package.local_name: package.size for lock in self.locks for package in lock.packages}
        sources = {file.local_name: file.size for lock in self.locks for file in lock.sources}
        return packages | sources | {wheel.local_name: wheel.size for wheel in self.wheels}

    def missing(self, bundles: Iterable[Path]) -> int:
        """Bytes that are neither in a bundle nor in this machine's cache."""
        folders = (*bundles, cache_home() / "debs", cache_home() / "wheels")
        return sum(
            size
            for name, size in self.sizes().items()
            if not any((folder / name).is_file() for folder in folders)
        )


def locked(repository: Path, roles: Iterable[str]) -> Locked:
    """The locks of the tool root and of these roles."""
    names = list(roles)
    locks = tuple(read_lock(repository / path) for path in (TOOLS, *(lock_path(role) for role in names)))
    wheels = {
        wheel.sha256: wheel
        for role in names
        for wheel in parse_wheels((repository / wheels_path(role)).read_text())
    }
    return Locked(locks, tuple(wheels.values()))


def pack(inputs: Locked, sources: Sources, target: Path) -> tuple[int, int]:
    """Copy every input into a folder; returns how many files and bytes they are.

    Errors:
        InputsMovedError: one is nowhere; it is named.
    """
    for lock in inputs.locks:
        bundle(lock, sources, target)
    names = {wheel.sha256: wheel.local_name for wheel in inputs.wheels}
    copy_by_hash(fetch_wheels(inputs.wheels, sources), names, target)
    sizes = inputs.sizes()
    return len(sizes), sum(sizes.values())
