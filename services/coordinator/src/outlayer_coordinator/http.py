# SPDX-License-Identifier: MIT
"""What all routes share: bodies with a limit, JSON answers, errors, and the log and metrics of each request."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any

import asyncpg
import orjson
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from outlayer_coordinator import metrics
from outlayer_coordinator.errors import ApiError, ChainError

log = structlog.get_logger(__name__)

_WHOLE = re.compile(r"[0-9]{1,18}")


def _plain(value: Any) -> str:
    """asyncpg has a UUID class of its own, which orjson does not know."""
    if isinstance(value, uuid.UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def json_response(value: Any, status: int = 200) -> Response:
    """``value`` as JSON, or as it is when it is bytes of JSON already."""
    body = value if isinstance(value, bytes) else orjson.dumps(value, default=_plain)
    return Response(body, status, media_type="application/json")


def error_response(status: int, message: str) -> Response:
    return json_response({"error": message}, status)


def content_length(request: Request) -> int | None:
    value = request.headers.get("content-length", "")
    return int(value) if _WHOLE.fullmatch(value) else None


async def read_body(request: Request, limit: int) -> bytes:
    """The body, refused with 413 as soon as it is longer than ``limit`` bytes."""
    too_long = ApiError(413, f"The body may have {limit} bytes")
    if (content_length(request) or 0) > limit:
        raise too_long
    parts, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise too_long
        parts.append(chunk)
    return b"".join(parts)


async def read_object(request: Request, limit: int = 65_536) -> Mapping[str, Any]:
    """The body as a JSON object, 400 for anything else."""
    try:
        value = orjson.loads(await read_body(request, limit) or b"{}")
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"The body is not JSON: {error}") from error
    if not isinstance(value, Mapping):
        raise ApiError(400, "The body must be a JSON object")
    return value


def text_of(value: Mapping[str, Any], name: str, longest: int = 256) -> str:
    """A required text member without control characters, or 400."""
    found = value.get(name)
    if type(found) is not str or not 0 < len(found) <= longest or not found.isprintable():
        raise ApiError(400, f"{name} must be a text of 1 to {longest} characters")
    return found


def whole_of(value: Mapping[str, Any], name: str, default: int | None = None, *, most: int = 2**53) -> int:
    """A whole number, as a number or as decimal text, or 400."""
    found = value.get(name)
    if found is None and default is not None:
        return default
    if type(found) is str and _WHOLE.fullmatch(found):
        found = int(found)
    if type(found) is not int or not 0 <= found <= most:
        raise ApiError(400, f"{name} must be a whole number from 0 to {most}")
    return found


async def body_chunks(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        yield chunk


class Boundary:
    """The outermost layer: times each request, counts it by route, and turns every failure into an answer.

    A client learns what it did wrong; of what went wrong here it learns only that, and the log has the rest.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            status = status or 499
        except Exception as error:
            if status:
                raise  # the answer has begun: only a broken connection tells the client
            response = answer_of(error)
            await response(scope, receive, watched)
        finally:
            # the handler's name, never the path: bounded label values
            route = getattr(scope.get("endpoint"), "__name__", "unknown")
            metrics.REQUESTS.labels(route, str(status)).inc()
            metrics.REQUEST_SECONDS.labels(route).observe(time.perf_counter() - started)


def answer_of(error: Exception) -> Response:
    """The answer that a failure deserves; unexpected ones are logged with their trace."""
    if isinstance(error, ApiError):
        return error_response(error.status, error.message)
    if isinstance(error, HTTPException):
        return error_response(error.status_code, str(error.detail))
    if isinstance(error, ChainError):
        log.warning("chain_unavailable", error=error.message)
        return error_response(503, "The NEAR node cannot be asked at this moment. Try again later.")
    if isinstance(error, (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError, TimeoutError)):
        log.error("database_unavailable", error=f"{type(error).__name__}: {error}")
        return error_response(503, "The service is not ready at this moment. Try again later.")
    log.error("internal_error", exc_info=error)
    return error_response(500, "Internal error")
