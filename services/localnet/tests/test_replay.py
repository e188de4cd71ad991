# SPDX-License-Identifier: MIT
"""Recorded calls: run alone, each does what it did on its chain, and a recording that is wrong is noticed."""

from __future__ import annotations

import dataclasses

import pytest

from outlayer_localnet.params import load
from outlayer_localnet.replay import Recorded, Recorder, run_here
from outlayer_localnet.testing import TGAS, Localnet, TestAccount


@pytest.fixture
def recorded(net: Localnet, app: TestAccount) -> dict[str, Recorded]:
    """A yield, its resumption from another transaction, and its callback; and a yield resumed at once."""
    with Recorder() as recorder:
        started = net.call(app, "app.test", "wait", b"", gas=200 * TGAS, wait_until="INCLUDED")
        while net.chain.has_work:
            net.produce_block()
        net.call(app, "app.test", "resume", b"answer", gas=200 * TGAS)
        net.tx(started.hash, wait_until="FINAL")
        net.call(app, "app.test", "wait_and_resume", b"", gas=200 * TGAS)
    found: dict[str, Recorded] = {}
    for item in recorder.calls:
        found.setdefault(item.call.method, item)
    return found


def test_every_recorded_call_does_alone_what_it_did_on_its_chain(recorded):
    assert {"wait", "resume", "wait_and_resume"} <= set(recorded)
    for item in recorded.values():
        assert item.unlike(run_here(item.call, load(86))) == {}, item.call.method


def test_a_yield_keeps_the_id_of_its_chain_and_a_resumption_names_the_yield_that_waits(recorded):
    (data_id,) = recorded["wait"].call.data_ids
    assert recorded["resume"].call.pending_yields == ((data_id, None),)
    assert recorded["wait_and_resume"].call.pending_yields == ()
    assert len(recorded["wait_and_resume"].call.data_ids) == 1


def test_without_the_yield_that_waits_a_resumption_does_something_else(recorded):
    item = recorded["resume"]
    alone = run_here(dataclasses.replace(item.call, pending_yields=()), load(86))
    assert "returned" in item.unlike(alone)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("burnt_gas", 1),
        ("used_gas", 1),
        ("returned", "none"),
        ("logs", ["other"]),
        ("error", "x"),
        ("balance", 1),
        ("storage_usage", 1),
    ],
)
def test_each_thing_that_a_replay_shows_is_compared(recorded, field, value):
    item = recorded["resume"]
    shown = dataclasses.replace(run_here(item.call, load(86)), **{field: value})
    assert set(item.unlike(shown)) == {field}
