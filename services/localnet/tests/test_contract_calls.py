# SPDX-License-Identifier: MIT
"""Calls and views of a deployed contract through the whole node."""

from __future__ import annotations

import pytest
from localnet_contracts import kitchen_sink

from outlayer_localnet.testing import NEAR, TGAS, CallFailedError, Localnet, TestAccount
from outlayer_near.primitives import DeployContract, FunctionCall


def call_error(result) -> object:
    return result.failure["ActionError"]["kind"]["FunctionCallError"]


def test_a_call_returns_its_value_and_logs(net: Localnet, app: TestAccount):
    assert net.call(app, "app.test", "echo", b"hello").value == b"hello"
    assert net.call(app, "app.test", "say", b"a line").logs == ["a line"]


def test_a_panic_is_reported_and_its_deposit_comes_back(net: Localnet, app: TestAccount):
    alice = net.create_account("alice.test")
    before = net.balance("alice.test")
    result = net.call(alice, "app.test", "fail", b"no way", deposit=NEAR)
    assert call_error(result) == {"ExecutionError": "Smart contract panicked: no way"}
    assert net.balance("alice.test") == before - result.tokens_burnt


@pytest.mark.parametrize(
    ("contract", "method", "error"),
    [
        ("app.test", "nothing_here", {"MethodResolveError": "MethodNotFound"}),
        ("near", "any", {"CompilationError": {"CodeDoesNotExist": {"account_id": "near"}}}),
        (
            "app.test",
            "put_and_fail",
            {"ExecutionError": "WebAssembly trap: An `unreachable` opcode was executed."},
        ),
        ("app.test", "loop_forever", {"ExecutionError": "Exceeded the prepaid gas."}),
    ],
)
def test_errors_have_nearcores_json(net: Localnet, app: TestAccount, contract, method, error):
    assert call_error(net.call(app, contract, method, b"x", gas=10 * TGAS)) == error


def test_broken_code_fails_when_it_is_called(net: Localnet):
    broken = net.create_account("broken.test")
    net.send(broken, "broken.test", [DeployContract(b"not wasm")])
    result = net.call(broken, "broken.test", "x", b"")
    assert call_error(result) == {"CompilationError": {"PrepareError": "Deserialization"}}


def test_gas_that_runs_out_is_burnt_and_no_more(net: Localnet, app: TestAccount):
    result = net.call(app, "app.test", "loop_forever", b"", gas=10 * TGAS)
    call = result.outcomes[1]["outcome"]
    assert call["gas_burnt"] == 10 * TGAS + 108_059_500_000 + 780_000_000_000 + 12 * 2_235_934


def test_a_failed_call_writes_nothing(net: Localnet, app: TestAccount):
    net.call(app, "app.test", "put", b"kept")
    net.call(app, "app.test", "put_and_fail", b"lost")
    assert net.view_bytes("app.test", "get", b"") == b"kept"


def test_storage_use_follows_what_is_written(net: Localnet, app: TestAccount):
    empty = net.account("app.test")["storage_usage"]
    net.call(app, "app.test", "put", b"12345")
    assert net.account("app.test")["storage_usage"] == empty + 1 + 5 + 40
    net.call(app, "app.test", "put", b"123")
    assert net.account("app.test")["storage_usage"] == empty + 1 + 3 + 40
    net.call(app, "app.test", "del_key", b"")
    assert net.account("app.test")["storage_usage"] == empty


def test_a_redeploy_keeps_state(net: Localnet, app: TestAccount):
    net.call(app, "app.test", "put", b"kept")
    net.deploy(app, kitchen_sink())
    assert net.view_bytes("app.test", "get", b"") == b"kept"


def test_the_contract_earns_three_tenths_of_the_gas_it_burns(net: Localnet, app: TestAccount):
    alice = net.create_account("alice.test")
    before = net.balance("app.test")
    result = net.call(alice, "app.test", "loop_forever", b"", gas=10 * TGAS)
    assert result.failure is not None
    assert net.balance("app.test") - before == 10 * TGAS * 3 // 10 * 10**8


def test_deploy_and_call_in_one_transaction_act_in_order(net: Localnet):
    fresh = net.create_account("fresh.test")
    actions = [DeployContract(kitchen_sink()), FunctionCall("put", b"first", 20 * TGAS)]
    assert net.send(fresh, "fresh.test", actions).failure is None
    assert net.view_bytes("fresh.test", "get", b"") == b"first"


def test_random_seeds_differ_between_calls(net: Localnet, app: TestAccount):
    seeds = {net.call(app, "app.test", "seed", b"").value for _ in range(3)}
    assert len(seeds) == 3


def test_the_gas_profile_adds_up_to_the_gas_burnt(net: Localnet, app: TestAccount):
    outcome = net.call(app, "app.test", "put", b"x" * 100).outcomes[1]["outcome"]
    profile = outcome["metadata"]["gas_profile"]
    fees = 108_059_500_000 + 780_000_000_000 + 103 * 2_235_934
    assert sum(int(row["gas_used"]) for row in profile) == outcome["gas_burnt"] - fees
    names = [(row["cost_category"], row["cost"]) for row in profile]
    assert names == sorted(names)


# -- views -----------------------------------------------------------------------------------------


def test_a_view_that_writes_is_told_so(net: Localnet, app: TestAccount):
    with pytest.raises(CallFailedError) as error:
        net.view_bytes("app.test", "put", b"x")
    expected = (
        'wasm execution failed with error: HostError(ProhibitedInView { method_name: "storage_write" })'
    )
    assert error.value.failure == expected


@pytest.mark.parametrize(
    ("contract", "method", "text"),
    [
        ("app.test", "fail", 'HostError(GuestPanic { panic_msg: "why \\"so\\"" })'),
        ("app.test", "missing", "MethodResolveError(MethodNotFound)"),
        ("near", "any", 'CompilationError(CodeDoesNotExist { account_id: "near" })'),
    ],
)
def test_view_errors_are_rust_debug_text(net: Localnet, app: TestAccount, contract, method, text):
    with pytest.raises(CallFailedError) as error:
        net.view_bytes(contract, method, b'why "so"')
    assert error.value.failure == f"wasm execution failed with error: {text}"


def test_views_read_the_state_of_any_block_that_is_kept(net: Localnet, app: TestAccount):
    heights = []
    for value in (b"one", b"two", b"three"):
        net.call(app, "app.test", "put", value)
        heights.append(net.height)
    read = []
    for height in heights:
        answer = net.query(
            "call_function", account_id="app.test", method_name="get", args_base64="", block_id=height
        )
        assert answer["block_height"] == height
        read.append(bytes(answer["result"]))
    assert read == [b"one", b"two", b"three"]
