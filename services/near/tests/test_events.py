# SPDX-License-Identifier: MIT
"""Events block by block: none is lost, none comes twice, and no word of a source is taken for more than it is."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from outlayer_near import events as events_module
from outlayer_near import rpc as rpc_module
from outlayer_near.errors import EventError, RpcError, RpcUnavailableError
from outlayer_near.events import (
    Block,
    BlockStream,
    FeedSource,
    ReceiptLogs,
    RpcSource,
    block_from_feed,
    events_of_block,
    find_execution_request,
    parse_event,
    requests_of_block,
    version_at_least,
)
from outlayer_near.rpc import NearRpc

CONTRACT = "outlayer.test"
KEY = "ed25519:11111111111111111111111111111111"


def request_line(number: int, **changes: Any) -> str:
    request = {
        "request_id": number,
        "sender_id": "alice.test",
        "predecessor_id": "bob.test",
        "code_source": {"WasmUrl": {"url": "http://w", "hash": "ab", "build_target": None}},
        "resource_limits": {"max_instructions": 5, "max_memory_mb": None},
        "input_data": '{"a":"ä"}',
        "response_format": "Json",
        "payment": "1000",
    }
    request.update(changes)
    data = [{"request_data": json.dumps(request), "data_id": [number % 256] * 32, "timestamp": 5}]
    event = {"standard": "near-outlayer", "version": "1.0.0", "event": "execution_requested", "data": data}
    return "EVENT_JSON:" + json.dumps(event)


@dataclass(frozen=True)
class Receipt:
    tx: str
    receiver: str
    logs: tuple[str, ...]
    failed: bool = False

    @property
    def id(self) -> str:
        return f"receipt-{self.tx}-{self.receiver}-{hash(self.logs)}"

    def view(self) -> dict[str, Any]:
        action = {"signer_id": "alice.test", "signer_public_key": KEY, "actions": []}
        return {
            "predecessor_id": "bob.test",
            "receiver_id": self.receiver,
            "receipt_id": self.id,
            "receipt": {"Action": action},
        }

    def outcome(self, block_hash: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "block_hash": block_hash,
            "outcome": {
                "logs": list(self.logs),
                "gas_burnt": 42,
                "status": {"Failure": {}} if self.failed else {"SuccessValue": ""},
            },
        }


@dataclass
class Model:
    """A chain: what ran at which height (None: the height was skipped), and where transactions began."""

    blocks: dict[int, list[Receipt] | None] = field(default_factory=dict)
    begun: dict[str, int] = field(default_factory=dict)
    head: int = 0
    garbage_below: int = 0

    def add(self, height: int, *receipts: Receipt, begun: int | None = None) -> None:
        self.blocks[height] = list(receipts)
        self.head = max(self.head, height)
        for receipt in receipts:
            self.begun.setdefault(receipt.tx, height if begun is None else begun)

    def skip(self, height: int) -> None:
        self.blocks[height] = None

    def header(self, height: int) -> dict[str, Any]:
        previous = max(
            (n for n, items in self.blocks.items() if n < height and items is not None), default=None
        )
        return {
            "height": height,
            "hash": f"hash-{height}",
            "timestamp": height * 10**9,
            "prev_height": previous,
        }

    def feed(self, path: str) -> Any:
        name = path.rsplit("/", 1)[1]
        if name in ("final", "first_block"):
            return {"block": {"header": self.header(self.head if name == "final" else min(self.blocks))}}
        height = int(name)
        if height > self.head:
            return web.Response(status=404)
        receipts = self.blocks[height]
        if receipts is None:
            return None
        outcomes = [
            {"execution_outcome": item.outcome(f"hash-{height}"), "receipt": item.view(), "tx_hash": item.tx}
            for item in receipts
        ]
        return {
            "block": {"header": self.header(height)},
            "shards": [{"shard_id": 0, "receipt_execution_outcomes": outcomes}],
        }

    def install_rpc(self, node: Any, refusal: Any) -> None:
        def block(params: Any) -> Any:
            height = params.get("block_id", self.head)
            if height < self.garbage_below:
                raise refusal("GARBAGE_COLLECTED_BLOCK", "gone")
            if self.blocks.get(height) is None or height > self.head:
                raise refusal("UNKNOWN_BLOCK", "DB Not Found", 422)
            chunk = {"chunk_hash": f"chunk-{height}", "height_included": height}
            old = {"chunk_hash": "chunk-of-before", "height_included": height - 1}
            return {"header": self.header(height), "chunks": [chunk, old]}

        def chunk(params: Any) -> Any:
            height = int(params["chunk_id"].removeprefix("chunk-"))
            hashes = [tx for tx, begun in self.begun.items() if begun == height]
            return {"transactions": [{"hash": tx, "signer_id": "alice.test"} for tx in hashes]}

        def status(params: Any) -> Any:
            tx, run, open_ = params["tx_hash"], [], False
            for height, receipts in self.blocks.items():
                for receipt in receipts or ():
                    if receipt.tx == tx and height <= self.head:
                        run.append((height, receipt))
                    open_ |= receipt.tx == tx and height > self.head
            return {
                "final_execution_status": "INCLUDED_FINAL" if open_ else "FINAL",
                "status": {"SuccessValue": ""},
                "transaction": {"hash": tx},
                "receipts_outcome": [receipt.outcome(f"hash-{height}") for height, receipt in run],
                "receipts": [receipt.view() for _, receipt in run],
            }

        node.methods.update(block=block, chunk=chunk, EXPERIMENTAL_tx_status=status)
        node.methods["status"] = lambda _: {"sync_info": {"earliest_block_height": min(self.blocks)}}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(events_module, "_NOT_YET_SECONDS", 0.002)
    monkeypatch.setattr(events_module, "_LONGEST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(rpc_module, "_FIRST_WAIT_SECONDS", 0.001)


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture(params=["feed", "rpc"])
async def source(request, node, model, refusal):
    """The same chain through both doors."""
    if request.param == "feed":
        node.feed = model.feed
        opened: Any = FeedSource(node.url, timeout=5)
    else:
        model.install_rpc(node, refusal)
        opened = RpcSource(NearRpc(node.url, timeout=5))
    yield opened
    await opened.close()


async def ids_until(stream: BlockStream, head: int) -> list[int]:
    found: list[int] = []
    while stream.next_height <= head:
        block = await asyncio.wait_for(stream.next(), 20)
        found += [event.request.request_id for event in requests_of_block(block, CONTRACT)]
    return found


def grow(model: Model, seed: int, *, heights: int = 30) -> list[int]:
    """A random chain from height 10 on; gives the ids of its requests in order."""
    rng, ids = random.Random(seed), []
    for height in range(10, 10 + heights):
        if 10 < height < 9 + heights and rng.random() < 0.2:
            model.skip(height)
            continue
        receipts = []
        for _ in range(rng.choice([0, 0, 1, 2])):
            number = len(ids) + 1
            receiver = CONTRACT if rng.random() < 0.8 else "other.test"
            if receiver == CONTRACT:
                ids.append(number)
            receipts.append(
                Receipt(f"tx-{height}-{len(receipts)}", receiver, (request_line(number), "plain"))
            )
        model.add(height, *receipts)
    return ids


@pytest.mark.parametrize("seed", range(3))
async def test_r48_no_event_is_lost_when_the_feed_fails(source, model, node, seed):
    """All events of all blocks arrive exactly once, in order, whatever the source answers in between."""
    expected, rng = grow(model, seed), random.Random(seed)
    kinds = [500, 429, "drop", "garbage", "list", "neither", None, None, None]
    node.faults.extend(rng.choice(kinds) for _ in range(150))
    assert await ids_until(BlockStream(source, 10), model.head) == expected


async def test_r48_a_new_stream_goes_on_where_the_stored_position_is(source, model):
    expected = grow(model, 7)
    found, position = [], 10
    while position <= model.head:  # a process that dies after each block
        stream = BlockStream(source, position)
        block = await asyncio.wait_for(stream.next(), 20)
        found += [event.request.request_id for event in requests_of_block(block, CONTRACT)]
        position = stream.next_height
        assert position == block.height + 1
    assert found == expected


async def test_r48_a_false_skip_is_not_believed(node, model):
    """A feed that answers null for a block that exists is found out by the next block's parent."""
    for height in (10, 11, 12):
        model.add(height, Receipt(f"tx-{height}", CONTRACT, (request_line(height),)))
    lies = iter([True, True, True])
    node.feed = lambda path: None if path.endswith("/11") and next(lies, False) else model.feed(path)
    source = FeedSource(node.url)
    assert await ids_until(BlockStream(source, 10), 12) == [10, 11, 12]
    assert next(lies, "used up") == "used up"
    await source.close()


async def test_r48_a_false_skip_right_at_the_start_is_not_believed(node, model):
    for height in (10, 11):
        model.add(height, Receipt(f"tx-{height}", CONTRACT, (request_line(height),)))
    lies = iter([True])
    node.feed = lambda path: None if path.endswith("/10") and next(lies, False) else model.feed(path)
    source = FeedSource(node.url)
    assert await ids_until(BlockStream(source, 10), 11) == [10, 11]
    await source.close()


async def test_a_stream_waits_at_the_head_and_goes_on(source, model):
    model.add(10, Receipt("a", CONTRACT, (request_line(1),)))
    stream = BlockStream(source, 10)
    assert (await stream.next()).height == 10
    waiting = asyncio.create_task(stream.next())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    assert stream.last_error is None
    model.skip(11)
    model.add(12, Receipt("b", CONTRACT, (request_line(2),)))
    block = await asyncio.wait_for(waiting, 5)
    assert [event.request.request_id for event in requests_of_block(block, CONTRACT)] == [2]
    assert stream.next_height == 13


async def test_a_stream_says_why_nothing_comes(source, model, node):
    model.add(10)
    node.faults.extend([503] * 10_000)
    stream = BlockStream(source, 10)
    waiting = asyncio.create_task(stream.next())
    await asyncio.sleep(0.1)
    assert stream.last_error
    assert stream.next_height == 10
    node.faults.clear()
    assert (await asyncio.wait_for(waiting, 5)).height == 10
    assert stream.last_error is None


async def test_a_block_that_the_feed_does_not_have_any_more_is_told(node, model, monkeypatch):
    monkeypatch.setattr(events_module, "_MISSING_AFTER_SECONDS", 0.01)
    model.add(50)
    node.feed = lambda path: web.Response(status=404) if path.endswith("/10") else model.feed(path)
    source = FeedSource(node.url)
    stream = BlockStream(source, 10)
    waiting = asyncio.create_task(stream.next())
    await asyncio.sleep(0.2)
    assert stream.last_error == "block 10 is not given although the newest one is 50"
    assert not waiting.done()
    waiting.cancel()
    await source.close()


async def test_a_feed_that_answers_with_another_block_is_not_believed(node, model):
    model.add(10)
    model.add(11)
    node.feed = lambda _: model.feed("/v0/block/11")
    source = FeedSource(node.url)
    with pytest.raises(EventError, match="instead of 10"):
        await source.block(10)
    await source.close()


async def test_a_feed_that_answers_without_end_is_cut(node, model, monkeypatch):
    monkeypatch.setattr(rpc_module, "MAX_ANSWER_BYTES", 10_000)
    model.add(10)
    node.feed = lambda _: {"padding": "x" * 20_000}
    source = FeedSource(node.url)
    with pytest.raises(RpcUnavailableError, match="longer than 10000 bytes"):
        await source.block(10)
    await source.close()


async def test_heights_that_a_source_can_give(source, model):
    model.add(10)
    model.add(14)
    assert (await source.first(), await source.head()) == (10, 14)
    assert await source.block(15) is None


# -- plain RPC ---------------------------------------------------------------------------------------


async def test_plain_rpc_finds_receipts_of_transactions_that_began_long_ago(node, model, refusal):
    """A yield runs up to 200 blocks later, and the stream may start in between."""
    model.install_rpc(node, refusal)
    for height in range(10, 120):
        model.add(height)
    model.add(10, Receipt("old", "bob.test", ()), begun=10)
    model.add(112, Receipt("old", CONTRACT, (request_line(1),)))
    model.add(118, Receipt("old", CONTRACT, (request_line(2),)))
    source = RpcSource(NearRpc(node.url))
    assert await ids_until(BlockStream(source, 110), model.head) == [1, 2]
    await source.close()


async def test_plain_rpc_follows_a_transaction_while_the_chain_grows(node, model, refusal):
    model.install_rpc(node, refusal)
    for height in range(10, 20):
        model.add(height)
    model.add(12, Receipt("tx", "bob.test", ()))
    model.add(18, Receipt("tx", CONTRACT, (request_line(1),)))
    source, found = RpcSource(NearRpc(node.url), look_back=2), []
    stream = BlockStream(source, 10)
    for head in range(10, 20):
        model.head = head
        found += await ids_until(stream, head)
    assert found == [1]
    await source.close()


async def test_plain_rpc_does_not_take_a_lagging_node_for_a_skipped_height(node, model, refusal):
    for height in (10, 11, 12):
        model.add(height, Receipt(f"tx-{height}", CONTRACT, (request_line(height),)))
    model.install_rpc(node, refusal)
    real, lags = node.methods["block"], iter([True] * 5)

    def block(params: Any) -> Any:
        if params.get("block_id") == 11 and next(lags, False):
            raise refusal("UNKNOWN_BLOCK", "DB Not Found", 422)
        return real(params)

    node.methods["block"] = block
    source = RpcSource(NearRpc(node.url))
    assert await ids_until(BlockStream(source, 10), 12) == [10, 11, 12]
    await source.close()


async def test_plain_rpc_starts_where_the_node_has_dropped_older_blocks(node, model, refusal):
    for height in range(10, 40):
        model.add(height, Receipt(f"tx-{height}", CONTRACT, (request_line(height),)))
    model.garbage_below = 30
    model.install_rpc(node, refusal)
    source = RpcSource(NearRpc(node.url))
    assert await ids_until(BlockStream(source, 30), 39) == list(range(30, 40))
    with pytest.raises(RpcError):
        await source.block(29)
    await source.close()


async def test_plain_rpc_gives_any_block_in_any_order_once(node, model, refusal):
    expected = {}
    for height in range(10, 60):
        model.add(height, Receipt(f"tx-{height}", CONTRACT, (request_line(height),)))
        expected[height] = [height]
    model.install_rpc(node, refusal)
    source = RpcSource(NearRpc(node.url), look_back=5)
    for height in random.Random(3).sample(range(10, 60), 20):
        block = await source.block(height)
        assert block is not None
        assert [event.request.request_id for event in requests_of_block(block, CONTRACT)] == [height]
    await source.close()


# -- one request ---------------------------------------------------------------------------------------


async def test_a_request_is_found_with_the_facts_of_its_receipt(source, model):
    model.add(
        10, Receipt("tx-a", CONTRACT, (request_line(7),)), Receipt("tx-b", CONTRACT, (request_line(8),))
    )
    found = await find_execution_request(source, CONTRACT, 10, 8)
    assert found is not None
    assert (found.tx_hash, found.predecessor_id, found.signer_id) == ("tx-b", "bob.test", "alice.test")
    assert (found.block_height, found.block_hash, found.gas_burnt) == (10, "hash-10", 42)
    assert found.data_id == bytes([8] * 32)
    assert found.request.input_data == '{"a":"ä"}'


async def test_a_request_that_is_not_in_its_block_is_not_found(source, model):
    model.add(10, Receipt("tx-a", "forger.test", (request_line(7),)))
    assert await find_execution_request(source, CONTRACT, 10, 7) is None


@pytest.mark.parametrize("forged_first", [True, False])
async def test_a_failed_call_of_the_same_block_does_not_hide_a_request(source, model, forged_first):
    """A failed call has logged the next request's id, with the data id of a yield that never was."""
    forged = Receipt("tx-a", CONTRACT, (request_line(7).replace("[7, 7", "[9, 9"),), failed=True)
    real = Receipt("tx-b", CONTRACT, (request_line(7),))
    model.add(10, *((forged, real) if forged_first else (real, forged)))
    found = await find_execution_request(source, CONTRACT, 10, 7, bytes([7] * 32))
    assert found is not None
    assert (found.tx_hash, found.data_id) == ("tx-b", bytes([7] * 32))


async def test_a_request_with_another_data_id_is_another_request(source, model):
    model.add(10, Receipt("tx-a", CONTRACT, (request_line(7),)))
    assert await find_execution_request(source, CONTRACT, 10, 7, bytes([8] * 32)) is None


@pytest.mark.parametrize("bad_first", [True, False])
async def test_an_event_that_cannot_be_read_does_not_hide_a_request_of_its_block(source, model, bad_first):
    bad = Receipt("tx-a", CONTRACT, (request_line(6, payment="-1"),))
    good = Receipt("tx-b", CONTRACT, (request_line(7),))
    model.add(10, *((bad, good) if bad_first else (good, bad)))
    found = await find_execution_request(source, CONTRACT, 10, 7)
    assert found is not None
    assert found.tx_hash == "tx-b"


async def test_a_request_that_may_be_an_event_that_cannot_be_read_is_an_error(source, model):
    model.add(10, Receipt("tx-a", CONTRACT, (request_line(7, payment="-1"),)))
    with pytest.raises(EventError, match="payment"):
        await find_execution_request(source, CONTRACT, 10, 7)


async def test_a_request_in_a_block_that_is_not_there_yet_is_waited_for(source, model):
    model.add(9)
    waiting = asyncio.create_task(find_execution_request(source, CONTRACT, 10, 7, timeout=5))
    await asyncio.sleep(0.03)
    model.add(10, Receipt("tx-a", CONTRACT, (request_line(7),)))
    assert await waiting is not None


async def test_a_block_that_does_not_come_is_no_proof_against_a_request(source, model):
    model.add(9)
    with pytest.raises(RpcUnavailableError):
        await find_execution_request(source, CONTRACT, 10, 7, timeout=0.02)


# -- forms ---------------------------------------------------------------------------------------------


def block_with(*logs: str, receiver: str = CONTRACT, succeeded: bool = True) -> Block:
    receipt = ReceiptLogs("tx", "r", receiver, "bob.test", "alice.test", KEY, 1, logs, succeeded)
    return Block(5, "hash", 1, (receipt,))


def test_what_a_failed_receipt_logged_is_no_event():
    assert list(requests_of_block(block_with(request_line(1)), CONTRACT))
    assert not list(requests_of_block(block_with(request_line(1), succeeded=False), CONTRACT))


def test_events_are_chosen_by_contract_standard_and_version():
    wanted = request_line(1)
    logs = [
        wanted,
        wanted.replace("near-outlayer", "other"),
        wanted.replace('"1.0.0"', '"0.9.9"'),
        wanted.replace('"1.0.0"', '"1.10"'),
        "a plain line",
        "EVENT_JSON:{broken",
        "EVENT_JSON:[1]",
        "before " + wanted,
    ]
    assert [event.version for event in events_of_block(block_with(*logs), CONTRACT)] == ["1.0.0", "1.10"]
    assert list(events_of_block(block_with(*logs, receiver="other.test"), CONTRACT)) == []
    assert len(list(events_of_block(block_with(*logs), CONTRACT, standard="other"))) == 1


@pytest.mark.parametrize(
    "line",
    [
        request_line(1).replace('"data_id": [1', '"data_id": [300'),
        request_line(1).replace('"data_id": [1, ', '"data_id": ['),
        request_line(1, request_id="one"),
        request_line(1, code_source={"Other": {}}),
        request_line(1, payment="-1"),
        'EVENT_JSON:{"standard":"near-outlayer","version":"1.0.0","event":"execution_requested","data":[]}',
        'EVENT_JSON:{"standard":"near-outlayer","version":"1.0.0","event":"execution_requested"}',
    ],
)
def test_a_request_event_of_another_form_is_told(line):
    with pytest.raises(EventError, match=r"block 5|data id"):
        list(requests_of_block(block_with(line), CONTRACT))


@given(st.text(max_size=60) | st.text(max_size=60).map(lambda text: "EVENT_JSON:" + text))
def test_any_log_line_is_an_event_or_none(line):
    found = parse_event(line)
    assert found is None or isinstance(found["event"], str)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_any_data_of_a_request_event_is_a_request_or_an_error_of_ours(data):
    event = {"standard": "near-outlayer", "version": "1.0.0", "event": "execution_requested", "data": data}
    block = block_with("EVENT_JSON:" + json.dumps(event))
    try:
        list(requests_of_block(block, CONTRACT))
    except EventError:
        return


def mutations(value: Any) -> Iterator[Any]:
    """The value with each part, at any depth, replaced or removed."""
    yield from (None, 5, "text", [], {})
    if isinstance(value, dict):
        for key in value:
            yield {other: item for other, item in value.items() if other != key}
            for changed in mutations(value[key]):
                yield {**value, key: changed}
    elif isinstance(value, list):
        for index in range(len(value)):
            for changed in mutations(value[index]):
                yield [*value[:index], changed, *value[index + 1 :]]


def test_a_feed_block_with_any_part_missing_or_changed_is_a_block_or_an_error_of_ours():
    chain = Model()
    chain.add(10, Receipt("tx", CONTRACT, (request_line(1),)))
    tried = 0
    for changed in mutations(chain.feed("/v0/block/10")):
        tried += 1
        try:
            block = block_from_feed(changed)
            list(requests_of_block(block, CONTRACT))
        except EventError:
            continue
    assert tried > 100


@settings(max_examples=50)
@given(json_values)
def test_any_json_of_a_feed_is_a_block_or_an_error_of_ours(value):
    with pytest.raises(EventError):
        block_from_feed(value)


@pytest.mark.parametrize(
    ("version", "lowest", "enough"),
    [
        ("1.0.0", "1.0.0", True),
        ("1.0", "1.0.0", True),
        ("1.10.0", "1.9.0", True),
        ("0.9.9", "1.0.0", False),
        ("2", "1.0.0", True),
        ("1.0.0-beta", "1.0.0", False),
        ("", "1.0.0", False),
        ("١.0.0", "1.0.0", False),
    ],
)
def test_versions_are_compared_as_numbers(version, lowest, enough):
    assert version_at_least(version, lowest) is enough
