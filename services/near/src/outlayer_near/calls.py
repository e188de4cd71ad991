# SPDX-License-Identifier: MIT
"""Change methods of the contracts: one function per method, each building the action that calls it.

The actions are pure values: send one or several with ``Sender.send``. Deposits are in yoctoNEAR, gas in units.
JSON that must arrive as it is (an output) is taken as bytes and spliced in, never parsed and written again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from outlayer_near.errors import CodecError
from outlayer_near.models import (
    ExecutionSource,
    RequestParams,
    ResourceMetrics,
    ResponseFormat,
    SecretsReference,
    to_json_text,
)
from outlayer_near.primitives import FunctionCall

TGAS = 10**12
CALL_GAS = 100 * TGAS
# a request keeps gas for the callback of its yield, a registration verifies a whole quote
REQUEST_GAS = 300 * TGAS
RESOLVE_GAS = 300 * TGAS
REGISTER_GAS = 300 * TGAS


@dataclass(frozen=True)
class Output:
    """``ExecutionOutput`` as JSON text. Make it with ``json_output``, ``text_output`` or ``bytes_output``."""

    encoded: bytes


def json_output(value: bytes) -> Output:
    """An output that is JSON already; its bytes reach the contract unchanged."""
    if not value.strip():
        raise CodecError("a JSON output cannot be empty")
    return Output(b'{"Json":' + value + b"}")


def text_output(text: str) -> Output:
    return Output(_encode({"Text": text}))


def bytes_output(data: bytes) -> Output:
    return Output(_encode({"Bytes": list(data)}))


def _encode(value: Any) -> bytes:
    return to_json_text(value).encode()


def _call(method: str, args: dict[str, Any], *, gas: int = CALL_GAS, deposit: int = 0) -> FunctionCall:
    return FunctionCall(method, _encode(args), gas, deposit)


# -- main contract: executions -------------------------------------------------------------------------


def request_execution(
    source: ExecutionSource,
    *,
    input_data: str = "",
    resource_limits: dict[str, int] | None,
    response_format: ResponseFormat = "Text",
    secrets_ref: SecretsReference | None = None,
    payer_account_id: str | None = None,
    params: RequestParams | None = None,
    deposit: int,
    gas: int = REQUEST_GAS,
) -> FunctionCall:
    """Ask for an execution; ``resource_limits`` None asks for a compilation only, ``{}`` takes all defaults."""
    args = {
        "source": source.to_json(),
        "resource_limits": resource_limits,
        "input_data": input_data,
        "secrets_ref": None if secrets_ref is None else secrets_ref.model_dump(),
        "response_format": response_format,
        "payer_account_id": payer_account_id,
        "params": None if params is None else params.to_json(),
    }
    return _call("request_execution", args, gas=gas, deposit=deposit)


def cancel_stale_execution(request_id: int) -> FunctionCall:
    return _call("cancel_stale_execution", {"request_id": request_id})


def resolve_execution(
    request_id: int,
    *,
    success: bool,
    output: Output | None,
    resources: ResourceMetrics,
    error: str | None = None,
    compilation_note: str | None = None,
    refund_usd: int | None = None,
) -> FunctionCall:
    """Deliver a result that fits into what a yield is resumed with (1,024 bytes in all)."""
    fields = _result_fields(success, output, resources, error, compilation_note, refund_usd)
    args = b'{"request_id":%d,"response":{%s}}' % (request_id, fields)
    return FunctionCall("resolve_execution", args, RESOLVE_GAS, 0)


def submit_execution_output(request_id: int, output: Output) -> FunctionCall:
    """Store a large output on chain, to be delivered by a later resolve."""
    args = b'{"request_id":%d,"output":%s}' % (request_id, output.encoded)
    return FunctionCall("submit_execution_output", args, RESOLVE_GAS, 0)


def submit_execution_output_and_resolve(
    request_id: int,
    *,
    success: bool,
    output: Output,
    resources: ResourceMetrics,
    error: str | None = None,
    compilation_note: str | None = None,
    refund_usd: int | None = None,
) -> FunctionCall:
    """Deliver a large result; the refund travels on this path too (R7)."""
    fields = _result_fields(success, output, resources, error, compilation_note, refund_usd)
    args = b'{"request_id":%d,%s}' % (request_id, fields)
    return FunctionCall("submit_execution_output_and_resolve", args, RESOLVE_GAS, 0)


def _result_fields(
    success: bool,
    output: Output | None,
    resources: ResourceMetrics,
    error: str | None,
    compilation_note: str | None,
    refund_usd: int | None,
) -> bytes:
    members = {
        "success": _encode(success),
        "output": b"null" if output is None else output.encoded,
        "error": _encode(error),
        "resources_used": _encode(resources.model_dump()),
        "compilation_note": _encode(compilation_note),
        "refund_usd": _encode(refund_usd),
    }
    return b",".join(b'"%s":%s' % (name.encode(), value) for name, value in members.items())


# -- main contract: projects -----------------------------------------------------------------------------


def create_project(name: str, source: ExecutionSource, *, deposit: int) -> FunctionCall:
    """The deposit pays for storage; what is left comes back."""
    return _call("create_project", {"name": name, "source": source.to_json()}, deposit=deposit)


def add_version(
    project_name: str, source: ExecutionSource, *, set_active: bool, deposit: int
) -> FunctionCall:
    args = {"project_name": project_name, "source": source.to_json(), "set_active": set_active}
    return _call("add_version", args, deposit=deposit)


def set_active_version(project_name: str, version_key: str) -> FunctionCall:
    return _call("set_active_version", {"project_name": project_name, "version_key": version_key})


def remove_version(project_name: str, version_key: str) -> FunctionCall:
    return _call("remove_version", {"project_name": project_name, "version_key": version_key})


def delete_project(project_name: str) -> FunctionCall:
    return _call("delete_project", {"project_name": project_name})


def transfer_project(project_name: str, new_owner: str) -> FunctionCall:
    """Offer a project to another account; it stays where it is until that account accepts (R2)."""
    return _call("transfer_project", {"project_name": project_name, "new_owner": new_owner})


def accept_project(project_id: str) -> FunctionCall:
    return _call("accept_project", {"project_id": project_id})


# -- main contract: owner --------------------------------------------------------------------------------


def set_owner(new_owner_id: str) -> FunctionCall:
    return _call("set_owner", {"new_owner_id": new_owner_id})


def set_operator(new_operator_id: str) -> FunctionCall:
    return _call("set_operator", {"new_operator_id": new_operator_id})


def set_paused(paused: bool) -> FunctionCall:
    return _call("set_paused", {"paused": paused})


PricingField = Literal[
    "base_fee",
    "per_million_instructions_fee",
    "per_ms_fee",
    "per_compile_ms_fee",
    "base_fee_usd",
    "per_million_instructions_fee_usd",
    "per_sec_fee_usd",
    "per_compile_ms_fee_usd",
]


def set_pricing(changes: dict[PricingField, int]) -> FunctionCall:
    """Fees that are not named stay as they are."""
    return _call("set_pricing", {name: str(value) for name, value in changes.items()})


def set_payment_token_contract(payment_token_contract: str | None) -> FunctionCall:
    return _call("set_payment_token_contract", {"payment_token_contract": payment_token_contract})


def set_event_metadata(standard: str | None = None, version: str | None = None) -> FunctionCall:
    return _call("set_event_metadata", {"standard": standard, "version": version})


def emergency_cancel_execution(request_id: int) -> FunctionCall:
    return _call("emergency_cancel_execution", {"request_id": request_id})


def cancel_pending_requests(request_ids: Sequence[int]) -> FunctionCall:
    return _call("cancel_pending_requests", {"request_ids": list(request_ids)}, gas=REQUEST_GAS)


def clear_all_pending_requests(limit: int | None = None) -> FunctionCall:
    return _call("clear_all_pending_requests", {"limit": limit}, gas=REQUEST_GAS)


# -- register contract -----------------------------------------------------------------------------------


def register_worker_key(public_key: str, quote: bytes) -> FunctionCall:
    args = {"public_key": public_key, "tdx_quote_hex": quote.hex()}
    return _call("register_worker_key", args, gas=REGISTER_GAS)


def remove_expired_keys(public_keys: Sequence[str] | None = None) -> FunctionCall:
    keys = None if public_keys is None else list(public_keys)
    return _call("remove_expired_keys", {"public_keys": keys}, gas=REGISTER_GAS)


def remove_worker_keys(public_keys: Sequence[str]) -> FunctionCall:
    return _call("remove_worker_keys", {"public_keys": list(public_keys)}, gas=REGISTER_GAS)


def update_collateral(collateral: str) -> FunctionCall:
    return _call("update_collateral", {"collateral": collateral}, gas=REGISTER_GAS)


def add_measurement_set(
    measurements: dict[str, str],
    *,
    name: str | None = None,
    not_before: int | None = None,
    not_after: int | None = None,
) -> FunctionCall:
    """Times are unix seconds; None means no bound on that side."""
    args = {"measurements": measurements, "name": name, "not_before": not_before, "not_after": not_after}
    return _call("add_measurement_set", args)


def expire_measurement_set(set_id: int, not_after: int) -> FunctionCall:
    return _call("expire_measurement_set", {"id": set_id, "not_after": not_after})


def transfer_ownership(new_owner: str) -> FunctionCall:
    return _call("transfer_ownership", {"new_owner": new_owner})
