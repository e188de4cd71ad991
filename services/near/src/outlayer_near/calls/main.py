# SPDX-License-Identifier: MIT
"""Change methods of the main contract (outlayer.md §1.4-1.9)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from outlayer_near.calls.build import (
    ONE_YOCTO,
    REQUEST_GAS,
    RESOLVE_GAS,
    Output,
    call,
    encode,
)
from outlayer_near.errors import CodecError
from outlayer_near.models import (
    AccessCondition,
    DepositMessage,
    Done,
    ExecutionSource,
    Failed,
    RequestParams,
    ResourceMetrics,
    ResponseFormat,
    SecretAccessor,
    SecretsReference,
    Success,
    TopUpMessage,
    to_json_text,
)
from outlayer_near.primitives import FunctionCall

PROJECT_MOVE_DEPOSIT = 10**22
"""YoctoNEAR (0.01 NEAR) that suffice for any project to change hands; what is left comes back."""


def new(
    owner_id: str,
    operator_id: str | None = None,
    event_standard: str | None = None,
    event_version: str | None = None,
) -> FunctionCall:
    """Make the state of a fresh contract; the operator is the owner unless another is named."""
    args = {
        "owner_id": owner_id,
        "operator_id": operator_id,
        "event_standard": event_standard,
        "event_version": event_version,
    }
    return call("new", args)


# -- executions ------------------------------------------------------------------------------------------


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
    return call("request_execution", args, gas=gas, deposit=deposit)


def cancel_stale_execution(request_id: int) -> FunctionCall:
    return call("cancel_stale_execution", {"request_id": request_id})


def resolve_execution(
    request_id: int,
    *,
    success: bool,
    output: Output | None,
    resources: ResourceMetrics,
    error: str | None = None,
    compilation_note: str | None = None,
    refund_usd: int | None = None,
    record_sha256: str | None = None,
) -> FunctionCall:
    """Deliver a result that fits into what a yield is resumed with (1,024 bytes in all).

    ``record_sha256`` is the leaf of the run's task record, which the request's last event carries.
    """
    fields = _result_fields(success, output, resources, error, compilation_note, refund_usd)
    args = b'{"request_id":%d,"response":{%s}%s}' % (request_id, fields, _record(record_sha256))
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
    record_sha256: str | None = None,
) -> FunctionCall:
    """Deliver a large result; refund (R7) and record travel on this path too."""
    fields = _result_fields(success, output, resources, error, compilation_note, refund_usd)
    args = b'{"request_id":%d,%s%s}' % (request_id, fields, _record(record_sha256))
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
        "success": encode(success),
        "output": b"null" if output is None else output.encoded,
        "error": encode(error),
        "resources_used": encode(resources.model_dump()),
        "compilation_note": encode(compilation_note),
        "refund_usd": encode(refund_usd),
    }
    return b",".join(b'"%s":%s' % (name.encode(), value) for name, value in members.items())


def _record(leaf: str | None) -> bytes:
    """One more member, for contracts that know it; a call without a record is as it was before there was one."""
    if leaf is None:
        return b""
    if re.fullmatch("[0-9a-f]{64}", leaf) is None:
        raise CodecError(
            "record_sha256 is not 64 lower-case hex digits",
            hint="give the leaf hash of the task record in hex",
        )
    return b',"record_sha256":' + encode(leaf)


# -- projects --------------------------------------------------------------------------------------------


def create_project(name: str, source: ExecutionSource, *, deposit: int) -> FunctionCall:
    """The deposit pays for storage; what is left comes back."""
    return call("create_project", {"name": name, "source": source.to_json()}, deposit=deposit)


def add_version(
    project_name: str, source: ExecutionSource, *, set_active: bool, deposit: int
) -> FunctionCall:
    args = {"project_name": project_name, "source": source.to_json(), "set_active": set_active}
    return call("add_version", args, deposit=deposit)


def set_active_version(project_name: str, version_key: str) -> FunctionCall:
    return call("set_active_version", {"project_name": project_name, "version_key": version_key})


def remove_version(project_name: str, version_key: str) -> FunctionCall:
    return call("remove_version", {"project_name": project_name, "version_key": version_key})


def delete_project(project_name: str) -> FunctionCall:
    return call("delete_project", {"project_name": project_name})


def transfer_project(project_name: str, new_owner: str) -> FunctionCall:
    """Offer a project to another account; it stays where it is until that account accepts (R2)."""
    return call("transfer_project", {"project_name": project_name, "new_owner": new_owner})


def cancel_project_transfer(project_name: str) -> FunctionCall:
    return call("cancel_project_transfer", {"project_name": project_name})


def accept_project(project_id: str, *, deposit: int = PROJECT_MOVE_DEPOSIT) -> FunctionCall:
    """Take a project that was offered. The deposit pays for what it occupies more under its new owner's name."""
    return call("accept_project", {"project_id": project_id}, deposit=deposit)


# -- secrets ---------------------------------------------------------------------------------------------


def store_secrets(
    accessor: SecretAccessor,
    profile: str,
    encrypted_secrets_base64: str,
    access: AccessCondition,
    *,
    deposit: int,
) -> FunctionCall:
    """Store or overwrite; the deposit pays for storage, what is left comes back."""
    args = {
        "accessor": accessor.to_json(),
        "profile": profile,
        "encrypted_secrets_base64": encrypted_secrets_base64,
        "access": access.to_json(),
    }
    return call("store_secrets", args, deposit=deposit)


def delete_secrets(accessor: SecretAccessor, profile: str) -> FunctionCall:
    return call("delete_secrets", {"accessor": accessor.to_json(), "profile": profile})


def update_access(
    accessor: SecretAccessor, profile: str, new_access: AccessCondition, *, deposit: int = 0
) -> FunctionCall:
    """A larger condition needs a deposit, a smaller one gives some back (R5)."""
    args = {"accessor": accessor.to_json(), "profile": profile, "new_access": new_access.to_json()}
    return call("update_access", args, deposit=deposit)


# -- payments in USD -------------------------------------------------------------------------------------


def ft_on_transfer(sender_id: str, amount: int, msg: TopUpMessage | DepositMessage) -> FunctionCall:
    """What the stablecoin contract calls when tokens arrive (NEP-141); from another account it credits nothing."""
    args = {"sender_id": sender_id, "amount": str(amount), "msg": transfer_message(msg)}
    return call("ft_on_transfer", args)


def transfer_message(message: TopUpMessage | DepositMessage) -> str:
    """``msg`` of an ``ft_transfer_call`` to the main contract."""
    return to_json_text(message.to_json())


def resume_topup(data_id: bytes, result: Success | Failed) -> FunctionCall:
    """The operator's end of a top-up: the key's new ciphertext, or why there is none. ``data_id``: 32 bytes."""
    args = {"data_id": _hex32(data_id), "result": result.to_json()}
    return call("resume_topup", args, gas=RESOLVE_GAS)


def delete_payment_key(nonce: int) -> FunctionCall:
    return call("delete_payment_key", {"nonce": nonce}, deposit=ONE_YOCTO, gas=REQUEST_GAS)


def resume_delete_payment_key(data_id: bytes, result: Done | Failed) -> FunctionCall:
    args = {"data_id": _hex32(data_id), "result": result.to_json()}
    return call("resume_delete_payment_key", args, gas=RESOLVE_GAS)


def top_up_payment_key_with_near(nonce: int, swap_contract_id: str, *, deposit: int) -> FunctionCall:
    """Buy stablecoin through the swap contract that the owner chose; credited is what that then sends (R9)."""
    args = {"nonce": nonce, "swap_contract_id": swap_contract_id}
    return call("top_up_payment_key_with_near", args, deposit=deposit, gas=REQUEST_GAS)


def top_up_payment_key_with_token(
    nonce: int, token_id: str, amount: int, swap_contract_id: str
) -> FunctionCall:
    """Refused (R9): an amount that is only stated is never credited."""
    args = {
        "nonce": nonce,
        "token_id": token_id,
        "amount": str(amount),
        "swap_contract_id": swap_contract_id,
    }
    return call("top_up_payment_key_with_token", args, deposit=ONE_YOCTO, gas=REQUEST_GAS)


def withdraw_developer_earnings() -> FunctionCall:
    return call("withdraw_developer_earnings", {}, deposit=ONE_YOCTO, gas=REQUEST_GAS)


def credit_https_earnings(
    batch_id: str, entries: Sequence[tuple[str, int]], fees: int = 0, *, deposit: int
) -> FunctionCall:
    """Move what HTTPS calls cost, in micro-USD, from the payment keys' funds to developers, and ``fees`` to the owner.

    By the settlement account. A batch counts once, and answers whether it did now. The deposit pays for new entries
    of state; what is left comes back.
    """
    args = {
        "batch_id": batch_id,
        "entries": [[account_id, str(amount)] for account_id, amount in entries],
        "fees": str(fees),
    }
    return call("credit_https_earnings", args, deposit=deposit)


def _hex32(data_id: bytes) -> str:
    if len(data_id) != 32:
        raise CodecError(f"a data id is 32 bytes, found {len(data_id)}")
    return data_id.hex()


# -- owner -----------------------------------------------------------------------------------------------


def set_owner(new_owner_id: str) -> FunctionCall:
    return call("set_owner", {"new_owner_id": new_owner_id})


def set_operator(new_operator_id: str) -> FunctionCall:
    return call("set_operator", {"new_operator_id": new_operator_id})


def set_paused(paused: bool) -> FunctionCall:
    return call("set_paused", {"paused": paused})


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
    return call("set_pricing", {name: str(value) for name, value in changes.items()})


def set_payment_token_contract(token_contract: str) -> FunctionCall:
    return call("set_payment_token_contract", {"token_contract": token_contract})


def clear_payment_token_contract() -> FunctionCall:
    return call("clear_payment_token_contract", {})


def set_max_memory_mb(max_memory_mb: int) -> FunctionCall:
    """Refuse requests for more MiB of memory: no worker would run them."""
    return call("set_max_memory_mb", {"max_memory_mb": max_memory_mb})


def set_swap_contract(swap_contract_id: str) -> FunctionCall:
    """Let ``top_up_payment_key_with_near`` work, through this contract."""
    return call("set_swap_contract", {"swap_contract_id": swap_contract_id})


def clear_swap_contract() -> FunctionCall:
    return call("clear_swap_contract", {})


def set_settlement_account(account_id: str) -> FunctionCall:
    """Name the account that may call ``credit_https_earnings``; not the operator."""
    return call("set_settlement_account", {"account_id": account_id})


def clear_settlement_account() -> FunctionCall:
    return call("clear_settlement_account", {})


def withdraw_fees(amount: int | None = None) -> FunctionCall:
    """Send the owner yoctoNEAR of charged fees, by default all that may go."""
    args = {"amount": None if amount is None else str(amount)}
    return call("withdraw_fees", args, deposit=ONE_YOCTO)


def withdraw_stablecoin_fees(amount: int | None = None) -> FunctionCall:
    """Send the owner micro-USD of the pool of fees, by default all of it."""
    args = {"amount": None if amount is None else str(amount)}
    return call("withdraw_stablecoin_fees", args, deposit=ONE_YOCTO)


def adopt_balances(account_ids: Sequence[str]) -> FunctionCall:
    """Count what accounts have in an older state; happens by itself at their first use. Anyone may."""
    return call("adopt_balances", {"account_ids": list(account_ids)})


def set_event_metadata(standard: str | None = None, version: str | None = None) -> FunctionCall:
    return call("set_event_metadata", {"standard": standard, "version": version})


def emergency_cancel_execution(request_id: int) -> FunctionCall:
    return call("emergency_cancel_execution", {"request_id": request_id})


def cancel_pending_requests(request_ids: Sequence[int]) -> FunctionCall:
    return call("cancel_pending_requests", {"request_ids": list(request_ids)}, gas=REQUEST_GAS)


def clear_all_pending_requests(limit: int | None = None) -> FunctionCall:
    return call("clear_all_pending_requests", {"limit": limit}, gas=REQUEST_GAS)


def migrate() -> FunctionCall:
    """Bring the state to the version of the deployed code; the contract calls this itself."""
    return call("migrate", {}, gas=REQUEST_GAS)


def migrate_requests(limit: int | None = None) -> FunctionCall:
    """Carry requests of an older state over, as many as the gas allows; answers how many are left. Anyone may."""
    return call("migrate_requests", {"limit": limit}, gas=REQUEST_GAS)
