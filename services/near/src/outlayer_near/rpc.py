# SPDX-License-Identifier: MIT
"""JSON-RPC of a NEAR node: reads with retries, and sending a signed transaction."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from outlayer_near.errors import CodecError, NoSuchMethodError, RpcError, RpcUnavailableError, ViewError
from outlayer_near.primitives import decode_hash

OPTIMISTIC: dict[str, Any] = {"finality": "optimistic"}
FINAL: dict[str, Any] = {"finality": "final"}
NO_CODE = "1" * 32
_RETRIES = 3
_FIRST_WAIT_SECONDS = 0.1
_TIMEOUT_SECONDS = 30.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Of one answer, unpacked: far above the largest transaction with all of its receipts."""
_PASSING_TROUBLE = ("INTERNAL_ERROR", "NO_SYNCED_BLOCKS", "NOT_SYNCED_YET")
_HINTS = {
    "UNKNOWN_ACCOUNT": "see that the account id is right and that this is its network",
    "NO_CONTRACT_CODE": "see that the contract's account id is right and that this is its network",
    "UNKNOWN_BLOCK": "the block is newer than the node, was skipped, or never was",
    "GARBAGE_COLLECTED_BLOCK": "ask an archival node",
    "METHOD_NOT_FOUND": "see that the URL is that of a NEAR node",
}


def block_reference(block: int | str | None) -> dict[str, Any]:
    """The ``block_id`` of a height or hash; without one, the newest optimistic block."""
    return dict(OPTIMISTIC) if block is None else {"block_id": block}


@dataclass(frozen=True)
class Header:
    """A block as far as its place and time go. ``hash`` is base58 of 32 bytes, ``timestamp_ns`` unix nanoseconds."""

    height: int
    hash: str
    timestamp_ns: int

    @property
    def time(self) -> int:
        """Unix seconds, rounded down."""
        return self.timestamp_ns // 10**9

    @classmethod
    def from_rpc(cls, answer: object) -> Self:
        """The header in a ``block`` answer, each value of exactly the protocol's kind.

        Raises ``RpcUnavailableError``: what answers so is not a NEAR node.
        """
        header = answer.get("header") if isinstance(answer, dict) else None
        if not isinstance(header, dict):
            raise _no_header("there is no header in it")
        block_hash, timestamp = header.get("hash"), _u64(header, "timestamp")
        if header.get("timestamp_nanosec", str(timestamp)) != str(timestamp):
            raise _no_header("timestamp and timestamp_nanosec differ")
        if not isinstance(block_hash, str):
            raise _no_header("hash is not text")
        try:
            decode_hash(block_hash)
        except CodecError as error:
            raise _no_header("hash is not base58 of 32 bytes") from error
        return cls(_u64(header, "height"), block_hash, timestamp)


def _u64(header: dict[str, Any], name: str) -> int:
    value = header.get(name)
    if type(value) is not int or not 0 <= value < 2**64:
        raise _no_header(f"{name} is not an unsigned 64-bit number")
    return value


def _no_header(reason: str) -> RpcUnavailableError:
    return RpcUnavailableError(
        f"the node's answer to block is not a block: {reason}",
        hint="see that the URL is that of a NEAR node",
    )


class NearRpc:
    """A node, or several of one network (URLs joined by commas), of which the next is asked when one is silent.

    Use as an async context manager, or call ``close``. Reads are retried, sending is not.
    """

    def __init__(self, url: str, *, timeout: float = _TIMEOUT_SECONDS) -> None:
        self._urls = [part.strip() for part in url.split(",") if part.strip()]
        if not self._urls:
            raise RpcUnavailableError("no NEAR node is named", hint="give the URL of a JSON-RPC endpoint")
        self._client = httpx.AsyncClient(timeout=timeout, trust_env=False)
        self._whole_seconds = 2 * timeout

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def url(self) -> str:
        """The node that is asked now."""
        return self._urls[0]

    async def close(self) -> None:
        await self._client.aclose()

    async def request(self, method: str, params: Any, *, retry: bool = True) -> Any:
        """The ``result`` of one call. Raises ``RpcError`` for a refusal, ``RpcUnavailableError`` for silence."""
        attempts = _RETRIES if retry else 1
        for attempt in range(1, attempts + 1):
            url = self.url
            try:
                return _result_of(method, await self._post(url, method, params))
            except RpcUnavailableError:
                if url == self.url:  # nobody else has turned to the next one meanwhile
                    self._urls.append(self._urls.pop(0))
                if attempt == attempts:
                    raise
            except RpcError as error:
                if attempt == attempts or error.name not in _PASSING_TROUBLE:
                    raise
            await asyncio.sleep(_FIRST_WAIT_SECONDS * 4 ** (attempt - 1))
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _post(self, url: str, method: str, params: Any) -> Any:
        message = {"jsonrpc": "2.0", "id": "outlayer", "method": method, "params": params}
        try:
            async with (
                asyncio.timeout(self._whole_seconds),
                self._client.stream("POST", url, json=message) as answer,
            ):
                content = await bounded_content(answer)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise RpcUnavailableError(
                f"the NEAR node does not answer ({type(error).__name__})", hint="see that its URL is right"
            ) from error
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise RpcUnavailableError(
                f"the NEAR node answered HTTP {answer.status_code} without JSON",
                hint="see that the URL is that of a JSON-RPC endpoint",
            ) from error

    # -- accounts and keys ---------------------------------------------------------------------------

    async def query(self, request_type: str, block: int | str | None = None, **fields: Any) -> dict[str, Any]:
        params = {"request_type": request_type, **block_reference(block), **fields}
        return _object("query", await self.request("query", params))

    async def view_account(self, account_id: str, block: int | str | None = None) -> dict[str, Any] | None:
        """The account's fields, or None when there is no such account."""
        try:
            account = await self.query("view_account", block, account_id=account_id)
        except RpcError as error:
            if error.name == "UNKNOWN_ACCOUNT":
                return None
            raise
        return account

    async def account_exists(self, account_id: str) -> bool:
        return await self.view_account(account_id) is not None

    async def code_hash(self, account_id: str) -> str | None:
        """Base58 SHA-256 of the account's contract; None without one."""
        account = await self.view_account(account_id)
        found = NO_CODE if account is None else account.get("code_hash")
        if not isinstance(found, str):
            raise RpcUnavailableError("the node's answer to view_account holds no code_hash")
        return None if found == NO_CODE else found

    async def view_access_key(
        self, account_id: str, public_key: str, block: int | str | None = None
    ) -> dict[str, Any] | None:
        """Nonce and permission of a key; None when the account does not have it."""
        try:
            key = await self.query("view_access_key", block, account_id=account_id, public_key=public_key)
        except RpcError as error:
            if error.name in ("UNKNOWN_ACCESS_KEY", "UNKNOWN_ACCOUNT"):
                return None
            raise
        # nodes answer an unknown key with a result that holds an error text
        return None if "error" in key else key

    async def has_access_key(self, account_id: str, public_key: str) -> bool:
        return await self.view_access_key(account_id, public_key) is not None

    async def has_full_access_key(self, account_id: str, public_key: str) -> bool:
        key = await self.view_access_key(account_id, public_key)
        return key is not None and key.get("permission") == "FullAccess"

    # -- contracts -----------------------------------------------------------------------------------

    async def view_bytes(
        self, contract: str, method: str, args: bytes, block: int | str | None = None
    ) -> bytes:
        """What a view method returns, as bytes. Raises ``ViewError`` with the virtual machine's words.

        ``NoSuchMethodError``, which is one too, says that the contract does not have this method.
        """
        encoded = base64.b64encode(args).decode()
        try:
            answer = await self.query(
                "call_function", block, account_id=contract, method_name=method, args_base64=encoded
            )
        except RpcError as error:
            if error.name == "CONTRACT_EXECUTION_ERROR":
                raise _view_error(contract, method, str(error)) from error
            raise
        if "error" in answer:
            raise _view_error(contract, method, answer["error"])
        try:
            return bytes(list(answer["result"]))  # a lone number would give that many zeros
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise RpcUnavailableError(f"the node's answer to {contract}.{method} holds no bytes") from error

    async def view(
        self,
        contract: str,
        method: str,
        args: Mapping[str, Any] | None = None,
        block: int | str | None = None,
    ) -> Any:
        """What a view method returns, as JSON; None for an empty answer."""
        data = json.dumps(dict(args or {}), separators=(",", ":")).encode()
        answer = await self.view_bytes(contract, method, data, block)
        try:
            return json.loads(answer) if answer else None
        except (ValueError, RecursionError) as error:
            raise ViewError(f"{contract}.{method} did not return JSON") from error

    # -- blocks and transactions -----------------------------------------------------------------------

    async def block(self, block: int | str | None = None) -> dict[str, Any]:
        params = FINAL if block is None else {"block_id": block}
        return _object("block", await self.request("block", params))

    async def header(self, block: str | int = "final") -> Header:
        """The header of the newest final block, or of the block with this height or base58 hash.

        Raises ``RpcError`` when the node does not know the block, ``RpcUnavailableError`` when it is silent or
        answers with another block than the one asked for.
        """
        if block == "final":
            return Header.from_rpc(await self.block())
        header = Header.from_rpc(await self.block(block))
        if block not in (header.height, header.hash):
            raise _no_header(f"block {block} was asked for, {header.height} ({header.hash}) came")
        return header

    async def chunk(self, chunk_hash: str) -> dict[str, Any]:
        return _object("chunk", await self.request("chunk", {"chunk_id": chunk_hash}))

    async def status(self) -> dict[str, Any]:
        return _object("status", await self.request("status", []))

    async def head_height(self) -> int:
        header = (await self.block()).get("header")
        return _u64(_object("block", header), "height")

    async def send_transaction_async(self, signed: bytes) -> str:
        """Hand a signed transaction to the node; gives its hash. Never retried here."""
        encoded = base64.b64encode(signed).decode()
        return str(await self.request("broadcast_tx_async", [encoded], retry=False))

    async def send_transaction(self, signed: bytes, wait_until: str = "INCLUDED") -> dict[str, Any]:
        """Hand a signed transaction over and have it judged: unlike ``send_transaction_async``, every node
        answers ``INVALID_TRANSACTION`` here when it cannot enter a block. Sending the same bytes again is safe.
        """
        params = {"signed_tx_base64": base64.b64encode(signed).decode(), "wait_until": wait_until}
        return _object("send_tx", await self.request("send_tx", params, retry=False))

    async def transaction(
        self, tx_hash: str, sender_id: str, *, wait_until: str = "NONE", receipts: bool = False
    ) -> dict[str, Any]:
        """Status of a transaction and its receipts' outcomes; with ``receipts`` the receipts themselves too."""
        method = "EXPERIMENTAL_tx_status" if receipts else "tx"
        params = {"tx_hash": tx_hash, "sender_account_id": sender_id, "wait_until": wait_until}
        return _object(method, await self.request(method, params))


def is_success(status: Any) -> bool:
    """Whether an execution outcome's ``status`` says that its receipt succeeded, and so did what it logged."""
    return isinstance(status, dict) and bool({"SuccessValue", "SuccessReceiptId"} & status.keys())


async def bounded_content(answer: httpx.Response) -> bytes:
    """The body, unpacked as it comes, and no more of it than there can be reason for."""
    parts: list[bytes] = []
    size = 0
    async for part in answer.aiter_bytes():
        parts.append(part)
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            raise RpcUnavailableError(
                f"the answer of {answer.url.host} is longer than {MAX_ANSWER_BYTES} bytes"
            )
    return b"".join(parts)


def _view_error(contract: str, method: str, said: Any) -> ViewError:
    kind = NoSuchMethodError if "MethodNotFound" in str(said) else ViewError
    return kind(f"{contract}.{method} failed: {said}")


def _object(method: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RpcUnavailableError(
            f"the node's answer to {method} is not an object",
            hint="see that the URL is that of a NEAR node",
        )
    return value


def _result_of(method: str, answer: Any) -> Any:
    if not isinstance(answer, dict):
        raise RpcUnavailableError(f"the node's answer to {method} is not a JSON-RPC response")
    if "result" in answer:
        return answer["result"]
    error = answer.get("error")
    if not isinstance(error, dict):
        raise RpcUnavailableError(f"the node's answer to {method} holds neither result nor error")
    cause = error.get("cause")
    name = str(cause.get("name", "")) if isinstance(cause, dict) else str(error.get("name", ""))
    data = error.get("data")
    raise RpcError(
        f"{method}: {name or 'error'}: {_describe(data, error)}",
        name=name,
        data=data,
        hint=_HINTS.get(name, ""),
    )


def _describe(data: Any, error: dict[str, Any]) -> str:
    text = data if isinstance(data, str) else json.dumps(data if data is not None else error.get("message"))
    return text[:500]
