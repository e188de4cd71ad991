# SPDX-License-Identifier: MIT
"""Client of the dstack guest agent: asks the (real or simulated) VM it runs in for quotes.

The agent speaks HTTP on a unix socket. Only the standard library is used and nothing is kept open:
a worker asks once per batch, and a restart of the agent must not need one of the worker.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from outlayer_attestation.errors import GuestAgentError

DEFAULT_SOCKET = "/var/run/dstack.sock"
_MAX_REPLY = 8 * 1024 * 1024  # an event log can be large, a quote is about 5 KB


@dataclass(frozen=True, slots=True)
class QuoteReply:
    """A quote as the agent gave it (unverified), and the event log as JSON text ("" when it has none)."""

    quote: bytes
    event_log: str
    vm_config: str


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(self.timeout)
            self.sock.connect(self._path)
        except BaseException:
            self.sock.close()
            raise


class GuestAgent:
    """``GuestAgent("/var/run/dstack.sock")`` or, for a simulator elsewhere, an http:// URL."""

    def __init__(self, endpoint: str | Path = DEFAULT_SOCKET, *, timeout: float = 10.0) -> None:
        self.endpoint = str(endpoint)
        self.timeout = timeout

    async def get_quote(self, report_data: bytes) -> QuoteReply:
        """Ask for a quote over REPORTDATA (1 to 64 bytes; the agent pads with zeros on the right).

        Raises:
            GuestAgentError: no agent there, a refusal, or a reply that is not a quote.
        """
        return await asyncio.to_thread(self.get_quote_blocking, report_data)

    def get_quote_blocking(self, report_data: bytes) -> QuoteReply:
        """The same, for code without an event loop."""
        if not 0 < len(report_data) <= 64:
            raise GuestAgentError(f"REPORTDATA has 1 to 64 bytes, not {len(report_data)}")
        reply = self._call("/GetQuote", {"report_data": report_data.hex()})
        try:
            quote = bytes.fromhex(reply["quote"])
            event_log, vm_config = reply.get("event_log", ""), reply.get("vm_config", "")
        except (KeyError, TypeError, ValueError) as error:
            raise GuestAgentError(f"the guest agent's reply holds no quote: {error!r}") from error
        if not isinstance(event_log, str) or not isinstance(vm_config, str):
            raise GuestAgentError("the guest agent's event log is not text")
        return QuoteReply(quote=quote, event_log=event_log, vm_config=vm_config)

    async def info(self) -> dict[str, Any]:
        """What the agent says about its VM. Nothing in it is proven; use it for logs only."""
        return await asyncio.to_thread(self._call, "/Info", {})

    def _connection(self) -> http.client.HTTPConnection:
        url = urlsplit(self.endpoint)
        if url.scheme == "http" and url.hostname:
            return http.client.HTTPConnection(url.hostname, url.port or 80, timeout=self.timeout)
        return _UnixConnection(self.endpoint.removeprefix("unix:"), self.timeout)

    def _call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        connection = self._connection()
        try:
            headers = {"Content-Type": "application/json", "Connection": "close"}
            connection.request("POST", path, json.dumps(body), headers)
            response = connection.getresponse()
            data = response.read(_MAX_REPLY + 1)
        except (OSError, http.client.HTTPException) as error:
            raise GuestAgentError(
                f"no guest agent answers at {self.endpoint}: {error}",
                hint="in a dstack VM mount /var/run/dstack.sock; without TDX start the software platform",
            ) from error
        finally:
            connection.close()
        if len(data) > _MAX_REPLY:
            raise GuestAgentError(f"the guest agent's reply to {path} is too large")
        return _decoded(path, response.status, data)


def _decoded(path: str, status: int, data: bytes) -> dict[str, Any]:
    try:
        reply = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise GuestAgentError(f"the guest agent answered {path} with HTTP {status} and no JSON") from error
    if not isinstance(reply, dict):
        raise GuestAgentError(f"the guest agent answered {path} with something else than an object")
    if status != http.client.OK:
        raise GuestAgentError(
            f"the guest agent refused {path} (HTTP {status}): {str(reply.get('error', ''))[:200]}"
        )
    return reply
