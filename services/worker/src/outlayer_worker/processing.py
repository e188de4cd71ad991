# SPDX-License-Identifier: MIT
"""One job from claim to completion."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import structlog

from outlayer_near.errors import NearError
from outlayer_near.models import WasmUrlSource
from outlayer_worker import preparation
from outlayer_worker.anchor import AnchorReader
from outlayer_worker.batching import Batcher
from outlayer_worker.chain import Chain, ChainRequest, RequestGoneError
from outlayer_worker.delivery import Delivery
from outlayer_worker.errors import (
    AnchorError,
    JobError,
    NotSettledError,
    OutputRefusedError,
    RequestRefusedError,
    SubmissionError,
)
from outlayer_worker.executor.code import CodeStore, CompiledCode
from outlayer_worker.executor.model import RunResult, bounded_text
from outlayer_worker.executor.pool import ExecutorPool
from outlayer_worker.jobs import Attested, Completion, HttpsCall, Job, NearRequest
from outlayer_worker.metrics import Metrics
from outlayer_worker.preparation import Finished, HostLimits, Moment, Place, Prepared
from outlayer_worker.resolution import Resolution
from outlayer_worker.wasm_source import WasmSource

log = structlog.get_logger(__name__)

CHAIN_PATIENCE_SECONDS = 60.0
MAX_FAILED_ANSWERS = 6
"""How many transactions with one answer may be executed and fail: each costs the operator gas."""
FIRST_WAIT_SECONDS = 0.25
LONGEST_WAIT_SECONDS = 5.0

_OnSent = Callable[[str], None]


@dataclass(eq=False)
class Held:
    """A job in our hands. Past ``delivering`` its result is on its way and it is not given up any more."""

    job: Job
    on_computed: Callable[[], None] = lambda: None
    computing: bool = True
    delivering: bool = False
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    def computed(self) -> None:
        """It needs no executor any more."""
        if self.computing:
            self.computing = False
            self.on_computed()

    def deliver(self) -> None:
        self.computed()
        self.delivering = True


class Processor:
    """Runs jobs and sees their results delivered."""

    def __init__(
        self,
        *,
        chain: Chain,
        anchors: AnchorReader,
        store: CodeStore,
        pool: ExecutorPool,
        wasm: WasmSource,
        batcher: Batcher,
        delivery: Delivery,
        metrics: Metrics,
        host: HostLimits,
        place: Place,
        block_seconds: float,
    ) -> None:
        self._chain = chain
        self._anchors = anchors
        self._store = store
        self._pool = pool
        self._wasm = wasm
        self._batcher = batcher
        self._delivery = delivery
        self._metrics = metrics
        self._host = host
        self._place = place
        self._block_seconds = block_seconds

    async def process(self, held: Held) -> None:
        """Take one job to its end. Leaves it to its lease when the chain does not answer for long."""
        job = held.job
        structlog.contextvars.bind_contextvars(job_id=job.job_id, attempt=job.attempt)
        deadline = time.monotonic() + CHAIN_PATIENCE_SECONDS
        wait = FIRST_WAIT_SECONDS
        while True:
            try:
                if job.https is not None:
                    await self._https(held, job.https)
                elif job.near is not None:
                    await self._near(held, job.near)
                return
            except JobError as error:
                await self._give_back(held, error)
                return
            except (NearError, AnchorError) as error:
                if held.delivering or time.monotonic() > deadline:
                    log.warning("job_left_to_its_lease", error=str(error))
                    self._count(job, "left")
                    return
                log.warning("chain_unavailable", error=str(error), retry_seconds=wait)
                await asyncio.sleep(wait)
                wait = min(wait * 2, LONGEST_WAIT_SECONDS)

    # --- HTTPS ---

    async def _https(self, held: Held, call: HttpsCall) -> None:
        project = await self._chain.project(call.project_id, call.version_key)
        prepared = preparation.prepare_https(held.job, call, project, self._host, self._place)
        finished = await self._run(prepared)
        held.computed()
        attested = await self._batcher.attested(finished.record)
        held.deliver()
        await self._delivery.together(attested, _completion(held.job, finished, attested))
        self._count(held.job, finished.error_category or "ok")

    # --- NEAR ---

    async def _near(self, held: Held, near: NearRequest) -> None:
        found = await self._chain.request(near)
        try:
            prices = await self._chain.answer_prices()
            head = await self._chain.head()
            seconds = preparation.near_seconds(found, head, self._host, self._block_seconds)
            prepared = preparation.prepare_near(held.job, found, self._host, seconds, self._place, prices)
            finished = await self._run(prepared)
        except JobError as error:
            # nothing was run, so there is nothing to attest; the caller on chain learns why all the same
            await self._report_failure(held, near, error)
            return
        held.computed()
        try:
            await self._settle(held, near, found, finished)
        except OutputRefusedError as error:
            log.warning("output_refused_by_chain", error=str(error))
            used = finished.record
            result = RunResult(b"", b"", used.instructions, used.time_ms)
            message = f"the chain did not take the output: {bounded_text(str(error), 300)}"
            category = preparation.OUTPUT_TOO_LARGE if error.too_large else "output_refused"
            made = await self._moment()
            failed = preparation.fail(prepared, result, made, category, message)
            await self._settle(held, near, found, failed)

    async def _settle(self, held: Held, near: NearRequest, found: ChainRequest, finished: Finished) -> None:
        """Attest, resolve on chain, tell the coordinator: in this order, and the second part exactly once."""
        attested = await self._batcher.attested(finished.record)
        held.deliver()
        completion = _completion(held.job, finished, attested)
        record = finished.record
        resolution = Resolution(
            found.event.request.request_id,
            record.success,
            finished.near_output,
            record.error,
            record.instructions,
            record.time_ms,
            record_sha256=record.leaf_hash().hex(),
        )

        def on_sent(tx_hash: str) -> None:
            self._delivery.keep(attested.batch, _with_tx(completion, tx_hash), tx_hash)

        try:
            tx_hash = await self._resolve(near, resolution, on_sent)
        except (RequestGoneError, OutputRefusedError, NotSettledError):
            self._delivery.forget(held.job.job_id)
            raise
        await self._delivery.alone(attested.batch, _with_tx(completion, tx_hash), near_tx=tx_hash)
        self._count(held.job, finished.error_category or "ok")
        await self._look_at_settlement(found, tx_hash)

    async def _look_at_settlement(self, found: ChainRequest, tx_hash: str) -> None:
        """Log what was charged. The job is done: whatever is found here changes nothing any more."""
        try:
            charged = await self._chain.charged(found.event, tx_hash)
        except NearError as error:
            log.info("settlement_not_seen", error=str(error))
            return
        if charged is None:
            log.warning("settlement_without_charge", transaction=found.event.tx_hash)
            return
        log.info("settled", request_id=found.event.request.request_id, charged_yocto=charged)

    async def _report_failure(self, held: Held, near: NearRequest, error: JobError) -> None:
        """Resolve a request that could not be run as failed, and complete it without a record."""
        held.deliver()
        resolution = Resolution(near.request_id, False, None, bounded_text(error.message), 0, 0)
        tx_hash = await self._resolve(near, resolution, lambda _: None)
        completion = _without_record(held.job, error)
        await self._delivery.alone(None, _with_tx(completion, tx_hash))
        log.info("job_failed", category=error.category, error=error.message, transaction=tx_hash)
        self._count(held.job, error.category)

    async def _resolve(self, near: NearRequest, resolution: Resolution, on_sent: _OnSent) -> str:
        """Deliver on chain, for as long as the request can be answered. Gives the transaction that did it.

        A request that is gone may have been settled by a transaction of ours whose end was not seen. Raises
        ``RequestGoneError``; ``OutputRefusedError`` for an output that another answer must take the place of;
        ``NotSettledError`` when no try can help any more, or too many have cost gas.
        """
        sent: list[str] = []

        def note(tx_hash: str) -> None:
            sent.append(tx_hash)
            on_sent(tx_hash)

        wait, failed = FIRST_WAIT_SECONDS, 0
        while True:
            try:
                tx_hash = (await self._chain.resolve(resolution, note)).tx_hash
                break
            except RequestGoneError:
                own = await self._own_success(sent)
                if own is None:
                    raise
                tx_hash = own
                break
            except (SubmissionError, NearError) as error:
                failed += isinstance(error, SubmissionError) and error.ran
                log.warning("submission_failed", error=str(error), failed=failed, retry_seconds=wait)
                if failed >= MAX_FAILED_ANSWERS and resolution.success:
                    # the failure may still be told: that needs less of the contract
                    said = bounded_text(str(error), 300)
                    raise OutputRefusedError(f"{failed} transactions with it failed: {said}") from error
                if failed >= MAX_FAILED_ANSWERS or await self._is_over(near):
                    own = await self._own_success(sent)
                    if own is not None:
                        tx_hash = own
                        break
                    raise _not_settled(resolution, failed, error) from error
                await asyncio.sleep(wait)
                wait = min(wait * 2, LONGEST_WAIT_SECONDS)
        log.info("resolved", request_id=resolution.request_id, transaction=tx_hash)
        return tx_hash

    async def _is_over(self, near: NearRequest) -> bool:
        """Whether the request's time is known to be over; a chain that does not answer proves nothing."""
        try:
            return await self._chain.is_over(near)
        except NearError:
            return False

    async def _own_success(self, sent: list[str]) -> str | None:
        """The one of our transactions that settled the request, if any did."""
        while True:
            try:
                for tx_hash in sent:
                    if await self._chain.succeeded(tx_hash):
                        return tx_hash
                return None
            except NearError as error:
                log.warning("chain_unavailable", error=str(error), retry_seconds=LONGEST_WAIT_SECONDS)
                await asyncio.sleep(LONGEST_WAIT_SECONDS)

    # --- both ---

    async def _run(self, prepared: Prepared) -> Finished:
        """Run a guest. Raises ``JobError`` only when its code could not be had at all."""
        self._anchors.prefetch()
        try:
            code = await self._code(prepared.code)
            result = await self._pool.run(code, prepared.request)
        except JobError as error:
            if error.category == "wasm_unavailable":
                raise
            nothing = RunResult(b"", b"", 0, 0)
            return preparation.fail(prepared, nothing, await self._moment(), error.category, error.message)
        self._metrics.run_seconds.observe(result.time_ms / 1000)
        self._metrics.instructions.inc(result.instructions)
        if result.category is not None:
            log.info("guest_failed", category=result.category, error=result.message)
        return preparation.finish(prepared, result, await self._moment())

    async def _moment(self) -> Moment:
        """The moment of a record that is made now: asked for again, so that the guest need not run again.

        Raises ``AnchorError`` or ``NearError`` when the chain gives no anchor for ``CHAIN_PATIENCE_SECONDS``.
        """
        deadline = time.monotonic() + CHAIN_PATIENCE_SECONDS
        wait = FIRST_WAIT_SECONDS
        while True:
            try:
                anchor = await self._anchors.current()
                return Moment(int(time.time()), anchor)
            except (NearError, AnchorError) as error:
                if time.monotonic() > deadline:
                    raise
                log.warning("no_anchor", error=str(error), retry_seconds=wait)
            await asyncio.sleep(wait)
            wait = min(wait * 2, LONGEST_WAIT_SECONDS)

    async def _code(self, source: WasmUrlSource) -> CompiledCode:
        code = await self._store.stored(source.hash)
        if code is not None:
            return code
        wasm = await self._wasm.fetch(source.url, source.hash)
        return await self._store.compiled(source.hash, wasm)

    async def _give_back(self, held: Held, error: JobError) -> None:
        """Complete a job of which nothing was run: refused, gone, or impossible."""
        level = log.error if isinstance(error, RequestRefusedError) else log.info
        level("job_not_run", category=error.category, error=error.message)
        held.deliver()
        await self._delivery.alone(None, _without_record(held.job, error))
        self._count(held.job, error.category)

    def _count(self, job: Job, end: str) -> None:
        self._metrics.jobs.labels(kind=job.kind, end=end).inc()


def _not_settled(resolution: Resolution, failed: int, error: Exception) -> NotSettledError:
    said = bounded_text(str(error), 300)
    return NotSettledError(
        f"request {resolution.request_id} could not be answered, {failed} transactions failed: {said}"
    )


def _completion(job: Job, finished: Finished, attested: Attested) -> Completion:
    record = finished.record
    return Completion(
        job_id=job.job_id,
        attempt=job.attempt,
        success=record.success,
        output=finished.output,
        instructions=record.instructions,
        time_ms=record.time_ms,
        error=record.error,
        error_category=finished.error_category,
        attested=attested,
    )


def _without_record(job: Job, error: JobError) -> Completion:
    return Completion(
        job_id=job.job_id,
        attempt=job.attempt,
        success=False,
        output=b"",
        instructions=0,
        time_ms=0,
        error=bounded_text(error.message),
        error_category=str(error.category),
    )


def _with_tx(completion: Completion, tx_hash: str) -> Completion:
    return replace(completion, resolve_tx_hash=tx_hash)
