# SPDX-License-Identifier: MIT
"""Talking to the supervisor: what it is told to run, and how it is asked.

Apart from the supervisor itself, so that a command which only asks need not import what a supervisor needs.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from outlayer_cli.errors import StackError

MAX_LINE_BYTES = 1 << 20


@dataclass(frozen=True)
class ServiceSpec:
    """What to run. ``stop_signal`` is the service's own polite one (PostgreSQL: SIGINT, others: SIGTERM)."""

    name: str
    argv: list[str]
    env: dict[str, str]
    log_file: str
    stop_signal: int = signal.SIGTERM
    fingerprint: str = ""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ServiceSpec:
        return cls(**value)


async def request(socket_path: Path, message: Mapping[str, Any], *, timeout: float = 60.0) -> dict[str, Any]:
    """Send one request to a supervisor. Raises ``StackError`` when none listens or it refuses."""
    try:
        reader, writer = await asyncio.open_unix_connection(socket_path, limit=MAX_LINE_BYTES)
    except OSError as error:
        raise StackError("the stack does not run", hint="start it with: outlayer up") from error
    try:
        writer.write(json.dumps(message).encode() + b"\n")
        await writer.drain()
        line = await asyncio.wait_for(reader.readline(), timeout)
    finally:
        writer.close()
    if not line:
        raise StackError("the supervisor ended while it was asked", hint="see logs/supervisor.log")
    reply: dict[str, Any] = json.loads(line)
    if "error" in reply:
        raise StackError(f"the supervisor refused: {reply['error']}")
    return reply


def start_message(spec: ServiceSpec) -> dict[str, Any]:
    return {"command": "start", "spec": asdict(spec)}
