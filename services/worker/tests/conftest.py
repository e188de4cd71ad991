# SPDX-License-Identifier: MIT
"""Executors and compiled code for the tests."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytest_asyncio

from outlayer_attestation.measurements import Measurements
from outlayer_attestation.platform.machine import SoftwarePlatform
from outlayer_worker import delivery as delivery_module
from outlayer_worker import processing as processing_module
from outlayer_worker.anchor import AnchorReader
from outlayer_worker.batching import Batcher
from outlayer_worker.coordinator import Coordinator
from outlayer_worker.delivery import Delivery, Outbox
from outlayer_worker.executor.code import CodeStore
from outlayer_worker.executor.engine import settings_digest
from outlayer_worker.executor.model import MIB, Limits, RunResult
from outlayer_worker.executor.pool import ExecutorPool, RunRequest
from outlayer_worker.identity import Identity, load_or_create
from outlayer_worker.jobs import parse_job
from outlayer_worker.metrics import Metrics
from outlayer_worker.preparation import HostLimits, Place
from outlayer_worker.processing import Held, Processor
from outlayer_worker.wasm_source import WasmSource


def _load(name: str) -> ModuleType:
    """A helper module of this folder, under a name that no other package's tests use."""
    full = f"outlayer_worker_tests_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module
        spec.loader.exec_module(module)
    return sys.modules[full]


@pytest.fixture(scope="session")
def guests() -> ModuleType:
    return _load("guests")


@dataclass
class Bench:
    """Compiles and runs guests."""

    store: CodeStore
    pool: ExecutorPool

    async def run(
        self,
        wasm: bytes,
        data: bytes = b"",
        *,
        env: dict[str, str] | None = None,
        instructions: int = 10**9,
        memory: int = 64 * MIB,
        seconds: float = 20.0,
        output: int = MIB,
    ) -> RunResult:
        code = await self.store.compiled(hashlib.sha256(wasm).hexdigest(), wasm)
        limits = Limits(instructions, memory, seconds, output)
        return await self.pool.run(code, RunRequest(data, env or {}, limits))


@pytest.fixture(scope="session")
def code_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("code")


async def _bench(code_folder: Path, executors: int) -> AsyncIterator[Bench]:
    pool = ExecutorPool(executors)
    await pool.start()
    try:
        yield Bench(CodeStore(code_folder, b"k" * 32, settings_digest()), pool)
    finally:
        await pool.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _shared_bench(code_folder: Path) -> AsyncIterator[Bench]:
    async for item in _bench(code_folder, 1):
        yield item


@pytest_asyncio.fixture(loop_scope="module")
async def bench(_shared_bench: Bench) -> Bench:
    """One executor, the same for the tests of a module: to start it takes longer than most tests do.

    Tests that use it run on the module's event loop. A test begins when the executor that the one before has
    cost is replaced.
    """
    for _ in range(3000):
        if len(_shared_bench.pool.pids) == _shared_bench.pool.size:
            return _shared_bench
        await asyncio.sleep(0.01)
    raise AssertionError("the executor was not replaced")


@pytest_asyncio.fixture(loop_scope="module")
async def pair(code_folder: Path) -> AsyncIterator[Bench]:
    """Two executors that have done nothing yet."""
    async for item in _bench(code_folder, 2):
        yield item


@pytest.fixture(scope="session")
def fakes() -> ModuleType:
    return _load("fakes")


@pytest.fixture(scope="session")
def platform() -> SoftwarePlatform:
    return SoftwarePlatform.generate()


MEASUREMENTS = Measurements(**dict.fromkeys(("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"), "ab" * 48))


@dataclass
class Rig:
    """A processor with real executors and real quotes, between a coordinator and a chain of the test."""

    coordinator: Any
    chain: Any
    processor: Processor
    client: Coordinator
    delivery: Delivery
    outbox: Outbox
    identity: Identity
    quotes: list[bytes]
    tasks: list[asyncio.Task[None]]
    quote_asked: asyncio.Event
    quote_allowed: asyncio.Event
    metrics: Metrics

    def start(self, *jobs: dict[str, Any]) -> list[Held]:
        """Begin with these jobs, all at once."""
        held = [Held(parse_job(job)) for job in jobs]
        for item in held:
            item.task = asyncio.create_task(self.processor.process(item))
            self.tasks.append(item.task)
        return held

    async def finish(self, *jobs: dict[str, Any]) -> list[dict[str, Any]]:
        """Do these jobs and give their completions."""
        held = self.start(*jobs)
        await asyncio.gather(*(item.task for item in held if item.task is not None))
        return [self.coordinator.completions[job["job_id"]] for job in jobs]


@pytest_asyncio.fixture(loop_scope="module")
async def rig(
    bench: Bench,
    fakes: ModuleType,
    platform: SoftwarePlatform,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Rig]:
    monkeypatch.setattr(delivery_module, "FIRST_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(processing_module, "FIRST_WAIT_SECONDS", 0.05)
    coordinator = fakes.FakeCoordinator()
    await coordinator.start()
    chain = fakes.FakeChain()
    identity = load_or_create(tmp_path / "state", MEASUREMENTS.to_json())
    client = Coordinator(coordinator.url, fakes.TOKEN, "worker-1", identity)
    quotes: list[bytes] = []
    asked, allowed = asyncio.Event(), asyncio.Event()
    allowed.set()

    async def quote(report_data: bytes) -> bytes:
        asked.set()
        await asyncio.sleep(0.02)
        await allowed.wait()
        quotes.append(platform.quote(MEASUREMENTS, report_data))
        return quotes[-1]

    wasm = WasmSource(coordinator.url)
    anchors = AnchorReader(chain.head)
    batcher = Batcher(quote, 32)
    outbox = Outbox(tmp_path / "outbox")
    delivery = Delivery(client, outbox)
    metrics = Metrics()
    processor = Processor(
        chain=chain,
        anchors=anchors,
        store=bench.store,
        pool=bench.pool,
        wasm=wasm,
        batcher=batcher,
        delivery=delivery,
        metrics=metrics,
        host=HostLimits(256, 30.0, 1 << 20, 64 * 1024),
        place=Place("localnet", fakes.CONTRACT, identity.public_key),
        block_seconds=0.6,
    )
    batching = asyncio.create_task(batcher.run())
    rig = Rig(
        coordinator,
        chain,
        processor,
        client,
        delivery,
        outbox,
        identity,
        quotes,
        [batching],
        asked,
        allowed,
        metrics,
    )
    try:
        yield rig
    finally:
        for task in rig.tasks:
            task.cancel()
        await asyncio.gather(*rig.tasks, return_exceptions=True)
        await anchors.close()
        await wasm.close()
        await client.close()
        await coordinator.stop()
