# SPDX-License-Identifier: MIT
"""Main contract and caller on the localnet: what callers, payers and developers see."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from outlayer_localnet.testing import NEAR, TGAS, CallFailedError, Localnet, TestAccount, TxResult, localnet

ARTIFACTS = Path(__file__).resolve().parents[1] / "artifacts"
MAIN, BOB = "outlayer.test", "bob.test"
HASH = "ab" * 32
BASE_FEE = 10**21
PAYMENT = NEAR // 10
USED = {"instructions": 5_000_000, "time_ms": 12}
COST = BASE_FEE + 5 * 10**14 + 12 * 10**17


@dataclass
class World:
    """A chain with the contracts, a developer's project, an operator and a caller contract."""

    chain: Localnet
    operator: TestAccount
    alice: TestAccount
    bob: TestAccount
    user: TestAccount

    def ask(self, text: str = "in", **more: Any) -> TxResult:
        """The user has bob's contract ask for a run; returns while the yield is open."""
        args = {"project_id": "alice.test/app", "input_data": text, **more}
        return self.chain.call(
            self.user, BOB, "ask", args, deposit=PAYMENT, gas=200 * TGAS, wait_until="INCLUDED"
        )

    def pending(self) -> list[int]:
        return self.chain.view(MAIN, "get_pending_request_ids")

    def ask_and_wait(self, text: str = "in", **more: Any) -> tuple[TxResult, int]:
        sent = self.ask(text, **more)
        for _ in range(10):
            if self.pending():
                break
            self.chain.produce_block()
        return sent, self.pending()[-1]

    def resolve(self, request_id: int, **response: Any) -> TxResult:
        full = {"success": True, "resources_used": USED, **response}
        args = {"request_id": request_id, "response": full}
        return self.chain.call(self.operator, MAIN, "resolve_execution", args)

    def resolve_json(self, request_id: int, text: str) -> TxResult:
        """The response with ``output.Json`` as exactly this text."""
        head = f'{{"request_id":{request_id},"response":{{"success":true,"resources_used":{json.dumps(USED)},'
        raw = head + f'"output":{{"Json":{text}}}}}}}'
        return self.chain.call(self.operator, MAIN, "resolve_execution", raw.encode())

    def final(self, sent: TxResult) -> TxResult:
        return self.chain.tx(sent.hash, wait_until="FINAL")


@pytest.fixture(scope="module")
def deployed() -> Iterator[World]:
    with localnet() as chain:
        main = chain.create_account(MAIN, 100 * NEAR)
        operator = chain.create_account("worker.test", 100 * NEAR)
        alice = chain.create_account("alice.test", 100 * NEAR)
        bob = chain.create_account(BOB, 100 * NEAR)
        user = chain.create_account("user.test", 100 * NEAR)
        new = {"owner_id": MAIN, "operator_id": "worker.test"}
        chain.deploy(main, ARTIFACTS / "outlayer.wasm", "new", new)
        chain.deploy(bob, ARTIFACTS / "caller.wasm", "new", {"outlayer_contract_id": MAIN})
        source = {"WasmUrl": {"url": "https://example.test/a.wasm", "hash": HASH}}
        made = chain.call(
            alice, MAIN, "create_project", {"name": "app", "source": source}, deposit=NEAR // 10
        )
        assert made.json() == "alice.test/app"
        chain.snapshot("deployed")
        yield World(chain, operator, alice, bob, user)


@pytest.fixture
def world(deployed: World) -> World:
    deployed.chain.restore("deployed")
    return deployed


@pytest.mark.parametrize(
    "text", ['{"b":1.10,"a":[1e3,"ä"]}', '{ "x" : [ 1 , 2 ] }', '"text"', "12345678901234567890123"]
)
def test_the_callback_gets_the_json_text_that_the_worker_sent(world: World, text: str) -> None:
    sent, request_id = world.ask_and_wait()
    assert world.resolve_json(request_id, text).failure is None
    assert world.final(sent).value == text.encode()
    raw = world.chain.view_bytes(BOB, "last_answer")
    assert f'"value":{text}'.encode() in raw
    assert json.loads(raw)["ok"] is True


def test_text_and_bytes_come_as_json_strings(world: World) -> None:
    for output, expected in (({"Text": 'a"b'}, 'a"b'), ({"Bytes": [104, 105]}, "aGk=")):
        sent, request_id = world.ask_and_wait()
        world.resolve(request_id, output=output)
        assert world.final(sent).json() == expected


def test_a_large_output_arrives_whole(world: World) -> None:
    sent, request_id = world.ask_and_wait()
    value = {"data": "x" * 20_000}
    args = {"request_id": request_id, "output": {"Json": value}, "success": True, "resources_used": USED}
    gas = 200 * TGAS
    done = world.chain.call(world.operator, MAIN, "submit_execution_output_and_resolve", args, gas=gas)
    assert done.failure is None
    assert world.final(sent).json() == value


def test_a_response_may_be_longer_than_what_a_yield_is_resumed_with(world: World) -> None:
    sent, request_id = world.ask_and_wait()
    assert world.resolve(request_id, output={"Text": "x" * 5_000}).failure is None
    assert world.final(sent).json() == "x" * 5_000


LEAF = "cd" * 32


def completed(final: TxResult) -> dict[str, Any]:
    """The data of the only ``execution_completed`` event."""
    events = [json.loads(line[11:]) for line in final.logs if line.startswith("EVENT_JSON:")]
    (found,) = (event for event in events if event["event"] == "execution_completed")
    return found["data"][0]


def answer(world: World, request_id: int, *, through_state: bool = False, **more: Any) -> TxResult:
    """Resolve a request by one of the two ways; ``record_sha256`` in ``more`` stands beside the response."""
    leaf = {"record_sha256": more.pop("record_sha256")} if "record_sha256" in more else {}
    response = {"success": True, "output": {"Json": 1}, "resources_used": USED, **more}
    method = "submit_execution_output_and_resolve" if through_state else "resolve_execution"
    args = response if through_state else {"response": response}
    args = {"request_id": request_id, **args, **leaf}
    return world.chain.call(world.operator, MAIN, method, args, gas=200 * TGAS)


@pytest.mark.parametrize("through_state", [False, True])
@pytest.mark.parametrize("success", [True, False])
def test_the_leaf_of_the_record_is_in_the_last_event(
    world: World, success: bool, through_state: bool
) -> None:
    sent, request_id = world.ask_and_wait()
    answered = answer(world, request_id, through_state=through_state, success=success, record_sha256=LEAF)
    assert answered.failure is None
    found = completed(world.final(sent))
    assert (found["record_sha256"], found["success"]) == (LEAF, success)
    assert not any(LEAF in line for line in answered.logs), "the operator's own receipt logs nothing"


@pytest.mark.parametrize("through_state", [False, True])
@pytest.mark.parametrize("absent", [{}, {"record_sha256": None}])
def test_a_result_without_a_record_settles_as_ever(
    world: World, absent: dict[str, Any], through_state: bool
) -> None:
    sent, request_id = world.ask_and_wait()
    assert answer(world, request_id, through_state=through_state, **absent).failure is None
    final = world.final(sent)
    assert final.json() == 1
    assert "record_sha256" not in completed(final)


@pytest.mark.parametrize("through_state", [False, True])
@pytest.mark.parametrize("leaf", ["", "cd", LEAF.upper(), LEAF[1:], LEAF + "0", LEAF[:-1] + "g", "é" * 32])
def test_a_leaf_of_another_form_is_refused_and_the_request_stays(
    world: World, leaf: str, through_state: bool
) -> None:
    sent, request_id = world.ask_and_wait()
    refused = answer(world, request_id, through_state=through_state, record_sha256=leaf)
    assert "record_sha256 must be 64 lower-case hex digits" in json.dumps(refused.failure)
    assert world.pending() == [request_id]
    assert world.chain.view(MAIN, "get_request", {"request_id": request_id})["output_submitted"] is False
    assert answer(world, request_id, record_sha256=LEAF).failure is None
    assert completed(world.final(sent))["record_sha256"] == LEAF


@pytest.mark.parametrize("leaf", [5, [205] * 32, {"hex": LEAF}])
def test_a_leaf_that_is_not_text_is_refused(world: World, leaf: Any) -> None:
    _, request_id = world.ask_and_wait()
    assert "Failed to deserialize input" in json.dumps(answer(world, request_id, record_sha256=leaf).failure)
    assert world.pending() == [request_id]


@pytest.mark.parametrize(
    ("error", "kept"),
    [("x" * 1_200, 1_200), ("x" * 1_201, 1_200), ("\x01" * 300, 200), ('"' * 900, 600), ("ü" * 700, 600)],
)
def test_a_long_error_is_told_as_far_as_it_fits_the_last_event(world: World, error: str, kept: int) -> None:
    sent, request_id = world.ask_and_wait()
    note = "n" * 700
    failed = {"success": False, "output": None, "record_sha256": LEAF, "compilation_note": note}
    assert answer(world, request_id, error=error, **failed).failure is None
    found = completed(world.final(sent))
    assert (found["error_message"], found["compilation_note"]) == (error[:kept], note[:600])


def test_the_largest_event_with_a_record_fits_and_the_callback_has_gas_to_spare(world: World) -> None:
    """A source of as many bytes as may be, each six in JSON, and a response that fills the yield."""
    url = "https://" + "\x01" * (2_048 - 8 - 64 - len("wasm32-wasip1"))
    source = {"WasmUrl": {"url": url, "hash": HASH, "build_target": "wasm32-wasip1"}}
    request = {"source": source, "resource_limits": {}}
    sent = world.chain.call(
        world.user, MAIN, "request_execution", request, deposit=PAYMENT, gas=200 * TGAS, wait_until="INCLUDED"
    )
    for _ in range(10):
        if world.pending():
            break
        world.chain.produce_block()
    (request_id,) = world.pending()
    failed = {"success": False, "output": None, "error": "\x01" * 300, "record_sha256": LEAF}
    failed |= {"compilation_note": "\x01" * 300}
    assert answer(world, request_id, **failed).failure is None
    final = world.final(sent)
    assert completed(final)["record_sha256"] == LEAF
    assert len(next(line for line in final.logs if "execution_completed" in line)) > 12_000
    callback = max(item["outcome"]["gas_burnt"] for item in final.outcomes[2:])
    assert callback < 15 * TGAS, "of the 50 that it is given"


def test_a_record_costs_the_settlement_next_to_nothing(world: World) -> None:
    burnt = []
    for more in ({}, {"record_sha256": LEAF}):
        sent, request_id = world.ask_and_wait()
        answered = answer(world, request_id, **more)
        burnt.append(answered.gas_burnt + world.final(sent).gas_burnt)
    assert 0 < burnt[1] - burnt[0] < 0.2 * TGAS, burnt


def test_r8_the_payer_gets_back_what_the_run_did_not_cost(world: World) -> None:
    sent, request_id = world.ask_and_wait()
    held = world.chain.balance(MAIN)
    world.resolve(request_id, output={"Json": 1})
    final = world.final(sent)
    assert f'[[yNEAR charged: "{COST}"]]' in final.logs
    assert world.chain.view(MAIN, "get_stats") == [1, str(COST)]
    # the contract keeps the cost, and earns a share of the gas burnt on it
    kept = world.chain.balance(MAIN) - (held - PAYMENT)
    assert COST <= kept < COST + NEAR // 1000
    completed = next(json.loads(line[11:]) for line in final.logs if "execution_completed" in line)["data"][0]
    assert int(completed["payment_charged"]) + int(completed["payment_refunded"]) == PAYMENT


def test_a_failed_run_gives_null_and_costs_the_base_fee(world: World) -> None:
    sent, request_id = world.ask_and_wait()
    world.resolve(request_id, success=False, error="guest trapped")
    final = world.final(sent)
    assert final.json() is None
    assert f'[[yNEAR charged: "{BASE_FEE}"]]' in final.logs
    assert world.chain.view(BOB, "last_answer")["ok"] is False


def test_a_request_nobody_answers_times_out_after_200_blocks_and_settles(world: World) -> None:
    sent, request_id = world.ask_and_wait()
    world.chain.fast_forward(210)
    final = world.final(sent)
    assert final.json() is None
    assert world.pending() == []
    assert f'[[yNEAR charged: "{BASE_FEE}"]]' in final.logs
    late = world.resolve(request_id)
    assert "Execution request not found" in json.dumps(late.failure)


def test_a_resolved_request_cannot_be_resolved_again(world: World) -> None:
    sent, request_id = world.ask_and_wait()
    world.resolve(request_id, output={"Json": 1})
    world.final(sent)
    assert "Execution request not found" in json.dumps(world.resolve(request_id).failure)
    assert world.chain.view(MAIN, "get_stats")[0] == 1


def test_only_the_operator_resolves(world: World) -> None:
    _, request_id = world.ask_and_wait()
    args = {"request_id": request_id, "response": {"success": True, "resources_used": USED}}
    for account in (world.alice, world.user, world.bob):
        refused = world.chain.call(account, MAIN, "resolve_execution", args)
        assert "Only operator" in json.dumps(refused.failure)
    assert world.pending() == [request_id]


def direct(world: World, **more: Any) -> int:
    """A request by an account, not a contract; gives its id."""
    args = {"source": {"Project": {"project_id": "alice.test/app"}}, "resource_limits": {}, **more}
    world.chain.call(
        world.user, MAIN, "request_execution", args, deposit=PAYMENT, gas=150 * TGAS, wait_until="INCLUDED"
    )
    for _ in range(10):
        if world.pending():
            break
        world.chain.produce_block()
    return world.pending()[-1]


def test_the_yield_of_a_cancelled_request_does_no_harm(world: World) -> None:
    request_id = direct(world)
    world.chain.set_time(601)
    world.chain.produce_block()
    world.chain.call(world.user, MAIN, "cancel_stale_execution", {"request_id": request_id})
    balance = world.chain.balance(MAIN)
    world.chain.fast_forward(210)
    world.chain.produce_block()
    assert world.chain.view(MAIN, "get_stats") == [0, "0"]
    assert world.chain.balance(MAIN) >= balance


def test_attached_usd_without_a_balance_is_refused(world: World) -> None:
    args = {
        "source": {"Project": {"project_id": "alice.test/app"}},
        "resource_limits": {},
        "params": {"attached_usd": "5"},
    }
    refused = world.chain.call(world.user, MAIN, "request_execution", args, deposit=PAYMENT)
    assert "Insufficient stablecoin balance. Required: 5, available: 0" in json.dumps(refused.failure)


def test_a_refused_request_returns_the_deposit_to_the_asking_contract(world: World) -> None:
    before = world.chain.balance(BOB)
    asked = world.chain.call(
        world.user,
        BOB,
        "ask",
        {"project_id": "alice.test/none", "input_data": "x"},
        deposit=PAYMENT,
        gas=200 * TGAS,
    )
    assert asked.json() is None
    assert world.chain.balance(BOB) >= before + PAYMENT


def test_gas_of_a_request_stays_within_its_budget(world: World) -> None:
    sent, request_id = world.ask_and_wait()
    resolved = world.resolve(request_id, output={"Json": 1})
    final = world.final(sent)
    assert final.gas_burnt < 15 * TGAS
    assert resolved.gas_burnt < 10 * TGAS


def test_a_view_of_what_is_not_there_is_null_and_of_bad_arguments_an_error(world: World) -> None:
    assert world.chain.view(MAIN, "get_request", {"request_id": 9}) is None
    with pytest.raises(CallFailedError):
        world.chain.view(MAIN, "get_request", {"request_id": "nine"})
