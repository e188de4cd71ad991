# SPDX-License-Identifier: MIT
"""What the commands do on chain: deploy projects, request executions."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from outlayer_cli.api import Api
from outlayer_cli.errors import CliError, UsageError
from outlayer_cli.session import Session
from outlayer_near.calls import main as calls
from outlayer_near.calls.caller import ask
from outlayer_near.credentials import load_credentials
from outlayer_near.errors import NoSuchMethodError
from outlayer_near.events import (
    RequestEvent,
    Settlement,
    charge_of,
    requests_of_transaction,
    settlement_of,
)
from outlayer_near.models import (
    STORAGE_BYTE_PRICE,
    ExecutionSource,
    Project,
    SizeLimits,
    project_source,
    wasm_url_source,
)
from outlayer_near.nep413 import sign_message
from outlayer_near.primitives import FunctionCall
from outlayer_near.rpc import NearRpc
from outlayer_near.sender import Sender, TxOutcome
from outlayer_near.views import OutlayerViews

# the contract's storage prices: outlayer.md §1.5; what is attached above the cost comes back
STORAGE_DEPOSIT = 10**23
# what a waiting request occupies beside its input is about 400 bytes; names and sources of the longest kind fit too
_RECORD_BYTES = 4_000
MAX_WASM_BYTES = 64 * 1024 * 1024
_WASM_MAGIC = b"\0asm"


def read_wasm(path: Path) -> bytes:
    """The code to deploy. Raises ``UsageError`` for what cannot be a WASM module or component."""
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    if path.stat().st_size > MAX_WASM_BYTES:
        raise UsageError(f"{path} has {path.stat().st_size} bytes; the limit is {MAX_WASM_BYTES}")
    code = path.read_bytes()
    if not code.startswith(_WASM_MAGIC):
        raise UsageError(
            f"{path} is not a WASM module or component", hint="build for wasm32-wasip1 or -wasip2"
        )
    return code


async def deploy_project(
    session: Session, name: str, wasm: Path, account: str, *, activate: bool
) -> dict[str, Any]:
    """Upload code and make a project of it, or a new version of the project that is there."""
    stack = session.stack
    code = read_wasm(wasm)
    credentials = load_credentials(session.account_file(account))
    sha256 = hashlib.sha256(code).hexdigest()
    signed = sign_message(
        account, credentials.key_pair, f"upload {sha256}", _recipient(stack.coordinator_url)
    )
    headers = {
        "X-Near-Account": signed.account_id,
        "X-Near-Public-Key": signed.public_key,
        "X-Near-Nonce": signed.nonce,
        "X-Near-Signature": signed.signature,
        "Content-Type": "application/wasm",
    }
    with Api(stack.coordinator_url) as api:
        api.expect(api.request("PUT", f"/wasm/{sha256}", headers=headers, content=code))
    source = wasm_url_source(f"{stack.coordinator_url}/wasm/{sha256}", sha256)
    project_id = f"{account}/{name}"
    async with NearRpc(stack.rpc_url) as rpc:
        views = OutlayerViews(rpc, stack.contract_id)
        sender = Sender(rpc, account, credentials.key_pair)
        project = await views.get_project(project_id)
        action = await _code_change(views, project, name, source, sha256, activate)
        outcome = None if action is None else await sender.send(stack.contract_id, [action])
    return {
        "project_id": project_id,
        "version_key": sha256,
        "wasm_sha256": sha256,
        "bytes": len(code),
        "tx_hash": outcome.tx_hash if outcome else None,
    }


async def _code_change(
    views: OutlayerViews,
    project: Project | None,
    name: str,
    source: ExecutionSource,
    version_key: str,
    activate: bool,
) -> FunctionCall | None:
    """The one call that is needed; None when the chain has this code as it is asked for."""
    if project is None:
        return calls.create_project(name, source, deposit=STORAGE_DEPOSIT)
    if await views.get_version(project.project_id, version_key) is None:
        return calls.add_version(name, source, set_active=activate, deposit=STORAGE_DEPOSIT)
    if activate and project.active_version != version_key:
        return calls.set_active_version(name, version_key)
    return None


def _recipient(url: str) -> str:
    """Whom an upload is signed for: host and port of the API."""
    return url.split("://", 1)[-1].rstrip("/")


async def list_projects(session: Session, account: str) -> list[dict[str, Any]]:
    async with NearRpc(session.stack.rpc_url) as rpc:
        projects = await OutlayerViews(rpc, session.stack.contract_id).list_user_projects(account)
    return [project.model_dump() for project in projects]


async def show_project(session: Session, project_id: str) -> dict[str, Any]:
    async with NearRpc(session.stack.rpc_url) as rpc:
        views = OutlayerViews(rpc, session.stack.contract_id)
        project = await views.get_project(project_id)
        if project is None:
            raise CliError(f"there is no project {project_id}", hint="see: outlayer project list ACCOUNT")
        versions = await views.list_versions(project_id, limit=100)
    rows = [
        {
            "version_key": item.wasm_hash,
            "active": item.is_active,
            "source": item.source.to_json(),
            "added_at": item.added_at,
        }
        for item in versions
    ]
    return {**project.model_dump(), "versions": rows}


def deposit_for(compute: int, base_fee: int, limits: SizeLimits | None, input_bytes: int) -> int:
    """YoctoNEAR to attach to a request, so that it is taken and pays for whatever answer comes.

    It covers the run at its limits, the input, the largest answer, and the state that the request occupies while
    it waits: what is not used of it comes back. ``limits`` None: a contract that prices the run alone, and an
    input by its bytes.
    """
    occupied = (input_bytes + _RECORD_BYTES) * STORAGE_BYTE_PRICE
    if limits is None:
        return compute + occupied
    sizes = input_bytes * limits.input_byte_price + limits.output_price(limits.max_output_bytes)
    return max(max(compute, base_fee) + sizes, occupied)


async def request_execution(
    session: Session, project: str, text: str, account: str, via: str | None, limits: dict[str, int]
) -> dict[str, Any]:
    """Request an execution, directly or through a caller contract, and wait for its value.

    Amounts of the reply are yoctoNEAR as decimal text; ``payer`` is who gets back what was not charged.
    """
    stack = session.stack
    credentials = load_credentials(session.account_file(account))
    async with NearRpc(stack.rpc_url) as rpc:
        views = OutlayerViews(rpc, stack.contract_id)
        if await views.get_project(project) is None:
            raise CliError(f"there is no project {project}", hint="see: outlayer project list ACCOUNT")
        deposit = await _deposit(views, limits, len(text.encode()))
        sender = Sender(rpc, account, credentials.key_pair)
        if via:
            action = ask(project, text, response_format="Json", resource_limits=limits, deposit=deposit)
        else:
            action = calls.request_execution(
                project_source(project),
                input_data=text,
                resource_limits=limits,
                response_format="Json",
                deposit=deposit,
            )
        outcome = await sender.send(via or stack.contract_id, [action], timeout=240)
        status = await rpc.transaction(outcome.tx_hash, account, receipts=True)
    request, settled = settlement_in(status, stack.contract_id)
    value = _value_of(outcome)
    charged, refunded = money_of(status, stack.contract_id, request, settled)
    return {
        "tx_hash": outcome.tx_hash,
        "request_id": None if request is None else request.request.request_id,
        "value": value,
        "success": has_succeeded(settled, value),
        "gas_burnt": outcome.gas_burnt,
        "error": None if has_succeeded(settled, value) else failure_of(settled),
        "payer": via or account,
        "attached": str(deposit),
        "charged": charged,
        "refunded": refunded,
    }


async def _deposit(views: OutlayerViews, limits: dict[str, int], input_bytes: int) -> int:
    compute = await views.estimate_execution_cost(limits)
    base_fee, *_ = await views.get_pricing()
    try:
        sizes = await views.get_size_limits()
    except NoSuchMethodError:
        return deposit_for(compute, base_fee, None, input_bytes)
    if input_bytes > sizes.max_input_bytes:
        raise UsageError(
            f"the input is {input_bytes} bytes; the contract takes {sizes.max_input_bytes}",
            hint="give less, or a URL that the app fetches",
        )
    return deposit_for(compute, base_fee, sizes, input_bytes)


def settlement_in(status: dict[str, Any], contract_id: str) -> tuple[RequestEvent | None, Settlement | None]:
    """The first request of an ``EXPERIMENTAL_tx_status`` answer, and how that very request ended."""
    request = next(requests_of_transaction(status, contract_id), None)
    return request, None if request is None else settlement_of(status, contract_id, request)


def money_of(
    status: dict[str, Any], contract_id: str, request: RequestEvent | None, settled: Settlement | None
) -> tuple[str | None, str | None]:
    """What a request was charged, and what came back; None for what is not known."""
    if request is None or settled is None:
        return None, None
    if settled.charged is not None and settled.refunded is not None:
        return str(settled.charged), str(settled.refunded)
    # it timed out, or its last event was too long to log
    charged = charge_of(status, contract_id, request.request.request_id)
    return (None, None) if charged is None else (str(charged), str(request.request.payment - charged))


def has_succeeded(settled: Settlement | None, value: Any) -> bool:
    """By the contract's own word where there is one; by the value where it told its word elsewhere, or none."""
    if settled is None or settled.success is None:
        return value is not None
    return settled.success


def failure_of(settled: Settlement | None) -> str | None:
    """Why an execution has no value, if that is known."""
    if settled is None or settled.success:
        return None
    if settled.success is None:
        return "nobody answered the request in time; its payment came back but for the base fee"
    return settled.error or "the execution failed"


def _value_of(outcome: TxOutcome) -> Any:
    """What the transaction returned. Raises ``CliError`` when that is not JSON."""
    try:
        return outcome.json()
    except (ValueError, RecursionError) as error:
        raise CliError(
            f"transaction {outcome.tx_hash} returned something else than JSON",
            hint="see that --via names a contract with the caller example's 'ask'",
        ) from error
