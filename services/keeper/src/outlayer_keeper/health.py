# SPDX-License-Identifier: MIT
"""Health, readiness and metrics over HTTP, on loopback."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest


async def serve(
    port: int, registry: CollectorRegistry, conditions: Callable[[], dict[str, bool]]
) -> web.AppRunner:
    """Serve until ``cleanup`` of the returned runner. Ready only when every named condition holds."""

    async def health(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def ready(_: web.Request) -> web.Response:
        found = conditions()
        good = all(found.values())
        return web.json_response({"ready": good, **found}, status=200 if good else 503)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), content_type="text/plain")

    app = web.Application()
    app.add_routes(
        [web.get("/health", health), web.get("/health/ready", ready), web.get("/metrics", metrics)]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner
