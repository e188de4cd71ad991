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
from outlayer_attestation.measure.runtime import MAX_CONFIGURATION
from outlayer_attestation.vm import rendering
from outlayer_attestation.vm.chrony import QUERY_SECONDS, query
from outlayer_attestation.vm.configuration import VmConfiguration
from outlayer_attestation.vm.files import read_bounded, read_line_bounded
from outlayer_attestation.vm.places import Places
from outlayer_attestation.vm.prepare import ClockStatus, VmStatus, dstack_event_log
from outlayer_attestation.vm.quotes import QuoteSource
from outlayer_attestation.vm.roles import GROUP, ROLES, STATUS_PORT, Role
from outlayer_attestation.vm.watch import (
    Clock,
    ComparedClock,
    SteeredClock,
    confirm,
    keep_looking,
    require_confirmed,
    this_instant,
)

log = structlog.get_logger("outlayer.vm")

VERSION: Final = "outlayer-1"
HEALTH_SECONDS: Final = 5.0
MAX_HEALTH_REPLY: Final = 64 * 1024
MAX_LOG: Final = 16 * 1024 * 1024
_MAX_STATUS: Final = 64 * 1024
_MAX_PCR: Final = 4096
_PCRS: Final = 24


class SocketAgent:
    """The methods of the guest agent's socket."""

    def __init__(self, status: VmStatus, quotes: QuoteSource, clock: Clock) -> None:
        self._status = status
        self._quotes = quotes
        self._clock = clock

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
        require_clock(self._clock)
        quote = await asyncio.to_thread(self._quotes.quote, report_data)
        return json_reply(
            {
                "quote": quote.hex(),
                "event_log": json.dumps(dstack_event_log(self._status)),
                "report_data": report_data.hex(),
                "vm_config": "",
            }
        )


def require_clock(clock: Clock) -> None:
    """Raise ``VmError`` while the clock does not count: what a quote vouches for would have a time of the host."""
    if found := clock.objection():
        raise VmError(f"there are no quotes: {found}", hint="see /status of the VM")


def clock_status(clock: Clock) -> ClockStatus:
    """What the status page says of the clock."""
    found, last = clock.objection(), clock.confirmed()
    return ClockStatus(
        confirmed=found is None,
        objection=found,
        difference_seconds=None if last is None else last.difference,
        compared_at=None if last is None else last.at.realtime,
    )


class StatusPages:
    """The pages of the status port: ``/health``, ``/status``, ``/config``, ``/event-log``, ``/pcrs``."""

    def __init__(self, places: Places, status: VmStatus, role: Role, clock: Clock) -> None:
        self._places = places
        self._clock = clock
        self._status = status
        self._role = role
        self._pages: dict[str, Callable[[], Reply]] = {
            "health": self._health,
            "status": self._status_page,
            "config": lambda: Reply(
                read_bounded(self._places.configuration, MAX_CONFIGURATION, "the configuration")
            ),
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

    def _status_page(self) -> Reply:
        status = self._status.model_copy(update={"clock": clock_status(self._clock)})
        return Reply(status.to_text().encode())

    def _health(self) -> Reply:
        """The service's own health check; 503 while it does not answer, or while the clock does not count."""
        if found := self._clock.objection():
            return json_reply({"status": "clock", "error": found}, 503)
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
                log_bytes = read_bounded(path, MAX_LOG, "the event log")
                return Reply(log_bytes, content_type="application/octet-stream")
        raise BadRequest(404, "the firmware left no event log")

    def _pcrs(self) -> Reply:
        if not self._places.pcrs.is_dir():
            raise BadRequest(404, "this VM has no TPM with SHA-384")
        return json_reply(
            {
                str(number): read_line_bounded(
                    self._places.pcrs / str(number), _MAX_PCR, f"PCR {number}"
                ).lower()
                for number in range(_PCRS)
            }
        )


def read_status(places: Places) -> tuple[VmStatus, Role]:
    """What ``prepare`` found. Raises ``VmError``."""
    try:
        data = read_bounded(places.status, _MAX_STATUS, "the status")
    except OSError as error:
        raise VmError(
            f"{places.status} cannot be read: {error.strerror}", hint="run prepare first"
        ) from error
    status = VmStatus.from_bytes(data)
    return status, ROLES[status.role]


async def start_status(
    places: Places, clock: Clock, host: str | None = None, port: int = STATUS_PORT
) -> asyncio.Server:
    """Serve the status port, on every address when ``host`` is absent. Raises ``VmError``."""
    status, role = read_status(places)
    handler = connection_handler(StatusPages(places, status, role, clock).answer)
    try:
        return await asyncio.start_server(handler, host=host, port=port, limit=MAX_HEAD)
    except OSError as error:
        raise VmError(f"the status port {port} cannot be opened: {error.strerror}") from error


async def start_socket(places: Places, clock: Clock) -> asyncio.Server:
    """Serve the guest agent's socket, for members of the group alone."""
    status, _ = read_status(places)
    agent = SocketAgent(status, QuoteSource(places.reports), clock)
    server = await listen_on_socket(places.socket, connection_handler(agent.answer), mode=0o660)
    if os.geteuid() == 0:
        os.chown(places.socket, 0, GROUP)
    return server


async def serve(places: Places) -> None:
    """In a VM: answer for quotes and status until cancelled; no quotes while the clock does not count."""
    clock = SteeredClock()
    servers = [await start_status(places, clock), await start_socket(places, clock)]
    log.info("agent_listens", port=STATUS_PORT, socket=str(places.socket))
    await asyncio.gather(keep_looking(clock), *(server.serve_forever() for server in servers))


async def watch(places: Places, confirmed: Callable[[], None]) -> None:
    """In a container: answer for status, and end when the clock does not count.

    Args:
        confirmed: called once, when the time servers confirmed the clock.

    Raises:
        VmError: they did not in time, or object now; whoever started the service has to stop it.
    """
    configuration = read_configuration(places)
    clock = compared_clock(configuration)
    server = await start_status(places, clock)
    async with server:
        await confirm(clock, configuration.time.wait_seconds)
        confirmed()
        log.info("clock_confirmed", port=STATUS_PORT)
        await require_confirmed(clock)


async def wait_for_clock(places: Places) -> None:
    """In a VM: return once its chronyd is synchronised. Raises ``VmError`` when that takes too long."""
    await confirm(SteeredClock(), read_configuration(places).time.wait_seconds)


def read_configuration(places: Places) -> VmConfiguration:
    """The configuration as it was measured. Raises ``VmError``."""
    data = read_bounded(places.configuration, MAX_CONFIGURATION, "the configuration")
    return VmConfiguration.from_bytes(data)


def compared_clock(configuration: VmConfiguration) -> ComparedClock:
    """The clock of a container, compared with the servers of its configuration."""
    directives = rendering.time_query(configuration)
    seconds = min(QUERY_SECONDS, configuration.time.wait_seconds)
    return ComparedClock(lambda: query(directives, seconds, this_instant))
