# SPDX-License-Identifier: MIT
"""The four sums of the stablecoin, who moves a unit from one to another, and what can never be reached from where."""

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
    BYTE,
    COST,
    MAIN,
    MINTED,
    OPERATOR,
    PAYMENT,
    PAYMENT_KEY,
    TOKEN,
    USED,
    World,
    data_id,
    deployed,
    wasm_url,
)

from outlayer_localnet.testing import NEAR, TGAS, TxResult
from outlayer_near.primitives import Action, DeployContract, FunctionCall, Transfer

ALICE, BOB, CAROL = "alice.test", "bob.test", "carol.test"
SETTLER = "settler.test"
FUNDS = 3_000_000
RESERVE = NEAR
OUTPUT_ROOM = 10 * NEAR
FIRST_DEPOSIT = 10_000
DONE = {"Success": {"new_encrypted_data": "new"}}
DEPOSIT = {"action": "deposit_balance"}


def pools(world: World) -> dict[str, int]:
    return {name: int(amount) for name, amount in world.view("get_stablecoin_pools").items()}


def sums(users: int = 0, developers: int = 0, payment_keys: int = 0, fees: int = 0) -> dict[str, int]:
    return {"users": users, "developers": developers, "payment_keys": payment_keys, "fees": fees}


def usage(world: World) -> int:
    return int(world.chain.account(MAIN)["storage_usage"])


@pytest.fixture
def funded(world: World) -> World:
    """Payment keys' funds of 3 dollars, and an account that settles."""
    world.make_key(BOB, 1)
    sent, event = world.top_up(BOB, 1, FUNDS)
    world.ok(OPERATOR, "resume_topup", data_id=data_id(event), result=DONE)
    world.final(sent)
    world.accounts[SETTLER] = world.chain.create_account(SETTLER, 10 * NEAR)
    world.ok(MAIN, "set_settlement_account", account_id=SETTLER)
    return world


def credit(
    world: World, batch: str, entries: list[tuple[str, int]], fees: int | None = None, deposit: int = NEAR
) -> TxResult:
    """What the settlement account signs."""
    texts = [(account, str(amount)) for account, amount in entries]
    args = {"batch_id": batch, "entries": texts} | ({} if fees is None else {"fees": str(fees)})
    return world.call(SETTLER, "credit_https_earnings", deposit, 300 * TGAS, **args)


# -- each unit is in one sum -----------------------------------------------------------------------------


def test_a_unit_goes_from_sum_to_sum(funded: World) -> None:
    assert pools(funded) == sums(payment_keys=FUNDS)
    funded.deposit_usd(CAROL, 50_000)
    assert pools(funded) == sums(users=50_000, payment_keys=FUNDS)
    sent, request_id = funded.request(CAROL, params={"attached_usd": "50000"})
    assert pools(funded) == sums(users=50_000, payment_keys=FUNDS), "what is attached is still the users'"
    assert funded.usd(CAROL) == 0
    funded.resolve(request_id, refund_usd=20_000)
    funded.final(sent)
    assert pools(funded) == sums(users=20_000, developers=30_000, payment_keys=FUNDS)
    assert credit(funded, "one", [(ALICE, 1_000_000)], 5_000).json() is True
    rest = FUNDS - 1_005_000
    assert pools(funded) == sums(20_000, 1_030_000, rest, 5_000)
    assert funded.ok(ALICE, "withdraw_developer_earnings", 1).json() is True
    assert pools(funded) == sums(20_000, 0, rest, 5_000)
    assert funded.ok(MAIN, "withdraw_stablecoin_fees", 1).failure is None
    assert sum(pools(funded).values()) == funded.tokens(MAIN) - (0 if pools(funded)["fees"] else 5_000)


def test_a_failed_top_up_and_a_failed_withdrawal_leave_the_sums(funded: World) -> None:
    before = pools(funded)
    sent, event = funded.top_up(BOB, 1, FUNDS)
    assert pools(funded) == before, "not before the callback"
    failed = {"Error": {"message": "no"}}
    funded.ok(OPERATOR, "resume_topup", data_id=data_id(event), result=failed)
    funded.final(sent)
    assert pools(funded) == before
    credit(funded, "one", [(ALICE, 70)], 30)
    before = pools(funded)
    for account in (ALICE, BOB):
        freeze(funded, account, True)
    assert funded.ok(ALICE, "withdraw_developer_earnings", 1).json() is False
    funded.ok(MAIN, "set_owner", new_owner_id=BOB)
    assert funded.ok(BOB, "withdraw_stablecoin_fees", 1).json() is False
    assert pools(funded) == before
    assert funded.earnings(ALICE) == 70


def freeze(world: World, account: str, frozen: bool) -> None:
    args = {"account_id": account, "frozen": frozen}
    world.chain.call(world.accounts[TOKEN], TOKEN, "set_frozen", args)


# -- settlement of HTTPS calls ---------------------------------------------------------------------------


def test_a_batch_counts_once(funded: World) -> None:
    entries = [(ALICE, 400), (BOB, 600)]
    assert credit(funded, "b-1", entries, 7).json() is True
    after, used = pools(funded), usage(funded)
    before = funded.chain.balance(SETTLER)
    again = credit(funded, "b-1", entries, 7)
    assert again.json() is False
    assert "was credited before" in json.dumps(again.logs)
    assert before - funded.chain.balance(SETTLER) == again.tokens_burnt
    assert (pools(funded), usage(funded)) == (after, used)
    for other in ([(ALICE, 401), (BOB, 600)], [(BOB, 600), (ALICE, 400)], entries[:1], []):
        words = "Batch 'b-1' was credited with other entries"
        assert words in json.dumps(credit(funded, "b-1", other, 7).failure)
    assert "with other entries" in json.dumps(credit(funded, "b-1", entries, 8).failure)
    assert "with other entries" in json.dumps(credit(funded, "b-1", entries).failure)
    assert pools(funded) == after
    assert funded.view("is_https_batch_credited", batch_id="b-1") is True
    assert funded.view("is_https_batch_credited", batch_id="b-2") is False
    assert credit(funded, "b-2", entries, 7).json() is True
    assert (funded.earnings(ALICE), funded.earnings(BOB)) == (800, 1_200)


@pytest.mark.parametrize(
    ("entries", "fees"),
    [
        ([(ALICE, FUNDS + 1)], None),
        ([(ALICE, FUNDS)], 1),
        ([(ALICE, FUNDS - 5), (BOB, 6)], 0),
        ([(ALICE, 2**128 - 1), (BOB, 2**128 - 1)], 2**128 - 1),
        ([(ALICE, 1)], 2**128 - 1),
        ([], FUNDS + 1),
    ],
)
def test_a_batch_is_never_worth_more_than_the_payment_keys_funds(
    funded: World, entries: list[tuple[str, int]], fees: int | None
) -> None:
    funded.deposit_usd(CAROL, 10 * FUNDS)  # users' money is no help
    before = pools(funded)
    refused = credit(funded, "b", entries, fees)
    assert f"more than the payment keys' funds of {FUNDS}" in json.dumps(refused.failure)
    assert pools(funded) == before
    assert credit(funded, "b", [(ALICE, FUNDS)], 0).json() is True
    assert pools(funded) == sums(users=10 * FUNDS, developers=FUNDS)


def test_only_the_settlement_account_settles_and_it_is_not_the_operator(funded: World) -> None:
    args = {"batch_id": "b", "entries": [[ALICE, "1"]]}
    for who in (MAIN, OPERATOR, ALICE):
        funded.refused(who, "credit_https_earnings", "Only the settlement account", NEAR, **args)
    words = "cannot be the operator"
    funded.refused(MAIN, "set_settlement_account", words, account_id=OPERATOR)
    funded.refused(ALICE, "set_settlement_account", "Only owner", account_id=ALICE)
    funded.refused(ALICE, "clear_settlement_account", "Only owner")
    words = "missing field `account_id`"
    funded.refused(MAIN, "set_settlement_account", words, settlement_account=ALICE)
    assert funded.view("get_settlement_account") == SETTLER
    funded.ok(MAIN, "set_operator", new_operator_id=SETTLER)
    words = "which is not the operator"
    funded.refused(SETTLER, "credit_https_earnings", words, NEAR, **args)
    funded.ok(MAIN, "clear_settlement_account")
    funded.refused(SETTLER, "credit_https_earnings", "No settlement account is named", NEAR, **args)


def test_a_batch_that_is_none_is_refused(funded: World) -> None:
    for batch, entries, words in [
        ("", [(ALICE, 1)], "A batch_id has 1 to 64 bytes"),
        ("b" * 65, [(ALICE, 1)], "A batch_id has 1 to 64 bytes"),
        ("b", [(ALICE, 0)], "amount must be above 0"),
        ("b", [(ALICE, 1)] * 101, "at most 100 entries"),
    ]:
        assert words in json.dumps(credit(funded, batch, entries).failure)
    assert pools(funded) == sums(payment_keys=FUNDS)


def test_the_largest_batch_fits_a_transaction_and_pays_for_its_state(funded: World) -> None:
    entries = [(f"{number:03}" + "x" * 61, 7) for number in range(100)]
    before, balance = usage(funded), funded.chain.balance(SETTLER)
    args = ("b" * 64, entries, 1)
    done = credit(funded, *args, deposit=2 * NEAR)
    assert done.json() is True
    paid = balance - funded.chain.balance(SETTLER) - done.tokens_burnt
    assert paid == BYTE * (usage(funded) - before)
    assert paid == BYTE * (100 * (40 + 1 + 68 + 16) + 40 + 1 + 68 + 32)
    assert done.gas_burnt < 150 * TGAS
    # a second one has its entries already
    batch = BYTE * (40 + 1 + 4 + 1 + 32)
    words = f"Insufficient storage deposit. Required: {batch} yoctoNEAR"
    assert words in json.dumps(credit(funded, "2", entries, deposit=batch - 1).failure)
    assert credit(funded, "2", entries, deposit=batch).json() is True
    assert pools(funded) == sums(0, 1_400, FUNDS - 1_401, 1)


# -- first deposits --------------------------------------------------------------------------------------


def test_a_first_deposit_is_worth_its_entry(world: World) -> None:
    refused = world.pay(BOB, FIRST_DEPOSIT - 1, DEPOSIT)
    assert refused.json() == "0"
    assert f"Minimum first deposit is $0.01 ({FIRST_DEPOSIT})" in json.dumps(refused.outcomes)
    assert (world.tokens(BOB), world.usd(BOB)) == (MINTED, 0)
    assert world.pay(BOB, FIRST_DEPOSIT, DEPOSIT).json() == str(FIRST_DEPOSIT)
    assert world.pay(BOB, 1, DEPOSIT).json() == "1"
    assert world.usd(BOB) == FIRST_DEPOSIT + 1


def test_a_balance_of_nothing_keeps_no_entry(world: World) -> None:
    before = usage(world)
    world.deposit_usd(BOB, FIRST_DEPOSIT)
    assert usage(world) > before
    sent, request_id = world.request(BOB, params={"attached_usd": str(FIRST_DEPOSIT)})
    world.resolve(request_id, success=False, output=None)
    world.final(sent)
    assert usage(world) == before + 40 + 1 + 4 + len(BOB) + 16
    sent, request_id = world.request(BOB, params={"attached_usd": str(FIRST_DEPOSIT)})
    world.resolve(request_id)
    world.final(sent)
    assert usage(world) == before + 40 + 1 + 4 + len(ALICE) + 16, "the developer's, in place of the user's"
    assert world.ok(ALICE, "withdraw_developer_earnings", 1).json() is True
    assert usage(world) == before


def leave(world: World, free: int) -> None:
    """The contract's account sends all it has away but so much above its stake."""
    account = world.chain.account(MAIN)
    spare = int(account["amount"]) - account["storage_usage"] * BYTE - free
    assert world.chain.send(world.accounts[MAIN], CAROL, [Transfer(spare)]).failure is None


def test_first_deposits_leave_the_reserve_alone(world: World) -> None:
    world.deposit_usd(BOB, FIRST_DEPOSIT)
    world.make_key(BOB, 1)
    sent, _ = world.request(CAROL, deposit=2 * NEAR)
    # the payment is held for the request: it is no reserve
    leave(world, 3 * NEAR - NEAR // 20)
    refused = world.pay(ALICE, FIRST_DEPOSIT, DEPOSIT)
    assert refused.json() == "0"
    assert "The contract's reserve is used up" in json.dumps(refused.outcomes)
    assert world.tokens(ALICE) == MINTED
    # what needs no new state goes on: more of a balance, and top-ups, whose task the key has paid for
    assert world.pay(BOB, 1, DEPOSIT).json() == "1"
    topped, event = world.top_up(CAROL, 1, FUNDS, owner=BOB)
    world.ok(OPERATOR, "resume_topup", data_id=data_id(event), result=DONE)
    assert world.final(topped).json() == str(FUNDS)
    world.chain.send(world.accounts[CAROL], MAIN, [Transfer(NEAR // 10)])
    assert world.pay(ALICE, FIRST_DEPOSIT, DEPOSIT).json() == str(FIRST_DEPOSIT)
    assert sent.failure is None


# -- what the owner can take -----------------------------------------------------------------------------


def test_fees_are_withdrawn_and_users_near_is_not(world: World) -> None:
    world.ok(MAIN, "set_owner", new_owner_id=ALICE)
    for _ in range(3):
        sent, request_id = world.request(BOB)
        world.resolve(request_id)
        world.final(sent)
    world.request(BOB, deposit=5 * NEAR)
    books = world.view("get_near_books")
    assert books == {"held_payments": str(5 * NEAR), "fees": str(3 * COST)}
    words = f"At most {3 * COST} yoctoNEAR can be withdrawn"
    world.refused(ALICE, "withdraw_fees", words, 1, amount=str(3 * COST + 1))
    world.refused(ALICE, "withdraw_fees", words, 1, amount="0")
    world.refused(BOB, "withdraw_fees", "Only owner", 1)
    world.refused(ALICE, "withdraw_fees", "at least 1 yoctoNEAR")
    before = world.chain.balance(ALICE)
    taken = world.ok(ALICE, "withdraw_fees", 1, amount=str(COST))
    assert world.chain.balance(ALICE) - before == COST - 1 - taken.tokens_burnt
    assert world.view("get_near_books")["fees"] == str(2 * COST)
    world.ok(ALICE, "withdraw_fees", 1)
    assert world.view("get_near_books") == {"held_payments": str(5 * NEAR), "fees": "0"}
    world.refused(ALICE, "withdraw_fees", "At most 0 yoctoNEAR can be withdrawn", 1)
    assert world.view("get_stats")[1] == str(3 * COST), "what was charged in all is told as before"


def test_fees_stop_at_the_reserve_and_at_held_payments(world: World) -> None:
    world.ok(MAIN, "set_owner", new_owner_id=ALICE)
    world.ok(ALICE, "set_pricing", base_fee=str(NEAR))
    sent, request_id = world.request(BOB, deposit=3 * NEAR, resource_limits=None)
    world.resolve(request_id, success=False, output=None)
    world.final(sent)
    assert world.view("get_near_books")["fees"] == str(NEAR)
    world.request(BOB, deposit=4 * NEAR, resource_limits=None)
    half = NEAR // 2
    leave(world, 4 * NEAR + RESERVE + OUTPUT_ROOM + half)
    refused = world.call(ALICE, "withdraw_fees", 1, amount=str(half + NEAR // 10))
    assert "must be kept" in json.dumps(refused.failure)
    before = world.chain.balance(ALICE)
    taken = world.ok(ALICE, "withdraw_fees", 1)
    got = world.chain.balance(ALICE) - before + 1 + taken.tokens_burnt
    # beside what the account itself paid and got for gas meanwhile
    assert abs(got - half) < NEAR // 100
    account = world.chain.account(MAIN)
    free = int(account["amount"]) - account["storage_usage"] * BYTE
    # what the request that waits occupies is in the stake: its payment covers that
    assert free > 4 * NEAR + RESERVE + OUTPUT_ROOM - NEAR // 100
    assert int(world.view("get_near_books")["fees"]) == NEAR - got


def test_whatever_fees_are_withdrawn_long_outputs_still_end(world: World) -> None:
    world.ok(MAIN, "set_owner", new_owner_id=ALICE)
    world.ok(ALICE, "set_pricing", base_fee=str(40 * NEAR))
    sent, request_id = world.request(BOB, deposit=41 * NEAR, resource_limits=None)
    world.resolve(request_id, success=False, output=None)
    world.final(sent)
    world.ok(ALICE, "set_pricing", base_fee=str(BASE_FEE))
    leave(world, 30 * NEAR)
    world.ok(ALICE, "withdraw_fees", 1)
    waiting = [world.request(BOB, deposit=NEAR) for _ in range(4)]
    for _, number in waiting:
        args = {"request_id": number, "output": {"Text": "x" * 249_998}, "success": True}
        world.ok(OPERATOR, "submit_execution_output_and_resolve", gas=300 * TGAS, resources_used=USED, **args)
    for sent, _ in waiting:
        assert len(world.final(sent).value) == 250_000


def test_stablecoin_fees_are_all_that_the_owner_reaches(funded: World) -> None:
    funded.deposit_usd(BOB, 500_000)
    credit(funded, "one", [(CAROL, 70)], 900)
    funded.ok(MAIN, "set_owner", new_owner_id=ALICE)
    words = "Only 900 micro-USD of fees can be withdrawn"
    funded.refused(ALICE, "withdraw_stablecoin_fees", words, 1, amount="901")
    funded.refused(ALICE, "withdraw_stablecoin_fees", "No stablecoin fees", 1, amount="0")
    funded.refused(BOB, "withdraw_stablecoin_fees", "Only owner", 1)
    funded.refused(ALICE, "withdraw_stablecoin_fees", "at least 1 yoctoNEAR")
    assert funded.ok(ALICE, "withdraw_stablecoin_fees", 1, amount="300").json() is True
    assert funded.ok(ALICE, "withdraw_stablecoin_fees", 1).json() is True
    assert funded.tokens(ALICE) == MINTED + 900
    funded.refused(ALICE, "withdraw_stablecoin_fees", "No stablecoin fees", 1)
    assert pools(funded) == sums(users=500_000, developers=70, payment_keys=FUNDS - 970)
    assert funded.tokens(MAIN) == sum(pools(funded).values())


@pytest.mark.parametrize("frozen", [False, True])
def test_a_withdrawals_callback_needs_half_of_its_gas(funded: World, frozen: bool) -> None:
    credit(funded, "one", [(ALICE, 70)], 30)
    freeze(funded, ALICE, frozen)
    funded.ok(MAIN, "set_owner", new_owner_id=ALICE)
    for method in ("withdraw_developer_earnings", "withdraw_stablecoin_fees"):
        result = funded.ok(ALICE, method, 1)
        assert result.json() is not frozen
        own = [o["outcome"] for o in result.outcomes if o["outcome"]["executor_id"] == MAIN]
        callback = own[-1] if own[-1]["gas_burnt"] != 223_182_562_500 else own[-2]
        assert callback["gas_burnt"] <= 5 * TGAS


# -- what an earlier version of the state had -------------------------------------------------------------

OLD_MAIN = Path(__file__).parent / "fixtures" / "outlayer-v2.wasm"
OLD_SHA256 = "5dab91a70a519be618f44fa1fbc5397f5942135aecc9a29f1dc67cf63e0c1097"


@pytest.fixture(scope="module")
def old_chain() -> Iterator[World]:
    assert hashlib.sha256(OLD_MAIN.read_bytes()).hexdigest() == OLD_SHA256
    with deployed(OLD_MAIN) as world:
        yield world


@pytest.fixture
def old(old_chain: World) -> World:
    old_chain.chain.restore("deployed")
    return old_chain


def upgrade_actions() -> list[Action]:
    code = DeployContract((ARTIFACTS / "outlayer.wasm").read_bytes())
    return [code, FunctionCall("migrate", b"{}", 200 * TGAS, 0)]


def upgrade(world: World) -> None:
    assert world.chain.send(world.accounts[MAIN], MAIN, upgrade_actions()).failure is None


def test_old_amounts_are_counted_when_their_account_is_touched_or_by_anyone(old: World) -> None:
    old.deposit_usd(BOB, 700)
    old.deposit_usd(CAROL, 300)
    sent, request_id = old.request(BOB, params={"attached_usd": "200"})
    old.resolve(request_id)
    old.final(sent)
    waits, waiting_id = old.request(CAROL, params={"attached_usd": "120"})
    upgrade(old)
    # what waits was carried over, and what it holds is counted
    assert pools(old) == sums(users=120)
    assert (old.usd(BOB), old.usd(CAROL), old.earnings(ALICE)) == (500, 180, 200)
    before = usage(old)
    assert old.ok(CAROL, "adopt_balances", account_ids=[BOB, ALICE, "nobody.test", BOB]).json() == 2
    assert pools(old) == sums(users=620, developers=200)
    assert usage(old) == before, "an entry has moved, no more"
    old.resolve(waiting_id, refund_usd=20)
    old.final(waits)
    assert pools(old) == sums(users=700, developers=300)
    assert (old.usd(BOB), old.usd(CAROL), old.earnings(ALICE)) == (500, 200, 300)
    assert old.ok(ALICE, "withdraw_developer_earnings", 1).json() is True
    old.deposit_usd(BOB, 1)
    assert pools(old) == sums(users=701)
    assert old.ok(CAROL, "adopt_balances", account_ids=[ALICE, BOB, CAROL]).json() == 0
    assert old.tokens(MAIN) == 701


def test_a_first_deposit_is_not_asked_of_who_has_an_old_balance(old: World) -> None:
    old.deposit_usd(BOB, 5)
    upgrade(old)
    assert old.pay(BOB, 1, DEPOSIT).json() == "1"
    assert old.usd(BOB) == 6


@pytest.mark.parametrize("end", ["answered", "failed", "never", "owner goes on"])
def test_a_top_up_that_was_under_way_during_the_upgrade_ends_right(old: World, end: str) -> None:
    old.make_key(BOB, 1, "old")
    sent, event = old.top_up(CAROL, 1, FUNDS, owner=BOB)
    answer: dict[str, Any] = {"data_id": data_id(event), "result": DONE}
    upgrade(old)
    if end == "owner goes on":
        old.make_key(BOB, 1, "mine")
        old.refused(OPERATOR, "resume_topup", "No task of this kind waits", **answer)
    else:
        other = old.pay(ALICE, FUNDS, {"action": "top_up_payment_key", "nonce": 1, "owner": BOB})
        assert "is under way" in json.dumps(other.outcomes)
    if end == "answered":
        old.ok(OPERATOR, "resume_topup", **answer)
        old.refused(OPERATOR, "resume_topup", "No task of this kind waits", **answer)
    elif end == "failed":
        failed = {"Error": {"message": "no"}}
        old.ok(OPERATOR, "resume_topup", data_id=data_id(event), result=failed)
    old.chain.fast_forward(230)
    credited = end == "answered"
    assert old.final(sent).json() == str(FUNDS if credited else 0)
    assert old.tokens(MAIN) == pools(old)["payment_keys"] == (FUNDS if credited else 0)
    expected = {"owner goes on": "mine"}.get(end, "new" if credited else "old")
    assert old.secret(BOB, PAYMENT_KEY, "1")["encrypted_secrets"] == expected
    again, event = old.top_up(CAROL, 1, FUNDS, owner=BOB)
    old.ok(OPERATOR, "resume_topup", data_id=data_id(event), result=DONE)
    assert old.final(again).json() == str(FUNDS)


def test_an_answer_that_the_upgrade_overtakes_counts(old: World) -> None:
    """The old code takes the answer, and either code its callback."""
    for blocks in range(5):
        old.chain.restore("deployed")
        old.make_key(BOB, 1, "old")
        sent, event = old.top_up(CAROL, 1, FUNDS, owner=BOB)
        args = json.dumps({"data_id": data_id(event), "result": DONE}).encode()
        call = FunctionCall("resume_topup", args, 100 * TGAS, 0)
        answer = old.chain.sign(old.accounts[OPERATOR], MAIN, [call])
        migrate = old.chain.sign(old.accounts[MAIN], MAIN, upgrade_actions())
        old.chain.rpc("broadcast_tx_async", [base64.b64encode(answer).decode()])
        for _ in range(blocks):
            old.chain.produce_block()
        old.chain.rpc("broadcast_tx_async", [base64.b64encode(migrate).decode()])
        old.chain.fast_forward(10)
        assert old.final(sent).json() == str(FUNDS), blocks
        assert old.secret(BOB, PAYMENT_KEY, "1")["encrypted_secrets"] == "new"
        # tokens that the old code credited are in no sum: it kept none
        assert pools(old)["payment_keys"] in (0, FUNDS)


@pytest.mark.parametrize("answered", [True, False])
def test_a_deletion_that_was_under_way_during_the_upgrade_ends_right(old: World, answered: bool) -> None:
    old.make_key(BOB, 1, "old")
    held = int(old.secret(BOB, PAYMENT_KEY, "1")["storage_deposit"])
    before = old.chain.balance(BOB)
    sent, event = old.delete_key(BOB, 1)
    upgrade(old)
    args = {"nonce": 1}
    again = old.call(BOB, "delete_payment_key", 1, **args)
    assert "The deletion of this payment key is under way" in json.dumps(again.failure)
    if answered:
        old.ok(OPERATOR, "resume_delete_payment_key", data_id=data_id(event), result="Success")
    old.chain.fast_forward(230)
    final = old.final(sent)
    assert final.json() is answered
    assert (old.secret(BOB, PAYMENT_KEY, "1") is None) is answered
    spent = before - old.chain.balance(BOB) - again.tokens_burnt - final.tokens_burnt
    assert spent == 1 - (held if answered else 0)
    if not answered:
        old.delete_key(BOB, 1)


def test_an_old_key_that_is_too_large_to_top_up_says_so_at_once(old: World) -> None:
    """Its callback ran out of gas, and the key was locked for ever."""
    crowd = {"Whitelist": {"accounts": [f"{number:060}" for number in range(300)]}}
    old.store(BOB, PAYMENT_KEY, "1", "old", crowd)
    old.store(BOB, PAYMENT_KEY, "2", "o" * 9_000)
    for nonce in (1, 2):
        stuck, _ = old.top_up(CAROL, nonce, FUNDS, owner=BOB)
        assert stuck.failure is None
    upgrade(old)
    old.chain.fast_forward(230)
    for nonce, words in ((1, "condition has at most 16384 bytes"), (2, "ciphertext has at most 8192 bytes")):
        message = {"action": "top_up_payment_key", "nonce": nonce, "owner": BOB}
        refused = old.pay(CAROL, FUNDS, message)
        assert refused.json() == "0"
        assert words in json.dumps(refused.outcomes)
        old.make_key(BOB, nonce, "small")
        sent, event = old.top_up(CAROL, nonce, FUNDS, owner=BOB)
        old.ok(OPERATOR, "resume_topup", data_id=data_id(event), result=DONE)
        assert old.final(sent).json() == str(FUNDS)


def state(world: World) -> dict[str, str]:
    """Keys and values of the main contract's state."""
    query = {"request_type": "view_state", "finality": "optimistic", "account_id": MAIN, "prefix_base64": ""}
    return {item["key"]: item["value"] for item in world.chain.rpc("query", query)["values"]}


def test_an_old_task_whose_callback_never_ended_it_is_over_by_its_age(old: World) -> None:
    """As if its callback had run out of gas under the old code, which locked the key for ever."""
    old.make_key(BOB, 1, "old")
    before = state(old)
    old.top_up(CAROL, 1, FUNDS, owner=BOB)
    task = {key: value for key, value in state(old).items() if key not in before}
    assert len(task) == 2
    old.chain.fast_forward(210)
    records = [{"Data": {"account_id": MAIN, "data_key": key, "value": task[key]}} for key in task]
    old.chain.rpc("sandbox_patch_state", {"records": records})
    upgrade(old)
    message = {"action": "top_up_payment_key", "nonce": 1, "owner": BOB}
    assert "is under way" in json.dumps(old.pay(ALICE, FUNDS, message).outcomes)
    old.chain.fast_forward(230)
    sent, event = old.top_up(CAROL, 1, FUNDS, owner=BOB)
    old.ok(OPERATOR, "resume_topup", data_id=data_id(event), result=DONE)
    assert old.final(sent).json() == str(FUNDS)
    assert not task.keys() & state(old).keys()


def test_an_old_keys_task_uses_no_reserve_that_is_used_up(old: World) -> None:
    """Such a key has paid for no task; once it is stored again it has."""
    old.make_key(BOB, 1)
    upgrade(old)
    leave(old, RESERVE - NEAR // 10)
    message = {"action": "top_up_payment_key", "nonce": 1, "owner": BOB}
    refused = old.pay(CAROL, FUNDS, message)
    assert "The contract's reserve is used up" in json.dumps(refused.outcomes)
    old.ok(BOB, "delete_secrets", accessor=PAYMENT_KEY, profile="1")
    old.make_key(BOB, 1)
    sent, event = old.top_up(CAROL, 1, FUNDS, owner=BOB)
    old.ok(OPERATOR, "resume_topup", data_id=data_id(event), result=DONE)
    assert old.final(sent).json() == str(FUNDS)


def test_fees_of_the_old_state_are_the_owners_as_far_as_they_are_there(old: World) -> None:
    sent, request_id = old.request(BOB)
    old.resolve(request_id)
    old.final(sent)
    upgrade(old)
    assert old.view("get_near_books") == {"held_payments": "0", "fees": str(COST)}
    old.request(BOB, deposit=PAYMENT, source=wasm_url("b"), resource_limits=None)
    assert old.view("get_near_books")["held_payments"] == str(PAYMENT)
    assert old.call(MAIN, "withdraw_fees", 1, amount=str(COST)).failure is None
    assert old.view("get_near_books")["fees"] == "0"
    assert BASE_FEE < COST
