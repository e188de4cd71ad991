# SPDX-License-Identifier: MIT
"""JSON lines on stderr. No payment key, token, URL with a password or guest data is ever an event's field."""

from __future__ import annotations

import logging
import os
import sys

import structlog


def configure(level: str | None = None) -> None:
    """Set up structlog; LOG_LEVEL decides what is shown."""
    wanted = getattr(logging, (level or os.environ.get("LOG_LEVEL", "info")).upper(), logging.INFO)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(wanted),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
