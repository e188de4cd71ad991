# SPDX-License-Identifier: MIT
"""``python -m tools.contractmutants [PACKAGE…]``: run the mutants of contracts/mutants.json, all or of some packages.

Ends with 1 when a mutant survived that the plan does not explain. A run that was stopped goes on where it was. When
all targets were run, the result is bench/results/mutants.json.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from pathlib import Path

from tools.contractmutants.mutant import MutantError, Plan, summary, unexplained
from tools.contractmutants.run import Ledger, Workshop, digest, list_mutants, run_target
from tools.debroot.__main__ import add_source_options, prepare
from tools.debroot.errors import DebrootError
from tools.debroot.fetch import Sources
from tools.wasmbuild.recipe import read_recipe

REPOSITORY = Path(__file__).resolve().parents[2]
PLAN = REPOSITORY / "contracts" / "mutants.json"
RECIPE = REPOSITORY / "contracts" / "builder" / "recipe.json"
RESULT = REPOSITORY / "bench" / "results" / "mutants.json"


def say(text: str) -> None:
    print(text, flush=True)


def run(options: argparse.Namespace) -> int:
    plan = Plan.read(PLAN)
    recipe = read_recipe(RECIPE)
    sources = Sources.of_this_machine(options.bundle, offline=options.offline)
    root = prepare(REPOSITORY / recipe.lock, sources, allow_current=options.allow_current).root
    folder = options.folder.absolute()
    workshop = Workshop(REPOSITORY, folder, root, recipe)
    workshop.prepare()
    made_of = digest(REPOSITORY, plan)
    ledger = Ledger(folder / "fates.json", made_of)
    for target in plan.targets:
        if not options.packages or target.package in options.packages:
            mutants = list_mutants(options.tool, workshop.contracts, target)
            run_target(workshop, target, mutants, ledger, say)
    if not options.packages:
        document = {
            "made": dt.datetime.now(dt.UTC).date().isoformat(),
            "sources": made_of,
            **summary(ledger.fates, plan),
        }
        RESULT.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    problems = unexplained(ledger.fates, plan)
    print(*problems, sep="\n")
    return 1 if problems else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.contractmutants", description=__doc__)
    parser.add_argument("packages", nargs="*", help="of contracts/mutants.json; default: all")
    parser.add_argument("--tool", type=Path, required=True, help="the program cargo-mutants")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / ".build" / "mutants")
    add_source_options(parser)
    try:
        return run(parser.parse_args())
    except (MutantError, DebrootError) as error:
        print(f"error: {error}\nhint: {error.hint}" if error.hint else f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
