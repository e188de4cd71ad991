# SPDX-License-Identifier: MIT
"""``python -m outlayer_worker``: a worker with settings from the environment. SIGTERM or SIGINT stops it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import structlog
import uvloop

from outlayer_near.errors import NearError
from outlayer_worker.config import Config, from_environment
from outlayer_worker.errors import WorkerError
from outlayer_worker.service import Worker


def configure_logs() -> None:
    """JSON lines on stderr."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(20),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


async def serve(config: Config) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await Worker(config).run(stop)


def main() -> int:
    configure_logs()
    log = structlog.get_logger("outlayer_worker")
    status = 0
    try:
        uvloop.run(serve(from_environment(os.environ)))
    except* (WorkerError, NearError) as group:
        for error in group.exceptions:
            log.error("worker_failed", error=str(error))  # noqa: TRY400 - a message, not a fault
        status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
