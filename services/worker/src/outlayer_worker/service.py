# SPDX-License-Identifier: MIT
"""The worker as a whole: register, open a session, claim, heartbeat, and stop without losing results."""

from __future__ import annotations

import asyncio
import contextlib
import time

import structlog

from outlayer_attestation import quote as tdx_quote
from outlayer_attestation.dstack import GuestAgent
from outlayer_attestation.errors import AttestationError
from outlayer_near.credentials import load_credentials
from outlayer_near.events import open_source
from outlayer_near.rpc import NearRpc
from outlayer_near.sender import Sender
from outlayer_worker import health, identity
from outlayer_worker.anchor import AnchorReader
from outlayer_worker.batching import Batcher
from outlayer_worker.chain import Chain
from outlayer_worker.config import Config
from outlayer_worker.coordinator import Coordinator
from outlayer_worker.delivery import Delivery, Outbox
from outlayer_worker.errors import KeyRemovedError, WorkerError
from outlayer_worker.executor.code import CodeStore
from outlayer_worker.executor.engine import settings_digest
from outlayer_worker.executor.model import MIB
from outlayer_worker.executor.pool import ExecutorPool
from outlayer_worker.jobs import Job
from outlayer_worker.metrics import Metrics
from outlayer_worker.preparation import HostLimits, Place
from outlayer_worker.processing import Held, Processor
from outlayer_worker.registration import Registration
from outlayer_worker.wasm_source import WasmSource

log = structlog.get_logger(__name__)

CLAIM_WAIT_MS = 15_000
DEFAULT_LEASE_SECONDS = 30.0
FIRST_WAIT_SECONDS = 0.25
LONGEST_WAIT_SECONDS = 2.0


async def wait_for_agent(agent: GuestAgent) -> bytes:
    """A first quote: proof that the guest agent works. Waits for it as long as it takes."""
    wait = FIRST_WAIT_SECONDS
    while True:
        try:
            return (await agent.get_quote(bytes(64))).quote
        except AttestationError as error:
            log.warning("guest_agent_unavailable", error=str(error), retry_seconds=wait)
            await asyncio.sleep(wait)
            wait = min(wait * 2, LONGEST_WAIT_SECONDS)


class Worker:
    """One worker process. ``run`` returns after ``stop`` has been set and the jobs in hand are done or left."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._metrics = Metrics()
        self._agent = GuestAgent(config.dstack_socket)
        self._held: dict[str, Held] = {}
        self._changed = asyncio.Event()
        self._lease_seconds = DEFAULT_LEASE_SECONDS
        self._registered = False
        self._stopping = False
        self._coordinator: Coordinator | None = None
        self._claiming: asyncio.Task[None] | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop``. Raises ``WorkerError`` when a part of it cannot go on."""
        async with contextlib.AsyncExitStack() as stack:
            if self._config.health_port:
                runner = await health.serve(self._config.health_port, self._metrics, self.conditions)
                stack.push_async_callback(runner.cleanup)
            work = asyncio.create_task(self._work(stack))
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if not work.done():
                self._stopping = True
                await self._drain()
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work

    def conditions(self) -> dict[str, bool]:
        """What readiness is made of."""
        has_session = self._coordinator is not None and self._coordinator.has_session
        return {"registered": self._registered, "session": has_session, "accepting": not self._stopping}

    async def _work(self, stack: contextlib.AsyncExitStack) -> None:
        config = self._config
        measurements = tdx_quote.parse(await wait_for_agent(self._agent)).td_report.measurements
        worker = identity.load_or_create(config.state_dir, measurements.to_json())
        worker_id = config.worker_id or worker.default_name()
        log.info("worker_starts", worker_id=worker_id, public_key=worker.public_key)

        pool = ExecutorPool(config.executors, max_memory_bytes=config.max_memory_mb * MIB)
        stack.push_async_callback(pool.close)
        store = CodeStore(
            config.state_dir / "code",
            worker.cache_key(),
            settings_digest(),
            max_bytes=config.code_cache_bytes,
        )
        registration = self._registration(stack, worker.public_key)
        coordinator = Coordinator(config.coordinator_url, config.worker_token(), worker_id, worker)
        stack.push_async_callback(coordinator.close)
        rpc = NearRpc(config.near_rpc_url)
        chain = Chain(
            rpc,
            open_source(config.near_rpc_url, config.near_block_feed_url),
            contract_id=config.contract_id,
            operator_id=config.operator_id,
            key=worker.key,
        )
        stack.push_async_callback(chain.close)
        anchors = AnchorReader(chain.head)
        stack.push_async_callback(anchors.close)
        wasm = WasmSource(config.coordinator_url)
        stack.push_async_callback(wasm.close)
        batcher = Batcher(self._quote, config.max_batch)
        delivery = Delivery(coordinator, Outbox(config.state_dir / "outbox"))
        processor = Processor(
            chain=chain,
            anchors=anchors,
            store=store,
            pool=pool,
            wasm=wasm,
            batcher=batcher,
            delivery=delivery,
            metrics=self._metrics,
            host=HostLimits(
                config.max_memory_mb,
                float(config.max_execution_seconds),
                config.max_output_bytes,
                config.max_near_output_bytes,
            ),
            place=Place(config.network_id, config.contract_id, worker.public_key),
            block_seconds=config.block_seconds,
        )
        try:
            await asyncio.gather(pool.start(), registration.ensure())
            self._registered = True
            self._coordinator = coordinator
            async with asyncio.TaskGroup() as group:
                group.create_task(registration.keep())
                group.create_task(batcher.run())
                group.create_task(delivery.resend(chain.succeeded))
                group.create_task(self._heartbeats(coordinator))
                self._claiming = group.create_task(self._claims(coordinator, registration, processor))
        except* KeyRemovedError:
            # everything here stands on the key; the next start makes another
            identity.forget(config.state_dir, worker)
            raise

    def _registration(self, stack: contextlib.AsyncExitStack, public_key: str) -> Registration:
        credentials = load_credentials(self._config.init_account_key_file)
        rpc = NearRpc(self._config.near_rpc_url)
        stack.push_async_callback(rpc.close)
        sender = Sender(rpc, self._config.init_account_id, credentials.key_pair)
        return Registration(rpc, sender, self._config.operator_id, public_key, self._quote)

    async def _quote(self, report_data: bytes) -> bytes:
        began = time.monotonic()
        reply = await self._agent.get_quote(report_data)
        self._metrics.quote_seconds.observe(time.monotonic() - began)
        return reply.quote

    # --- claiming ---

    def _capacity(self) -> int:
        """How many more jobs to take: executors busy with one more each in line, and a bound on all in hand."""
        computing = sum(held.computing for held in self._held.values())
        free = 2 * self._config.executors - computing
        return min(free, 4 * self._config.max_batch - len(self._held))

    async def _claims(
        self, coordinator: Coordinator, registration: Registration, processor: Processor
    ) -> None:
        wait = FIRST_WAIT_SECONDS
        while not self._stopping:
            capacity = self._capacity()
            if capacity <= 0:
                self._changed.clear()
                await self._changed.wait()
                continue
            try:
                jobs = await coordinator.claim(capacity, CLAIM_WAIT_MS)
                wait = FIRST_WAIT_SECONDS
            except WorkerError as error:
                log.warning("claim_failed", error=str(error), retry_seconds=wait)
                await asyncio.sleep(wait)
                wait = min(wait * 2, LONGEST_WAIT_SECONDS)
                # a refused session is what an expired or removed key looks like from here
                await registration.ensure()
                continue
            for job in jobs:
                self._take(job, processor)

    def _take(self, job: Job, processor: Processor) -> None:
        self._lease_seconds = job.lease_seconds or DEFAULT_LEASE_SECONDS
        held = Held(job, self._changed.set)
        self._held[job.job_id] = held
        self._metrics.held.set(len(self._held))
        held.task = asyncio.create_task(self._process(held, processor))

    async def _process(self, held: Held, processor: Processor) -> None:
        try:
            await processor.process(held)
        except asyncio.CancelledError:
            log.warning("job_given_up", job_id=held.job.job_id)
            raise
        except Exception:
            # a fault of ours: the lease ends and another worker, or a later build, tries again
            log.exception("job_fault", job_id=held.job.job_id)
        finally:
            if self._held.get(held.job.job_id) is held:
                del self._held[held.job.job_id]
            self._metrics.held.set(len(self._held))
            self._changed.set()

    # --- leases ---

    async def _heartbeats(self, coordinator: Coordinator) -> None:
        while True:
            await asyncio.sleep(min(10.0, self._lease_seconds / 3))
            try:
                lost = await coordinator.heartbeat(self._status(), list(self._held))
            except WorkerError as error:
                log.warning("heartbeat_failed", error=str(error))
                continue
            for job_id in lost:
                held = self._held.get(job_id)
                if held is not None and held.task is not None and not held.delivering:
                    held.task.cancel()

    def _status(self) -> str:
        if self._stopping:
            return "offline"
        return "busy" if self._capacity() <= 0 else "online"

    async def _drain(self) -> None:
        """Take no more jobs and give those in hand some time; what is left then runs out of its lease."""
        if self._claiming is not None:
            self._claiming.cancel()
        tasks: list[asyncio.Task[None]] = [held.task for held in self._held.values() if held.task is not None]
        log.info("worker_stops", jobs=len(tasks))
        if tasks:
            await asyncio.wait(tasks, timeout=self._config.drain_seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
