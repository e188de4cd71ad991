# SPDX-License-Identifier: MIT
"""A contract that lived under an earlier version of the code goes on under this one with all it had."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from main_world import (
    ARTIFACTS,
    BASE_FEE,
    COST,
    MAIN,
    OPERATOR,
    PAYMENT,
    PROJECT,
    TOKEN,
    USED,
    World,
    deployed,
    wasm_url,
)

from outlayer_localnet.testing import NEAR, TGAS, TxResult
from outlayer_near.primitives import DeployContract, FunctionCall

ALICE, BOB = "alice.test", "bob.test"
# prefixes of maps in the earlier versions' state
EARNINGS, BALANCES = 4, 5
FIXTURES = Path(__file__).parent / "fixtures"
OLD_SHA256 = {
    1: "f9a5c3ba0c8d45e61508c9d0521441a37f715dde529a10ba442ed9d2bb599150",
    2: "5dab91a70a519be618f44fa1fbc5397f5942135aecc9a29f1dc67cf63e0c1097",
}


@pytest.fixture(scope="module", params=sorted(OLD_SHA256), ids=lambda version: f"v{version}")
def chain(request: pytest.FixtureRequest) -> Iterator[World]:
    old = FIXTURES / f"outlayer-v{request.param}.wasm"
    assert hashlib.sha256(old.read_bytes()).hexdigest() == OLD_SHA256[request.param]
    with deployed(old) as world:
        yield world


def upgrade(world: World) -> TxResult:
    code = (ARTIFACTS / "outlayer.wasm").read_bytes()
    actions = [DeployContract(code), FunctionCall("migrate", b"{}", 200 * TGAS, 0)]
    return world.chain.send(world.accounts[MAIN], MAIN, actions)


def numbers(shown: dict[str, Any]) -> dict[str, Any]:
    """A pending request with amounts as numbers, and what the earlier versions showed."""
    shown = {name: value for name, value in shown.items() if name not in ("project_owner", "pending_output")}
    return {**shown, "payment": int(shown["payment"]), "attached_usd": int(shown["attached_usd"])}


def views(world: World) -> dict[str, Any]:
    """All that the earlier versions' views say."""
    return {
        "config": world.view("get_config"),
        "stats": world.view("get_stats"),
        "pricing": world.view("get_pricing_full"),
        "token": world.view("get_payment_token_contract"),
        "metadata": world.view("get_event_metadata"),
        "paused": world.view("is_paused"),
        "pending": sorted(
            (numbers(world.view("get_request", request_id=number)) for number in world.pending()),
            key=lambda shown: shown["request_id"],
        ),
        "projects": {user: world.view("list_user_projects", account_id=user) for user in (ALICE, BOB)},
        "versions": world.view("list_versions", project_id=PROJECT),
        "usd": world.usd(BOB),
        "earnings": world.earnings(ALICE),
    }


def test_everything_of_an_earlier_version_is_there_after_the_upgrade(world: World) -> None:
    world.ok(ALICE, "add_version", NEAR, project_name="app", source=wasm_url("b"), set_active=True)
    world.ok(BOB, "create_project", NEAR, name="mine", source=wasm_url("c"))
    world.ok(ALICE, "transfer_project", project_name="app", new_owner=BOB)
    world.ok(MAIN, "set_pricing", per_sec_fee_usd="9")
    settled, request_id = world.request()
    world.resolve(request_id)
    world.final(settled)
    plain, plain_id = world.request(deposit=NEAR, input_data="i" * 20_000)
    # the first version had no limit for it
    length = 15_000 if world.code.name == "outlayer-v1.wasm" else 1_900
    long_url = {"WasmUrl": {"url": "h" * length, "hash": "ab" * 32}}
    long, long_id = world.request(source=long_url)
    _, large_id = world.request()
    world.ok(OPERATOR, "submit_execution_output", request_id=large_id, output={"Text": "early"})
    before = views(world)
    balance = world.chain.balance(MAIN)
    upgraded = upgrade(world)
    assert upgraded.failure is None
    assert views(world) == before
    assert world.view("get_storage_version") == "3"
    assert world.chain.balance(MAIN) > balance - NEAR // 100

    world.resolve(plain_id, output={"Text": "after"})
    assert world.final(plain).json() == "after"
    removed = 20_000 * int(world.view("get_size_limits")["input_byte_price"])
    assert world.view("get_stats") == [2, str(2 * COST + removed)]
    assert world.view("has_pending_output", request_id=large_id) is True
    # the event of the longest does not fit, its settlement goes through
    world.resolve(long_id, success=False, output=None, error="e" * 800)
    assert world.final(long).json() is None
    assert long_id not in world.pending()
    assert world.ok(BOB, "accept_project", project_id=PROJECT).json() == "bob.test/app"
    world.make_key(BOB, 1)
    world.store(BOB, {"Project": {"project_id": "bob.test/app"}})


def give_usd(world: World, prefix: int, account: str, amount: int) -> None:
    """Write a balance into the first version's state: its code had no way in for tokens yet."""
    key = bytes([prefix]) + len(account).to_bytes(4, "little") + account.encode()
    record = {
        "account_id": MAIN,
        "data_key": base64.b64encode(key).decode(),
        "value": base64.b64encode(amount.to_bytes(16, "little")).decode(),
    }
    world.chain.rpc("sandbox_patch_state", {"records": [{"Data": record}]})


def test_balances_and_attached_usd_of_the_first_version_go_on(world: World) -> None:
    give_usd(world, EARNINGS, ALICE, 70)
    give_usd(world, BALANCES, BOB, 1_000)
    supply = {"account_id": MAIN, "amount": "1070"}
    assert world.chain.call(world.accounts[TOKEN], TOKEN, "mint", supply).failure is None
    paid, paid_id = world.request(params={"attached_usd": "300"})
    failed, failed_id = world.request(params={"attached_usd": "200"})
    late, _ = world.request(params={"attached_usd": "100"})
    assert (world.usd(BOB), world.earnings(ALICE)) == (400, 70)

    assert upgrade(world).failure is None
    assert (world.usd(BOB), world.earnings(ALICE)) == (400, 70)
    world.resolve(paid_id, refund_usd=50)
    world.resolve(failed_id, success=False)
    world.final(paid)
    world.final(failed)
    assert (world.usd(BOB), world.earnings(ALICE)) == (650, 320)
    world.chain.fast_forward(210)
    assert world.final(late).json() is None
    assert (world.usd(BOB), world.earnings(ALICE)) == (750, 320)
    before = world.tokens(ALICE)
    assert world.ok(ALICE, "withdraw_developer_earnings", 1).json() is True
    assert world.tokens(ALICE) == before + 320
    assert world.tokens(MAIN) == world.usd(BOB)


def test_a_large_output_that_waited_during_the_upgrade_arrives(world: World) -> None:
    sent, request_id = world.request()
    output = {"Text": "x" * 5_000}
    world.ok(OPERATOR, "submit_execution_output", request_id=request_id, output=output)
    assert upgrade(world).failure is None
    world.resolve(request_id, output=None)
    assert world.final(sent).json() == output["Text"]


def test_more_requests_than_the_upgrade_has_gas_for_end_as_the_others(world: World) -> None:
    """They are carried over when they end, or by anyone's call, and stay in every list meanwhile."""
    waiting = [world.request() for _ in range(12)]
    ids = [number for _, number in waiting]
    before = views(world)
    code = (ARTIFACTS / "outlayer.wasm").read_bytes()
    # so little that hardly any is carried over
    actions = [DeployContract(code), FunctionCall("migrate", b"{}", 152 * TGAS, 0)]
    assert world.chain.send(world.accounts[MAIN], MAIN, actions).failure is None
    assert int(world.view("get_near_books")["held_payments"]) < 12 * PAYMENT
    assert sorted(world.pending()) == ids
    assert views(world) == before
    fresh, fresh_id = world.request()
    assert sorted(world.pending()) == [*ids, fresh_id]
    for sent, number in (waiting[0], waiting[11], waiting[5], (fresh, fresh_id)):
        world.resolve(number, output={"Json": number})
        assert world.final(sent).json() == number
    world.ok(MAIN, "emergency_cancel_execution", request_id=ids[3])
    left = world.ok("carol.test", "migrate_requests", gas=300 * TGAS, limit=4).json()
    assert left <= 4
    assert world.ok("carol.test", "migrate_requests", gas=300 * TGAS).json() == 0
    assert int(world.view("get_near_books")["held_payments"]) == 8 * PAYMENT
    assert world.ok(MAIN, "clear_all_pending_requests", gas=300 * TGAS).json() == 8
    assert world.pending() == []


def test_a_request_that_could_never_settle_is_carried_over_and_ends(world: World) -> None:
    """Its input of 1.3 MB was too much for its callback; under this code the time-out removes it."""
    size = 1_300_000
    sent, request_id = world.request(
        deposit=14 * NEAR, gas=300 * TGAS, source=wasm_url("b"), input_data="A" * size
    )
    usage = world.chain.account(MAIN)["storage_usage"]
    code = (ARTIFACTS / "outlayer.wasm").read_bytes()
    grown = len(code) - world.code.stat().st_size
    actions = [DeployContract(code), FunctionCall("migrate", b"{}", 900 * TGAS, 0)]
    assert world.chain.send(world.accounts[MAIN], MAIN, actions).failure is None
    assert abs(world.chain.account(MAIN)["storage_usage"] - usage - grown) < 1_000
    assert len(world.view("get_request", request_id=request_id)["input_data"]) == size
    world.chain.fast_forward(210)
    assert world.final(sent).json() is None
    assert world.pending() == []
    assert usage + grown - world.chain.account(MAIN)["storage_usage"] > size


def test_an_answer_of_the_old_code_that_the_upgrade_overtakes_refunds_all_but_the_base_fee(
    world: World,
) -> None:
    """The old code left settlement to the callback, which the new code does not believe: the record decides."""
    before = world.chain.balance(BOB)
    sent, request_id = world.request()
    response = {"success": True, "resources_used": USED, "output": {"Json": 1}}
    args = json.dumps({"request_id": request_id, "response": response}).encode()
    operator, owner = world.accounts[OPERATOR], world.accounts[MAIN]
    answer = world.chain.sign(operator, MAIN, [FunctionCall("resolve_execution", args, 100 * TGAS, 0)])
    code = (ARTIFACTS / "outlayer.wasm").read_bytes()
    actions = [DeployContract(code), FunctionCall("migrate", b"{}", 200 * TGAS, 0)]
    deploy = world.chain.sign(owner, MAIN, actions)
    for signed in (answer, deploy):
        world.chain.rpc("broadcast_tx_async", [base64.b64encode(signed).decode()])
    for _ in range(6):
        world.chain.produce_block()
    assert world.view("get_storage_version") == "3"
    final = world.final(sent)
    spent = before - world.chain.balance(BOB) - final.tokens_burnt
    assert (final.json(), spent) in [(None, BASE_FEE), (1, COST)]
    assert world.pending() == []


@pytest.mark.parametrize("owner", ["o.near", "ab", "outlayer.near"])
def test_a_state_of_the_original_is_named_and_not_touched(world: World, owner: str) -> None:
    def text(value: str) -> bytes:
        return len(value).to_bytes(4, "little") + value.encode()

    state = text(owner) + text("worker." + owner) + b"\0" + text("near-outlayer") + text("1.0.0") + bytes(100)
    record = {"account_id": MAIN, "data_key": base64.b64encode(b"STATE").decode()}
    record["value"] = base64.b64encode(state).decode()
    world.chain.rpc("sandbox_patch_state", {"records": [{"Data": record}]})
    refused = json.dumps(upgrade(world).failure)
    assert f"This is the state of an original OutLayer contract, owned by {owner}" in refused
    assert "deploy this contract to another account" in refused


def test_numbers_given_out_before_the_upgrade_are_not_given_again(world: World) -> None:
    _, request_id = world.request()
    uuid = world.view("get_project", project_id=PROJECT)["uuid"]
    assert upgrade(world).failure is None
    _, following = world.request()
    assert following == request_id + 1
    world.ok(BOB, "create_project", NEAR, name="p", source=wasm_url("b"))
    assert world.view("get_project", project_id="bob.test/p")["uuid"] == f"p{int(uuid[1:], 16) + 1:016x}"


def test_the_old_layout_is_not_read_before_it_is_migrated(world: World) -> None:
    code = (ARTIFACTS / "outlayer.wasm").read_bytes()
    world.chain.send(world.accounts[MAIN], MAIN, [DeployContract(code)])
    failed = world.call(BOB, "request_execution", source=wasm_url("a"), resource_limits={})
    assert "Cannot deserialize the contract state" in json.dumps(failed.failure)
    world.refused(BOB, "migrate", "is private")
    assert upgrade(world).failure is None
    assert world.view("get_project", project_id=PROJECT)["owner"] == ALICE


def test_a_second_migration_changes_nothing(world: World) -> None:
    upgrade(world)
    world.make_key(BOB, 1)
    before = views(world)
    assert upgrade(world).failure is None
    assert views(world) == before
    assert world.view("get_next_payment_key_nonce", account_id=BOB) == 2
