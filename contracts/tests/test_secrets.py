# SPDX-License-Identifier: MIT
"""Secrets: what may be stored, under which name it is found, and what its storage costs, to the yocto."""

from __future__ import annotations

import json
from typing import Any

import pytest
from main_world import BYTE, MAIN, PAYMENT_KEY, PROJECT, World, system_events

from outlayer_localnet.testing import NEAR
from outlayer_near.models import secrets as models

REPO = {"Repo": {"repo": "github.com/alice/app", "branch": None}}
BRANCH = {"Repo": {"repo": "github.com/alice/app", "branch": "main"}}
WASM = {"WasmHash": {"hash": "ab" * 32}}
OWN = {"Project": {"project_id": PROJECT}}
CONDITIONS = [
    "AllowAll",
    {"Whitelist": {"accounts": ["alice.test", "bob.test"]}},
    {"AccountPattern": {"pattern": ".*\\.gov\\.near"}},
    {"NearBalance": {"operator": "Gte", "value": "1000000000000000000000000"}},
    {"FtBalance": {"contract": "usdc.test", "operator": "Lt", "value": str(2**128 - 1)}},
    {"NftOwned": {"contract": "nft.test", "token_id": None}},
    {"NftOwned": {"contract": "nft.test", "token_id": "7"}},
    {"DaoMember": {"dao_contract": "x.sputnik-dao.near", "role": "council"}},
    {"Logic": {"operator": "Or", "conditions": ["AllowAll", {"Not": {"condition": "AllowAll"}}]}},
    {"Not": {"condition": {"Whitelist": {"accounts": ["bad.near"]}}}},
]


def price(accessor: Any, profile: str, owner: str, text: str, access: Any) -> int:
    """Yocto that an entry holds, by the bytes that it occupies."""
    key = models.SecretKey(accessor=models.read_accessor(accessor), profile=profile, owner=owner)
    return BYTE * models.secret_storage_bytes(key, text, models.read_condition(access))


def nested(levels: int) -> Any:
    condition: Any = "AllowAll"
    for _ in range(levels - 1):
        condition = {"Not": {"condition": condition}}
    return condition


@pytest.mark.parametrize("accessor", [REPO, BRANCH, WASM, OWN, PAYMENT_KEY], ids=json.dumps)
def test_every_accessor_is_stored_found_and_listed(world: World, accessor: Any) -> None:
    profile = "3" if accessor == PAYMENT_KEY else "my-profile_1"
    assert not world.view("secrets_exist", accessor=accessor, profile=profile, owner="bob.test")
    world.store("bob.test", accessor, profile, "Y2lwaGVy")
    found = world.secret("bob.test", accessor, profile)
    assert found["encrypted_secrets"] == "Y2lwaGVy"
    assert found["accessor"] == accessor
    assert world.view("secrets_exist", accessor=accessor, profile=profile, owner="bob.test")
    [listed] = world.view("list_user_secrets", account_id="bob.test")
    assert (listed["accessor"], listed["profile"]) == (accessor, profile)
    assert world.view("list_profiles", accessor=accessor, owner="bob.test") == [profile]
    assert world.secret("alice.test", accessor, profile) is None


def test_all_access_conditions_come_back_as_they_were_stored(world: World) -> None:
    for number, condition in enumerate(CONDITIONS):
        world.store("bob.test", REPO, f"p{number}", access=condition)
        found = world.secret("bob.test", REPO, f"p{number}")["access"]
        assert found == condition
        assert models.read_condition(found).to_json() == condition


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        (nested(17), "at most 16 levels"),
        ({"Logic": {"operator": "And", "conditions": ["AllowAll"] * 256}}, "at most 256 parts"),
        ({"Logic": {"operator": "And", "conditions": []}}, "at least one condition"),
        ({"Whitelist": {"accounts": []}}, "at least one account"),
        ({"AccountPattern": {"pattern": ""}}, "1 to 256 bytes"),
        ({"NearBalance": {"operator": "Gte", "value": "lots"}}, "Failed to deserialize"),
        ("DenyAll", "Failed to deserialize"),
    ],
)
def test_a_condition_that_no_keystore_could_judge_is_refused(
    world: World, condition: Any, words: str
) -> None:
    args = {"accessor": REPO, "profile": "p", "encrypted_secrets_base64": "b64", "access": condition}
    world.refused("bob.test", "store_secrets", words, NEAR, **args)


def test_a_condition_at_the_depth_limit_is_stored(world: World) -> None:
    world.store("bob.test", REPO, access=nested(16))
    assert world.secret("bob.test", REPO)["access"] == nested(16)


def test_the_deepest_json_is_an_error_and_no_trap(world: World) -> None:
    args = {"accessor": REPO, "profile": "p", "encrypted_secrets_base64": "b64", "access": nested(60)}
    world.refused("bob.test", "store_secrets", "at most 16 levels", NEAR, **args)


@pytest.mark.parametrize(
    ("accessor", "profile", "text", "words"),
    [
        ({"Repo": {"repo": ""}}, "p", "b64", "Repository cannot be empty"),
        ({"Repo": {"repo": "r", "branch": ""}}, "p", "b64", "Branch name cannot be empty if provided"),
        ({"Repo": {"repo": "r", "branch": "b" * 256}}, "p", "b64", "Branch name too long (max 255 chars)"),
        ({"Repo": {"repo": "r" * 2_025}}, "p", "b64", "with at most 2048 bytes in all; these have 2049"),
        ({"WasmHash": {"hash": "ab"}}, "p", "b64", "WASM hash must be 64 hex characters (SHA256)"),
        ({"Project": {"project_id": "app"}}, "p", "b64", "Project ID must be in format 'owner.near/name'"),
        ({"Project": {"project_id": "a/b/c"}}, "p", "b64", "Project ID must be in format 'owner.near/name'"),
        ({"Project": {"project_id": "a.test/x"}}, "p", "b64", "Project 'a.test/x' does not exist"),
        (REPO, "p" * 65, "b64", "Profile name too long (max 64 chars)"),
        (REPO, "a b", "b64", "Profile name can only contain"),
        (REPO, "p", "", "Encrypted secrets cannot be empty"),
        (PAYMENT_KEY, "one", "b64", "PaymentKey profile must be a valid u32 nonce"),
        (PAYMENT_KEY, "01", "b64", "PaymentKey profile must be a valid u32 nonce"),
        (PAYMENT_KEY, str(2**32), "b64", "PaymentKey profile must be a valid u32 nonce"),
    ],
)
def test_what_cannot_be_a_secret_is_refused_by_name(
    world: World, accessor: Any, profile: str, text: str, words: str
) -> None:
    args = {
        "accessor": accessor,
        "profile": profile,
        "encrypted_secrets_base64": text,
        "access": "AllowAll",
    }
    world.refused("bob.test", "store_secrets", words, NEAR, **args)


def test_a_branch_without_a_secret_of_its_own_takes_the_repositorys(world: World) -> None:
    world.store("bob.test", REPO, text="all")
    assert world.secret("bob.test", BRANCH)["encrypted_secrets"] == "all"
    assert world.secret("bob.test", BRANCH)["accessor"] == REPO
    world.store("bob.test", BRANCH, text="main")
    assert world.secret("bob.test", BRANCH)["encrypted_secrets"] == "main"
    assert world.secret("bob.test", REPO)["encrypted_secrets"] == "all"
    assert not world.view(
        "secrets_exist",
        accessor={"Repo": {"repo": "github.com/alice/app", "branch": "dev"}},
        profile="default",
        owner="bob.test",
    )


def held(world: World, accessor: Any, profile: str = "default") -> int:
    return int(world.secret("bob.test", accessor, profile)["storage_deposit"])


@pytest.mark.parametrize("accessor", [REPO, BRANCH, WASM, OWN, PAYMENT_KEY], ids=json.dumps)
def test_the_deposit_is_what_is_occupied_and_comes_back_whole(world: World, accessor: Any) -> None:
    usage = world.chain.account(MAIN)["storage_usage"]
    profile = "1" if accessor == PAYMENT_KEY else "default"
    own = price(accessor, profile, "bob.test", "x" * 500, "AllowAll")
    expected = own + BYTE * models.secret_list_bytes("bob.test")
    name = {"accessor": accessor, "profile": profile}
    args = {**name, "encrypted_secrets_base64": "x" * 500, "access": "AllowAll"}
    assert int(world.view("estimate_storage_cost", owner="bob.test", **args)) == expected
    world.refused("bob.test", "store_secrets", "Insufficient storage deposit", expected - 1, **args)
    balance = world.chain.balance("bob.test")
    stored = world.ok("bob.test", "store_secrets", NEAR, **args)
    assert paid(world, balance, stored) == expected
    assert held(world, accessor, profile) == own
    task = models.PAYMENT_KEY_TASK_BYTES if accessor == PAYMENT_KEY else 0
    assert (world.chain.account(MAIN)["storage_usage"] - usage + task) * BYTE == expected
    assert int(world.view("estimate_storage_cost", owner="bob.test", **args)) == own
    balance = world.chain.balance("bob.test")
    gone = world.ok("bob.test", "delete_secrets", **name)
    assert paid(world, balance, gone) == -expected
    assert world.chain.account(MAIN)["storage_usage"] == usage
    world.refused("bob.test", "delete_secrets", "Secrets not found", **name)


@pytest.mark.parametrize("first_out", [0, 1])
def test_the_list_is_paid_by_the_first_entry_and_comes_back_with_the_last(
    world: World, first_out: int
) -> None:
    profiles = ["one", "two"]
    head = BYTE * models.secret_list_bytes("bob.test")
    costs = []
    for profile in profiles:
        balance = world.chain.balance("bob.test")
        costs.append(paid(world, balance, world.store("bob.test", REPO, profile)))
    assert costs[0] - costs[1] == head
    back = []
    for profile in (profiles[first_out], profiles[1 - first_out]):
        balance = world.chain.balance("bob.test")
        gone = world.ok("bob.test", "delete_secrets", accessor=REPO, profile=profile)
        back.append(-paid(world, balance, gone))
    assert back == [costs[1], costs[0]]


def paid(world: World, before: int, result: Any) -> int:
    """What bob paid beside the gas."""
    return before - world.chain.balance("bob.test") - result.tokens_burnt


LONG = {"Repo": {"repo": "r" * 1_000, "branch": "b" * 255}}
CROWD = {"Whitelist": {"accounts": [f"{number:04}" for number in range(3_000)]}}


@pytest.mark.parametrize(
    ("accessor", "access"),
    [(LONG, "AllowAll"), (REPO, CROWD), (REPO, {"Not": {"condition": CROWD}}), (WASM, CONDITIONS[4])],
    ids=["long name", "crowd", "nested crowd", "ordinary"],
)
def test_what_an_entry_occupies_is_paid_for(world: World, accessor: Any, access: Any) -> None:
    world.store("bob.test", OWN)  # the owner's list is there: its own record is not the entry's
    usage = world.chain.account(MAIN)["storage_usage"]
    world.store("bob.test", accessor, text="x" * 50, access=access)
    occupied = world.chain.account(MAIN)["storage_usage"] - usage
    charged = held(world, accessor) // BYTE
    key = models.SecretKey(accessor=models.read_accessor(accessor), profile="default", owner="bob.test")
    condition = models.read_condition(access)
    assert charged == models.secret_storage_bytes(key, "x" * 50, condition)
    assert occupied == charged


def test_an_update_counts_what_is_held(world: World) -> None:
    world.store("bob.test", REPO, text="x" * 1000)
    large = held(world, REPO)
    world.store("bob.test", REPO, text="x")
    small = held(world, REPO)
    assert large - small == 999 * BYTE
    args = {"accessor": REPO, "profile": "default", "access": "AllowAll"}
    words = "Insufficient deposit for update"
    grown = {**args, "encrypted_secrets_base64": "x" * 1000}
    world.refused("bob.test", "store_secrets", words, 999 * BYTE - 1, **grown)
    world.ok("bob.test", "store_secrets", 999 * BYTE, **grown)
    assert held(world, REPO) == large
    assert len(world.view("list_user_secrets", account_id="bob.test")) == 1


def test_r5_a_larger_condition_needs_a_deposit_and_the_way_back_refunds_it(world: World) -> None:
    world.store("bob.test", REPO)
    small = held(world, REPO)
    wide = {"Whitelist": {"accounts": [f"account-{number:03}.test" for number in range(20)]}}
    # 1 byte says which kind a condition is
    assert price(REPO, "default", "bob.test", "b64", wide) - small == BYTE * (4 + 20 * (4 + 16))
    more = price(REPO, "default", "bob.test", "b64", wide) - small
    args = {"accessor": REPO, "profile": "default"}
    world.refused("bob.test", "update_access", "Insufficient deposit for update", new_access=wide, **args)
    world.ok("bob.test", "update_access", more, new_access=wide, **args)
    assert held(world, REPO) == small + more
    before = world.chain.balance("bob.test")
    assert paid(world, before, world.ok("bob.test", "update_access", new_access="AllowAll", **args)) == -more
    assert held(world, REPO) == small
    world.refused("alice.test", "update_access", "Secrets not found", new_access="AllowAll", **args)


def test_a_new_payment_key_is_announced_with_amount_zero(world: World) -> None:
    stored = world.make_key("bob.test", 4, "ciphertext")
    [event] = system_events(stored, "TopUpPaymentKey")
    assert event == {
        "data_id": [0] * 32,
        "owner": "bob.test",
        "nonce": 4,
        "amount": "0",
        "encrypted_data": "ciphertext",
    }
    assert system_events(world.store("bob.test", REPO), "TopUpPaymentKey") == []


def test_the_next_nonce_is_one_more_than_the_highest(world: World) -> None:
    assert world.view("get_next_payment_key_nonce", account_id="bob.test") == 1
    world.make_key("bob.test", 1)
    world.make_key("bob.test", 9)
    world.store("bob.test", REPO, "77")
    assert world.view("get_next_payment_key_nonce", account_id="bob.test") == 10
    assert world.view("get_next_payment_key_nonce", account_id="alice.test") == 1


# -- many entries of one account -----------------------------------------------------------------------


def test_secrets_are_listed_by_page_and_past_the_end_there_are_none(world: World) -> None:
    names = [f"p{number}" for number in range(7)]
    for name in names:
        world.store("bob.test", REPO, name)

    def listed(**page: Any) -> list[str]:
        found = world.view("list_user_secrets", account_id="bob.test", **page)
        return [item["profile"] for item in found]

    assert listed() == listed(from_index=0, limit=500) == names
    assert listed(from_index=None, limit=None) == names
    walked: list[str] = []
    while (fresh := listed(from_index=len(walked), limit=3)) and len(walked) <= len(names):
        walked += fresh
    assert walked == names
    assert listed(from_index=7) == listed(from_index=2**64 - 1, limit=2**64 - 1) == listed(limit=0) == []
    world.ok("bob.test", "delete_secrets", accessor=REPO, profile="p2")
    assert sorted(listed()) == sorted(set(names) - {"p2"})


def test_what_a_call_costs_does_not_grow_with_an_accounts_entries(world: World) -> None:
    """300 entries with names of 1,000 bytes beside it: nothing of them is read or written."""

    def gas(name: str) -> list[int]:
        stored = world.store("bob.test", REPO, name)
        changed = world.ok("bob.test", "update_access", accessor=REPO, profile=name, new_access="AllowAll")
        gone = world.ok("bob.test", "delete_secrets", accessor=REPO, profile=name)
        return [result.gas_burnt for result in (stored, changed, gone)]

    world.store("bob.test", REPO, "first")
    few = gas("one")
    for number in range(300):
        world.store("bob.test", {"Repo": {"repo": f"{number:03}" + "r" * 997}}, "p")
    many = gas("two")
    assert all(later < 1.25 * early for early, later in zip(few, many, strict=True)), (few, many)
    page = world.view("list_user_secrets", account_id="bob.test", from_index=290, limit=500)
    assert len(page) == 11


# -- what a payment key may be ---------------------------------------------------------------------------


def crowd(size: int) -> dict[str, Any]:
    """A condition of exactly this many bytes in state."""
    # a version, a kind, a count; then accounts of 4 + 60 bytes and one that fills up
    whole, rest = divmod(size - 6, 64)
    if 0 < rest < 6:
        whole, rest = whole - 1, rest + 64
    accounts = [f"{number:060}" for number in range(whole)] + (["x" * (rest - 4)] if rest else [])
    return {"Whitelist": {"accounts": accounts}}


@pytest.mark.parametrize(
    ("text", "access", "words"),
    [
        ("c" * 8_193, "AllowAll", "ciphertext has at most 8192 bytes as JSON text"),
        ('"' * 4_097, "AllowAll", "ciphertext has at most 8192 bytes as JSON text"),
        ("\x01" * 1_366, "AllowAll", "ciphertext has at most 8192 bytes as JSON text"),
        ("b64", crowd(16_385), "access condition has at most 16384 bytes in state"),
    ],
)
def test_a_payment_key_that_could_not_be_topped_up_is_not_stored(
    world: World, text: str, access: Any, words: str
) -> None:
    args = {"accessor": PAYMENT_KEY, "profile": "1", "encrypted_secrets_base64": text, "access": access}
    world.refused("bob.test", "store_secrets", words, NEAR, **args)
    # other secrets have no such limit: they pay for what they are
    world.ok("bob.test", "store_secrets", NEAR, **{**args, "accessor": REPO})
    world.make_key("bob.test", 1)
    if access != "AllowAll":
        name = {"accessor": PAYMENT_KEY, "profile": "1", "new_access": access}
        world.refused("bob.test", "update_access", words, NEAR, **name)
