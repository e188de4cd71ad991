# SPDX-License-Identifier: MIT
"""The call that delivers a result to the contract (outlayer.md §1.4, §5.10), as exact bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from outlayer_near.calls.build import Output
from outlayer_near.calls.main import resolve_execution, submit_execution_output_and_resolve
from outlayer_near.models import ResourceMetrics
from outlayer_near.primitives import FunctionCall

# A yield is resumed with at most 1024 bytes; the margin is for the contract's own encoding of the response.
INLINE_LIMIT = 900


@dataclass(frozen=True)
class Resolution:
    """A result for one request. ``output`` is the JSON of ``ExecutionOutput``, None for a failure.

    ``record_sha256`` is the leaf of the run's record in hex, None when nothing was run.
    """

    request_id: int
    success: bool
    output: bytes | None
    error: str | None
    instructions: int
    time_ms: int
    refund_usd: int | None = None
    record_sha256: str | None = None


def resolve_call(resolution: Resolution) -> FunctionCall:
    """The call: inline when the response fits into the resumed yield, else through state."""
    inline = _inline_call(resolution)
    if len(inline.args) < INLINE_LIMIT:
        return inline
    if resolution.output is None:
        return _inline_call(_with_fitting_error(resolution))
    return submit_execution_output_and_resolve(
        resolution.request_id,
        success=resolution.success,
        output=Output(resolution.output),
        resources=_used(resolution),
        error=resolution.error,
        refund_usd=resolution.refund_usd,
        record_sha256=resolution.record_sha256,
    )


def _inline_call(resolution: Resolution) -> FunctionCall:
    return resolve_execution(
        resolution.request_id,
        success=resolution.success,
        output=None if resolution.output is None else Output(resolution.output),
        resources=_used(resolution),
        error=resolution.error,
        refund_usd=resolution.refund_usd,
        record_sha256=resolution.record_sha256,
    )


def _used(resolution: Resolution) -> ResourceMetrics:
    return ResourceMetrics(instructions=resolution.instructions, time_ms=resolution.time_ms)


def _with_fitting_error(resolution: Resolution) -> Resolution:
    """Cut the message of a failure, which has no other way than inline, to what fits: JSON may escape much of it.

    The record holds the whole message.
    """
    message = resolution.error or ""
    low, high = 0, len(message)
    while low < high:
        middle = (low + high + 1) // 2
        if len(_inline_call(replace(resolution, error=message[:middle])).args) < INLINE_LIMIT:
            low = middle
        else:
            high = middle - 1
    return replace(resolution, error=message[:low])
