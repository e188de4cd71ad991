# SPDX-License-Identifier: MIT
"""`python -m tools.imageaudit inputs|reproduce`: what `outlayer image inputs` and `outlayer image reproduce` run.

Exit codes: 0 done, and the same; 1 something differs; 2 it could not be found out; 3 not understood.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from outlayer_attestation.errors import AttestationError
from tools.debroot.__main__ import add_source_options
from tools.debroot.__main__ import report as report_error
from tools.debroot.cache import cache_home
from tools.debroot.errors import DebrootError
from tools.debroot.fetch import Sources
from tools.debroot.ledger import summary, totals
from tools.imageaudit.inputs import locked, pack
from tools.imageaudit.reproduce import Outcome, Request, commit_of, fresh_cache, needs, reproduce
from tools.imagebuild.stage import PACKAGES

REPOSITORY = Path(__file__).resolve().parents[2]
ROLES = sorted(PACKAGES)
_SHOWN = 30


def say(text: str) -> None:
    """Progress, for a person: results alone are on standard output."""
    print(text, file=sys.stderr, flush=True)


def _inputs(options: argparse.Namespace) -> int:
    sources = Sources.of_this_machine(options.bundle, offline=options.offline)
    roles = options.roles or ROLES
    count, size = pack(locked(REPOSITORY, roles), sources, options.out)
    if options.json:
        print(json.dumps({"folder": str(options.out), "inputs": count, "bytes": size}))
        return 0
    print(f"{options.out}: {count} inputs, {size / 1e6:.0f} MB")
    print("rebuild with them when mirrors have moved on:")
    print(f"  outlayer image reproduce --offline --bundle {options.out} {' '.join(roles)}")
    return 0


def _reproduce(options: argparse.Namespace) -> int:
    outcomes: dict[str, Outcome] = {}
    commit, changed = commit_of(REPOSITORY)
    for role in options.roles or ROLES:
        request = Request(REPOSITORY, role, tuple(options.bundle), options.offline, options.against)
        say(f"{role}: rebuilding commit {commit[:12]} in a clean clone")
        if changed:
            say("  the changes of this checkout that are not committed are NOT part of it")
        log = cache_home() / f"reproduce-{role}.log"
        log.unlink(missing_ok=True)
        with fresh_cache() if options.fresh else contextlib.nullcontext():
            say(f"  {needs(request)}")
            began = time.monotonic()
            outcomes[role] = reproduce(request, commit, log)
        say(f"  built in {(time.monotonic() - began) / 60:.1f} minutes; log: {log}")
        if not options.json:
            print("\n".join(report(role, outcomes[role])))
    if options.json:
        print(
            json.dumps(
                {"commit": commit, "roles": {role: to_json(found) for role, found in outcomes.items()}}
            )
        )
    return 0 if all(outcome.same for outcome in outcomes.values()) else 1


def to_json(outcome: Outcome) -> dict[str, Any]:
    """An outcome for programs."""
    return {
        "same": outcome.same,
        "artifacts": {
            shape: {"uki": pin.uki.sha256, "oci": pin.oci.digest, "firmware": pin.firmware.sha256}
            for shape, pin in outcome.found.items()
        },
        "different_from_pins": outcome.from_pins,
        "different_from_pinned_files": None
        if outcome.from_files is None
        else [asdict(difference) for difference in outcome.from_files],
        "different_from_image": None
        if outcome.from_other is None
        else [asdict(difference) for difference in outcome.from_other],
        "origins": {
            kind.value: {
                origin.value: {"items": items, "bytes": size} for origin, (items, size) in found.items()
            }
            for kind, found in totals(outcome.ledger.entries()).items()
        },
    }


def report(role: str, outcome: Outcome) -> list[str]:
    """Lines that say what the build rests on, and what is the same or where it differs."""
    lines = [f"{role}: {line}" for line in summary(outcome.ledger.entries())]
    for shape, wrong in outcome.from_pins.items():
        found = outcome.found[shape]
        if not wrong:
            lines += [
                f"{role}: REPRODUCED, bit for bit what images/pins/{shape}.json says",
                f"  unified kernel image  sha256:{found.uki.sha256}",
                f"  OCI image             {found.oci.digest}",
                f"  TDX firmware          sha256:{found.firmware.sha256}",
            ]
            continue
        lines.append(f"{role}: NOT what images/pins/{shape}.json says")
        packages = [line.split(":")[0].removeprefix("tree.") for line in wrong if line.startswith("tree.")]
        if packages:
            lines.append(f"  files differ of: {', '.join(packages)}")
        lines += _shown(line for line in wrong if not line.startswith(("tree.", "metadata.events")))
        if outcome.from_files:
            lines.append(f"  files that differ (there: pinned, here: built): {len(outcome.from_files)}")
            lines += _shown(difference.text() for difference in outcome.from_files)
        if outcome.from_other is None:
            lines.append("  to see the bytes that differ, compare with the published image: --against FILE")
    if outcome.from_other is not None:
        lines.append(f"{role}: {'the same as' if not outcome.from_other else 'differs from'} the image given")
        lines += _shown(difference.text() for difference in outcome.from_other)
    return lines


def _shown(texts: Iterable[str]) -> list[str]:
    found = ["  " + text.replace("\n", "\n  ") for text in texts]
    return [*found[:_SHOWN], *([f"  and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else [])]


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.imageaudit", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("inputs", "reproduce"):
        command = commands.add_parser(name)
        command.add_argument("roles", nargs="*", help=f"of {', '.join(ROLES)}; all when none is named")
        add_source_options(command, current=False)
        command.add_argument("--json", action="store_true", help="the result as one JSON document")
        if name == "inputs":
            command.add_argument("--out", type=Path, required=True)
        else:
            command.add_argument("--against", type=Path)
            command.add_argument(
                "--fresh", action="store_true", help="take nothing from a cache: build all of it here"
            )
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    options = _arguments(words)
    if unknown := sorted(set(options.roles) - set(ROLES)):
        say(f"error: there is no role {', '.join(unknown)}\nhint: roles are {', '.join(ROLES)}")
        return 3
    try:
        return _inputs(options) if options.command == "inputs" else _reproduce(options)
    except DebrootError as error:
        report_error(error)
    except AttestationError as error:
        say(f"error: {error}" + (f"\nhint: {error.hint}" if error.hint else ""))
    return 2


if __name__ == "__main__":
    sys.exit(main())
