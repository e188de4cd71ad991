# SPDX-License-Identifier: MIT
"""Keystore DAO: who pays for a proposal's storage, what a hostile member can do with it, and pruning."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from dao_world import BYTE, DAO, DAY, KEYSTORE, World, events, names, ready, refusal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outlayer_attestation import testing as platforms
from outlayer_attestation.testing import Faults
from outlayer_localnet.testing import NEAR, TGAS
from outlayer_near.primitives import KeyPair

CARRIED = 64 * 1024
TEXT = 64 * 1024


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


def register_call(size: int) -> dict[str, Any]:
    """A call of the register contract whose arguments have so many bytes."""
    return {"kind": "call_register", "method": "revoke_policy", "args": '{"x":"' + "y" * (size - 8) + '"}'}


def removal(who: str) -> dict[str, Any]:
    return {"kind": "remove_member", "account_id": f"{who}.test"}


def asked(world: World, who: str, action: dict[str, Any]) -> int:
    """What this proposal would cost, from the refusal of one yoctoNEAR."""
    words = refusal(world.call(who, "propose", deposit=1, action=action))
    return int(words.split("attach ")[1].split(" yoctoNEAR")[0])


def fill(world: World, who: str) -> int:
    """As many and as large proposals as this member can make without a deposit; how many."""
    made, size = 0, TEXT
    while size > 8:
        if world.call(who, "propose", action=register_call(size)).failure is None:
            made += 1
        else:
            size //= 2
    return made


# --- one member against the others ----------------------------------------------------------------------


@pytest.mark.parametrize("balance", [5 * NEAR, NEAR, NEAR // 2, NEAR // 10, 0])
def test_a_member_that_does_its_worst_stops_nobody(world: World, balance: int) -> None:
    keystore = world.admitted()
    early = world.submit().json()
    world.leave(balance)
    fill(world, "carol")
    assert world.spare() >= min(balance, max(NEAR // 10, balance - CARRIED * BYTE)) - 500 * BYTE
    world.leave(0)
    # votes on what is there
    for member in ("alice", "bob"):
        assert world.call(member, "vote", proposal_id=early, approve=False).failure is None
    # proposals of the others: with a deposit at any balance
    for action in (
        removal("carol"),
        {"kind": "revoke_keystore_keys", "public_keys": [str(keystore.key.public_key)]},
    ):
        made = world.ok("alice", "propose", deposit=NEAR, action=action).json()
        world.vote(made, "alice", "bob")
        assert world.status(made) == "Executed"
    assert world.view("get_dao_members") == ["alice.test", "bob.test"]
    assert not keystore.approved()
    assert "error" in keystore.access_key()
    submitted = world.ok(
        "init",
        "submit_keystore_registration",
        deposit=NEAR,
        public_key=str(world.key.public_key),
        tdx_quote_hex=world.quote().hex(),
    )
    assert isinstance(submitted.json(), int)


def test_without_a_deposit_one_member_uses_64_kb_and_each_other_has_as_much(world: World) -> None:
    usage = world.chain.account(DAO)["storage_usage"]
    assert fill(world, "carol") > 2
    used = world.chain.account(DAO)["storage_usage"] - usage
    assert CARRIED - 3_000 < used < CARRIED + 500
    refused = refusal(world.call("carol", "propose", action=removal("alice")))
    assert f"at most {CARRIED} bytes" in refused
    assert world.call("alice", "propose", action=removal("carol")).failure is None
    assert isinstance(world.submit().json(), int)
    # with a deposit, carol goes on too
    price = asked(world, "carol", removal("alice"))
    assert world.call("carol", "propose", deposit=price, action=removal("alice")).failure is None


def test_an_account_that_has_little_to_spare_carries_nothing_and_says_what_to_attach(world: World) -> None:
    world.leave(NEAR // 20)
    refused = refusal(world.call("alice", "propose", action=removal("carol")))
    price = asked(world, "alice", removal("carol"))
    assert f"attach {price} yoctoNEAR" in refused
    assert "too little balance" in refused
    assert world.call("alice", "propose", deposit=price, action=removal("carol")).failure is None


def test_a_hundred_members_vote_while_the_account_is_at_its_storage_stake(bare: World) -> None:
    members = {name: bare.accounts[name] for name in ("alice", "bob", "carol")}
    for index in range(97):
        name = f"{'m' * (64 - len('.test') - 3)}{index:03}"
        members[name] = bare.chain.create_account(f"{name}.test", NEAR)
        bare.ok("owner", "add_dao_member", member=f"{name}.test")
    voters = dataclasses.replace(bare, accounts={**bare.accounts, **members})
    bare.leave(0)
    action = {"kind": "add_member", "account_id": "eve.test"}
    price = asked(voters, "alice", action)
    proposal = voters.ok("alice", "propose", deposit=price, action=action).json()
    bare.leave(0)
    usage = bare.chain.account(DAO)["storage_usage"]
    for index, name in enumerate(sorted(members)[:99]):
        # 50 against reject it and 51 for it pass it, so the last vote decides
        voters.ok(name, "vote", proposal_id=proposal, approve=index >= 49)
        assert bare.chain.account(DAO)["storage_usage"] <= usage
    assert bare.status(proposal) == "Pending"
    decided = voters.ok(sorted(members)[99], "vote", proposal_id=proposal, approve=False)
    assert names(decided)[-1] == "proposal_decided"
    assert bare.status(proposal) == "Rejected"


# --- deposits -------------------------------------------------------------------------------------------


def test_too_little_is_refused_with_the_exact_amount_and_too_much_comes_back(world: World) -> None:
    price = asked(world, "alice", removal("carol"))
    for deposit, fine in ((price - 1, False), (price, True), (price + NEAR, True)):
        before = world.chain.balance("alice.test")
        usage = world.chain.account(DAO)["storage_usage"]
        result = world.call("alice", "propose", deposit=deposit, action=removal("carol"))
        assert (result.failure is None) is fine
        taken = before - world.chain.balance("alice.test") - result.tokens_burnt
        grown = world.chain.account(DAO)["storage_usage"] - usage
        assert taken == (price if fine else 0) == grown * BYTE


KINDS = (
    "add_measurement_set",
    "expire_measurement_set",
    "update_collateral",
    "add_member",
    "remove_member",
    "call_register",
)


def kinds(world: World) -> dict[str, dict[str, Any]]:
    newer = dataclasses.replace(KEYSTORE, mrtd="12" * 48)
    entry = {"role": "keystore", "name": "n" * 128, "measurements": newer.to_json()}
    text = platforms.collateral_with(world.platform, Faults()).to_text()
    return {
        "add_measurement_set": {"set": entry | {"not_before": None, "not_after": None}},
        "expire_measurement_set": {"id": 1, "not_after": 0},
        "update_collateral": {"collateral": text},
        "add_member": {"account_id": "eve.test"},
        "remove_member": {"account_id": "carol.test"},
        "call_register": {"method": "cancel_policy", "args": json.dumps({"version": 1, "x": "y" * 9_000})},
    }


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
@given(
    kind=st.sampled_from(KINDS),
    end=st.sampled_from(("passes", "is rejected", "expires")),
    excess=st.integers(0, NEAR),
)
def test_what_was_attached_comes_back_less_what_the_proposal_left_behind(
    world: World, kind: str, end: str, excess: int
) -> None:
    world.chain.restore("ready")
    action = {"kind": kind, **kinds(world)[kind]}
    price = asked(world, "alice", action)
    usage, before = world.chain.account(DAO)["storage_usage"], world.chain.balance("alice.test")
    made = world.ok("alice", "propose", deposit=price + excess, action=action)
    assert before - world.chain.balance("alice.test") == price + made.tokens_burnt
    between = world.chain.balance("alice.test")
    if end == "expires":
        world.later(7 * DAY)
        pruned = world.ok("eve", "prune_proposals")
        assert pruned.json() == {"expired": [made.json()], "forgotten": [], "more": False}
        assert world.chain.account(DAO)["storage_usage"] == usage
    else:
        world.vote(made.json(), "bob", "carol", approve=end == "passes")
        assert world.status(made.json()) in ("Executed", "Rejected", "Failed")
    left = world.chain.account(DAO)["storage_usage"] - usage
    returned = world.chain.balance("alice.test") - between
    # members, sets and collateral that were voted in are the DAO's to hold
    slack = 0 if kind == "call_register" or end != "passes" else 700 * BYTE
    assert abs(returned - (price - left * BYTE)) <= slack
    assert returned <= price


def test_what_the_account_carries_is_free_again_when_proposals_are_decided_or_pruned(world: World) -> None:
    fill(world, "carol")
    first = world.view("get_proposals", limit=1)[0]["id"]
    world.vote(first, "alice", "bob", approve=False)
    assert world.call("carol", "propose", action=removal("alice")).failure is None
    world.later(7 * DAY)
    assert fill(world, "carol") > 2
    world.later(7 * DAY)
    while world.ok("eve", "prune_proposals").json()["more"]:
        pass
    usage = world.chain.account(DAO)["storage_usage"]
    assert fill(world, "carol") > 2
    assert world.chain.account(DAO)["storage_usage"] - usage > CARRIED - 3_000


# --- texts ----------------------------------------------------------------------------------------------


def test_collateral_is_kept_in_its_canonical_form(world: World) -> None:
    text = platforms.collateral_with(world.platform, Faults()).to_text()
    padded = json.dumps(json.loads(text) | {"pck_certificate_chain": "x" * 9_000}, indent=9)
    assert len(padded) > len(text) + 9_000
    usage = world.chain.account(DAO)["storage_usage"]
    made = world.ok("alice", "propose", action={"kind": "update_collateral", "collateral": padded}).json()
    assert world.view("get_proposal", proposal_id=made)["action"]["collateral"] == text
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert world.view("get_proposals")[0]["action"]["collateral"] == f"sha256:{digest}"
    assert world.chain.account(DAO)["storage_usage"] - usage < len(text) + 3_500
    too_long = text + " " * (TEXT + 1 - len(text))
    refused = world.call("alice", "propose", action={"kind": "update_collateral", "collateral": too_long})
    assert "longer than 65536 bytes" in refusal(refused)
    fits = text + " " * (TEXT - len(text))
    assert (
        world.call("bob", "propose", action={"kind": "update_collateral", "collateral": fits}).failure is None
    )


def test_arguments_for_the_register_contract_have_64_kb_at_most(world: World) -> None:
    assert "at most 64 KB" in refusal(
        world.call("alice", "propose", deposit=NEAR, action=register_call(TEXT + 1))
    )
    made = world.ok("alice", "propose", deposit=NEAR, action=register_call(TEXT))
    assert len(events(made)[0]["data"][0]["action"]["args"]) == 71


# --- pruning --------------------------------------------------------------------------------------------


def test_expired_proposals_go_and_decided_ones_stay_for_ninety_days_more(world: World) -> None:
    def made() -> int:
        return int(
            world.ok("alice", "propose", action={"kind": "add_member", "account_id": "eve.test"}).json()
        )

    first, second, third = made(), made(), made()
    world.vote(second, "alice", "bob", approve=False)
    assert world.ok("eve", "prune_proposals").json() == {"expired": [], "forgotten": [], "more": False}
    world.later(7 * DAY)
    pruned = world.ok("eve", "prune_proposals")
    assert pruned.json() == {"expired": [first, third], "forgotten": [], "more": False}
    assert events(pruned)[0]["event"] == "proposals_pruned"
    assert world.view("get_proposal", proposal_id=first) is None
    fourth = made()
    assert [one["id"] for one in world.view("get_proposals")] == [second, fourth]
    # each block is a second
    world.later(90 * DAY - 60)
    assert world.ok("eve", "prune_proposals").json()["forgotten"] == []
    world.later(60)
    assert world.ok("eve", "prune_proposals").json() == {"expired": [], "forgotten": [second], "more": False}
    assert world.view("get_proposals") == []
    assert world.view("get_config")["next_proposal_id"] == fourth + 1
    assert "not found" in refusal(world.call("alice", "vote", proposal_id=fourth, approve=True))


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
@given(
    steps=st.lists(
        st.one_of(
            st.just("propose"),
            st.tuples(st.just("reject"), st.integers(0, 5)),
            st.tuples(st.just("pass time"), st.sampled_from((3 * DAY, 7 * DAY, 90 * DAY))),
            st.tuples(st.just("prune"), st.integers(0, 3)),
        ),
        min_size=10,
        max_size=30,
    )
)
def test_pages_show_each_proposal_once_whatever_was_pruned(world: World, steps: list[Any]) -> None:
    world.chain.restore("ready")
    known: dict[int, dict[str, Any]] = {}
    time = 0
    for step in steps:
        kind, value = (step, 0) if isinstance(step, str) else step
        live = sorted(known)
        if kind == "propose":
            made = world.ok("alice", "propose", action={"kind": "add_member", "account_id": "eve.test"})
            known[made.json()] = {"expires": time + 7 * DAY, "decided": False}
            gone = [
                id_
                for event in events(made)
                if event["event"] == "proposals_pruned"
                for id_ in event["data"][0]["expired"] + event["data"][0]["forgotten"]
            ]
        elif kind == "reject" and live:
            proposal = live[value % len(live)]
            if not known[proposal]["decided"] and time < known[proposal]["expires"]:
                world.vote(proposal, "alice", "bob", approve=False)
                known[proposal]["decided"] = True
            gone = []
        elif kind == "pass time":
            world.later(value)
            time += value
            gone = []
        elif kind == "prune":
            answer = world.ok("eve", "prune_proposals", limit=value).json()
            gone = answer["expired"] + answer["forgotten"]
        else:
            gone = []
        for proposal in gone:
            entry = known.pop(proposal)
            assert time >= entry["expires"] + (90 * DAY if entry["decided"] else 0)
        for size in (1, 2, 100):
            found, index = [], 0
            while page := world.view("get_proposals", from_index=index, limit=size):
                found += [one["id"] for one in page]
                index += len(page)
            assert found == sorted(known)
        assert world.view("get_config")["proposals_count"] == len(known)


def test_pruning_and_voting_take_the_same_gas_however_many_proposals_there_are(world: World) -> None:
    action = {"kind": "add_member", "account_id": "eve.test"}

    def measured() -> tuple[int, int]:
        made = world.ok("alice", "propose", deposit=NEAR, action=action)
        voted = world.ok("alice", "vote", proposal_id=made.json(), approve=False)
        return made.gas_burnt, voted.gas_burnt

    first = measured()
    for _ in range(300):
        world.ok("bob", "propose", deposit=NEAR, action=action)
    last = measured()
    assert all(after <= before * 1.1 for before, after in zip(first, last, strict=True)), (first, last)
    world.later(7 * DAY)
    expired, calls = 0, 0
    while True:
        pruned = world.ok("eve", "prune_proposals", gas=100 * TGAS)
        assert pruned.gas_burnt < 80 * TGAS
        expired, calls = expired + len(pruned.json()["expired"]), calls + 1
        if not pruned.json()["more"]:
            break
    assert (expired, calls) == (302, 7)
    assert world.view("get_proposals") == []


def test_a_hundred_of_the_largest_proposals_can_be_read_and_pruned(world: World) -> None:
    for index in range(100):
        who = ("alice", "bob", "carol")[index % 3]
        world.ok(who, "propose", deposit=NEAR, action=register_call(TEXT))
    assert len(world.view("get_proposals", limit=100)) == 100
    assert len(world.view("get_proposal", proposal_id=1)["action"]["args"]) == TEXT
    world.later(7 * DAY)
    # with little gas a call prunes a few, with the most a transaction can have fifty
    for gas, at_least in ((20, 2), (300, 50)):
        pruned = world.ok("eve", "prune_proposals", gas=gas * TGAS).json()
        assert len(pruned["expired"]) >= at_least
        assert pruned["more"]
    while pruned["more"]:
        pruned = world.ok("eve", "prune_proposals", gas=300 * TGAS).json()
    assert world.view("get_config")["proposals_count"] == 0
