# SPDX-License-Identifier: MIT
"""Projects: what their names and versions may be, which version runs, what storage costs, whose they are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from main_world import BYTE, MAIN, PROJECT, World, wasm_url

from outlayer_localnet.testing import NEAR, TGAS

ALICE, BOB, CAROL = "alice.test", "bob.test", "carol.test"
GITHUB = {"GitHub": {"repo": "github.com/alice/app", "commit": "main", "build_target": None}}
GITHUB_KEY = "github.com/alice/app@main"
FIRST, SECOND = "a" * 64, "b" * 64


def add(world: World, source: Any, *, active: bool = False, deposit: int = NEAR) -> Any:
    return world.ok(ALICE, "add_version", deposit, project_name="app", source=source, set_active=active)


def versions(world: World, project: str = PROJECT, **page: int) -> dict[str, bool]:
    """Key of each version, and whether it is the active one."""
    listed = world.view("list_versions", project_id=project, **page)
    return {version["wasm_hash"]: version["is_active"] for version in listed}


SLOT = 64
UUID = 17


def text(value: str | None) -> int:
    return 4 + len(value or "")


def list_item(name: str, item: int) -> int:
    return (40 + 1 + text(name) + 4) + item + (40 + 1 + text(name) + 16) + 4


def list_head(name: str) -> int:
    return 40 + 1 + text(name) + 8


def version_price(source: dict[str, Any]) -> int:
    """The version's record under its slot, and the slot in the project's list."""
    [members] = source.values()
    target = members.get("build_target")
    value = 1 + sum(text(member) for name, member in members.items() if name != "build_target")
    value += 1 + (text(target) if target else 0) + 8 + 16
    key = 1 + 4 + UUID + 1 + SLOT
    return BYTE * (40 + key + value + list_item("u" * UUID, SLOT))


def project_price(owner: str, name: str) -> int:
    """The project's record with room for an offer and a move, and its name in the owner's list."""
    spare = 4 * (64 - len(owner)) + 40 + 1 + 4 + 64 + 8
    room = 1 + 1 + 64 + 4 + spare
    value = (4 + UUID) + text(owner) + text(name) + (4 + SLOT) + 4 + 8 + 16 + room
    key = 1 + text(f"{owner}/{name}")
    return BYTE * (40 + key + value + list_item(owner, len(name)))


def test_versions_are_listed_in_order_and_by_page(world: World) -> None:
    assert add(world, GITHUB, active=True).json() == GITHUB_KEY
    assert add(world, wasm_url("b")).json() == SECOND
    assert list(versions(world).items()) == [(FIRST, False), (GITHUB_KEY, True), (SECOND, False)]
    assert list(versions(world, from_index=1, limit=1)) == [GITHUB_KEY]
    assert versions(world, from_index=3) == {}
    assert world.view("get_version_count", project_id=PROJECT) == 3
    found = world.view("get_version", project_id=PROJECT, version_key=GITHUB_KEY)
    assert (found["source"], found["is_active"]) == (GITHUB, True)
    assert world.view("get_version", project_id=PROJECT, version_key=FIRST)["is_active"] is False
    assert world.view("get_project", project_id=PROJECT)["active_version"] == GITHUB_KEY


def test_another_version_becomes_the_active_one(world: World) -> None:
    add(world, wasm_url("b"))
    world.ok(ALICE, "set_active_version", project_name="app", version_key=SECOND)
    assert versions(world) == {FIRST: False, SECOND: True}
    args = {"project_name": "app", "version_key": "c" * 64}
    world.refused(ALICE, "set_active_version", "Version not found", **args)
    assert versions(world) == {FIRST: False, SECOND: True}


def test_a_version_is_added_once(world: World) -> None:
    words = f"Version '{FIRST}' already exists in project"
    args = {"project_name": "app", "source": wasm_url("a"), "set_active": True}
    world.refused(ALICE, "add_version", words, NEAR, **args)


@pytest.mark.parametrize("source", [GITHUB, wasm_url("b")], ids=["github", "url"])
def test_a_versions_deposit_is_what_it_occupies_and_comes_back_whole(world: World, source: Any) -> None:
    expected = version_price(source)
    usage = world.chain.account(MAIN)["storage_usage"]
    args = {"project_name": "app", "source": source, "set_active": False}
    world.refused(ALICE, "add_version", "Insufficient storage deposit", expected - 1, **args)
    before = world.chain.balance(ALICE)
    added = world.ok(ALICE, "add_version", expected + 5, **args)
    assert before - world.chain.balance(ALICE) - added.tokens_burnt == expected
    before = world.chain.balance(ALICE)
    removed = world.ok(ALICE, "remove_version", project_name="app", version_key=added.json())
    assert world.chain.balance(ALICE) - before + removed.tokens_burnt == expected
    assert world.chain.account(MAIN)["storage_usage"] == usage


def test_a_long_version_key_is_kept_once_and_paid_for(world: World) -> None:
    source = {"GitHub": {"repo": "r" * 1_900, "commit": "c" * 100}}
    key = "r" * 1_900 + "@" + "c" * 100
    usage = world.chain.account(MAIN)["storage_usage"]
    before = world.chain.balance(ALICE)
    added = add(world, source)
    charged = before - world.chain.balance(ALICE) - added.tokens_burnt
    assert charged == version_price(source)
    assert (world.chain.account(MAIN)["storage_usage"] - usage) * BYTE == charged
    # to make it the active one needs nothing, as with the original
    world.ok(ALICE, "set_active_version", project_name="app", version_key=key)
    assert (world.chain.account(MAIN)["storage_usage"] - usage) * BYTE == charged
    assert world.view("get_project", project_id=PROJECT)["active_version"] == key
    assert versions(world) == {FIRST: False, key: True}


def test_a_projects_deposit_is_what_it_occupies_and_comes_back_whole(world: World) -> None:
    usage = world.chain.account(MAIN)["storage_usage"]
    args = {"name": "p" * 64, "source": GITHUB}
    own = project_price(BOB, "p" * 64)
    expected = own + version_price(GITHUB) + BYTE * (list_head("u" * UUID) + list_head(BOB))
    world.refused(BOB, "create_project", "Insufficient storage deposit", expected - 1, **args)
    before = world.chain.balance(BOB)
    made = world.ok(BOB, "create_project", NEAR, **args)
    assert before - world.chain.balance(BOB) - made.tokens_burnt == expected
    assert (world.chain.account(MAIN)["storage_usage"] - usage) * BYTE == expected
    assert int(world.view("get_project", project_id=made.json())["storage_deposit"]) == own
    before = world.chain.balance(BOB)
    gone = world.ok(BOB, "delete_project", project_name="p" * 64)
    assert world.chain.balance(BOB) - before + gone.tokens_burnt == expected
    assert world.chain.account(MAIN)["storage_usage"] == usage


def test_the_active_version_and_what_is_not_there_stay(world: World) -> None:
    args = {"project_name": "app"}
    words = "Cannot remove the active version"
    world.refused(ALICE, "remove_version", words, version_key=FIRST, **args)
    world.refused(ALICE, "remove_version", "Version not found", version_key=SECOND, **args)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (wasm_url("A"), "64 lower-case hex"),
        ({"WasmUrl": {"url": "", "hash": "a" * 64}}, "WASM URL cannot be empty"),
        ({"GitHub": {"repo": "", "commit": "main"}}, "Repository and commit cannot be empty"),
        ({"GitHub": {"repo": "github.com/a/b", "commit": ""}}, "Repository and commit cannot be empty"),
        ({"Project": {"project_id": PROJECT}}, "Failed to deserialize"),
    ],
)
def test_a_source_that_names_no_code_is_refused(world: World, source: Any, words: str) -> None:
    world.refused(BOB, "create_project", words, NEAR, name="p", source=source)
    args = {"project_name": "app", "source": source, "set_active": False}
    world.refused(ALICE, "add_version", words, NEAR, **args)


def test_a_name_is_used_once_by_each_account(world: World) -> None:
    args = {"name": "app", "source": wasm_url("b")}
    words = f"Project '{PROJECT}' already exists"
    world.refused(ALICE, "create_project", words, NEAR, **args)
    assert world.ok(BOB, "create_project", NEAR, **args).json() == "bob.test/app"
    assert versions(world) == {FIRST: True}
    assert versions(world, "bob.test/app") == {SECOND: True}


@pytest.mark.parametrize(
    ("method", "args", "deposit"),
    [
        ("add_version", {"source": GITHUB, "set_active": True}, NEAR),
        ("set_active_version", {"version_key": FIRST}, 0),
        ("remove_version", {"version_key": FIRST}, 0),
        ("delete_project", {}, 0),
        ("transfer_project", {"new_owner": CAROL}, 0),
        ("cancel_project_transfer", {}, 0),
    ],
)
def test_nobody_else_reaches_a_project(world: World, method: str, args: dict[str, Any], deposit: int) -> None:
    for who in (BOB, MAIN):
        world.refused(who, method, "Project not found", deposit, project_name="app", **args)


# -- projects that change hands --------------------------------------------------------------------------


def test_r2_until_it_is_accepted_a_project_stays_its_owners(world: World) -> None:
    world.ok(ALICE, "transfer_project", project_name="app", new_owner=BOB)
    world.refused(BOB, "delete_project", "Project not found", project_name="app")
    add(world, wasm_url("b"), active=True)
    assert versions(world) == {FIRST: False, SECOND: True}
    world.ok(ALICE, "delete_project", project_name="app")
    world.refused(BOB, "accept_project", "Project not found", project_id=PROJECT)


def test_r2_the_last_offer_counts_and_only_once(world: World) -> None:
    words = "The project belongs to this account already"
    world.refused(ALICE, "transfer_project", words, project_name="app", new_owner=ALICE)
    world.ok(ALICE, "transfer_project", project_name="app", new_owner=BOB)
    world.ok(ALICE, "transfer_project", project_name="app", new_owner=CAROL)
    world.refused(BOB, "accept_project", "was not offered to this account", project_id=PROJECT)
    world.ok(CAROL, "accept_project", project_id=PROJECT)
    assert world.view("get_project_offer", project_id="carol.test/app") is None
    words = "was not offered to this account"
    world.refused(CAROL, "accept_project", words, project_id="carol.test/app")


def test_r2_a_project_replaces_no_other_of_the_new_owner(world: World) -> None:
    world.ok(BOB, "create_project", NEAR, name="app", source=wasm_url("b"))
    world.ok(ALICE, "transfer_project", project_name="app", new_owner=BOB)
    words = "Project 'bob.test/app' already exists"
    world.refused(BOB, "accept_project", words, project_id=PROJECT)
    assert versions(world, "bob.test/app") == {SECOND: True}
    assert versions(world) == {FIRST: True}
    world.ok(BOB, "delete_project", project_name="app")
    world.ok(BOB, "accept_project", project_id=PROJECT)
    assert versions(world, "bob.test/app") == {FIRST: True}


def test_r4_deposits_go_to_who_owns_the_project_when_it_is_deleted(world: World) -> None:
    usage = world.chain.account(MAIN)["storage_usage"]
    add(world, GITHUB)
    held = int(world.view("get_project", project_id=PROJECT)["storage_deposit"])
    assert held == project_price(ALICE, "app")
    held += version_price(wasm_url("a")) + version_price(GITHUB) + BYTE * list_head("u" * UUID)
    world.ok(ALICE, "transfer_project", project_name="app", new_owner=BOB)
    occupied = world.chain.account(MAIN)["storage_usage"]
    alice, bob = world.chain.balance(ALICE), world.chain.balance(BOB)
    accepted = world.ok(BOB, "accept_project", project_id=PROJECT)
    # it was alice's last and is bob's first: her list ends, and his begins in the project's room
    assert world.chain.balance(ALICE) - alice == BYTE * list_head(ALICE)
    assert bob - world.chain.balance(BOB) == accepted.tokens_burnt
    assert occupied - world.chain.account(MAIN)["storage_usage"] == list_head(ALICE)
    before = world.chain.balance(BOB)
    deleted = world.ok(BOB, "delete_project", project_name="app")
    assert world.chain.balance(BOB) - before + deleted.tokens_burnt == held
    assert world.view("list_user_projects", account_id=BOB) == []
    [members] = wasm_url("a").values()
    assert usage - world.chain.account(MAIN)["storage_usage"] > len(members["url"])


def test_a_project_moves_without_a_deposit_to_the_longest_account_once(world: World) -> None:
    """From the shortest name, with what its first project needs there; a second such move pays the growth."""
    [first, second, short] = ["f" * 59 + ".test", "g" * 59 + ".test", "s.test"]
    for name in (first, second, short):
        world.accounts[name] = world.chain.create_account(name, 10 * NEAR)
    world.ok(short, "create_project", NEAR, name="p", source=GITHUB)

    def move(owner: str, to: str, deposit: int = 0) -> Any:
        world.ok(owner, "transfer_project", project_name="p", new_owner=to)
        return world.call(to, "accept_project", deposit, project_id=f"{owner}/p")

    usage = world.chain.account(MAIN)["storage_usage"]
    assert move(short, first).failure is None
    assert usage - world.chain.account(MAIN)["storage_usage"] == list_head(short)
    needed = BYTE * list_head(second)
    world.ok(first, "create_project", NEAR, name="stays", source=GITHUB)
    words = f"Insufficient storage deposit. Required: {needed} yoctoNEAR, attached: {needed - 1}"
    assert words in json.dumps(move(first, second, needed - 1).failure)
    usage = world.chain.account(MAIN)["storage_usage"]
    assert move(first, second, needed).failure is None
    assert (world.chain.account(MAIN)["storage_usage"] - usage) * BYTE == needed
    before = world.chain.account(MAIN)["storage_usage"]
    spent = world.chain.balance(second)
    gone = world.ok(second, "delete_project", project_name="p")
    freed = before - world.chain.account(MAIN)["storage_usage"]
    assert world.chain.balance(second) - spent + gone.tokens_burnt == BYTE * freed


@pytest.mark.parametrize("to", [BOB, "f" + "0" * 63])
def test_an_offer_needs_no_deposit_and_no_state(world: World, to: str) -> None:
    usage = world.chain.account(MAIN)["storage_usage"]
    world.ok(ALICE, "transfer_project", project_name="app", new_owner=to)
    assert world.view("get_project_offer", project_id=PROJECT) == to
    assert world.chain.account(MAIN)["storage_usage"] == usage
    world.ok(ALICE, "cancel_project_transfer", project_name="app")
    assert world.view("get_project_offer", project_id=PROJECT) is None
    assert world.chain.account(MAIN)["storage_usage"] == usage


def test_projects_are_listed_by_page_and_past_the_end_there_are_none(world: World) -> None:
    names = [f"p{number}" for number in range(5)]
    for name in names:
        world.ok(BOB, "create_project", NEAR, name=name, source=GITHUB)

    def listed(**page: Any) -> list[str]:
        return [item["name"] for item in world.view("list_user_projects", account_id=BOB, **page)]

    assert listed() == names
    assert listed(from_index=3, limit=9) == ["p3", "p4"]
    assert listed(from_index=1, limit=2) == ["p1", "p2"]
    assert listed(from_index=5) == listed(from_index=2**64 - 1) == listed(limit=0) == []


def test_a_project_of_200_versions_is_deleted_in_one_call_and_a_larger_one_is_not(world: World) -> None:
    usage = world.chain.account(MAIN)["storage_usage"]
    for number in range(200):
        add(world, {"GitHub": {"repo": "r" * 300, "commit": f"{number}"}})
    words = "remove_version the others first"
    world.refused(ALICE, "delete_project", words, project_name="app", gas=300 * TGAS)
    key = "r" * 300 + "@199"
    world.ok(ALICE, "remove_version", project_name="app", version_key=key)
    request = world.request()
    assert request[0].failure is None
    before, held = world.chain.balance(ALICE), world.chain.account(MAIN)["storage_usage"]
    gone = world.ok(ALICE, "delete_project", gas=300 * TGAS, project_name="app")
    freed = held - world.chain.account(MAIN)["storage_usage"]
    assert world.chain.balance(ALICE) - before + gone.tokens_burnt == BYTE * freed
    assert world.chain.account(MAIN)["storage_usage"] < usage + 2_000
    assert gone.gas_burnt < 200 * TGAS


def test_a_name_that_is_free_again_gets_a_uuid_of_its_own(world: World) -> None:
    old = world.view("get_project", project_id=PROJECT)["uuid"]
    world.ok(ALICE, "delete_project", project_name="app")
    world.ok(ALICE, "create_project", NEAR, name="app", source=wasm_url("b"))
    assert world.view("get_project", project_id=PROJECT)["uuid"] != old
    assert versions(world) == {SECOND: True}


def test_what_waits_earns_for_who_owned_the_project_when_it_was_asked(world: World) -> None:
    world.deposit_usd(CAROL, 10_000)
    sent, request_id = world.request(CAROL, params={"attached_usd": "500"})
    world.ok(ALICE, "transfer_project", project_name="app", new_owner=BOB)
    world.ok(BOB, "accept_project", project_id=PROJECT)
    world.resolve(request_id)
    world.final(sent)
    assert (world.earnings(ALICE), world.earnings(BOB)) == (500, 0)
