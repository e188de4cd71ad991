# SPDX-License-Identifier: MIT
"""Reading JSON-RPC parameters: each function takes what a client sent and gives typed values or a
:class:`RpcError` of kind PARSE_ERROR."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from outlayer_localnet.rpcerrors import RpcError, parse_error
from outlayer_near.primitives import CodecError, PublicKey, decode_hash, is_valid_account_id

FINALITIES = ("optimistic", "near-final", "final")


def as_object(params: Any, *names: str) -> dict[str, Any]:
    """Parameters as an object; a list is matched with ``names`` in order."""
    if isinstance(params, dict):
        return params
    if isinstance(params, list):
        return dict(zip(names, params, strict=False))
    if params is None:
        return {}
    raise parse_error("Failed parsing args: expected an object or an array")


def text(params: dict[str, Any], name: str) -> str:
    """A required string."""
    value = params.get(name)
    if not isinstance(value, str):
        raise parse_error(f"Failed parsing args: missing field `{name}`")
    return value


def account_id(params: dict[str, Any], name: str = "account_id") -> str:
    """A required account id; a malformed one is a PARSE_ERROR, as in neard."""
    value = text(params, name)
    if not is_valid_account_id(value):
        raise parse_error(f"Failed parsing args: invalid account id {value[:80]!r}")
    return value


def public_key(value: Any) -> PublicKey:
    """A public key, with or without its ``ed25519:`` prefix."""
    try:
        return PublicKey.parse(value if isinstance(value, str) else "")
    except CodecError as error:
        raise parse_error(f"Failed parsing args: {error.message}") from None


def hash32(value: Any) -> bytes:
    """A base58 hash."""
    try:
        return decode_hash(value if isinstance(value, str) else "")
    except CodecError as error:
        raise parse_error(f"Failed parsing args: {error.message}") from None


def from_base64(value: Any, what: str) -> bytes:
    """Base64 bytes."""
    try:
        return base64.b64decode(value if isinstance(value, str) else None, validate=True)  # type: ignore[arg-type]
    except (binascii.Error, ValueError, TypeError):
        raise parse_error(f"Failed parsing args: {what} is not base64") from None


def number(value: Any, what: str) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e18:
        raise parse_error(f"Failed parsing args: {what} must be a number")
    return value


def block_id(value: Any) -> int | bytes:
    """A height or a hash."""
    if isinstance(value, bool):
        raise parse_error("Failed parsing args: block_id must be a height or a hash")
    return value if isinstance(value, int) else hash32(value)


def block_reference(params: dict[str, Any]) -> int | bytes | str:
    """A height, a hash, a finality, or ``genesis``; the head when nothing is said."""
    if params.get("block_id") is not None:
        return block_id(params["block_id"])
    if "sync_checkpoint" in params:
        if params["sync_checkpoint"] not in ("genesis", "earliest_available"):
            raise parse_error("Failed parsing args: unknown sync_checkpoint")
        return "genesis"
    finality = params.get("finality", "final")
    if finality not in FINALITIES:
        raise parse_error(f"Failed parsing args: unknown finality {finality!r}")
    return "final"


def legacy_query(params: Any) -> dict[str, Any]:
    """A ``query`` in the old form ``["account/x", ""]`` as the object it stands for."""
    if isinstance(params, dict):
        return params
    if not isinstance(params, list) or not params or not isinstance(params[0], str):
        raise parse_error("Failed parsing args: expected a query object")
    path = params[0].split("/")
    data = params[1] if len(params) > 1 else ""
    try:
        return {"finality": "optimistic"} | _legacy(path, data)
    except IndexError:
        raise parse_error(f"Failed parsing args: cannot read query path {params[0][:100]!r}") from None


def _legacy(path: list[str], data: Any) -> dict[str, Any]:
    from outlayer_near.primitives import b58decode

    def argument() -> str:
        raw = b58decode(data if isinstance(data, str) else "", max_chars=100_000)
        return base64.b64encode(raw).decode()

    try:
        match path[0]:
            case "account":
                return {"request_type": "view_account", "account_id": path[1]}
            case "code":
                return {"request_type": "view_code", "account_id": path[1]}
            case "access_key" if len(path) == 2:
                return {"request_type": "view_access_key_list", "account_id": path[1]}
            case "access_key":
                return {
                    "request_type": "view_access_key",
                    "account_id": path[1],
                    "public_key": path[2],
                }
            case "contract":
                return {
                    "request_type": "view_state",
                    "account_id": path[1],
                    "prefix_base64": argument(),
                }
            case "call":
                return {
                    "request_type": "call_function",
                    "account_id": path[1],
                    "method_name": path[2],
                    "args_base64": argument(),
                }
    except CodecError as error:
        raise parse_error(f"Failed parsing args: {error.message}") from None
    raise parse_error(f"Failed parsing args: unknown query path {path[0][:40]!r}")


__all__ = [
    "RpcError",
    "account_id",
    "as_object",
    "block_id",
    "block_reference",
    "from_base64",
    "hash32",
    "legacy_query",
    "number",
    "public_key",
    "text",
]
