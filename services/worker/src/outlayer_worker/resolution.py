# SPDX-License-Identifier: MIT
"""The call that delivers a result to the contract (outlayer.md §1.4, §5.10), as exact bytes."""

from __future__ import annotations

from dataclasses import dataclass

from outlayer_worker.output import json_string

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


def resolve_call(resolution: Resolution) -> tuple[str, bytes]:
    """Method and JSON arguments: inline when the response fits into the resumed yield, else through state."""
    response = _response(resolution)
    request = b'{"request_id":%d' % resolution.request_id
    if len(response) < INLINE_LIMIT or resolution.output is None:
        return "resolve_execution", request + b',"response":' + response + b"}"
    return "submit_execution_output_and_resolve", request + b"," + _fields(resolution) + b"}"


def _response(resolution: Resolution) -> bytes:
    return b"{" + _fields(resolution) + b"}"


def _fields(resolution: Resolution) -> bytes:
    used = b'{"instructions":%d,"time_ms":%d,"compile_time_ms":null}' % (
        resolution.instructions,
        resolution.time_ms,
    )
    refund = b"null" if resolution.refund_usd is None else b"%d" % resolution.refund_usd
    return b",".join(
        (
            b'"success":' + (b"true" if resolution.success else b"false"),
            b'"output":' + (resolution.output if resolution.output is not None else b"null"),
            b'"error":' + (json_string(resolution.error) if resolution.error is not None else b"null"),
            b'"resources_used":' + used,
            b'"compilation_note":null',
            b'"refund_usd":' + refund,
        )
    )
