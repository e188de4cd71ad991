# SPDX-License-Identifier: MIT
"""Cut an installed tree down to its allow-list, with every shared library that what is left asks for.

Runs inside mkosi, after the packages were installed and before the artifacts are made.
"""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from tools.imagebuild.content import Content, ContentError
from tools.imagebuild.elf import MAGIC, closure, needed

LIBRARIES = PurePosixPath("usr/lib/x86_64-linux-gnu")
ENABLED = PurePosixPath("etc/systemd/system")
_DPKG = PurePosixPath("var/lib/dpkg/info")
_DOC = PurePosixPath("usr/share/doc")
SECONDS_OF_A_DAY = 86400
_PREFIXES = ("bin/", "sbin/", "lib/", "lib64/")


def prune(root: Path, content: Content) -> None:
    """Remove all that is not kept.

    Errors:
        ContentError: something kept asks for a library that the tree does not have.
    """
    libraries = _libraries(root)
    for path in list(_entries(root)):
        if path not in libraries and not content.keeps(path):
            (root / path).unlink()
    wanted = _wanted(root, libraries, content)
    missing = wanted - {path.name for path in libraries} - _interpreters(root)
    if missing:
        askers = [str(path) for path in _entries(root) if missing & set(_needed(root / path))]
        raise ContentError(
            f"the image lacks the libraries {sorted(missing)}, which these need: {sorted(askers)}"
        )
    kept = {path for path in libraries if path.name in wanted}
    kept |= {path.parent / _library_file(root, path).name for path in kept}
    for path in libraries - kept:
        (root / path).unlink()
    _remove_dangling(root)
    _restrict_accounts(root, content)
    _remove_set_id(root)
    _remove_empty(root, content)


def owners(root: Path) -> dict[str, str]:
    """Which package each path came with, by dpkg's lists; links into /usr are followed as Debian merges them."""
    found = {}
    for listing in sorted((root / _DPKG).glob("*.list")):
        package = listing.name.removesuffix(".list").partition(":")[0]
        for line in listing.read_text().splitlines():
            path = line.lstrip("/")
            if path.startswith(_PREFIXES):
                path = f"usr/{path}"
            found[path] = package
    return found


def drop_copyrights(root: Path, known: Mapping[str, str]) -> None:
    """The copyright files of packages of which nothing else is left: they would name what is not there."""
    here = {
        known[str(path)]
        for path in _entries(root)
        if str(path) in known and path.parts[: len(_DOC.parts)] != _DOC.parts
    }
    for folder in list((root / _DOC).iterdir()):
        if folder.name in here:
            continue
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def remove(root: Path, patterns: tuple[str, ...]) -> None:
    """Remove single files or links by name."""
    for pattern in patterns:
        (root / pattern).unlink()


def set_account_days(root: Path, epoch: int) -> None:
    """Give every account the day of the epoch as the one on which its password was changed, shadow(5).

    No program can be trusted with it: mkosi starts systemd-sysusers without SOURCE_DATE_EPOCH, and useradd and
    pwconv take today when SOURCE_DATE_EPOCH lies ahead of the machine's clock.
    """
    path = root / "etc/shadow"
    day = str(epoch // SECONDS_OF_A_DAY)
    accounts = [line.split(":") for line in path.read_text().splitlines()]
    path.write_text("".join(":".join([*fields[:2], day, *fields[3:]]) + "\n" for fields in accounts))


def set_times(root: Path, epoch: int) -> None:
    """One time for the root and all below; mkosi by itself only takes back what is later."""
    for inside, folders, files in os.walk(root):
        for path in (Path(inside), *(Path(inside) / name for name in (*folders, *files))):
            os.utime(path, (epoch, epoch), follow_symlinks=False)


def _entries(root: Path) -> Iterator[PurePosixPath]:
    """Everything but folders, links not followed."""
    for inside, folders, files in os.walk(root):
        here = Path(inside)
        for name in [*files, *(name for name in folders if (here / name).is_symlink())]:
            yield PurePosixPath((here / name).relative_to(root).as_posix())


def _libraries(root: Path) -> set[PurePosixPath]:
    found = (root / LIBRARIES).glob("*.so*")
    return {LIBRARIES / path.name for path in found if path.name != "ld-linux-x86-64.so.2"}


def _interpreters(root: Path) -> set[str]:
    return {
        path.name for folder in ("usr/lib64", str(LIBRARIES)) for path in (root / folder).glob("ld-linux*")
    }


def _wanted(root: Path, libraries: set[PurePosixPath], content: Content) -> set[str]:
    """Names of the libraries that stay."""
    asked = {path.name: _needed(_library_file(root, path)) for path in libraries}
    asked |= {path.name: _needed(root / path) for path in _private_libraries(root)}
    named = {
        name
        for name in asked
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in content.loaded_by_name)
    }
    roots = list(named)
    private = {path.name for path in _private_libraries(root)}
    for path in _entries(root):
        if path not in libraries:
            roots += _needed(root / path)
    return closure(roots, asked) - private


def _library_file(root: Path, path: PurePosixPath) -> Path:
    """The file behind a library's name: Debian links libx.so.1 to libx.so.1.2.3 beside it."""
    full = root / path
    return full.parent / full.readlink().name if full.is_symlink() else full


def _private_libraries(root: Path) -> list[PurePosixPath]:
    """Libraries that wheels and systemd bring for themselves and find by their own search path."""
    return [
        path
        for path in _entries(root)
        if ".so" in path.name and path.parent != LIBRARIES and not (root / path).is_symlink()
    ]


def _needed(path: Path) -> list[str]:
    if path.is_symlink() or not path.is_file():
        return []
    with path.open("rb") as handle:
        if handle.read(len(MAGIC)) != MAGIC:
            return []
        handle.seek(0)
        return needed(handle.read())


def _restrict_accounts(root: Path, content: Content) -> None:
    """Drop accounts that nothing runs as; those that stay get no shell."""
    for name in ("passwd", "shadow", "group", "gshadow"):
        path = root / "etc" / name
        lines = [line for line in path.read_text().splitlines() if line.partition(":")[0] in content.accounts]
        if name == "passwd":
            lines = [f"{line.rpartition(':')[0]}:/usr/sbin/nologin" for line in lines]
        path.write_text("".join(f"{line}\n" for line in lines))


def _remove_set_id(root: Path) -> None:
    for path in _entries(root):
        full = root / path
        mode = full.lstat().st_mode
        if not full.is_symlink() and mode & (stat.S_ISUID | stat.S_ISGID):
            full.chmod(stat.S_IMODE(mode) & ~(stat.S_ISUID | stat.S_ISGID))


def _remove_dangling(root: Path) -> None:
    """Links in the folders of enabled units whose unit is gone."""
    for path in list(_entries(root)):
        full = root / path
        if not full.is_symlink() or path.parts[:3] != ENABLED.parts:
            continue
        target = full.readlink()
        inside = root / target.relative_to("/") if target.is_absolute() else full.parent / target
        if not inside.exists() and str(target) != "/dev/null":
            full.unlink()


def _remove_empty(root: Path, content: Content) -> None:
    for inside, _, _ in os.walk(root, topdown=False):
        folder = Path(inside)
        path = PurePosixPath(folder.relative_to(root).as_posix())
        if folder != root and not content.keeps_empty(path) and not any(folder.iterdir()):
            folder.rmdir()
