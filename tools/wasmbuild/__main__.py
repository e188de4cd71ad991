# SPDX-License-Identifier: MIT
"""`python -m tools.wasmbuild build|check|stale RECIPE...`: make the committed artifacts, or prove them."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tools.debroot.__main__ import add_source_options, prepare, report
from tools.debroot.errors import DebrootError
from tools.debroot.fetch import Sources
from tools.debroot.sandbox import require_namespaces
from tools.wasmbuild.build import build
from tools.wasmbuild.compare import first_difference
from tools.wasmbuild.recipe import (
    INPUTS,
    SUMS,
    Recipe,
    artifact_sums,
    changed_inputs,
    inputs,
    is_current,
    read_recipe,
)

REPOSITORY = Path(__file__).resolve().parents[2]


def make(path: Path, recipe: Recipe, options: argparse.Namespace) -> int:
    """Build into the output folder, unless nothing changed since the last build."""
    if is_current(REPOSITORY, path, recipe) and not options.force:
        print(f"{recipe.output}: nothing changed")
        return 0
    output = REPOSITORY / recipe.output
    output.mkdir(exist_ok=True)
    manifest = inputs(REPOSITORY, path, recipe)
    with tempfile.TemporaryDirectory(prefix="artifacts-") as folder:
        fresh = Path(folder)
        rebuild(recipe, fresh, options)
        for item in recipe.artifacts:
            (output / item.file).write_bytes((fresh / item.file).read_bytes())
            (output / item.file).chmod(0o644)
    (output / SUMS).write_text(artifact_sums(output, recipe.artifacts))
    (output / INPUTS).write_text(manifest)
    print(artifact_sums(output, recipe.artifacts), end="")
    return 0


def rebuild(recipe: Recipe, out: Path, options: argparse.Namespace) -> None:
    require_namespaces()
    sources = Sources.of_this_machine(options.bundle, offline=options.offline)
    prepared = prepare(REPOSITORY / recipe.lock, sources, allow_current=options.allow_current)
    build(REPOSITORY, recipe, prepared.root, out)


def check(path: Path, recipe: Recipe, options: argparse.Namespace) -> int:
    """Rebuild from scratch elsewhere and compare; 1 if any artifact differs."""
    status = stale(path, recipe)
    with tempfile.TemporaryDirectory(prefix="check-") as folder:
        rebuild(recipe, Path(folder), options)
        for item in recipe.artifacts:
            committed = REPOSITORY / recipe.output / item.file
            found = first_difference(committed.read_bytes(), (Path(folder) / item.file).read_bytes())
            print(f"{recipe.output}/{item.file}: {found or 'equal'}")
            status = status or int(found is not None)
    return status


def stale(path: Path, recipe: Recipe) -> int:
    """1 if the artifacts were not built from the sources that are here, with what changed."""
    if is_current(REPOSITORY, path, recipe):
        return 0
    recorded = REPOSITORY / recipe.output / INPUTS
    names = changed_inputs(
        recorded.read_text() if recorded.is_file() else "", inputs(REPOSITORY, path, recipe)
    )
    changed = ", ".join(names) or "the artifacts themselves"
    print(f"{recipe.output}: not built from these inputs; changed: {changed}", file=sys.stderr)
    return 1


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.wasmbuild", description=__doc__)
    parser.add_argument("command", choices=["build", "check", "stale"])
    parser.add_argument("recipes", type=Path, nargs="+")
    parser.add_argument("--force", action="store_true", help="build also when nothing changed")
    add_source_options(parser)
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    options = _arguments(words)
    status = 0
    try:
        for given in options.recipes:
            path = given.resolve()
            recipe = read_recipe(path)
            if options.command == "stale":
                status = stale(path, recipe) or status
            else:
                action = make if options.command == "build" else check
                status = action(path, recipe, options) or status
    except DebrootError as error:
        report(error)
        return error.exit_code
    return status


if __name__ == "__main__":
    sys.exit(main())
