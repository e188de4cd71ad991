# SPDX-License-Identifier: MIT
"""Refresh the locks of the images from signed indexes, following the kernel's versioned package names."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from tools.debroot.__main__ import read_lock
from tools.debroot.lockfile import Lock, Request, difference
from tools.debroot.mirror import Mirrors, discover
from tools.debroot.resolve import default_keyring, resolve
from tools.imagebuild.errors import ImageBuildError
from tools.imagebuild.wheels import parse_wheels, resolve_wheels, wheels_text

LOCKS = Path("images/locks")
TOOLS = LOCKS / "tools.json"
# the clock of the tests that builds do not depend on it; no build takes anything from it
FAKETIME = LOCKS / "faketime.json"
_KERNEL_SUITE = "trixie-backports"
_KERNEL_META = "linux-modules-cloud-amd64"
_KERNEL = re.compile(r"linux-(base|binary|modules)-([0-9].*-cloud-amd64)")


def lock_path(role: str) -> Path:
    return LOCKS / f"{role}.json"


def wheels_path(role: str) -> Path:
    return LOCKS / f"{role}.wheels.json"


def epoch_of(lock: Lock) -> int:
    """The time that all files of an image carry: that of the newest signed index that its lock was made from.

    Errors:
        ImageBuildError: the lock has no index.
    """
    if not lock.indexes:
        raise ImageBuildError("the lock was never resolved", hint="make images-lock")
    newest = max(lock.indexes.values())
    return int(datetime.strptime(newest, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp())


def refresh(repository: Path, path: Path, mirrors: Mirrors, *, dry_run: bool) -> bool:
    """Resolve one lock again and say what changes; returns whether something does."""
    old = read_lock(repository / path)
    request = _with_newest_kernel(old.request, mirrors)
    new = resolve(request, mirrors, default_keyring())
    changes = difference(old, new)
    security = sum(change.security for change in changes)
    moved = {file.sha256 for file in old.sources} != {file.sha256 for file in new.sources}
    size = sum(package.size for package in new.packages)
    print(f"{path}: {len(new.packages)} packages, {size / 1e6:.1f} MB; {len(changes)} changes,", end=" ")
    print(f"{security} of them security updates" + ("; a source package moved" if moved else ""))
    for change in changes:
        print(f"  {change}")
    # an index that is newer and changes nothing would only move the time in the image
    if (changes or moved) and not dry_run:
        (repository / path).write_text(new.to_text())
    return bool(changes or moved)


def _with_newest_kernel(request: Request, mirrors: Mirrors) -> Request:
    """The request with the kernel packages of the release that the meta package names now."""
    if not any(_KERNEL.fullmatch(name) for name in request.packages):
        return request
    probe = Request(
        architecture=request.architecture,
        suites=request.suites,
        components=request.components,
        packages=(_KERNEL_META,),
        suite_of={_KERNEL_META: _KERNEL_SUITE, **request.suite_of},
    )
    found = [
        _KERNEL.fullmatch(package.package) for package in resolve(probe, mirrors, default_keyring()).packages
    ]
    releases = {match.group(2) for match in found if match}
    if len(releases) != 1:
        raise ImageBuildError(f"{_KERNEL_META} names the kernel releases {sorted(releases)}, not one")
    (release,) = releases
    packages = (_KERNEL.sub(rf"linux-\g<1>-{release}", name) for name in request.packages)
    return replace(request, packages=tuple(packages))


def refresh_wheels(repository: Path, role: str, uv: Path, *, dry_run: bool) -> bool:
    """The same for the wheels of a role, from requirements/dev.txt."""
    path = repository / wheels_path(role)
    old = {wheel.name: wheel for wheel in parse_wheels(path.read_text())}
    new = {wheel.name: wheel for wheel in resolve_wheels(repository, role, uv)}
    changed = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    size = sum(wheel.size for wheel in new.values())
    print(f"{wheels_path(role)}: {len(new)} wheels, {size / 1e6:.1f} MB; {len(changed)} changes")
    for name in changed:
        versions = [wheels[name].version if name in wheels else "-" for wheels in (old, new)]
        print(f"  {name} {' -> '.join(versions)}")
    if changed and not dry_run:
        path.write_text(wheels_text(new.values()))
    return bool(changed)


def refresh_all(repository: Path, roles: list[str], uv: Path, *, dry_run: bool) -> None:
    """The tool root and every role."""
    mirrors = discover()
    for path in (TOOLS, FAKETIME):
        refresh(repository, path, mirrors, dry_run=dry_run)
    for role in roles:
        refresh(repository, lock_path(role), mirrors, dry_run=dry_run)
        refresh_wheels(repository, role, uv, dry_run=dry_run)
