# SPDX-License-Identifier: MIT
"""Routes of the administrator (a bearer token from a file) and of whoever watches the service."""

from __future__ import annotations

import asyncio
import hmac
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import asyncpg
from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from redis.exceptions import RedisError
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from outlayer_coordinator.call_request import MAX_MONEY
from outlayer_coordinator.context import Context, context_of
from outlayer_coordinator.errors import ApiError
from outlayer_coordinator.http import json_response, read_object, text_of, whole_of
from outlayer_coordinator.payment_keys import NewKey, create_key
from outlayer_near.primitives import is_valid_account_id

router = APIRouter()

ACTIVE_SECONDS = 120
_HASH = re.compile(r"[0-9a-f]{64}")
_STATES = ("queued", "claimed", "completed", "failed")
_DATABASE_ERRORS = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError)

_WORKERS = """
SELECT w.worker_id, w.worker_name, w.worker_public_key, w.status, w.jobs_completed, w.jobs_failed,
       w.last_heartbeat_at, t.is_active AS token_active,
       (SELECT count(*) FROM jobs j WHERE j.state = 'claimed' AND j.worker_id = w.worker_id) AS jobs_claimed
FROM worker_status w JOIN worker_auth_tokens t USING (token_hash) ORDER BY w.worker_id
"""

_JOBS = """
SELECT job_id, kind, state, attempt, call_id, contract_id, request_id, block_height, worker_id, lease_until, error,
       error_category, instructions, time_ms, resolve_tx_hash, created_at, claimed_at, finished_at
FROM jobs WHERE $1::text IS NULL OR state = $1 ORDER BY seq DESC LIMIT $2
"""


def _admin(request: Request) -> Context:
    """401 without a token, 403 with a wrong one."""
    context = context_of(request)
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind != "Bearer" or not token:
        raise ApiError(401, "Missing admin token")
    if not hmac.compare_digest(token.encode(), context.settings.admin_token.encode()):
        raise ApiError(403, "Wrong admin token")
    return context


@router.post("/admin/payment-keys", status_code=201, tags=["admin"])
async def create_payment_key(request: Request) -> Response:
    """Create a key that the client made: its owner, nonce and hash, with a granted balance; 409 if it exists.

    A granted key cannot attach a deposit unless ``is_grant`` is false (the balance was paid for).
    """
    context = _admin(request)
    key = _new_key(await read_object(request))
    if not await create_key(context.database, key):
        raise ApiError(409, f"The payment key {key.owner}:{key.nonce} exists")
    return json_response(
        {
            "owner": key.owner,
            "nonce": key.nonce,
            "initial_balance": str(key.initial_balance),
            "is_grant": key.is_grant,
        },
        201,
    )


def _new_key(body: Mapping[str, Any]) -> NewKey:
    owner = text_of(body, "owner", 64)
    if not is_valid_account_id(owner):
        raise ApiError(400, "owner must be an account id")
    key_hash = text_of(body, "key_hash", 64)
    if _HASH.fullmatch(key_hash) is None:
        raise ApiError(400, "key_hash must be the SHA-256 of the key's text, 64 lower-case hex digits")
    projects = body.get("project_ids") or []
    if not isinstance(projects, list) or not all(
        type(item) is str and item.isprintable() and item.count("/") == 1 and len(item) <= 200
        for item in projects
    ):
        raise ApiError(400, "project_ids must be a list of owner/name")
    is_grant = body.get("is_grant", True)
    if type(is_grant) is not bool:
        raise ApiError(400, "is_grant must be true or false")
    most = body.get("max_per_call")
    return NewKey(
        owner=owner,
        nonce=whole_of(body, "nonce", most=2**32 - 1),
        key_hash=key_hash,
        initial_balance=whole_of(body, "initial_balance", most=MAX_MONEY),
        project_ids=tuple(projects),
        max_per_call=0 if most in (None, "") else whole_of(body, "max_per_call", most=MAX_MONEY),
        is_grant=is_grant,
    )


@router.get("/admin/workers", tags=["admin"])
async def workers(request: Request) -> Response:
    """Workers that ever sent a heartbeat."""
    context = _admin(request)
    rows = await context.database.main.fetch(_WORKERS)
    return json_response({"items": [dict(row) for row in rows]})


@router.get("/admin/jobs", tags=["admin"])
async def jobs(request: Request, state: str | None = None, limit: int = 100) -> Response:
    """The newest jobs, of one state if it is given."""
    context = _admin(request)
    if state is not None and state not in _STATES:
        raise ApiError(400, f"state must be one of {', '.join(_STATES)}")
    rows = await context.database.main.fetch(_JOBS, state, max(1, min(limit, 1000)))
    return json_response({"items": [dict(row) for row in rows]})


# --- health ----------------------------------------------------------------------------------------------------


@router.get("/health", tags=["health"])
async def health() -> PlainTextResponse:
    """The process runs."""
    return PlainTextResponse("OK")


async def _database_check(context: Context) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        await asyncio.wait_for(context.database.main.fetchval("SELECT 1"), 2)
    except _DATABASE_ERRORS as error:
        return {"status": "error", "error": type(error).__name__}
    return {"status": "ok", "latency_ms": round((time.perf_counter() - started) * 1e3, 2)}


async def _redis_check(context: Context) -> dict[str, Any]:
    """Redis away is degraded, not down: waiters poll the database."""
    try:
        return {"status": "ok", "latency_ms": round(await context.doorbell.ping(), 2)}
    except (RedisError, OSError) as error:
        return {"status": "degraded", "error": type(error).__name__}


async def _workers_check(context: Context) -> dict[str, Any]:
    try:
        rows = await context.database.main.fetch(_WORKERS)
    except _DATABASE_ERRORS as error:
        return {"status": "error", "error": type(error).__name__}
    now = datetime.now(UTC)
    details = [
        {
            "worker_id": row["worker_id"],
            "status": row["status"],
            "last_update_secs_ago": int((now - row["last_heartbeat_at"]).total_seconds()),
        }
        for row in rows
    ]
    active = sum(
        1
        for item in details
        if item["last_update_secs_ago"] <= ACTIVE_SECONDS and item["status"] != "offline"
    )
    return {"status": "ok" if active else "error", "active": active, "total": len(rows), "details": details}


def _ingest_check(context: Context) -> dict[str, Any]:
    ingest = context.ingest
    if not context.settings.ingest:
        return {"status": "elsewhere"}
    if ingest.trouble:
        status = "error"
    elif not ingest.leader:
        status = "standby"
    else:
        status = "starting" if ingest.height is None else "ok"
    return {"status": status, "current_block": ingest.height, "error": ingest.trouble}


@router.get("/health/ready", tags=["health"])
async def ready(request: Request) -> Response:
    """Whether calls can be taken: the database answers. Redis away is reported, and no reason to turn away."""
    context = context_of(request)
    database, redis = await asyncio.gather(_database_check(context), _redis_check(context))
    good = database["status"] == "ok"
    value = {"status": "ready" if good else "not_ready", "database": database, "redis": redis}
    return json_response(value, 200 if good else 503)


@router.get("/health/detailed", tags=["health"])
async def detailed(request: Request) -> Response:
    """Every part with its state; 503 when calls cannot run (no database, no worker)."""
    context = context_of(request)
    database, redis, worker = await asyncio.gather(
        _database_check(context), _redis_check(context), _workers_check(context)
    )
    checks = {
        "database": database,
        "redis": redis,
        "workers": worker,
        "event_monitor": _ingest_check(context),
    }
    unhealthy = any(checks[name]["status"] == "error" for name in ("database", "workers"))
    degraded = any(check["status"] in ("error", "degraded") for check in checks.values())
    status = "unhealthy" if unhealthy else "degraded" if degraded else "healthy"
    value = {
        "status": status,
        "simulated": context.settings.simulated,
        "timestamp": datetime.now(UTC).isoformat(),
        "checks": checks,
    }
    return json_response(value, 503 if unhealthy else 200)


@router.get("/metrics", tags=["health"])
async def prometheus() -> Response:
    """Prometheus text format."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
