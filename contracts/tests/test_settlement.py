# SPDX-License-Identifier: MIT
"""Money is settled where it cannot fail: at the largest sizes, with the least gas, beside hostile neighbours, and in
every order of answers and time-outs."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hostile import free, least_gas, sender
from main_world import (
    ARTIFACTS,
    BASE_FEE,
    COST,
    MAIN,
    OPERATOR,
    PAYMENT,
    PROJECT,
    USED,
    World,
    wasm_url,
)

from outlayer_localnet.testing import NEAR, TGAS, TxResult
from outlayer_near.primitives import FunctionCall, Transfer

ALICE, BOB = "alice.test", "bob.test"
MOST_OUTPUT, MOST_INPUT = 250_000, 1_048_576
CALLBACK_GAS = 50 * TGAS
DEFAULT_PAYMENT = 7_000_100_000_000_000_000_000
MANY = 9_990
ARGS = {"source": {"Project": {"project_id": PROJECT}}, "resource_limits": {}}


def begin(world: World, gas: int, who: str = BOB, deposit: int = PAYMENT, **more: Any) -> TxResult:
    args = {**ARGS, **more}
    account = world.accounts[who]
    return world.chain.call(
        account, MAIN, "request_execution", args, deposit=deposit, gas=gas, wait_until="INCLUDED"
    )


def submit(world: World, request_id: int, output: Any, **more: Any) -> TxResult:
    args = {"request_id": request_id, "output": output, "success": True, "resources_used": USED, **more}
    return world.call(OPERATOR, "submit_execution_output_and_resolve", gas=300 * TGAS, **args)


def callback_of(final: TxResult) -> dict[str, Any]:
    """The outcome of the callback: the contract's receipt that says what was charged."""
    [found] = [
        item["outcome"]
        for item in final.outcomes
        if item["outcome"]["executor_id"] == MAIN
        and any("charged" in line for line in item["outcome"]["logs"])
    ]
    return found


def charged(final: TxResult) -> int:
    [line] = [line for line in final.logs if line.startswith("[[yNEAR charged:")]
    return int(line.split('"')[1])


# -- sizes and gas that strangers choose -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Text", "Json", "Bytes"])
def test_the_longest_output_reaches_a_caller_that_attached_the_least_gas(world: World, kind: str) -> None:
    sent: dict[str, TxResult] = {}

    def ask(gas: int) -> None:
        sent["last"] = begin(world, gas, deposit=NEAR, params={"attached_usd": "5000000"})

    world.deposit_usd(BOB, 5_000_000)
    gas = least_gas(world, ask)
    assert CALLBACK_GAS < gas < CALLBACK_GAS + 5 * TGAS
    size = MOST_OUTPUT - 2 if kind != "Bytes" else (MOST_OUTPUT - 2) // 4 * 3
    output = {"Text": "R" * size} if kind == "Text" else {"Json": "R" * size}
    if kind == "Bytes":
        output = {"Bytes": [255] * size}
    [request_id] = world.pending()
    assert submit(world, request_id, output).failure is None
    final = world.final(sent["last"])
    assert MOST_OUTPUT - 3 < len(final.value) <= MOST_OUTPUT
    assert world.earnings(ALICE) == 5_000_000 and world.usd(BOB) == 0
    assert callback_of(final)["gas_burnt"] <= CALLBACK_GAS // 2
    assert world.pending() == [] and world.view("get_request", request_id=request_id) is None


def test_the_longest_output_and_the_gas_that_a_contract_reads_it_with(world: World) -> None:
    """With a receipt that waits for the value, each byte is paid for once more, by the callback."""
    caller = world.chain.create_account("caller.test", 10 * NEAR)
    world.chain.deploy(caller, ARTIFACTS / "caller.wasm", "new", {"outlayer_contract_id": MAIN})
    args = {"project_id": PROJECT, "input_data": "x"}
    sent = world.chain.call(
        world.accounts[BOB], "caller.test", "ask", args, deposit=NEAR, gas=250 * TGAS, wait_until="INCLUDED"
    )
    for _ in range(4):
        world.chain.produce_block()
    [request_id] = world.pending()
    assert submit(world, request_id, {"Text": "R" * (MOST_OUTPUT - 2)}).failure is None
    final = world.final(sent)
    assert callback_of(final)["gas_burnt"] <= CALLBACK_GAS // 2
    assert "SuccessValue" in callback_of(final)["status"]


def test_an_output_that_the_callback_could_not_deliver_is_refused_and_nothing_moves(world: World) -> None:
    _, request_id = world.request(deposit=NEAR)
    words = f"The output is {MOST_OUTPUT + 1} bytes, a callback delivers at most {MOST_OUTPUT}"
    before = world.chain.account(MAIN)["storage_usage"]
    refused = submit(world, request_id, {"Text": "R" * (MOST_OUTPUT - 1)})
    assert words in json.dumps(refused.failure)
    assert world.chain.account(MAIN)["storage_usage"] == before
    assert world.pending() == [request_id]
    failed = {"success": False, "output": None, "error": "output_too_large"}
    world.resolve(request_id, **failed)


def test_the_longest_input_times_out_with_the_least_gas(world: World) -> None:
    hostile = world.chain.create_account("hostile.test", 100 * NEAR)
    deposit = 12 * NEAR

    def ask(gas: int) -> None:
        world.chain.deploy(hostile, sender(MAIN, MOST_INPUT, deposit, gas))
        account = world.accounts[ALICE]
        world.chain.call(account, "hostile.test", "go", {}, gas=600 * TGAS, wait_until="INCLUDED")

    gas = least_gas(world, ask)
    before = world.chain.balance("hostile.test")
    [request_id] = world.pending()
    assert len(world.view("get_request", request_id=request_id)["input_data"]) == MOST_INPUT
    usage = world.chain.account(MAIN)["storage_usage"]
    world.chain.fast_forward(210)
    for _ in range(4):
        world.chain.produce_block()
    assert world.pending() == []
    assert usage - world.chain.account(MAIN)["storage_usage"] > MOST_INPUT
    assert world.chain.balance("hostile.test") - before == deposit - BASE_FEE, f"with {gas / TGAS} Tgas"


@pytest.mark.parametrize("size", [MOST_INPUT + 1, 3_000_000])
def test_an_input_that_the_callback_could_not_remove_is_refused(world: World, size: int) -> None:
    hostile = world.chain.create_account("hostile.test", 100 * NEAR)
    world.chain.deploy(hostile, sender(MAIN, size, 35 * NEAR, 400 * TGAS))
    result = world.chain.call(world.accounts[ALICE], "hostile.test", "go", {}, gas=600 * TGAS)
    assert f"input_data has {size} bytes" in json.dumps(
        [item["outcome"]["status"] for item in result.outcomes]
    )
    assert world.pending() == []


@pytest.mark.parametrize("success", [True, False])
def test_no_answer_costs_the_operator_more_than_the_request_pays(world: World, success: bool) -> None:
    """The answer of a request with the longest input; a failure is paid by the base fee and the input's price."""
    hostile = world.chain.create_account("hostile.test", 100 * NEAR)
    world.chain.deploy(hostile, sender(MAIN, MOST_INPUT, 12 * NEAR, 400 * TGAS))
    world.chain.call(world.accounts[ALICE], "hostile.test", "go", {}, gas=900 * TGAS, wait_until="INCLUDED")
    for _ in range(4):
        world.chain.produce_block()
    [request_id] = world.pending()
    before, fees = world.chain.balance(OPERATOR), int(world.view("get_stats")[1])
    used = {"instructions": 0, "time_ms": 0}
    output = {"Text": "x" * 100_000} if success else None
    if success:
        assert submit(world, request_id, output, resources_used=used).failure is None
    else:
        world.resolve(request_id, success=False, output=None, error="\x01" * 500, resources_used=used)
    paid = int(world.view("get_stats")[1]) - fees
    assert before - world.chain.balance(OPERATOR) < paid


@pytest.mark.parametrize("kind", ["Text", "Json", "Bytes"])
@pytest.mark.parametrize("size", [1, 1_000, 1_022, 5_000, 50_000, 190_000])
def test_an_output_pays_for_its_delivery(world: World, kind: str, size: int) -> None:
    sent, request_id = world.request(deposit=NEAR)
    output: dict[str, Any] = {kind: "x" * size if kind != "Bytes" else [255] * (size * 3 // 4)}
    before = world.chain.balance(OPERATOR)
    used = {"instructions": 0, "time_ms": 0}
    assert submit(world, request_id, output, resources_used=used).failure is None
    assert before - world.chain.balance(OPERATOR) < charged(world.final(sent))


def test_an_output_that_the_payment_does_not_cover_is_refused_with_the_amount(world: World) -> None:
    _, request_id = world.request(deposit=DEFAULT_PAYMENT)
    refused = submit(world, request_id, {"Text": "R" * 249_000})
    price = BASE_FEE + (249_002 - 1_024) * int(world.view("get_size_limits")["output_byte_price"])
    words = f"does not pay for an output of 249002 bytes: needs {price} yoctoNEAR"
    assert words in json.dumps(refused.failure)
    assert submit(world, request_id, {"Text": "R" * 200_000}).failure is None


@pytest.mark.parametrize("end", ["answer", "cancel", "time-out"])
def test_what_a_payer_that_does_not_exist_would_get_goes_to_the_sender(world: World, end: str) -> None:
    before = world.chain.balance(BOB)
    sent, request_id = world.request(payer_account_id="nobody.test")
    if end == "answer":
        world.resolve(request_id)
    elif end == "cancel":
        world.ok(MAIN, "emergency_cancel_execution", request_id=request_id)
    if end != "answer":
        world.chain.fast_forward(210)
    final = world.final(sent)
    for _ in range(3):
        world.chain.produce_block()
    cost = {"answer": COST, "cancel": 0, "time-out": BASE_FEE}[end]
    assert before - world.chain.balance(BOB) == cost + final.tokens_burnt


# -- neighbours ------------------------------------------------------------------------------------------


def test_a_strangers_request_does_not_change_what_mine_costs(world: World) -> None:
    burnt = []
    for neighbour in (None, MOST_INPUT):
        world.chain.restore("deployed")
        sent, request_id = world.request()
        if neighbour is not None:
            source = wasm_url("b")
            args: dict[str, Any] = {"source": source, "input_data": "A" * neighbour}
            _, last = world.request(ALICE, deposit=11 * NEAR, gas=300 * TGAS, **args)
            assert world.pending() == [request_id, last]
        answered = world.resolve(request_id)
        burnt.append(answered.gas_burnt + world.final(sent).gas_burnt)
    assert abs(burnt[1] - burnt[0]) < 0.1 * TGAS


def test_strangers_cannot_use_up_what_settlement_needs(world: World) -> None:
    """The contract has two NEAR of its own; every request pays for all that it occupies."""
    chain = world.chain
    chain.send(world.accounts[MAIN], "carol.test", [Transfer(free(world) - 2 * NEAR)])
    sent, request_id = world.request(deposit=3 * NEAR)
    before = free(world)
    long = {"WasmUrl": {"url": "u" * 1_900, "hash": "a" * 64}}
    made = 0
    for deposit in (BASE_FEE, DEFAULT_PAYMENT, 3 * 10**22) * 8:
        args = {"source": long, "secrets_ref": {"profile": "p" * 64, "account_id": BOB}}
        chain.call(
            world.accounts[ALICE],
            MAIN,
            "request_execution",
            args,
            deposit=deposit,
            gas=100 * TGAS,
            wait_until="INCLUDED",
        )
        for _ in range(3):
            chain.produce_block()
        made = len(world.pending()) - 1
        assert free(world) >= before
    assert made == 8
    answered = world.resolve(request_id)
    assert answered.failure is None
    assert charged(world.final(sent)) == COST


def test_a_long_output_needs_a_reserve_and_a_short_one_does_not(world: World) -> None:
    chain = world.chain
    chain.send(world.accounts[MAIN], "carol.test", [Transfer(free(world) - 2 * NEAR)])
    long_sent, long = world.request(deposit=NEAR)
    short_sent, short = world.request(deposit=3 * NEAR)
    refused = submit(world, long, {"Text": "R" * 200_000})
    assert "The contract's reserve is used up, try again" in json.dumps(refused.failure)
    assert sorted(world.pending()) == sorted([long, short]), "it can be answered again"
    world.resolve(short, output={"Text": "x" * 4_000})
    assert world.final(short_sent).json() == "x" * 4_000
    chain.send(world.accounts["carol.test"], MAIN, [Transfer(5 * NEAR)])
    assert submit(world, long, {"Text": "R" * 200_000}).failure is None
    assert len(world.final(long_sent).value) == 200_002


# -- one answer, and the time-out ------------------------------------------------------------------------


def two_in_one_block(world: World, *calls: FunctionCall) -> list[TxResult]:
    chain = world.chain
    nonce = chain.next_nonce(world.accounts[OPERATOR])
    signed = [
        chain.sign(world.accounts[OPERATOR], MAIN, [call], nonce=nonce + at) for at, call in enumerate(calls)
    ]
    hashes = [broadcast(world, data) for data in signed]
    for _ in range(5):
        chain.produce_block()
    return [chain.tx(item) for item in hashes]


def broadcast(world: World, signed: bytes) -> str:
    """Send without a wait, so that no block is made; gives the transaction's hash."""
    return world.chain.rpc("broadcast_tx_async", [base64.b64encode(signed).decode()])


def resolve_call(request_id: int, output: Any, method: str = "resolve_execution") -> FunctionCall:
    response = {"success": True, "resources_used": USED, "output": output}
    args = {"request_id": request_id}
    args |= {"response": response} if method == "resolve_execution" else response
    return FunctionCall(method, json.dumps(args).encode(), 100 * TGAS, 0)


@pytest.mark.parametrize("first", ["resolve_execution", "submit_execution_output_and_resolve"])
@pytest.mark.parametrize("second", ["resolve_execution", "submit_execution_output_and_resolve"])
def test_of_two_answers_in_one_block_the_first_counts_alone(world: World, first: str, second: str) -> None:
    sent, request_id = world.request()
    costly = {"instructions": 400_000_000, "time_ms": 50_000}
    other = resolve_call(request_id, {"Json": "of B"}, second)
    other = FunctionCall(
        other.method_name,
        other.args.replace(json.dumps(USED).encode(), json.dumps(costly).encode()),
        other.gas,
        0,
    )
    two_in_one_block(world, resolve_call(request_id, {"Json": "of A"}, first), other)
    final = world.final(sent)
    assert (final.json(), charged(final)) == ("of A", COST)
    assert world.view("get_stats") == [1, str(COST)]


@pytest.mark.parametrize("blocks", range(195, 206))
def test_money_moves_once_whether_the_answer_comes_before_in_or_after_the_time_out(
    world: World, blocks: int
) -> None:
    """In the block that delivers the time-out a yield still takes an answer, which it drops."""
    world.deposit_usd(BOB, 70_000)
    before = world.chain.balance(BOB)
    sent, request_id = world.request(params={"attached_usd": "70000"})
    made = world.chain.height
    world.chain.fast_forward(blocks - (world.chain.height - made))
    call = resolve_call(request_id, {"Json": "late"})
    signed = world.chain.sign(world.accounts[OPERATOR], MAIN, [call])
    answer = broadcast(world, signed)
    for _ in range(6):
        world.chain.produce_block()
    final, answered = world.final(sent), world.chain.tx(answer)
    assert world.pending() == []
    spent = before - world.chain.balance(BOB) - final.tokens_burnt
    if answered.failure is None:
        assert (final.json(), spent) == ("late", COST)
        assert (world.usd(BOB), world.earnings(ALICE)) == (0, 70_000)
        assert world.view("get_stats") == [1, str(COST)]
    else:
        assert (final.json(), spent) == (None, BASE_FEE)
        assert (world.usd(BOB), world.earnings(ALICE)) == (70_000, 0)
        assert world.view("get_stats") == [1, str(BASE_FEE)]


def test_an_answer_whose_yield_is_gone_changes_nothing(world: World) -> None:
    """The owner cancels; what the operator sends later finds no request."""
    _, request_id = world.request()
    world.ok(MAIN, "emergency_cancel_execution", request_id=request_id)
    words = "Execution request not found"
    response = {"success": True, "resources_used": USED}
    world.refused(OPERATOR, "resolve_execution", words, request_id=request_id, response=response)


# -- many ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_gas_of_a_request_and_its_end_does_not_grow_with_those_that_wait(world: World) -> None:
    def cost(waiting: int) -> float:
        sent = begin(world, 100 * TGAS)
        for _ in range(3):
            world.chain.produce_block()
        [request_id] = world.view("get_pending_request_ids", from_index=waiting)
        return (world.resolve(request_id).gas_burnt + world.final(sent).gas_burnt) / TGAS

    first = cost(0)
    crowd = world.chain.create_account("crowd.test", 1_000 * NEAR)
    asked = [FunctionCall("request_execution", json.dumps(ARGS).encode(), 55 * TGAS, DEFAULT_PAYMENT)] * 18
    nonce = world.chain.next_nonce(crowd)
    for at in range(-(-MANY // 18)):
        broadcast(world, world.chain.sign(crowd, MAIN, asked, nonce=nonce + at))
    while world.view("get_pending_request_ids", from_index=MANY - 1) == []:
        assert world.chain.produce_block() < 190, "the first ones would time out"
    listed = [
        world.view("get_pending_request_ids", from_index=at, limit=1_000) for at in range(0, MANY, 1_000)
    ]
    waiting = [number for page in listed for number in page]
    assert len(waiting) == MANY and waiting == sorted(set(waiting))
    assert world.view("get_pending_request_ids", from_index=MANY - 1, limit=5) == [waiting[-1]]
    assert world.view("get_pending_request_ids", from_index=MANY) == []
    assert abs(cost(MANY) - first) < 0.2
    world.ok(
        OPERATOR,
        "resolve_execution",
        request_id=waiting[0],
        response={"success": True, "resources_used": USED},
    )
    assert world.view("get_pending_request_ids", limit=1) == [waiting[1]]
