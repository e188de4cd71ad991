# SPDX-License-Identifier: MIT
"""Stablecoin in and out of the main contract: nothing is lost, nothing is credited that did not arrive."""

from __future__ import annotations

import base64
import json

import pytest
from main_world import (
    ARTIFACTS,
    BYTE,
    MAIN,
    MINTED,
    OPERATOR,
    PAYMENT,
    PAYMENT_KEY,
    TOKEN,
    USED,
    World,
    data_id,
    system_events,
)

from outlayer_localnet.testing import NEAR, TGAS, TxResult
from outlayer_near.models.secrets import PAYMENT_KEY_TASK_BYTES, secret_list_bytes
from outlayer_near.primitives import FunctionCall

BOB = "bob.test"
SWAP = "swap.test"
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


def test_a_strangers_top_up_waits_for_another_to_end(keyed: World) -> None:
    sent, event = keyed.top_up("alice.test", 1, AMOUNT, owner=BOB)
    second = keyed.pay("carol.test", AMOUNT, {"action": "top_up_payment_key", "nonce": 1, "owner": BOB})
    assert second.json() == "0"
    assert "is under way" in json.dumps(second.outcomes)
    assert keyed.tokens("carol.test") == MINTED
    keyed.ok(OPERATOR, "resume_topup", data_id=data_id(event), result=DONE)
    assert keyed.final(sent).json() == str(AMOUNT)


def owners_call(world: World, what: str) -> None:
    """The owner of key 1 goes on with it."""
    name = {"accessor": PAYMENT_KEY, "profile": "1"}
    if what == "store":
        world.make_key(BOB, 1, "mine")
    elif what == "update":
        access = {"Whitelist": {"accounts": [BOB]}}
        world.ok(BOB, "update_access", NEAR, new_access=access, **name)
    elif what == "delete":
        world.ok(BOB, "delete_secrets", **name)
    elif what == "delete key":
        world.delete_key(BOB, 1)
    else:
        world.top_up(BOB, 1, AMOUNT)


@pytest.mark.parametrize("answered", ["before", "after", "never"])
@pytest.mark.parametrize("what", ["store", "update", "delete", "delete key", "top up"])
def test_no_top_up_of_a_stranger_keeps_the_owner_from_the_key(keyed: World, what: str, answered: str) -> None:
    """What the owner does counts; the stranger's tokens come back, whatever the operator answers."""
    sent, event = keyed.top_up("carol.test", 1, AMOUNT, owner=BOB)
    late = {"data_id": data_id(event), "result": DONE}
    if answered == "before":
        # in one block: the answer is taken, and its callback comes after the owner's call
        signed = keyed.chain.sign(
            keyed.accounts[OPERATOR],
            MAIN,
            [FunctionCall("resume_topup", json.dumps(late).encode(), 100 * TGAS, 0)],
        )
        keyed.chain.rpc("broadcast_tx_async", [base64.b64encode(signed).decode()])
    owners_call(keyed, what)
    if answered == "after":
        keyed.refused(OPERATOR, "resume_topup", "No task of this kind waits", **late)
    keyed.chain.fast_forward(210)
    kept = int(keyed.final(sent).json())
    ciphertext = (keyed.secret(BOB, PAYMENT_KEY, "1") or {"encrypted_secrets": None})["encrypted_secrets"]
    assert keyed.tokens("carol.test") == MINTED - kept
    assert int(keyed.view("get_stablecoin_pools")["payment_keys"]) == kept
    if answered == "before" and kept:  # its callback came first
        assert what != "store" or ciphertext == "mine"
        assert ciphertext in ("new", "mine", None)
    else:
        assert kept == 0
        assert ciphertext == {"store": "mine", "delete": None}.get(what, "old")
    # and the key is free again
    if ciphertext is not None:
        again, event = keyed.top_up("carol.test", 1, AMOUNT, owner=BOB)
        keyed.ok(OPERATOR, "resume_topup", data_id=data_id(event), result=DONE)
        assert keyed.final(again).json() == str(AMOUNT)


def test_the_end_of_a_replaced_top_up_is_not_the_end_of_the_one_in_its_place(keyed: World) -> None:
    stranger, _ = keyed.top_up("carol.test", 1, AMOUNT, owner=BOB)
    keyed.chain.fast_forward(100)
    sent, event = keyed.top_up(BOB, 1, 2 * AMOUNT)
    keyed.chain.fast_forward(110)
    assert keyed.final(stranger).json() == "0"
    assert keyed.tokens("carol.test") == MINTED
    keyed.ok(OPERATOR, "resume_topup", data_id=data_id(event), result=DONE)
    assert keyed.final(sent).json() == str(2 * AMOUNT)
    assert keyed.secret(BOB, PAYMENT_KEY, "1")["encrypted_secrets"] == "new"


def test_the_owners_own_top_up_is_not_replaced_by_a_second_one(keyed: World) -> None:
    sent, event = keyed.top_up(BOB, 1, AMOUNT)
    again = keyed.pay(BOB, AMOUNT, {"action": "top_up_payment_key", "nonce": 1})
    assert again.json() == "0"
    assert "is under way" in json.dumps(again.outcomes)
    keyed.ok(OPERATOR, "resume_topup", data_id=data_id(event), result=DONE)
    assert keyed.final(sent).json() == str(AMOUNT)


def test_a_deletion_under_way_is_the_owners_to_end(keyed: World) -> None:
    sent, event = keyed.delete_key(BOB, 1)
    stranger = keyed.pay("carol.test", AMOUNT, {"action": "top_up_payment_key", "nonce": 1, "owner": BOB})
    assert stranger.json() == "0"
    words = "The deletion of this payment key is under way"
    keyed.refused(BOB, "delete_payment_key", words, 1, nonce=1)
    stored = {"accessor": PAYMENT_KEY, "profile": "1", "access": "AllowAll"}
    keyed.refused(BOB, "store_secrets", words, NEAR, **stored, encrypted_secrets_base64="mine")
    changed = {"accessor": PAYMENT_KEY, "profile": "1", "new_access": "AllowAll"}
    keyed.refused(BOB, "update_access", words, NEAR, **changed)
    keyed.ok(BOB, "delete_secrets", accessor=PAYMENT_KEY, profile="1")
    args = {"data_id": data_id(event), "result": "Success"}
    keyed.refused(OPERATOR, "resume_delete_payment_key", "No task of this kind waits", **args)
    keyed.chain.fast_forward(210)
    assert keyed.final(sent).json() is True


def state(world: World) -> dict[str, str]:
    """Keys and values of the main contract's state."""
    query = {"request_type": "view_state", "finality": "optimistic", "account_id": MAIN, "prefix_base64": ""}
    return {item["key"]: item["value"] for item in world.chain.rpc("query", query)["values"]}


def test_a_task_whose_callback_never_ended_it_is_over_by_its_age(keyed: World) -> None:
    """As if its callback had run out of gas: the record of the task is still there."""
    before = state(keyed)
    keyed.top_up("carol.test", 1, AMOUNT, owner=BOB)
    task = {key: value for key, value in state(keyed).items() if key not in before}
    assert len(task) == 2
    keyed.chain.fast_forward(210)
    records = [{"Data": {"account_id": MAIN, "data_key": key, "value": value}} for key, value in task.items()]
    keyed.chain.rpc("sandbox_patch_state", {"records": records})
    refused = keyed.pay("alice.test", AMOUNT, {"action": "top_up_payment_key", "nonce": 1, "owner": BOB})
    assert "is under way" in json.dumps(refused.outcomes)
    keyed.chain.fast_forward(20)
    sent, event = keyed.top_up("alice.test", 1, AMOUNT, owner=BOB)
    keyed.ok(OPERATOR, "resume_topup", data_id=data_id(event), result=DONE)
    assert keyed.final(sent).json() == str(AMOUNT)


# -- at the largest sizes, with the least gas ------------------------------------------------------------

LARGEST_CIPHERTEXT = 8_192
LARGEST_CONDITION = 16_384
CALLBACK_GAS = 30 * TGAS


def accounts_of(size: int, length: int) -> dict[str, object]:
    """A condition of at most ``size`` bytes in state that names as many accounts of ``length`` as it can."""
    count = (size - 6) // (4 + length)
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    names = [
        "".join(digits[number // 36**place % 36] for place in range(min(length, 4))).ljust(length, "x")
        for number in range(count)
    ]
    return {"Whitelist": {"accounts": names}}


def dearest(world: World, sent: TxResult) -> int:
    """Gas of the dearest receipt of the main contract: its call, or the callback at the end."""
    burnt = [
        outcome["outcome"]["gas_burnt"]
        for outcome in world.final(sent).outcomes
        if outcome["outcome"]["executor_id"] == MAIN
    ]
    return max(burnt)


@pytest.mark.parametrize("length", [2, 64])
def test_the_largest_key_is_topped_up_with_half_of_the_callbacks_gas(world: World, length: int) -> None:
    access = accounts_of(LARGEST_CONDITION, length)
    args = {"accessor": PAYMENT_KEY, "profile": "1", "encrypted_secrets_base64": "c" * LARGEST_CIPHERTEXT}
    world.ok(BOB, "store_secrets", NEAR, gas=100 * TGAS, **args, access=access)
    sent, event = world.top_up("carol.test", 1, AMOUNT, owner=BOB)
    assert event["encrypted_data"] == "c" * LARGEST_CIPHERTEXT
    new = {"Success": {"new_encrypted_data": "n" * LARGEST_CIPHERTEXT}}
    world.ok(OPERATOR, "resume_topup", gas=100 * TGAS, data_id=data_id(event), result=new)
    assert world.final(sent).json() == str(AMOUNT)
    assert world.secret(BOB, PAYMENT_KEY, "1")["encrypted_secrets"] == "n" * LARGEST_CIPHERTEXT
    assert dearest(world, sent) <= CALLBACK_GAS // 2
    sent, event = world.delete_key(BOB, 1)
    world.ok(OPERATOR, "resume_delete_payment_key", data_id=data_id(event), result="Success")
    assert world.final(sent).json() is True
    assert dearest(world, sent) <= CALLBACK_GAS // 2


def test_a_top_up_with_any_gas_is_credited_or_returned(world: World) -> None:
    """A stranger chooses the gas of the transfer: too little fails before anything is announced."""
    access = accounts_of(LARGEST_CONDITION, 2)
    world.store(BOB, PAYMENT_KEY, "1", "c" * LARGEST_CIPHERTEXT, access)
    args = {
        "receiver_id": MAIN,
        "amount": str(AMOUNT),
        "msg": json.dumps({"action": "top_up_payment_key", "nonce": 1, "owner": BOB}),
    }
    credited = []
    for tgas in range(34, 74, 3):
        before = world.tokens(MAIN)
        sent = world._begin("carol.test", TOKEN, "ft_transfer_call", args, 1, tgas * TGAS)
        for _ in range(4):
            world.chain.produce_block()
        started = world.chain.tx(sent.hash)
        events = system_events(started, "TopUpPaymentKey")
        # a receipt that failed keeps its logs: they announce nothing
        failed = [item for item in started.outcomes if "Failure" in item["outcome"]["status"]]
        events = [] if any(item["outcome"]["executor_id"] == MAIN for item in failed) else events
        if events:
            new = {"Success": {"new_encrypted_data": "n" * LARGEST_CIPHERTEXT}}
            world.ok(OPERATOR, "resume_topup", data_id=data_id(events[0]), result=new)
        kept = world.tokens(MAIN) - before if world.final(sent).failure is None else 0
        assert kept == (AMOUNT if events else 0), tgas
        assert world.tokens(MAIN) == int(world.view("get_stablecoin_pools")["payment_keys"])
        credited.append(bool(events))
    assert credited == sorted(credited)
    assert not credited[0]
    assert credited[-1]


def test_an_answer_longer_than_a_key_may_be_is_refused_and_another_may_follow(keyed: World) -> None:
    sent, event = keyed.top_up(BOB, 1, AMOUNT)
    long = {"Success": {"new_encrypted_data": "n" * (LARGEST_CIPHERTEXT + 1)}}
    words = "ciphertext has at most 8192 bytes"
    keyed.refused(OPERATOR, "resume_topup", words, data_id=data_id(event), result=long)
    keyed.ok(OPERATOR, "resume_topup", data_id=data_id(event), result=FAILED)
    assert keyed.final(sent).json() == "0"


def test_a_ciphertext_that_grew_with_a_top_up_is_not_its_owners_to_cash_in(keyed: World) -> None:
    """The contract paid for the growth: it keeps that when the key goes, and an update must pay for it."""
    held = int(keyed.secret(BOB, PAYMENT_KEY, "1")["storage_deposit"])
    sent, event = keyed.top_up(BOB, 1, AMOUNT)
    grown = {"Success": {"new_encrypted_data": "n" * 503}}
    keyed.ok(OPERATOR, "resume_topup", data_id=data_id(event), result=grown)
    assert keyed.final(sent).json() == str(AMOUNT)
    assert int(keyed.secret(BOB, PAYMENT_KEY, "1")["storage_deposit"]) == held
    name = {"accessor": PAYMENT_KEY, "profile": "1"}
    words = "Insufficient deposit for update"
    keyed.refused(BOB, "update_access", words, 500 * BYTE - 1, **name, new_access="AllowAll")
    before = keyed.chain.balance(BOB)
    gone = keyed.ok(BOB, "delete_secrets", **name)
    head = BYTE * secret_list_bytes(BOB)
    assert keyed.chain.balance(BOB) - before + gone.tokens_burnt == held + head


@pytest.mark.parametrize("longest", ["b" * 59 + ".test"])
def test_a_task_occupies_no_more_than_its_key_has_paid_for(world: World, longest: str) -> None:
    world.accounts[longest] = world.chain.create_account(longest, 10 * NEAR)
    world.make_key(longest, 2**32 - 1)
    usage = world.chain.account(MAIN)["storage_usage"]
    world.top_up("carol.test", 2**32 - 1, AMOUNT, owner=longest)
    assert world.chain.account(MAIN)["storage_usage"] - usage == PAYMENT_KEY_TASK_BYTES


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
    keyed.ok(MAIN, "clear_payment_token_contract")
    keyed.refused(TOKEN, "ft_on_transfer", "Payment token contract not configured", **args)
    assert keyed.usd(BOB) == 0


def test_a_paused_contract_takes_no_tokens(keyed: World) -> None:
    keyed.ok(MAIN, "set_paused", paused=True)
    assert keyed.pay(BOB, AMOUNT, {"action": "deposit_balance"}).json() == "0"
    assert keyed.tokens(BOB) == MINTED


def test_r9_an_amount_that_is_only_stated_is_never_credited(keyed: World) -> None:
    swap = {"nonce": 1, "swap_contract_id": SWAP}
    words = "No swap contract is configured: the owner names one with set_swap_contract"
    keyed.refused(BOB, "top_up_payment_key_with_near", words, NEAR, **swap)
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
    head = BYTE * secret_list_bytes(BOB)
    before = keyed.chain.balance(BOB)
    sent, event = keyed.delete_key(BOB, 1)
    assert (event["owner"], event["nonce"]) == (BOB, 1)
    keyed.ok(OPERATOR, "resume_delete_payment_key", data_id=data_id(event), result="Success")
    final = keyed.final(sent)
    assert final.json() is True
    assert keyed.secret(BOB, PAYMENT_KEY, "1") is None
    assert before - keyed.chain.balance(BOB) == 1 + final.tokens_burnt - held - head
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


# -- top-ups with NEAR -----------------------------------------------------------------------------------


@pytest.fixture
def swapping(keyed: World) -> World:
    """Bob's key 1, and a swap contract that the owner chose and that has something to sell."""
    chain = keyed.chain
    keyed.accounts[SWAP] = chain.create_account(SWAP, 10 * NEAR)
    chain.deploy(keyed.accounts[SWAP], ARTIFACTS / "swap.wasm")
    supply = {"account_id": SWAP, "amount": str(MINTED)}
    assert chain.call(keyed.accounts[TOKEN], TOKEN, "mint", supply).failure is None
    keyed.ok(MAIN, "set_swap_contract", swap_contract_id=SWAP)
    return keyed


def swap(world: World, deposit: int = 3 * NEAR, gas: int = 300 * TGAS) -> TxResult:
    args = {"nonce": 1, "swap_contract_id": SWAP}
    return world._begin(BOB, MAIN, "top_up_payment_key_with_near", args, deposit, gas)


def test_r9_near_tops_a_key_up_with_what_the_swap_sends(swapping: World) -> None:
    books = swapping.view("get_near_books")
    before = swapping.chain.balance(BOB)
    sent = swap(swapping)
    event = swapping._event(sent, "TopUpPaymentKey")
    assert (event["owner"], event["amount"], event["nonce"]) == (BOB, "3000000", 1)
    swapping.ok(OPERATOR, "resume_topup", data_id=data_id(event), result=DONE)
    final = swapping.final(sent)
    assert final.json() == "3000000"
    assert before - swapping.chain.balance(BOB) == 3 * NEAR + final.tokens_burnt
    assert swapping.tokens(MAIN) == 3_000_000
    assert swapping.view("get_stablecoin_pools")["payment_keys"] == "3000000"
    assert swapping.view("get_near_books") == books


@pytest.mark.parametrize("why", ["refuses", "no answer", "the operator fails it", "too little gas"])
def test_near_that_tops_no_key_up_goes_back(swapping: World, why: str) -> None:
    own = swapping.chain.balance(MAIN)
    before = swapping.chain.balance(BOB)
    if why == "refuses":
        swapping.chain.call(swapping.accounts[SWAP], SWAP, "set_failing", {"fails": True})
    sent = swap(swapping, gas=(100 if why == "too little gas" else 300) * TGAS)
    if why in ("no answer", "the operator fails it"):
        event = swapping._event(sent, "TopUpPaymentKey")
        if why == "no answer":
            swapping.chain.fast_forward(210)
        else:
            swapping.ok(OPERATOR, "resume_topup", data_id=data_id(event), result=FAILED)
    swapping.chain.fast_forward(10)
    final = swapping.final(sent)
    assert swapping.tokens(MAIN) == 0
    assert before - swapping.chain.balance(BOB) == final.tokens_burnt
    assert swapping.chain.balance(MAIN) >= own
    assert swapping.secret(BOB, PAYMENT_KEY, "1")["encrypted_secrets"] == "old"


def test_a_strangers_cent_does_not_stop_a_swap(swapping: World) -> None:
    stranger, _ = swapping.top_up("carol.test", 1, 10_000, owner=BOB)
    sent = swap(swapping)
    event = swapping._event(sent, "TopUpPaymentKey")
    swapping.ok(OPERATOR, "resume_topup", data_id=data_id(event), result=DONE)
    swapping.final(sent)
    assert swapping.tokens(MAIN) > 10_000
    swapping.chain.fast_forward(210)
    assert swapping.final(stranger).json() == "0"
    assert swapping.tokens("carol.test") == MINTED


def test_near_stays_with_its_owner_while_a_swap_could_not_be_credited(swapping: World) -> None:
    sent, _ = swapping.top_up(BOB, 1, 10_000)
    args = {"nonce": 1, "swap_contract_id": SWAP}
    words = "A top-up or deletion of this payment key is under way"
    swapping.refused(BOB, "top_up_payment_key_with_near", words, NEAR, **args)
    swapping.chain.fast_forward(210)
    swapping.final(sent)


def test_only_the_owners_swap_contract_and_a_key_that_is_there(swapping: World) -> None:
    other = {"nonce": 1, "swap_contract_id": "other.test"}
    words = f"Swaps go through {SWAP}, not through other.test"
    swapping.refused(BOB, "top_up_payment_key_with_near", words, NEAR, **other)
    missing = {"nonce": 2, "swap_contract_id": SWAP}
    swapping.refused(BOB, "top_up_payment_key_with_near", "Payment key not found", NEAR, **missing)
    little = {"nonce": 1, "swap_contract_id": SWAP}
    swapping.refused(BOB, "top_up_payment_key_with_near", "Attach at least", NEAR // 100 - 1, **little)
    for method in ("set_swap_contract", "clear_swap_contract"):
        args = {"swap_contract_id": "bob.test"} if method == "set_swap_contract" else {}
        swapping.refused(BOB, method, "Only owner", **args)
    swapping.refused(MAIN, "set_swap_contract", "missing field `swap_contract_id`", swap_contract="bob.test")
    assert swapping.view("get_swap_contract") == SWAP
    swapping.ok(MAIN, "clear_swap_contract")
    assert swapping.view("get_swap_contract") is None


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
