# SPDX-License-Identifier: MIT
"""Health, readiness and metrics of a worker over HTTP, on loopback."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import generate_latest

from outlayer_worker.metrics import Metrics

Readiness = Callable[[], dict[str, bool]]


async def serve(port: int, metrics: Metrics, readiness: Readiness) -> web.AppRunner:
    """Serve until ``cleanup`` of the returned runner. Ready only when every named condition holds."""

    async def health(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def ready(_: web.Request) -> web.Response:
        conditions = readiness()
        return web.json_response(
            {"ready": all(conditions.values()), **conditions}, status=200 if all(conditions.values()) else 503
        )

    async def metrics_page(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry), content_type="text/plain")

    app = web.Application()
    app.add_routes(
        [web.get("/health", health), web.get("/health/ready", ready), web.get("/metrics", metrics_page)]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner
