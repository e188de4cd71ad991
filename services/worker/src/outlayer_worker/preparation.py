# SPDX-License-Identifier: MIT
"""From a job and what the chain says about it to one run, and from a run to its record. No input or output here."""

from __future__ import annotations

from dataclasses import dataclass, replace

from outlayer_attestation.record import TaskRecordV2, clip_error, sha256_hex
from outlayer_near.models import ExecutionSource, WasmUrlSource
from outlayer_near.rpc import Header
from outlayer_worker.chain import YIELD_BLOCKS, AnswerPrices, ChainRequest, ResolvedProject
from outlayer_worker.errors import JobError
from outlayer_worker.executor.model import MIB, Limits, RunResult
from outlayer_worker.executor.pool import RunRequest
from outlayer_worker.guest_env import GuestContext, ProjectContext, guest_environment
from outlayer_worker.jobs import HttpsCall, Job, ResourceLimits
from outlayer_worker.output import HTTPS_FAILURE, NEAR_FAILURE, ResponseFormat, near_output

# for the quote, the transaction and the blocks it takes to run
MARGIN_BLOCKS = 12
MARGIN_SECONDS = 2.0
SHORTEST_RUN_SECONDS = 0.5
OUTPUT_TOO_LARGE = "output_too_large"


@dataclass(frozen=True)
class HostLimits:
    """What this worker allows at most, whatever a request says."""

    max_memory_mb: int
    max_seconds: float
    output_bytes: int
    near_output_bytes: int


@dataclass(frozen=True)
class Place:
    """Where a run takes place: part of every record."""

    network_id: str
    contract_id: str
    worker_key: str


@dataclass(frozen=True)
class Moment:
    """When a record is made: unix seconds by this machine's clock, and a recent final block of the chain."""

    timestamp: int
    anchor: Header


@dataclass(frozen=True)
class AnswerBounds:
    """What decides whether the contract takes a request's answer. Amounts in yoctoNEAR."""

    prices: AnswerPrices
    payment: int
    stored_input_bytes: int

    def problem(self, size: int) -> str | None:
        """Why an answer of this many bytes would be refused; None when it would be taken."""
        limits = self.prices.limits
        if size > limits.max_output_bytes:
            return (
                f"the output is {size} bytes as JSON, the contract delivers at most {limits.max_output_bytes}"
            )
        if size <= limits.free_output_bytes:
            return None
        needed = self.prices.needed(size, self.stored_input_bytes)
        if self.payment < needed:
            return (
                f"the request's payment of {self.payment} yoctoNEAR does not pay for an output of {size} bytes: "
                f"it needs {needed} yoctoNEAR"
            )
        return None


@dataclass(frozen=True)
class Prepared:
    """One run, ready to start. ``response_format`` is None for HTTPS, where stdout is delivered as it is.

    ``bounds`` are None for HTTPS, and where the contract tells none.
    """

    code: WasmUrlSource
    request: RunRequest
    subject: TaskRecordV2
    response_format: ResponseFormat | None
    bounds: AnswerBounds | None = None


@dataclass(frozen=True)
class Finished:
    """One run, done. ``near_output`` is the argument for the contract, None for a failure and for HTTPS."""

    record: TaskRecordV2
    output: bytes
    near_output: bytes | None
    error_category: str | None


def prepare_https(
    job: Job, call: HttpsCall, project: ResolvedProject, host: HostLimits, place: Place
) -> Prepared:
    """The run of an HTTPS call. Raises ``JobError`` when it cannot be run here."""
    _check_secrets(call.secrets_ref)
    limits = job.limits
    context = GuestContext(
        execution_type="HTTPS",
        network_id=place.network_id,
        sender_id=call.payment_key_owner,
        user_account_id=call.payment_key_owner,
        max_instructions=limits.max_instructions,
        max_memory_mb=limits.max_memory_mb,
        max_execution_seconds=limits.max_execution_seconds,
        usd_payment=str(call.attached_deposit_usd),
        call_id=call.call_id,
        project=project.context,
    )
    code = wasm_url(project.source)
    subject = _subject(job, code, limits, call.input, place)
    subject = replace(
        subject,
        call_id=call.call_id,
        caller=call.payment_key_owner,
        payment_key_owner=call.payment_key_owner,
        payment_key_nonce=call.payment_key_nonce,
        project_id=project.context.project_id,
        project_uuid=project.context.uuid,
        version_key=project.version_key,
        attached_usd=call.attached_deposit_usd,
    )
    run_limits = _run_limits(limits, host, host.output_bytes, host.max_seconds)
    return Prepared(code, RunRequest(call.input, guest_environment(context), run_limits), subject, None)


def prepare_near(
    job: Job,
    found: ChainRequest,
    host: HostLimits,
    seconds: float,
    place: Place,
    prices: AnswerPrices | None = None,
) -> Prepared:
    """The run of a NEAR request; everything comes from the chain. Raises ``JobError`` as ``prepare_https``.

    With ``prices`` an answer that the contract would refuse is not even sent.
    """
    event, asked = found.event, found.event.request
    if asked.compile_only:
        raise JobError("unsupported_source", "this deployment has no compiler: compile-only is not available")
    secrets = asked.secrets_ref
    _check_secrets(None if secrets is None else f"{secrets.account_id}/{secrets.profile}")
    limits = ResourceLimits(
        asked.resource_limits.max_instructions,
        asked.resource_limits.max_memory_mb,
        asked.resource_limits.max_execution_seconds,
    )
    project = None
    if asked.project_id is not None and asked.project_uuid is not None:
        project = ProjectContext(asked.project_id, asked.project_uuid)
    context = GuestContext(
        execution_type="NEAR",
        network_id=place.network_id,
        sender_id=event.signer_id,
        user_account_id=event.signer_id,
        max_instructions=limits.max_instructions,
        max_memory_mb=limits.max_memory_mb,
        max_execution_seconds=limits.max_execution_seconds,
        payment_yocto=str(asked.payment),
        attached_usd=str(asked.attached_usd),
        near=(
            place.contract_id,
            str(event.block_height),
            str(event.block_timestamp),
            event.receipt_id,
            event.predecessor_id,
            event.signer_public_key,
            str(event.gas_burnt),
            event.tx_hash,
            str(asked.request_id),
        ),
        project=project,
    )
    code = wasm_url(asked.code_source)
    subject = replace(
        _subject(job, code, limits, found.input, place),
        request_id=asked.request_id,
        transaction_hash=event.tx_hash,
        receipt_id=event.receipt_id,
        caller=event.predecessor_id,
        signer_id=event.signer_id,
        project_id=asked.project_id,
        project_uuid=asked.project_uuid,
        version_key=code.hash if project is not None else None,
        attached_usd=asked.attached_usd,
        block_height=event.block_height,
    )
    run_limits = _run_limits(limits, host, host.near_output_bytes, seconds)
    request = RunRequest(found.input, guest_environment(context), run_limits)
    bounds = None
    if prices is not None:
        stored = len(found.input) if asked.input_data_in_state else 0
        bounds = AnswerBounds(prices, asked.payment, stored)
    return Prepared(code, request, subject, ResponseFormat(asked.response_format), bounds)


def near_seconds(found: ChainRequest, head: Header, host: HostLimits, block_seconds: float) -> float:
    """How long a NEAR run may take so that its result arrives before the yield expires, 200 blocks after it.

    Counted in blocks, which come every ``block_seconds``, or faster when the chain has been seen to be faster.
    Raises ``JobError`` (too_late) when there is not enough time to run anything.
    """
    event = found.event
    passed = head.height - event.block_height
    left = event.block_height + YIELD_BLOCKS - head.height - MARGIN_BLOCKS
    pace = block_seconds
    if passed >= 10:
        pace = min(pace, max(0.0, head.timestamp_ns - event.block_timestamp) / 1e9 / passed)
    seconds = min(left * pace - MARGIN_SECONDS, host.max_seconds)
    if seconds < SHORTEST_RUN_SECONDS:
        raise JobError("too_late", "the request expires on chain before it could be run")
    return seconds


def wasm_url(source: ExecutionSource) -> WasmUrlSource:
    """The code's address and hash. Raises ``JobError`` for a source that would have to be compiled first."""
    if source.wasm_url is None:
        raise JobError(
            "unsupported_source", "the code's source is GitHub, and this deployment has no compiler"
        )
    code = source.wasm_url
    if len(code.hash) != 64 or not set(code.hash) <= set("0123456789abcdef"):
        raise JobError("invalid_wasm", "the code's hash on chain is not a SHA-256 in lower-case hex")
    return code


def _check_secrets(reference: str | None) -> None:
    if reference is not None:
        raise JobError("access_denied", "this deployment has no keystore: requests with secrets cannot run")


def _run_limits(limits: ResourceLimits, host: HostLimits, output_bytes: int, seconds: float) -> Limits:
    if limits.max_memory_mb > host.max_memory_mb:
        raise JobError(
            "limits_exceeded",
            f"the request asks for {limits.max_memory_mb} MiB of memory, executors have {host.max_memory_mb}",
        )
    return Limits(
        instructions=limits.max_instructions,
        memory_bytes=limits.max_memory_mb * MIB,
        seconds=min(float(limits.max_execution_seconds), host.max_seconds, seconds),
        output_bytes=output_bytes,
    )


def _subject(
    job: Job, code: WasmUrlSource, limits: ResourceLimits, data: bytes, place: Place
) -> TaskRecordV2:
    """What is known before the run; the rest is filled in by ``finish``."""
    return TaskRecordV2(
        network_id=place.network_id,
        contract_id=place.contract_id,
        job_id=job.job_id,
        code_url=code.url,
        wasm_sha256=code.hash,
        input_sha256=sha256_hex(data),
        output_sha256=sha256_hex(b""),
        success=False,
        instructions=0,
        time_ms=0,
        max_instructions=limits.max_instructions,
        max_memory_mb=limits.max_memory_mb,
        max_execution_seconds=limits.max_execution_seconds,
        anchor_hash="",
        anchor_height=0,
        anchor_time=0,
        timestamp=0,
        worker_public_key=place.worker_key,
    )


def finish(prepared: Prepared, result: RunResult, made: Moment) -> Finished:
    """The outcome of a run: what is delivered, and the record that says so."""
    if result.category is not None:
        return fail(prepared, result, made, result.category, result.message)
    output, argument = result.output, None
    if prepared.response_format is not None:
        try:
            converted = near_output(result.output, prepared.response_format)
        except JobError as error:
            return fail(prepared, result, made, error.category, error.message)
        output, argument = converted.delivered, converted.argument
        problem = None if prepared.bounds is None else prepared.bounds.problem(len(output))
        if problem is not None:
            return fail(prepared, result, made, OUTPUT_TOO_LARGE, problem)
    record = _with_result(prepared, result, made, output, error=None)
    return Finished(record, output, argument, None)


def fail(prepared: Prepared, result: RunResult, made: Moment, category: str, message: str) -> Finished:
    """The outcome of a run whose result is not delivered."""
    output = HTTPS_FAILURE if prepared.response_format is None else NEAR_FAILURE
    record = _with_result(prepared, result, made, output, error=clip_error(message))
    return Finished(record, output, None, str(category))


def _with_result(
    prepared: Prepared, result: RunResult, made: Moment, output: bytes, *, error: str | None
) -> TaskRecordV2:
    return replace(
        prepared.subject,
        output_sha256=sha256_hex(output),
        success=error is None,
        error=error,
        instructions=result.instructions,
        time_ms=result.time_ms,
        anchor_hash=made.anchor.hash,
        anchor_height=made.anchor.height,
        anchor_time=made.anchor.time,
        timestamp=made.timestamp,
    )
