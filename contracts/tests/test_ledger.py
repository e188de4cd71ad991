# SPDX-License-Identifier: MIT
"""Random histories of the main contract, with books kept beside it: after every step they agree to the last unit.

NEAR is counted on the users' side (the chain conserves the total, and a contract's share of gas is not its ledger),
the stablecoin on the contract's. Whoever acts chooses the sizes and the gas: inputs up to what a transaction carries,
outputs up to what a callback delivers and beyond, as little gas as a request can be made with, an operator that
answers twice or never, a contract that has nearly nothing of its own. Longer runs: OUTLAYER_LEDGER_EXAMPLES=200.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
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
from main_world import (
    ARTIFACTS,
    BASE_FEE,
    BYTE,
    COST,
    MAIN,
    MINTED,
    OPERATOR,
    PAYMENT,
    PAYMENT_KEY,
    USED,
    USERS,
    World,
    data_id,
    deployed,
    wasm_url,
)

from outlayer_localnet.testing import NEAR, TGAS, TxResult
from outlayer_near.primitives import DeployContract, FunctionCall, Transfer

EXAMPLES = int(os.environ.get("OUTLAYER_LEDGER_EXAMPLES", "4"))
DEVELOPER = "alice.test"
YIELD_BLOCKS = 200
REPO = {"Repo": {"repo": "github.com/alice/app", "branch": None}}
users = st.sampled_from(USERS)
amounts = st.integers(1, MINTED // 50)
nonces = st.sampled_from([1, 2])
# short ones, those that only the state holds, and a neighbour that nobody wants
input_sizes = st.sampled_from([0, 0, 900, 12_000, 400_000])
output_sizes = st.sampled_from([10, 10, 3_000, 100_000, 249_998, 260_000])
request_gas = st.sampled_from([50, 56, 62, 80, 200])
# bytes of a request's record beside its input, at most
MOST_RECORD = 2_000
# what the contract has beside its stake, in NEAR
free_balances = st.sampled_from([1.01, 2, 90])


@dataclass
class Open:
    """A transaction that waits for the operator, and what the chain holds of its signer's NEAR for its gas."""

    who: str
    sent: TxResult
    since: int
    reserved: int


@dataclass
class Request(Open):
    payer: str
    usd: int
    payment: int
    owner: str
    size: int


@dataclass
class Task(Open):
    """Of a payment key. ``amount``: tokens of a top-up; None for a deletion."""

    event: dict[str, Any]
    owner: str
    nonce: int
    amount: int | None


class Ledger(RuleBasedStateMachine):
    world: World
    # yoctoNEAR that a payment key's entry holds for the task that it may have
    slot: int
    # read once: an upgrade to the same code
    code: bytes

    @initialize(free=free_balances)
    def begin(self, free: float) -> None:
        chain = self.world.chain
        chain.restore("deployed")
        surplus = self.free() - int(free * NEAR)
        if surplus > 0:
            chain.send(self.world.accounts[MAIN], "test", [Transfer(surplus)])
        self.least = int(chain.account(MAIN)["amount"])
        self.held = 0
        self.heads: dict[str, int] = {}
        self.near = {user: self.world.chain.balance(user) for user in USERS}
        self.tokens = dict.fromkeys(USERS, MINTED)
        self.usd = dict.fromkeys(USERS, 0)
        self.earned = dict.fromkeys(USERS, 0)
        self.top_ups = 0
        self.fees = 0
        self.executions = 0
        self.requests: dict[int, Request] = {}
        self.tasks: dict[tuple[str, int], Task] = {}
        self.secrets: dict[tuple[str, str, str], int] = {}
        self.projects = {"alice.test/app": DEVELOPER}
        self.offers: dict[str, str] = {}

    # -- the two sides ---------------------------------------------------------------------------------

    def did(self, who: str, result: TxResult, *, costs: int = 0) -> None:
        """A user's finished transaction: its gas, and what it moved beside it."""
        assert result.failure is None, result.failure
        self.near[who] -= result.tokens_burnt + costs

    def by_the_contract(self, result: TxResult) -> None:
        """A transaction that the contract's own account signed: its gas is what it may spend."""
        self.least -= result.tokens_burnt

    def height(self) -> int:
        return self.world.chain.height

    def free(self) -> int:
        """The contract's NEAR that the protocol does not lock for its state."""
        account = self.world.chain.account(MAIN)
        return int(account["amount"]) - account["storage_usage"] * BYTE

    def stores(self, who: str, act: Callable[[], TxResult], *, slots: int = 0) -> int:
        """A call that changes what is stored: who makes it pays for what it changes, to the byte. Gives the price."""
        before = self.world.chain.account(MAIN)["storage_usage"]
        result = act()
        grown = self.world.chain.account(MAIN)["storage_usage"] - before
        cost = grown * BYTE + slots * self.slot
        self.held += cost
        self.did(who, result, costs=cost)
        return cost

    def opened(self, who: str, deposit: int, sent: TxResult) -> tuple[TxResult, int, int]:
        """When the first receipts are through: what is reserved for gas stays the same until the end."""
        for _ in range(3):
            self.world.chain.produce_block()
        balance = self.world.chain.balance(who)
        self.near[who] -= deposit
        return sent, self.height(), self.near[who] - self._reserved(who) - balance

    def _reserved(self, who: str) -> int:
        waiting: list[Open] = [*self.requests.values(), *self.tasks.values()]
        return sum(item.reserved for item in waiting if item.who == who)

    def closed(self, item: Open) -> TxResult:
        final = self.world.final(item.sent)
        self.near[item.who] -= final.tokens_burnt
        return final

    @invariant()
    def near_is_exact(self) -> None:
        for user, expected in self.near.items():
            assert self.world.chain.balance(user) == expected - self._reserved(user), user

    @invariant()
    def the_stablecoin_is_exact(self) -> None:
        world = self.world
        for user in USERS:
            assert world.tokens(user) == self.tokens[user]
            assert world.usd(user) == self.usd[user]
            assert world.earnings(user) == self.earned[user]
        attached = sum(request.usd for request in self.requests.values())
        waiting = sum(task.amount or 0 for task in self.tasks.values())
        inside = sum(self.usd.values()) + sum(self.earned.values()) + attached + waiting + self.top_ups
        assert world.tokens(MAIN) == inside
        assert inside + sum(self.tokens.values()) == len(USERS) * MINTED

    @invariant()
    def the_contract_says_the_same(self) -> None:
        world = self.world
        assert sorted(world.pending()) == sorted(self.requests)
        assert world.view("get_stats") == [self.executions, str(self.fees)]
        for user in USERS:
            deposits = {
                (user, json.dumps(item["accessor"]), item["profile"]): int(item["storage_deposit"])
                for item in world.view("list_user_secrets", account_id=user)
            }
            assert deposits == {key: held for key, held in self.secrets.items() if key[0] == user}
            owned = {item["project_id"] for item in world.view("list_user_projects", account_id=user)}
            assert owned == {name for name, owner in self.projects.items() if owner == user}

    @invariant()
    def the_contract_can_pay_what_it_owes(self) -> None:
        """Nothing of its own is ever spent on others, and its stake is covered beside what it owes."""
        payments = sum(request.payment for request in self.requests.values())
        books = self.world.view("get_near_books")
        assert int(books["held_payments"]) == payments
        assert int(books["fees"]) == self.fees
        account = self.world.chain.account(MAIN)
        assert int(account["amount"]) >= self.least + self.held + payments + self.fees
        # what a request occupies while it waits is locked out of its own payment, and free again when it ends
        locked = sum(BYTE * (request.size + MOST_RECORD) for request in self.requests.values())
        assert payments <= self.free() + locked
        assert self.free() > 0

    @invariant()
    def each_stablecoin_unit_is_in_one_pool(self) -> None:
        attached = sum(request.usd for request in self.requests.values())
        assert self.world.view("get_stablecoin_pools") == {
            "users": str(sum(self.usd.values()) + attached),
            "developers": str(sum(self.earned.values())),
            "payment_keys": str(self.top_ups),
            "fees": "0",
        }

    def make_room(self) -> None:
        """Nothing times out between two steps by itself."""
        waiting: list[Open] = [*self.requests.values(), *self.tasks.values()]
        if waiting and self.height() - min(item.since for item in waiting) > YIELD_BLOCKS // 2:
            self.time_out()

    # -- requests --------------------------------------------------------------------------------------

    @rule(who=users, amount=amounts)
    def deposit_usd(self, who: str, amount: int) -> None:
        """Whether a first deposit is taken depends on its sum and on the contract's reserve."""
        result = self.world.pay(who, amount, {"action": "deposit_balance"})
        self.did(who, result, costs=1)
        taken = int(result.json())
        assert taken == amount or (taken == 0 and self.usd[who] == 0)
        self.tokens[who] -= taken
        self.usd[who] += taken

    @rule(
        who=users,
        payer=users,
        usd=st.integers(0, 2_000_000),
        compile_only=st.booleans(),
        size=input_sizes,
        gas=request_gas,
    )
    def request(self, who: str, payer: str, usd: int, compile_only: bool, size: int, gas: int) -> None:
        self.make_room()
        project = "alice.test/app" if "alice.test/app" in self.projects else None
        usd = min(usd, self.usd[who]) if project else 0
        source = {"Project": {"project_id": project}} if project else wasm_url("a")
        size = 0 if compile_only else size
        payment = (PAYMENT if not compile_only else 6 * BASE_FEE) + 2 * size * BYTE
        params = {"attached_usd": str(usd), "compile_only": compile_only}
        args = {"source": source, "resource_limits": {}, "payer_account_id": payer, "params": params}
        account = self.world.accounts[who]
        sent = self.world.chain.call(
            account,
            MAIN,
            "request_execution",
            {**args, "input_data": "x" * size},
            deposit=payment,
            gas=gas * TGAS,
            wait_until="INCLUDED",
        )
        known = set(self.requests)
        for _ in range(3):
            self.world.chain.produce_block()
        fresh = set(self.world.pending()) - known
        if not fresh:  # too little gas: nothing has happened
            failed = self.world.final(sent)
            assert failed.failure is not None
            self.near[who] -= failed.tokens_burnt
            return
        self.usd[who] -= usd
        item = self.opened(who, payment, sent)
        made = Request(who, *item, payer=payer, usd=usd, payment=payment, owner=DEVELOPER, size=size)
        self.requests[fresh.pop()] = made

    def settle(self, number: int, charged: int, refund_usd: int) -> None:
        request = self.requests.pop(number)
        self.executions += 1
        self.fees += charged
        self.near[request.payer] += request.payment - charged
        self.usd[request.who] += refund_usd
        self.earned[request.owner] += request.usd - refund_usd
        self.closed(request)

    @precondition(lambda self: self.requests)
    @rule(
        data=st.data(),
        success=st.booleans(),
        size=output_sizes,
        refund=st.integers(0, 3_000_000),
        twice=st.booleans(),
    )
    def resolve(self, data: Any, success: bool, size: int, refund: int, twice: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.requests)))
        request = self.requests[number]
        args = {"request_id": number, "output": {"Text": "x" * size}, "success": success}
        args |= {"resources_used": USED, "refund_usd": refund}
        method = "submit_execution_output_and_resolve"
        answer = self.world.call(OPERATOR, method, gas=300 * TGAS, **args)
        if answer.failure is not None:
            assert success, "a failure delivers nothing, so its size does not matter"
            assert any(
                words in json.dumps(answer.failure)
                for words in (
                    "a callback delivers at most",
                    "does not pay for an output",
                    "reserve is used up",
                )
            )
            return
        if twice:
            again = self.world.call(OPERATOR, method, gas=300 * TGAS, **args)
            assert "Execution request" in json.dumps(again.failure)
        final = self.world.final(request.sent)
        assert final.json() == ("x" * size if success else None)
        charged = int(self.world.view("get_stats")[1]) - self.fees
        limits = self.world.view("get_size_limits")
        cost = COST if success else BASE_FEE
        if request.size >= 10_000:  # only the state held it
            cost += request.size * int(limits["input_byte_price"])
        if success:
            cost += max(size + 2 - limits["free_output_bytes"], 0) * int(limits["output_byte_price"])
        assert charged == min(cost, request.payment)
        self.settle(number, charged, min(refund, request.usd) if success else request.usd)

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), method=st.sampled_from(["emergency_cancel_execution", "cancel_pending_requests"]))
    def cancel(self, data: Any, method: str) -> None:
        number = data.draw(st.sampled_from(sorted(self.requests)))
        ids: dict[str, Any] = {"request_id": number}
        if method == "cancel_pending_requests":
            ids = {"request_ids": [number]}
        self.by_the_contract(self.world.ok(MAIN, method, **ids))
        request = self.requests.pop(number)
        self.near[request.payer] += request.payment
        self.usd[request.who] += request.usd
        # its yield lives on; what is reserved for it comes back when it ends
        self.world.chain.fast_forward(YIELD_BLOCKS + 10)
        self.closed(request)
        self.all_timed_out()

    @precondition(lambda self: self.requests or self.tasks)
    @rule()
    def time_out(self) -> None:
        self.world.chain.fast_forward(YIELD_BLOCKS + 10)
        self.all_timed_out()

    def all_timed_out(self) -> None:
        for number in list(self.requests):
            request = self.requests[number]
            self.world.final(request.sent)
            self.settle(number, min(BASE_FEE, request.payment), request.usd)
        for key in list(self.tasks):
            self.end_task(key, success=False)

    # -- payment keys ----------------------------------------------------------------------------------

    @precondition(lambda self: self.secrets)
    @rule(data=st.data(), payer=users, amount=st.integers(10_000, 2_000_000))
    def top_up(self, data: Any, payer: str, amount: int) -> None:
        self.make_room()
        free = [key for key in self.key_secrets() if key not in self.tasks]
        if not free:
            return
        owner, nonce = data.draw(st.sampled_from(free))
        sent, event = self.world.top_up(payer, nonce, amount, owner=owner)
        self.tokens[payer] -= amount
        item = self.opened(payer, 1, sent)
        self.tasks[owner, nonce] = Task(payer, *item, event=event, owner=owner, nonce=nonce, amount=amount)

    @precondition(lambda self: self.secrets)
    @rule(data=st.data())
    def delete_key(self, data: Any) -> None:
        self.make_room()
        free = [key for key in self.key_secrets() if key not in self.tasks]
        if not free:
            return
        owner, nonce = data.draw(st.sampled_from(free))
        sent, event = self.world.delete_key(owner, nonce)
        item = self.opened(owner, 1, sent)
        # the yocto stays with the contract: it shows that a full-access key signed
        self.tasks[owner, nonce] = Task(owner, *item, event=event, owner=owner, nonce=nonce, amount=None)

    def key_secrets(self) -> list[tuple[str, int]]:
        kind = json.dumps(PAYMENT_KEY)
        return sorted((owner, int(profile)) for owner, accessor, profile in self.secrets if accessor == kind)

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), success=st.booleans())
    def answer(self, data: Any, success: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.tasks)))
        task = self.tasks[key]
        failed = {"Error": {"message": "no"}}
        if task.amount is None:
            method, done = "resume_delete_payment_key", "Success"
        else:
            # as long as what it replaces: what is longer is the contract's to hold
            text = self.world.secret(task.owner, PAYMENT_KEY, str(task.nonce))["encrypted_secrets"]
            method, done = "resume_topup", {"Success": {"new_encrypted_data": "y" * len(text)}}
        result = done if success else failed
        self.world.ok(OPERATOR, method, data_id=data_id(task.event), result=result)
        self.end_task(key, success=success)

    def end_task(self, key: tuple[str, int], *, success: bool) -> None:
        task = self.tasks.pop(key)
        final = self.closed(task)
        secret = (task.owner, json.dumps(PAYMENT_KEY), str(task.nonce))
        if task.amount is None:
            assert final.json() is success
            if success:
                self.freed(secret)
        elif success:
            assert final.json() == str(task.amount)
            self.top_ups += task.amount
            self.secrets[secret] = self.deposit(*secret)
        else:
            assert final.json() == "0"
            self.tokens[task.who] += task.amount

    @rule(who=users)
    def withdraw(self, who: str) -> None:
        result = self.world.call(who, "withdraw_developer_earnings", 1)
        if self.earned[who] == 0:
            assert result.failure is not None
            self.near[who] -= result.tokens_burnt
            return
        self.did(who, result, costs=1)
        self.tokens[who] += self.earned[who]
        self.earned[who] = 0

    # -- secrets and projects --------------------------------------------------------------------------

    def deposit(self, owner: str, accessor: str, profile: str) -> int:
        """What an entry says that it holds."""
        return int(self.world.secret(owner, json.loads(accessor), profile)["storage_deposit"])

    def freed(self, name: tuple[str, str, str]) -> None:
        """An entry is gone: its owner has what it held, and with the last one what the list needed."""
        owner = name[0]
        back = self.secrets.pop(name)
        if not any(other == owner for other, _, _ in self.secrets):
            back += self.heads.pop(owner)
        self.near[owner] += back
        self.held -= back

    @rule(who=users, nonce=nonces, key=st.booleans(), size=st.integers(1, 400), wide=st.integers(0, 5))
    def store_secret(self, who: str, nonce: int, key: bool, size: int, wide: int) -> None:
        if key and (who, nonce) in self.tasks:
            return
        accessor: Any = PAYMENT_KEY if key else REPO
        access: Any = {"Whitelist": {"accounts": list(USERS) * wide}} if wide else "AllowAll"
        name = (who, json.dumps(accessor), str(nonce))
        new = name not in self.secrets
        first = not any(other == who for other, _, _ in self.secrets)
        cost = self.stores(
            who,
            lambda: self.world.store(who, accessor, str(nonce), "x" * size, access),
            slots=int(new and key),
        )
        self.secrets[name] = self.deposit(*name)
        if first:
            self.heads[who] = cost - self.secrets[name]

    @precondition(lambda self: self.secrets)
    @rule(data=st.data(), wide=st.integers(0, 9))
    def update_access(self, data: Any, wide: int) -> None:
        owner, accessor, profile = name = data.draw(st.sampled_from(sorted(self.secrets)))
        if json.loads(accessor) == PAYMENT_KEY and (owner, int(profile)) in self.tasks:
            return
        access: Any = {"Whitelist": {"accounts": list(USERS) * wide}} if wide else "AllowAll"
        args = {"accessor": json.loads(accessor), "profile": profile, "new_access": access}
        self.stores(owner, lambda: self.world.ok(owner, "update_access", NEAR, **args))
        self.secrets[name] = self.deposit(*name)

    @precondition(lambda self: self.secrets)
    @rule(data=st.data())
    def delete_secret(self, data: Any) -> None:
        owner, accessor, profile = name = data.draw(st.sampled_from(sorted(self.secrets)))
        key = json.loads(accessor) == PAYMENT_KEY
        if key and (owner, int(profile)) in self.tasks:
            return
        args = {"accessor": json.loads(accessor), "profile": profile}
        back = -self.stores(owner, lambda: self.world.ok(owner, "delete_secrets", **args), slots=-int(key))
        entry = self.secrets.pop(name)
        last = not any(other == owner for other, _, _ in self.secrets)
        assert back == entry + (self.heads.pop(owner) if last else 0)

    @rule(who=users, name=st.sampled_from(["p", "q"]))
    def create_project(self, who: str, name: str) -> None:
        project = f"{who}/{name}"
        if project in self.projects:
            return
        self.stores(who, lambda: self.world.ok(who, "create_project", NEAR, name=name, source=wasm_url("b")))
        self.projects[project] = who

    @precondition(lambda self: self.projects)
    @rule(data=st.data())
    def delete_project(self, data: Any) -> None:
        project = data.draw(st.sampled_from(sorted(self.projects)))
        owner = self.projects.pop(project)
        self.offers.pop(project, None)
        name = project.split("/")[1]
        self.stores(owner, lambda: self.world.ok(owner, "delete_project", project_name=name))

    @precondition(lambda self: self.projects)
    @rule(data=st.data(), to=users)
    def offer_project(self, data: Any, to: str) -> None:
        project = data.draw(st.sampled_from(sorted(self.projects)))
        owner = self.projects[project]
        if owner == to:
            return
        args = {"project_name": project.split("/")[1], "new_owner": to}
        self.did(owner, self.world.ok(owner, "transfer_project", **args))
        self.offers[project] = to

    @precondition(lambda self: self.offers)
    @rule(data=st.data())
    def accept_project(self, data: Any) -> None:
        project = data.draw(st.sampled_from(sorted(self.offers)))
        to = self.offers[project]
        target = f"{to}/{project.split('/')[1]}"
        if target in self.projects:
            return
        owner, before = self.projects[project], self.world.chain.balance(self.projects[project])
        cost = self.stores(to, lambda: self.world.ok(to, "accept_project", NEAR, project_id=project))
        # what the old owner's list needed goes back to who paid for it, so the new one pays that as well
        back = self.world.chain.balance(owner) - before
        assert 0 <= back <= NEAR // 100, (cost, back)
        self.near[owner] += back
        self.near[to] -= back
        del self.offers[project], self.projects[project]
        self.projects[target] = to

    @rule()
    def upgrade(self) -> None:
        code = DeployContract(self.code)
        result = self.world.chain.send(
            self.world.accounts[MAIN], MAIN, [code, FunctionCall("migrate", b"{}", 200 * TGAS, 0)]
        )
        assert result.failure is None
        self.by_the_contract(result)


def slot_of_a_task(world: World) -> int:
    """What the price of a payment key holds beyond what its entry occupies: room for the task that it may have."""
    world.store(OPERATOR, REPO)
    before = world.chain.account(MAIN)["storage_usage"]
    world.make_key(OPERATOR)
    occupied = (world.chain.account(MAIN)["storage_usage"] - before) * BYTE
    slot = int(world.secret(OPERATOR, PAYMENT_KEY, "1")["storage_deposit"]) - occupied
    assert 0 < slot < NEAR // 100
    return slot


@pytest.fixture(scope="module")
def world() -> Any:
    with deployed() as made, contextlib.suppress(GeneratorExit):
        yield made


@pytest.mark.timeout(60 + 60 * EXAMPLES)
def test_every_unit_of_near_and_stablecoin_is_accounted_for_after_every_step(world: World) -> None:
    class Machine(Ledger):
        pass

    Machine.world = world
    Machine.slot = slot_of_a_task(world)
    Machine.code = (ARTIFACTS / "outlayer.wasm").read_bytes()
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
