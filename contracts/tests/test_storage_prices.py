# SPDX-License-Identifier: MIT
"""Storage is paid by who uses it: random histories of all calls that keep something for a user.

After every step what the contract occupies is what it occupied at first and what users hold deposits for, and what each
user has spent beside gas is what is held for them. Longer runs: OUTLAYER_STORAGE_EXAMPLES=100.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from main_world import ARTIFACTS, BYTE, MAIN, PAYMENT_KEY, World, deployed

from outlayer_localnet.testing import NEAR, TGAS, TxResult
from outlayer_near.models import secrets as models
from outlayer_near.primitives import DeployContract, FunctionCall

EXAMPLES = int(os.environ.get("OUTLAYER_STORAGE_EXAMPLES", "3"))
STEPS = 40
LONGEST = "l" * 59 + ".test"
PEOPLE = ("alice.test", "b.test", LONGEST)
SLOT = 64
UUID = 17
DEPOSIT = 3 * NEAR
WIDE = {"Whitelist": {"accounts": ["alice.test"]}}
OLD_MAIN = Path(__file__).parent / "fixtures" / "outlayer-v2.wasm"

people = st.sampled_from(PEOPLE)
names = st.sampled_from(["p", "q" * 64])
profiles = st.sampled_from(["1", "7", "22", str(2**32 - 1)])
ciphertexts = st.integers(1, 3_000).map(lambda size: "c" * size)
accessors: st.SearchStrategy[Any] = st.one_of(
    st.just(PAYMENT_KEY),
    st.just({"WasmHash": {"hash": "ab" * 32}}),
    st.integers(1, 1_900).map(lambda size: {"Repo": {"repo": "r" * size, "branch": None}}),
    st.integers(1, 255).map(lambda size: {"Repo": {"repo": "r", "branch": "b" * size}}),
)
leaves: st.SearchStrategy[Any] = st.one_of(
    st.just("AllowAll"),
    st.integers(1, 60).map(lambda count: {"Whitelist": {"accounts": [f"{n:040}" for n in range(count)]}}),
    st.integers(1, 256).map(lambda size: {"AccountPattern": {"pattern": "ä" * (size // 2) or "x"}}),
    st.just({"FtBalance": {"contract": "usdc.test", "operator": "Lt", "value": str(2**128 - 1)}}),
    st.just({"NftOwned": {"contract": "nft.test", "token_id": None}}),
    st.just({"NftOwned": {"contract": "nft.test", "token_id": "t" * 256}}),
    st.just({"DaoMember": {"dao_contract": "dao.test", "role": "r" * 256}}),
)
conditions: st.SearchStrategy[Any] = st.recursive(
    leaves,
    lambda inner: st.one_of(
        inner.map(lambda one: {"Not": {"condition": one}}),
        st.lists(inner, min_size=1, max_size=4).map(
            lambda some: {"Logic": {"operator": "Or", "conditions": some}}
        ),
    ),
    max_leaves=6,
)
targets = st.sampled_from([None, "wasm32-wasip1"])
sources: st.SearchStrategy[Any] = st.one_of(
    st.builds(
        lambda size, digit, target: {"GitHub": {"repo": "r" * size, "commit": digit, "build_target": target}},
        st.sampled_from([1, 60, 1_900]),
        st.sampled_from("ab"),
        targets,
    ),
    st.builds(
        lambda digit, target: {
            "WasmUrl": {"url": "https://x.test", "hash": digit * 64, "build_target": target}
        },
        st.sampled_from("ab"),
        targets,
    ),
)


def text(value: str) -> int:
    return 4 + len(value.encode())


def list_item(name: str, item: int) -> int:
    return (40 + 1 + text(name) + 4) + item + (40 + 1 + text(name) + 16) + 4


def list_head(name: str) -> int:
    return 40 + 1 + text(name) + 8


def version_key(source: dict[str, Any]) -> str:
    [(kind, members)] = source.items()
    return str(members["hash"]) if kind == "WasmUrl" else f"{members['repo']}@{members['commit']}"


def version_bytes(source: dict[str, Any]) -> int:
    [members] = source.values()
    texts = [value for name, value in members.items() if name != "build_target"]
    target = members["build_target"]
    value = 1 + sum(map(text, texts)) + 1 + (text(target) if target else 0) + 8 + 16
    return 40 + 1 + 4 + UUID + 1 + SLOT + value + list_item("u" * UUID, SLOT)


class Storage(RuleBasedStateMachine):
    world: World

    @initialize()
    def begin(self) -> None:
        self.world.chain.restore("people")
        self.usage = self.world.chain.account(MAIN)["storage_usage"]
        self.start = {who: self.world.chain.balance(who) for who in PEOPLE}
        self.gas = dict.fromkeys(PEOPLE, 0)
        # what somebody has paid for a project that is another's now
        self.given = dict.fromkeys(PEOPLE, 0)
        self.secrets: dict[tuple[str, str, str], tuple[str, Any]] = {}
        self.projects: dict[str, dict[str, Any]] = {}
        self.active: dict[str, str] = {}
        self.offers: dict[str, str] = {}

    # -- books -----------------------------------------------------------------------------------------

    def spent(self, who: str) -> int:
        return self.start[who] - self.world.chain.balance(who) - self.gas[who]

    def project_held(self, project: str) -> int:
        found = self.world.view("get_project", project_id=project)
        versions = sum(version_bytes(source) for source in self.projects[project].values())
        return int(found["storage_deposit"]) + BYTE * (versions + list_head("u" * UUID))

    def held(self, who: str) -> int:
        secrets = self.world.view("list_user_secrets", account_id=who)
        projects = [project for project in self.projects if project.startswith(f"{who}/")]
        heads = bool(secrets) + bool(projects)
        return (
            sum(int(secret["storage_deposit"]) for secret in secrets)
            + sum(map(self.project_held, projects))
            + BYTE * heads * list_head(who)
        )

    @invariant()
    def what_is_held_is_what_is_occupied_and_what_was_spent(self) -> None:
        held = {who: self.held(who) for who in PEOPLE}
        for who in PEOPLE:
            assert self.spent(who) == held[who] + self.given[who], who
        keys = sum(json.loads(accessor) == PAYMENT_KEY for _, accessor, _ in self.secrets)
        occupied = self.world.chain.account(MAIN)["storage_usage"] - self.usage
        assert sum(held.values()) == BYTE * (occupied + keys * models.PAYMENT_KEY_TASK_BYTES)

    @invariant()
    def every_list_says_what_is_there(self) -> None:
        for who in PEOPLE:
            listed = self.world.view("list_user_secrets", account_id=who)
            found = {(who, json.dumps(item["accessor"]), item["profile"]) for item in listed}
            assert len(found) == len(listed)
            assert found == {key for key in self.secrets if key[0] == who}
            ids = [item["project_id"] for item in self.world.view("list_user_projects", account_id=who)]
            assert sorted(ids) == sorted(name for name in self.projects if name.startswith(f"{who}/"))
        for project, versions in self.projects.items():
            rows = self.world.view("list_versions", project_id=project)
            assert {row["wasm_hash"] for row in rows} == set(versions)
            assert [row["wasm_hash"] for row in rows if row["is_active"]] == [self.active[project]]
            assert (
                self.world.view("get_project", project_id=project)["active_version"] == self.active[project]
            )

    def call(self, who: str, method: str, deposit: int = 0, **args: Any) -> TxResult:
        result = self.world.call(who, method, deposit, 300 * TGAS, **args)
        self.gas[who] += result.tokens_burnt
        return result

    def ok(self, who: str, method: str, deposit: int = 0, **args: Any) -> TxResult:
        result = self.call(who, method, deposit, **args)
        assert result.failure is None, result.failure
        return result

    # -- secrets ---------------------------------------------------------------------------------------

    @rule(who=people, accessor=accessors, profile=profiles, text=ciphertexts, access=conditions)
    def store(self, who: str, accessor: Any, profile: str, text: str, access: Any) -> None:
        args = {"accessor": accessor, "profile": profile, "encrypted_secrets_base64": text, "access": access}
        name = (who, json.dumps(accessor), profile)
        price = int(self.world.view("estimate_storage_cost", owner=who, **args))
        held = 0
        if name in self.secrets:
            found = self.world.view("get_secrets", accessor=accessor, profile=profile, owner=who)
            held = int(found["storage_deposit"])
        exact = max(0, price - held)
        if exact:
            assert self.call(who, "store_secrets", exact - 1, **args).failure is not None
        self.ok(who, "store_secrets", exact, **args)
        self.secrets[name] = (text, access)

    @precondition(lambda self: self.secrets)
    @rule(data=st.data(), access=conditions)
    def update(self, data: Any, access: Any) -> None:
        who, accessor, profile = name = data.draw(st.sampled_from(sorted(self.secrets)))
        args = {"accessor": json.loads(accessor), "profile": profile, "new_access": access}
        self.ok(who, "update_access", DEPOSIT, **args)
        self.secrets[name] = (self.secrets[name][0], access)

    @precondition(lambda self: self.secrets)
    @rule(data=st.data())
    def delete(self, data: Any) -> None:
        who, accessor, profile = name = data.draw(st.sampled_from(sorted(self.secrets)))
        self.ok(who, "delete_secrets", accessor=json.loads(accessor), profile=profile)
        del self.secrets[name]

    # -- projects --------------------------------------------------------------------------------------

    @rule(who=people, name=names, source=sources)
    def create(self, who: str, name: str, source: Any) -> None:
        project = f"{who}/{name}"
        result = self.call(who, "create_project", DEPOSIT, name=name, source=source)
        assert (result.failure is not None) == (project in self.projects)
        if project not in self.projects:
            self.projects[project] = {version_key(source): source}
            self.active[project] = version_key(source)

    def some_project(self, data: Any) -> tuple[str, str, str]:
        project = data.draw(st.sampled_from(sorted(self.projects)))
        who, name = project.split("/")
        return project, who, name

    def some_version(self, data: Any, project: str) -> str:
        return str(data.draw(st.sampled_from(sorted(self.projects[project]))))

    @precondition(lambda self: self.projects)
    @rule(data=st.data(), source=sources, active=st.booleans())
    def add(self, data: Any, source: Any, active: bool) -> None:
        project, who, name = self.some_project(data)
        args = {"project_name": name, "source": source, "set_active": active}
        result = self.call(who, "add_version", DEPOSIT, **args)
        assert (result.failure is not None) == (version_key(source) in self.projects[project])
        if result.failure is None:
            self.projects[project][version_key(source)] = source
            if active:
                self.active[project] = version_key(source)

    @precondition(lambda self: self.projects)
    @rule(data=st.data())
    def activate(self, data: Any) -> None:
        project, who, name = self.some_project(data)
        key = self.some_version(data, project)
        self.ok(who, "set_active_version", project_name=name, version_key=key)
        self.active[project] = key

    @precondition(lambda self: self.projects)
    @rule(data=st.data())
    def remove(self, data: Any) -> None:
        project, who, name = self.some_project(data)
        key = self.some_version(data, project)
        result = self.call(who, "remove_version", project_name=name, version_key=key)
        assert (result.failure is not None) == (key == self.active[project])
        if result.failure is None:
            del self.projects[project][key]

    @precondition(lambda self: self.projects)
    @rule(data=st.data())
    def drop(self, data: Any) -> None:
        project, who, name = self.some_project(data)
        self.ok(who, "delete_project", project_name=name)
        self.offers.pop(project, None)
        del self.projects[project], self.active[project]

    @precondition(lambda self: self.projects)
    @rule(data=st.data(), to=people, cancels=st.booleans())
    def offer(self, data: Any, to: str, cancels: bool) -> None:
        project, who, name = self.some_project(data)
        if to == who:
            return
        self.ok(who, "transfer_project", project_name=name, new_owner=to)
        self.offers[project] = to
        if cancels:
            self.ok(who, "cancel_project_transfer", project_name=name)
            del self.offers[project]

    @precondition(lambda self: self.offers)
    @rule(data=st.data())
    def accept(self, data: Any) -> None:
        project = data.draw(st.sampled_from(sorted(self.offers)))
        who, name = project.split("/")
        to = self.offers[project]
        target = f"{to}/{name}"
        if target in self.projects:
            return
        held = self.project_held(project)
        self.ok(to, "accept_project", DEPOSIT, project_id=project)
        self.projects[target] = self.projects.pop(project)
        self.active[target] = self.active.pop(project)
        del self.offers[project]
        self.given[who] += held
        self.given[to] -= held

    def teardown(self) -> None:
        """All of it comes back."""
        if not hasattr(self, "projects"):
            return
        for who, accessor, profile in list(self.secrets):
            self.ok(who, "delete_secrets", accessor=json.loads(accessor), profile=profile)
        for project in list(self.projects):
            who, name = project.split("/")
            self.ok(who, "delete_project", project_name=name)
        for who in PEOPLE:
            assert self.spent(who) == self.given[who], who
        assert self.world.chain.account(MAIN)["storage_usage"] == self.usage


def run(machine: type[RuleBasedStateMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@contextlib.contextmanager
def people_of(main: Path) -> Iterator[World]:
    with deployed(main) as world:
        world.ok("alice.test", "delete_project", project_name="app")
        for who in PEOPLE:
            if who not in world.accounts:
                world.accounts[who] = world.chain.create_account(who, 100 * NEAR)
        world.chain.snapshot("people")
        yield world


@pytest.mark.timeout(60 + 60 * EXAMPLES)
def test_what_is_occupied_is_held_and_spent_after_every_step() -> None:
    with people_of(ARTIFACTS / "outlayer.wasm") as world:

        class Machine(Storage):
            pass

        Machine.world = world
        run(Machine)


# -- what an earlier version of the state holds -----------------------------------------------------------


class Upgraded(Storage):
    """Begins under the state's version 2, which charged by formulas; some time later this code takes over."""

    upgraded = False

    @initialize()
    def begin(self) -> None:
        super().begin()
        self.upgraded = False

    @precondition(lambda self: not self.upgraded)
    @rule(now=st.sampled_from([False, False, True]))
    def upgrade(self, now: bool) -> None:
        if now:
            self.take_over()

    def take_over(self) -> None:
        before = [self.deposits(who) for who in PEOPLE]
        code = DeployContract((ARTIFACTS / "outlayer.wasm").read_bytes())
        actions = [code, FunctionCall("migrate", b"{}", 200 * TGAS, 0)]
        result = self.world.chain.send(self.world.accounts[MAIN], MAIN, actions)
        assert result.failure is None
        self.upgraded = True
        assert [self.deposits(who) for who in PEOPLE] == before

    def deposits(self, who: str) -> dict[str, str]:
        secrets = self.world.view("list_user_secrets", account_id=who)
        projects = self.world.view("list_user_projects", account_id=who)
        held = {json.dumps(item["accessor"]) + item["profile"]: item["storage_deposit"] for item in secrets}
        return held | {item["project_id"]: item["storage_deposit"] for item in projects}

    @invariant()
    def what_is_held_is_what_is_occupied_and_what_was_spent(self) -> None:
        """The formulas differ from what is occupied; each user's account is settled at the end."""

    @rule(who=people, accessor=accessors, profile=profiles, text=ciphertexts, access=conditions)
    def store(self, who: str, accessor: Any, profile: str, text: str, access: Any) -> None:
        args = {"accessor": accessor, "profile": profile, "encrypted_secrets_base64": text, "access": access}
        self.ok(who, "store_secrets", DEPOSIT, **args)
        self.secrets[who, json.dumps(accessor), profile] = (text, access)

    def project_held(self, project: str) -> int:
        """What was paid for a project moves with it: users' sums agree in all."""
        return 0

    def teardown(self) -> None:
        if not hasattr(self, "projects"):
            return
        if not self.upgraded:
            self.take_over()
        usage = self.world.chain.account(MAIN)["storage_usage"]
        for who, accessor, profile in list(self.secrets):
            self.ok(who, "delete_secrets", accessor=json.loads(accessor), profile=profile)
        for project in list(self.projects):
            who, name = project.split("/")
            self.ok(who, "delete_project", project_name=name)
        assert sum(self.spent(who) for who in PEOPLE) == 0
        moved = any(self.moves.values())
        assert moved or all(self.spent(who) == 0 for who in PEOPLE)
        code = (ARTIFACTS / "outlayer.wasm").stat().st_size - OLD_MAIN.stat().st_size
        left = self.world.chain.account(MAIN)["storage_usage"] - self.usage - code
        assert 0 <= left < 600, "the state's own record has grown, and nothing else is left"
        assert self.world.chain.account(MAIN)["storage_usage"] <= usage

    @precondition(lambda self: self.offers)
    @rule(data=st.data())
    def accept(self, data: Any) -> None:
        if not self.upgraded:
            return
        before = dict(self.projects)
        super().accept(data)
        for project in before.keys() - self.projects.keys():
            self.moves[project] = True

    @property
    def moves(self) -> dict[str, bool]:
        return self.__dict__.setdefault("_moves", {})


@pytest.mark.timeout(60 + 60 * EXAMPLES)
def test_nobody_gains_or_loses_by_the_new_prices() -> None:
    with people_of(OLD_MAIN) as world:

        class Machine(Upgraded):
            pass

        Machine.world = world
        run(Machine)


def test_of_an_old_secret_only_the_change_is_charged() -> None:
    who, name = "b.test", {"accessor": {"WasmHash": {"hash": "ab" * 32}}, "profile": "p"}
    stored = {**name, "encrypted_secrets_base64": "c" * 100, "access": "AllowAll"}
    with people_of(OLD_MAIN) as world:

        def held() -> int:
            return int(world.view("get_secrets", owner=who, **name)["storage_deposit"])

        world.ok(who, "store_secrets", DEPOSIT, **stored)
        first = held()
        code = DeployContract((ARTIFACTS / "outlayer.wasm").read_bytes())
        actions = [code, FunctionCall("migrate", b"{}", 200 * TGAS, 0)]
        assert world.chain.send(world.accounts[MAIN], MAIN, actions).failure is None
        # the same again needs nothing, and what is longer pays for its bytes
        world.ok(who, "store_secrets", **stored)
        world.ok(who, "update_access", **name, new_access="AllowAll")
        assert held() == first
        longer = {**stored, "encrypted_secrets_base64": "c" * 130}
        assert int(world.view("estimate_storage_cost", owner=who, **longer)) == first + 30 * BYTE
        world.refused(who, "store_secrets", "Insufficient deposit for update", 30 * BYTE - 1, **longer)
        world.ok(who, "store_secrets", 30 * BYTE, **longer)
        assert held() == first + 30 * BYTE
        before = world.chain.balance(who)
        wide = world.ok(who, "update_access", DEPOSIT, **name, new_access=WIDE)
        assert before - world.chain.balance(who) - wide.tokens_burnt == BYTE * (4 + 4 + 10)
        before = world.chain.balance(who)
        gone = world.ok(who, "delete_secrets", **name)
        assert world.chain.balance(who) - before + gone.tokens_burnt == first + BYTE * (30 + 18)
