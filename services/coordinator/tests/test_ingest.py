# SPDX-License-Identifier: MIT
"""Chain events become near jobs: each once, none lost (R48)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest_asyncio

from outlayer_coordinator.ingest import Ingest
from outlayer_near.errors import RpcUnavailableError
from outlayer_near.events import Block, ReceiptLogs

CONTRACT = "outlayer.test"


def request_log(request_id: int, **changes: Any) -> str:
    data = {
        "request_id": request_id,
        "sender_id": "alice.test",
        "predecessor_id": "bob.test",
        "code_source": {"Project": {"project_id": "alice.test/echo", "version_key": None}},
        "resource_limits": {"max_instructions": 5, "max_memory_mb": None, "max_execution_seconds": 7},
        "input_data": '{"a":1}',
        "secrets_ref": None,
        "response_format": "Json",
        "payment": "1000",
        "attached_usd": "0",
        "timestamp": 1,
        **changes,
    }
    event = {
        "standard": "near-outlayer",
        "version": "1.0.0",
        "event": "execution_requested",
        "data": [{"request_data": json.dumps(data), "data_id": [request_id % 256] * 32, "timestamp": 1}],
    }
    return "EVENT_JSON:" + json.dumps(event)


def block(height: int, *logs: str, receiver: str = CONTRACT, succeeded: bool = True) -> Block:
    receipt = ReceiptLogs(
        tx_hash="tx",
        receipt_id=f"receipt{height}",
        receiver_id=receiver,
        predecessor_id="bob.test",
        signer_id="alice.test",
        signer_public_key="ed25519:x",
        gas_burnt=1,
        logs=logs,
        succeeded=succeeded,
    )
    return Block(height, f"hash{height}", height * 10**9, (receipt,))


@dataclass
class Source:
    """A block feed: heights from ``lowest`` on; each of ``failures`` makes one answer fail."""

    blocks: dict[int, Block]
    lowest: int = 1
    failures: int = 0
    asked: list[int] = field(default_factory=list)

    async def block(self, height: int) -> Block | None:
        self.asked.append(height)
        if self.failures:
            self.failures -= 1
            raise RpcUnavailableError("the feed is away")
        return self.blocks.get(height)

    async def head(self) -> int:
        return max(self.blocks)

    async def first(self) -> int:
        return self.lowest

    async def close(self) -> None:
        return


def ids(source: Source, first: int, *per_block: int) -> None:
    """Blocks from ``first`` on with so many requests each, numbered through."""
    number = len([1 for item in source.blocks.values() for receipt in item.receipts for _ in receipt.logs])
    for height, count in enumerate(per_block, start=first):
        source.blocks[height] = block(height, *(request_log(number + n) for n in range(count)))
        number += count


@contextlib.asynccontextmanager
async def following(ingest: Ingest) -> AsyncIterator[None]:
    task = asyncio.create_task(ingest.run_forever())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest_asyncio.fixture
async def db(database: str) -> AsyncIterator[Any]:
    async with asyncpg.create_pool(database, min_size=1, max_size=2) as pool:
        yield pool


@pytest_asyncio.fixture
async def ingest_of(database: str, tmp_path: Path) -> Any:
    from importlib import import_module

    harness = import_module("outlayer_coordinator_tests_harness")

    def make(source: Source, rung: list[int] | None = None, **changes: Any) -> Ingest:
        settings = harness.settings_for(database, "redis://127.0.0.1:1/0", tmp_path, **changes)
        return Ingest(settings, lambda: None if rung is None else rung.append(1), lambda: source)

    return make


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        for _ in range(1000):
            if await condition():
                return
            await asyncio.sleep(0.02)


async def until_height(db: Any, height: int) -> None:
    async def reached() -> bool:
        return (await db.fetchval("SELECT max(height) FROM event_cursors") or 0) >= height

    await until(reached)


async def until_trouble(ingest: Ingest) -> None:
    async def troubled() -> bool:
        return ingest.trouble is not None

    await until(troubled)


async def requests(db: Any) -> list[int]:
    return [row["request_id"] for row in await db.fetch("SELECT request_id FROM jobs ORDER BY seq")]


async def test_each_request_becomes_one_near_job(db: Any, ingest_of: Any) -> None:
    source, rung = Source({}), []
    ids(source, 1, 0, 2, 1)
    async with following(ingest_of(source, rung)):
        await until_height(db, 3)
    assert await requests(db) == [0, 1, 2]
    assert len(rung) == 3
    row = await db.fetchrow("SELECT * FROM jobs WHERE request_id = 1")
    assert (row["kind"], row["state"], row["contract_id"], row["block_height"]) == (
        "near",
        "queued",
        CONTRACT,
        2,
    )
    assert row["data_id"] == b"\x01" * 32
    assert (row["max_instructions"], row["max_memory_mb"], row["max_execution_seconds"]) == (5, 128, 7)


async def test_r48_no_event_is_lost_or_taken_twice_when_the_feed_fails(db: Any, ingest_of: Any) -> None:
    source = Source({}, failures=2)
    ids(source, 1, 1, 2, 0, 3)
    async with following(ingest_of(source)):
        await until_height(db, 4)
    assert await requests(db) == list(range(6))
    assert [height for index, height in enumerate(source.asked) if index < 3] == [1, 1, 1]


async def test_r48_after_a_restart_it_goes_on_from_its_cursor(db: Any, ingest_of: Any) -> None:
    source = Source({})
    ids(source, 5, 1, 1)
    async with following(ingest_of(source, start_block_height=5)):
        await until_height(db, 6)
    ids(source, 7, 2)
    source.asked.clear()
    async with following(ingest_of(source, start_block_height=5)):
        await until_height(db, 7)
    assert source.asked[0] == 7
    assert await requests(db) == [0, 1, 2, 3]


async def test_r48_a_crash_between_job_and_cursor_leaves_neither(db: Any, ingest_of: Any) -> None:
    source = Source({})
    ids(source, 1, 2)
    await db.execute(
        """
        CREATE FUNCTION fault() RETURNS trigger AS $$ BEGIN RAISE EXCEPTION 'injected'; END $$ LANGUAGE plpgsql;
        CREATE TRIGGER fault BEFORE INSERT ON event_cursors EXECUTE FUNCTION fault();
        """
    )
    ingest = ingest_of(source)
    async with following(ingest):
        await until_trouble(ingest)
        assert await requests(db) == []
        await db.execute("DROP TRIGGER fault ON event_cursors")
        await until_height(db, 1)
    assert await requests(db) == [0, 1]


async def test_two_coordinators_take_each_event_once_and_one_follows_the_other(
    db: Any, ingest_of: Any
) -> None:
    source = Source({})
    ids(source, 1, 3)
    first, second = ingest_of(source), ingest_of(source)
    async with following(first):
        await until_height(db, 1)
        async with following(second):
            await asyncio.sleep(0.3)
            assert (first.leader, second.leader) == (True, False)
    ids(source, 2, 2)
    async with following(second):
        await until_height(db, 2)
    assert await requests(db) == [0, 1, 2, 3, 4]


async def test_a_block_read_again_makes_no_second_job(db: Any, database: str, ingest_of: Any) -> None:
    ingest = ingest_of(Source({}))
    async with db.acquire() as connection:
        assert await ingest.store(connection, block(1, request_log(4), request_log(5))) == 2
        assert await ingest.store(connection, block(1, request_log(4), request_log(5))) == 0
        assert await ingest.store(connection, block(0)) == 0
    assert await db.fetchval("SELECT height FROM event_cursors") == 1


async def test_what_others_log_and_what_cannot_be_read_makes_no_job(db: Any, ingest_of: Any) -> None:
    bad = request_log(1).replace("execution_requested", "execution_completed")
    short = request_log(2).replace("[2, 2, ", "[2, ")
    unreadable = request_log(3, code_source={"Floppy": {}})
    huge = request_log(2**63)
    logs = ("hello", "EVENT_JSON:{", bad, short, unreadable, huge, request_log(6))
    ingest = ingest_of(Source({}))
    async with db.acquire() as connection:
        assert await ingest.store(connection, block(1, *logs)) == 1
        assert await ingest.store(connection, block(2, request_log(7), receiver="evil.test")) == 0
        assert await ingest.store(connection, block(3, request_log(8), succeeded=False)) == 0
    assert await requests(db) == [6]


async def test_blocks_that_are_gone_are_not_skipped_silently(db: Any, ingest_of: Any) -> None:
    source = Source({}, lowest=10)
    ids(source, 10, 1)
    ingest = ingest_of(source, start_block_height=3)
    async with following(ingest):
        await until_trouble(ingest)
    assert "3 to 9 are no longer served" in ingest.last_error
    assert await requests(db) == []


async def test_a_near_job_is_claimed_completed_and_found_by_request_and_transaction(
    service: Any, ingest_of: Any
) -> None:
    worker = await service.worker()
    async with service.db.acquire() as connection:
        await ingest_of(Source({})).store(connection, block(9, request_log(4)))
    job = await worker.claim_one()
    assert job["https"] is None
    assert job["near"] == {"request_id": 4, "data_id": "04" * 32, "block_height": 9, "contract_id": CONTRACT}
    lie = {"request_id": 5}
    [refused] = (await worker.send(worker.report(worker.outcome(job, record_changes=lie)))).json()["results"]
    assert refused["reason"] == "mismatch: record.request_id"
    tx_hash = "9Fh2kLmNpQrStUvWxYz1234567ABCDEFGHJKLMNPQRSt"
    await worker.finish(job, b'{"n":1}', resolve_tx_hash=tx_hash)
    for path in ("by-request/4", f"by-tx/{tx_hash}"):
        [item] = (await service.client.get(f"/attestations/{path}")).json()["items"]
        assert (item["job_id"], item["request_id"], item["call_id"]) == (job["job_id"], 4, None)
    row = await service.db.fetchrow("SELECT state, resolve_tx_hash, output FROM jobs")
    assert tuple(row) == ("completed", tx_hash, b'{"n":1}')


async def test_a_failed_near_job_is_recorded_with_the_output_null(service: Any, ingest_of: Any) -> None:
    worker = await service.worker()
    async with service.db.acquire() as connection:
        await ingest_of(Source({})).store(connection, block(9, request_log(4)))
    job = await worker.claim_one()
    await worker.finish(job, success=False, error="trap", error_category="guest_trap")
    assert await service.db.fetchval("SELECT state FROM jobs") == "failed"


async def test_malformed_archive_ids_are_refused(service: Any) -> None:
    for path, status in {
        "by-request/x": 400,
        "by-request/99999999999999999999": 400,
        "by-tx/a%00b": 400,
        "by-call/x": 404,
        "x": 404,
    }.items():
        assert (await service.client.get(f"/attestations/{path}")).status_code == status, path
    assert (await service.client.get("/attestations/by-request/7")).json() == {"items": []}
