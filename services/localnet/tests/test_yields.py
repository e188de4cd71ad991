# SPDX-License-Identifier: MIT
"""Yield and resume: who may resume, with what, how often, and what happens after 200 blocks."""

from __future__ import annotations

import time

import pytest
from localnet_contracts import kitchen_sink

from outlayer_localnet.testing import TGAS, Localnet, TestAccount, TxResult


def begin(net: Localnet, app: TestAccount, method: str = "wait") -> TxResult:
    sent = net.call(app, "app.test", method, b"", gas=200 * TGAS, wait_until="INCLUDED")
    settle(net)
    return net.tx(sent.hash)


def settle(net: Localnet) -> None:
    """Wait until the chain has nothing left to do."""
    deadline = time.monotonic() + 10
    while net.chain.has_work:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def resume(net: Localnet, app: TestAccount, payload: bytes = b"answer", method: str = "resume") -> TxResult:
    return net.call(app, "app.test", method, payload, gas=200 * TGAS)


def created_at(net: Localnet, started: TxResult) -> int:
    """Height of the block in which the yield was created."""
    return net.block(started.outcomes[1]["block_hash"])["header"]["height"]


def test_a_resume_in_a_later_transaction_delivers_the_payload(net: Localnet, app: TestAccount):
    started = begin(net, app)
    assert started.status == "Started"
    assert resume(net, app).value == b"1"
    finished = net.tx(started.hash, wait_until="FINAL")
    assert finished.value == b"answer"
    assert finished.logs == ["resumed"]


def test_a_resume_in_the_same_call_delivers_the_payload(net: Localnet, app: TestAccount):
    result = net.call(app, "app.test", "wait_and_resume", b"", gas=200 * TGAS)
    assert result.value == b"at once"


def test_the_callback_runs_one_block_after_the_resume(net: Localnet, app: TestAccount):
    started = begin(net, app)
    resumed = resume(net, app)
    finished = net.tx(started.hash, wait_until="FINAL")
    callback = next(item for item in finished.outcomes if item["outcome"]["logs"] == ["resumed"])
    resumed_at = net.block(resumed.outcomes[1]["block_hash"])["header"]["height"]
    assert net.block(callback["block_hash"])["header"]["height"] == resumed_at + 1


def test_the_yield_receipt_is_listed_and_marked(net: Localnet, app: TestAccount):
    started = begin(net, app)
    listed = started.outcomes[1]["outcome"]["receipt_ids"][0]
    receipt = net.rpc("EXPERIMENTAL_receipt", {"receipt_id": listed})
    assert receipt["receipt"]["Action"]["is_promise_yield"] is True
    assert receipt["predecessor_id"] == receipt["receiver_id"] == "app.test"
    resume(net, app)
    finished = net.tx(started.hash, wait_until="FINAL")
    assert listed in [item["id"] for item in finished.outcomes]


def test_a_second_resume_before_delivery_is_accepted_and_dropped(net: Localnet, app: TestAccount):
    started = begin(net, app)
    assert resume(net, app, method="resume_twice").value == b"1"
    finished = net.tx(started.hash, wait_until="FINAL")
    assert finished.logs == ["resumed"]


def test_a_resume_after_delivery_finds_nothing(net: Localnet, app: TestAccount):
    begin(net, app)
    resume(net, app)
    assert resume(net, app).value == b"0"


def test_only_the_account_that_yielded_may_resume(net: Localnet, app: TestAccount):
    started = begin(net, app)
    data_id = net.view_bytes("app.test", "yield_id", b"")
    other = net.create_account("other.test")
    net.deploy(other, kitchen_sink())
    assert net.call(other, "other.test", "resume_id", data_id, gas=100 * TGAS).value == b"0"
    assert net.call(app, "app.test", "resume_id", data_id, gas=100 * TGAS).value == b"1"
    assert net.tx(started.hash, wait_until="FINAL").value == b"x"


def test_a_malformed_data_id_is_an_error(net: Localnet, app: TestAccount):
    result = net.call(app, "app.test", "resume_id", b"short", gas=100 * TGAS)
    error = result.failure["ActionError"]["kind"]["FunctionCallError"]
    assert error == {"ExecutionError": "yield resumption token is malformed"}


def test_a_payload_of_1024_bytes_passes_and_1025_do_not(net: Localnet, app: TestAccount):
    started = begin(net, app)
    too_long = resume(net, app, b"x" * 1025)
    error = too_long.failure["ActionError"]["kind"]["FunctionCallError"]["ExecutionError"]
    assert error == "Yield resume payload is 1025 bytes which exceeds the 1024 byte limit"
    assert resume(net, app, b"y" * 1024).value == b"1"
    assert net.tx(started.hash, wait_until="FINAL").value == b"y" * 1024


def test_a_yield_is_open_for_200_blocks_and_no_longer(net: Localnet, app: TestAccount):
    started = begin(net, app)
    expires = created_at(net, started) + 200
    net.fast_forward(expires - 1 - net.height)
    assert net.height == expires - 1
    assert net.tx(started.hash).status == "Started"
    net.produce_block()  # in block `expires` the timeout is queued
    finished = net.tx(started.hash, wait_until="FINAL")
    assert finished.value == b"late"
    callback = next(item for item in finished.outcomes if item["outcome"]["logs"] == ["timed out"])
    assert net.block(callback["block_hash"])["header"]["height"] == expires + 1


def test_a_yield_resumed_in_its_last_block_still_delivers(net: Localnet, app: TestAccount):
    started = begin(net, app)
    expires = created_at(net, started) + 200
    # the transaction takes one block to be included, its receipt runs in the block after that
    net.fast_forward(expires - 2 - net.height)
    local = net.call(app, "app.test", "resume", b"in time", gas=200 * TGAS)
    assert local.value == b"1"
    assert net.tx(started.hash, wait_until="FINAL").value == b"in time"


def test_a_jump_far_past_the_timeout_runs_it_once(net: Localnet, app: TestAccount):
    started = begin(net, app)
    net.fast_forward(10_000)
    finished = net.tx(started.hash, wait_until="FINAL")
    assert finished.logs == ["timed out"]
    assert resume(net, app).value == b"0"


def test_a_call_that_fails_leaves_no_yield(net: Localnet, app: TestAccount):
    failed = net.call(app, "app.test", "wait_and_fail", b"", gas=200 * TGAS)
    assert failed.failure is not None
    height = net.height
    net.fast_forward(300)
    settle(net)
    assert net.height == height + 300  # nothing had to run after the jump


def test_a_promise_can_follow_a_yield(net: Localnet, app: TestAccount):
    started = begin(net, app, "wait_then")
    resume(net, app, b"passed on")
    assert net.tx(started.hash, wait_until="FINAL").value == b"passed on"


def test_a_yield_survives_a_redeploy_of_its_contract(net: Localnet, app: TestAccount):
    started = begin(net, app)
    net.deploy(app, kitchen_sink())
    assert resume(net, app).value == b"1"
    assert net.tx(started.hash, wait_until="FINAL").value == b"answer"


def test_several_yields_time_out_in_the_order_of_their_creation(net: Localnet, app: TestAccount):
    started = [begin(net, app, "wait_detached") for _ in range(3)]
    net.fast_forward(300)
    ends = []
    for each in started:
        finished = net.tx(each.hash, wait_until="FINAL")
        assert finished.logs == ["timed out"]
        ends.append(finished.outcomes)
    assert len(ends) == 3


@pytest.mark.parametrize("method", ["wait", "wait_detached"])
def test_waiting_for_the_outcome_times_out_while_a_yield_is_open(net: Localnet, app: TestAccount, method):
    net._server.methods._wait_seconds = 0.05
    from outlayer_localnet.testing import RpcFailedError

    with pytest.raises(RpcFailedError) as error:
        net.call(app, "app.test", method, b"", gas=200 * TGAS, wait_until="EXECUTED_OPTIMISTIC")
    assert error.value.cause == "TIMEOUT_ERROR"
