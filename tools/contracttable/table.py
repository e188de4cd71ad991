# SPDX-License-Identifier: MIT
"""From artifacts and scenarios to the page."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tools.contracttable.errors import TableError
from tools.contracttable.render import Row, Section, page
from tools.contracttable.stage import ARTIFACTS, Measured, Stage, methods_of, stage

# stand-ins for what is not ours, the original's contract and a swap: their gas would tell nothing
UNLISTED = frozenset({"original-main", "swap"})


@dataclass(frozen=True)
class Scenario:
    """Calls of one contract. ``unmeasured``: methods that cannot run here, each with the reason.

    ``run`` calls every other method at least once, by itself or through another method.
    """

    title: str
    run: Callable[[Stage], None]
    unmeasured: Mapping[str, str] = field(default_factory=dict)


def rows_of(
    artifact: str,
    methods: list[str],
    gas: Mapping[str, list[Measured]],
    unmeasured: Mapping[str, str],
) -> list[Row]:
    """A row for every method. Raises ``TableError``, which names what is missing or too much."""
    missing = [method for method in methods if method not in gas and method not in unmeasured]
    if missing:
        raise TableError(
            f"nothing measures {', '.join(missing)} of {artifact}",
            hint=f"call it in tools/contracttable/scenarios/{artifact.replace('-', '_')}.py, or give the reason",
        )
    needless = sorted(set(unmeasured) - set(methods) | set(unmeasured) & set(gas))
    if needless:
        raise TableError(f"{', '.join(needless)} of {artifact} is listed as unmeasured without need")
    return [
        Row(
            method,
            _kind(method, gas.get(method, [])),
            tuple(item.burnt for item in gas.get(method, [])),
            unmeasured.get(method, ""),
        )
        for method in methods
    ]


def _kind(method: str, found: list[Measured]) -> str:
    # on_… is how private callbacks are named; migrate and init are private or once only, but called by people
    if method.startswith("on_") and found and all(item.own for item in found):
        return "callback"
    return "view" if found and all(item.view for item in found) else "change"


def section(artifact: str, scenario: Scenario, *, folder: Path = ARTIFACTS) -> Section:
    """Measure one contract on a chain of its own."""
    code = (folder / f"{artifact}.wasm").read_bytes()
    digest = hashlib.sha256(code).hexdigest()
    with stage(folder) as place:
        scenario.run(place)
        gas = {method: found for (known, method), found in place.gas.items() if known == digest}
    methods = methods_of(code)
    # a scenario may be ahead of the artifact that is built
    unmeasured = {name: reason for name, reason in scenario.unmeasured.items() if name in methods}
    rows = rows_of(artifact, methods, gas, unmeasured)
    return Section(artifact, scenario.title, len(code), digest, rows)


def make(scenarios: Mapping[str, Scenario], *, folder: Path = ARTIFACTS) -> str:
    """The page for all artifacts of a folder but those that tell nothing."""
    artifacts = sorted({path.stem for path in folder.glob("*.wasm")} - UNLISTED)
    without = [artifact for artifact in artifacts if artifact not in scenarios]
    if without:
        raise TableError(
            f"no scenario calls {', '.join(without)}", hint="add one to tools/contracttable/scenarios"
        )
    return page([section(artifact, scenarios[artifact], folder=folder) for artifact in artifacts])
