# SPDX-License-Identifier: MIT
"""Routes of workers. Internal: plain handlers, not part of the documented API."""

from __future__ import annotations

import uuid
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from outlayer_coordinator.completion import parse_report
from outlayer_coordinator.config import MAX_COMPLETION_BYTES
from outlayer_coordinator.context import Context, context_of
from outlayer_coordinator.errors import ApiError
from outlayer_coordinator.http import json_response, read_body, read_object, text_of, whole_of
from outlayer_coordinator.jobs import NOT_CLAIMER
from outlayer_coordinator.sessions import Session

MAX_HEARTBEAT_JOBS = 1024
_STATUSES = ("online", "busy", "offline")

_HEARTBEAT = """
INSERT INTO worker_status (worker_id, worker_name, token_hash, worker_public_key, status)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (worker_id) DO UPDATE
SET status = excluded.status, worker_public_key = excluded.worker_public_key, last_heartbeat_at = now()
WHERE worker_status.token_hash = excluded.token_hash
RETURNING worker_id
"""


async def _session(context: Context, request: Request) -> Session:
    headers = request.headers
    return await context.sessions.session(headers.get("authorization"), headers.get("x-tee-session"))


async def tee_challenge(request: Request) -> Response:
    context = context_of(request)
    token = await context.sessions.token(request.headers.get("authorization"))
    return json_response({"challenge": await context.sessions.challenge(token)})


async def register_tee(request: Request) -> Response:
    context = context_of(request)
    token = await context.sessions.token(request.headers.get("authorization"))
    body = await read_object(request)
    session = await context.sessions.open(
        token, text_of(body, "public_key"), text_of(body, "challenge"), text_of(body, "signature")
    )
    return json_response(
        {"session_id": str(session.session_id), "expires_at": session.expires_at.isoformat()}
    )


async def heartbeat(request: Request) -> Response:
    context = context_of(request)
    session = await _session(context, request)
    body = await read_object(request)
    status = body.get("status", "online")
    if status not in _STATUSES:
        raise ApiError(400, f"status must be one of {', '.join(_STATUSES)}")
    jobs = _job_ids(body.get("jobs") or [])
    lost = await context.jobs.renew(session, jobs)
    row = await context.database.quick.fetchrow(
        _HEARTBEAT,
        text_of(body, "worker_id", 128),
        session.token.worker_name,
        session.token.token_hash,
        session.worker_public_key,
        status,
    )
    if row is None:
        raise ApiError(403, "This worker_id belongs to another worker's token")
    return json_response({"lost": [str(job_id) for job_id in lost]})


async def claim(request: Request) -> Response:
    context = context_of(request)
    session = await _session(context, request)
    body = await read_object(request)
    capabilities = body.get("capabilities")
    if not isinstance(capabilities, list) or "execute" not in capabilities:
        raise ApiError(400, 'capabilities must be a list that holds "execute"')

    async def still_there() -> None:
        # a job given to a worker that hung up would wait for its lease to end
        if await request.is_disconnected():
            raise ClientDisconnect
        await _session(context, request)

    jobs = await context.jobs.claim(
        session,
        text_of(body, "worker_id", 128),
        whole_of(body, "max_jobs", 1, most=10_000),
        whole_of(body, "wait_ms", 0, most=600_000) / 1e3,
        still_there,
    )
    return json_response({"jobs": jobs})


async def complete(request: Request) -> Response:
    """R24: 403 when none of the jobs is this worker's to complete."""
    context = context_of(request)
    session = await _session(context, request)
    report = parse_report(await read_body(request, MAX_COMPLETION_BYTES))
    results = await context.jobs.complete(session, report)
    nobodys = all(not result.finalized and result.reason == NOT_CLAIMER for result in results)
    return json_response({"results": [result.to_json() for result in results]}, 403 if nobodys else 200)


def _job_ids(value: Any) -> list[uuid.UUID]:
    if not isinstance(value, list) or len(value) > MAX_HEARTBEAT_JOBS:
        raise ApiError(400, f"jobs must be a list of at most {MAX_HEARTBEAT_JOBS} job ids")
    try:
        return [uuid.UUID(item) for item in value]
    except (ValueError, TypeError, AttributeError) as error:
        raise ApiError(400, "a job id must be a UUID") from error


ROUTES = [
    Route("/workers/tee-challenge", tee_challenge, methods=["POST"]),
    Route("/workers/register-tee", register_tee, methods=["POST"]),
    Route("/workers/heartbeat", heartbeat, methods=["POST"]),
    Route("/jobs/claim", claim, methods=["POST"]),
    Route("/jobs/complete", complete, methods=["POST"]),
]
