# SPDX-License-Identifier: MIT
"""The guest agent of a simulated VM: the HTTP that dstack's agent speaks on its unix socket.

One socket per guest; a guest's measurements are fixed when the server starts, as RTMR3 is a constant
per measurement set (so ``EmitEvent`` is refused). Every reply says that it is simulated.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from outlayer_attestation.agent_http import (
    BadRequest,
    Reply,
    connection_handler,
    json_reply,
    listen_on_socket,
    report_data_of,
)
from outlayer_attestation.errors import GuestAgentError, PlatformError
from outlayer_attestation.measurements import Measurements
from outlayer_attestation.platform.machine import SoftwarePlatform

log = structlog.get_logger("outlayer.platform")

VERSION: Final = "0.5.4-simulated"
SIMULATED_HEADER: Final = {"X-Outlayer-Simulated": "true"}


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
            raise BadRequest(400, "RTMR3 of a simulated VM is constant; EmitEvent is not offered")
        raise BadRequest(404, f"the simulated guest agent has no method {method[:40]!r}")

    def _get_quote(self, parameters: dict[str, Any]) -> dict[str, Any]:
        report_data = report_data_of(parameters)
        quote = self._platform.quote(self._guest.measurements, report_data)
        return {
            "quote": quote.hex(),
            "event_log": "[]",
            "report_data": report_data.hex(),
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


async def start_agent(platform: SoftwarePlatform, guest: Guest) -> asyncio.Server:
    """Listen on the guest's socket (mode 0600). A socket that nobody answers any more is replaced."""
    agent = Agent(platform, guest)

    async def answer(method: str, parameters: dict[str, Any]) -> Reply:
        return json_reply(agent.answer(method, parameters))

    try:
        guest.socket.parent.mkdir(parents=True, exist_ok=True)
        server = await listen_on_socket(guest.socket, connection_handler(answer, SIMULATED_HEADER))
    except OSError as error:
        raise PlatformError(f"cannot listen on {guest.socket}: {error}") from error
    except GuestAgentError as error:
        raise PlatformError(str(error), hint=error.hint) from error
    log.info("guest_agent_listens", guest=guest.name, socket=str(guest.socket), simulated=True)
    return server
