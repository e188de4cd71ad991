# SPDX-License-Identifier: MIT
"""`python -m tools.imagebuild build|firmware|lock …`: images and firmware from the locked tool root, and its locks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.debroot.__main__ import add_source_options, available_packages, prepare, read_lock, report
from tools.debroot.errors import DebrootError
from tools.debroot.fetch import Sources, fetch
from tools.debroot.ledger import Kind, Ledger, Origin
from tools.debroot.sandbox import USUAL, Surroundings, require_namespaces
from tools.imagebuild.build import Inputs, build, require_root
from tools.imagebuild.firmware import build_firmware
from tools.imagebuild.locks import TOOLS, epoch_of, lock_path, refresh_all, wheels_path
from tools.imagebuild.manifest import DEVELOPMENT, MANIFEST, UNPINNED, is_current, manifest
from tools.imagebuild.stage import PACKAGES
from tools.imagebuild.wheels import fetch_wheels, parse_wheels

REPOSITORY = Path(__file__).resolve().parents[2]
ROLES = sorted(PACKAGES)


def gather(
    repository: Path, role: str, sources: Sources, *, allow_current: bool, development: bool = False
) -> Inputs:
    """Every input of a role, verified.

    Errors:
        InputsMovedError: one is nowhere, and current ones were not allowed.
    """
    tools = prepare(repository / TOOLS, sources, allow_current=allow_current)
    packages = available_packages(
        read_lock(repository / lock_path(role)), sources, allow_current=allow_current
    )
    wheels = parse_wheels((repository / wheels_path(role)).read_text())
    found = fetch_wheels(wheels, sources)
    return Inputs(
        role=role,
        tool_root=tools.root,
        lock=packages.lock,
        debs=packages.files,
        wheels=tuple((wheel, found[wheel.sha256]) for wheel in wheels),
        epoch=epoch_of(packages.lock),
        pinned=tools.pinned and packages.pinned,
        development=development,
    )


def make(role: str, options: argparse.Namespace, ledger: Ledger, surroundings: Surroundings) -> None:
    """Build a role, unless nothing changed since the last build."""
    out: Path = options.out / ("development" if options.development else "") / role
    inputs = manifest(REPOSITORY, role) + (DEVELOPMENT if options.development else "")
    if is_current(out, inputs) and not options.force:
        print(f"{role}: nothing changed")
        ledger.note(Kind.IMAGE, role, Origin.CACHE)
        return
    require_root()
    require_namespaces()
    sources = Sources.of_this_machine(options.bundle, offline=options.offline, ledger=ledger)
    gathered = gather(
        REPOSITORY,
        role,
        sources,
        allow_current=options.allow_current,
        development=options.development,
    )
    (out / MANIFEST).unlink(missing_ok=True)
    build(REPOSITORY, gathered, out, surroundings)
    ledger.note(Kind.IMAGE, role, Origin.BUILT)
    (out / MANIFEST).write_text(inputs if gathered.pinned else f"{UNPINNED}\n{inputs}")


def make_firmware(options: argparse.Namespace, ledger: Ledger, surroundings: Surroundings) -> None:
    """The firmware for all roles, from the cache if it was built before."""
    sources = Sources.of_this_machine(options.bundle, offline=options.offline, ledger=ledger)
    tools = prepare(REPOSITORY / TOOLS, sources, allow_current=options.allow_current)
    files = fetch(tools.lock, sources)
    named = {file.filename.rpartition("/")[2]: files[file.sha256] for file in tools.lock.sources}
    out = options.out / "firmware"
    print(build_firmware(tools.root, named, out, surroundings=surroundings, ledger=ledger))


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.imagebuild", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("build", "build roles"), ("firmware", "build the TDX firmware")):
        command = commands.add_parser(name, help=text)
        command.add_argument("--out", type=Path, default=REPOSITORY / ".build/images")
        add_source_options(command)
        command.add_argument("--ledger", type=Path, help="write where everything came from (JSON)")
        if name == "build":
            command.add_argument("roles", nargs="+", choices=ROLES)
            command.add_argument(
                "--development", action="store_true", help="an image that talks more, and says what it is"
            )
            command.add_argument("--force", action="store_true", help="build also when nothing changed")
    lock = commands.add_parser(
        "lock", help="resolve all locks again from the signed indexes; show what changed"
    )
    lock.add_argument("--uv", type=Path, required=True, help="the uv that resolves the wheels")
    lock.add_argument("--dry-run", action="store_true", help="show the changes, write nothing")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None, surroundings: Surroundings = USUAL) -> int:
    """The exit code. `surroundings`: of the builds, for tests that they do not matter."""
    options, ledger = _arguments(words), Ledger()
    try:
        if options.command == "lock":
            refresh_all(REPOSITORY, ROLES, options.uv.absolute(), dry_run=options.dry_run)
        elif options.command == "firmware":
            make_firmware(options, ledger, surroundings)
        else:
            for role in options.roles:
                make(role, options, ledger, surroundings)
        if options.command != "lock" and options.ledger is not None:
            options.ledger.write_text(ledger.to_text())
    except DebrootError as error:
        report(error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
