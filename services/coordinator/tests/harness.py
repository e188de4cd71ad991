# SPDX-License-Identifier: MIT
"""A coordinator in this process on a real database and Redis, a chain that tests decide, and a scripted worker."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import secrets
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from outlayer_attestation.measurements import Measurements
from outlayer_attestation.platform.machine import SoftwarePlatform
from outlayer_attestation.record import Batch, TaskRecordV2, batch_report_data, clip_error, sha256_hex
from outlayer_coordinator.app import create_app
from outlayer_coordinator.config import Settings
from outlayer_coordinator.context import Context
from outlayer_coordinator.errors import ChainError
from outlayer_coordinator.money import Pricing
from outlayer_coordinator.sessions import SESSION_TAG
from outlayer_near.primitives import KeyPair

ADMIN_TOKEN = "an admin token for tests"
PROJECT = "alice.test/echo"
PRICING = Pricing(base_fee_usd=1000, per_million_instructions_fee_usd=1, per_sec_fee_usd=1)


@dataclass
class FakeChain:
    """What the tests say the chain says; ``away`` makes it unreachable. ``asked`` counts key questions."""

    projects: dict[str, str] = field(default_factory=lambda: {PROJECT: "p0000000000000001"})
    good_keys: set[str] = field(default_factory=set)
    full_access: set[tuple[str, str]] = field(default_factory=set)
    price: Pricing = PRICING
    away: bool = False
    asked: int = 0

    def _answer(self, value: Any) -> Any:
        if self.away:
            raise ChainError("nobody answers")
        return value

    async def pricing(self) -> Pricing:
        return self._answer(self.price)

    async def project_uuid(self, project_id: str) -> str | None:
        return self._answer(self.projects.get(project_id))

    async def worker_key_is_good(self, public_key: str) -> bool:
        self.asked += 1
        return self._answer(public_key in self.good_keys)

    async def has_full_access_key(self, account_id: str, public_key: str) -> bool:
        return self._answer((account_id, public_key) in self.full_access)

    async def close(self) -> None:
        self.away = True


@dataclass(frozen=True)
class Key:
    """A payment key as a client holds it."""

    owner: str
    nonce: int
    secret: str

    @property
    def header(self) -> dict[str, str]:
        return {"X-Payment-Key": f"{self.owner}:{self.nonce}:{self.secret}"}

    @property
    def key_hash(self) -> str:
        return hashlib.sha256(self.secret.encode()).hexdigest()


@dataclass
class Service:
    """One coordinator process, as HTTP clients see it, with its insides for faults and assertions."""

    settings: Settings
    chain: FakeChain
    client: httpx.AsyncClient
    context: Context
    platform: SoftwarePlatform
    db: asyncpg.Pool

    async def make_key(self, balance: int = 1_000_000, owner: str = "bob.test", **members: Any) -> Key:
        key = Key(owner, secrets.randbelow(2**31), secrets.token_hex(32))
        body = {
            "owner": owner,
            "nonce": key.nonce,
            "key_hash": key.key_hash,
            "initial_balance": str(balance),
            "is_grant": False,
            **members,
        }
        answer = await self.client.post("/admin/payment-keys", json=body, headers=bearer(ADMIN_TOKEN))
        assert answer.status_code == 201, answer.text
        return key

    async def call(
        self, key: Key, value: Any = "hello", project: str = PROJECT, *, headers: Any = None, **members: Any
    ) -> httpx.Response:
        body = {"input": value, **members}
        return await self.client.post(
            f"/call/{project}", json=body, headers={**key.header, **(headers or {})}
        )

    async def pending(self, key: Key, value: Any = "hello", **options: Any) -> str:
        """An asynchronous call's id."""
        answer = await self.call(key, value, **{"async": True}, **options)
        assert answer.status_code == 200, answer.text
        assert answer.json()["status"] == "pending"
        return answer.json()["call_id"]

    async def result(self, key: Key, call_id: str) -> dict[str, Any]:
        answer = await self.client.get(f"/calls/{call_id}", headers=key.header)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def balance(self, key: Key) -> dict[str, int]:
        answer = await self.client.get("/payment-keys/balance", headers=key.header)
        assert answer.status_code == 200, answer.text
        return {
            name: int(answer.json()[name]) for name in ("initial_balance", "spent", "reserved", "available")
        }

    async def until(self, query: str, *arguments: Any, seconds: float = 10) -> Any:
        """Wait until a query's value is true."""
        async with asyncio.timeout(seconds):
            while True:
                value = await self.db.fetchval(query, *arguments)
                if value:
                    return value
                await asyncio.sleep(0.02)

    async def worker(self, name: str | None = None) -> Worker:
        worker = Worker(self, name or f"worker-{secrets.token_hex(4)}")
        await self.add_token(worker.token, worker.name)
        self.chain.good_keys.add(worker.public_key)
        await worker.open_session()
        return worker

    async def add_token(self, token: str, name: str) -> None:
        await self.db.execute(
            "INSERT INTO worker_auth_tokens (token_hash, worker_name) VALUES ($1, $2)",
            hashlib.sha256(token.encode()).hexdigest(),
            name,
        )


@dataclass
class Worker:
    """Speaks the worker's side of the protocol; each step can be made to lie."""

    service: Service
    name: str
    token: str = field(default_factory=lambda: secrets.token_hex(24))
    key: KeyPair = field(default_factory=KeyPair.generate)
    session_id: str = ""

    @property
    def public_key(self) -> str:
        return str(self.key.public_key)

    @property
    def headers(self) -> dict[str, str]:
        return {**bearer(self.token), "X-TEE-Session": self.session_id}

    async def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> httpx.Response:
        return await self.service.client.post(path, json=body, headers=headers or self.headers)

    async def challenge(self) -> str:
        answer = await self.post("/workers/tee-challenge", {}, bearer(self.token))
        assert answer.status_code == 200, answer.text
        return answer.json()["challenge"]

    def sign(self, challenge: str, tag: bytes = SESSION_TAG) -> str:
        return self.key.sign(tag + bytes.fromhex(challenge)).data.hex()

    async def register(self, challenge: str, signature: str | None = None) -> httpx.Response:
        body = {
            "public_key": self.public_key,
            "challenge": challenge,
            "signature": signature or self.sign(challenge),
        }
        return await self.post("/workers/register-tee", body, bearer(self.token))

    async def open_session(self) -> None:
        answer = await self.register(await self.challenge())
        assert answer.status_code == 200, answer.text
        self.session_id = answer.json()["session_id"]

    async def try_claim(self, max_jobs: int = 10, wait_ms: int = 0) -> httpx.Response:
        body = {
            "worker_id": self.name,
            "capabilities": ["execute"],
            "max_jobs": max_jobs,
            "wait_ms": wait_ms,
        }
        return await self.post("/jobs/claim", body)

    async def claim(self, max_jobs: int = 10, wait_ms: int = 0) -> list[dict[str, Any]]:
        answer = await self.try_claim(max_jobs, wait_ms)
        assert answer.status_code == 200, answer.text
        return answer.json()["jobs"]

    async def claim_one(self) -> dict[str, Any]:
        [job] = await self.claim(1, wait_ms=2000)
        return job

    async def heartbeat(self, *job_ids: str) -> list[str]:
        answer = await self.post(
            "/workers/heartbeat", {"worker_id": self.name, "status": "busy", "jobs": job_ids}
        )
        assert answer.status_code == 200, answer.text
        return answer.json()["lost"]

    def outcome(self, job: dict[str, Any], output: bytes | None = None, **changes: Any) -> Outcome:
        """By default an echo; ``changes`` are members of the completion (and of the record, where it has them)."""
        if output is None:
            output = base64.b64decode(job["https"]["input_base64"]) if job["https"] else b'"done"'
        return Outcome(self, job, output, **changes)

    def report(self, *outcomes: Outcome, quote: bool = True) -> dict[str, Any]:
        """The body of ``/jobs/complete``: one batch over all outcomes."""
        records = [outcome.record() for outcome in outcomes]
        tree, report_data = batch_report_data(records)
        batch = Batch(tree.size, tree.root, self.service.platform.quote(MEASUREMENTS, report_data))
        completions = []
        for index, (outcome, record) in enumerate(zip(outcomes, records, strict=True)):
            completions.append(
                {
                    **outcome.members(),
                    "record": record.to_json(),
                    "leaf_index": index,
                    "inclusion_proof": [item.hex() for item in tree.proofs[index]],
                }
            )
        return {"batch": batch.to_json(), "completions": completions}

    async def send(self, report: dict[str, Any]) -> httpx.Response:
        return await self.post("/jobs/complete", report)

    async def complete(self, *outcomes: Outcome) -> list[dict[str, Any]]:
        answer = await self.send(self.report(*outcomes))
        assert answer.status_code == 200, answer.text
        return answer.json()["results"]

    async def finish(self, job: dict[str, Any], output: bytes | None = None, **changes: Any) -> None:
        [result] = await self.complete(self.outcome(job, output, **changes))
        assert result["finalized"], result

    @contextlib.asynccontextmanager
    async def serving(
        self, run: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    ) -> AsyncIterator[None]:
        """Claim and complete in the background. ``run`` gives the changes to an echo."""

        async def loop() -> None:
            while True:
                jobs = await self.claim(wait_ms=5000)
                if jobs:
                    await self.complete(*(self.outcome(job, **(run(job) if run else {})) for job in jobs))

        task = asyncio.create_task(loop())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@dataclass
class Outcome:
    worker: Worker
    job: dict[str, Any]
    output: bytes
    success: bool = True
    error: str | None = None
    error_category: str | None = None
    instructions: int = 2_500_000
    time_ms: int = 350
    refund_usd: int | None = None
    resolve_tx_hash: str | None = None
    record_changes: dict[str, Any] = field(default_factory=dict)
    completion_changes: dict[str, Any] = field(default_factory=dict)

    def members(self) -> dict[str, Any]:
        return {
            "job_id": self.job["job_id"],
            "attempt": self.job["attempt"],
            "success": self.success,
            "output_base64": base64.b64encode(self.output if self.success else b"").decode(),
            "error": self.error,
            "error_category": self.error_category,
            "instructions": self.instructions,
            "time_ms": self.time_ms,
            "refund_usd": self.refund_usd,
            "resolve_tx_hash": self.resolve_tx_hash,
            **self.completion_changes,
        }

    def record(self) -> TaskRecordV2:
        https, near = self.job["https"], self.job["near"]
        delivered = self.output if self.success else (b"" if https else b"null")
        record = TaskRecordV2(
            network_id="localnet",
            job_id=self.job["job_id"],
            wasm_sha256="ab" * 32,
            input_sha256=sha256_hex(base64.b64decode(https["input_base64"]) if https else b"in"),
            output_sha256=sha256_hex(delivered),
            success=self.success,
            error=None if self.error is None else clip_error(self.error),
            instructions=self.instructions,
            time_ms=self.time_ms,
            refund_usd=self.refund_usd,
            anchor_hash="7Fh2kLmNpQrStUvWxYz1234567ABCDEFGHJKLMNPQRSt",
            anchor_height=1_000,
            anchor_time=1_799_999_998,
            timestamp=1_800_000_000,
            worker_public_key=self.worker.public_key,
            **self.job["resource_limits"],
            **(_https_fields(https) if https else _near_fields(near)),
        )
        return replace(record, **self.record_changes)


def _https_fields(https: dict[str, Any]) -> dict[str, Any]:
    return {
        "call_id": https["call_id"],
        "payment_key_owner": https["payment_key_owner"],
        "payment_key_nonce": https["payment_key_nonce"],
        "caller": https["payment_key_owner"],
        "project_id": https["project_id"],
        "project_uuid": "p0000000000000001",
        "version_key": https["version_key"] or "v1",
        "secrets_ref": https["secrets_ref"],
        "attached_usd": https["attached_deposit_usd"],
    }


def _near_fields(near: dict[str, Any]) -> dict[str, Any]:
    return {
        "contract_id": near["contract_id"],
        "request_id": near["request_id"],
        "block_height": near["block_height"],
        "transaction_hash": "9Fh2kLmNpQrStUvWxYz1234567ABCDEFGHJKLMNPQRSt",
        "receipt_id": "8Fh2kLmNpQrStUvWxYz1234567ABCDEFGHJKLMNPQRSt",
    }


MEASUREMENTS = Measurements(**dict.fromkeys(("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"), "11" * 48))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def settings_for(database_url: str, redis_url: str, folder: Path, **changes: Any) -> Settings:
    settings = Settings(
        database_url=database_url,
        redis_url=redis_url,
        near_rpc_url="http://127.0.0.1:9",
        near_network_id="localnet",
        contract_id="outlayer.test",
        operator_account_id="worker.outlayer.test",
        public_base_url="http://coordinator.test:8080",
        admin_token=ADMIN_TOKEN,
        wasm_dir=folder / "wasm",
        simulated=True,
        ingest=False,
        db_pool_size=8,
        session_cache_seconds=0.0,
        chain_check_seconds=0.0,
        sweep_seconds=0.1,
        poll_seconds=0.2,
        lease_seconds=20.0,
        sync_timeout_seconds=20.0,
        rate_per_minute=100_000,
    )
    return replace(settings, **changes)


@contextlib.asynccontextmanager
async def running(settings: Settings, chain: FakeChain, platform: SoftwarePlatform) -> AsyncIterator[Service]:
    """A coordinator for the life of a ``with`` block."""
    app = create_app(settings, chain)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with (
            httpx.AsyncClient(
                transport=transport, base_url="http://coordinator.test:8080", timeout=30
            ) as client,
            asyncpg.create_pool(settings.database_url, min_size=1, max_size=2) as pool,
        ):
            yield Service(settings, chain, client, app.state.context, platform, pool)


def new_call_id() -> str:
    return str(uuid.uuid4())
