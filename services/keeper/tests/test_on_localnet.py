# SPDX-License-Identifier: MIT
"""The keeper against the real register contract on a real node: what no longer counts has no access key any more."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from outlayer_attestation import testing as platforms
from outlayer_attestation.platform.machine import SoftwarePlatform
from outlayer_attestation.record import registration_report_data
from outlayer_attestation.testing import MEASUREMENTS, NOW, Faults
from outlayer_keeper import rounds as rounds_module
from outlayer_keeper import service as service_module
from outlayer_keeper.budget import Budget
from outlayer_keeper.config import YOCTO, Config
from outlayer_keeper.contracts import DaoContract, RegisterContract
from outlayer_keeper.errors import BudgetSpentError, NoProgressError
from outlayer_keeper.metrics import Metrics
from outlayer_keeper.rounds import Rounds
from outlayer_keeper.service import Keeper
from outlayer_localnet.testing import NEAR, TGAS, Localnet, TestAccount, clock_from, localnet
from outlayer_near.calls import dao as on_dao
from outlayer_near.calls import register as on_register
from outlayer_near.credentials import Credentials, save_credentials
from outlayer_near.errors import RpcUnavailableError
from outlayer_near.models import AddMember
from outlayer_near.primitives import FunctionCall, KeyPair
from outlayer_near.rpc import NearRpc
from outlayer_near.sender import Sender
from outlayer_near.views import DaoViews

ARTIFACTS = Path(__file__).parents[3] / "contracts" / "artifacts"
REGISTER, INIT, OWNER, KEEPER = "worker.test", "init.test", "owner.test", "keeper.test"
TTL = 3_600
CONTRACT = RegisterContract(REGISTER)


@dataclass
class World:
    """A chain with the register contract, its owner, who pays registrations, and the keeper's account."""

    chain: Localnet
    platform: SoftwarePlatform
    accounts: dict[str, TestAccount] = field(default_factory=dict)

    def own(self, method: str, **args: Any) -> Any:
        result = self.chain.call(self.accounts[OWNER], REGISTER, method, args, gas=300 * TGAS)
        assert result.failure is None, result.failure
        return json.loads(result.value) if result.value else None

    def register(self) -> str:
        """A new key, registered now."""
        key = str(KeyPair.generate().public_key)
        quote = self.platform.quote(MEASUREMENTS, registration_report_data(key))
        action = on_register.register_worker_key(key, quote)
        answer = self.chain.send(self.accounts[INIT], REGISTER, [action])
        assert answer.json()["status"] == "approved", answer.json()
        self.chain.produce_block()
        assert self.has_access_key(key)
        return key

    def has_access_key(self, key: str) -> bool:
        keys = self.chain.query("view_access_key_list", account_id=REGISTER)["keys"]
        return any(item["public_key"] == key for item in keys)

    def later(self, seconds: int) -> None:
        self.chain.set_time(seconds)
        self.chain.produce_block()

    def keeper_spent(self) -> int:
        return 100 * NEAR - self.chain.balance(KEEPER)


@pytest.fixture(scope="module")
def prepared() -> Iterator[World]:
    platform = platforms.platform()
    with localnet(clock=clock_from(NOW)) as chain:
        world = World(chain, platform)
        for name in (REGISTER, INIT, OWNER, KEEPER):
            world.accounts[name] = chain.create_account(name, 100 * NEAR)
        new = on_register.new(
            OWNER, INIT, "outlayer.test", root_ca_der=platform.root_der, key_ttl_seconds=TTL
        )
        chain.deploy(world.accounts[REGISTER], ARTIFACTS / "register.wasm")
        assert chain.send(world.accounts[REGISTER], REGISTER, [new]).failure is None
        world.own("add_measurement_set", measurements=MEASUREMENTS.to_json(), name="worker")
        world.own("update_collateral", collateral=platforms.collateral_with(platform, Faults()).to_text())
        chain.snapshot("ready")
        yield world


@pytest.fixture
def world(prepared: World) -> World:
    prepared.chain.restore("ready")
    return prepared


@pytest.fixture
async def rpc(world: World) -> AsyncIterator[NearRpc]:
    async with NearRpc(world.chain.rpc_url) as client:
        yield client


@pytest.fixture
def metrics() -> Metrics:
    metrics = Metrics()
    metrics.watch(CONTRACT.name)
    return metrics


@pytest.fixture
def rounds(world: World, rpc: NearRpc, metrics: Metrics) -> Rounds:
    sender = Sender(rpc, KEEPER, world.accounts[KEEPER].key)
    return Rounds(rpc, sender, Budget(YOCTO), metrics)


def shown(metrics: Metrics, name: str) -> float | None:
    return metrics.registry.get_sample_value(f"outlayer_keeper_{name}", {"contract": CONTRACT.name})


async def test_an_expired_keys_access_key_is_gone_after_a_round(
    world: World, rounds: Rounds, metrics: Metrics
) -> None:
    old = world.register()
    world.later(TTL // 2)
    young = world.register()
    world.later(TTL // 2)
    wait = await rounds.clear(CONTRACT)
    assert not world.has_access_key(old)
    assert world.has_access_key(young)
    assert wait is not None
    assert TTL // 2 - 60 < wait <= TTL // 2
    assert (shown(metrics, "keys_removed_total"), shown(metrics, "invalid_keys")) == (1, 0)


async def test_nothing_is_spent_while_every_key_counts(world: World, rounds: Rounds) -> None:
    key = world.register()
    for _ in range(3):
        await rounds.clear(CONTRACT)
    assert world.has_access_key(key)
    assert world.keeper_spent() == 0


async def test_a_contract_without_keys_is_left_alone(world: World, rounds: Rounds) -> None:
    assert await rounds.clear(CONTRACT) is None
    assert world.keeper_spent() == 0


async def test_keys_of_a_set_that_ended_are_taken_away_by_several_calls(
    world: World, rounds: Rounds, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds_module, "MOST_KEYS", 2)
    keys = [world.register() for _ in range(5)]
    now = world.chain.block()["header"]["timestamp"] // 10**9
    world.own("expire_measurement_set", id=1, not_after=now + 60)
    world.later(61)
    await rounds.clear(CONTRACT)
    assert not any(world.has_access_key(key) for key in keys)
    assert shown(metrics, "keys_removed_total") == 5


async def test_no_more_is_spent_than_may_be(world: World, rpc: NearRpc, metrics: Metrics) -> None:
    keys = [world.register() for _ in range(2)]
    world.later(TTL + 30)
    sender = Sender(rpc, KEEPER, world.accounts[KEEPER].key)
    with pytest.raises(BudgetSpentError, match="MAX_DAILY_NEAR"):
        await Rounds(rpc, sender, Budget(0), metrics).clear(CONTRACT)
    assert all(world.has_access_key(key) for key in keys)
    assert world.keeper_spent() == 0
    assert shown(metrics, "invalid_keys") == 2
    assert 30 <= (shown(metrics, "oldest_invalid_key_seconds") or 0) < 60


async def test_what_a_round_burns_counts_against_the_budget(
    world: World, rpc: NearRpc, metrics: Metrics
) -> None:
    world.register()
    world.later(TTL)
    budget = Budget(YOCTO)
    await Rounds(rpc, Sender(rpc, KEEPER, world.accounts[KEEPER].key), budget, metrics).clear(CONTRACT)
    assert budget.spent() == world.keeper_spent() > 0


@dataclass(frozen=True)
class Deaf(RegisterContract):
    """A contract whose removal removes nothing for some keys, as a newer one might."""

    refused: frozenset[str] = frozenset()

    def removal(self, public_keys: Any) -> Any:
        return on_register.remove_expired_keys([key for key in public_keys if key not in self.refused])


async def test_keys_that_a_contract_does_not_remove_hold_up_no_others_and_are_told(
    world: World, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds_module, "MOST_KEYS", 1)
    first, second = world.register(), None
    world.later(1)
    second = world.register()
    world.later(TTL)
    with pytest.raises(NoProgressError, match="holds 1 keys"):
        await rounds.clear(Deaf(REGISTER, refused=frozenset({first})))
    assert world.has_access_key(first)
    assert not world.has_access_key(second)


@dataclass(frozen=True)
class Cluttered(RegisterContract):
    """A contract with things to prune: what is left of them after each call that its method is asked for."""

    method: str = "remove_expired_keys"
    left: tuple[frozenset[int], ...] = ()
    looks: list[int] = field(default_factory=list)

    async def outdated(self, rpc: NearRpc, block: str, now: int) -> frozenset[int]:
        self.looks.append(now)
        return self.left[min(len(self.looks), len(self.left)) - 1]

    def pruning(self) -> FunctionCall:
        return FunctionCall(self.method, b"{}", 50 * TGAS, 0)


async def test_what_is_of_no_use_any_more_is_pruned_until_nothing_is_left(
    world: World, rounds: Rounds
) -> None:
    contract = Cluttered(REGISTER, left=(frozenset({1, 2, 3}), frozenset({3}), frozenset()))
    await rounds.clear(contract)
    assert len(contract.looks) == 3
    assert world.keeper_spent() > 0


async def test_what_a_contract_keeps_costs_one_call_a_round(world: World, rounds: Rounds) -> None:
    contract = Cluttered(REGISTER, left=(frozenset({1}),))
    await rounds.clear(contract)
    assert len(contract.looks) == 2


async def test_a_contract_that_cannot_prune_is_not_asked_to(world: World, rounds: Rounds) -> None:
    contract = Cluttered(REGISTER, method="no_such_method", left=(frozenset({1}),))
    await rounds.clear(contract)
    assert world.keeper_spent() == 0


# --- the keystore DAO -----------------------------------------------------------------------------------

DAO, MEMBER = "dao.test", "member.test"


@pytest.fixture(scope="module")
def governed() -> Iterator[World]:
    """The DAO with one member, after the hand-over."""
    platform = platforms.platform()
    with localnet(clock=clock_from(NOW)) as chain:
        world = World(chain, platform)
        for name in (DAO, INIT, OWNER, MEMBER, KEEPER):
            world.accounts[name] = chain.create_account(name, 100 * NEAR)
        chain.deploy(world.accounts[DAO], ARTIFACTS / "keystore-dao.wasm")
        new = on_dao.new(
            OWNER,
            INIT,
            [MEMBER],
            "mpc.test",
            root_ca_der=platform.root_der,
            keystore_ttl_seconds=TTL,
            proposal_ttl_seconds=TTL,
        )
        collateral = platforms.collateral_with(platform, Faults()).to_text()
        approve = on_dao.add_approved_measurements(MEASUREMENTS.to_json())
        assert chain.send(world.accounts[DAO], DAO, [new]).failure is None
        for action in (approve, on_dao.update_collateral(collateral), on_dao.hand_over()):
            assert chain.send(world.accounts[OWNER], DAO, [action]).failure is None
        chain.snapshot("governed")
        yield world


@pytest.fixture
def dao(governed: World) -> World:
    governed.chain.restore("governed")
    return governed


async def test_proposals_that_nobody_decided_in_time_are_pruned(dao: World) -> None:
    propose = on_dao.propose(AddMember(account_id=OWNER))
    proposals = [dao.chain.send(dao.accounts[MEMBER], DAO, [propose]).json() for _ in range(2)]
    metrics, contract = Metrics(), DaoContract(DAO)
    metrics.watch(contract.name)
    async with NearRpc(dao.chain.rpc_url) as rpc:
        rounds = Rounds(rpc, Sender(rpc, KEEPER, dao.accounts[KEEPER].key), Budget(YOCTO), metrics)
        views = DaoViews(rpc, DAO)
        await rounds.clear(contract)
        assert [item.id for item in await views.get_proposals()] == proposals
        assert dao.keeper_spent() == 0
        dao.later(TTL)
        await rounds.clear(contract)
        assert await views.get_proposals() == []


async def test_an_expired_keystores_access_key_is_gone_after_a_round(dao: World) -> None:
    key = str(KeyPair.generate().public_key)
    quote = dao.platform.quote(MEASUREMENTS, registration_report_data(key))
    submit = on_dao.submit_keystore_registration(key, quote)
    proposal = dao.chain.send(dao.accounts[INIT], DAO, [submit]).json()
    vote = on_dao.vote(proposal, True)
    assert dao.chain.send(dao.accounts[MEMBER], DAO, [vote]).failure is None
    metrics = Metrics()
    contract = DaoContract(DAO)
    metrics.watch(contract.name)
    async with NearRpc(dao.chain.rpc_url) as rpc:
        rounds = Rounds(rpc, Sender(rpc, KEEPER, dao.accounts[KEEPER].key), Budget(YOCTO), metrics)
        wait = await rounds.clear(contract)
        assert wait is not None
        assert TTL - 60 < wait <= TTL
        assert await rpc.has_access_key(DAO, key)
        assert dao.keeper_spent() == 0
        dao.later(TTL)
        assert await rounds.clear(contract) is None
        assert not await rpc.has_access_key(DAO, key)
    assert dao.keeper_spent() > 0


# --- the process ----------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def running(world: World, folder: Path, **more: Any) -> AsyncIterator[Keeper]:
    key_file = folder / "keeper.json"
    save_credentials(key_file, Credentials(KEEPER, world.accounts[KEEPER].key))
    config = Config(
        near_rpc_url=world.chain.rpc_url,
        near_block_feed_url=world.chain.feed_url,
        register_id=REGISTER,
        dao_id=None,
        account_id=KEEPER,
        key_file=key_file,
        **more,
    )
    keeper, stop = Keeper(config), asyncio.Event()
    task = asyncio.create_task(keeper.run(stop))
    try:
        yield keeper
    finally:
        stop.set()
        await task


async def until(found: Any) -> None:
    async with asyncio.timeout(20):
        while not found():  # noqa: ASYNC110 - a chain does not signal
            await asyncio.sleep(0.02)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "GAP_SECONDS", 0.05)
    monkeypatch.setattr(service_module, "FIRST_WAIT_SECONDS", 0.05)


@pytest.mark.usefixtures("quick")
async def test_an_event_brings_the_round_long_before_the_hour(world: World, tmp_path: Path) -> None:
    keys = [world.register() for _ in range(2)]
    async with running(world, tmp_path) as keeper:
        await until(lambda: all(keeper.conditions().values()))
        assert all(world.has_access_key(key) for key in keys)
        await asyncio.to_thread(world.own, "expire_measurement_set", id=1, not_after=0)
        await until(lambda: not any(world.has_access_key(key) for key in keys))


@pytest.mark.usefixtures("quick")
async def test_a_node_that_is_away_for_a_while_stops_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = world.register()
    world.later(TTL)
    outages = 5
    asked = NearRpc.header

    async def header(self: NearRpc, block: str | int = "final") -> Any:
        nonlocal outages
        if outages:
            outages -= 1
            raise RpcUnavailableError("made to fail")
        return await asked(self, block)

    monkeypatch.setattr(NearRpc, "header", header)
    async with running(world, tmp_path) as keeper:
        await until(lambda: not world.has_access_key(key))
        await until(lambda: all(keeper.conditions().values()))


@pytest.mark.usefixtures("quick")
async def test_health_and_metrics_are_served(world: World, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    async with running(world, tmp_path, health_port=port) as keeper, httpx.AsyncClient() as client:
        await until(lambda: all(keeper.conditions().values()))
        ready = await client.get(f"http://127.0.0.1:{port}/health/ready")
        assert (ready.status_code, ready.json()) == (200, {"ready": True, "register": True})
        text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
        assert 'outlayer_keeper_seconds_since_round{contract="register"}' in text
        keeper._good["register"] = False
        assert (await client.get(f"http://127.0.0.1:{port}/health/ready")).status_code == 503
