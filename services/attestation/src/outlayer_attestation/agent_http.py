# SPDX-License-Identifier: MIT
"""The HTTP of guest agents: JSON requests and small replies, on a unix socket or a port. Bounded in every way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import stat
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import structlog

from outlayer_attestation.errors import AttestationError, GuestAgentError

log = structlog.get_logger("outlayer.agent")

MAX_HEAD: Final = 16 * 1024
MAX_BODY: Final = 64 * 1024
IDLE_SECONDS: Final = 60.0
BODY_SECONDS: Final = 10.0
MAX_SOCKET_PATH: Final = 107
MAX_CONNECTIONS: Final = 128
REPORT_DATA_SIZE: Final = 64

_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    411: "Length Required",
    413: "Too Large",
    502: "Bad Gateway",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """What a handler answers."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"


class BadRequest(Exception):  # noqa: N818  (an answer, not a fault of ours)
    """The request is refused with this status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


Handler = Callable[[str, dict[str, Any]], Awaitable[Reply]]
"""Path without its first slash, and parameters (query and JSON body) -> reply."""
Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def json_reply(value: Mapping[str, Any], status: int = 200) -> Reply:
    """A JSON object, in its shortest form."""
    return Reply(json.dumps(value, separators=(",", ":")).encode(), status)


def report_data_of(parameters: Mapping[str, Any]) -> bytes:
    """REPORTDATA of a request for a quote, 64 bytes: zeros follow what was given. Raises ``BadRequest``."""
    text = parameters.get("report_data")
    try:
        given = bytes.fromhex(text if isinstance(text, str) else "-")
    except ValueError as error:
        raise BadRequest(400, "report_data is not hex") from error
    if not 0 < len(given) <= REPORT_DATA_SIZE:
        raise BadRequest(400, f"report_data has 1 to {REPORT_DATA_SIZE} bytes, not {len(given)}")
    return given.ljust(REPORT_DATA_SIZE, b"\0")


@dataclass(frozen=True, slots=True)
class _Request:
    path: str
    parameters: dict[str, Any]
    keep: bool


async def _read_request(reader: asyncio.StreamReader) -> _Request | None:
    """One request; None when the client is gone."""
    try:
        async with asyncio.timeout(IDLE_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        raise BadRequest(413, "the request head is too large") from error
    except (asyncio.IncompleteReadError, TimeoutError):
        return None
    lines = head.decode("latin-1").split("\r\n")
    verb, _, rest = lines[0].partition(" ")
    target, _, protocol = rest.partition(" ")
    headers = {
        key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines[1:])
    }
    if verb not in ("GET", "POST") or not target.startswith("/") or not protocol.startswith("HTTP/1."):
        raise BadRequest(400, "expected GET or POST of HTTP/1.1")
    body = await _read_body(reader, headers)
    parameters = _parameters(target, body)
    keep = protocol == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
    return _Request(target.partition("?")[0].lstrip("/"), parameters, keep)


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if "transfer-encoding" in headers:
        raise BadRequest(411, "send a Content-Length")
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()) or len(length) > 9 or int(length) > MAX_BODY:
        raise BadRequest(413, f"the body has at most {MAX_BODY} bytes")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await reader.readexactly(int(length))
    except (asyncio.IncompleteReadError, TimeoutError) as error:
        raise BadRequest(400, "the body is cut off") from error


def _parameters(target: str, body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body, object_pairs_hook=_without_repeats) if body.strip() else {}
        query = dict(parse_qsl(urlsplit(target).query))
    except (ValueError, RecursionError) as error:
        raise BadRequest(400, "the body is not JSON") from error
    if not isinstance(parsed, dict):
        raise BadRequest(400, "the body is not a JSON object")
    return query | parsed


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object has a key twice")
    return value


def _encoded(reply: Reply, headers: Mapping[str, str], *, keep: bool) -> bytes:
    lines = [
        f"HTTP/1.1 {reply.status} {_REASONS.get(reply.status, 'Status')}",
        f"Content-Type: {reply.content_type}",
        f"Content-Length: {len(reply.body)}",
        f"Connection: {'keep-alive' if keep else 'close'}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + reply.body


async def _exchange(
    handler: Handler, headers: Mapping[str, str], reader: asyncio.StreamReader
) -> tuple[bytes, bool] | None:
    """Read one request and make its reply; None when the client is gone."""
    try:
        request = await _read_request(reader)
    except BadRequest as error:
        return _encoded(json_reply({"error": str(error)}, error.status), headers, keep=False), False
    if request is None:
        return None
    try:
        reply = await handler(request.path, request.parameters)
    except BadRequest as error:
        reply = json_reply({"error": str(error)}, error.status)
    except AttestationError as error:
        reply = json_reply({"error": str(error)}, 400)
    return _encoded(reply, headers, keep=request.keep), request.keep


def connection_handler(handler: Handler, headers: Mapping[str, str] | None = None) -> Connected:
    """The callback of ``asyncio.start_server``; connections beyond ``MAX_CONNECTIONS`` are closed at once."""
    extra = dict(headers or {})
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        keep = True
        while keep and (exchanged := await _exchange(handler, extra, reader)) is not None:
            reply, keep = exchanged
            writer.write(reply)
            await writer.drain()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        try:
            if connections <= MAX_CONNECTIONS:
                await serve(reader, writer)
        except ConnectionError:
            log.debug("client_went_away")
        finally:
            connections -= 1
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    return handle


async def listen_on_socket(path: Path, connected: Connected, mode: int = 0o600) -> asyncio.Server:
    """Listen on a unix socket. One that nobody answers any more is replaced.

    Raises:
        GuestAgentError: the path is too long, taken, or not ours.
    """
    if len(str(path).encode()) > MAX_SOCKET_PATH:
        raise GuestAgentError(
            f"the socket path {path} is longer than {MAX_SOCKET_PATH} bytes",
            hint="choose a state folder with a shorter path (OUTLAYER_STATE)",
        )
    await _remove_stale(path)
    try:
        server = await asyncio.start_unix_server(connected, path=str(path), limit=MAX_HEAD)
        path.chmod(mode)
    except OSError as error:
        raise GuestAgentError(f"cannot listen on {path}: {error}") from error
    return server


async def _remove_stale(path: Path) -> None:
    if not path.exists() and not path.is_symlink():
        return
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise GuestAgentError(f"{path} exists and is not a socket", hint="remove it")
    try:
        _, writer = await asyncio.open_unix_connection(str(path))
    except OSError:
        path.unlink()
        return
    writer.close()
    raise GuestAgentError(f"another guest agent answers at {path}", hint="stop it first: outlayer down")
