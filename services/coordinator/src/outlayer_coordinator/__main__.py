# SPDX-License-Identifier: MIT
"""``python -m outlayer_coordinator``: serve until SIGTERM or SIGINT, then finish what is under way."""

from __future__ import annotations

import os
import socket
import sys

import uvicorn

from outlayer_coordinator.app import create_app
from outlayer_coordinator.config import Settings
from outlayer_coordinator.errors import CoordinatorError
from outlayer_coordinator.logs import configure

_GRACE_SECONDS = 10


class _Server(uvicorn.Server):
    """Ends long polls and waiting calls first, so that a shutdown does not wait for them."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        context = getattr(getattr(self.config.app, "state", None), "context", None)
        if context is not None:
            context.stop_waiting()
        await super().shutdown(sockets)


def main() -> int:
    """Exit code 0 after a clean stop, 1 when it cannot start."""
    configure()
    try:
        settings = Settings.from_env(os.environ)
    except CoordinatorError as error:
        sys.stderr.write(f"{error}\n  hint: {error.hint}\n")
        return 1
    server = _Server(
        uvicorn.Config(
            create_app(settings),
            host=settings.host,
            port=settings.port,
            access_log=False,
            log_level="warning",
            lifespan="on",
            http="httptools",
            loop="uvloop",
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
    )
    server.run()
    return 0 if server.started else 1


if __name__ == "__main__":
    raise SystemExit(main())
