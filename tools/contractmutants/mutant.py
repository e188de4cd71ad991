# SPDX-License-Identifier: MIT
"""What a mutant is, and what became of it. No program is run here."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PLACE = re.compile(r":\d+:\d+: ")


class MutantError(Exception):
    """The run cannot go on; ``hint`` says what to do."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Fate(enum.StrEnum):
    """What became of a mutant. ``UNVIABLE`` ones do not compile; ``SURVIVED``: no test noticed."""

    UNVIABLE = "unviable"
    UNIT_TESTS = "seen by unit tests"
    LOCALNET = "seen on the localnet"
    SURVIVED = "survived"


@dataclass(frozen=True)
class Mutant:
    """``name`` holds no line numbers, so that it means the same after an edit elsewhere in the file.

    ``span``: start line, start column, end line, end column, from 1; the end is after the last character.
    """

    name: str
    package: str
    file: str
    span: tuple[int, int, int, int]
    replacement: str

    def apply(self, text: str) -> str:
        """The file's text with the change."""
        start_line, start_column, end_line, end_column = self.span
        lines = text.splitlines(keepends=True)
        head = "".join(lines[: start_line - 1]) + lines[start_line - 1][: start_column - 1]
        tail = lines[end_line - 1][end_column - 1 :] + "".join(lines[end_line:])
        return f"{head}{self.replacement}{tail}"


@dataclass(frozen=True)
class Target:
    """Files of one package that decide, and the tests on the localnet that see what they decide."""

    package: str
    files: tuple[str, ...]
    contracts: tuple[str, ...]
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """``version`` of cargo-mutants, what is mutated, and why the known survivors survive, by name."""

    version: str
    targets: tuple[Target, ...]
    survivors: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Raises ``MutantError`` for a file of another form."""
        try:
            document = json.loads(path.read_text())
            targets = tuple(
                Target(item["package"], *(tuple(item[name]) for name in ("files", "contracts", "tests")))
                for item in document["targets"]
            )
            return cls(document["version"], targets, dict(document["survivors"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MutantError(f"{path} is no plan: {error!r}") from error


def read_list(text: str) -> list[Mutant]:
    """What ``cargo mutants --list --json`` prints. Equal changes in one function are told apart by ``#2``, ``#3``…"""
    found: list[Mutant] = []
    seen: dict[str, int] = {}
    for item in json.loads(text):
        name = _PLACE.sub(": ", item["name"], count=1)
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            name = f"{name} #{seen[name]}"
        span = item["span"]
        ends = (span["start"]["line"], span["start"]["column"], span["end"]["line"], span["end"]["column"])
        found.append(Mutant(name, item["package"], item["file"], ends, item["replacement"]))
    return found


def summary(fates: Mapping[str, Fate], plan: Plan) -> dict[str, Any]:
    """The counts for each file, and the survivors with their reasons."""
    files = sorted({name.partition(": ")[0] for name in fates})
    counted = {file: _counts(fate for name, fate in fates.items() if name.startswith(file)) for file in files}
    alive = sorted(name for name, fate in fates.items() if fate is Fate.SURVIVED)
    return {
        "files": counted,
        "survivors": [{"mutant": name, "why": plan.survivors.get(name)} for name in alive],
    }


def _counts(fates: Iterable[Fate]) -> dict[str, int]:
    found = list(fates)
    return {str(fate): found.count(fate) for fate in Fate}


def unexplained(fates: Mapping[str, Fate], plan: Plan) -> Sequence[str]:
    """Survivors without a reason, and reasons for what did not survive."""
    alive = {name for name, fate in fates.items() if fate is Fate.SURVIVED}
    missing = [f"{name}: survived, and nothing says why" for name in sorted(alive - set(plan.survivors))]
    needless = sorted(name for name in plan.survivors if name in fates and name not in alive)
    return [*missing, *(f"{name}: is said to survive, and does not" for name in needless)]
