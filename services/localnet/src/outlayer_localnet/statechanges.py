# SPDX-License-Identifier: MIT
"""State changes of a block as ``changes`` and the block feed show them."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from typing import Any

from outlayer_localnet import rpcparams as read
from outlayer_localnet import views
from outlayer_localnet.rpcerrors import parse_error
from outlayer_localnet.state import Account
from outlayer_near.primitives import AccessKey, PublicKey

Cause = tuple[dict[str, str], dict[bytes, "bytes | None"]]


def decode_change(key: bytes, value: bytes | None) -> tuple[str, dict[str, Any]] | None:
    """(type, change) for a key that the protocol shows; None for the node's own bookkeeping."""
    kind, rest = key[0], key[1:]
    suffix = "deletion" if value is None else "update"
    if kind == 0:
        body: dict[str, Any] = {"account_id": rest.decode()}
        if value is not None:
            body |= views.account(Account.from_bytes(value))
        return f"account_{suffix}", body
    if kind == 1:
        body = {"account_id": rest.decode()}
        if value is not None:
            body["code_base64"] = views.b64(value)
        return f"contract_code_{suffix}", body
    if kind == 2:
        account_id, _, raw_key = rest.partition(b"\x02")
        body = {"account_id": account_id.decode(), "public_key": str(PublicKey.from_bytes(raw_key))}
        if value is not None:
            body["access_key"] = views.access_key(AccessKey.from_bytes(value))
        return f"access_key_{suffix}", body
    if kind == 9:
        account_id, _, data_key = rest.partition(b",")
        body = {"account_id": account_id.decode(), "key_base64": views.b64(data_key)}
        if value is not None:
            body["value_base64"] = views.b64(value)
        return f"data_{suffix}", body
    return None


def all_changes(causes: Iterable[Cause]) -> Iterator[dict[str, Any]]:
    """Every visible change in order, with its cause."""
    for cause, changes in causes:
        for key in sorted(changes):
            decoded = decode_change(key, changes[key])
            if decoded is not None:
                yield {"cause": cause, "type": decoded[0], "change": decoded[1]}


_PREFIXES = {
    "account_changes": "account_",
    "all_access_key_changes": "access_key_",
    "single_access_key_changes": "access_key_",
    "contract_code_changes": "contract_code_",
    "data_changes": "data_",
}


def changes_view(causes: Iterable[Cause], fields: dict[str, Any]) -> list[dict[str, Any]]:
    """The changes a request asks for."""
    wanted = fields.get("changes_type")
    if not isinstance(wanted, str) or wanted not in _PREFIXES:
        raise parse_error(f"Failed parsing args: unknown changes_type {wanted!r}")
    prefix = _PREFIXES[wanted]
    if wanted == "single_access_key_changes":
        keys = _wanted_keys(fields.get("keys"))
        return [
            change
            for change in all_changes(causes)
            if change["type"].startswith(prefix)
            and (change["change"]["account_id"], change["change"]["public_key"]) in keys
        ]
    accounts = fields.get("account_ids")
    if not isinstance(accounts, list):
        raise parse_error("Failed parsing args: missing field `account_ids`")
    key_prefix = read.from_base64(fields.get("key_prefix_base64", ""), "key_prefix_base64")
    return [
        change
        for change in all_changes(causes)
        if change["type"].startswith(prefix)
        and change["change"]["account_id"] in accounts
        and (wanted != "data_changes" or _starts_with(change["change"]["key_base64"], key_prefix))
    ]


def _wanted_keys(keys: Any) -> set[tuple[str, str]]:
    if not isinstance(keys, list) or not all(isinstance(item, dict) for item in keys):
        raise parse_error("Failed parsing args: missing field `keys`")
    return {(read.account_id(item), str(read.public_key(item.get("public_key")))) for item in keys}


def _starts_with(key_base64: str, prefix: bytes) -> bool:
    return base64.b64decode(key_base64).startswith(prefix)


_TOUCHED = {
    "account_update": "account_touched",
    "account_deletion": "account_touched",
    "access_key_update": "access_key_touched",
    "access_key_deletion": "access_key_touched",
    "data_update": "data_touched",
    "data_deletion": "data_touched",
    "contract_code_update": "contract_code_touched",
    "contract_code_deletion": "contract_code_touched",
}


def touched_view(causes: Iterable[Cause]) -> list[dict[str, str]]:
    """Which accounts a block touched, and how, each once."""
    seen = {(_TOUCHED[change["type"]], change["change"]["account_id"]) for change in all_changes(causes)}
    return [{"type": kind, "account_id": account} for kind, account in sorted(seen)]
