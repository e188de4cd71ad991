# SPDX-License-Identifier: MIT
"""The test-only stablecoin moves tokens as NEP-141 says: what the payment tests rest on."""

from __future__ import annotations

import json

import pytest
from main_world import MAIN, MINTED, TOKEN, USERS, World

from outlayer_localnet.testing import NEAR, TxResult

ALICE, BOB = "alice.test", "bob.test"
REGISTRATION = 125 * 10**19


def call(world: World, who: str, method: str, deposit: int = 0, **args: object) -> TxResult:
    return world.chain.call(world.accounts[who], TOKEN, method, args, deposit=deposit)


def transfer(world: World, receiver: str, amount: int, deposit: int = 1) -> TxResult:
    return call(world, ALICE, "ft_transfer", deposit, receiver_id=receiver, amount=str(amount), memo=None)


def test_a_transfer_moves_tokens_and_the_supply_stays(world: World) -> None:
    assert transfer(world, BOB, 7).failure is None
    assert (world.tokens(ALICE), world.tokens(BOB)) == (MINTED - 7, MINTED + 7)
    assert world.chain.view(TOKEN, "ft_total_supply") == str(len(USERS) * MINTED)
    assert world.chain.view(TOKEN, "ft_metadata")["decimals"] == 6


@pytest.mark.parametrize(
    ("receiver", "amount", "deposit", "words"),
    [
        (BOB, 7, 0, "exactly 1 yoctoNEAR"),
        (BOB, 7, 2, "exactly 1 yoctoNEAR"),
        (BOB, 0, 1, "should be a positive number"),
        (BOB, MINTED + 1, 1, "doesn't have enough balance"),
        (ALICE, 7, 1, "Sender and receiver should be different"),
        ("worker.test", 7, 1, "worker.test is not registered"),
    ],
)
def test_a_transfer_that_cannot_be_is_refused(
    world: World, receiver: str, amount: int, deposit: int, words: str
) -> None:
    assert words in json.dumps(transfer(world, receiver, amount, deposit).failure)
    assert (world.tokens(ALICE), world.tokens(BOB)) == (MINTED, MINTED)


def test_a_frozen_account_neither_sends_nor_receives(world: World) -> None:
    words = "Only the minter"
    assert words in json.dumps(call(world, ALICE, "set_frozen", account_id=BOB, frozen=True).failure)
    for frozen in (BOB, ALICE):
        call(world, TOKEN, "set_frozen", account_id=frozen, frozen=True)
        assert f"{frozen} is frozen" in json.dumps(transfer(world, BOB, 7).failure)
        call(world, TOKEN, "set_frozen", account_id=frozen, frozen=False)
    assert transfer(world, BOB, 7).failure is None


def test_tokens_for_a_receiver_that_fails_or_has_no_code_come_back(world: World) -> None:
    for receiver in (MAIN, BOB):
        args = {"receiver_id": receiver, "amount": "7", "msg": "neither JSON nor anything"}
        sent = call(world, ALICE, "ft_transfer_call", 1, **args)
        assert sent.json() == "0"
        assert world.tokens(ALICE) == MINTED


def test_only_the_token_itself_resolves_a_transfer(world: World) -> None:
    args = {"sender_id": ALICE, "receiver_id": BOB, "amount": "7"}
    assert "is private" in json.dumps(call(world, ALICE, "ft_resolve_transfer", **args).failure)
    assert "Only the minter" in json.dumps(call(world, ALICE, "mint", account_id=ALICE, amount="7").failure)
    assert world.tokens(ALICE) == MINTED


def test_an_account_registers_once_and_gets_the_rest_back(world: World) -> None:
    before = world.chain.balance(ALICE)
    words = "less than the minimum storage balance"
    few = call(world, ALICE, "storage_deposit", REGISTRATION - 1, account_id="worker.test")
    assert words in json.dumps(few.failure)
    assert world.chain.view(TOKEN, "storage_balance_of", {"account_id": "worker.test"}) is None
    done = [call(world, ALICE, "storage_deposit", NEAR, account_id="worker.test") for _ in range(2)]
    burnt = sum(result.tokens_burnt for result in [few, *done])
    assert before - world.chain.balance(ALICE) == REGISTRATION + burnt
    balance = {"total": str(REGISTRATION), "available": "0"}
    assert world.chain.view(TOKEN, "storage_balance_of", {"account_id": "worker.test"}) == balance
    assert transfer(world, "worker.test", 7).failure is None
