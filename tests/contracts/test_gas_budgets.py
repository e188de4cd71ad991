# SPDX-License-Identifier: MIT
"""The table of callback gas in docs/reference/settlement.md says what the contracts reserve, and who measures it."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "reference" / "settlement.md"
FOLDERS = {"main": "outlayer", "register": "register", "keystore DAO": "keystore-dao"}
CONSTANT = re.compile(r"^(?:pub )?const (\w*CALLBACK_GAS): Gas = Gas::from_tgas\((\d+)\);", re.MULTILINE)


def table() -> list[tuple[str, str, str, int, str]]:
    """Contract, source file, constant, Tgas, test."""
    rows = []
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5 and cells[0] in FOLDERS:
            file, constant = re.findall(r"`([^`]+)`", cells[2])
            rows.append((cells[0], file, constant, int(cells[3]), cells[4].strip("`")))
    return rows


def reserved() -> set[tuple[str, str, str, int]]:
    """What the contracts' sources say."""
    return {
        (contract, path.name, name, int(tgas))
        for contract, folder in FOLDERS.items()
        for path in (REPOSITORY / "contracts" / folder / "src").glob("*.rs")
        for name, tgas in CONSTANT.findall(path.read_text())
    }


def test_every_callbacks_gas_is_in_the_table_and_the_table_is_right() -> None:
    assert {row[:4] for row in table()} == reserved()


def test_every_row_names_a_test_that_measures_it() -> None:
    tests = "".join(path.read_text() for path in (REPOSITORY / "contracts" / "tests").glob("test_*.py"))
    for *_, name in table():
        assert f"def {name}(" in tests, name
