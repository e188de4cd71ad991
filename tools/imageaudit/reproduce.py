# SPDX-License-Identifier: MIT
"""Rebuild a role from a clean clone, and compare with the pinned values of that commit."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from outlayer_attestation.measure.pe import parse_pe
from outlayer_attestation.measure.pin import ImagePin, differences
from tools.bootproof.programs import programs_of
from tools.debroot.__main__ import prepare
from tools.debroot.cache import CACHE_VARIABLE, cache_home, remove_tree
from tools.debroot.fetch import Sources
from tools.debroot.ledger import Ledger, parse_ledger
from tools.debroot.process import run
from tools.debroot.root import root_key
from tools.imageaudit.difference import Difference, compare_images, compare_listings, parse_listing
from tools.imageaudit.inputs import locked
from tools.imagebuild.errors import AuditError
from tools.imagebuild.locks import TOOLS
from tools.imagepins.collect import Built, collect, files_path, pin_path, shapes_of
from tools.imagepins.files import pinned_files

# what bench/results/images.json says (make bench-images), rounded up; minutes on two cores
ROOT_BYTES = 850_000_000
SCRATCH_BYTES = 1_200_000_000
MEMORY_BYTES = 1_000_000_000
ROOT_MINUTES, FIRMWARE_MINUTES, BUILD_MINUTES = 1.2, 2.5, 1.5


@dataclass(frozen=True, slots=True)
class Request:
    """What to rebuild and how."""

    repository: Path
    role: str
    bundles: tuple[Path, ...]
    offline: bool
    against: Path | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it.

    Attributes:
        found: pin of what was built, by shape.
        from_pins: shape -> differences from the committed pin, in words; empty when there is none.
        from_files: differences from the committed list of files; None when the commit has no list.
        from_other: differences from the image given, file by file; None when none was given.
        ledger: where everything came from.
    """

    found: dict[str, ImagePin]
    from_pins: dict[str, list[str]]
    from_files: list[Difference] | None
    from_other: list[Difference] | None
    ledger: Ledger = field(default_factory=Ledger)

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not any(self.from_pins.values()) and not self.from_files and not self.from_other


def commit_of(repository: Path) -> tuple[str, bool]:
    """The commit that is checked out, and whether the checkout has changes beside it."""
    commit = run(["git", "rev-parse", "HEAD"], cwd=repository).strip()
    status = run(["git", "status", "--porcelain", "--untracked-files=no"], cwd=repository).strip()
    return commit, bool(status)


def needs(request: Request) -> str:
    """What it takes, before it is taken."""
    inputs = locked(request.repository, [request.role])
    missing = inputs.missing(request.bundles)
    tool_root = cache_home() / "roots" / root_key(inputs.locks[0])
    root = 0 if tool_root.is_dir() else ROOT_BYTES
    disk = missing + root + SCRATCH_BYTES
    minutes = BUILD_MINUTES + FIRMWARE_MINUTES + (ROOT_MINUTES if root else 0)
    free = shutil.disk_usage(_existing(cache_home())).free
    where = "in no bundle and not in the cache, and no mirror is asked" if request.offline else "to download"
    return (
        f"needs about {disk / 1e9:.1f} GB of disk at {cache_home()} ({free / 1e9:.0f} GB are free),"
        f" {MEMORY_BYTES / 1e9:.0f} GB of memory and {minutes:.0f} minutes on two cores;"
        f" {f'{missing / 1e6:.0f} MB are {where}' if missing else 'every input is here'}"
    )


@contextlib.contextmanager
def fresh_cache() -> Iterator[None]:
    """While the block runs, a cache of its own with nothing in it but the programs that fetch; removed after."""
    home = cache_home()
    scratch = home / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    before = os.environ.get(CACHE_VARIABLE)
    fresh = Path(tempfile.mkdtemp(prefix="fresh-", dir=scratch))
    (fresh / "uv").symlink_to(home / "uv")
    os.environ[CACHE_VARIABLE] = str(fresh)
    try:
        yield
    finally:
        os.environ.pop(CACHE_VARIABLE)
        if before is not None:
            os.environ[CACHE_VARIABLE] = before
        remove_tree(fresh)


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def reproduce(request: Request, commit: str, log: Path) -> Outcome:
    """Build in a clone of that commit and compare.

    Raises:
        AuditError: the clone or the build failed.
        DebrootError: an input is nowhere, or not what is locked.
    """
    if request.against is not None:
        # now rather than after minutes of building
        artifact_of(request.against, request.role)
    Sources.of_this_machine(request.bundles, offline=request.offline)
    scratch = cache_home() / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="reproduce-", dir=scratch) as name:
        clone, out = Path(name) / "clone", Path(name) / "out"
        run(["git", "clone", "--quiet", "--no-hardlinks", request.repository, clone])
        run(["git", "checkout", "--quiet", "--detach", commit], cwd=clone)
        pinned, ledger = _read_pins(clone, request.role), Ledger()
        for words in (["firmware"], ["build", request.role]):
            recorded = Path(name) / "ledger.json"
            _build(request, clone, [*words, "--out", str(out), "--ledger", str(recorded)], log)
            ledger.merge(parse_ledger(recorded.read_text()))
        return _compare(request, clone, out, pinned, ledger)


def _build(request: Request, clone: Path, words: Sequence[str], log: Path) -> None:
    options = [word for folder in request.bundles for word in ("--bundle", str(folder.absolute()))]
    options += ["--offline"] if request.offline else []
    with log.open("ab") as output:
        done = subprocess.run(
            [sys.executable, "-m", "tools.imagebuild", *words, *options],
            cwd=clone,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=output,
            stderr=output,
            check=False,
        )
    if done.returncode != 0:
        end = log.read_text(errors="replace").splitlines()[-12:]
        raise AuditError(
            "the build failed:\n" + "\n".join(f"  | {line}" for line in end), hint=f"the whole log is {log}"
        )


def _compare(request: Request, clone: Path, out: Path, pinned: _Pinned, ledger: Ledger) -> Outcome:
    sources = Sources.of_this_machine(request.bundles, offline=request.offline)
    root = prepare(clone / TOOLS, sources).root
    found, from_pins = {}, {}
    listing = parse_listing((out / request.role / f"{request.role}.files.json").read_bytes())
    with tempfile.TemporaryDirectory(prefix="outlayer-audit-") as folder:
        built = Built(out, out / "firmware/OVMF.fd", programs_of(root, Path(folder)).qemu)
        for shape, file in shapes_of(clone, request.role).items():
            found[shape] = collect(clone, request.role, file, built)
            from_pins[shape] = differences(pinned.shapes[shape], found[shape])
    other = None
    if request.against is not None:
        other = compare_with(request.against, out / request.role, request.role)
    from_files = None if pinned.files is None else compare_listings(pinned.files, listing)
    return Outcome(found, from_pins, from_files, other, ledger)


@dataclass(frozen=True, slots=True)
class _Pinned:
    """What a commit says about a role: a pin for each shape, and the list of files, which older commits lack."""

    shapes: dict[str, ImagePin]
    files: dict[str, dict[str, Any]] | None


def _read_pins(clone: Path, role: str) -> _Pinned:
    shapes = {}
    for shape in shapes_of(clone, role):
        path = pin_path(clone, shape)
        if not path.is_file():
            raise AuditError(
                f"{path.name} is not in images/pins of this commit", hint="nothing to compare with"
            )
        shapes[shape] = ImagePin.from_bytes(path.read_bytes())
    files = files_path(clone, role)
    listings = [pinned_files(files, pin) for pin in shapes.values()] if files.is_file() else []
    return _Pinned(shapes, listings[0] if listings else None)


def artifact_of(against: Path, role: str) -> Path:
    """The listing or unified kernel image to compare with, seen to be one.

    Raises:
        AuditError, ImageError: it is missing, or something else.
    """
    file = against / f"{role}.efi" if against.is_dir() else against
    if not file.is_file():
        raise AuditError(f"{file} is missing", hint=f"name {role}.efi, {role}.files.json or their folder")
    if file.suffix == ".json":
        parse_listing(file.read_bytes())
    else:
        parse_pe(file.read_bytes())
    return file


def compare_with(against: Path, built: Path, role: str) -> list[Difference]:
    """Compare with a folder of artifacts, a listing, or a unified kernel image. Raises as ``artifact_of``."""
    listing = parse_listing((built / f"{role}.files.json").read_bytes())
    file = artifact_of(against, role)
    if file.suffix == ".json":
        return compare_listings(parse_listing(file.read_bytes()), listing)
    owners = {path: str(item["owner"]) for path, item in listing.items()}
    return compare_images(file, built / f"{role}.efi", owners)
