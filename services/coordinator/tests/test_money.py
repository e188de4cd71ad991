# SPDX-License-Identifier: MIT
"""Reservation and settlement: integer micro-USD, exact, once (R33 to R39)."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
from hypothesis import given
from hypothesis import strategies as st

from outlayer_coordinator import jobs_sql
from outlayer_coordinator.money import Pricing, Reservation, compute_cost, settle

AMOUNT = st.integers(0, 10**12)
PRICES = st.builds(Pricing, AMOUNT, AMOUNT, AMOUNT)


def test_the_cost_counts_whole_millions_and_whole_seconds() -> None:
    pricing = Pricing(base_fee_usd=1000, per_million_instructions_fee_usd=3, per_sec_fee_usd=7)
    assert compute_cost(pricing, 0, 0) == 1000
    assert compute_cost(pricing, 999_999, 999) == 1000
    assert compute_cost(pricing, 2_500_000, 3_001) == 1000 + 2 * 3 + 3 * 7


@given(PRICES, AMOUNT, AMOUNT, st.booleans(), AMOUNT, AMOUNT, AMOUNT)
def test_r34_r35_no_settlement_exceeds_its_limit_or_pays_for_failure(
    pricing: Pricing, limit: int, deposit: int, success: bool, instructions: int, time_ms: int, refund: int
) -> None:
    settlement = settle(
        pricing,
        Reservation(limit, deposit),
        success=success,
        instructions=instructions,
        time_ms=time_ms,
        refund=refund,
    )
    assert 0 <= settlement.compute_cost <= limit
    assert 0 <= settlement.charged <= limit + deposit
    assert settlement.charged == settlement.compute_cost + settlement.credit
    assert settlement.credit + settlement.refund == deposit
    if not success:
        assert settlement.credit == 0


async def earnings(service: Any, owner: str = "alice.test") -> int:
    query = "SELECT coalesce(sum(balance), 0)::bigint FROM project_owner_earnings WHERE project_owner = $1"
    return await service.db.fetchval(query, owner)


async def test_r33_exactly_what_was_reserved_is_released(service: Any) -> None:
    key = await service.make_key(1_000_000)
    worker = await service.worker()
    await service.pending(key, headers={"X-Compute-Limit": "20000", "X-Attached-Deposit": "500"})
    assert await service.balance(key) == {
        "initial_balance": 1_000_000,
        "spent": 0,
        "reserved": 20_500,
        "available": 979_500,
    }
    await worker.finish(await worker.claim_one())
    assert await service.balance(key) == {
        "initial_balance": 1_000_000,
        "spent": 1_502,
        "reserved": 0,
        "available": 998_498,
    }


async def test_r34_the_charge_is_capped_by_the_compute_limit(service: Any) -> None:
    key = await service.make_key()
    worker = await service.worker()
    call_id = await service.pending(key, headers={"X-Compute-Limit": "1500"})
    await worker.finish(await worker.claim_one(), instructions=9_000_000_000)
    assert (await service.result(key, call_id))["compute_cost"] == "1500"
    assert (await service.balance(key))["spent"] == 1500


async def test_r35_a_failing_guest_earns_nothing(service: Any) -> None:
    key = await service.make_key()
    worker = await service.worker()
    await service.pending(key, headers={"X-Attached-Deposit": "700"})
    await worker.finish(await worker.claim_one(), success=False, error="trap", error_category="guest_trap")
    assert await earnings(service) == 0
    assert (await service.balance(key))["spent"] == 1002
    await service.pending(key, headers={"X-Attached-Deposit": "700"})
    await worker.finish(await worker.claim_one())
    assert await earnings(service) == 700
    assert (await service.balance(key))["spent"] == 2 * 1002 + 700


async def test_r36_a_refund_lowers_what_is_spent_and_earned(service: Any) -> None:
    key = await service.make_key()
    worker = await service.worker()
    await service.pending(key, headers={"X-Attached-Deposit": "700"})
    await worker.finish(await worker.claim_one(), refund_usd=250)
    assert await earnings(service) == 450
    assert (await service.balance(key))["spent"] == 1002 + 450


async def test_a_refund_beyond_the_deposit_gives_back_the_deposit(service: Any) -> None:
    key = await service.make_key()
    worker = await service.worker()
    await service.pending(key, headers={"X-Attached-Deposit": "700"})
    await worker.finish(await worker.claim_one(), refund_usd=10**9)
    assert await earnings(service) == 0
    assert (await service.balance(key))["spent"] == 1002


async def test_r37_a_fault_at_any_step_of_accepting_a_call_reserves_nothing(service: Any) -> None:
    """Each table that the statement writes fails in turn; nothing of the others may stay."""
    key = await service.make_key()
    for table in ("https_calls", "jobs"):
        await service.db.execute(
            f"""
            CREATE OR REPLACE FUNCTION fault() RETURNS trigger AS $$
            BEGIN RAISE EXCEPTION 'injected'; END $$ LANGUAGE plpgsql;
            CREATE TRIGGER fault BEFORE INSERT ON {table} EXECUTE FUNCTION fault();
            """
        )
        answer = await service.call(key)
        assert answer.status_code == 500
        assert answer.json() == {"error": "Internal error"}
        await service.db.execute(f"DROP TRIGGER fault ON {table}")
        row = await service.db.fetchrow("SELECT reserved, open_calls FROM payment_keys")
        assert tuple(row) == (0, 0)
        assert await service.db.fetchval("SELECT count(*) FROM https_calls") == 0


async def test_r37_a_call_to_no_project_reserves_nothing(service: Any) -> None:
    key = await service.make_key()
    answer = await service.call(key, project="alice.test/nothing")
    assert answer.status_code == 404
    assert (await service.balance(key))["reserved"] == 0


async def test_a_fault_while_settling_settles_nothing(service: Any) -> None:
    key = await service.make_key()
    worker = await service.worker()
    await service.pending(key, headers={"X-Attached-Deposit": "5"})
    job = await worker.claim_one()
    for table in (
        "https_calls",
        "payment_keys",
        "project_owner_earnings",
        "attestation_batches",
        "task_attestations",
    ):
        await service.db.execute(
            f"""
            CREATE OR REPLACE FUNCTION fault() RETURNS trigger AS $$
            BEGIN RAISE EXCEPTION 'injected'; END $$ LANGUAGE plpgsql;
            CREATE TRIGGER fault BEFORE INSERT OR UPDATE ON {table} EXECUTE FUNCTION fault();
            """
        )
        answer = await worker.send(worker.report(worker.outcome(job)))
        assert answer.status_code == 500, table
        await service.db.execute(f"DROP TRIGGER fault ON {table}")
        assert await service.db.fetchval("SELECT state FROM jobs") == "claimed"
        assert await service.db.fetchval("SELECT count(*) FROM task_attestations") == 0
        assert (await service.balance(key))["spent"] == 0
    await worker.finish(job)
    assert (await service.balance(key))["spent"] == 1002 + 5


async def test_r38_a_late_completion_is_settled_and_readable(start: Any) -> None:
    service = await start(sync_timeout_seconds=0.2)
    key = await service.make_key()
    worker = await service.worker()
    answer = await service.call(key)
    assert answer.status_code == 200
    reply = answer.json()
    assert reply["status"] == "pending"
    assert reply["poll_url"] == f"/calls/{reply['call_id']}"
    assert (await service.balance(key))["reserved"] == 10_000
    await worker.finish(await worker.claim_one())
    assert await service.balance(key) == {
        "initial_balance": 1_000_000,
        "spent": 1002,
        "reserved": 0,
        "available": 998_998,
    }
    assert (await service.result(key, reply["call_id"]))["status"] == "completed"


async def test_r39_only_the_stuck_call_is_closed_and_only_its_amount_released(start: Any) -> None:
    service = await start(stuck_call_seconds=1000.0)
    key = await service.make_key()
    worker = await service.worker()
    running = await service.pending(key, headers={"X-Compute-Limit": "3000"})
    job = await worker.claim_one()
    stuck = await service.pending(key, headers={"X-Compute-Limit": "4000"})
    await service.db.execute("UPDATE jobs SET created_at = now() - interval '2000 seconds'")
    await service.until("SELECT status = 'failed' FROM https_calls WHERE call_id = $1::text::uuid", stuck)
    assert await service.balance(key) == {
        "initial_balance": 1_000_000,
        "spent": 0,
        "reserved": 3000,
        "available": 997_000,
    }
    closed = await service.result(key, stuck)
    assert closed["compute_cost"] == "0"
    assert "No worker" in closed["error"]
    await worker.finish(job)
    assert (await service.result(key, running))["status"] == "completed"
    assert (await service.balance(key))["reserved"] == 0


async def test_concurrent_calls_never_overspend(start: Any) -> None:
    service = await start(max_concurrent_calls=100)
    key = await service.make_key(35_000)
    answers = await asyncio.gather(*(service.call(key, n, **{"async": True}) for n in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [402] * 17
    assert (await service.balance(key))["reserved"] == 30_000


async def test_the_books_balance_after_many_calls_of_many_keys(start: Any) -> None:
    """Two coordinators, three workers, mixed outcomes: what left the keys is what was charged and earned."""
    services = [await start(max_concurrent_calls=100) for _ in range(2)]
    service = services[0]
    keys = [await service.make_key() for _ in range(3)]
    workers = [await services[n % 2].worker() for n in range(3)]
    for n in range(30):
        await services[n % 2].pending(keys[n % 3], n, headers={"X-Attached-Deposit": str(100 * (n % 4))})

    async def drain(worker: Any) -> None:
        while jobs := await worker.claim(4):
            outcomes = []
            for job in jobs:
                n = int(job["https"]["call_id"][:4], 16)
                good = n % 3 > 0
                outcomes.append(
                    worker.outcome(
                        job,
                        success=good,
                        error=None if good else "trap",
                        refund_usd=n % 50,
                        instructions=n * 1_000_000,
                    )
                )
            await worker.complete(*outcomes)

    await asyncio.gather(*(drain(worker) for worker in workers))
    row = await service.db.fetchrow(
        "SELECT sum(spent) AS spent, sum(reserved) AS reserved, sum(open_calls) AS open FROM payment_keys"
    )
    assert (row["reserved"], row["open"]) == (0, 0)
    charged = await service.db.fetchrow(
        """
        SELECT sum(charged) AS charged, sum(compute_cost) AS cost, count(*) AS n
        FROM https_calls WHERE status <> 'pending'
        """
    )
    assert charged["n"] == 30
    assert row["spent"] == charged["charged"] == charged["cost"] + await earnings(service)
    assert await service.db.fetchval("SELECT sum(amount) FROM earnings_history") == await earnings(service)


async def test_the_database_refuses_a_reservation_beyond_the_balance(service: Any) -> None:
    await service.make_key(100)
    for wrong in ("reserved = 101", "spent = -1", "reserved = -1"):
        try:
            await service.db.execute(f"UPDATE payment_keys SET {wrong}")
        except asyncpg.CheckViolationError:
            continue
        raise AssertionError(wrong)


async def test_r31_every_statement_fits_the_schema(service: Any) -> None:
    """PostgreSQL parses each statement of the package against a freshly migrated database."""
    from outlayer_coordinator import archive, calls, ingest, routes_admin, routes_worker

    checked = 0
    async with service.db.acquire() as connection:
        for module in (archive, calls, ingest, jobs_sql, routes_admin, routes_worker):
            for name, value in vars(module).items():
                whole = isinstance(value, str) and name.strip("_").isupper() and not name.startswith("__")
                starts = ("SELECT", "INSERT", "UPDATE", "WITH")
                if whole and value.lstrip().startswith(starts) and name not in ("ITEM", "_SELECT"):
                    await connection.prepare(value)
                    checked += 1
    assert checked >= 18
