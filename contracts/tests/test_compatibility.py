# SPDX-License-Identifier: MIT
"""The compatibility page is complete: each method of the original is shown to be the same, or has a row with a test."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import original_abi
import pytest
import wasmtime
from main_world import ARTIFACTS
from test_original_clients import SCENARIOS
from test_original_governance import SHOWN

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "compatibility.md"
SHORT = {"main": "outlayer", "register": "register", "dao": "keystore-dao"}
# the newest rule of the original's defects
LAST_RULE = 52


@dataclass(frozen=True)
class Row:
    """One difference, as the page has it."""

    contract: str
    behaviour: str
    original: str
    ours: str
    rule: str
    test: str

    @property
    def methods(self) -> set[str]:
        """What stands before the colon, in code: the methods that the row is about."""
        return set(re.findall(r"`(\w+)`", self.behaviour.split(":")[0]))


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def table(text: str, heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, without its head."""
    below = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [cells(line) for line in below.splitlines() if line.startswith("| ")][1:]


@cache
def rows() -> list[Row]:
    found = table(PAGE.read_text(), "The table")
    return [Row(SHORT[row[0]], *row[1:5], row[5].strip("`")) for row in found]


def functions_of(path: Path) -> set[str]:
    """The test functions of a file."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, functions) if node.name[:5] == "test_"}


@cache
def all_tests() -> set[str]:
    places = (ROOT / "contracts" / "tests", ROOT / "tests" / "interop")
    return {name for place in places for file in place.glob("test_*.py") for name in functions_of(file)}


@cache
def exports(contract: str) -> set[str]:
    module = wasmtime.Module(wasmtime.Engine(), (ARTIFACTS / f"{contract}.wasm").read_bytes())
    return {item.name for item in module.exports}


def shown_to_be_the_same(contract: str) -> set[str]:
    if contract == "outlayer":
        return {method for _, methods in SCENARIOS.values() for method in methods}
    return set(SHOWN[contract])


@pytest.mark.parametrize(
    ("contract", "method"),
    [(contract, method) for contract, abi in original_abi.CONTRACTS.items() for method in abi],
)
def test_a_method_of_the_original_is_the_same_or_has_a_row(contract: str, method: str) -> None:
    explained = {name for row in rows() if row.contract == contract for name in row.methods}
    assert method in shown_to_be_the_same(contract) | explained
    assert method in exports(contract), "the original's clients call it"


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.test)
def test_a_row_names_a_test_that_exists_and_a_rule_that_is_explained(row: Row) -> None:
    assert row.test in all_tests()
    named = {cells[0] for cells in table(PAGE.read_text(), "The rules")}
    numbered = re.fullmatch(r"R(\d+)", row.rule)
    assert row.rule in named or (numbered and 1 <= int(numbered[1]) <= LAST_RULE)
    assert all((row.behaviour, row.original, row.ours))


def test_each_row_is_about_methods_that_exist() -> None:
    for row in rows():
        known = set(original_abi.CONTRACTS[row.contract])
        assert row.methods <= known, f"{row.behaviour}: {row.methods - known}"


def test_every_rule_explains_a_row() -> None:
    used = {row.rule for row in rows()}
    assert {cells[0] for cells in table(PAGE.read_text(), "The rules")} <= used


def test_nothing_is_shown_that_the_original_does_not_have() -> None:
    for contract, abi in original_abi.CONTRACTS.items():
        assert shown_to_be_the_same(contract) <= set(abi)


def test_the_stand_in_has_every_method_of_the_original_but_the_swaps() -> None:
    left_out = {"top_up_payment_key_with_near", "top_up_payment_key_with_token"}
    assert set(original_abi.MAIN) - exports("original-main") == left_out


def test_methods_of_later_versions_are_not_here() -> None:
    assert not set(original_abi.LATER) & exports("outlayer")


def arguments_of(text: str, method: str) -> set[str]:
    """The names of the arguments of a Rust method, over all methods of this name."""
    found = re.finditer(rf"pub fn {method}\((.*?)\)\s*(?:->[^{{]*)?\{{", text, re.DOTALL)
    return {name for one in found for name in re.findall(r"(\w+)\s*:", one[1])}


@pytest.mark.parametrize("contract", original_abi.CONTRACTS)
def test_the_sources_take_the_arguments_by_the_originals_names(contract: str) -> None:
    """An argument that a contract does not know is not an error, so a wrong name would go unnoticed."""
    sources = (ROOT / "contracts" / contract / "src").glob("*.rs")
    text = "\n".join(path.read_text() for path in sources if path.stem != "tests")
    for method, arguments in original_abi.CONTRACTS[contract].items():
        taken = arguments_of(text, method)
        assert set(arguments) <= taken, f"{contract}.{method}: {set(arguments) - taken}"
