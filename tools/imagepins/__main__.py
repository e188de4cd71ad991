# SPDX-License-Identifier: MIT
"""`python -m tools.imagepins write|check ROLE…`: pins of what is built, or whether the build is what is pinned."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from outlayer_attestation.errors import AttestationError
from outlayer_attestation.measure.pin import ImagePin, differences
from tools.bootproof.programs import programs_of
from tools.debroot.__main__ import add_source_options, prepare
from tools.debroot.errors import DebrootError
from tools.debroot.fetch import Sources
from tools.imageaudit.difference import Difference, compare_listings, parse_listing
from tools.imagebuild.errors import ImageBuildError
from tools.imagebuild.locks import TOOLS
from tools.imagebuild.manifest import is_pinned
from tools.imagepins.collect import Built, collect, files_path, pin_path, shapes_of
from tools.imagepins.files import files_text, pinned_files

REPOSITORY = Path(__file__).resolve().parents[2]
NOT_CHECKED = """\
NOTICE ######################################################################
NOTICE  {role} was built from packages that are not the locked ones, because the
NOTICE  archive has moved on. Its pinned values were NOT checked.
NOTICE ######################################################################"""
_SHOWN = 6
_FILES_SHOWN = 20


def run(command: str, role: str, built: Built) -> bool:
    """Write or check the pins of a role; False when one differs."""
    if not is_pinned(built.images / role):
        if command == "write":
            raise ImageBuildError(
                f"{role} was built from packages that are not the locked ones: nothing to pin",
                hint="make images-lock, then make images-pin",
            )
        print(NOT_CHECKED.format(role=role), file=sys.stderr)
        return True
    listing = parse_listing((built.images / role / f"{role}.files.json").read_bytes())
    files = files_path(REPOSITORY, role)
    if command == "write":
        files.parent.mkdir(exist_ok=True)
        files.write_text(files_text(role, listing))
    good = True
    of_files: list[Difference] = []
    for shape, file in shapes_of(REPOSITORY, role).items():
        found = collect(REPOSITORY, role, file, built)
        path = pin_path(REPOSITORY, shape)
        if command == "write":
            path.write_text(found.to_text())
            print(f"{path.relative_to(REPOSITORY)}: {found.uki.sha256} ({found.uki.size / 1e6:.1f} MB)")
        elif not path.is_file():
            print(f"{path} is missing\n  hint: make images-pin", file=sys.stderr)
            good = False
        else:
            pinned = ImagePin.from_bytes(path.read_bytes())
            good = _report(path, differences(pinned, found)) and good
            of_files = compare_listings(pinned_files(files, pinned), listing)
    return _report_files(of_files) and good


def _report_files(wrong: Sequence[Difference]) -> bool:
    if wrong:
        lines = ["  " + difference.text().replace("\n", "\n  ") for difference in wrong[:_FILES_SHOWN]]
        if len(wrong) > _FILES_SHOWN:
            lines.append(f"  and {len(wrong) - _FILES_SHOWN} files more")
        print(
            f"files that differ (there: pinned, here: built): {len(wrong)}", *lines, sep="\n", file=sys.stderr
        )
    return not wrong


def _report(path: Path, wrong: list[str]) -> bool:
    name = path.relative_to(REPOSITORY)
    if not wrong:
        print(f"{name}: as pinned")
        return True
    lines = [f"  {line}" for line in wrong[:_SHOWN]]
    if len(wrong) > _SHOWN:
        lines.append(f"  and {len(wrong) - _SHOWN} more")
    print(f"{name} is not what was built:", *lines, sep="\n", file=sys.stderr)
    if any(line.startswith("inputs.") for line in wrong):
        print(
            "  hint: an input changed; if it was meant to, renew the pins: make images-pin", file=sys.stderr
        )
    else:
        print("  hint: the same inputs gave other bytes; the files that differ follow", file=sys.stderr)
    return False


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.imagepins", description=__doc__)
    parser.add_argument("command", choices=["write", "check"])
    parser.add_argument("roles", nargs="+")
    parser.add_argument("--images", type=Path, default=REPOSITORY / ".build/images")
    add_source_options(parser)
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    options = _arguments(words)
    try:
        sources = Sources.of_this_machine(options.bundle, offline=options.offline)
        tools = prepare(REPOSITORY / TOOLS, sources, allow_current=options.allow_current)
        with tempfile.TemporaryDirectory(prefix="outlayer-pins-") as folder:
            qemu = programs_of(tools.root, Path(folder)).qemu
            built = Built(options.images, options.images / "firmware/OVMF.fd", qemu)
            results = [run(options.command, role, built) for role in options.roles]
    except (AttestationError, DebrootError) as error:
        hint = getattr(error, "hint", "")
        print(f"error: {error}" + (f"\n  hint: {hint}" if hint else ""), file=sys.stderr)
        return 1
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
