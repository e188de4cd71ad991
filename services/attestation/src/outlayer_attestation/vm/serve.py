# SPDX-License-Identifier: MIT
"""What the agent answers while the VM runs: quotes for the service, status for everyone.

The socket speaks the methods of dstack's guest agent that our services use, so they need not know where they run.
The status port holds nothing secret and changes nothing.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
from collections.abc import Callable
from typing import Any, Final

import structlog

from outlayer_attestation.agent_http import (
    MAX_HEAD,
    BadRequest,
    Reply,
    connection_handler,
    json_reply,
    listen_on_socket,
    report_data_of,
)
from outlayer_attestation.errors import VmError
from outlayer_attestation.vm.places import Places
from outlayer_attestation.vm.prepare import VmStatus, dstack_event_log
from outlayer_attestation.vm.quotes import QuoteSource
from outlayer_attestation.vm.roles import GROUP, ROLES, STATUS_PORT, Role

log = structlog.get_logger("outlayer.vm")

VERSION: Final = "outlayer-1"
HEALTH_SECONDS: Final = 5.0
MAX_HEALTH_REPLY: Final = 64 * 1024
MAX_LOG: Final = 16 * 1024 * 1024
_PCRS: Final = 24


class SocketAgent:
    """The methods of the guest agent's socket."""

    def __init__(self, status: VmStatus, quotes: QuoteSource) -> None:
        self._status = status
        self._quotes = quotes

    async def answer(self, method: str, parameters: dict[str, Any]) -> Reply:
        """Reply to ``GetQuote``, ``Info`` or ``Version``."""
        match method:
            case "GetQuote":
                return await self._get_quote(parameters)
            case "Info":
                return json_reply(
                    {"app_name": f"outlayer-{self._status.role}", "tcb_info": self._status.to_text()}
                )
            case "Version":
                return json_reply({"version": VERSION})
            case "EmitEvent":
                raise BadRequest(400, "RTMR3 is closed once the VM is ready; EmitEvent is not offered")
            case _:
                raise BadRequest(404, f"the guest agent has no method {method[:40]!r}")

    async def _get_quote(self, parameters: dict[str, Any]) -> Reply:
        report_data = report_data_of(parameters)
        quote = await asyncio.to_thread(self._quotes.quote, report_data)
        return json_reply(
            {
                "quote": quote.hex(),
                "event_log": json.dumps(dstack_event_log(self._status)),
                "report_data": report_data.hex(),
                "vm_config": "",
            }
        )


class StatusPages:
    """The pages of the status port: ``/health``, ``/status``, ``/config``, ``/event-log``, ``/pcrs``."""

    def __init__(self, places: Places, status: VmStatus, role: Role) -> None:
        self._places = places
        self._status = status
        self._role = role
        self._pages: dict[str, Callable[[], Reply]] = {
            "health": self._health,
            "status": lambda: Reply(self._status.to_text().encode()),
            "config": lambda: Reply(self._places.configuration.read_bytes()),
            "event-log": self._event_log,
            "pcrs": self._pcrs,
        }

    async def answer(self, path: str, parameters: dict[str, Any]) -> Reply:
        """Reply to a page."""
        del parameters
        page = self._pages.get(path)
        if page is None:
            raise BadRequest(404, f"there are the pages {', '.join(f'/{name}' for name in self._pages)}")
        return await asyncio.to_thread(page)

    def _health(self) -> Reply:
        """The service's own health check: its status and words, or 503 while it does not answer."""
        port, path = self._role.health
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HEALTH_SECONDS)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            response = connection.getresponse()
            body = response.read(MAX_HEALTH_REPLY)
        except (OSError, http.client.HTTPException) as error:
            return json_reply(
                {"status": "down", "error": f"the {self._role.name} does not answer: {error}"}, 503
            )
        finally:
            connection.close()
        return Reply(body, response.status if response.status in (200, 503) else 502)

    def _event_log(self) -> Reply:
        for path in (self._places.firmware_log, self._places.tpm_log):
            if path.exists():
                with path.open("rb") as file:
                    return Reply(file.read(MAX_LOG), content_type="application/octet-stream")
        raise BadRequest(404, "the firmware left no event log")

    def _pcrs(self) -> Reply:
        if not self._places.pcrs.is_dir():
            raise BadRequest(404, "this VM has no TPM with SHA-384")
        return json_reply(
            {
                str(number): (self._places.pcrs / str(number)).read_text().strip().lower()
                for number in range(_PCRS)
            }
        )


def read_status(places: Places) -> tuple[VmStatus, Role]:
    """What ``prepare`` found. Raises ``VmError``."""
    try:
        data = places.status.read_bytes()
    except OSError as error:
        raise VmError(
            f"{places.status} cannot be read: {error.strerror}", hint="run prepare first"
        ) from error
    status = VmStatus.from_bytes(data)
    return status, ROLES[status.role]


async def start_status(places: Places, host: str | None = None, port: int = STATUS_PORT) -> asyncio.Server:
    """Serve the status port, on every address when ``host`` is absent. Raises ``VmError``."""
    status, role = read_status(places)
    handler = connection_handler(StatusPages(places, status, role).answer)
    try:
        return await asyncio.start_server(handler, host=host, port=port, limit=MAX_HEAD)
    except OSError as error:
        raise VmError(f"the status port {port} cannot be opened: {error.strerror}") from error


async def start_socket(places: Places) -> asyncio.Server:
    """Serve the guest agent's socket, for members of the group alone."""
    status, _ = read_status(places)
    agent = SocketAgent(status, QuoteSource(places.reports))
    server = await listen_on_socket(places.socket, connection_handler(agent.answer), mode=0o660)
    if os.geteuid() == 0:
        os.chown(places.socket, 0, GROUP)
    return server


async def serve(places: Places, *, with_socket: bool) -> None:
    """Serve until cancelled."""
    servers = [await start_status(places)]
    if with_socket:
        servers.append(await start_socket(places))
    log.info("agent_listens", port=STATUS_PORT, socket=str(places.socket) if with_socket else None)
    await asyncio.gather(*(server.serve_forever() for server in servers))
