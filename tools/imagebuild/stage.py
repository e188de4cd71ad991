# SPDX-License-Identifier: MIT
"""What mkosi sees: a copy of the definition, a package archive made from the lock, the role's Python code."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath, PurePosixPath

from tools.debroot.lockfile import Lock
from tools.debroot.sandbox import USUAL, Bind, Surroundings, run_inside
from tools.imagebuild.errors import WheelError

SITE = PurePosixPath("usr/lib/outlayer/site-packages")
IMAGE_DOCUMENT = PurePosixPath("usr/lib/outlayer/image.json")
# what a role's image holds of the workspace
PACKAGES: Mapping[str, tuple[str, ...]] = {
    "worker": ("attestation", "near", "worker"),
    "coordinator": ("attestation", "near", "coordinator"),
}
# the tool code that runs inside mkosi
INSIDE = ("__init__.py", "content.py", "elf.py", "layer.py", "listing.py", "packages.py", "prune.py")
# of the packages, what stands in for hardware or serves tests: no image can make a simulated quote
NOT_IN_IMAGES = frozenset(
    {
        "outlayer_attestation/platform",
        "outlayer_attestation/simulated.py",
        "outlayer_attestation/testing.py",
        "outlayer_attestation/measure/testing.py",
    }
)
_SKIPPED = {"__pycache__", "locks", "pins", "shapes"}
_INDEX = """\
set -eu
cd /out
apt-ftparchive packages pool >dists/trixie/main/binary-amd64/Packages
apt-ftparchive -o APT::FTPArchive::Release::Suite=trixie -o APT::FTPArchive::Release::Codename=trixie \
    -o APT::FTPArchive::Release::Components=main -o APT::FTPArchive::Release::Architectures=amd64 \
    release dists/trixie >/tmp/Release
cp /tmp/Release dists/trixie/Release
"""


def source_files(top: Path) -> list[Path]:
    """The files and links below a folder that a build sees, in a fixed order."""
    found = [
        path
        for path in top.rglob("*")
        if (path.is_file() or path.is_symlink())
        and not _SKIPPED & set(path.relative_to(top).parts)
        and path.suffix not in (".pyc", ".pyo")
    ]
    return sorted(found, key=lambda path: path.relative_to(top).parts)


def belongs(path: PurePath) -> bool:
    """Whether a file of our packages comes into an image."""
    return not any(each.as_posix() in NOT_IN_IMAGES for each in (path, *path.parents))


def stage_definition(repository: Path, target: Path) -> None:
    """images/ and the tool code that mkosi's scripts import."""
    _copy(repository / "images", source_files(repository / "images"), target)
    tools = repository / "tools"
    _copy(tools.parent, [tools / "imagebuild" / name for name in INSIDE], target)
    (target / "tools/__init__.py").touch()
    _normalise(target)


def stage_archive(
    root: Path, lock: Lock, files: Mapping[str, Path], target: Path, surroundings: Surroundings = USUAL
) -> None:
    """A package archive that holds what is locked and nothing else."""
    (target / "dists/trixie/main/binary-amd64").mkdir(parents=True)
    (target / "pool").mkdir()
    for package in lock.packages:
        copy = target / "pool" / PurePosixPath(package.filename).name
        shutil.copyfile(files[package.sha256], copy)
    run_inside(
        root,
        ["sh", "-c", _INDEX],
        binds=[Bind(target, "/out", writable=True)],
        what="indexing the packages",
        surroundings=surroundings,
    )


def stage_code(
    repository: Path,
    role: str,
    wheels: Iterable[tuple[str, Path]],
    epoch: int,
    target: Path,
    *,
    development: bool = False,
) -> None:
    """Wheels and the role's own packages, unpacked into one folder, and the image's description of itself."""
    site = target / SITE
    site.mkdir(parents=True)
    for name, wheel in wheels:
        _unpack(name, wheel, site)
    for name in PACKAGES[role]:
        source = repository / "services" / name / "src"
        _copy(source, [path for path in source_files(source) if belongs(path.relative_to(source))], site)
    document = {
        "format": "outlayer/image/v1",
        "role": role,
        "variant": "development" if development else "production",
        "source_date_epoch": epoch,
    }
    (target / IMAGE_DOCUMENT).write_text(json.dumps(document, indent=1) + "\n")
    _normalise(target)


def _unpack(wheel: str, file: Path, site: Path) -> None:
    """The importable part of a wheel (the binary distribution format, PyPA): scripts and headers are left out."""
    with zipfile.ZipFile(file) as archive:
        for name in sorted(archive.namelist()):
            path = _place(PurePosixPath(name), wheel)
            if name.endswith("/") or path is None:
                continue
            target = site / path
            if target.exists():
                raise WheelError(f"{wheel}: {name} is in another wheel, too")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(name))


def _place(path: PurePosixPath, wheel: str) -> PurePosixPath | None:
    if path.is_absolute() or ".." in path.parts:
        raise WheelError(f"{wheel} holds a file outside of its folder: {path}")
    if path.parts[0].endswith(".data"):
        if len(path.parts) > 2 and path.parts[1] in ("purelib", "platlib"):
            return PurePosixPath(*path.parts[2:])
        return None
    return path


def _copy(top: Path, paths: Iterable[Path], target: Path) -> None:
    for path in paths:
        copy = target / path.relative_to(top)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            copy.symlink_to(path.readlink())
        else:
            shutil.copyfile(path, copy)
            copy.chmod(0o755 if os.access(path, os.X_OK) else 0o644)


def _normalise(top: Path) -> None:
    """Modes of folders and plain files, whatever umask or checkout they come from."""
    for path in _walk(top):
        if path.is_symlink():
            continue
        if path.is_dir():
            path.chmod(0o755)
        else:
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def _walk(top: Path) -> Iterator[Path]:
    yield top
    yield from top.rglob("*")
