# SPDX-License-Identifier: MIT
"""The whole worker against a real chain with the real contracts, a real guest agent and executors."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import pytest

from outlayer_attestation.measurements import Measurements
from outlayer_attestation.platform.agent import Guest, start_agent
from outlayer_attestation.platform.machine import SoftwarePlatform
from outlayer_attestation.record import TaskRecordV2
from outlayer_localnet.testing import NEAR, TGAS, Localnet, TestAccount, localnet
from outlayer_near.credentials import Credentials, save_credentials
from outlayer_near.primitives import AccessKey, AddKey, FunctionCallPermission, KeyPair
from outlayer_near.rpc import NearRpc
from outlayer_near.sender import Sender, TxOutcome
from outlayer_near.views import RegisterViews
from outlayer_worker import registration as registration_module
from outlayer_worker.errors import KeyRemovedError
from outlayer_worker.registration import Registration

ARTIFACTS = Path(__file__).resolve().parents[3] / "contracts" / "artifacts"
GUESTS = Path(__file__).resolve().parents[3] / "examples" / "artifacts"
MAIN, OPERATOR, INIT = "outlayer.test", "worker.outlayer.test", "init.outlayer.test"
NEEDED = [ARTIFACTS / name for name in ("outlayer.wasm", "register.wasm", "caller.wasm")]

pytestmark = pytest.mark.skipif(
    not all(path.exists() for path in NEEDED), reason="the built contracts are not here"
)


@dataclass
class World:
    """A chain with everything that a worker needs to be there."""

    chain: Localnet
    main: TestAccount
    developer: TestAccount
    caller: TestAccount
    init_key: KeyPair
    platform: SoftwarePlatform
    measurements: Measurements

    def create_project(self, name: str, url: str, sha: str) -> str:
        source = {"WasmUrl": {"url": url, "hash": sha, "build_target": None}}
        args = {"name": name, "source": source}
        self.chain.call(self.developer, MAIN, "create_project", args, deposit=NEAR).json()
        return f"{self.developer.account_id}/{name}"

    def ask(self, project_id: str, data: str) -> Any:
        """Let the caller contract ask; returns when the request is in a block."""
        args = {"project_id": project_id, "input_data": data, "response_format": "Json"}
        return self.chain.call(
            self.caller, "bob.test", "ask", args, gas=300 * TGAS, deposit=NEAR, wait_until="INCLUDED"
        )

    def requests(self, height: int) -> list[tuple[int, bytes, int]]:
        """Request id, data id and block of the requests after a block."""
        found = []
        for number in range(height, self.chain.height + 1):
            for shard in _feed(self.chain, number)["shards"]:
                for item in shard["receipt_execution_outcomes"]:
                    for line in item["execution_outcome"]["outcome"]["logs"]:
                        if line.startswith("EVENT_JSON:") and "execution_requested" in line:
                            data = json.loads(line.removeprefix("EVENT_JSON:"))["data"][0]
                            request = json.loads(data["request_data"])
                            found.append((request["request_id"], bytes(data["data_id"]), number))
        return found


def _feed(chain: Localnet, height: int) -> Any:
    import urllib.request

    with urllib.request.urlopen(f"{chain.feed_url}/v0/block/{height}") as reply:
        return json.load(reply) or {"shards": []}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    platform = SoftwarePlatform.generate()
    measurements = Measurements(**dict.fromkeys(("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"), "cd" * 48))
    with localnet(heartbeat=True) as chain:
        main = chain.create_account(MAIN, 2000 * NEAR)
        operator = chain.create_account(OPERATOR, 500 * NEAR, creator=main)
        init = chain.create_account(INIT, 100 * NEAR, creator=main)
        caller = chain.create_account("bob.test")
        developer = chain.create_account("alice.test")
        chain.deploy(main, ARTIFACTS / "outlayer.wasm", "new", {"owner_id": MAIN, "operator_id": OPERATOR})
        register = {
            "owner_id": MAIN,
            "init_worker_account": INIT,
            "outlayer_contract_id": MAIN,
            "root_ca_der_hex": platform.root_der.hex(),
            "key_ttl_seconds": None,
        }
        chain.deploy(operator, ARTIFACTS / "register.wasm", "new", register)
        chain.deploy(caller, ARTIFACTS / "caller.wasm", "new", {"outlayer_contract_id": MAIN})
        collateral = {"collateral": platform.collateral().to_text()}
        chain.call(main, OPERATOR, "update_collateral", collateral, gas=300 * TGAS).value  # noqa: B018 - raises when it failed
        approved = {"measurements": measurements.to_json(), "name": "test"}
        chain.call(main, OPERATOR, "add_measurement_set", approved, gas=100 * TGAS).json()
        init_key = KeyPair.generate()
        methods = ("register_worker_key", "reverify_worker_key")
        permission = FunctionCallPermission(OPERATOR, methods, None)
        chain.send(init, INIT, [AddKey(init_key.public_key, AccessKey(0, permission))])
        yield World(chain, main, developer, caller, init_key, platform, measurements)


@dataclass
class Running:
    """A worker process and what it works with."""

    process: subprocess.Popen[bytes]
    health: str
    log: Path
    state: Path

    async def ready(self, seconds: float = 30) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        async with aiohttp.ClientSession() as client:
            while time.monotonic() < deadline:
                assert self.process.poll() is None, self.log.read_text()
                try:
                    async with client.get(f"{self.health}/health/ready") as answer:
                        if answer.status == 200:
                            return dict(await answer.json())
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.05)
        raise AssertionError(self.log.read_text())

    async def page(self, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as client, client.get(self.health + path) as answer:
            return answer.status, await answer.text()


def _spawn(environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        command = [sys.executable, "-m", "outlayer_worker"]
        return subprocess.Popen(command, env=environment, stderr=output, stdout=output)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Workshop:
    """Starts workers, and stops what it started."""

    def __init__(
        self, world: World, fakes: ModuleType, coordinator: Any, folder: Path, sockets: Path
    ) -> None:
        self.world = world
        self.fakes = fakes
        self.coordinator = coordinator
        self._folder = folder
        self._sockets = sockets
        self._running: list[Running] = []
        self._agents: list[asyncio.Server] = []

    async def start(
        self, name: str = "w1", *, measurements: Measurements | None = None, executors: int = 1
    ) -> Running:
        guest = Guest(name, self._sockets / f"{name}.sock", measurements or self.world.measurements)
        if not guest.socket.exists():
            self._agents.append(await start_agent(self.world.platform, guest))
        token = self._folder / "token"
        token.write_text(self.fakes.TOKEN)
        key_file = self._folder / "init.json"
        save_credentials(key_file, Credentials(INIT, self.world.init_key))
        port = free_port()
        log = self._folder / f"{name}.log"
        environment = {
            "PATH": os.environ["PATH"],
            "COORDINATOR_URL": self.coordinator.url,
            "WORKER_TOKEN_FILE": str(token),
            "WORKER_ID": name,
            "NEAR_RPC_URL": self.world.chain.rpc_url,
            "NEAR_BLOCK_FEED_URL": self.world.chain.feed_url,
            "OUTLAYER_CONTRACT_ID": MAIN,
            "OPERATOR_ACCOUNT_ID": OPERATOR,
            "INIT_ACCOUNT_ID": INIT,
            "INIT_ACCOUNT_KEY_FILE": str(key_file),
            "NEAR_NETWORK_ID": "localnet",
            "DSTACK_SOCKET": str(guest.socket),
            "WORKER_STATE_DIR": str(self._folder / name),
            "HEALTH_PORT": str(port),
            "EXECUTORS": str(executors),
        }
        running = Running(_spawn(environment, log), f"http://127.0.0.1:{port}", log, self._folder / name)
        self._running.append(running)
        return running

    async def stop(self) -> None:
        for running in self._running:
            if running.process.poll() is None:
                running.process.terminate()
        for running in self._running:
            try:
                await asyncio.to_thread(running.process.wait, 15)
            except subprocess.TimeoutExpired:
                running.process.kill()
                running.process.wait()
        for agent in self._agents:
            agent.close()


@pytest.fixture
async def workshop(world: World, fakes: ModuleType, tmp_path: Path) -> AsyncIterator[Workshop]:
    coordinator = fakes.FakeCoordinator()
    await coordinator.start()
    with tempfile.TemporaryDirectory(dir="/tmp") as sockets:
        shop = Workshop(world, fakes, coordinator, tmp_path, Path(sockets))
        try:
            yield shop
        finally:
            await shop.stop()
            await coordinator.stop()


def executors_of(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children()]


async def test_a_worker_registers_runs_and_resolves(workshop: Workshop, guests: ModuleType) -> None:
    world, coordinator = workshop.world, workshop.coordinator
    worker = await workshop.start()
    assert await worker.ready() == {"ready": True, "registered": True, "session": True, "accepting": True}
    key = json.loads((worker.state / "worker-key.json").read_text())["public_key"]
    approved = world.chain.view(OPERATOR, "get_worker_key", {"public_key": key})
    assert approved["measurements"] == world.measurements.to_json()

    project = world.create_project("echo", *coordinator.publish(guests.ECHO))
    job = workshop.fakes.https_job(project, b"over https")
    coordinator.queue.append(job)
    (completion,) = await coordinator.completed(job["job_id"])
    assert base64.b64decode(completion["output_base64"]) == b"over https"

    height = world.chain.height
    asked = await asyncio.to_thread(world.ask, project, '{ "n": 1 }')
    (request,) = await asyncio.to_thread(_wait_for_requests, world, height)
    job = workshop.fakes.near_job(*request)
    coordinator.queue.append(job)
    (completion,) = await coordinator.completed(job["job_id"])
    record = TaskRecordV2.from_json(completion["record"])
    assert record.worker_public_key == key
    assert record.transaction_hash == asked.hash
    assert record.caller == "bob.test"
    await asyncio.to_thread(world.chain.tx, asked.hash, wait_until="FINAL")
    assert world.chain.view("bob.test", "last_answer")["value"] == {"n": 1}

    status, text = await worker.page("/metrics")
    assert status == 200
    assert 'outlayer_worker_jobs_total{end="ok",kind="near"} 1.0' in text


def _wait_for_requests(world: World, height: int) -> list[tuple[int, bytes, int]]:
    for _ in range(100):
        if found := world.requests(height):
            return found
        time.sleep(0.05)
    raise AssertionError("no request appeared")


async def test_a_worker_whose_measurements_are_not_approved_does_not_get_ready(workshop: Workshop) -> None:
    other = Measurements(**dict.fromkeys(("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"), "ee" * 48))
    worker = await workshop.start("stranger", measurements=other)
    for _ in range(400):
        if "measurements_not_approved" in worker.log.read_text():
            break
        await asyncio.sleep(0.05)
    assert "measurements_not_approved" in worker.log.read_text()
    status, text = await worker.page("/health/ready")
    assert status == 503
    assert json.loads(text)["registered"] is False
    assert not workshop.coordinator.sessions


async def test_a_restarted_worker_keeps_its_key_and_needs_no_transaction(workshop: Workshop) -> None:
    worker = await workshop.start()
    await worker.ready()
    first = (worker.state / "worker-key.json").read_text()
    worker.process.terminate()
    assert await asyncio.to_thread(worker.process.wait, 15) == 0
    again = await workshop.start()
    await again.ready()
    assert (again.state / "worker-key.json").read_text() == first
    assert again.log.read_text().count("key_registered") == 1


async def test_stopping_a_worker_finishes_the_job_in_hand(workshop: Workshop, guests: ModuleType) -> None:
    worker = await workshop.start()
    await worker.ready()
    project = workshop.world.create_project("loop", *workshop.coordinator.publish(guests.LOOP))
    limits = {"max_instructions": 10**15, "max_execution_seconds": 1}
    job = workshop.fakes.https_job(project, b"", **limits)
    workshop.coordinator.queue.append(job)
    for _ in range(500):
        if not workshop.coordinator.queue:
            break
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    worker.process.terminate()
    (completion,) = await workshop.coordinator.completed(job["job_id"])
    assert completion["error_category"] == "timeout"
    assert await asyncio.to_thread(worker.process.wait, 15) == 0


async def test_executors_do_not_outlive_a_worker_that_is_killed(workshop: Workshop) -> None:
    import psutil

    worker = await workshop.start(executors=2)
    await worker.ready()
    executors = executors_of(worker.process.pid)
    assert len(executors) == 2
    os.kill(worker.process.pid, signal.SIGKILL)
    await asyncio.to_thread(worker.process.wait, 15)
    for _ in range(100):
        if not any(psutil.pid_exists(pid) for pid in executors):
            break
        await asyncio.sleep(0.02)
    assert not any(psutil.pid_exists(pid) for pid in executors)


@contextlib.asynccontextmanager
async def registering(world: World, key: KeyPair) -> AsyncIterator[Registration]:
    """A key's registration at the real contract; its ``quotes`` are the REPORTDATA that were asked for."""

    async def quote(report_data: bytes) -> bytes:
        return world.platform.quote(world.measurements, report_data)

    async with NearRpc(world.chain.rpc_url) as rpc:
        sender = Sender(rpc, INIT, world.init_key)
        yield Registration(rpc, sender, OPERATOR, str(key.public_key), quote)


async def test_a_key_is_registered_once_and_then_renewed_by_a_fresh_challenge(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = KeyPair.generate()
    async with registering(world, key) as registration:
        assert not await registration.is_current()
        await registration.ensure()
        assert await registration.is_current()
        first = registration.expires_at
        views = RegisterViews(registration._rpc, OPERATOR)
        before = await views.get_worker_key(str(key.public_key))
        world.chain.set_time(2)
        monkeypatch.setattr(registration_module, "needs_renewal", lambda *_: True)
        await registration.ensure()
        after = await views.get_worker_key(str(key.public_key))
        assert before is not None
        assert after is not None
        assert after.challenge != before.challenge, "the quote was made for the challenge"
        assert registration.expires_at == after.expires_at
        assert first is not None
        assert after.expires_at > first


async def test_a_key_that_was_removed_for_good_is_told_as_such(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = KeyPair.generate()
    async with registering(world, key) as registration:

        async def rejected(*_: Any, **__: Any) -> Any:
            answer = {"status": "rejected", "reason": "key_removed", "detail": "removed once"}
            return TxOutcome("tx", INIT, True, json.dumps(answer).encode(), None, (), 1, {})

        monkeypatch.setattr(registration._sender, "send", rejected)
        with pytest.raises(KeyRemovedError, match="removed once"):
            await registration.ensure()
