# SPDX-License-Identifier: MIT
"""Commands over a lock file: `python -m tools.debroot lock|fetch|root|bundle|show LOCK`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.debroot.cache import cache_home
from tools.debroot.errors import DebrootError, InputsMovedError, LockError
from tools.debroot.fetch import Sources, bundle, fetch
from tools.debroot.lockfile import Lock, difference, parse
from tools.debroot.mirror import discover
from tools.debroot.resolve import default_keyring, resolve
from tools.debroot.root import make_root

NOT_PINNED = """\
WARNING ######################################################################
WARNING  The archive no longer has what is locked, and --allow-current was given.
WARNING  This build uses what the archive has NOW. The pinned values were NOT checked.
WARNING ######################################################################"""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A root that stands ready. `pinned` is False if it is not the one of the committed lock."""

    root: Path
    lock: Lock
    pinned: bool


def read_lock(path: Path) -> Lock:
    try:
        return parse(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise LockError(f"{path} cannot be read: {error}") from error


def prepare(path: Path, sources: Sources, *, allow_current: bool = False) -> Prepared:
    """The root of a lock file.

    Errors:
        InputsMovedError: a package is nowhere, and current ones were not allowed.
    """
    available = available_packages(read_lock(path), sources, allow_current=allow_current)
    root = make_root(available.lock, available.files, cache_home() / "roots", sources.ledger)
    return Prepared(root, available.lock, available.pinned)


@dataclass(frozen=True, slots=True)
class Available:
    """Packages that are here and verified: of the lock, or (`pinned` is False) of what the archive has now."""

    lock: Lock
    files: Mapping[str, Path]
    pinned: bool


def available_packages(lock: Lock, sources: Sources, *, allow_current: bool) -> Available:
    """The files of a lock; current ones only if they are allowed, and then said loudly.

    Errors:
        InputsMovedError: a package is nowhere, and current ones were not allowed.
    """
    try:
        return Available(lock, fetch(lock, sources), pinned=True)
    except InputsMovedError as error:
        if not allow_current or sources.mirrors is None:
            raise
        print(f"{error}\n{NOT_PINNED}", file=sys.stderr)
        current = resolve(lock.request, sources.mirrors, default_keyring())
        print(*difference(lock, current), sep="\n", file=sys.stderr)
        return Available(current, fetch(current, sources), pinned=False)


def add_source_options(parser: argparse.ArgumentParser, *, current: bool = True) -> None:
    """Where inputs may come from: options that every tool over locked inputs has."""
    parser.add_argument("--bundle", type=Path, action="append", default=[], help="a folder of inputs by hash")
    parser.add_argument("--offline", action="store_true", help="ask no mirror")
    if current:
        parser.add_argument("--allow-current", action="store_true", help="take moved-on packages, loudly")


def refresh(path: Path, *, dry_run: bool) -> None:
    old = read_lock(path)
    new = resolve(old.request, discover(), default_keyring())
    changes = difference(old, new)
    print(*changes, sep="\n")
    security = sum(change.security for change in changes)
    size = sum(package.size for package in new.packages)
    print(
        f"{len(new.packages)} packages, {size / 1e6:.1f} MB;"
        f" {len(changes)} changes, {security} of them security updates"
    )
    if not dry_run and (changes or old.indexes != new.indexes):
        path.write_text(new.to_text())


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.debroot", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("lock", "resolve the request again from the signed indexes; show what changed"),
        ("fetch", "bring every locked package into the cache, verified"),
        ("root", "make the root file system (or find it in the cache) and print its path"),
        ("bundle", "copy every input, named by hash, into a folder"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("lock", type=Path)
        if name == "lock":
            command.add_argument("--dry-run", action="store_true", help="show the changes, write nothing")
            continue
        add_source_options(command, current=name == "root")
        if name == "bundle":
            command.add_argument("--out", type=Path, required=True)
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    arguments = _arguments(words)
    try:
        if arguments.command == "lock":
            refresh(arguments.lock, dry_run=arguments.dry_run)
            return 0
        sources = Sources.of_this_machine(arguments.bundle, offline=arguments.offline)
        if arguments.command == "fetch":
            found = fetch(read_lock(arguments.lock), sources)
            print(f"{len(found)} packages are here and verified")
        elif arguments.command == "bundle":
            total = bundle(read_lock(arguments.lock), sources, arguments.out)
            print(f"{arguments.out}: {total / 1e6:.1f} MB")
        else:
            print(prepare(arguments.lock, sources, allow_current=arguments.allow_current).root)
    except DebrootError as error:
        report(error)
        return error.exit_code
    return 0


def report(error: DebrootError) -> None:
    print(f"error: {error}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
