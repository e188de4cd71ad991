# SPDX-License-Identifier: MIT
"""The call that delivers a result to the contract (outlayer.md §1.4, §5.10), as exact bytes."""

from __future__ import annotations

from dataclasses import dataclass

from outlayer_near.calls.build import Output
from outlayer_near.calls.main import resolve_execution, submit_execution_output_and_resolve
from outlayer_near.models import ResourceMetrics
from outlayer_near.primitives import FunctionCall

# A yield is resumed with at most 1024 bytes; the margin is for the contract's own encoding of the response.
INLINE_LIMIT = 900


@dataclass(frozen=True)
class Resolution:
    """A result for one request. ``output`` is the JSON of ``ExecutionOutput``, None for a failure."""

    request_id: int
    success: bool
    output: bytes | None
    error: str | None
    instructions: int
    time_ms: int
    refund_usd: int | None = None


def resolve_call(resolution: Resolution) -> FunctionCall:
    """The call: inline when the response fits into the resumed yield, else through state."""
    output = None if resolution.output is None else Output(resolution.output)
    used = ResourceMetrics(instructions=resolution.instructions, time_ms=resolution.time_ms)
    inline = resolve_execution(
        resolution.request_id,
        success=resolution.success,
        output=output,
        resources=used,
        error=resolution.error,
        refund_usd=resolution.refund_usd,
    )
    if output is None or len(inline.args) < INLINE_LIMIT:
        return inline
    return submit_execution_output_and_resolve(
        resolution.request_id,
        success=resolution.success,
        output=output,
        resources=used,
        error=resolution.error,
        refund_usd=resolution.refund_usd,
    )
