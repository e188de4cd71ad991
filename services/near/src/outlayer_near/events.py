# SPDX-License-Identifier: MIT
"""Events of a contract, block by block, without gaps (R48).

Two sources give the same events: a neardata-style block feed, which holds logs, and plain RPC, where the
transactions of each chunk are asked for their receipts.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import httpx
from pydantic import ValidationError

from outlayer_near.errors import EventError, RpcError, RpcUnavailableError
from outlayer_near.models import RequestData
from outlayer_near.rpc import NearRpc

EVENT_PREFIX = "EVENT_JSON:"
STANDARD = "near-outlayer"
REQUESTED = "execution_requested"
_EVENT_LINE = re.compile(r"EVENT_JSON:(\{.*\})\s*$", re.DOTALL)
_NOT_YET_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 5.0


@dataclass(frozen=True)
class ReceiptLogs:
    """One executed receipt: who called, from which transaction, and what it logged."""

    tx_hash: str
    receipt_id: str
    receiver_id: str
    predecessor_id: str
    signer_id: str
    signer_public_key: str
    gas_burnt: int
    logs: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """A block as far as events go. ``timestamp`` in nanoseconds; ``receipts`` is empty for a skipped height."""

    height: int
    hash: str
    timestamp: int
    receipts: tuple[ReceiptLogs, ...]


@dataclass(frozen=True)
class ContractEvent:
    """A NEP-297 event; ``data`` as logged."""

    standard: str
    version: str
    event: str
    data: Any
    receipt: ReceiptLogs
    block_height: int
    block_hash: str
    block_timestamp: int


@dataclass(frozen=True)
class RequestEvent:
    """An ``execution_requested`` event with the facts of its receipt."""

    request: RequestData
    data_id: bytes
    tx_hash: str
    receipt_id: str
    predecessor_id: str
    signer_id: str
    signer_public_key: str
    gas_burnt: int
    block_height: int
    block_hash: str
    block_timestamp: int


class BlockSource(Protocol):
    """Where blocks come from."""

    async def block(self, height: int) -> Block | None:
        """The block; None when it is not there yet. A skipped height is a block without receipts."""
        ...

    async def head(self) -> int:
        """Height of the newest final block."""
        ...

    async def first(self) -> int:
        """Lowest height that can be read."""
        ...

    async def close(self) -> None: ...


class FeedSource:
    """A neardata-style feed: ``/v0/block/{height}``, null for a skipped height, 404 for one that is not there yet."""

    def __init__(self, base_url: str, *, timeout: float = 30.0) -> None:
        self._client = httpx.AsyncClient(
            base_url=base_url, timeout=timeout, trust_env=False, follow_redirects=True
        )

    async def block(self, height: int) -> Block | None:
        answer = await self._get(f"/v0/block/{height}")
        if answer is _MISSING:
            return None
        return Block(height, "", 0, ()) if answer is None else block_from_feed(answer)

    async def head(self) -> int:
        return await self._height("/v0/last_block/final")

    async def first(self) -> int:
        return await self._height("/v0/first_block")

    async def close(self) -> None:
        await self._client.aclose()

    async def _height(self, path: str) -> int:
        answer = await self._get(path)
        try:
            return int(answer["block"]["header"]["height"])
        except (TypeError, KeyError, ValueError) as error:
            raise EventError(f"the block feed's answer to {path} holds no block height") from error

    async def _get(self, path: str) -> Any:
        try:
            answer = await self._client.get(path)
        except httpx.TransportError as error:
            raise RpcUnavailableError(f"the block feed does not answer ({type(error).__name__})") from error
        if answer.status_code == httpx.codes.NOT_FOUND:
            return _MISSING
        if answer.status_code != httpx.codes.OK:
            raise RpcUnavailableError(f"the block feed answered HTTP {answer.status_code}")
        try:
            return answer.json()
        except ValueError as error:
            raise RpcUnavailableError("the block feed did not answer with JSON") from error


_MISSING = object()


class RpcSource:
    """Blocks by plain RPC.

    A node tells logs only by transaction, and a receipt can run some blocks after its transaction began; so
    the transactions of the last ``WINDOW`` blocks are asked for the receipts that ran in the wanted one.
    """

    WINDOW = 24

    def __init__(self, rpc: NearRpc) -> None:
        self._rpc = rpc
        self._transactions: dict[int, list[tuple[str, str]]] = {}
        self._finished: dict[str, dict[str, list[ReceiptLogs]]] = {}

    async def block(self, height: int) -> Block | None:
        try:
            block = await self._rpc.block(height)
        except RpcError as error:
            if error.name != "UNKNOWN_BLOCK":
                raise
            return None if height > await self._rpc.head_height() else Block(height, "", 0, ())
        header = block["header"]
        await self._load_window(height)
        receipts: list[ReceiptLogs] = []
        for tx_hash, signer_id in [item for items in self._transactions.values() for item in items]:
            by_block = self._finished.get(tx_hash) or await self._receipts(tx_hash, signer_id)
            receipts += by_block.get(header["hash"], [])
        return Block(int(header["height"]), header["hash"], int(header["timestamp"]), tuple(receipts))

    async def head(self) -> int:
        return await self._rpc.head_height()

    async def first(self) -> int:
        status = await self._rpc.status()
        return int(status["sync_info"]["earliest_block_height"])

    async def close(self) -> None:
        await self._rpc.close()

    async def _load_window(self, height: int) -> None:
        wanted = range(max(0, height - self.WINDOW), height + 1)
        for old in [known for known in self._transactions if known not in wanted]:
            for tx_hash, _ in self._transactions.pop(old):
                self._finished.pop(tx_hash, None)
        for missing in [number for number in wanted if number not in self._transactions]:
            self._transactions[missing] = await self._transactions_of(missing)

    async def _transactions_of(self, height: int) -> list[tuple[str, str]]:
        try:
            block = await self._rpc.block(height)
        except RpcError as error:
            if error.name == "UNKNOWN_BLOCK":
                return []
            raise
        found = []
        for item in block["chunks"]:
            if int(item["height_included"]) == height:
                chunk = await self._rpc.chunk(item["chunk_hash"])
                found += [(entry["hash"], entry["signer_id"]) for entry in chunk["transactions"]]
        return found

    async def _receipts(self, tx_hash: str, signer_id: str) -> dict[str, list[ReceiptLogs]]:
        """Receipts of a transaction by block hash; remembered once the transaction has run to its end."""
        status = await self._rpc.transaction(tx_hash, signer_id, receipts=True)
        blocks = {item["id"]: item["block_hash"] for item in status["receipts_outcome"]}
        by_block: dict[str, list[ReceiptLogs]] = {}
        for receipt in receipts_of_transaction(status):
            by_block.setdefault(blocks[receipt.receipt_id], []).append(receipt)
        if isinstance(status["status"], dict) and {"SuccessValue", "Failure"} & status["status"].keys():
            self._finished[tx_hash] = by_block
        return by_block


def open_source(rpc_url: str, feed_url: str | None) -> BlockSource:
    """The feed when there is one, else plain RPC."""
    return FeedSource(feed_url) if feed_url else RpcSource(NearRpc(rpc_url))


def receipts_of_transaction(status: dict[str, Any]) -> Iterator[ReceiptLogs]:
    """Executed action receipts of an ``EXPERIMENTAL_tx_status`` answer."""
    outcomes = {item["id"]: item for item in status["receipts_outcome"]}
    for receipt in status["receipts"]:
        item = outcomes.get(receipt["receipt_id"])
        action = receipt["receipt"].get("Action")
        if item is None or action is None:
            continue
        yield _receipt_logs(receipt, action, item["outcome"], status["transaction"]["hash"])


def block_from_feed(answer: Any) -> Block:
    """A block of the feed's JSON. Raises ``EventError`` for any other form."""
    try:
        header = answer["block"]["header"]
        receipts = []
        for shard in answer["shards"]:
            for item in shard["receipt_execution_outcomes"]:
                receipt = item["receipt"]
                action = receipt["receipt"].get("Action")
                if action is not None:
                    outcome = item["execution_outcome"]["outcome"]
                    receipts.append(_receipt_logs(receipt, action, outcome, item.get("tx_hash") or ""))
        return Block(int(header["height"]), str(header["hash"]), int(header["timestamp"]), tuple(receipts))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise EventError(f"a block of the feed has an unknown form ({error!r})") from error


def _receipt_logs(receipt: Any, action: Any, outcome: Any, tx_hash: str) -> ReceiptLogs:
    return ReceiptLogs(
        tx_hash=tx_hash,
        receipt_id=str(receipt["receipt_id"]),
        receiver_id=str(receipt["receiver_id"]),
        predecessor_id=str(receipt["predecessor_id"]),
        signer_id=str(action["signer_id"]),
        signer_public_key=str(action["signer_public_key"]),
        gas_burnt=int(outcome["gas_burnt"]),
        logs=tuple(str(line) for line in outcome["logs"]),
    )


def parse_event(line: str) -> dict[str, Any] | None:
    """The JSON object of a NEP-297 log line; None for any other line."""
    match = _EVENT_LINE.match(line)
    if match is None:
        return None
    try:
        value = json.loads(match[1])
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not all(
        isinstance(value.get(name), str) for name in ("standard", "event")
    ):
        return None
    return value


def version_at_least(version: str, lowest: str) -> bool:
    """Compare dotted numbers; a version that is not numeric never counts."""
    try:
        found, wanted = ([int(part) for part in text.split(".")] for text in (version, lowest))
    except ValueError:
        return False
    return found >= wanted


def events_of_block(
    block: Block, contract_id: str, *, standard: str = STANDARD, min_version: str = "1.0.0"
) -> Iterator[ContractEvent]:
    """Events that a contract logged in a block, in order of execution."""
    for receipt in block.receipts:
        if receipt.receiver_id != contract_id:
            continue
        for line in receipt.logs:
            value = parse_event(line)
            if value is None or value["standard"] != standard:
                continue
            version = str(value.get("version", ""))
            if version_at_least(version, min_version):
                yield ContractEvent(
                    standard=standard,
                    version=version,
                    event=value["event"],
                    data=value.get("data"),
                    receipt=receipt,
                    block_height=block.height,
                    block_hash=block.hash,
                    block_timestamp=block.timestamp,
                )


def parse_request(event: ContractEvent) -> RequestEvent:
    """The request of an ``execution_requested`` event. Raises ``EventError`` when its data has another form."""
    try:
        item = event.data[0]
        request = RequestData.parse(item["request_data"])
        data_id = bytes(item["data_id"])
    except (TypeError, KeyError, IndexError, ValueError, ValidationError) as error:
        raise EventError(
            f"an execution_requested event in block {event.block_height} cannot be read"
        ) from error
    if len(data_id) != 32:
        raise EventError(f"the data id of request {request.request_id} has {len(data_id)} bytes, expected 32")
    return RequestEvent(
        request=request,
        data_id=data_id,
        tx_hash=event.receipt.tx_hash,
        receipt_id=event.receipt.receipt_id,
        predecessor_id=event.receipt.predecessor_id,
        signer_id=event.receipt.signer_id,
        signer_public_key=event.receipt.signer_public_key,
        gas_burnt=event.receipt.gas_burnt,
        block_height=event.block_height,
        block_hash=event.block_hash,
        block_timestamp=event.block_timestamp,
    )


def requests_of_block(block: Block, contract_id: str) -> Iterator[RequestEvent]:
    for event in events_of_block(block, contract_id):
        if event.event == REQUESTED:
            yield parse_request(event)


async def find_execution_request(
    source: BlockSource, contract_id: str, block_height: int, request_id: int
) -> RequestEvent | None:
    """The request's event in a block, read by the caller's own connection; None when it is not there."""
    block = await source.block(block_height)
    if block is None:
        return None
    for found in requests_of_block(block, contract_id):
        if found.request.request_id == request_id:
            return found
    return None


class BlockStream:
    """Blocks in order from a height on. Never skips one because of an error: it waits and asks again (R48)."""

    def __init__(self, source: BlockSource, start: int) -> None:
        self._source = source
        self.next_height = start
        self.last_error: str | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._source.close()

    async def next(self) -> Block:
        """The next block; the caller stores its height together with what it made of it, then asks again."""
        wait = _NOT_YET_SECONDS
        while True:
            try:
                block = await self._source.block(self.next_height)
                self.last_error = None
                if block is not None:
                    self.next_height = block.height + 1
                    return block
                wait = _NOT_YET_SECONDS
            except (RpcUnavailableError, RpcError, EventError) as error:
                self.last_error = str(error)
                wait = min(wait * 2, _LONGEST_WAIT_SECONDS)
            await asyncio.sleep(wait)

    async def __aiter__(self) -> AsyncIterator[Block]:
        while True:
            yield await self.next()
