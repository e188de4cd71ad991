# SPDX-License-Identifier: MIT
"""HTTP: JSON-RPC at ``/``, the block feed under ``/v0``, ``/status`` and ``/health``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import structlog
from aiohttp import web

from outlayer_localnet.blocks import Block
from outlayer_localnet.chain import UnknownBlockError
from outlayer_localnet.errors import ServeError
from outlayer_localnet.feed import block_document, chunk_document, shard_document
from outlayer_localnet.methods import Methods
from outlayer_localnet.node import Node
from outlayer_localnet.rpcerrors import RpcError, internal_error, parse_error

log = structlog.get_logger()

MAX_REQUEST_BYTES = 10 * 1024 * 1024
FEED_WAIT_SECONDS = 2.0
FEED_WAIT_HEIGHTS = 10


def _json(body: Any, status: int = 200) -> web.Response:
    return web.Response(
        body=json.dumps(body, separators=(",", ":")).encode(), status=status, content_type="application/json"
    )


class Server:
    """Serves one node on one address. ``port`` 0 takes a free one; ``url`` then says which."""

    def __init__(
        self, node: Node, host: str = "127.0.0.1", port: int = 0, *, wait_seconds: float = 10.0
    ) -> None:
        self._node = node
        self._host = host
        self._port = port
        self._wait_seconds = wait_seconds
        self._runner: web.AppRunner | None = None
        self.methods = Methods(node, f"{host}:{port}", wait_seconds=wait_seconds)
        self.url = ""

    async def start(self) -> None:
        """Listen; raises :class:`ServeError` if the address is taken."""
        app = web.Application(client_max_size=MAX_REQUEST_BYTES)
        app.router.add_post("/", self._rpc)
        app.router.add_get("/status", self._status)
        app.router.add_get("/health", self._health)
        app.router.add_get("/v0/first_block", self._first_block)
        app.router.add_get("/v0/last_block/{finality:final|optimistic}", self._last_block)
        app.router.add_get(r"/v0/{kind:block|block_opt}/{height:\d{1,18}}", self._block)
        app.router.add_get(r"/v0/block/{height:\d{1,18}}/{part:headers|chunk|shard}", self._block)
        app.router.add_get(r"/v0/block/{height:\d{1,18}}/{part:chunk|shard}/{shard:\d{1,4}}", self._block)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=2.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise ServeError(
                f"cannot listen on {self._host}:{self._port}: {error.strerror or error}",
                hint="Another program uses the port: stop it, or choose another one with --port.",
            ) from error
        address = self._runner.addresses[0]
        self.url = f"http://{address[0]}:{address[1]}"
        self.methods = Methods(self._node, f"{address[0]}:{address[1]}", wait_seconds=self._wait_seconds)

    async def stop(self) -> None:
        """Stop listening and finish what is being answered."""
        if self._runner is not None:
            await self._runner.cleanup()

    # -- JSON-RPC ----------------------------------------------------------------------------------

    async def _rpc(self, request: web.Request) -> web.Response:
        request_id: Any = None
        try:
            try:
                body = json.loads(await request.read())
            except (ValueError, RecursionError):
                raise parse_error("Parse error: the request is not JSON") from None
            if not isinstance(body, dict) or not isinstance(body.get("method"), str):
                raise parse_error("Parse error: not a JSON-RPC request")
            request_id = body.get("id")
            result = await self._call(body["method"], body.get("params"))
        except RpcError as error:
            return _json({"jsonrpc": "2.0", "error": error.body, "id": request_id}, error.status)
        return _json({"jsonrpc": "2.0", "result": result, "id": request_id})

    async def _call(self, method: str, params: Any) -> Any:
        try:
            return await self.methods.call(method, params)
        except (RpcError, asyncio.CancelledError):
            raise
        except Exception as error:
            log.exception("request failed", method=method)
            raise internal_error(f"{type(error).__name__} while answering {method}") from error

    async def _status(self, _: web.Request) -> web.Response:
        return _json(await self.methods.status(None))

    async def _health(self, _: web.Request) -> web.Response:
        if self._node.failure is not None:
            return _json({"error": "block production failed"}, 503)
        return _json(None)

    # -- block feed --------------------------------------------------------------------------------

    async def _first_block(self, _: web.Request) -> web.Response:
        raise web.HTTPFound(f"/v0/block/{self._node.chain.first_block().height}")

    async def _last_block(self, _: web.Request) -> web.Response:
        raise web.HTTPFound(f"/v0/block/{self._node.chain.head.height}")

    async def _block(self, request: web.Request) -> web.Response:
        height = int(request.match_info["height"])
        chain = self._node.chain
        if chain.head.height < height <= chain.head.height + FEED_WAIT_HEIGHTS:
            await self._node.wait_until(lambda: chain.head.height >= height, FEED_WAIT_SECONDS)
        if height > chain.head.height:
            return _json({"error": f"block {height} is not there yet", "type": "BLOCK_DOES_NOT_EXIST"}, 404)
        try:
            block = chain.block(height)
        except UnknownBlockError:
            return _json(None)  # a skipped height
        return _json(self._part(block, request.match_info))

    def _part(self, block: Block, match: Any) -> Any:
        part = match.get("part")
        if match.get("shard", "0") != "0":
            return None
        if part == "headers":
            return self.methods.block_view(block)
        documents: dict[str | None, Callable[[Methods, Any, Block], Any]] = {
            None: block_document,
            "chunk": chunk_document,
            "shard": shard_document,
        }
        return documents[part](self.methods, self._node.chain, block)
