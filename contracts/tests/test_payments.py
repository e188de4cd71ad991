# SPDX-License-Identifier: MIT
"""Stablecoin in and out of the main contract: nothing is lost, nothing is credited that did not arrive."""

from __future__ import annotations

import json

import pytest
from main_world import (
    MAIN,
    MINTED,
    OPERATOR,
    PAYMENT,
    PAYMENT_KEY,
    TOKEN,
    USED,
    World,
    data_id,
)

from outlayer_localnet.testing import NEAR

BOB = "bob.test"
AMOUNT = 2_000_000
DONE = {"Success": {"new_encrypted_data": "new"}}
FAILED = {"Error": {"message": "no such key"}}


@pytest.fixture
def keyed(world: World) -> World:
    world.make_key(BOB, 1, "old")
    return world


def test_a_top_up_gives_the_key_its_new_ciphertext_and_keeps_the_tokens(keyed: World) -> None:
    sent, event = keyed.top_up(BOB, 1, AMOUNT)
    assert event["owner"] == BOB
    assert (event["nonce"], event["amount"], event["encrypted_data"]) == (1, str(AMOUNT), "old")
    keyed.ok(OPERATOR, "resume_topup", data_id=data_id(event), result=DONE)
    assert keyed.final(sent).json() == str(AMOUNT)
    assert keyed.tokens(MAIN) == AMOUNT
    assert keyed.secret(BOB, PAYMENT_KEY, "1")["encrypted_secrets"] == "new"


def test_a_ciphertext_longer_than_a_yield_takes_arrives_whole(keyed: World) -> None:
    sent, event = keyed.top_up(BOB, 1, AMOUNT)
    long = {"Success": {"new_encrypted_data": "c" * 3_000}}
    keyed.ok(OPERATOR, "resume_topup", data_id=data_id(event), result=long)
    assert keyed.final(sent).json() == str(AMOUNT)
    assert keyed.secret(BOB, PAYMENT_KEY, "1")["encrypted_secrets"] == "c" * 3_000


def test_another_account_may_top_a_key_up(keyed: World) -> None:
    sent, event = keyed.top_up("carol.test", 1, AMOUNT, owner=BOB)
    assert event["owner"] == BOB
    keyed.ok(OPERATOR, "resume_topup", data_id=data_id(event), result=DONE)
    keyed.final(sent)
    assert keyed.tokens("carol.test") == MINTED - AMOUNT
    assert keyed.tokens(BOB) == MINTED


@pytest.mark.parametrize("message", ["no such key", "ä" * 2_000])
def test_a_top_up_that_failed_returns_the_tokens(keyed: World, message: str) -> None:
    sent, event = keyed.top_up(BOB, 1, AMOUNT)
    keyed.ok(OPERATOR, "resume_topup", data_id=data_id(event), result={"Error": {"message": message}})
    assert keyed.final(sent).json() == "0"
    assert keyed.tokens(BOB) == MINTED
    assert keyed.secret(BOB, PAYMENT_KEY, "1")["encrypted_secrets"] == "old"


def test_a_top_up_that_nobody_answers_returns_the_tokens_and_frees_the_key(keyed: World) -> None:
    sent, event = keyed.top_up(BOB, 1, AMOUNT)
    keyed.chain.fast_forward(210)
    assert keyed.final(sent).json() == "0"
    assert keyed.tokens(BOB) == MINTED
    keyed.refused(OPERATOR, "resume_topup", "No task of this kind waits", data_id=data_id(event), result=DONE)
    assert keyed.secret(BOB, PAYMENT_KEY, "1")["encrypted_secrets"] == "old"
    again, event = keyed.top_up(BOB, 1, AMOUNT)
    keyed.ok(OPERATOR, "resume_topup", data_id=data_id(event), result=DONE)
    assert keyed.final(again).json() == str(AMOUNT)


def test_r9_around_the_time_out_a_top_up_is_either_credited_or_returned(keyed: World) -> None:
    """In the block in which the time-out is delivered an answer is still taken, but nobody sees it."""
    credited = []
    for blocks in range(194, 206):
        keyed.chain.restore("deployed")
        keyed.make_key(BOB, 1, "old")
        sent, event = keyed.top_up(BOB, 1, AMOUNT)
        keyed.chain.fast_forward(blocks)
        answer = keyed.call(OPERATOR, "resume_topup", data_id=data_id(event), result=DONE)
        keyed.chain.fast_forward(10)
        kept = int(keyed.final(sent).json())
        ciphertext = keyed.secret(BOB, PAYMENT_KEY, "1")["encrypted_secrets"]
        assert (kept, ciphertext) in ((AMOUNT, "new"), (0, "old")), (blocks, answer.failure)
        assert keyed.tokens(BOB) == MINTED - kept
        assert keyed.tokens(MAIN) == kept
        credited.append(kept == AMOUNT)
        keyed.top_up(BOB, 1, AMOUNT)  # the key is free again
    assert credited[0]
    assert not credited[-1]
    assert credited == sorted(credited, reverse=True)


def test_around_the_time_out_a_key_is_either_deleted_or_stays(keyed: World) -> None:
    for blocks in range(196, 204):
        keyed.chain.restore("deployed")
        keyed.make_key(BOB, 1, "old")
        sent, event = keyed.delete_key(BOB, 1)
        keyed.chain.fast_forward(blocks)
        keyed.call(OPERATOR, "resume_delete_payment_key", data_id=data_id(event), result="Success")
        keyed.chain.fast_forward(10)
        gone = keyed.final(sent).json()
        assert (keyed.secret(BOB, PAYMENT_KEY, "1") is None) is gone


def test_a_top_up_is_answered_once(keyed: World) -> None:
    sent, event = keyed.top_up(BOB, 1, AMOUNT)
    keyed.ok(OPERATOR, "resume_topup", data_id=data_id(event), result=DONE)
    words = "No task of this kind waits"
    keyed.refused(OPERATOR, "resume_topup", words, data_id=data_id(event), result=FAILED)
    assert keyed.final(sent).json() == str(AMOUNT)


def test_a_key_has_one_task_at_a_time_so_that_no_balance_is_lost(keyed: World) -> None:
    sent, event = keyed.top_up(BOB, 1, AMOUNT)
    second = keyed.pay("carol.test", AMOUNT, {"action": "top_up_payment_key", "nonce": 1, "owner": BOB})
    assert second.json() == "0"
    assert keyed.tokens("carol.test") == MINTED
    words = "is under way"
    stored = {
        "accessor": PAYMENT_KEY,
        "profile": "1",
        "encrypted_secrets_base64": "mine",
        "access": "AllowAll",
    }
    keyed.refused(BOB, "store_secrets", words, NEAR, **stored)
    keyed.refused(BOB, "delete_secrets", words, accessor=PAYMENT_KEY, profile="1")
    keyed.refused(BOB, "delete_payment_key", words, 1, nonce=1)
    keyed.ok(OPERATOR, "resume_topup", data_id=data_id(event), result=DONE)
    assert keyed.final(sent).json() == str(AMOUNT)


@pytest.mark.parametrize(
    ("amount", "message", "words"),
    [
        (9_999, {"action": "top_up_payment_key", "nonce": 1}, "Minimum top-up is $0.01"),
        (AMOUNT, {"action": "top_up_payment_key", "nonce": 2}, "Payment key not found. Create it first"),
        (AMOUNT, {"action": "top_up_payment_key"}, "Invalid msg format"),
        (AMOUNT, {"action": "buy"}, "Invalid msg format"),
        (AMOUNT, "", "Invalid msg format"),
    ],
)
def test_tokens_with_no_use_go_back_with_the_reason(
    keyed: World, amount: int, message: object, words: str
) -> None:
    paid = keyed.pay(BOB, amount, message)
    assert paid.json() == "0"
    assert words in json.dumps(paid.outcomes)
    assert keyed.tokens(BOB) == MINTED


def test_only_the_configured_token_counts(keyed: World) -> None:
    args = {"sender_id": BOB, "amount": "5000000", "msg": '{"action":"deposit_balance"}'}
    keyed.refused(BOB, "ft_on_transfer", "Invalid token contract", **args)
    keyed.ok(MAIN, "set_payment_token_contract", payment_token_contract=None)
    keyed.refused(TOKEN, "ft_on_transfer", "Payment token contract not configured", **args)
    assert keyed.usd(BOB) == 0


def test_a_paused_contract_takes_no_tokens(keyed: World) -> None:
    keyed.ok(MAIN, "set_paused", paused=True)
    assert keyed.pay(BOB, AMOUNT, {"action": "deposit_balance"}).json() == "0"
    assert keyed.tokens(BOB) == MINTED


def test_r9_an_amount_that_is_only_stated_is_never_credited(keyed: World) -> None:
    swap = {"nonce": 1, "swap_contract_id": "swap.test"}
    keyed.refused(BOB, "top_up_payment_key_with_near", "ft_transfer_call", NEAR, **swap)
    stated = {**swap, "token_id": TOKEN, "amount": "5000000"}
    keyed.refused(BOB, "top_up_payment_key_with_token", "ft_transfer_call", 1, **stated)
    assert keyed.usd(BOB) == 0
    assert keyed.tokens(MAIN) == 0
    assert keyed.secret(BOB, PAYMENT_KEY, "1")["encrypted_secrets"] == "old"


def test_only_the_operator_answers_tasks(keyed: World) -> None:
    _, event = keyed.top_up(BOB, 1, AMOUNT)
    for who in (BOB, "alice.test", MAIN):
        keyed.refused(who, "resume_topup", "Only operator", data_id=data_id(event), result=DONE)
        keyed.refused(
            who, "resume_delete_payment_key", "Only operator", data_id=data_id(event), result="Success"
        )
    for text in ("", "00", "zz" * 32, data_id(event) + "00"):
        keyed.refused(OPERATOR, "resume_topup", "data_id must be 64 hex", data_id=text, result=DONE)
    wrong = {"data_id": data_id(event), "result": "Success"}
    keyed.refused(OPERATOR, "resume_delete_payment_key", "No task of this kind waits", **wrong)


def test_a_deleted_key_gives_its_deposit_back(keyed: World) -> None:
    usage = keyed.chain.account(MAIN)["storage_usage"]
    held = int(keyed.secret(BOB, PAYMENT_KEY, "1")["storage_deposit"])
    before = keyed.chain.balance(BOB)
    sent, event = keyed.delete_key(BOB, 1)
    assert (event["owner"], event["nonce"]) == (BOB, 1)
    keyed.ok(OPERATOR, "resume_delete_payment_key", data_id=data_id(event), result="Success")
    final = keyed.final(sent)
    assert final.json() is True
    assert keyed.secret(BOB, PAYMENT_KEY, "1") is None
    assert before - keyed.chain.balance(BOB) == 1 + final.tokens_burnt - held
    assert keyed.chain.account(MAIN)["storage_usage"] < usage


@pytest.mark.parametrize("answered", [True, False])
def test_a_key_whose_deletion_failed_stays(keyed: World, answered: bool) -> None:
    sent, event = keyed.delete_key(BOB, 1)
    if answered:
        keyed.ok(OPERATOR, "resume_delete_payment_key", data_id=data_id(event), result=FAILED)
    else:
        keyed.chain.fast_forward(210)
    assert keyed.final(sent).json() is False
    assert keyed.secret(BOB, PAYMENT_KEY, "1")["encrypted_secrets"] == "old"
    keyed.delete_key(BOB, 1)


def test_a_deletion_needs_a_yocto_and_a_key_of_ones_own(keyed: World) -> None:
    keyed.refused(BOB, "delete_payment_key", "at least 1 yoctoNEAR", nonce=1)
    keyed.refused("carol.test", "delete_payment_key", "Payment key not found", 1, nonce=1)


def test_what_is_attached_above_a_yocto_comes_back(keyed: World) -> None:
    before = keyed.chain.balance(BOB)
    sent = keyed._begin(BOB, MAIN, "delete_payment_key", {"nonce": 1}, NEAR)
    keyed.chain.fast_forward(210)
    final = keyed.final(sent)
    assert final.json() is False
    assert before - keyed.chain.balance(BOB) == 1 + final.tokens_burnt


# -- balances for attached_usd, and what developers earn ---------------------------------------------------


def earn(world: World, amount: int = AMOUNT, refund: int = 0) -> None:
    world.deposit_usd(BOB, amount)
    sent, request_id = world.request(BOB, params={"attached_usd": str(amount)})
    world.resolve(request_id, refund_usd=refund)
    world.final(sent)


def test_a_deposit_is_spent_and_earned(world: World) -> None:
    world.deposit_usd(BOB, AMOUNT)
    assert world.usd(BOB) == AMOUNT
    sent, request_id = world.request(BOB, params={"attached_usd": str(AMOUNT - 5)})
    assert world.usd(BOB) == 5
    world.resolve(request_id, refund_usd=300)
    world.final(sent)
    assert world.usd(BOB) == 305
    assert world.earnings("alice.test") == AMOUNT - 305


@pytest.mark.parametrize("size", [100, 10_000])
def test_r7_the_usd_refund_is_the_same_for_small_and_large_outputs(world: World, size: int) -> None:
    world.deposit_usd(BOB, AMOUNT)
    sent, request_id = world.request(BOB, params={"attached_usd": "1000"})
    output = {"Text": "x" * size}
    if size < 1_000:
        world.resolve(request_id, output=output, refund_usd=400)
    else:
        args = {
            "request_id": request_id,
            "output": output,
            "success": True,
            "resources_used": USED,
            "refund_usd": 400,
        }
        world.ok(OPERATOR, "submit_execution_output_and_resolve", **args)
    assert world.final(sent).json() == "x" * size
    assert world.earnings("alice.test") == 600
    assert world.usd(BOB) == AMOUNT - 600


def test_a_refund_is_never_more_than_what_was_attached(world: World) -> None:
    earn(world, AMOUNT, refund=10 * AMOUNT)
    assert world.usd(BOB) == AMOUNT
    assert world.earnings("alice.test") == 0


def test_a_failed_run_gives_all_attached_usd_back(world: World) -> None:
    world.deposit_usd(BOB, AMOUNT)
    sent, request_id = world.request(BOB, params={"attached_usd": str(AMOUNT)})
    world.resolve(request_id, success=False, output=None, error="trapped")
    assert world.final(sent).json() is None
    assert (world.usd(BOB), world.earnings("alice.test")) == (AMOUNT, 0)


def test_attached_usd_is_for_projects(world: World) -> None:
    world.deposit_usd(BOB, AMOUNT)
    source = {"WasmUrl": {"url": "https://example.test/a.wasm", "hash": "ab" * 32}}
    args = {"source": source, "resource_limits": {}, "params": {"attached_usd": "5"}}
    words = "attached_usd is only valid for Project execution source"
    world.refused(BOB, "request_execution", words, PAYMENT, **args)
    assert world.usd(BOB) == AMOUNT


def test_earnings_are_withdrawn_once(world: World) -> None:
    earn(world)
    world.refused("alice.test", "withdraw_developer_earnings", "at least 1 yoctoNEAR")
    before = world.chain.balance("alice.test")
    withdrawn = world.ok("alice.test", "withdraw_developer_earnings", NEAR)
    assert withdrawn.json() is True
    assert before - world.chain.balance("alice.test") == 1 + withdrawn.tokens_burnt
    assert world.tokens("alice.test") == MINTED + AMOUNT
    assert world.tokens(MAIN) == 0
    world.refused("alice.test", "withdraw_developer_earnings", "No earnings to withdraw", 1)


def test_two_withdrawals_at_once_pay_once(world: World) -> None:
    earn(world)
    first = world.chain.call(
        world.accounts["alice.test"],
        MAIN,
        "withdraw_developer_earnings",
        {},
        deposit=1,
        wait_until="INCLUDED",
    )
    world.call("alice.test", "withdraw_developer_earnings", 1)
    assert world.final(first).json() is True
    assert world.tokens("alice.test") == MINTED + AMOUNT


def test_earnings_stay_when_the_transfer_fails(world: World) -> None:
    earn(world)
    frozen = {"account_id": "alice.test", "frozen": True}
    world.chain.call(world.accounts[TOKEN], TOKEN, "set_frozen", frozen)
    assert world.ok("alice.test", "withdraw_developer_earnings", 1).json() is False
    assert world.earnings("alice.test") == AMOUNT
    assert world.tokens(MAIN) == AMOUNT
    world.chain.call(world.accounts[TOKEN], TOKEN, "set_frozen", {**frozen, "frozen": False})
    assert world.ok("alice.test", "withdraw_developer_earnings", 1).json() is True
