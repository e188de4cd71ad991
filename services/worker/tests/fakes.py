# SPDX-License-Identifier: MIT
"""A coordinator that speaks the worker routes over HTTP, and a chain that holds what a test puts there."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from outlayer_near.errors import RpcUnavailableError
from outlayer_near.events import RequestEvent
from outlayer_near.models import RequestData, wasm_url_source
from outlayer_near.primitives import PublicKey, Signature, b58encode
from outlayer_near.rpc import Header
from outlayer_worker.chain import (
    AnswerPrices,
    ChainRequest,
    RequestGoneError,
    ResolvedProject,
    Submitted,
)
from outlayer_worker.errors import JobError, OutputRefusedError, RequestRefusedError, SubmissionError
from outlayer_worker.guest_env import ProjectContext
from outlayer_worker.jobs import NearRequest
from outlayer_worker.resolution import Resolution

TOKEN = "worker-token"
CONTRACT = "outlayer.test"


@dataclass
class FakeCoordinator:
    """Jobs wait in ``queue``; completions arrive in ``completions``. Status codes in ``failures`` come first."""

    port: int = 0
    queue: list[dict[str, Any]] = field(default_factory=list)
    completions: dict[str, dict[str, Any]] = field(default_factory=dict)
    batches: list[dict[str, Any]] = field(default_factory=list)
    requests: int = 0
    heartbeats: list[list[str]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    sessions: set[str] = field(default_factory=set)
    opened: int = 0
    failures: list[int] = field(default_factory=list)
    wasm: dict[str, bytes] = field(default_factory=dict)
    refuse_sessions: bool = False
    disown: bool = False
    _challenges: set[str] = field(default_factory=set)
    _arrived: asyncio.Condition = field(default_factory=asyncio.Condition)
    _runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/workers/tee-challenge", self._challenge)
        app.router.add_post("/workers/register-tee", self._register)
        app.router.add_post("/workers/heartbeat", self._heartbeat)
        app.router.add_post("/jobs/claim", self._claim)
        app.router.add_post("/jobs/complete", self._complete)
        app.router.add_get("/wasm/{sha}", self._wasm)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    def publish(self, wasm: bytes) -> tuple[str, str]:
        """Store code; gives its address and hash."""
        sha = hashlib.sha256(wasm).hexdigest()
        self.wasm[sha] = wasm
        return f"{self.url}/wasm/{sha}", sha

    async def completed(self, *job_ids: str, seconds: float = 20) -> list[dict[str, Any]]:
        """Wait for the completions of these jobs."""
        async with asyncio.timeout(seconds), self._arrived:
            await self._arrived.wait_for(lambda: all(item in self.completions for item in job_ids))
        return [self.completions[item] for item in job_ids]

    def _failing(self, request: web.Request) -> web.Response | None:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.json_response({"error": "token"}, status=401)
        if self.failures:
            return web.json_response({"error": "made to fail"}, status=self.failures.pop(0))
        return None

    def _without_session(self, request: web.Request) -> web.Response | None:
        if request.headers.get("X-TEE-Session") not in self.sessions:
            return web.json_response({"error": "no session"}, status=403)
        return self._failing(request)

    async def _challenge(self, request: web.Request) -> web.Response:
        challenge = secrets.token_hex(32)
        self._challenges.add(challenge)
        return self._failing(request) or web.json_response({"challenge": challenge})

    async def _register(self, request: web.Request) -> web.Response:
        body = await request.json()
        self._challenges.remove(body["challenge"])
        message = b"outlayer/tee-session/v1\0" + bytes.fromhex(body["challenge"])
        signature = Signature(0, bytes.fromhex(body["signature"]))
        if self.refuse_sessions or not PublicKey.parse(body["public_key"]).verify(message, signature):
            return web.json_response({"error": "key not accepted"}, status=403)
        session = str(uuid.uuid4())
        self.sessions.add(session)
        self.opened += 1
        return web.json_response({"session_id": session, "expires_at": 2_000_000_000})

    async def _heartbeat(self, request: web.Request) -> web.Response:
        body = await request.json()
        assert body["status"] in ("online", "busy", "offline")
        self.heartbeats.append(body["jobs"])
        return self._without_session(request) or web.json_response({"lost": self.lost})

    async def _claim(self, request: web.Request) -> web.Response:
        if (refusal := self._without_session(request)) is not None:
            return refusal
        body = await request.json()
        deadline = asyncio.get_running_loop().time() + min(body["wait_ms"] / 1000, 0.5)
        # tests put jobs into a plain list, so that it has to be looked at again
        while not self.queue and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        taken, self.queue = self.queue[: body["max_jobs"]], self.queue[body["max_jobs"] :]
        return web.json_response({"jobs": taken})

    async def _complete(self, request: web.Request) -> web.Response:
        if (refusal := self._without_session(request)) is not None:
            return refusal
        body = await request.json()
        self.requests += 1
        if body["batch"] is not None:
            self.batches.append(body["batch"])
        if body["batch"] is None:
            assert all(item["output_base64"] == "" and not item["success"] for item in body["completions"])
        results: list[dict[str, Any]] = []
        if self.disown:
            for item in body["completions"]:
                results.append({"job_id": item["job_id"], "finalized": False, "reason": "not_claimer"})
            return web.json_response({"results": results}, status=403)
        async with self._arrived:
            for item in body["completions"]:
                first = item["job_id"] not in self.completions
                if first:
                    self.completions[item["job_id"]] = {**item, "batch": body["batch"]}
                results.append(
                    {"job_id": item["job_id"], "finalized": first, "reason": None if first else "done"}
                )
            self._arrived.notify_all()
        return web.json_response({"results": results})

    async def _wasm(self, request: web.Request) -> web.Response:
        data = self.wasm.get(request.match_info["sha"])
        return web.Response(status=404) if data is None else web.Response(body=data)


def https_job(project_id: str, data: bytes, **limits: int) -> dict[str, Any]:
    """A job as the coordinator hands it out."""
    return {
        "job_id": str(uuid.uuid4()),
        "attempt": 1,
        "lease_seconds": 3,
        "kind": "https",
        "resource_limits": {
            "max_instructions": 1_000_000_000,
            "max_memory_mb": 64,
            "max_execution_seconds": 10,
            **limits,
        },
        "https": {
            "call_id": str(uuid.uuid4()),
            "project_id": project_id,
            "version_key": None,
            "input_base64": base64.b64encode(data).decode(),
            "payment_key_owner": "alice.test",
            "payment_key_nonce": 1,
            "compute_limit_usd": "10000",
            "attached_deposit_usd": "0",
            "secrets_ref": None,
        },
        "near": None,
    }


def near_job(request_id: int, data_id: bytes, height: int, contract_id: str = CONTRACT) -> dict[str, Any]:
    return {
        "job_id": str(uuid.uuid4()),
        "attempt": 1,
        "lease_seconds": 3,
        "kind": "near",
        "resource_limits": {"max_instructions": 1, "max_memory_mb": 1, "max_execution_seconds": 1},
        "https": None,
        "near": {
            "request_id": request_id,
            "data_id": data_id.hex(),
            "block_height": height,
            "contract_id": contract_id,
        },
    }


@dataclass
class FakeChain:
    """Stands where ``Chain`` does. ``resolved`` holds what was delivered, by request id."""

    projects: dict[str, ResolvedProject] = field(default_factory=dict)
    requests: dict[int, ChainRequest] = field(default_factory=dict)
    resolved: dict[int, Resolution] = field(default_factory=dict)
    height: int = 1000
    heads: int = 0
    late_seconds: float = 1.0
    outages: int = 0
    submission_failures: int = 0
    largest_output: int = 10**9
    prices: AnswerPrices | None = None
    over: bool = False
    failures: list[Exception] = field(default_factory=list)
    answers: list[Resolution] = field(default_factory=list)
    fails_unseen: bool = False
    successes: set[str] = field(default_factory=set)
    on_resolve: Callable[[], None] = lambda: None

    def add_project(self, project_id: str, url: str, sha: str) -> None:
        self.projects[project_id] = ResolvedProject(
            ProjectContext(project_id, "p0000000000000001"), sha, wasm_url_source(url, sha)
        )

    def add_request(self, request_id: int, source: Any, data: str, **fields: Any) -> dict[str, Any]:
        """Put a request on chain; gives the job for it."""
        data_id = hashlib.sha256(str(request_id).encode()).digest()
        request = RequestData.parse(
            json.dumps(
                {
                    "request_id": request_id,
                    "sender_id": "alice.test",
                    "predecessor_id": "bob.test",
                    "code_source": source.to_json(),
                    "input_data": data,
                    "payment": "1000",
                    **fields,
                }
            )
        )
        event = RequestEvent(
            request=request,
            data_id=data_id,
            tx_hash="TxHash",
            receipt_id="ReceiptId",
            predecessor_id="bob.test",
            signer_id="alice.test",
            signer_public_key="ed25519:key",
            gas_burnt=5,
            block_height=self.height,
            block_hash="BlockHash",
            block_timestamp=time.time_ns(),
        )
        self.requests[request_id] = ChainRequest(event, data.encode())
        return near_job(request_id, data_id, self.height)

    def _outage(self) -> None:
        if self.outages:
            self.outages -= 1
            raise RpcUnavailableError("made to fail")

    async def head(self) -> Header:
        """The next final block; made ``late_seconds`` ago."""
        self.heads += 1
        made_at = time.time_ns() - round(self.late_seconds * 1e9)
        return Header(self.height + self.heads, b58encode(self.heads.to_bytes(32, "big")), made_at)

    async def project(self, project_id: str, version_key: str | None) -> ResolvedProject:
        self._outage()
        if project_id not in self.projects:
            raise JobError("project_not_found", f"there is no project {project_id} on chain")
        return self.projects[project_id]

    async def request(self, near: NearRequest) -> ChainRequest:
        self._outage()
        found = self.requests.get(near.request_id)
        if found is None or found.event.data_id != near.data_id:
            raise RequestRefusedError(f"block {near.block_height} holds no request {near.request_id}")
        if near.request_id in self.resolved:
            raise RequestGoneError(near.request_id)
        return found

    async def answer_prices(self) -> AnswerPrices | None:
        self._outage()
        return self.prices

    async def is_over(self, near: NearRequest) -> bool:
        return self.over

    async def is_waiting(self, request_id: int) -> bool:
        return request_id not in self.resolved

    async def succeeded(self, tx_hash: str) -> bool:
        return tx_hash in self.successes

    async def resolve(self, resolution: Resolution, on_sent: Callable[[str], None]) -> Submitted:
        self.on_resolve()
        self.answers.append(resolution)
        if self.failures:
            error = self.failures.pop(0)
            if isinstance(error, SubmissionError) and error.ran:
                on_sent(f"failed-{len(self.answers)}")
            raise error
        if resolution.request_id in self.resolved:
            raise RequestGoneError(resolution.request_id)
        if len(resolution.output or b"") > self.largest_output:
            raise OutputRefusedError("Exceeded the prepaid gas.")
        tx_hash = f"tx-{resolution.request_id}"
        on_sent(tx_hash)
        if self.submission_failures:
            self.submission_failures -= 1
            if self.fails_unseen:
                self.resolved[resolution.request_id] = resolution
                self.successes.add(tx_hash)
            raise SubmissionError("made to fail")
        self.successes.add(tx_hash)
        self.resolved[resolution.request_id] = resolution
        return Submitted(tx_hash)

    async def charged(self, event: RequestEvent, answer_tx: str) -> int | None:
        return 123
