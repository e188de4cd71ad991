# SPDX-License-Identifier: MIT
"""The runner of mutants: what is changed, what becomes of it, and that no survivor goes unnamed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.contractmutants.__main__ import PLAN, REPOSITORY, RESULT
from tools.contractmutants.mutant import Fate, Mutant, MutantError, Plan, read_list, summary, unexplained
from tools.contractmutants.run import Ledger, Target, Workshop, fate_of
from tools.debroot.errors import CommandError
from tools.wasmbuild.recipe import Recipe

TEXT = "fn a(x: u64) -> u64 {\n    x + 1\n}\n"
PLUS = {"start": {"line": 2, "column": 7}, "end": {"line": 2, "column": 8}}
PLAIN = Plan("1", (), {})


def listed(name: str, span: Any = None, replacement: str = "-") -> dict[str, Any]:
    """One item as cargo-mutants lists it."""
    fields = {"name": name, "package": "p", "file": "p/src/a.rs", "replacement": replacement}
    return {**fields, "span": span or PLUS, "genre": "BinaryOperator"}


def mutants(*names: str) -> list[Mutant]:
    return read_list(json.dumps([listed(name) for name in names]))


def test_a_mutant_changes_what_its_span_covers_and_nothing_else() -> None:
    [mutant] = mutants("p/src/a.rs:2:7: replace + with - in a")
    assert mutant.apply(TEXT) == TEXT.replace("+", "-")
    body = {"start": {"line": 2, "column": 5}, "end": {"line": 2, "column": 10}}
    [whole] = read_list(json.dumps([listed("p/src/a.rs:2:5: replace a -> u64 with 0", body, "0")]))
    assert whole.apply(TEXT) == "fn a(x: u64) -> u64 {\n    0\n}\n"


@given(lines=st.lists(st.text(alphabet="ab é", max_size=6), min_size=1, max_size=6), data=st.data())
def test_around_the_span_every_text_stays(lines: list[str], data: st.DataObject) -> None:
    text = "".join(f"{line}\n" for line in lines)
    places = [(row + 1, at + 1) for row, line in enumerate(lines) for at in range(len(line) + 1)]
    start, end = sorted(data.draw(st.tuples(st.sampled_from(places), st.sampled_from(places))))
    changed = Mutant("m", "p", "f", (*start, *end), "<>").apply(text)
    head, tail = changed.split("<>")
    assert text.startswith(head)
    assert text.endswith(tail)
    kept = Mutant("m", "p", "f", (*start, *end), text[len(head) : len(text) - len(tail)])
    assert kept.apply(text) == text


def test_a_name_holds_no_line_and_equal_changes_are_numbered() -> None:
    found = mutants("p/src/a.rs:2:7: replace + with - in a", "p/src/a.rs:9:1: replace + with - in a")
    names = [mutant.name for mutant in found]
    assert names == ["p/src/a.rs: replace + with - in a", "p/src/a.rs: replace + with - in a #2"]


class Bench(Workshop):
    """A workshop whose tests do as they are told."""

    def __init__(self, folder: Path, passes: dict[str, bool | None]) -> None:
        super().__init__(folder, folder, folder, Recipe("", "", (), ()))
        object.__setattr__(self, "passes", passes)
        (self.contracts / "p/src").mkdir(parents=True)
        (self.contracts / "p/src/a.rs").write_text(TEXT)

    def seen(self) -> str:
        return (self.contracts / "p/src/a.rs").read_text()

    def cargo_test(self, package: str, *words: str) -> bool:
        assert self.seen() != TEXT
        return bool(self.passes["compile" if words else "unit"])

    def localnet(self, target: Target) -> bool:
        passed = self.passes["localnet"]
        if passed is None:
            raise CommandError("no wasm")
        return passed


@pytest.mark.parametrize(
    ("compiles", "unit", "localnet", "fate"),
    [
        (False, True, True, Fate.UNVIABLE),
        (True, False, True, Fate.UNIT_TESTS),
        (True, True, False, Fate.LOCALNET),
        (True, True, None, Fate.UNVIABLE),
        (True, True, True, Fate.SURVIVED),
    ],
)
def test_a_mutants_fate_is_the_first_that_notices(
    tmp_path: Path, compiles: bool, unit: bool, localnet: bool | None, fate: Fate
) -> None:
    bench = Bench(tmp_path, {"compile": compiles, "unit": unit, "localnet": localnet})
    [mutant] = mutants("p/src/a.rs:2:7: replace + with - in a")
    target = Target("p", ("p/src/a.rs",), ("p",), ("tests",))
    assert fate_of(bench, target, mutant) is fate
    assert bench.seen() == TEXT, "the change is taken back"


def test_what_is_known_is_kept_as_long_as_sources_and_tests_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "new" / "fates.json"
    Ledger(path, "a").add("m", Fate.LOCALNET)
    assert Ledger(path, "a").fates == {"m": Fate.LOCALNET}
    assert Ledger(path, "b").fates == {}


def test_a_survivor_without_a_reason_and_a_reason_without_a_survivor_are_named() -> None:
    plan = Plan("1", (), {"f: b": "equal", "f: c": "stale", "elsewhere: d": "not run"})
    fates = {"f: a": Fate.SURVIVED, "f: b": Fate.SURVIVED, "f: c": Fate.UNIT_TESTS}
    found = unexplained(fates, plan)
    assert [line.partition(":")[2].split(":")[0].strip() for line in found] == ["a", "c"]
    shown = summary(fates, plan)
    assert shown["survivors"] == [{"mutant": "f: a", "why": None}, {"mutant": "f: b", "why": "equal"}]
    assert shown["files"]["f"]["survived"] == 2


def test_a_plan_of_another_form_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    for text in ("", "[]", '{"version": "1", "targets": [{}], "survivors": {}}'):
        path.write_text(text)
        with pytest.raises(MutantError, match="is no plan"):
            Plan.read(path)


def test_the_plan_names_files_and_tests_that_exist() -> None:
    plan = Plan.read(PLAN)
    for target in plan.targets:
        assert all((REPOSITORY / "contracts" / file).is_file() for file in target.files)
        assert all((REPOSITORY / test).is_file() for test in target.tests)


def test_the_last_run_left_no_survivor_without_a_reason() -> None:
    if not RESULT.exists():
        pytest.skip("no run of make contracts-mutants is recorded")
    result = json.loads(RESULT.read_text())
    assert [item["mutant"] for item in result["survivors"] if not item["why"]] == []
    reasons = Plan.read(PLAN).survivors
    assert {item["mutant"]: item["why"] for item in result["survivors"]} == dict(reasons)
