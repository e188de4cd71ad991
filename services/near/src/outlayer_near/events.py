# SPDX-License-Identifier: MIT
"""Events of a contract, block by block, without gaps (R48).

Two sources give the same events: a neardata-style block feed, which holds logs, and plain RPC, where the
transactions of each chunk are asked for their receipts. Only final blocks count.

The position belongs to the caller: start a ``BlockStream`` at the stored height, write what a block brought
and ``height + 1`` in one transaction, then ask for the next block.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import httpx

from outlayer_near.errors import EventError, ModelError, RpcError, RpcUnavailableError
from outlayer_near.models import MAIN_EVENTS, ExecutionCompleted, ExecutionRequested, RequestData, read_event
from outlayer_near.rpc import NearRpc, bounded_content, is_success

EVENT_PREFIX = "EVENT_JSON:"
STANDARD = "near-outlayer"
REQUESTED = "execution_requested"
COMPLETED = "execution_completed"
CALLBACK = "on_execution_response"
ANSWERS = ("resolve_execution", "submit_execution_output_and_resolve")
"""The operator's calls that settle a request."""
_NOT_YET_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 5.0
_MISSING_AFTER_SECONDS = 10.0


@dataclass(frozen=True)
class ReceiptLogs:
    """One executed receipt: who called, from which transaction, what it logged, and whether it succeeded.

    A receipt that failed changed nothing, but its logs remain: they are no events.
    """

    tx_hash: str
    receipt_id: str
    receiver_id: str
    predecessor_id: str
    signer_id: str
    signer_public_key: str
    gas_burnt: int
    logs: tuple[str, ...]
    succeeded: bool


@dataclass(frozen=True)
class Block:
    """A block as far as events go, or a height without a block (empty ``hash``). ``timestamp`` in nanoseconds."""

    height: int
    hash: str
    timestamp: int
    receipts: tuple[ReceiptLogs, ...]
    prev_height: int | None = None

    @property
    def skipped(self) -> bool:
        return not self.hash

    @classmethod
    def none_at(cls, height: int) -> Self:
        """A height that the chain skipped."""
        return cls(height, "", 0, ())


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
        """The final block; None when it is not there yet. A skipped height is told by ``Block.none_at``."""
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
        self._whole_seconds = 2 * timeout

    async def block(self, height: int) -> Block | None:
        answer = await self._get(f"/v0/block/{height}")
        if answer is _MISSING:
            return None
        if answer is None:
            return Block.none_at(height)
        block = block_from_feed(answer)
        if block.height != height:
            raise EventError(f"the block feed answered with block {block.height} instead of {height}")
        return block

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
        except (TypeError, KeyError, ValueError, OverflowError) as error:
            raise EventError(f"the block feed's answer to {path} holds no block height") from error

    async def _get(self, path: str) -> Any:
        try:
            async with asyncio.timeout(self._whole_seconds), self._client.stream("GET", path) as answer:
                content = await bounded_content(answer)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise RpcUnavailableError(f"the block feed does not answer ({type(error).__name__})") from error
        if answer.status_code == httpx.codes.NOT_FOUND:
            return _MISSING
        if answer.status_code != httpx.codes.OK:
            raise RpcUnavailableError(f"the block feed answered HTTP {answer.status_code}")
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise RpcUnavailableError("the block feed did not answer with JSON") from error


_MISSING = object()


@dataclass(frozen=True)
class _Finished:
    """Receipts by block hash of a transaction that was at its end when ``head`` was the newest final block."""

    by_block: dict[str, list[ReceiptLogs]]
    head: int


class RpcSource:
    """Blocks by plain RPC.

    A node tells logs only by transaction, and a receipt can run long after its transaction began (a yield lives
    200 blocks). So the transactions of the last ``look_back`` blocks, and older ones that were seen and have not
    come to their end, are asked for the receipts that ran in the wanted block. For test networks and as a second
    door; a busy network needs a feed. Receipts come in the order of their transactions.
    """

    def __init__(self, rpc: NearRpc, *, look_back: int = 256) -> None:
        self._rpc = rpc
        self._look_back = look_back
        self._final = -1
        self._transactions: dict[int, list[tuple[str, str]]] = {}
        self._older: dict[str, str] = {}
        self._finished: dict[str, _Finished] = {}
        self._slots = asyncio.Semaphore(8)

    async def block(self, height: int) -> Block | None:
        if not await self._is_final(height):
            return None
        try:
            block = await self._find(height)
            if block is None:
                return Block.none_at(height)
            header = block["header"]
            await self._load(height, block)
            found = await asyncio.gather(*(self._receipts(*item) for item in self._candidates(height)))
            receipts = [receipt for by_block in found for receipt in by_block.get(header["hash"], ())]
            return Block(
                height,
                str(header["hash"]),
                int(header["timestamp"]),
                tuple(receipts),
                header.get("prev_height"),
            )
        except (TypeError, KeyError, ValueError, OverflowError, AttributeError) as error:
            raise EventError(
                f"the node's answer about block {height} has an unknown form ({error!r})"
            ) from error

    async def head(self) -> int:
        return await self._rpc.head_height()

    async def first(self) -> int:
        status = await self._rpc.status()
        return int(status["sync_info"]["earliest_block_height"])

    async def close(self) -> None:
        await self._rpc.close()

    async def _is_final(self, height: int) -> bool:
        if height > self._final:
            self._final = await self._rpc.head_height()
        return height <= self._final

    async def _find(self, height: int) -> dict[str, Any] | None:
        """The node's block; None when the next block names an older one as its parent, which proves the skip."""
        for following in range(height, self._final + 1):
            try:
                block = await self._rpc.block(following)
            except RpcError as error:
                if error.name != "UNKNOWN_BLOCK":
                    raise
                continue
            if following == height:
                return block
            if int(block["header"]["prev_height"]) < height:
                return None
            break
        raise RpcUnavailableError(f"the node knows block {self._final} but not block {height}")

    async def _load(self, height: int, block: dict[str, Any]) -> None:
        """Know the transactions of ``block`` and the blocks before it."""
        wanted = range(max(0, height - self._look_back), height + 1)
        for old in [known for known in self._transactions if known not in wanted]:
            forgotten = self._transactions.pop(old)
            if old < height:
                self._older.update(forgotten)
        done = [item for item in self._older if item in self._finished and self._finished[item].head < height]
        for tx_hash in done:
            del self._older[tx_hash], self._finished[tx_hash]
        if height not in self._transactions:
            self._transactions[height] = await self._transactions_of(block)
        missing = [number for number in wanted if number not in self._transactions]
        loaded = await asyncio.gather(*(self._transactions_before(number) for number in missing))
        self._transactions.update(zip(missing, loaded, strict=True))

    def _candidates(self, height: int) -> list[tuple[str, str]]:
        """Transactions that may have a receipt in the block, oldest first."""
        found = dict(self._older)
        for number in sorted(self._transactions):
            if number <= height:
                found.update(self._transactions[number])
        return list(found.items())

    async def _transactions_of(self, block: dict[str, Any]) -> list[tuple[str, str]]:
        height = int(block["header"]["height"])
        hashes = [item["chunk_hash"] for item in block["chunks"] if int(item["height_included"]) == height]
        chunks = [await self._rpc.chunk(chunk_hash) for chunk_hash in hashes]
        return [(item["hash"], item["signer_id"]) for chunk in chunks for item in chunk["transactions"]]

    async def _transactions_before(self, height: int) -> list[tuple[str, str]]:
        """Before the wanted block there may be skipped heights, and blocks that the node no longer has."""
        async with self._slots:
            try:
                return await self._transactions_of(await self._rpc.block(height))
            except RpcError as error:
                if error.name in ("UNKNOWN_BLOCK", "GARBAGE_COLLECTED_BLOCK"):
                    return []
                raise

    async def _receipts(self, tx_hash: str, signer_id: str) -> dict[str, list[ReceiptLogs]]:
        """Receipts of a transaction by block hash; remembered once everything it began is final."""
        known = self._finished.get(tx_hash)
        if known is not None:
            return known.by_block
        async with self._slots:
            status = await self._rpc.transaction(tx_hash, signer_id, receipts=True)
        if "receipts_outcome" not in status:
            raise RpcUnavailableError(f"the node does not tell the receipts of transaction {tx_hash} yet")
        blocks = {item["id"]: item["block_hash"] for item in status["receipts_outcome"]}
        by_block: dict[str, list[ReceiptLogs]] = {}
        for receipt in receipts_of_transaction(status):
            by_block.setdefault(blocks[receipt.receipt_id], []).append(receipt)
        if status.get("final_execution_status") == "FINAL":
            self._finished[tx_hash] = _Finished(by_block, await self._rpc.head_height())
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
        previous = header.get("prev_height")
        return Block(
            int(header["height"]),
            str(header["hash"]),
            int(header["timestamp"]),
            tuple(receipts),
            None if previous is None else int(previous),
        )
    except (TypeError, KeyError, ValueError, OverflowError, AttributeError) as error:
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
        succeeded=is_success(outcome["status"]),
    )


def parse_event(line: str) -> dict[str, Any] | None:
    """The JSON object of a NEP-297 log line; None for any other line."""
    if not line.startswith(EVENT_PREFIX):
        return None
    try:
        value = json.loads(line.removeprefix(EVENT_PREFIX))
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not all(
        isinstance(value.get(name), str) for name in ("standard", "event")
    ):
        return None
    return value


def version_at_least(version: str, lowest: str) -> bool:
    """Compare dotted numbers, absent ones as 0; a version that is not numeric never counts."""
    found, wanted = version.split("."), lowest.split(".")
    if not all(part.isascii() and part.isdecimal() and len(part) < 10 for part in found):
        return False
    size = max(len(found), len(wanted))
    return _padded(found, size) >= _padded(wanted, size)


def _padded(parts: list[str], size: int) -> list[int]:
    return [int(part) for part in parts] + [0] * (size - len(parts))


def events_of_block(
    block: Block, contract_id: str, *, standard: str = STANDARD, min_version: str = "1.0.0"
) -> Iterator[ContractEvent]:
    """Events that a contract logged in a block, in order of execution; none of receipts that failed."""
    for receipt in block.receipts:
        if receipt.receiver_id != contract_id or not receipt.succeeded:
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
        found = read_event(MAIN_EVENTS, REQUESTED, event.data)
    except ModelError as error:
        raise EventError(
            f"an execution_requested event in block {event.block_height} cannot be read: {error}"
        ) from error
    if not found:
        raise EventError(f"an execution_requested event in block {event.block_height} is empty")
    requested: ExecutionRequested = found[0]
    return RequestEvent(
        request=requested.request_data,
        data_id=requested.data_id,
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


@dataclass(frozen=True)
class Settlement:
    """How a request ended: the receipt of the contract's callback, which succeeded.

    ``success``, ``error``, ``charged``, ``refunded`` and ``record_sha256`` are what its ``execution_completed``
    says, amounts in yoctoNEAR. All are None without that event: the request timed out, or its event was too long
    to log. ``record_sha256``, the leaf of the task record in lower-case hex, is also None when the operator gave
    none. ``value`` is what the callback returned.
    """

    receipt_id: str
    block_hash: str
    record_sha256: str | None
    success: bool | None
    value: bytes
    error: str | None = None
    charged: int | None = None
    refunded: int | None = None


def requests_of_transaction(status: dict[str, Any], contract_id: str) -> Iterator[RequestEvent]:
    """The requests of an ``EXPERIMENTAL_tx_status`` answer, of receipts that succeeded; block heights are 0.

    Raises ``EventError`` for an answer of another form.
    """
    for block in _blocks_of_transaction(status):
        yield from requests_of_block(block, contract_id)


def settlement_of(status: dict[str, Any], contract_id: str, request: RequestEvent) -> Settlement | None:
    """How a request of this ``EXPERIMENTAL_tx_status`` answer ended; None while it waits.

    Only a receipt counts that succeeded, that the contract executed, that the requesting receipt made, and that
    is the callback of this very request. Raises ``EventError`` for an answer of another form.
    """
    try:
        outcomes = {item["id"]: item["outcome"] for item in status["receipts_outcome"]}
        receipts = {item["receipt_id"]: item for item in status["receipts"]}
        asked = outcomes.get(request.receipt_id)
        made = [] if asked is None else asked["receipt_ids"]
        found = {
            child
            for child in made
            if child in outcomes
            and is_success(outcomes[child]["status"])
            and outcomes[child]["executor_id"] == contract_id
            and _called_back(receipts.get(child), contract_id) == request.request.request_id
        }
        for block in _blocks_of_transaction(status):
            (receipt,) = block.receipts
            if receipt.receipt_id in found:
                value = base64.b64decode(outcomes[receipt.receipt_id]["status"].get("SuccessValue") or "")
                return _settlement(block, contract_id, value)
    except (TypeError, KeyError, ValueError, OverflowError, AttributeError, RecursionError) as error:
        raise _unknown_status(error) from error
    return None


def charge_of(status: dict[str, Any], contract_id: str, request_id: int) -> int | None:
    """YoctoNEAR that a request was charged, by the line ``[[yNEAR charged: "<cost>"]]``; None without one.

    ``status`` is the ``EXPERIMENTAL_tx_status`` answer of the request's transaction or of the operator's. Only a
    receipt counts that succeeded, that the contract executed, and whose one call names this request: its
    callback, or an operator's answer. Raises ``EventError`` for an answer of another form.
    """
    try:
        receipts = {item["receipt_id"]: item for item in status["receipts"]}
        for block in _blocks_of_transaction(status):
            (receipt,) = block.receipts
            if receipt.receiver_id != contract_id or not receipt.succeeded:
                continue
            if _settled_by(receipts.get(receipt.receipt_id), contract_id) != request_id:
                continue
            for line in receipt.logs:
                if (found := _CHARGED.fullmatch(line)) is not None:
                    return int(found[1])
    except (TypeError, KeyError, ValueError, OverflowError, AttributeError, RecursionError) as error:
        raise _unknown_status(error) from error
    return None


_CHARGED = re.compile(r'\[\[yNEAR charged: "([0-9]{1,39})"\]\]')


def _blocks_of_transaction(status: dict[str, Any]) -> Iterator[Block]:
    """Each executed receipt of a transaction in a block of its own: of these blocks only the hash is known."""
    try:
        hashes = {item["id"]: item["block_hash"] for item in status["receipts_outcome"]}
        receipts = list(receipts_of_transaction(status))
        blocks = [Block(0, _text(hashes[receipt.receipt_id]), 0, (receipt,)) for receipt in receipts]
    except (TypeError, KeyError, ValueError, OverflowError, AttributeError) as error:
        raise _unknown_status(error) from error
    yield from blocks


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a block hash is text")
    return value


def _unknown_status(error: Exception) -> EventError:
    return EventError(
        f"the node's answer about a transaction has an unknown form ({error!r:.200})",
        hint="see that the URL is that of a NEAR node",
    )


def _called_back(receipt: Any, contract_id: str) -> int | None:
    """The request that a receipt is the callback of: one call, by the contract itself, with the request's id."""
    if receipt is None or {receipt["predecessor_id"], receipt["receiver_id"]} != {contract_id}:
        return None
    return _request_named(receipt, (CALLBACK,))


def _settled_by(receipt: Any, contract_id: str) -> int | None:
    """The request that a receipt settles: as its callback, or as the operator's answer, which only it may give."""
    called_back = _called_back(receipt, contract_id)
    if called_back is not None or receipt is None:
        return called_back
    return _request_named(receipt, ANSWERS)


def _request_named(receipt: Any, methods: tuple[str, ...]) -> int | None:
    """``request_id`` of the one call of a receipt, if it is of one of these methods."""
    actions = receipt["receipt"].get("Action", {}).get("actions", [])
    call = actions[0].get("FunctionCall") if len(actions) == 1 and isinstance(actions[0], dict) else None
    if call is None or call["method_name"] not in methods:
        return None
    arguments = json.loads(base64.b64decode(call["args"]))
    found = arguments["request_id"]
    return found if type(found) is int else None


def _settlement(block: Block, contract_id: str, value: bytes) -> Settlement:
    completed: ExecutionCompleted | None = None
    for event in events_of_block(block, contract_id):
        if event.event == COMPLETED:
            try:
                (completed,) = read_event(MAIN_EVENTS, COMPLETED, event.data) or ()
            except (ModelError, ValueError) as error:
                raise EventError(f"an execution_completed event cannot be read: {error}") from error
    (receipt,) = block.receipts
    return Settlement(
        receipt_id=receipt.receipt_id,
        block_hash=block.hash,
        record_sha256=None if completed is None else completed.record_sha256,
        success=None if completed is None else completed.success,
        value=value,
        error=None if completed is None else completed.error_message,
        charged=None if completed is None else completed.payment_charged,
        refunded=None if completed is None else completed.payment_refunded,
    )


async def find_execution_request(
    source: BlockSource,
    contract_id: str,
    block_height: int,
    request_id: int,
    data_id: bytes | None = None,
    *,
    timeout: float = 10.0,
) -> RequestEvent | None:
    """The request's event in a block, read by the caller's own connection; None when the block does not hold it.

    With ``data_id`` it must be that of this very yield. Other events, readable or not, do not matter. A block that
    is not there yet is waited for. Raises ``RpcUnavailableError`` when it does not come within ``timeout``
    seconds: that is no proof that the request was made up. Raises ``EventError`` when the request is not found
    and an event of the block cannot be read.
    """
    deadline = time.monotonic() + timeout
    while (block := await source.block(block_height)) is None:
        if time.monotonic() > deadline:
            raise RpcUnavailableError(
                f"block {block_height} did not come within {timeout:.0f} s",
                hint="see that the RPC endpoint or block feed is of this network and in step with it",
            )
        await asyncio.sleep(_NOT_YET_SECONDS)
    unreadable: EventError | None = None
    for event in events_of_block(block, contract_id):
        if event.event != REQUESTED:
            continue
        try:
            found = parse_request(event)
        except EventError as error:
            unreadable = error
            continue
        if found.request.request_id == request_id and data_id in (None, found.data_id):
            return found
    if unreadable is not None:
        raise unreadable
    return None


class BlockStream:
    """Blocks in order from a height on. Never skips one because of an error: it waits and asks again (R48).

    A source's word that a height was skipped is believed only when the next block names as its parent the last
    one that was delivered. ``next_height`` is where a new stream would have to start; ``last_error`` says why
    nothing comes, None while all is well.
    """

    def __init__(self, source: BlockSource, start: int) -> None:
        self._source = source
        self._asked = start
        self.next_height = start
        self.last_error: str | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._source.close()

    async def next(self) -> Block:
        """The next block; the caller stores ``height + 1`` together with what it made of it, then asks again."""
        wait, asked_head = _NOT_YET_SECONDS, time.monotonic()
        missing: str | None = None
        while True:
            try:
                block = await self._source.block(self._asked)
                if block is not None and block.skipped:
                    self._asked += 1
                    continue
                if block is not None:
                    self._check_link(block)
                    self.last_error = None
                    self._asked = self.next_height = block.height + 1
                    return block
                wait = _NOT_YET_SECONDS
                if time.monotonic() - asked_head > _MISSING_AFTER_SECONDS:
                    asked_head = time.monotonic()
                    missing = await self._why_missing()
                self.last_error = missing
            except (RpcUnavailableError, RpcError, EventError) as error:
                self.last_error = str(error)
                wait = min(wait * 2, _LONGEST_WAIT_SECONDS)
            await asyncio.sleep(wait)

    async def __aiter__(self) -> AsyncIterator[Block]:
        while True:
            yield await self.next()

    def _check_link(self, block: Block) -> None:
        previous = block.prev_height
        if previous is not None and previous >= self.next_height:
            self._asked = self.next_height
            raise EventError(f"the source skipped block {previous}, which block {block.height} builds on")

    async def _why_missing(self) -> str | None:
        head = await self._source.head()
        if head <= self._asked:
            return None
        return f"block {self._asked} is not given although the newest one is {head}"
