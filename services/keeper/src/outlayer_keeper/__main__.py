# SPDX-License-Identifier: MIT
"""``python -m outlayer_keeper``: a keeper with settings from the environment. SIGTERM or SIGINT stops it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import structlog

from outlayer_keeper.config import Config, from_environment
from outlayer_keeper.errors import KeeperError
from outlayer_keeper.service import Keeper
from outlayer_near.errors import NearError


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
    await Keeper(config).run(stop)


def main() -> int:
    configure_logs()
    try:
        asyncio.run(serve(from_environment(os.environ)))
    except (KeeperError, NearError) as error:
        structlog.get_logger("outlayer_keeper").error("keeper_failed", error=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
