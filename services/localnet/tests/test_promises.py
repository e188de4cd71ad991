# SPDX-License-Identifier: MIT
"""Promises: chains, joins, batches, weights, and who gets the money back."""

from __future__ import annotations

import base64

from localnet_contracts import kitchen_sink

from outlayer_localnet.testing import NEAR, TGAS, Localnet, TestAccount


def run(net: Localnet, app: TestAccount, method: str, args: bytes = b"", **extra):
    return net.call(app, "app.test", method, args, gas=300 * TGAS, **extra)


def test_a_callback_gets_the_value(net: Localnet, app: TestAccount):
    assert run(net, app, "chain").value == b"first"


def test_a_callback_learns_of_a_failure(net: Localnet, app: TestAccount):
    result = run(net, app, "chain_failing")
    assert result.value == b"failed"
    failures = [item for item in result.outcomes if "Failure" in item["outcome"]["status"]]
    assert len(failures) == 1


def test_a_joint_promise_waits_for_all_three(net: Localnet, app: TestAccount):
    assert run(net, app, "join").value == b"3"


def test_a_returned_promise_decides_the_transactions_result(net: Localnet, app: TestAccount):
    result = run(net, app, "forward")
    assert result.value == b"forwarded"
    assert "SuccessReceiptId" in result.outcomes[1]["outcome"]["status"]


def test_a_batch_creates_funds_deploys_and_initialises_an_account(net: Localnet, app: TestAccount):
    assert run(net, app, "make_child", kitchen_sink()).failure is None
    assert net.view_bytes("child.app.test", "get", b"") == b"born"
    assert net.balance("child.app.test") >= 2 * NEAR


def test_unused_gas_goes_to_weighted_calls_in_proportion(net: Localnet, app: TestAccount):
    result = run(net, app, "spread")
    batch = next(
        item["outcome"]
        for item in result.outcomes
        if item["outcome"]["status"] != {"SuccessValue": ""} and "SuccessValue" in item["outcome"]["status"]
    )
    # the batch returns what its last call, of weight 2, was given
    second = int.from_bytes(base64.b64decode(batch["status"]["SuccessValue"]), "little")
    receipt_id = next(item["id"] for item in result.outcomes if item["outcome"] is batch)
    receipt = net.rpc("EXPERIMENTAL_receipt", {"receipt_id": receipt_id})
    given = [action["FunctionCall"]["gas"] for action in receipt["receipt"]["Action"]["actions"]]
    assert given[1] == second
    assert 0 <= given[1] - 2 * given[0] <= 2


def test_the_deposit_of_a_failed_promise_returns_to_the_contract(net: Localnet, app: TestAccount):
    alice = net.create_account("alice.test")
    before = net.balance("app.test")
    result = net.call(alice, "app.test", "pay_failing", b"", gas=100 * TGAS, deposit=NEAR)
    assert result.failure is None
    assert net.balance("app.test") >= before + NEAR


def test_the_predecessor_of_a_promise_is_the_contract(net: Localnet, app: TestAccount):
    alice = net.create_account("alice.test")
    assert net.call(alice, "app.test", "who", b"").value == b"alice.test"
    result = net.call(alice, "app.test", "forward", b"", gas=100 * TGAS)
    receipt = net.rpc("EXPERIMENTAL_receipt", {"receipt_id": result.outcomes[2]["id"]})
    assert receipt["predecessor_id"] == "app.test"
    assert receipt["receipt"]["Action"]["signer_id"] == "alice.test"


def test_outcomes_are_in_tree_order_and_receipts_come_with_the_status(net: Localnet, app: TestAccount):
    result = run(net, app, "chain")
    status = net.rpc(
        "EXPERIMENTAL_tx_status", {"tx_hash": result.hash, "sender_account_id": "x", "wait_until": "FINAL"}
    )
    seen = [item["id"] for item in status["receipts_outcome"]]
    assert [receipt["receipt_id"] for receipt in status["receipts"]] == seen
    assert seen[0] == status["transaction_outcome"]["outcome"]["receipt_ids"][0]
    children = status["receipts_outcome"][0]["outcome"]["receipt_ids"]
    assert seen.index(children[0]) < seen.index(children[1])
