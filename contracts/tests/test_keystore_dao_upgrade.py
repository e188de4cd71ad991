# SPDX-License-Identifier: MIT
"""A keystore DAO that lived under the first version of the code goes on under this one with all it had."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from dao_world import (
    ARTIFACTS,
    DAO,
    DAY,
    KEYSTORE,
    OLD_DAO,
    World,
    fresh_quote,
    names,
    ready,
    reason,
    refusal,
    reverify,
)

from outlayer_attestation import testing as platforms
from outlayer_attestation.testing import Faults
from outlayer_localnet.testing import NEAR, TGAS, TxResult
from outlayer_near.primitives import DeployContract, FunctionCall, KeyPair

OLD_SHA256 = "0be504a8b51d7c67fcb528e045aa8ec9d8c4f4558778ad32a934c379fd205fcc"
VIEWS = (
    "get_approved_measurements",
    "get_collateral",
    "get_collateral_info",
    "get_config",
    "get_dao_members",
    "get_keystores",
    "get_measurement_sets",
    "get_owner",
    "get_proposals",
    "get_root_ca",
)


@pytest.fixture(scope="module")
def started() -> Iterator[World]:
    assert hashlib.sha256(OLD_DAO.read_bytes()).hexdigest() == OLD_SHA256
    with ready(OLD_DAO) as world:
        yield world


@pytest.fixture
def world(started: World) -> World:
    started.chain.restore("ready")
    return dataclasses.replace(started, key=KeyPair.generate())


def deploy(world: World) -> TxResult:
    """The new code, and nothing else."""
    code = (ARTIFACTS / "keystore-dao.wasm").read_bytes()
    return world.chain.send(world.accounts["dao"], DAO, [DeployContract(code)])


def upgrade(world: World) -> TxResult:
    code = (ARTIFACTS / "keystore-dao.wasm").read_bytes()
    actions = [DeployContract(code), FunctionCall("migrate", b"{}", 300 * TGAS, 0)]
    result = world.chain.send(world.accounts["dao"], DAO, actions)
    assert result.failure is None, result.failure
    return result


def propose(world: World, kind: str, **fields: Any) -> int:
    return int(world.ok("alice", "propose", action={"kind": kind, **fields}).json())


def seen(world: World) -> dict[str, Any]:
    """All that the first version's views say, of what both know."""
    found = {method: world.view(method) for method in VIEWS}
    found["get_config"].pop("proposals_count", None)
    return found


def test_everything_of_the_first_version_is_there_after_the_upgrade(world: World) -> None:
    text = platforms.collateral_with(world.platform, Faults()).to_text()
    first, second = world.admitted(), world.admitted()
    named = dataclasses.replace(KEYSTORE, mrtd="12" * 48).to_json()
    entry = {"role": "keystore", "name": "next", "measurements": named, "not_before": None, "not_after": None}
    world.pass_("add_measurement_set", set=entry)
    register = {"version": 1}
    decided, _ = world.pass_("call_register", method="cancel_policy", args=json.dumps(register))
    assert decided["status"] == "Failed"
    pending = [
        world.submit().json(),
        propose(world, "update_collateral", collateral=text + " " * 9_000),
        propose(world, "call_register", method="cancel_policy", args=json.dumps(register)),
        propose(world, "revoke_keystore_keys", public_keys=[str(second.key.public_key)]),
        propose(world, "add_member", account_id="eve.test"),
    ]
    for number in pending:
        world.vote(number, "alice")
    before = seen(world)
    deploy(world)
    after = seen(world)
    whole = {"update_collateral"}
    for old, new in zip(before.pop("get_proposals"), after.pop("get_proposals"), strict=True):
        if old["action"]["kind"] in whole and old["status"] == "Pending":
            assert world.view("get_proposal", proposal_id=old["id"]) == old
            assert new["action"]["collateral"].startswith("sha256:")
            new = new | {"action": old["action"]}
        assert new == old
    assert after == before
    upgrade(world)
    assert seen(world) | {"get_proposals": None} == before | {"get_proposals": None}
    # what was proposed goes on
    for number in pending:
        world.vote(number, "bob")
    statuses = [world.status(number) for number in pending]
    assert statuses == ["Executed", "Executed", "Failed", "Executed", "Executed"]
    assert (world.approved(), first.approved(), second.approved()) == (True, True, False)
    assert world.view("get_collateral") == text
    # and keystores are renewed, end with their set, and stay removed
    assert reverify(first, fresh_quote(first)).json()["status"] == "approved"
    assert reason(second.submit(second.quote())) == "key_removed"
    ending = propose(world, "expire_measurement_set", id=1, not_after=0)
    world.vote(ending, "alice", "bob", "carol")
    for keystore in (first, second, world):
        assert "error" in keystore.access_key()
    # what was decided under the old code is pruned like the rest
    world.later(98 * DAY)
    while world.ok("eve", "prune_proposals").json()["more"]:
        pass
    assert world.view("get_proposals") == []


def test_any_call_writes_the_new_state_and_only_some_may_ask_for_it(world: World) -> None:
    keystore = world.admitted()
    deploy(world)
    assert "Only owner" in refusal(world.call("alice", "migrate"))
    assert world.call("owner", "migrate").failure is None
    world.later(31 * DAY)
    removed = world.call("eve", "remove_expired_keystores")
    assert removed.json() == [str(keystore.key.public_key)]


def test_a_duplicate_proposal_of_the_old_code_does_not_outlive_a_revocation(world: World) -> None:
    quote = world.quote()
    admitting, duplicate, other = (world.submit(quote).json() for _ in range(3))
    world.vote(duplicate, "alice")
    world.vote(admitting, "alice", "bob")
    assert world.approved()
    upgrade(world)
    world.vote(other, "carol", approve=False)
    assert world.view("get_proposal", proposal_id=other)["failure"] == "Keystore already approved"
    world.pass_("revoke_keystore_keys", public_keys=[str(world.key.public_key)])
    last = world.vote(duplicate, "bob")
    assert names(last) == ["vote_cast", "proposal_decided"]
    shown = world.view("get_proposal", proposal_id=duplicate)
    assert (shown["status"], shown["failure"]) == ("Failed", "The keystore's key was removed")
    assert not world.approved()
    assert "error" in world.access_key()


def test_a_proposal_that_kept_no_room_admits_only_with_balance_for_the_keystore(world: World) -> None:
    proposal = world.submit().json()
    upgrade(world)
    world.vote(proposal, "alice")
    for tenths in range(20, 200, 10):
        world.leave(tenths * NEAR // 10_000)
        decided = world.call("bob", "vote", proposal_id=proposal, approve=True)
        assert world.approved() is ("permission" in world.access_key()) is (decided.failure is None)
        if decided.failure is None:
            break
    assert world.status(proposal) == "Executed"


def test_two_hundred_and_fifty_keystores_are_migrated_by_one_call_after_another(world: World) -> None:
    keystores = [world.admitted() for _ in range(250)]
    deploy(world)
    # none of this depends on the migration
    assert reverify(keystores[0], fresh_quote(keystores[0])).json()["status"] == "approved"
    world.pass_("revoke_keystore_keys", public_keys=[str(keystores[1].key.public_key)])
    world.vote(world.submit().json(), "alice", "bob")
    assert world.approved()
    calls = 0
    while (left := world.ok("dao", "migrate", gas=300 * TGAS).json()) != {
        "keystores": 0,
        "measurement_sets": 0,
    }:
        calls += 1
        assert calls < 3, left
    world.later(31 * DAY)
    removed = 0
    while found := world.call("eve", "remove_expired_keystores", gas=300 * TGAS).json():
        removed += len(found)
    assert removed == 250
    assert all("error" in keystore.access_key() for keystore in keystores[::20])


def test_a_proposal_of_the_old_code_that_was_never_paid_for_gives_nothing_back(world: World) -> None:
    pending = propose(world, "add_member", account_id="eve.test")
    upgrade(world)
    before = world.chain.balance("alice.test")
    world.vote(pending, "bob", "carol", approve=False)
    assert world.chain.balance("alice.test") == before
    assert world.chain.balance(DAO) > NEAR
