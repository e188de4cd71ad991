# SPDX-License-Identifier: MIT
"""The FastAPI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from outlayer_coordinator import routes_admin, routes_public, routes_worker
from outlayer_coordinator.chain import ChainViews
from outlayer_coordinator.config import Settings
from outlayer_coordinator.context import Context
from outlayer_coordinator.http import Boundary, error_response, json_response


def create_app(settings: Settings, chain: ChainViews | None = None) -> FastAPI:
    """The application; it opens and closes what it uses in its lifespan. ``chain`` replaces JSON-RPC (tests)."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        context = app.state.context = await Context.open(settings, chain)
        try:
            yield
        finally:
            await context.close()

    app = FastAPI(
        title="OutLayer",
        version="0.1.0",
        description="Run code off chain in a TEE, and prove it.",
        lifespan=lifespan,
        exception_handlers={HTTPException: _http_error},
    )
    app.router.routes.extend(
        routes_worker.ROUTES
    )  # first: routes are tried in order, and these are the busiest
    app.include_router(routes_public.router)
    app.include_router(routes_admin.router)
    # browsers may call the public API; what is not public needs a bearer token, which no browser sends by itself
    app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(Boundary)
    return app


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 404 and "endpoint" not in request.scope:
        return json_response({"error": "not_found", "message": "Unknown endpoint"}, 404)
    detail = error.detail if isinstance(error, HTTPException) else "Internal error"
    return error_response(status, str(detail))
