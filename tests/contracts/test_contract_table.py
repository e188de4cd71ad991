# SPDX-License-Identifier: MIT
"""The page of contract sizes and gas is current, and cannot leave a method out."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
import wasmtime

from outlayer_near.models import (
    DAO_EVENTS,
    DAO_STANDARD,
    MAIN_EVENTS,
    REGISTER_EVENTS,
    REGISTER_STANDARD,
    read_event,
)
from tools.contracttable.__main__ import PAGE
from tools.contracttable.errors import TableError
from tools.contracttable.render import tgas
from tools.contracttable.scenarios import SCENARIOS
from tools.contracttable.stage import ARTIFACTS, Measured, methods_of, stage
from tools.contracttable.table import make, rows_of

KINDS = {"near-outlayer": MAIN_EVENTS, REGISTER_STANDARD: REGISTER_EVENTS, DAO_STANDARD: DAO_EVENTS}
VIEW = Measured(10**12, view=True, own=False)
CHANGE = Measured(2 * 10**12, view=False, own=False)
CALLBACK = Measured(3 * 10**12, view=False, own=True)


def test_the_page_shows_what_the_artifacts_burn() -> None:
    made = make(SCENARIOS)
    assert PAGE.read_text() == made, "docs/reference/contracts.md is stale: make contracts-table"


def holds(read: Any, logged: Any) -> bool:
    """Whether all that was logged is in what was read; null members are as absent ones."""
    if isinstance(logged, dict):
        return all(value is None or holds(read.get(name), value) for name, value in logged.items())
    if isinstance(logged, list):
        return len(read) == len(logged) and all(map(holds, read, logged))
    if isinstance(logged, str) and logged.startswith("{") and read != logged:
        return holds(json.loads(read), json.loads(logged))
    return bool(read == logged)


@pytest.mark.parametrize("artifact", [name for name in SCENARIOS if (ARTIFACTS / f"{name}.wasm").exists()])
def test_what_the_contracts_log_is_what_the_client_reads(artifact) -> None:
    """No member of any event of the scenarios is lost or changed in the client's models."""
    with stage() as place:
        SCENARIOS[artifact].run(place)
    for event in place.all_events():
        items = read_event(KINDS[event["standard"]], event["event"], event["data"])
        assert items is not None, f"{event['event']} is unknown"
        assert holds([item.to_json() for item in items], event["data"]), event


def test_a_lost_or_changed_member_is_noticed() -> None:
    logged = [{"a": 1, "b": None, "c": [{"d": "x"}], "e": '{"f": 1}'}]
    assert holds([{"a": 1, "c": [{"d": "x"}], "e": '{"f":1,"g":null}', "more": 2}], logged)
    assert not holds([{"a": 1, "c": [{"d": "y"}], "e": '{"f": 1}'}], logged)
    assert not holds([{"a": 1, "c": [], "e": '{"f": 1}'}], logged)
    assert not holds([{"c": [{"d": "x"}], "e": '{"f": 2}'}], logged)


def test_a_method_that_no_scenario_calls_is_named() -> None:
    with pytest.raises(TableError, match="nothing measures b, c of thing"):
        rows_of("thing", ["a", "b", "c"], {"a": [VIEW]}, {})


def test_an_artifact_without_a_scenario_is_named(tmp_path) -> None:
    shutil.copy(ARTIFACTS / "caller.wasm", tmp_path / "strange.wasm")
    with pytest.raises(TableError, match="no scenario calls strange"):
        make(SCENARIOS, folder=tmp_path)


@pytest.mark.parametrize("unmeasured", [{"a": "why"}, {"gone": "why"}])
def test_an_exception_that_is_not_needed_is_refused(unmeasured) -> None:
    with pytest.raises(TableError, match="without need"):
        rows_of("thing", ["a"], {"a": [VIEW]}, unmeasured)


def test_rows_tell_views_changes_callbacks_and_reasons_apart() -> None:
    gas = {"a": [VIEW], "b": [VIEW, CHANGE], "on_c": [CALLBACK], "on_d": [CHANGE, CALLBACK]}
    rows = rows_of("thing", ["a", "b", "on_c", "on_d", "e"], gas, {"e": "mainnet only"})
    assert [row.kind for row in rows] == ["view", "change", "callback", "change", "change"]
    assert (rows[1].gas, rows[4].gas, rows[4].reason) == ((10**12, 2 * 10**12), (), "mainnet only")


def test_methods_are_the_exports_without_parameters() -> None:
    code = wasmtime.wat2wasm(
        """(module (memory (export "memory") 1)
        (func (export "b")) (func (export "a"))
        (func (export "takes") (param i32)) (func (export "gives") (result i32) i32.const 0))"""
    )
    assert methods_of(bytes(code)) == ["a", "b"]


@pytest.mark.parametrize(
    ("gas", "text"),
    [(0, "0.000"), (499_999_999, "0.000"), (500_000_000, "0.001"), (19_600_000_000_000, "19.600")],
)
def test_gas_is_rounded_to_a_thousandth_of_a_tgas(gas, text) -> None:
    assert tgas(gas) == text
