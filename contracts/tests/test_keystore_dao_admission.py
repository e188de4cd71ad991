# SPDX-License-Identifier: MIT
"""Keystore DAO: a keystore counts while its access key exists, a quote admits once, and ended sets take keys along."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

import pytest
from dao_world import (
    DAO,
    DAY,
    KEYSTORE,
    REGISTER,
    World,
    events,
    fresh_quote,
    names,
    ready,
    reason,
    refusal,
    reverify,
)

from outlayer_attestation import testing as platforms
from outlayer_attestation.testing import MEASUREMENTS, NOW, Faults
from outlayer_localnet.testing import NEAR, TGAS, TestAccount, TxResult
from outlayer_near.primitives import AccessKey, AddKey, DeleteKey, KeyPair

TEXT = 64 * 1024
CALLBACK_GAS = 10 * TGAS
POINT = "bls12381g1:6r1TL2zVTBzzMSjNp3bKgwJkdRRUJcS1EaLXbNZHd7NWCyVWvVm8H2LbRjYQbPGMC4"


@pytest.fixture(scope="module")
def started() -> Iterator[World]:
    with ready() as world:
        yield world


@pytest.fixture
def world(started: World) -> World:
    started.chain.restore("ready")
    return dataclasses.replace(started, key=KeyPair.generate())


@pytest.fixture
def bare(started: World) -> World:
    """Before the hand-over, without collateral."""
    started.chain.restore("bare")
    return dataclasses.replace(started, key=KeyPair.generate())


def add_set(world: World, digit: str) -> None:
    """Another set of the same measurements with a name, or of others."""
    measured = KEYSTORE if digit == "same" else dataclasses.replace(KEYSTORE, mrtd=digit * 96)
    entry = {"role": "keystore", "name": digit, "measurements": measured.to_json()}
    decided, _ = world.pass_("add_measurement_set", set=entry | {"not_before": None, "not_after": None})
    assert decided["status"] == "Executed"


# --- a keystore counts when its access key exists -------------------------------------------------------


def test_a_vote_that_cannot_pay_for_the_access_key_says_so_and_can_be_repeated(world: World) -> None:
    proposal = world.submit().json()
    world.vote(proposal, "alice")
    world.leave(0)
    refused = world.call("bob", "vote", proposal_id=proposal, approve=True)
    assert "of balance for the access key" in refusal(refused)
    assert not world.approved()
    assert world.view("get_proposal", proposal_id=proposal)["votes_for"] == 1
    world.leave(NEAR)
    world.vote(proposal, "bob")
    assert world.approved()
    assert "permission" in world.access_key()


@pytest.mark.parametrize("spare", [range(0, 40, 4)])
def test_at_every_balance_an_approved_keystore_has_its_key_and_any_other_has_none(
    world: World, spare: range
) -> None:
    proposal = world.submit().json()
    world.vote(proposal, "alice")
    for tenths in spare:
        world.leave(tenths * NEAR // 10_000)
        decided = world.call("bob", "vote", proposal_id=proposal, approve=True)
        assert world.approved() is ("permission" in world.access_key()) is (decided.failure is None)
        if world.approved():
            break
    assert world.approved()


def test_a_key_that_is_on_the_account_already_admits_no_keystore_and_stays_what_it_is(world: World) -> None:
    world.chain.send(world.accounts["dao"], DAO, [AddKey(world.key.public_key, AccessKey())])
    proposal = world.submit().json()
    decided = world.vote(proposal, "alice", "bob")
    shown = world.view("get_proposal", proposal_id=proposal)
    assert (shown["status"], names(decided)) == ("Failed", ["vote_cast", "proposal_decided"])
    assert "on the account already" in shown["failure"]
    assert not world.approved()
    assert world.view("get_keystores") == []
    assert world.access_key()["permission"] == "FullAccess"
    # the quote did not count, so it can be proposed again when the key is gone
    world.chain.send(world.accounts["dao"], DAO, [DeleteKey(world.key.public_key)])
    world.vote(world.submit().json(), "alice", "bob")
    assert world.approved()


def test_a_set_that_ends_while_the_key_is_being_added_leaves_no_key(world: World) -> None:
    """The callback is a receipt of its own: both votes are sent for one block."""
    proposal = world.submit().json()
    ending = world.ok(
        "alice", "propose", action={"kind": "expire_measurement_set", "id": 1, "not_after": 0}
    ).json()
    for number in (proposal, ending):
        world.vote(number, "alice")
    for number, member in ((proposal, "bob"), (ending, "carol")):
        args = {"proposal_id": number, "approve": True}
        world.chain.call(world.accounts[member], DAO, "vote", args, gas=250 * TGAS, wait_until="NONE")
    for _ in range(6):
        world.chain.produce_block()
    assert world.status(ending) == "Executed"
    assert not world.approved()
    assert "error" in world.access_key()
    assert world.view("get_keystores") == []


def test_callbacks_are_the_contracts_own(world: World) -> None:
    key = str(world.key.public_key)
    for method, args in (("on_key_added", {"proposal_id": 1}), ("on_key_renewed", {"public_key": key})):
        assert "private" in refusal(world.call("eve", method, **args))


# --- a quote admits once --------------------------------------------------------------------------------


def test_one_key_has_one_open_proposal(world: World) -> None:
    quote = world.quote()
    first = world.submit(quote)
    again = world.submit(quote)
    assert (first.json(), again.json(), names(again)) == (1, 1, [])
    assert len(world.view("get_proposals")) == 1
    # rejected, it can be proposed anew
    world.vote(1, "alice", "bob", approve=False)
    assert world.submit(quote).json() == 2


def test_a_deposit_that_pays_for_nothing_comes_back(world: World) -> None:
    args = {"public_key": str(world.key.public_key), "tdx_quote_hex": world.quote().hex()}
    world.ok("init", "submit_keystore_registration", **args)
    for quote in (args["tdx_quote_hex"], "00"):
        before = world.chain.balance("init.test")
        call = args | {"tdx_quote_hex": quote}
        again = world.ok("init", "submit_keystore_registration", deposit=NEAR, **call)
        assert before - world.chain.balance("init.test") == again.tokens_burnt


def test_a_proposal_whose_set_ended_fails_at_the_next_vote_and_makes_room_for_another(world: World) -> None:
    old = world.submit().json()
    add_set(world, "same")
    world.pass_("expire_measurement_set", id=1, not_after=0)
    new = world.submit().json()
    assert new != old
    shown = world.view("get_proposal", proposal_id=old)
    assert (shown["status"], shown["failure"]) == (
        "Failed",
        "The keystore's measurements are no longer approved",
    )
    world.vote(new, "alice", "bob")
    assert world.approved()
    other = dataclasses.replace(world, key=KeyPair.generate())
    proposal = other.submit().json()
    world.pass_("expire_measurement_set", id=2, not_after=0)
    other.vote(proposal, "alice", approve=False)
    assert world.status(proposal) == "Failed"


def test_a_key_that_was_removed_stays_removed(world: World) -> None:
    quote = world.quote()
    revoked, expired = world, dataclasses.replace(world, key=KeyPair.generate())
    world.vote(world.submit(quote).json(), "alice", "bob")
    expired.vote(expired.submit().json(), "alice", "bob")
    assert "Keystore already approved" in refusal(world.submit(quote))
    world.pass_("revoke_keystore_keys", public_keys=[str(revoked.key.public_key)])
    assert reason(revoked.submit(quote)) == "key_removed"
    world.later(31 * DAY)
    assert len(world.call("eve", "remove_expired_keystores").json()) == 1
    while world.ok("eve", "prune_proposals").json()["more"]:
        pass
    world.later(91 * DAY)
    world.ok("eve", "prune_proposals")
    assert world.view("get_proposals") == []
    for keystore in (revoked, expired):
        assert reason(keystore.submit(keystore.quote())) == "key_removed"
        assert "error" in keystore.access_key()


# --- renewal --------------------------------------------------------------------------------------------


def test_a_renewal_fills_the_allowance_again(world: World) -> None:
    keystore = world.admitted()
    account = TestAccount(DAO, keystore.key)

    def allowance() -> int:
        return int(keystore.access_key()["permission"]["FunctionCall"]["allowance"])

    request = {"derivation_path": "", "app_public_key": POINT, "domain_id": 2}
    world.chain.call(account, DAO, "request_key", {"request": request}, gas=300 * TGAS)
    assert allowance() < NEAR
    before = world.view("get_keystore", public_key=str(keystore.key.public_key))
    world.later(DAY)
    answer = reverify(keystore, fresh_quote(keystore))
    assert answer.json()["status"] == "approved"
    assert answer.json()["expires_at"] > before["expires_at"]
    assert allowance() == NEAR
    assert keystore.access_key()["permission"]["FunctionCall"]["method_names"] == ["request_key"]
    assert keystore.approved()


def test_a_renewal_of_a_key_that_is_gone_ends_the_keystore(world: World) -> None:
    keystore = world.admitted()
    world.chain.send(world.accounts["dao"], DAO, [DeleteKey(keystore.key.public_key)])
    answer = reverify(keystore, fresh_quote(keystore))
    assert (answer.json()["status"], answer.json()["reason"]) == ("rejected", "access_key_failed")
    assert names(answer) == ["keystore_reverified", "keystore_keys_revoked", "keystore_rejected"]
    assert not keystore.approved()
    assert world.view("get_keystores") == []


def test_a_renewal_moves_a_keystore_to_the_set_of_its_new_quote(world: World) -> None:
    keystore = world.admitted()
    add_set(world, "same")
    world.pass_("expire_measurement_set", id=1, not_after=NOW + DAY)
    assert reverify(keystore, fresh_quote(keystore)).json()["measurement_set"] == 2
    world.later(2 * DAY)
    assert keystore.approved()
    assert world.call("eve", "remove_expired_keystores").json() == []
    world.pass_("expire_measurement_set", id=2, not_after=0)
    assert "error" in keystore.access_key()


# --- sets that end --------------------------------------------------------------------------------------


def admit_many(world: World, count: int) -> list[World]:
    return [world.admitted() for _ in range(count)]


def test_ending_a_set_deletes_a_hundred_keys_and_anyone_deletes_the_rest(world: World) -> None:
    few = admit_many(world, 3)
    made = world.ok("alice", "propose", action={"kind": "add_member", "account_id": "eve.test"})
    vote_of_few = world.ok("alice", "vote", proposal_id=made.json(), approve=False).gas_burnt
    many = few + admit_many(world, 117)
    assert len(world.view("get_approved_keystores", from_index=100)) == 20
    again = world.ok("alice", "propose", action={"kind": "add_member", "account_id": "eve.test"})
    assert world.ok("alice", "vote", proposal_id=again.json(), approve=False).gas_burnt < vote_of_few * 1.1
    _, last = world.pass_("expire_measurement_set", id=1, not_after=0)
    [revoked] = [event["data"][0] for event in events(last) if event["event"] == "keystore_keys_revoked"]
    assert (len(revoked["public_keys"]), revoked["reason"], revoked["remaining"]) == (100, "set_ended", 20)
    assert world.view("get_approved_keystores") == []
    alive = [one for one in many if "permission" in one.access_key()]
    assert len(alive) == 20
    removed = world.call("eve", "remove_expired_keystores", gas=300 * TGAS)
    assert sorted(removed.json()) == sorted(str(one.key.public_key) for one in alive)
    assert world.call("eve", "remove_expired_keystores").json() == []
    assert all("error" in one.access_key() for one in many)
    assert world.view("get_keystores") == []


def test_with_little_gas_a_set_ends_all_the_same(world: World) -> None:
    keystores = admit_many(world, 8)
    ending = world.ok(
        "alice", "propose", action={"kind": "expire_measurement_set", "id": 1, "not_after": 0}
    ).json()
    world.vote(ending, "alice")
    assert world.call("bob", "vote", gas=25 * TGAS, proposal_id=ending, approve=True).failure is None
    assert world.view("get_approved_keystores") == []
    left = sum("permission" in one.access_key() for one in keystores)
    assert 0 < left < 8
    removed = 0
    while found := world.call("eve", "remove_expired_keystores", gas=25 * TGAS).json():
        removed += len(found)
    assert removed == left


def test_what_the_owner_ends_before_the_hand_over_takes_its_keys_along(bare: World) -> None:
    collateral = platforms.collateral_with(bare.platform, Faults()).to_text()
    for method, args in (
        ("remove_approved_measurements", {"measurements": KEYSTORE.to_json()}),
        ("clear_all_approved_measurements", {}),
        ("add_approved_measurements", {"measurements": MEASUREMENTS.to_json(), "clear_others": True}),
    ):
        bare.chain.restore("bare")
        bare.ok("owner", "update_collateral", collateral=collateral, index=7)
        keystore = bare.admitted()
        assert keystore.approved()
        assert bare.ok("owner", method, gas=100 * TGAS, **args).json() == {"removed": 1, "remaining": 0}
        assert "error" in keystore.access_key()


def test_dead_keystores_are_found_by_name_and_living_ones_are_spared(world: World) -> None:
    dead = world.admitted()
    world.later(20 * DAY)
    alive = world.admitted()
    world.later(11 * DAY)
    keys = [str(one.key.public_key) for one in (alive, dead, world)]
    assert world.call("eve", "remove_expired_keystores", public_keys=keys).json() == [keys[1]]
    assert alive.approved()
    assert world.view("get_approved_keystores") == [keys[0]]


def test_keys_are_found_in_every_set_that_ended(world: World) -> None:
    """Of sets that end by themselves no call tells."""
    keystores = []
    for _ in range(14):
        keystores.append(world.admitted())
        world.pass_("expire_measurement_set", id=len(keystores), not_after=NOW + DAY)
        add_set(world, "same")
    survivor = world.admitted()
    world.later(2 * DAY)
    assert len(world.call("eve", "remove_expired_keystores", gas=100 * TGAS).json()) == 14
    assert all("error" in one.access_key() for one in keystores)
    assert survivor.approved()
    # a search with little gas goes on where the last one stopped
    assert world.call("eve", "remove_expired_keystores", gas=30 * TGAS).json() == []


def test_keystores_are_removed_in_any_order(world: World) -> None:
    """Renewal and revocation take keys out of the middle, the beginning and the end of their set's chain."""
    a, b, c, d, e = admit_many(world, 5)
    world.later(DAY)
    reverify(b, fresh_quote(b))
    reverify(a, fresh_quote(a))
    for one in (e, c):
        world.pass_("revoke_keystore_keys", public_keys=[str(one.key.public_key)])
    f = world.admitted()
    world.later(29 * DAY + 3_600)
    assert world.call("eve", "remove_expired_keystores").json() == [str(d.key.public_key)]
    assert [one.approved() for one in (a, b, f)] == [True, True, True]
    world.later(DAY)
    left = world.call("eve", "remove_expired_keystores").json()
    assert left == [str(one.key.public_key) for one in (b, a, f)]
    assert world.view("get_keystores") == []


# --- gas ------------------------------------------------------------------------------------------------


def largest_callback(result: TxResult) -> int:
    """Gas of the DAO's receipts after the call itself: callbacks are kept twice what they take."""
    outcomes = [one["outcome"] for one in result.outcomes if one["outcome"]["executor_id"] == DAO]
    return max(int(outcome["gas_burnt"]) for outcome in outcomes[1:])


def needed_gas(world: World, who: str, proposal: int, tried: int) -> int:
    """How many Tgas the refusal of a vote with too little asks for."""
    words = refusal(world.call(who, "vote", gas=tried * TGAS, proposal_id=proposal, approve=True))
    assert "Too little gas" in words
    return int(words.split("Attach at least ")[1].split(" Tgas")[0])


def test_the_vote_that_calls_the_register_contract_needs_gas_and_says_how_much(world: World) -> None:
    args = {"measurements": MEASUREMENTS.to_json(), "name": "worker"}
    for size in (0, TEXT):
        text = json.dumps(args | {"unknown": "y" * max(0, size - len(json.dumps(args | {"unknown": ""})))})
        action = {"kind": "call_register", "method": "add_measurement_set", "args": text}
        proposal = world.ok("alice", "propose", deposit=NEAR, action=action).json()
        world.vote(proposal, "alice")
        needed = needed_gas(world, "bob", proposal, 100)
        assert 200 < needed <= 250
        assert world.view("get_proposal", proposal_id=proposal)["votes_for"] == 1
        decided = world.call("bob", "vote", gas=needed * TGAS, proposal_id=proposal, approve=True)
        assert decided.failure is None
        assert world.status(proposal) == "Executed"
        assert 0 < largest_callback(decided) < CALLBACK_GAS / 2
    assert len(world.chain.view(REGISTER, "get_measurement_sets")) == 2


def test_the_vote_that_admits_a_keystore_works_with_the_gas_that_it_names(world: World) -> None:
    proposal = world.submit().json()
    world.vote(proposal, "alice")
    needed = needed_gas(world, "bob", proposal, 10)
    assert needed <= 25
    decided = world.call("bob", "vote", gas=needed * TGAS, proposal_id=proposal, approve=True)
    assert decided.failure is None
    assert world.approved()
    for result in (decided, reverify(world, fresh_quote(world))):
        assert 0 < largest_callback(result) < CALLBACK_GAS / 2


def test_gas_does_not_grow_with_the_number_of_measurement_sets(bare: World) -> None:
    collateral = platforms.collateral_with(bare.platform, Faults()).to_text()
    bare.ok("owner", "update_collateral", collateral=collateral)

    def measured() -> list[int]:
        keystore = dataclasses.replace(bare, key=KeyPair.generate())
        submitted = keystore.submit()
        first = keystore.vote(submitted.json(), "alice")
        admitted = keystore.vote(submitted.json(), "bob")
        renewed = reverify(keystore, fresh_quote(keystore))
        return [result.gas_burnt for result in (submitted, first, admitted, renewed)]

    before = measured()
    for index in range(300):
        other = dataclasses.replace(KEYSTORE, mrtd=f"{index:096x}")
        bare.ok("owner", "add_approved_measurements", measurements=other.to_json())
    after = measured()
    assert all(late < early * 1.05 for early, late in zip(before, after, strict=True)), (before, after)
    ended = bare.ok("owner", "clear_all_approved_measurements", gas=60 * TGAS)
    assert ended.json() == {"removed": 2, "remaining": 0}
    assert bare.view("get_approved_measurements") == []
    bare.later(91 * DAY)
    assert bare.ok("eve", "prune_measurement_sets", limit=100).json() != []


# --- names of the original ------------------------------------------------------------------------------


def test_members_are_named_as_the_original_names_them_and_nothing_happens_without_a_name(bare: World) -> None:
    bare.ok("owner", "add_dao_member", member="eve.test")
    bare.ok("owner", "remove_dao_member", member="eve.test")
    bare.ok("owner", "add_dao_member", account_id="eve.test")
    bare.ok("owner", "remove_dao_member", account_id="eve.test", member="eve.test")
    members = bare.view("get_dao_members")
    for method in ("add_dao_member", "remove_dao_member"):
        assert "Missing argument: `member`" in refusal(bare.call("owner", method, dao_member="eve.test"))
        both = bare.call("owner", method, member="alice.test", account_id="bob.test")
        assert "different accounts" in refusal(both)
    assert bare.view("get_dao_members") == members == ["alice.test", "bob.test", "carol.test"]


def test_the_original_reads_collateral_and_keystores(world: World) -> None:
    [text] = world.view("get_collaterals")
    assert text == world.view("get_collateral")
    assert world.view("get_collaterals", from_index=1) == []
    keystore, other = world.admitted(), world.admitted()
    keys = [str(one.key.public_key) for one in (keystore, other)]
    assert world.view("get_approved_keystores") == keys
    assert world.view("get_approved_keystores", from_index=1, limit=1) == keys[1:]
