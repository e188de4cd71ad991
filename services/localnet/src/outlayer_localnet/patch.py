# SPDX-License-Identifier: MIT
"""``sandbox_patch_state``: write state records without a transaction, for tests."""

from __future__ import annotations

import hashlib
from typing import Any

from outlayer_localnet import rpcparams as read
from outlayer_localnet.blocks import ZERO_HASH
from outlayer_localnet.chain import Chain
from outlayer_localnet.rpcerrors import parse_error
from outlayer_localnet.state import Account, Overlay, code_key, data_prefix
from outlayer_near.primitives import AccessKey, FullAccess, FunctionCallPermission


def patch_state(chain: Chain, records: Any) -> None:
    """Apply neard ``StateRecord`` objects in a block of their own; all of them, or none."""
    if not isinstance(records, list):
        raise parse_error("Failed parsing args: missing field `records`")
    overlay = Overlay(chain.state)
    for record in records:
        if not isinstance(record, dict) or len(record) != 1:
            raise parse_error("Failed parsing args: a record is an object with one key")
        [(kind, body)] = record.items()
        if not isinstance(body, dict):
            raise parse_error(f"Failed parsing args: the body of {kind} must be an object")
        _apply(overlay, kind, body)
    chain.patch(overlay.changes)


def _apply(overlay: Overlay, kind: str, body: dict[str, Any]) -> None:
    account_id = read.account_id(body)
    if kind == "Account":
        overlay.set_account(account_id, _account(body.get("account"), overlay.account(account_id)))
    elif kind == "Data":
        key = read.from_base64(body.get("data_key"), "data_key")
        overlay.set(data_prefix(account_id) + key, read.from_base64(body.get("value"), "value"))
    elif kind == "Contract":
        code = read.from_base64(body.get("code"), "code")
        overlay.set(code_key(account_id), code)
        account = overlay.account(account_id)
        if account is not None:
            account.code_hash = hashlib.sha256(code).digest()
            overlay.set_account(account_id, account)
    elif kind == "AccessKey":
        public_key = read.public_key(body.get("public_key"))
        overlay.set_access_key(account_id, public_key, _access_key(body.get("access_key")))
    else:
        raise parse_error(f"Failed parsing args: unknown record {kind!r}")


def _amount(body: dict[str, Any], name: str, default: int | None = None) -> int:
    value = body.get(name, default)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 39:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 128:
        raise parse_error(f"Failed parsing args: `{name}` must be an unsigned number")
    return value


def _account(body: Any, current: Account | None) -> Account:
    if not isinstance(body, dict):
        raise parse_error("Failed parsing args: missing field `account`")
    account = Account(
        amount=_amount(body, "amount"),
        locked=_amount(body, "locked", 0),
        storage_usage=_amount(body, "storage_usage"),
    )
    text = body.get("code_hash")
    if text is None and current is not None:
        account.code_hash = current.code_hash
    elif text is not None:
        code_hash = read.hash32(text)
        account.code_hash = None if code_hash == ZERO_HASH else code_hash
    return account


def _access_key(body: Any) -> AccessKey:
    if not isinstance(body, dict):
        raise parse_error("Failed parsing args: missing field `access_key`")
    nonce, permission = _amount(body, "nonce", 0), body.get("permission")
    if permission == "FullAccess":
        return AccessKey(nonce, FullAccess())
    call = permission.get("FunctionCall") if isinstance(permission, dict) else None
    if not isinstance(call, dict):
        raise parse_error("Failed parsing args: unknown access key permission")
    names = call.get("method_names", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise parse_error("Failed parsing args: `method_names` must be a list of strings")
    allowance = None if call.get("allowance") is None else _amount(call, "allowance")
    return AccessKey(nonce, FunctionCallPermission(read.text(call, "receiver_id"), tuple(names), allowance))
