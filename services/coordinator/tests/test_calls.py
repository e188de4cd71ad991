# SPDX-License-Identifier: MIT
"""Calls over HTTPS: the wire, the order of checks, waiting."""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from typing import Any

import pytest

from outlayer_coordinator.call_request import KeyClaim
from outlayer_coordinator.calls import RateLimiter
from outlayer_coordinator.errors import ApiError


async def test_a_synchronous_call_gives_the_guests_answer(service: Any) -> None:
    key = await service.make_key()
    worker = await service.worker()
    async with worker.serving():
        answer = await service.call(key, {"city": "Tokyo", "n": [1, 2.50]})
    assert answer.status_code == 200
    reply = answer.json()
    assert set(reply) == {
        "call_id",
        "status",
        "output",
        "compute_cost",
        "instructions",
        "time_ms",
        "attestation_url",
    }
    assert reply["status"] == "completed"
    assert reply["output"] == {"city": "Tokyo", "n": [1, 2.5]}
    assert reply["compute_cost"] == "1002"
    assert (reply["instructions"], reply["time_ms"]) == (2_500_000, 350)


async def test_the_guest_reads_the_clients_bytes_and_the_client_gets_the_guests(service: Any) -> None:
    key = await service.make_key()
    worker = await service.worker()
    body = b'{"async":true, "input" : {"b": 1.50, "a": 12345678901234567890123, "\\u00e9": [ "x y" ]}}'
    answer = await service.client.post("/call/alice.test/echo", content=body, headers=key.header)
    job = await worker.claim_one()
    stdin = base64.b64decode(job["https"]["input_base64"])
    assert stdin == '{"b":1.50,"a":12345678901234567890123,"é":["x y"]}'.encode()
    await worker.finish(job, b' {"big": 98765432109876543210, "f": 1.0}\n')
    raw = await service.client.get(f"/calls/{answer.json()['call_id']}", headers=key.header)
    assert b'{"big": 98765432109876543210, "f": 1.0}' in raw.content
    payload = await service.client.get(f"/calls/{answer.json()['call_id']}/payload", headers=key.header)
    assert base64.b64decode(payload.json()["input_base64"]) == stdin
    assert base64.b64decode(payload.json()["output_base64"]) == b' {"big": 98765432109876543210, "f": 1.0}\n'


async def test_output_that_is_not_json_is_a_string(service: Any) -> None:
    key = await service.make_key()
    worker = await service.worker()
    call_id = await service.pending(key)
    await worker.finish(await worker.claim_one(), b"plain \xff text")
    assert (await service.result(key, call_id))["output"] == "plain \ufffd text"


async def test_a_failed_execution_is_an_answer_with_its_reason(service: Any) -> None:
    key = await service.make_key()
    worker = await service.worker()
    failure = {"success": False, "error": "out of fuel", "error_category": "out_of_instructions"}
    async with worker.serving(lambda job: failure):
        answer = await service.call(key)
    assert answer.status_code == 200
    reply = answer.json()
    assert (reply["status"], reply["error"]) == ("failed", "out of fuel")
    assert "output" not in reply
    assert reply["compute_cost"] == "1002"


async def test_an_asynchronous_call_is_pending_until_it_is_done(service: Any) -> None:
    key = await service.make_key()
    worker = await service.worker()
    answer = await service.call(key, **{"async": True})
    call_id = answer.json()["call_id"]
    assert answer.json() == {"call_id": call_id, "status": "pending", "poll_url": f"/calls/{call_id}"}
    assert (await service.result(key, call_id))["status"] == "pending"
    payload = await service.client.get(f"/calls/{call_id}/payload", headers=key.header)
    assert payload.status_code == 409
    await worker.finish(await worker.claim_one())
    assert (await service.result(key, call_id))["status"] == "completed"


WRONG_KEYS = [
    (None, 401),
    ("", 401),
    ("bob.test:1", 400),
    ("bob.test:one:" + "a" * 64, 400),
    ("bob.test:1:" + "a" * 63, 400),
    ("UPPER.test:1:" + "a" * 64, 400),
    ("b" * 65 + ":1:" + "a" * 64, 400),
    ("bob.test:99999999999:" + "a" * 64, 400),
    ("bob.test:1:" + "a" * 64, 401),
]


async def test_a_wrong_payment_key_is_refused(service: Any) -> None:
    for header, status in WRONG_KEYS:
        headers = {} if header is None else {"X-Payment-Key": header}
        answer = await service.client.post("/call/alice.test/echo", json={"input": 1}, headers=headers)
        assert answer.status_code == status, header
        assert set(answer.json()) == {"error"}


async def test_the_key_is_not_case_sensitive_in_its_hex(service: Any) -> None:
    key = await service.make_key()
    header = {"X-Payment-Key": f"{key.owner}:{key.nonce}:{key.secret.upper()}"}
    assert (await service.client.get("/payment-keys/balance", headers=header)).status_code == 200


async def test_checks_come_in_the_documented_order(start: Any) -> None:
    """A request with every fault is answered with the first; each fault mended, the next one shows."""
    service = await start(rate_per_minute=1000, max_concurrent_calls=1)
    key = await service.make_key(100, is_grant=True, project_ids=["alice.test/other"], max_per_call="5000")
    wrong = {"X-Payment-Key": f"{key.owner}:{key.nonce}:{'0' * 64}"}

    async def status(headers: dict[str, str], project: str = "nobody.test/none") -> tuple[int, str]:
        answer = await service.client.post(f"/call/{project}", json={"input": 1}, headers=headers)
        return answer.status_code, answer.json()["error"]

    low = {"X-Compute-Limit": "999", "X-Attached-Deposit": "7"}
    assert (await status({"X-Payment-Key": "x", **low}))[0] == 400
    code, text = await status({**wrong, **low})
    assert code == 400
    assert "Compute limit" in text
    assert (await status({**wrong, "X-Attached-Deposit": "7"}))[0] == 401
    deposit = {"X-Attached-Deposit": "7"}
    code, text = await status({**key.header, **deposit})
    assert code == 403
    assert "not allowed" in text
    await service.db.execute("UPDATE payment_keys SET project_ids = '{}'")
    code, text = await status({**key.header, **deposit})
    assert code == 403
    assert "deposit" in text
    code, text = await status(key.header)
    assert code == 400
    assert "max_per_call" in text
    await service.db.execute("UPDATE payment_keys SET max_per_call = 0, open_calls = 1")
    assert (await status(key.header))[0] == 429
    await service.db.execute("UPDATE payment_keys SET open_calls = 0")
    assert (await status(key.header))[0] == 402
    await service.db.execute("UPDATE payment_keys SET initial_balance = 1000000")
    assert (await status(key.header))[0] == 404
    assert (await service.balance(key))["reserved"] == 0


async def test_headers_that_are_no_numbers_fall_back_to_their_defaults(service: Any) -> None:
    key = await service.make_key()
    await service.pending(key, headers={"X-Compute-Limit": "lots", "X-Attached-Deposit": "-5"})
    assert (await service.balance(key))["reserved"] == 10_000


async def test_an_amount_beyond_all_balances_is_insufficient_balance_not_an_error(service: Any) -> None:
    key = await service.make_key()
    answer = await service.call(key, headers={"X-Compute-Limit": "9" * 20, "X-Attached-Deposit": "9" * 20})
    assert answer.status_code == 402


MALFORMED = [
    b"",
    b"[]",
    b"{}",
    b'{"input":1,"input":2}',
    b'{"input":NaN}',
    b'{"input":1}x',
    b'{"input":"\xff"}',
    b'{"input":"\\ud800"}',
    b'{"input":1,"async":"yes"}',
    b'{"input":1,"resource_limits":{"max_memory_mb":0}}',
    b'{"input":1,"resource_limits":{"max_instructions":1e9}}',
    b'{"input":1,"resource_limits":{"max_execution_seconds":100000}}',
    b'{"input":1,"secrets_ref":{"profile":"p"}}',
    b'{"input":1,"version_key":"a\\u0000b"}',
    b'{"input":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
]


async def test_a_malformed_body_is_400_and_reserves_nothing(service: Any) -> None:
    key = await service.make_key()
    for body in MALFORMED:
        answer = await service.client.post("/call/alice.test/echo", content=body, headers=key.header)
        assert answer.status_code == 400, body[:100]
    assert (await service.balance(key))["reserved"] == 0


async def test_a_body_over_the_limit_is_413(service: Any) -> None:
    key = await service.make_key()
    body = b'{"input":"' + b"a" * (10 * 1024 * 1024) + b'"}'
    answer = await service.client.post("/call/alice.test/echo", content=body, headers=key.header)
    assert answer.status_code == 413


async def test_resource_limits_reach_the_worker(service: Any) -> None:
    key = await service.make_key()
    worker = await service.worker()
    await service.pending(key, resource_limits={"max_instructions": 7, "max_memory_mb": None})
    job = await worker.claim_one()
    assert job["resource_limits"] == {
        "max_instructions": 7,
        "max_memory_mb": 128,
        "max_execution_seconds": 60,
    }


async def test_the_rate_of_a_key_is_limited_and_a_stranger_cannot_use_it_up(start: Any) -> None:
    service = await start(rate_per_minute=3)
    service.context.calls.limiter.window_seconds = 10**9  # no window ends during the test
    key = await service.make_key()
    wrong = {"X-Payment-Key": f"{key.owner}:{key.nonce}:{'0' * 64}"}
    for expected in (401, 401, 401, 429):
        answer = await service.client.post("/call/alice.test/echo", json={"input": 1}, headers=wrong)
        assert answer.status_code == expected
    for expected in (200, 200, 200, 429):
        assert (await service.call(key, **{"async": True})).status_code == expected


async def test_steady_use_does_not_stretch_the_window_of_the_rate(start: Any) -> None:
    """More uses than one window allows, spread over windows: each is allowed."""
    for redis in ({}, {"redis_url": "redis://127.0.0.1:1/0"}):
        doorbell = (await start(**redis)).context.doorbell
        begins = range(1_200_000, 1_200_240, 60)
        times = iter([float(begin + second) for begin in begins for second in (0, 59, 59)])
        limiter = RateLimiter(doorbell, per_minute=2, clock=times.__next__)
        claim = KeyClaim("bob.test", 1, secrets.token_hex(32))
        for _ in begins:
            await limiter.check(claim)
            await limiter.check(claim)
            with pytest.raises(ApiError):
                await limiter.check(claim)


async def test_the_rate_is_limited_while_redis_is_away(start: Any) -> None:
    service = await start(rate_per_minute=2, redis_url="redis://127.0.0.1:1/0")
    service.context.calls.limiter.window_seconds = 10**9
    key = await service.make_key()
    statuses = [(await service.call(key, **{"async": True})).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]


async def test_r40_one_open_call_more_than_the_limit_is_429(start: Any) -> None:
    service = await start(max_concurrent_calls=2)
    key = await service.make_key()
    worker = await service.worker()
    answers = await asyncio.gather(*(service.call(key, n, **{"async": True}) for n in range(6)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429, 429, 429]
    await worker.finish(await worker.claim_one())
    assert (await service.call(key, **{"async": True})).status_code == 200


async def test_r30_polling_checks_the_secret(service: Any) -> None:
    key = await service.make_key()
    call_id = await service.pending(key)
    wrong = {"X-Payment-Key": f"{key.owner}:{key.nonce}:{'0' * 64}"}
    for path in (f"/calls/{call_id}", f"/calls/{call_id}/payload", "/payment-keys/balance"):
        assert (await service.client.get(path, headers=wrong)).status_code == 401
        assert (await service.client.get(path)).status_code == 401


async def test_another_keys_call_is_not_found(service: Any) -> None:
    mine, other = await service.make_key(), await service.make_key()
    call_id = await service.pending(mine)
    for wanted in (call_id, "not-a-uuid"):
        assert (await service.client.get(f"/calls/{wanted}", headers=other.header)).status_code == 404


async def test_a_deleted_key_is_refused_and_its_open_call_still_settles(service: Any) -> None:
    key = await service.make_key()
    worker = await service.worker()
    await service.pending(key)
    await service.db.execute("UPDATE payment_keys SET deleted_at = now()")
    assert (await service.call(key)).status_code == 401
    await worker.finish(await worker.claim_one())
    assert await service.db.fetchval("SELECT reserved FROM payment_keys") == 0


async def test_r32_attestation_url_is_there_when_its_record_is(service: Any) -> None:
    key = await service.make_key()
    worker = await service.worker()
    call_id = await service.pending(key)
    assert "attestation_url" not in await service.result(key, call_id)
    await worker.finish(await worker.claim_one())
    url = (await service.result(key, call_id))["attestation_url"]
    answer = await service.client.get(url)
    assert answer.status_code == 200
    assert [item["record"]["call_id"] for item in answer.json()["items"]] == [call_id]


async def test_r32_a_call_that_was_refused_has_no_attestation_url(service: Any) -> None:
    key = await service.make_key()
    worker = await service.worker()
    call_id = await service.pending(key)
    job = await worker.claim_one()
    refusal = {
        "job_id": job["job_id"],
        "attempt": 1,
        "success": False,
        "output_base64": "",
        "error": "no such version",
        "error_category": "project_not_found",
        "instructions": 0,
        "time_ms": 0,
        "record": None,
    }
    answer = await worker.send({"batch": None, "completions": [refusal]})
    assert answer.json()["results"] == [{"job_id": job["job_id"], "finalized": True}]
    reply = await service.result(key, call_id)
    assert reply["status"] == "failed"
    assert reply["compute_cost"] == "0"
    assert "attestation_url" not in reply


async def test_a_call_is_finished_by_another_coordinator(start: Any) -> None:
    """The client waits at one coordinator, the worker talks to the other; the bell goes through Redis."""
    front, back = await start(poll_seconds=5.0), await start(poll_seconds=5.0)
    key = await front.make_key()
    worker = await back.worker()
    async with worker.serving():
        await asyncio.sleep(0.3)  # both listen
        started = time.monotonic()
        answer = await front.call(key)
    assert answer.json()["status"] == "completed"
    assert time.monotonic() - started < 3


async def test_losing_redis_loses_nothing(start: Any) -> None:
    front = await start(redis_url="redis://127.0.0.1:1/0")
    back = await start(redis_url="redis://127.0.0.1:1/0")
    key = await front.make_key()
    worker = await back.worker()
    async with worker.serving():
        answers = await asyncio.gather(*(front.call(key, n) for n in range(3)))
    assert [answer.json()["output"] for answer in answers] == [0, 1, 2]


async def test_a_stopping_coordinator_answers_its_waiting_clients(service: Any) -> None:
    key = await service.make_key()
    waiting = asyncio.create_task(service.call(key))
    await service.until("SELECT count(*) FROM jobs")
    service.context.stop_waiting()
    answer = await asyncio.wait_for(waiting, 2)
    assert answer.json()["status"] == "pending"


async def test_an_unknown_route_is_answered_as_documented(service: Any) -> None:
    answer = await service.client.get("/nothing/here")
    assert answer.status_code == 404
    assert answer.json() == {"error": "not_found", "message": "Unknown endpoint"}


async def test_public_routes_are_in_the_api_document(service: Any) -> None:
    paths = (await service.client.get("/openapi.json")).json()["paths"]
    assert {"/call/{owner}/{project}", "/calls/{call_id}", "/wasm/{sha256}", "/attestations/{job_id}"} <= set(
        paths
    )
    assert "/jobs/claim" not in paths


async def test_browsers_may_call(service: Any) -> None:
    headers = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    answer = await service.client.options("/call/alice.test/echo", headers=headers)
    assert answer.headers["access-control-allow-origin"] == "*"


async def test_the_chain_being_away_is_503_and_reserves_nothing(service: Any, chain: Any) -> None:
    key = await service.make_key()
    chain.away = True
    answer = await service.call(key)
    assert answer.status_code == 503
    assert (await service.balance(key))["reserved"] == 0
