# SPDX-License-Identifier: MIT
"""Jobs under leases, completions, and the records that come with them."""

from __future__ import annotations

import asyncio
import base64
import time
import uuid
from typing import Any


async def state_of(service: Any, job: dict[str, Any]) -> str:
    return await service.db.fetchval("SELECT state FROM jobs WHERE job_id = $1::text::uuid", job["job_id"])


async def test_a_job_carries_what_the_worker_needs(service: Any) -> None:
    key = await service.make_key()
    worker = await service.worker()
    call_id = await service.pending(
        key,
        {"a": 1},
        headers={"X-Attached-Deposit": "5"},
        version_key="v2",
        secrets_ref={"profile": "default", "account_id": "bob.test"},
    )
    job = await worker.claim_one()
    assert uuid.UUID(job["job_id"])
    del job["job_id"]
    assert job == {
        "attempt": 1,
        "lease_seconds": 20,
        "kind": "https",
        "resource_limits": {
            "max_instructions": 10_000_000_000,
            "max_memory_mb": 128,
            "max_execution_seconds": 60,
        },
        "https": {
            "call_id": call_id,
            "project_id": "alice.test/echo",
            "version_key": "v2",
            "input_base64": base64.b64encode(b'{"a":1}').decode(),
            "payment_key_owner": "bob.test",
            "payment_key_nonce": key.nonce,
            "compute_limit_usd": 10_000,
            "attached_deposit_usd": 5,
            "secrets_ref": "bob.test/default",
        },
        "near": None,
    }


async def test_jobs_are_claimed_in_order_several_at_once_and_each_once(service: Any) -> None:
    key = await service.make_key()
    workers = [await service.worker() for _ in range(3)]
    calls = [await service.pending(key, n) for n in range(8)]
    first = await workers[0].claim(3)
    assert [job["https"]["call_id"] for job in first] == calls[:3]
    rest = await asyncio.gather(*(worker.claim(2) for worker in workers))
    claimed = [job["https"]["call_id"] for jobs in rest for job in jobs]
    assert sorted(claimed) == sorted(set(calls[3:]))
    assert await workers[0].claim(5) == []


async def test_a_waiting_worker_gets_a_new_job_at_once(start: Any) -> None:
    service = await start(poll_seconds=30.0)
    key = await service.make_key()
    worker = await service.worker()
    waiting = asyncio.create_task(worker.claim(1, wait_ms=20_000))
    await asyncio.sleep(0.1)
    started = time.monotonic()
    call_id = await service.pending(key)
    [job] = await waiting
    assert job["https"]["call_id"] == call_id
    assert time.monotonic() - started < 2


async def test_a_wait_for_work_ends_with_an_empty_list(service: Any) -> None:
    worker = await service.worker()
    started = time.monotonic()
    assert await worker.claim(1, wait_ms=150) == []
    assert 0.1 < time.monotonic() - started < 2


async def test_a_stopping_coordinator_sends_waiting_workers_home(service: Any) -> None:
    worker = await service.worker()
    waiting = asyncio.create_task(worker.claim(1, wait_ms=20_000))
    await asyncio.sleep(0.1)
    service.context.stop_waiting()
    assert await asyncio.wait_for(waiting, 2) == []


async def test_r24_only_the_claimer_may_complete(service: Any) -> None:
    key = await service.make_key()
    claimer, other = await service.worker(), await service.worker()
    call_id = await service.pending(key)
    job = await claimer.claim_one()
    answer = await other.send(other.report(other.outcome(job)))
    assert answer.status_code == 403
    [result] = answer.json()["results"]
    assert (result["finalized"], result["reason"]) == (False, "not_claimer")
    assert await state_of(service, job) == "claimed"
    assert (await service.result(key, call_id))["status"] == "pending"
    await claimer.finish(job)


async def test_r24_another_attempt_may_not_complete(service: Any) -> None:
    key = await service.make_key()
    worker = await service.worker()
    await service.pending(key)
    job = await worker.claim_one()
    answer = await worker.send(worker.report(worker.outcome({**job, "attempt": 2})))
    assert answer.status_code == 403
    assert await state_of(service, job) == "claimed"


async def test_r24_a_worker_that_opens_its_next_session_keeps_its_jobs(service: Any) -> None:
    key = await service.make_key()
    worker = await service.worker()
    await service.pending(key)
    job = await worker.claim_one()
    await worker.open_session()
    assert await worker.heartbeat(job["job_id"]) == []
    await worker.finish(job)


async def test_a_job_nobody_knows_is_403(service: Any) -> None:
    key = await service.make_key()
    worker = await service.worker()
    await service.pending(key)
    job = {**await worker.claim_one(), "job_id": str(uuid.uuid4())}
    assert (await worker.send(worker.report(worker.outcome(job)))).status_code == 403


async def test_a_completion_sent_twice_settles_once(service: Any) -> None:
    key = await service.make_key()
    worker = await service.worker()
    await service.pending(key)
    job = await worker.claim_one()
    report = worker.report(worker.outcome(job))
    first = (await worker.send(report)).json()["results"]
    second = (await worker.send(report)).json()["results"]
    assert first == [{"job_id": job["job_id"], "finalized": True}]
    assert second == [{"job_id": job["job_id"], "finalized": True, "reason": "already_finalized"}]
    assert (await service.balance(key))["spent"] == 1002
    assert await service.db.fetchval("SELECT count(*) FROM task_attestations") == 1


async def test_completions_in_parallel_settle_once(service: Any) -> None:
    key = await service.make_key()
    worker = await service.worker()
    await service.pending(key)
    report = worker.report(worker.outcome(await worker.claim_one()))
    answers = await asyncio.gather(*(worker.send(report) for _ in range(5)))
    assert {answer.status_code for answer in answers} <= {200, 403}
    assert (await service.balance(key))["spent"] == 1002
    assert await service.db.fetchval("SELECT count(*) FROM task_attestations") == 1


async def test_r25_what_a_completion_does_not_carry_stays(service: Any) -> None:
    key = await service.make_key()
    worker = await service.worker()
    await service.pending(key)
    job = await worker.claim_one()
    await service.db.execute("UPDATE jobs SET resolve_tx_hash = 'kept', error_category = 'kept'")
    await worker.finish(job)
    row = await service.db.fetchrow("SELECT resolve_tx_hash, error_category, worker_id, claimed_at FROM jobs")
    assert (row["resolve_tx_hash"], row["error_category"], row["worker_id"]) == ("kept", "kept", worker.name)
    assert row["claimed_at"] is not None


async def test_r27_lease_expires_and_job_is_requeued(start: Any) -> None:
    service = await start(lease_seconds=0.3)
    key = await service.make_key()
    dead, other = await service.worker(), await service.worker()
    call_id = await service.pending(key)
    lost = await dead.claim_one()
    [job] = await other.claim(1, wait_ms=10_000)
    assert (job["job_id"], job["attempt"]) == (lost["job_id"], 2)
    await other.finish(job)
    late = await dead.send(dead.report(dead.outcome(lost)))
    assert late.status_code == 403
    assert (await service.result(key, call_id))["status"] == "completed"
    assert (await service.balance(key))["spent"] == 1002


async def test_r27_a_heartbeat_keeps_the_lease_and_names_what_is_lost(start: Any) -> None:
    service = await start(lease_seconds=0.6)
    key = await service.make_key()
    worker, other = await service.worker(), await service.worker()
    await service.pending(key)
    job = await worker.claim_one()
    for _ in range(4):  # more than one lease in all
        await asyncio.sleep(0.2)
        assert await worker.heartbeat(job["job_id"]) == []
    assert await other.heartbeat(job["job_id"]) == [job["job_id"]]
    await service.until("SELECT state = 'queued' FROM jobs")
    assert await worker.heartbeat(job["job_id"]) == [job["job_id"]]


async def test_r27_attempts_are_bounded_then_the_job_fails_with_a_reason(start: Any) -> None:
    service = await start(lease_seconds=0.1, max_attempts=2)
    key = await service.make_key()
    worker = await service.worker()
    call_id = await service.pending(key, headers={"X-Attached-Deposit": "9"})
    for attempt in (1, 2):
        [job] = await worker.claim(1, wait_ms=10_000)
        assert job["attempt"] == attempt
    await service.until("SELECT state = 'failed' FROM jobs")
    reply = await service.result(key, call_id)
    assert reply["status"] == "failed"
    assert "2 attempts" in reply["error"]
    assert await service.balance(key) == {
        "initial_balance": 1_000_000,
        "spent": 0,
        "reserved": 0,
        "available": 1_000_000,
    }
    [result] = (await worker.send(worker.report(worker.outcome(job)))).json()["results"]
    assert (result["finalized"], result["reason"]) == (False, "already_finalized")


async def test_r28_a_job_whose_bell_was_never_heard_is_still_claimed(start: Any) -> None:
    """The row is committed before anyone is told; a crash in between costs one poll interval."""
    service = await start(poll_seconds=0.2)
    key = await service.make_key()
    worker = await service.worker()
    waiting = asyncio.create_task(worker.claim(1, wait_ms=10_000))
    await asyncio.sleep(0.05)
    service.context.doorbell.work = lambda: None  # the process dies here
    call_id = await service.pending(key)
    [job] = await asyncio.wait_for(waiting, 5)
    assert job["https"]["call_id"] == call_id


async def test_a_batch_settles_all_and_archives_each_with_its_proof(service: Any) -> None:
    key = await service.make_key()
    worker = await service.worker()
    calls = [await service.pending(key, n) for n in range(5)]
    jobs = await worker.claim(5)
    results = await worker.complete(*(worker.outcome(job) for job in jobs))
    assert all(result["finalized"] for result in results)
    assert await service.db.fetchval("SELECT count(*) FROM attestation_batches") == 1
    for index, (call_id, job) in enumerate(zip(calls, jobs, strict=True)):
        answer = await service.client.get(f"/attestations/by-call/{call_id}")
        [item] = answer.json()["items"]
        assert (item["job_id"], item["leaf_index"], item["batch"]["tree_size"]) == (job["job_id"], index, 5)
        assert (await service.client.get(f"/attestations/{job['job_id']}")).json() == item
        assert (await service.result(key, call_id))["output"] == index


async def test_one_bad_completion_does_not_stop_its_neighbours(service: Any) -> None:
    key = await service.make_key()
    worker = await service.worker()
    for n in range(2):
        await service.pending(key, n)
    good, bad = await worker.claim(2)
    results = await worker.complete(
        worker.outcome(good), worker.outcome(bad, completion_changes={"instructions": 1})
    )
    assert [result["finalized"] for result in results] == [True, False]
    assert results[1]["reason"] == "mismatch: record.instructions"
    assert await state_of(service, bad) == "claimed"
    await worker.finish(bad)


RECORD_LIES = {
    "job_id": str(uuid.uuid4()),
    "network_id": "mainnet",
    "call_id": str(uuid.uuid4()),
    "request_id": 7,
    "payment_key_owner": "eve.test",
    "payment_key_nonce": 1,
    "project_id": "alice.test/other",
    "project_uuid": "p0000000000000002",
    "secrets_ref": "eve.test/default",
    "input_sha256": "00" * 32,
    "output_sha256": "00" * 32,
    "success": False,
    "error": "nothing failed",
    "instructions": 1,
    "time_ms": 1,
    "max_instructions": 1,
    "max_memory_mb": 1,
    "max_execution_seconds": 1,
    "attached_usd": 1,
    "refund_usd": 1,
    "worker_public_key": "ed25519:11111111111111111111111111111111",
    "transaction_hash": "not base58 \x00",
}


async def test_a_record_that_is_not_about_the_job_is_refused_field_by_field(service: Any) -> None:
    key = await service.make_key()
    worker = await service.worker()
    await service.pending(key, headers={"X-Attached-Deposit": "5"})
    job = await worker.claim_one()
    for name, lie in RECORD_LIES.items():
        answer = await worker.send(worker.report(worker.outcome(job, record_changes={name: lie})))
        [result] = answer.json()["results"]
        assert (result["finalized"], result["reason"]) == (False, f"mismatch: record.{name}")
    assert await state_of(service, job) == "claimed"
    await worker.finish(job)


async def test_the_version_that_the_client_named_must_have_run(service: Any) -> None:
    key = await service.make_key()
    worker = await service.worker()
    await service.pending(key, version_key="v7")
    job = await worker.claim_one()
    answer = await worker.send(worker.report(worker.outcome(job, record_changes={"version_key": "v6"})))
    assert answer.json()["results"][0]["reason"] == "mismatch: record.version_key"


async def test_a_quote_about_something_else_is_400(service: Any) -> None:
    key = await service.make_key()
    worker = await service.worker()
    for n in range(2):
        await service.pending(key, n)
    first, second = await worker.claim(2)
    mine, other = worker.report(worker.outcome(first)), worker.report(worker.outcome(second))
    swapped = {**mine, "batch": {**mine["batch"], "quote": other["batch"]["quote"]}}
    answer = await worker.send(swapped)
    assert answer.status_code == 400
    assert "REPORTDATA" in answer.json()["error"]
    junk = {**mine, "batch": {**mine["batch"], "quote": "00" * 1000}}
    assert (await worker.send(junk)).status_code == 400
    resized = {**mine, "batch": {**mine["batch"], "tree_size": 2}}
    assert (await worker.send(resized)).status_code == 400
    not_in_it = {**other, "batch": mine["batch"]}
    [result] = (await worker.send(not_in_it)).json()["results"]
    assert result["reason"] == "mismatch: inclusion_proof"
    assert await service.db.fetchval("SELECT count(*) FROM jobs WHERE state = 'claimed'") == 2


async def test_a_result_without_a_record_is_refused(service: Any) -> None:
    key = await service.make_key()
    worker = await service.worker()
    await service.pending(key)
    job = await worker.claim_one()
    members = {**worker.outcome(job).members(), "record": None}
    for changes in (
        {},
        {"success": False},
        {"success": False, "error_category": "x", "output_base64": "eA=="},
    ):
        answer = await worker.send({"batch": None, "completions": [{**members, **changes}]})
        [result] = answer.json()["results"]
        assert (result["finalized"], result["reason"]) == (False, "mismatch: record")


MALFORMED: list[Any] = [
    [],
    {},
    {"completions": []},
    {"completions": [1]},
    {"completions": [{"job_id": "x"}]},
    {"batch": {"version": 1}, "completions": [{}]},
    {"completions": [{"job_id": str(uuid.uuid4()), "attempt": -1}]},
    {"completions": [{"job_id": str(uuid.uuid4()), "attempt": 2**64 - 1}]},
]


async def test_a_malformed_report_is_400(service: Any) -> None:
    worker = await service.worker()
    for body in MALFORMED:
        assert (await worker.send(body)).status_code == 400, body


async def test_text_that_postgresql_cannot_store_is_stored_without_harm(service: Any) -> None:
    key = await service.make_key()
    worker = await service.worker()
    call_id = await service.pending(key)
    await worker.finish(await worker.claim_one(), success=False, error="nul \x00 byte " + "é" * 9000)
    assert (await service.result(key, call_id))["error"].startswith("nul \ufffd byte éé")


async def test_a_worker_id_belongs_to_its_token(service: Any) -> None:
    first, second = await service.worker(), await service.worker()
    await first.heartbeat()
    answer = await second.post(
        "/workers/heartbeat", {"worker_id": first.name, "status": "online", "jobs": []}
    )
    assert answer.status_code == 403


async def test_the_administrator_sees_workers_and_jobs(service: Any) -> None:
    key = await service.make_key()
    worker = await service.worker()
    await worker.heartbeat()
    call_id = await service.pending(key)
    await worker.claim_one()
    admin = {"Authorization": f"Bearer {service.settings.admin_token}"}
    [row] = (await service.client.get("/admin/jobs?state=claimed", headers=admin)).json()["items"]
    assert (row["call_id"], row["worker_id"], row["state"]) == (call_id, worker.name, "claimed")
    [seen] = (await service.client.get("/admin/workers", headers=admin)).json()["items"]
    assert (seen["worker_id"], seen["jobs_claimed"]) == (worker.name, 1)
    assert (await service.client.get("/admin/jobs?state=lost", headers=admin)).status_code == 400


async def test_r43_internal_routes_need_their_token(service: Any) -> None:
    for path in (
        "/jobs/claim",
        "/jobs/complete",
        "/workers/heartbeat",
        "/workers/tee-challenge",
        "/workers/register-tee",
    ):
        assert (await service.client.post(path, json={})).status_code == 401
        wrong = {"Authorization": "Bearer " + "x" * 48, "X-TEE-Session": str(uuid.uuid4())}
        assert (await service.client.post(path, json={}, headers=wrong)).status_code == 401
    for method, path in (("GET", "/admin/jobs"), ("GET", "/admin/workers"), ("POST", "/admin/payment-keys")):
        assert (await service.client.request(method, path)).status_code == 401
        wrong = {"Authorization": "Bearer wrong"}
        assert (await service.client.request(method, path, headers=wrong)).status_code == 403
