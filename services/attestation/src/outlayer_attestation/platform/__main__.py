# SPDX-License-Identifier: MIT
"""``python -m outlayer_attestation.platform init | collateral | serve``."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path

import structlog

from outlayer_attestation.errors import AttestationError
from outlayer_attestation.platform.agent import Guest, start_agent
from outlayer_attestation.platform.machine import SoftwarePlatform


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m outlayer_attestation.platform",
        description="The software TDX platform. Its quotes are SIMULATED: they vouch for nothing.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    init = commands.add_parser("init", help="make root, PCK chain and keys; does nothing when they exist")
    collateral = commands.add_parser("collateral", help="write fresh collateral, valid for 30 days")
    collateral.add_argument("--out", type=Path, required=True)
    serve = commands.add_parser("serve", help="answer as the dstack guest agent of simulated VMs")
    serve.add_argument("--guest", action="append", required=True, metavar="NAME=SOCKET:MEASUREMENTS.json")
    for command in (init, collateral, serve):
        command.add_argument("--state", type=Path, required=True, help="folder of the keys (mode 0700)")
    return parser.parse_args(arguments)


async def _serve(platform: SoftwarePlatform, guests: list[Guest]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    servers = [await start_agent(platform, guest) for guest in guests]
    await stop.wait()
    for server, guest in zip(servers, guests, strict=True):
        server.close()
        guest.socket.unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 done, 2 error."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    options = _arguments(arguments)
    try:
        if options.command == "init":
            sys.stdout.write(json.dumps(SoftwarePlatform.init(options.state).describe()) + "\n")
        elif options.command == "collateral":
            SoftwarePlatform.load(options.state).publish_collateral(options.state, options.out)
        else:
            guests = [Guest.parse(text) for text in options.guest]
            asyncio.run(_serve(SoftwarePlatform.load(options.state), guests))
    except (AttestationError, OSError) as error:
        sys.stderr.write(f"error: {error}\n{getattr(error, 'hint', '')}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
