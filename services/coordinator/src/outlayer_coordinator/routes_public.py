# SPDX-License-Identifier: MIT
"""Public routes: calls, balances, code, attestations. Frozen wire (outlayer.md §4.4, §4.9, A.4)."""

from __future__ import annotations

import base64
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from outlayer_coordinator.call_request import (
    check_project_id,
    parse_body,
    parse_money,
    parse_payment_key,
)
from outlayer_coordinator.calls import NewCall
from outlayer_coordinator.config import MAX_BODY_BYTES
from outlayer_coordinator.context import context_of
from outlayer_coordinator.errors import ApiError
from outlayer_coordinator.http import body_chunks, content_length, json_response, read_body
from outlayer_coordinator.money import Reservation

router = APIRouter()


def _header(name: str, description: str, *, required: bool = False) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": required,
        "description": description,
        "schema": {"type": "string"},
    }


_KEY = _header("X-Payment-Key", "owner:nonce:<64 hex>", required=True)
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": 'Malformed request: {"error": "..."}'},
    401: {"description": "Missing or invalid payment key"},
    402: {"description": "Insufficient balance"},
    403: {"description": "The key may not do this"},
    404: {"description": "No such project or call"},
    429: {"description": "Too many requests or open calls"},
    503: {"description": "A part of the service is not ready"},
}
_CALL_DOCS = {
    "parameters": [
        _KEY,
        _header("X-Compute-Limit", "Most to pay for computing, micro-USD (default 10000, at least 1000)"),
        _header("X-Attached-Deposit", "For the project's developer, micro-USD (default 0)"),
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["input"],
                    "properties": {
                        "input": {"description": "Any JSON value; the guest reads its compact text on stdin"},
                        "async": {"type": "boolean", "default": False},
                        "version_key": {"type": "string"},
                        "secrets_ref": {
                            "type": "object",
                            "properties": {"profile": {"type": "string"}, "account_id": {"type": "string"}},
                        },
                        "resource_limits": {
                            "type": "object",
                            "properties": {
                                "max_instructions": {"type": "integer", "default": 10_000_000_000},
                                "max_memory_mb": {"type": "integer", "default": 128},
                                "max_execution_seconds": {"type": "integer", "default": 60},
                            },
                        },
                    },
                }
            }
        },
    },
}


@router.post("/call/{owner}/{project}", responses=_ERRORS, openapi_extra=_CALL_DOCS, tags=["calls"])
async def call(owner: str, project: str, request: Request) -> Response:
    """Run a project's active version, or ``version_key``, on an input. A failed execution is 200 with its status.

    Without ``async`` the answer waits for the result; when that takes too long, status is ``pending`` and
    ``poll_url`` says where to ask.
    """
    context = context_of(request)
    settings = context.settings
    headers = request.headers
    claim = parse_payment_key(headers.get("x-payment-key"))
    limit = parse_money(headers.get("x-compute-limit"), settings.default_compute_limit)
    if limit < settings.min_compute_limit:
        raise ApiError(400, f"Compute limit too low: at least {settings.min_compute_limit} micro-USD")
    body = parse_body(await read_body(request, MAX_BODY_BYTES))
    new = NewCall(
        claim=claim,
        project_id=check_project_id(owner, project),
        reservation=Reservation(limit, parse_money(headers.get("x-attached-deposit"), 0)),
        body=body,
    )
    return json_response(await context.calls.call(new))


@router.get("/calls/{call_id}", responses=_ERRORS, openapi_extra={"parameters": [_KEY]}, tags=["calls"])
async def call_result(call_id: str, request: Request) -> Response:
    """What came of a call; only for the key that paid for it."""
    claim = parse_payment_key(request.headers.get("x-payment-key"))
    return json_response(await context_of(request).calls.result(claim, call_id))


@router.get(
    "/calls/{call_id}/payload", responses=_ERRORS, openapi_extra={"parameters": [_KEY]}, tags=["calls"]
)
async def call_payload(call_id: str, request: Request) -> Response:
    """Exact input and output bytes of a finished call: what its record's hashes are of."""
    claim = parse_payment_key(request.headers.get("x-payment-key"))
    data, output = await context_of(request).calls.payload(claim, call_id)
    return json_response(
        {
            "input_base64": base64.b64encode(data).decode(),
            "output_base64": base64.b64encode(output).decode(),
        }
    )


@router.get("/payment-keys/balance", responses=_ERRORS, openapi_extra={"parameters": [_KEY]}, tags=["calls"])
async def balance(request: Request) -> Response:
    """What the key has, spent and holds back, in micro-USD."""
    claim = parse_payment_key(request.headers.get("x-payment-key"))
    return json_response(await context_of(request).calls.balance(claim))


@router.get("/wasm/{sha256}", tags=["code"])
async def get_wasm(sha256: str, request: Request) -> Response:
    """The bytes with this SHA-256."""
    path = context_of(request).wasm.path(sha256)
    if not path.is_file():
        raise ApiError(404, "There is no such file")
    return FileResponse(
        path,
        media_type="application/wasm",
        headers={"Cache-Control": "public, max-age=31536000, immutable", "ETag": f'"{sha256}"'},
    )


_UPLOAD_DOCS = {
    "parameters": [
        _header("X-Near-Account", "Account that uploads", required=True),
        _header("X-Near-Public-Key", "One of its full-access keys", required=True),
        _header(
            "X-Near-Nonce",
            "base64 of 32 bytes, the first 8 the unix time in ms (u64 big-endian)",
            required=True,
        ),
        _header("X-Near-Signature", 'base64 of the NEP-413 signature of "upload <sha256>"', required=True),
    ],
    "requestBody": {"required": True, "content": {"application/wasm": {}}},
}


@router.put("/wasm/{sha256}", openapi_extra=_UPLOAD_DOCS, status_code=201, tags=["code"])
async def put_wasm(sha256: str, request: Request) -> Response:
    """Store a WASM module or component of at most 64 MB; 201 when it is new, 200 when it was there."""
    store = context_of(request).wasm
    store.path(sha256)
    uploader = await store.authenticate(sha256, request.headers)
    created = await store.put(sha256, uploader, content_length(request), body_chunks(request))
    return json_response({"sha256": sha256, "created": created}, 201 if created else 200)


@router.get("/attestations/by-call/{call_id}", tags=["attestations"])
async def attestations_by_call(call_id: str, request: Request) -> Response:
    """Records of a call, each with its inclusion proof and quoted batch."""
    return json_response(await context_of(request).archive.by_call(call_id))


@router.get("/attestations/by-request/{request_id}", tags=["attestations"])
async def attestations_by_request(request_id: str, request: Request) -> Response:
    """Records of a chain request."""
    return json_response(await context_of(request).archive.by_request(request_id))


@router.get("/attestations/by-tx/{tx_hash}", tags=["attestations"])
async def attestations_by_tx(tx_hash: str, request: Request) -> Response:
    """Records of the requests of a transaction."""
    return json_response(await context_of(request).archive.by_tx(tx_hash))


@router.get("/attestations/{job_id}", tags=["attestations"])
async def attestation(job_id: str, request: Request) -> Response:
    """The record of one job."""
    return json_response(await context_of(request).archive.by_job(job_id))
