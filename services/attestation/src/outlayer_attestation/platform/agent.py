# SPDX-License-Identifier: MIT
"""The guest agent of a simulated VM: the HTTP that dstack's agent speaks on its unix socket.

One socket per guest; a guest's measurements are fixed when the server starts, as RTMR3 is a constant
per measurement set (so ``EmitEvent`` is refused). Every reply says that it is simulated.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import structlog

from outlayer_attestation.errors import AttestationError, PlatformError
from outlayer_attestation.measurements import Measurements
from outlayer_attestation.platform.machine import SoftwarePlatform
from outlayer_attestation.platform.quoting import report_data_field

log = structlog.get_logger("outlayer.platform")

MAX_HEAD: Final = 16 * 1024
MAX_BODY: Final = 64 * 1024
IDLE_SECONDS: Final = 60.0
BODY_SECONDS: Final = 10.0
MAX_SOCKET_PATH: Final = 107
VERSION: Final = "0.5.4-simulated"

_REASONS: Final = {200: "OK", 400: "Bad Request", 404: "Not Found", 411: "Length Required", 413: "Too Large"}


@dataclass(frozen=True, slots=True)
class Guest:
    """A simulated VM: its name, the socket of its agent, its measurements."""

    name: str
    socket: Path
    measurements: Measurements

    @classmethod
    def parse(cls, text: str) -> Guest:
        """Read ``NAME=SOCKET:MEASUREMENTS.json``."""
        name, equals, rest = text.partition("=")
        socket_path, colon, file = rest.rpartition(":")
        if not (equals and colon and name and socket_path and file):
            raise PlatformError(f"--guest {text!r} is not NAME=SOCKET:MEASUREMENTS.json")
        return cls(name, Path(socket_path), Measurements.from_file(Path(file)))


class _BadRequest(Exception):  # noqa: N818  (an answer, not a fault of ours)
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Agent:
    """Answers the agent's methods for one guest. ``answer`` is pure: request in, reply out."""

    def __init__(self, platform: SoftwarePlatform, guest: Guest) -> None:
        self._platform = platform
        self._guest = guest

    def answer(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """The reply to ``GetQuote``, ``Info`` or ``Version``."""
        if method == "GetQuote":
            return self._get_quote(parameters)
        if method == "Info":
            return self._info()
        if method == "Version":
            return {"version": VERSION, "rev": "simulated"}
        if method == "EmitEvent":
            raise _BadRequest(400, "RTMR3 of a simulated VM is constant; EmitEvent is not offered")
        raise _BadRequest(404, f"the simulated guest agent has no method {method[:40]!r}")

    def _get_quote(self, parameters: dict[str, Any]) -> dict[str, Any]:
        text = parameters.get("report_data")
        try:
            report_data = bytes.fromhex(text if isinstance(text, str) else "-")
        except ValueError as error:
            raise _BadRequest(400, "report_data is not hex") from error
        if not 0 < len(report_data) <= 64:
            raise _BadRequest(400, f"report_data has 1 to 64 bytes, not {len(report_data)}")
        quote = self._platform.quote(self._guest.measurements, report_data)
        return {
            "quote": quote.hex(),
            "event_log": "[]",
            "report_data": report_data_field(report_data).hex(),
            "vm_config": "",
        }

    def _info(self) -> dict[str, Any]:
        name = f"SIMULATED {self._guest.name}"
        identity = hashlib.sha256(name.encode()).hexdigest()
        tcb_info = {
            **self._guest.measurements.to_json(),
            "mr_aggregated": "",
            "os_image_hash": "",
            "compose_hash": "",
            "device_id": identity,
            "app_compose": "",
            "event_log": [],
        }
        return {
            "app_id": identity[:40],
            "instance_id": identity[:40],
            "app_cert": "",
            "tcb_info": json.dumps(tcb_info),
            "app_name": name,
            "device_id": identity,
            "mr_aggregated": "",
            "os_image_hash": "",
            "key_provider_info": "",
            "compose_hash": "",
            "vm_config": "",
        }


# --- HTTP ----------------------------------------------------------------------------------------------


async def _read_request(reader: asyncio.StreamReader) -> tuple[str, dict[str, Any], bool] | None:
    """One request: method name, parameters, whether the client wants the connection kept. None: closed."""
    try:
        async with asyncio.timeout(IDLE_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        raise _BadRequest(413, "the request head is too large") from error
    except (asyncio.IncompleteReadError, TimeoutError):
        return None
    lines = head.decode("latin-1").split("\r\n")
    verb, _, rest = lines[0].partition(" ")
    target, _, protocol = rest.partition(" ")
    headers = {
        key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines[1:])
    }
    if verb not in ("GET", "POST") or not target.startswith("/") or not protocol.startswith("HTTP/1."):
        raise _BadRequest(400, "expected GET or POST of HTTP/1.1")
    body = await _read_body(reader, headers)
    parameters = _parameters(target, body)
    keep = protocol == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
    return urlsplit(target).path.lstrip("/"), parameters, keep


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if "transfer-encoding" in headers:
        raise _BadRequest(411, "send a Content-Length")
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()) or len(length) > 9 or int(length) > MAX_BODY:
        raise _BadRequest(413, f"the body has at most {MAX_BODY} bytes")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await reader.readexactly(int(length))
    except (asyncio.IncompleteReadError, TimeoutError) as error:
        raise _BadRequest(400, "the body is cut off") from error


def _parameters(target: str, body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body) if body.strip() else {}
        query = dict(parse_qsl(urlsplit(target).query))
    except (ValueError, RecursionError) as error:
        raise _BadRequest(400, "the body is not JSON") from error
    if not isinstance(parsed, dict):
        raise _BadRequest(400, "the body is not a JSON object")
    return query | parsed


def _response(status: int, value: dict[str, Any], keep: bool) -> bytes:
    body = json.dumps(value, separators=(",", ":")).encode()
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: {'keep-alive' if keep else 'close'}\r\n"
        "X-Outlayer-Simulated: true\r\n\r\n"
    )
    return head.encode() + body


async def _exchange(agent: Agent, reader: asyncio.StreamReader) -> tuple[bytes, bool] | None:
    """Read one request and make its reply; None when the client is gone."""
    try:
        request = await _read_request(reader)
        if request is None:
            return None
        method, parameters, keep = request
    except _BadRequest as error:
        return _response(error.status, {"error": str(error)}, keep=False), False
    try:
        return _response(200, agent.answer(method, parameters), keep), keep
    except _BadRequest as error:
        return _response(error.status, {"error": str(error)}, keep), keep
    except AttestationError as error:
        return _response(400, {"error": str(error)}, keep), keep


def connection_handler(
    agent: Agent,
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """The callback of ``asyncio.start_unix_server`` for this guest."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        keep = True
        try:
            while keep and (exchanged := await _exchange(agent, reader)) is not None:
                reply, keep = exchanged
                writer.write(reply)
                await writer.drain()
        except ConnectionError:
            log.debug("client_went_away")
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    return handle


async def start_agent(platform: SoftwarePlatform, guest: Guest) -> asyncio.Server:
    """Listen on the guest's socket (mode 0600). A socket that nobody answers any more is replaced."""
    path = guest.socket
    if len(str(path).encode()) > MAX_SOCKET_PATH:
        raise PlatformError(
            f"the socket path {path} is longer than {MAX_SOCKET_PATH} bytes",
            hint="choose a state folder with a shorter path (OUTLAYER_STATE)",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    await _remove_stale(path)
    try:
        handler = connection_handler(Agent(platform, guest))
        server = await asyncio.start_unix_server(handler, path=str(path), limit=MAX_HEAD)
        path.chmod(0o600)
    except OSError as error:
        raise PlatformError(f"cannot listen on {path}: {error}") from error
    log.info("guest_agent_listens", guest=guest.name, socket=str(path), simulated=True)
    return server


async def _remove_stale(path: Path) -> None:
    if not path.exists() and not path.is_symlink():
        return
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise PlatformError(f"{path} exists and is not a socket", hint="remove it")
    try:
        _, writer = await asyncio.open_unix_connection(str(path))
    except OSError:
        path.unlink()
        return
    writer.close()
    raise PlatformError(f"another guest agent answers at {path}", hint="stop it first: outlayer down")
