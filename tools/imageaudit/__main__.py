# SPDX-License-Identifier: MIT
"""`python -m tools.imageaudit inputs|reproduce`: what `outlayer image inputs` and `outlayer image reproduce` run.

Exit codes: 0 done, and the same; 1 something differs; 2 it could not be found out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from outlayer_attestation.errors import AttestationError
from tools.debroot.cache import cache_home
from tools.debroot.errors import DebrootError
from tools.debroot.fetch import Sources
from tools.imageaudit.difference import AuditError
from tools.imageaudit.inputs import locked, pack
from tools.imageaudit.reproduce import Outcome, Request, commit_of, needs, reproduce
from tools.imagebuild.stage import PACKAGES

REPOSITORY = Path(__file__).resolve().parents[2]
ROLES = sorted(PACKAGES)
_SHOWN = 30


def _inputs(options: argparse.Namespace) -> int:
    sources = Sources.of_this_machine(options.bundle, offline=options.offline)
    count, size = pack(locked(REPOSITORY, options.roles or ROLES), sources, options.out)
    print(f"{options.out}: {count} inputs, {size / 1e6:.0f} MB")
    print("rebuild with them when mirrors have moved on:")
    print(f"  outlayer image reproduce --offline --bundle {options.out} worker")
    return 0


def _reproduce(options: argparse.Namespace) -> int:
    results = []
    for role in options.roles or ROLES:
        request = Request(REPOSITORY, role, tuple(options.bundle), options.offline, options.against)
        commit, changed = commit_of(REPOSITORY)
        print(f"{role}: rebuilding commit {commit[:12]} in a clean clone", flush=True)
        print(f"  {needs(request)}", flush=True)
        if changed:
            print("  the changes of this checkout that are not committed are NOT part of it", flush=True)
        began = time.monotonic()
        log = cache_home() / f"reproduce-{role}.log"
        log.unlink(missing_ok=True)
        outcome = reproduce(request, commit, log)
        print(f"  built in {(time.monotonic() - began) / 60:.1f} minutes; log: {log}")
        report(role, outcome)
        results.append(outcome.same)
    return 0 if all(results) else 1


def report(role: str, outcome: Outcome) -> None:
    """Say what is the same, or where it differs."""
    found = outcome.found
    if not outcome.from_pin:
        print(f"{role}: REPRODUCED, bit for bit what images/pins says")
        print(f"  unified kernel image  sha256:{found.uki.sha256}")
        print(f"  OCI image             {found.oci.digest}")
        print(f"  TDX firmware          sha256:{found.firmware.sha256}")
    else:
        print(f"{role}: NOT what images/pins says")
        packages = [
            line.split(":")[0].removeprefix("tree.") for line in outcome.from_pin if line.startswith("tree.")
        ]
        if packages:
            print(f"  files differ of: {', '.join(packages)}")
        _lines(line for line in outcome.from_pin if not line.startswith(("tree.", "metadata.events")))
        if outcome.from_other is None:
            print("  to see which files, compare with the published image: --against FILE")
    if outcome.from_other is not None:
        print(f"{role}: {'the same as' if not outcome.from_other else 'differs from'} the image given")
        _lines(difference.text() for difference in outcome.from_other)


def _lines(texts: Iterable[str]) -> None:
    shown = list(texts)
    for text in shown[:_SHOWN]:
        print("  " + text.replace("\n", "\n  "))
    if len(shown) > _SHOWN:
        print(f"  and {len(shown) - _SHOWN} more")


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.imageaudit", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("inputs", "reproduce"):
        command = commands.add_parser(name)
        command.add_argument("roles", nargs="*", help=f"of {', '.join(ROLES)}; all when none is named")
        command.add_argument("--bundle", type=Path, action="append", default=[])
        command.add_argument("--offline", action="store_true")
        if name == "inputs":
            command.add_argument("--out", type=Path, required=True)
        else:
            command.add_argument("--against", type=Path)
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    options = _arguments(words)
    if unknown := sorted(set(options.roles) - set(ROLES)):
        print(
            f"error: there is no role {', '.join(unknown)}\n  hint: roles are {', '.join(ROLES)}",
            file=sys.stderr,
        )
        return 2
    try:
        return _inputs(options) if options.command == "inputs" else _reproduce(options)
    except (AuditError, AttestationError, DebrootError) as error:
        hint = getattr(error, "hint", "")
        print(f"error: {error}" + (f"\n  hint: {hint}" if hint else ""), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
