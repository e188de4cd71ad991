# SPDX-License-Identifier: MIT
"""A scripted node and block feed over real HTTP."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web


class Refusal(Exception):  # noqa: N818 - it is what the node says, not an error of the test
    """Raised by a handler: the node answers with this error."""

    def __init__(self, name: str, data: Any = "refused", status: int = 200) -> None:
        super().__init__(name)
        self.name, self.data, self.status = name, data, status


@dataclass
class Scripted:
    """``methods`` answer JSON-RPC, ``feed`` answers GET paths; ``faults`` come first, one per request.

    A fault is an HTTP status, "garbage" (a text that is not JSON), "drop" (the connection ends), "list" (JSON of
    another form), "deep" (JSON nested too deeply) or "neither" (a response without result and error).
    """

    url: str = ""
    methods: dict[str, Callable[[Any], Any]] = field(default_factory=dict)
    feed: Callable[[str], Any] | None = None
    faults: deque[Any] = field(default_factory=deque)
    asked: list[tuple[str, Any]] = field(default_factory=list)

    def count(self, method: str) -> int:
        return sum(name == method for name, _ in self.asked)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        fault = self.faults.popleft() if self.faults else None
        if fault == "drop":
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if fault is not None:
            texts = {"garbage": "<html>", "list": "[]", "neither": "{}", "deep": "[" * 200_000}
            if fault in texts:
                return web.Response(text=texts[fault])
            return web.Response(status=fault, text="trouble")
        if request.method == "GET":
            return self._answer_feed(request.path)
        message = await request.json()
        method, params = message["method"], message["params"]
        self.asked.append((method, params))
        try:
            result = self.methods[method](params)
        except Refusal as refusal:
            error = {
                "name": "HANDLER_ERROR",
                "cause": {"name": refusal.name, "info": {}},
                "code": -32000,
                "message": "Server error",
                "data": refusal.data,
            }
            return web.json_response(
                {"jsonrpc": "2.0", "id": message["id"], "error": error}, status=refusal.status
            )
        return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": result})

    def _answer_feed(self, path: str) -> web.Response:
        assert self.feed is not None
        self.asked.append(("GET", path))
        found = self.feed(path)
        if isinstance(found, web.Response):
            return found
        return web.Response(text=json.dumps(found), content_type="application/json")


@pytest.fixture
async def scripted() -> AsyncIterator[Callable[[], Any]]:
    """Makes scripted servers, each on a free port."""
    runners: list[web.AppRunner] = []

    async def start() -> Scripted:
        server = Scripted()
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", server.answer)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        server.url = f"http://127.0.0.1:{port}"
        return server

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def node(scripted: Callable[[], Any]) -> Scripted:
    server: Scripted = await scripted()
    return server


@pytest.fixture
def refusal() -> type[Refusal]:
    return Refusal
