# SPDX-License-Identifier: MIT
"""A contract that lived under the first version of the code goes on under this one with all it had."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from main_world import (
    ARTIFACTS,
    COST,
    MAIN,
    OLD_MAIN,
    OPERATOR,
    PROJECT,
    TOKEN,
    World,
    deployed,
    wasm_url,
)

from outlayer_localnet.testing import NEAR, TGAS, TxResult
from outlayer_near.primitives import DeployContract, FunctionCall

ALICE, BOB = "alice.test", "bob.test"
# prefixes of maps in the first version's state
EARNINGS, BALANCES = 4, 5
OLD_SHA256 = "f9a5c3ba0c8d45e61508c9d0521441a37f715dde529a10ba442ed9d2bb599150"


@pytest.fixture(scope="module")
def chain() -> Iterator[World]:
    assert hashlib.sha256(OLD_MAIN.read_bytes()).hexdigest() == OLD_SHA256
    with deployed(OLD_MAIN) as world:
        yield world


def upgrade(world: World) -> TxResult:
    code = (ARTIFACTS / "outlayer.wasm").read_bytes()
    actions = [DeployContract(code), FunctionCall("migrate", b"{}", 200 * TGAS, 0)]
    return world.chain.send(world.accounts[MAIN], MAIN, actions)


def views(world: World) -> dict[str, Any]:
    """All that the first version's views say."""
    return {
        "config": world.view("get_config"),
        "stats": world.view("get_stats"),
        "pricing": world.view("get_pricing_full"),
        "token": world.view("get_payment_token_contract"),
        "metadata": world.view("get_event_metadata"),
        "paused": world.view("is_paused"),
        "pending": [world.view("get_request", request_id=number) for number in world.pending()],
        "projects": {user: world.view("list_user_projects", account_id=user) for user in (ALICE, BOB)},
        "versions": world.view("list_versions", project_id=PROJECT),
        "usd": world.usd(BOB),
        "earnings": world.earnings(ALICE),
    }


def test_everything_of_the_first_version_is_there_after_the_upgrade(world: World) -> None:
    world.ok(ALICE, "add_version", NEAR, project_name="app", source=wasm_url("b"), set_active=True)
    world.ok(BOB, "create_project", NEAR, name="mine", source=wasm_url("c"))
    world.ok(ALICE, "transfer_project", project_name="app", new_owner=BOB)
    world.ok(MAIN, "set_pricing", per_sec_fee_usd="9")
    settled, request_id = world.request()
    world.resolve(request_id)
    world.final(settled)
    plain, plain_id = world.request(input_data="i" * 20_000)
    long_url = {"WasmUrl": {"url": "h" * 15_000, "hash": "ab" * 32}}
    long, long_id = world.request(source=long_url)
    _, large_id = world.request()
    world.ok(OPERATOR, "submit_execution_output", request_id=large_id, output={"Text": "early"})
    before = views(world)
    balance = world.chain.balance(MAIN)
    usage = world.chain.account(MAIN)["storage_usage"]
    code = (ARTIFACTS / "outlayer.wasm").stat().st_size - OLD_MAIN.stat().st_size

    upgraded = upgrade(world)
    assert upgraded.failure is None
    # the code, and the names of four new collections: nothing else has moved
    assert 0 < world.chain.account(MAIN)["storage_usage"] - usage - code < 64
    assert views(world) == before
    assert world.view("get_storage_version") == 2
    assert world.chain.balance(MAIN) > balance - NEAR // 100

    world.resolve(plain_id, output={"Text": "after"})
    assert world.final(plain).json() == "after"
    assert world.view("get_stats") == [2, str(2 * COST)]
    assert world.view("has_pending_output", request_id=large_id) is True
    # such a source was possible then; its event does not fit, its settlement goes through
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
