# SPDX-License-Identifier: MIT
"""The ``query`` method: accounts, access keys, code, contract state, view calls."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from outlayer_localnet import rpcparams as read
from outlayer_localnet import views
from outlayer_localnet.blocks import Block
from outlayer_localnet.chain import UnknownAccountError
from outlayer_localnet.node import Node
from outlayer_localnet.rpcerrors import handler_error, parse_error
from outlayer_localnet.state import (
    Account,
    Readable,
    access_key_prefix,
    code_key,
    contract_code,
    data_prefix,
    get_access_key,
    get_account,
    global_code_key,
)
from outlayer_near.primitives import AccessKey, PublicKey, b58encode

MAX_VIEW_STATE_BYTES = 50_000


def _at(block: Block) -> dict[str, Any]:
    return {"block_height": block.height, "block_hash": b58encode(block.hash)}


def _unknown_account(account_id: str, block: Block) -> Exception:
    info = {"requested_account_id": account_id} | _at(block)
    return handler_error("UNKNOWN_ACCOUNT", f"account {account_id} does not exist while viewing", info)


def _account(state: Readable, account_id: str, block: Block) -> Account:
    account = get_account(state, account_id)
    if account is None:
        raise _unknown_account(account_id, block)
    return account


async def run_query(node: Node, fields: dict[str, Any], block: Block) -> Any:
    """Answer one query on the state after ``block``."""
    kind = fields.get("request_type")
    if kind == "call_function":
        return await _call_function(node, fields, block)
    handler = _QUERIES.get(kind) if isinstance(kind, str) else None
    if handler is None:
        raise parse_error(f"Failed parsing args: unknown request_type {kind!r}")
    with node.chain.lock:
        return handler(node.chain.state_at(block), fields, block) | _at(block)


async def _call_function(node: Node, fields: dict[str, Any], block: Block) -> Any:
    account_id, method = read.account_id(fields), read.text(fields, "method_name")
    args = read.from_base64(fields.get("args_base64", ""), "args_base64")
    try:
        result = await node.view_call(account_id, method, args, block)
    except UnknownAccountError:
        raise _unknown_account(account_id, block) from None
    if result.error is not None:
        text = f"wasm execution failed with error: {result.error}"
        return {"error": text, "logs": result.logs} | _at(block)
    return {"result": list(result.value), "logs": result.logs} | _at(block)


def _view_account(state: Readable, fields: dict[str, Any], block: Block) -> Any:
    account_id = read.account_id(fields)
    return views.account(_account(state, account_id, block))


def _view_code(state: Readable, fields: dict[str, Any], block: Block) -> Any:
    account_id = read.account_id(fields)
    code = contract_code(state, account_id, _account(state, account_id, block))
    if code is None:
        info = {"contract_account_id": account_id} | _at(block)
        text = f"Contract code for contract ID {account_id} has never been observed on the node"
        raise handler_error("NO_CONTRACT_CODE", text, info)
    return {"code_base64": views.b64(code), "hash": b58encode(hashlib.sha256(code).digest())}


def _view_state(state: Readable, fields: dict[str, Any], block: Block) -> Any:
    account_id = read.account_id(fields)
    account = _account(state, account_id, block)
    code = state.get(code_key(account_id)) or b""
    if account.storage_usage - len(code) > MAX_VIEW_STATE_BYTES:
        info = {"contract_account_id": account_id} | _at(block)
        text = f"State of contract {account_id} is too large to be viewed"
        raise handler_error("TOO_LARGE_CONTRACT_STATE", text, info)
    own = data_prefix(account_id)
    prefix = own + read.from_base64(fields.get("prefix_base64", ""), "prefix_base64")
    values = [
        {"key": views.b64(key[len(own) :]), "value": views.b64(state.get(key) or b"")}
        for key in state.keys(prefix)
    ]
    return {"values": values}


def _view_access_key(state: Readable, fields: dict[str, Any], _: Block) -> Any:
    account_id, public_key = read.account_id(fields), read.public_key(fields.get("public_key"))
    key = get_access_key(state, account_id, public_key)
    if key is None:
        return {"error": f"access key {public_key} does not exist while viewing", "logs": []}
    return views.access_key(key)


def _view_access_key_list(state: Readable, fields: dict[str, Any], block: Block) -> Any:
    account_id = read.account_id(fields)
    _account(state, account_id, block)
    prefix = access_key_prefix(account_id)
    keys = [
        {
            "public_key": str(PublicKey.from_bytes(key[len(prefix) :])),
            "access_key": views.access_key(AccessKey.from_bytes(state.get(key) or b"")),
        }
        for key in state.keys(prefix)
    ]
    return {"keys": keys}


def _global_code(state: Readable, code_hash: bytes | None, account_id: str | None, block: Block) -> Any:
    code = state.get(global_code_key(code_hash, account_id))
    if code is None:
        identifier = {"AccountId": account_id} if code_hash is None else {"CodeHash": b58encode(code_hash)}
        info = {"identifier": identifier} | _at(block)
        raise handler_error("NO_GLOBAL_CONTRACT_CODE", "Global contract code has never been observed", info)
    return {"code_base64": views.b64(code), "hash": b58encode(hashlib.sha256(code).digest())}


def _view_global_by_hash(state: Readable, fields: dict[str, Any], block: Block) -> Any:
    return _global_code(state, read.hash32(fields.get("code_hash")), None, block)


def _view_global_by_account(state: Readable, fields: dict[str, Any], block: Block) -> Any:
    return _global_code(state, None, read.account_id(fields), block)


_QUERIES: dict[str, Callable[[Readable, dict[str, Any], Block], Any]] = {
    "view_account": _view_account,
    "view_code": _view_code,
    "view_state": _view_state,
    "view_access_key": _view_access_key,
    "view_access_key_list": _view_access_key_list,
    "view_global_contract_code": _view_global_by_hash,
    "view_global_contract_code_by_account_id": _view_global_by_account,
}
