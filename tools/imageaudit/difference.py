# SPDX-License-Identifier: MIT
"""Where two images differ: section, then file and the package that it is of, then the first byte or line."""

from __future__ import annotations

import difflib
import json
import shutil
import stat
import subprocess
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outlayer_attestation.measure.pe import parse_pe, section_data
from tools.imageaudit.cpio import CpioError, Entry, parse
from tools.imagebuild.errors import AuditError
from tools.imagebuild.listing import owner_of

_ZSTD = b"\x28\xb5\x2f\xfd"
_MAX_LINES = 12
_UNREADABLE = (
    OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, tarfile.TarError, zlib.error,
)  # fmt: skip
_MAX_TEXT = 256 * 1024


@dataclass(frozen=True, slots=True)
class Difference:
    """One path that differs.

    Attributes:
        owner: the package that it came with, or what made it.
        what: in words, and `detail` lines that show it.
    """

    path: str
    owner: str
    what: str
    detail: tuple[str, ...] = ()

    def text(self) -> str:
        """As it is printed."""
        lines = [f"{self.path} ({self.owner}): {self.what}", *(f"    {line}" for line in self.detail)]
        return "\n".join(lines)


def compare_images(expected: Path, found: Path, owners: Mapping[str, str]) -> list[Difference]:
    """Compare two unified kernel images, down to the files in the initrd.

    Args:
        owners: path -> package, of the image that was built here.

    Raises:
        AuditError: one cannot be read.
    """
    one, two = _sections(expected), _sections(found)
    differences = []
    for name in dict.fromkeys([*one, *two]):
        if one.get(name) == two.get(name):
            continue
        if name == ".initrd" and name in one and name in two:
            differences += compare_trees(files_of(one[name]), files_of(two[name]), owners)
            differences = differences or [
                Difference(name, "the image", "packed otherwise; its files are the same")
            ]
        else:
            what, detail = _content(one.get(name, b""), two.get(name, b""))
            differences.append(Difference(f"section {name}", "the image", what, detail))
    if not differences and expected.read_bytes() != found.read_bytes():
        differences.append(
            Difference("headers", "the image", "PE headers or the space between sections differ")
        )
    return differences


def _sections(path: Path) -> dict[str, bytes]:
    data = path.read_bytes()
    return {section.name: bytes(section_data(data, section)) for section in parse_pe(data).sections}


def files_of(initrd: bytes) -> list[Entry]:
    """What is in an initrd, packed with zstd or not. Raises ``AuditError``."""
    try:
        return parse(_unpacked(initrd))
    except CpioError as error:
        raise AuditError(f"the initrd cannot be read: {error}", hint="is it one of our images?") from error


def _unpacked(data: bytes) -> bytes:
    if not data.startswith(_ZSTD):
        return data
    program = shutil.which("zstd")
    if program is None:
        raise AuditError("the initrd is packed with zstd, and this machine has none", hint="apt install zstd")
    done = subprocess.run([program, "-dc"], input=data, capture_output=True, check=False)
    if done.returncode != 0:
        raise AuditError(f"the initrd cannot be unpacked: {done.stderr.decode(errors='replace')[:200]}")
    return done.stdout


def compare_trees(
    expected: Sequence[Entry], found: Sequence[Entry], owners: Mapping[str, str]
) -> list[Difference]:
    """File by file; the order of the files last, since it matters only when all else is the same."""
    one, two = ({entry.path: entry for entry in entries} for entries in (expected, found))
    differences = []
    for path in sorted(one.keys() | two.keys()):
        owner = owner_of(path, owners)
        if path not in two:
            differences.append(Difference(path, owner, "is missing in what was built here"))
        elif path not in one:
            differences.append(Difference(path, owner, "is only in what was built here"))
        elif one[path] != two[path]:
            differences.append(_entry(one[path], two[path], owner))
    if not differences and [entry.path for entry in expected] != [entry.path for entry in found]:
        differences.append(Difference(".initrd", "the image", "its files are the same, in another order"))
    return differences


def _entry(one: Entry, two: Entry, owner: str) -> Difference:
    what, detail = _content(one.content, two.content) if one.content != two.content else ("", ())
    names = ("mode", "user", "group", "mtime")
    changed = [
        f"{name} {getattr(one, name):{'o' if name == 'mode' else 'd'}} there,"
        f" {getattr(two, name):{'o' if name == 'mode' else 'd'}} here"
        for name in names
        if getattr(one, name) != getattr(two, name)
    ]
    return Difference(one.path, owner, "; ".join([*([what] if what else []), *changed]), detail)


def _content(one: bytes, two: bytes) -> tuple[str, tuple[str, ...]]:
    at = next((n for n, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
    what = f"{len(one)} bytes there, {len(two)} here; the first that differs is byte {at}"
    texts = [_text(data) for data in (one, two)]
    if texts[0] is None or texts[1] is None:
        window = slice(max(0, at - 8), at + 8)
        return what, (f"there {one[window].hex(' ')}", f"here  {two[window].hex(' ')}")
    return what, _lines(texts[0], texts[1])


def _lines(one: list[str], two: list[str]) -> tuple[str, ...]:
    lines = list(difflib.unified_diff(one, two, "there", "here", n=1, lineterm=""))
    more = len(lines) - (_MAX_LINES + 2)
    return (*lines[: _MAX_LINES + 2], *([f"and {more} lines more"] if more > 0 else []))


def _text(data: bytes) -> list[str] | None:
    if len(data) > _MAX_TEXT or b"\0" in data:
        return None
    try:
        return data.decode().splitlines()
    except UnicodeDecodeError:
        return None


def parse_listing(data: bytes) -> dict[str, dict[str, Any]]:
    """A published listing (``<role>.files.json``). Raises ``AuditError``."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise AuditError(f"the listing is not JSON: {error}") from error
    if not isinstance(value, dict) or not all(
        isinstance(item, dict) and "owner" in item for item in value.values()
    ):
        raise AuditError("the listing is no object of paths", hint="name a file <role>.files.json")
    return value


def compare_listings(
    expected: Mapping[str, Mapping[str, Any]], found: Mapping[str, Mapping[str, Any]]
) -> list[Difference]:
    """The same from listings, which have hashes, and contents only of small texts that the build made itself."""
    differences = []
    for path in sorted(expected.keys() | found.keys()):
        one, two = expected.get(path), found.get(path)
        if one == two:
            continue
        owner = str((one or two or {}).get("owner"))
        if one is None or two is None:
            where = "is only in what was built here" if one is None else "is missing in what was built here"
            differences.append(Difference(path, owner, where))
            continue
        names = sorted(
            name for name in (one.keys() | two.keys()) - {"text"} if one.get(name) != two.get(name)
        )
        detail = tuple(f"{name}: {one.get(name)} there, {two.get(name)} here" for name in names)
        texts = [item.get("text") for item in (one, two)]
        if isinstance(texts[0], str) and isinstance(texts[1], str):
            detail += _lines(texts[0].splitlines(), texts[1].splitlines())
        differences.append(Difference(path, owner, f"{', '.join(names)} differ", detail))
    return differences


def compare_builds(expected: Path, found: Path, role: str) -> list[Difference]:
    """Compare everything that two builds of a role wrote: what is in the images first, then the other files.

    Raises:
        AuditError: an image or a listing cannot be read.
    """
    listing = parse_listing((found / f"{role}.files.json").read_bytes())
    owners = {path: str(item["owner"]) for path, item in listing.items()}
    differences = compare_images(expected / f"{role}.efi", found / f"{role}.efi", owners)
    one, two = (folder / f"{role}.oci" for folder in (expected, found))
    differences += compare_trees(files_of_layer(one), files_of_layer(two), owners)
    # a file of both images is named once
    return list(dict.fromkeys(differences)) + compare_artifacts(expected, found)


def compare_artifacts(expected: Path, found: Path) -> list[Difference]:
    """File by file, what two builds wrote, whatever it is."""
    differences = []
    names = sorted({path.relative_to(top) for top in (expected, found) for path in top.rglob("*")})
    for name in names:
        one, two = expected / name, found / name
        if one.is_dir() and two.is_dir():
            continue
        if not (one.is_file() and two.is_file()):
            what = f"is only in {'what was built here' if two.exists() else 'the other build'}"
            differences.append(Difference(name.as_posix(), "an artifact", what))
        elif one.read_bytes() != two.read_bytes():
            what, detail = _content(one.read_bytes(), two.read_bytes())
            differences.append(Difference(name.as_posix(), "an artifact", what, detail))
    return differences


def files_of_layer(layout: Path) -> list[Entry]:
    """What is in the one layer of an OCI layout. Raises ``AuditError``."""
    try:
        (described,) = json.loads((layout / "index.json").read_bytes())["manifests"]
        manifest = json.loads((layout / "blobs" / described["digest"].replace(":", "/")).read_bytes())
        (layer,) = manifest["layers"]
        with tarfile.open(layout / "blobs" / layer["digest"].replace(":", "/")) as archive:
            return [_tar_entry(archive, item) for item in archive]
    except _UNREADABLE as error:
        raise AuditError(f"{layout.name} cannot be read: {error}", hint="is it one of our images?") from error


def _tar_entry(archive: tarfile.TarFile, item: tarfile.TarInfo) -> Entry:
    kinds = ((item.isdir(), stat.S_IFDIR), (item.issym(), stat.S_IFLNK), (item.isreg(), stat.S_IFREG))
    kind = next((value for is_it, value in kinds if is_it), 0)
    reader = archive.extractfile(item) if item.isreg() else None
    content = reader.read() if reader is not None else item.linkname.encode()
    return Entry(item.name, kind | item.mode, item.uid, item.gid, int(item.mtime), content)
