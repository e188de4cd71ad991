# SPDX-License-Identifier: MIT
"""``python -m outlayer_attestation.vm``: the agent in a VM (``prepare``, ``wait``, ``serve``) or container (``run``).

``run`` starts the others itself: ``watch FD`` and ``keep PID FD``.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

import structlog

from outlayer_attestation.errors import AttestationError
from outlayer_attestation.vm import container
from outlayer_attestation.vm.places import Places
from outlayer_attestation.vm.prepare import NOT_CONFIDENTIAL, VmStatus, prepare_vm
from outlayer_attestation.vm.serve import read_status, serve, wait_for_clock, watch


def announcement(status: VmStatus) -> str:
    """What the console says."""
    lines = [f"outlayer-{status.role}, {status.variant} image, configuration {status.config_sha256}"]
    lines += [f"RTMR3 {event.name} {event.payload or '-'} {event.digest}" for event in status.events]
    if status.variant != "production":
        lines.append("DEVELOPMENT IMAGE: no production policy accepts its measurements")
    if not status.tdx:
        lines.append(NOT_CONFIDENTIAL)
    return "".join(f"{line}\n" for line in lines)


def configure_logs() -> None:
    """JSON lines on stderr."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(20),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def _are_numbers(*words: str) -> bool:
    return all(word.isascii() and word.isdigit() for word in words)


def main(words: list[str] | None = None) -> int:
    """Exit code 0 done, 1 the VM must not serve, 2 usage."""
    command = (sys.argv[1:] if words is None else words) or [""]
    places = Places()
    configure_logs()
    try:
        match command:
            case ["prepare"]:
                sys.stdout.write(announcement(prepare_vm(places, time.time())))
            case ["wait"]:
                asyncio.run(wait_for_clock(places))
                sys.stdout.write("the time servers of the configuration confirmed the clock\n")
            case ["serve"]:
                asyncio.run(serve(places))
            case ["watch", descriptor] if _are_numbers(descriptor):
                asyncio.run(watch(places, lambda: container.say_confirmed(int(descriptor))))
            case ["run"]:
                container.run(places, os.environ, time.time())
            case ["keep", watch_pid, confirmed] if _are_numbers(watch_pid, confirmed):
                _, role = read_status(places)
                return container.keep(role, container.Watch(int(watch_pid), int(confirmed)), os.environ)
            case _:
                sys.stderr.write(f"{__doc__}\n")
                return 2
    except AttestationError as error:
        sys.stderr.write(f"outlayer: {error}\n" + (f"  hint: {error.hint}\n" if error.hint else ""))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
