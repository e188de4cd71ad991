# SPDX-License-Identifier: MIT
"""The register contract with many sets and keys: what a call costs does not grow with them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import pytest
from test_register import (
    COMPILER,
    DAY,
    INIT,
    REGISTER,
    TTL,
    World,
    bare,
    events,
    reason,
    renew_collateral,
    simulated,
    world,
)

from outlayer_attestation.measurements import Measurements
from outlayer_attestation.testing import MEASUREMENTS
from outlayer_localnet.testing import NEAR, TGAS, TxResult
from outlayer_near.primitives import KeyPair

__all__ = ["bare", "simulated", "world"]

# 10,000 of each takes minutes: make it so before a release
SETS = int(os.environ.get("OUTLAYER_MANY_SETS", "300"))
KEYS = int(os.environ.get("OUTLAYER_MANY_KEYS", "230"))


def measurements(number: int) -> Measurements:
    return dataclasses.replace(MEASUREMENTS, rtmr3=f"{number:096x}")


def add(world: World, number: int, **more: Any) -> int:
    added = world.own("add_measurement_set", measurements=measurements(number).to_json(), **more)
    return int(added.json())


def register(world: World, values: Measurements = MEASUREMENTS) -> World:
    other = dataclasses.replace(world, key=KeyPair.generate())
    result = other.submit(other.quote(values))
    assert result.json()["status"] == "approved"
    return other


def has_access_key(world: World) -> bool:
    return "permission" in world.access_key()


def anyone(world: World, method: str, gas: int = 300, **args: Any) -> TxResult:
    return world.chain.call(world.chain.test_account, REGISTER, method, args, gas=gas * TGAS)


@pytest.fixture(scope="module")
def crowd(simulated: World) -> Iterator[tuple[World, list[World], int]]:
    """Sets that hold and sets that ended; keys of set 1, a fresh one for each; and the gas of one before that."""
    simulated.chain.restore("ready")
    simulated.chain.call(
        simulated.owner, REGISTER, "storage_deposit", {"account_id": INIT}, deposit=KEYS * NEAR // 100
    )
    first = dataclasses.replace(simulated, key=KeyPair.generate())
    first.submit(first.quote())
    alone = dataclasses.replace(simulated, key=KeyPair.generate())
    gas = alone.submit(alone.quote()).gas_burnt
    for number in range(SETS):
        set_id = add(simulated, number)
        if number % 2:
            simulated.own("expire_measurement_set", id=set_id, not_after=0)
    keys = [first, alone, *(register(simulated) for _ in range(KEYS - 2))]
    simulated.chain.snapshot("crowd")
    yield simulated, keys, gas


@pytest.fixture
def many(crowd: tuple[World, list[World], int]) -> tuple[World, list[World], int]:
    crowd[0].chain.restore("crowd")
    return crowd


def test_a_registration_costs_the_same_with_many_sets_and_keys(many: tuple[World, list[World], int]) -> None:
    world, keys, gas = many
    other = dataclasses.replace(world, key=KeyPair.generate())
    result = other.submit(other.quote())
    assert result.json()["status"] == "approved"
    assert result.gas_burnt <= min(gas * 1.02, 14 * TGAS)
    own = measurements(0)
    other = dataclasses.replace(world, key=KeyPair.generate())
    result = other.submit(other.quote(own))
    assert result.json()["status"] == "approved"
    assert result.gas_burnt <= 14.1 * TGAS
    assert len(keys) == KEYS


def test_views_reach_every_set_and_key(many: tuple[World, list[World], int]) -> None:
    world, keys, _ = many
    for method, limit, name, expected in (
        ("get_measurement_sets", 100, "id", set(range(1, SETS + 2))),
        ("get_worker_keys", 70, "public_key", {str(one.key.public_key) for one in keys}),
    ):
        found: list[Any] = []
        while page := world.view(method, from_index=len(found), limit=limit):
            assert len(page) <= limit
            found += page
        assert len(found) == len(expected)
        assert {one[name] for one in found} == expected
    assert len(world.view("get_measurement_sets")) == min(SETS + 1, 500)
    assert world.view("is_measurements_approved", measurements=measurements(0).to_json())
    assert not world.view("is_measurements_approved", measurements=measurements(1).to_json())


@pytest.mark.parametrize("how", ["expire_measurement_set", "clear_all_approved_measurements"])
def test_an_end_removes_a_hundred_keys_at_once_and_anyone_the_rest(
    many: tuple[World, list[World], int], how: str
) -> None:
    world, keys, _ = many
    args = {"id": 1, "not_after": 0} if how == "expire_measurement_set" else {}
    ended = world.chain.call(world.owner, REGISTER, how, args, gas=300 * TGAS)
    assert ended.json() == {"removed": 100, "remaining": KEYS - 100}
    assert sum(map(has_access_key, keys)) == KEYS - 100
    assert not any(one.valid() for one in keys)
    left = KEYS - 100
    while left:
        assert world.view("get_keys_without_approval") == left
        removed = anyone(world, "remove_expired_keys")
        assert len(removed.json()) == min(100, left)
        left -= len(removed.json())
    assert not any(map(has_access_key, keys))
    assert anyone(world, "remove_expired_keys").json() == []


def test_with_little_gas_fewer_keys_are_removed_and_the_call_still_succeeds(
    many: tuple[World, list[World], int],
) -> None:
    world, keys, _ = many
    ended = world.chain.call(
        world.owner, REGISTER, "expire_measurement_set", {"id": 1, "not_after": 0}, gas=30 * TGAS
    )
    removed = ended.json()["removed"]
    assert 0 < removed < 30
    assert ended.json()["remaining"] == KEYS - removed
    assert sum(map(has_access_key, keys)) == KEYS - removed
    for gas in (12, 20, 40):
        assert anyone(world, "remove_expired_keys", gas=gas).failure is None


def test_expired_keys_are_found_without_looking_at_the_others(many: tuple[World, list[World], int]) -> None:
    world, keys, _ = many
    world.later(TTL // 2)
    renew_collateral(world)
    late = [register(world), register(world, measurements(0))]
    world.later(TTL // 2 + DAY)
    removed: list[str] = []
    while some := anyone(world, "remove_expired_keys").json():
        removed += some
    assert set(removed) == {str(one.key.public_key) for one in keys}
    assert all(one.valid() for one in late)
    nothing = anyone(world, "remove_expired_keys")
    assert nothing.gas_burnt < 5 * TGAS


def test_clearing_others_leaves_compilers_and_what_is_approved(many: tuple[World, list[World], int]) -> None:
    world, _, _ = many
    world.own("add_measurement_set", measurements=COMPILER.to_json(), role="compiler")
    spared, compiler = register(world, measurements(0)), register(world, COMPILER)
    cleared = world.chain.call(
        world.owner,
        REGISTER,
        "add_approved_measurements",
        {"measurements": measurements(0).to_json(), "clear_others": True},
        gas=300 * TGAS,
    )
    assert cleared.json()["removed"] == 100
    ended = events(cleared)[0]
    assert ended["event"] == "measurement_sets_ended"
    assert ended["data"][0] | {"not_after": 0} == {
        "role": "worker",
        "last_id": SETS + 2,
        "except": [2],
        "not_after": 0,
    }
    assert world.view("get_approved_measurements") == [measurements(0).to_json()]
    assert spared.valid()
    assert compiler.valid()
    while anyone(world, "remove_expired_keys").json():
        pass
    assert has_access_key(spared)
    assert has_access_key(compiler)


def test_what_ended_90_days_ago_is_pruned_by_anyone_into_events(
    many: tuple[World, list[World], int],
) -> None:
    world, keys, _ = many
    before = {one["id"]: one for one in world.view("get_measurement_sets", limit=500)}
    assert anyone(world, "prune_measurement_sets").json() == []
    world.later(91 * DAY)
    told: dict[int, Any] = {}
    quiet = 0
    while quiet <= SETS // 50 + 1:
        pruned = anyone(world, "prune_measurement_sets", gas=100)
        assert pruned.gas_burnt < 60 * TGAS
        told |= {one["id"]: one for event in events(pruned) for one in event["data"]}
        quiet = 0 if pruned.json() else quiet + 1
    assert told == {number: one for number, one in before.items() if one["not_after"] is not None}
    left = world.view("get_measurement_sets", limit=500)
    assert {one["id"] for one in left} == set(before) - set(told)
    # a removed key stays removed
    renew_collateral(world)
    anyone(world, "remove_expired_keys")
    gone = next(one for one in keys if not has_access_key(one))
    assert reason(gone.submit(gone.quote())) == "key_removed"


def test_a_policy_of_32_sets_becomes_active_and_is_revoked_in_one_call_each(
    many: tuple[World, list[World], int],
) -> None:
    world, _, _ = many
    world.own("raise_policy_delay", policy_delay_seconds=2 * DAY)
    now = world.chain.block()["header"]["timestamp"] // 10**9
    sets = [
        {
            "role": "worker",
            "name": "n" * 128,
            "measurements": measurements(10_000 + number).to_json(),
            "not_before": None,
            "not_after": now + 3 * DAY if number else None,
        }
        for number in range(32)
    ]
    proposed = world.own("propose_policy", sha256="ab" * 32, sets=sets, grace_seconds=0)
    assert proposed.json() == 1
    gas = register(world).submit(world.quote())
    assert gas.failure is None
    world.later(4 * DAY)
    activated = anyone(world, "activate_policy", version=1)
    # all but one have ended while they waited: they hold up nothing
    assert len(activated.json()["sets"]) == 1
    assert events(activated)[-1]["data"][0]["left_out"] == 31
    for one in sets:
        one["not_after"] = None
    assert world.own("propose_policy", sha256="cd" * 32, sets=sets, grace_seconds=DAY).json() == 2
    world.later(2 * DAY)
    activated = anyone(world, "activate_policy", version=2)
    assert len(activated.json()["sets"]) == 32
    assert activated.gas_burnt < 150 * TGAS
    revoked = world.own("revoke_policy", version=2)
    assert revoked.failure is None
    assert world.view("is_measurements_approved", measurements=measurements(10_001).to_json()) is False


def test_storage_of_strangers_calls_is_nothing(many: tuple[World, list[World], int]) -> None:
    """Anyone can call these, and none of them leaves a byte of theirs."""
    world, keys, _ = many
    usage = int(world.chain.account(REGISTER)["storage_usage"])
    anyone(world, "remove_expired_keys", public_keys=[str(KeyPair.generate().public_key)])
    anyone(world, "reverify_worker_key", public_key=str(keys[0].key.public_key), tdx_quote_hex="00")
    anyone(world, "prune_measurement_sets")
    anyone(world, "activate_policy", version=1)
    assert int(world.chain.account(REGISTER)["storage_usage"]) == usage
