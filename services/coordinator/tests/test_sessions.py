# SPDX-License-Identifier: MIT
"""TEE challenges and sessions (R21)."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

from outlayer_near.primitives import KeyPair


async def test_a_challenge_is_good_once(service: Any) -> None:
    worker = await service.worker()
    challenge = await worker.challenge()
    assert (await worker.register(challenge)).status_code == 200
    assert (await worker.register(challenge)).status_code == 400


async def test_a_challenge_expires_after_a_minute(service: Any) -> None:
    worker = await service.worker()
    challenge = await worker.challenge()
    left = "SELECT extract(epoch FROM expires_at - now())::float8 FROM tee_challenges"
    assert 50 < await service.db.fetchval(left) <= 60
    await service.db.execute("UPDATE tee_challenges SET expires_at = now() - interval '1 second'")
    assert (await worker.register(challenge)).status_code == 400


async def test_a_challenge_belongs_to_the_token_that_asked(service: Any) -> None:
    first, second = await service.worker(), await service.worker()
    challenge = await first.challenge()
    assert (await second.register(challenge)).status_code == 400
    # and the attempt used it up
    assert (await first.register(challenge)).status_code == 400


async def test_a_failed_attempt_uses_the_challenge_up(service: Any) -> None:
    worker = await service.worker()
    challenge = await worker.challenge()
    assert (await worker.register(challenge, "00" * 64)).status_code == 403
    assert (await worker.register(challenge)).status_code == 400


async def test_the_signature_is_over_the_domain_and_the_challenge(service: Any) -> None:
    worker = await service.worker()
    for sign in (
        lambda challenge: worker.sign(challenge, tag=b""),
        lambda challenge: worker.sign(challenge, tag=b"outlayer/tee-session/v2\0"),
        lambda challenge: KeyPair.generate().sign(bytes.fromhex(challenge)).data.hex(),
        lambda challenge: "zz" * 64,
    ):
        challenge = await worker.challenge()
        assert (await worker.register(challenge, sign(challenge))).status_code == 403


async def test_a_key_that_the_chain_does_not_call_valid_opens_no_session(service: Any, chain: Any) -> None:
    worker = await service.worker()
    chain.good_keys.clear()
    answer = await worker.register(await worker.challenge())
    assert answer.status_code == 403
    assert "not a valid worker key" in answer.json()["error"]


async def test_a_key_that_was_just_registered_opens_a_session_at_once(start: Any, chain: Any) -> None:
    """A refusal is not remembered: the worker asks again right after its registration."""
    service = await start(chain_check_seconds=60.0)
    worker = await service.worker()
    chain.good_keys.clear()
    assert (await worker.register(await worker.challenge())).status_code == 403
    chain.good_keys.add(worker.public_key)
    assert (await worker.register(await worker.challenge())).status_code == 200


async def test_no_session_while_the_chain_is_away(service: Any, chain: Any) -> None:
    worker = await service.worker()
    chain.away = True
    assert (await worker.register(await worker.challenge())).status_code == 503
    assert (await worker.try_claim()).status_code == 503


async def test_malformed_registrations_are_400_and_401(service: Any) -> None:
    worker = await service.worker()
    auth = {"Authorization": f"Bearer {worker.token}"}
    for body in ({}, {"public_key": 1}, {"public_key": "ed25519:0", "challenge": "a", "signature": "b"}):
        assert (await worker.post("/workers/register-tee", body, auth)).status_code == 400
    for header in ("", "nonsense"):
        answer = await worker.post("/jobs/claim", {}, {**auth, "X-TEE-Session": header})
        assert answer.status_code == 401


async def test_r21_a_session_is_of_no_use_with_another_token(service: Any) -> None:
    worker, other = await service.worker(), await service.worker()
    answer = await other.post(
        "/jobs/claim",
        {"worker_id": "x", "capabilities": ["execute"]},
        {**other.headers, "X-TEE-Session": worker.session_id},
    )
    assert answer.status_code == 403


async def test_r21_an_expired_session_is_refused(start: Any) -> None:
    service = await start(tee_session_seconds=0.2)
    worker = await service.worker()
    assert (await worker.try_claim()).status_code == 200
    await asyncio.sleep(0.25)
    assert (await worker.try_claim()).status_code == 403


async def test_r21_revoking_the_key_ends_the_session_for_good(service: Any, chain: Any) -> None:
    key = await service.make_key()
    worker = await service.worker()
    await service.pending(key)
    job = await worker.claim_one()
    chain.good_keys.discard(worker.public_key)
    assert (await worker.send(worker.report(worker.outcome(job)))).status_code == 403
    chain.good_keys.add(worker.public_key)
    assert (await worker.try_claim()).status_code == 403
    reason = await service.db.fetchval("SELECT end_reason FROM worker_tee_sessions")
    assert reason == "worker key revoked or expired"
    assert await service.db.fetchval("SELECT state FROM jobs") == "claimed"


async def test_r21_a_key_revoked_while_its_worker_waits_gets_no_job(start: Any, chain: Any) -> None:
    service = await start(poll_seconds=0.1)
    worker = await service.worker()
    waiting = asyncio.create_task(worker.try_claim(wait_ms=5000))
    await asyncio.sleep(0.2)
    chain.good_keys.clear()
    assert (await asyncio.wait_for(waiting, 5)).status_code == 403


async def test_r21_a_token_that_is_switched_off_ends_its_session(service: Any) -> None:
    worker = await service.worker()
    await service.db.execute("UPDATE worker_auth_tokens SET is_active = false")
    assert (await worker.try_claim()).status_code == 401


async def test_the_chain_is_asked_again_only_when_the_answer_is_old(start: Any, chain: Any) -> None:
    service = await start(chain_check_seconds=0.5)
    worker = await service.worker()
    asked = chain.asked
    await asyncio.gather(*(worker.try_claim() for _ in range(10)))
    assert chain.asked == asked
    chain.good_keys.clear()
    await asyncio.sleep(0.55)
    assert (await worker.try_claim()).status_code == 403
    assert chain.asked == asked + 1


async def test_a_token_of_wrong_form_is_401(service: Any) -> None:
    for token in ("", "short", "x" * 600, secrets.token_hex(24)):
        answer = await service.client.post(
            "/workers/tee-challenge", json={}, headers={"Authorization": f"Bearer {token}"}
        )
        assert answer.status_code == 401
