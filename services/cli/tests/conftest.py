# SPDX-License-Identifier: MIT
"""Shared by the tests of the command line."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from outlayer_cli import layout
from outlayer_cli.layout import Stack
from outlayer_cli.payment_keys import PaymentKey, key_file


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """A description of a stack in a temporary folder; nothing runs."""
    return Stack(
        format=layout.STACK_FORMAT,
        simulated=True,
        network_id="localnet",
        coordinator_url="http://127.0.0.1:1",
        rpc_url="http://127.0.0.1:2",
        feed_url="http://127.0.0.1:2",
        contract_id="outlayer.test",
        operator_id="worker.outlayer.test",
        init_account_id="init.outlayer.test",
        developer_id="alice.test",
        caller_id="bob.test",
        ports={"coordinator": 1},
        credentials_dir=str(tmp_path / "credentials"),
        admin_token_file=str(tmp_path / "credentials" / "admin.token"),
        root_ca_file=str(tmp_path / "tdx" / "root_ca.der"),
        policy_file=str(tmp_path / "policy" / "worker.json"),
        policy_key_file=str(tmp_path / "policy" / "maintainer.pub"),
        workers=2,
    )


@dataclass(frozen=True)
class Request:
    """One request that a server got."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Reply:
    """What a server answers: ``body`` bytes, or a generator of parts that never ends."""

    body: Any = b"{}"
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})


class AnsweringServer:
    """A server on loopback that answers every request as the test says, and remembers what it got."""

    def __init__(self) -> None:
        self.answer: Callable[[Request], Reply] = lambda _: Reply()
        self.requests: list[Request] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def _respond(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                headers = {name.lower(): value for name, value in self.headers.items()}
                got = Request(self.command, self.path, headers, self.rfile.read(size))
                owner.requests.append(got)
                reply = owner.answer(got)
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                parts = [reply.body] if isinstance(reply.body, bytes) else reply.body
                if isinstance(reply.body, bytes):
                    self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                try:
                    for part in parts:
                        self.wfile.write(part)
                        self.wfile.flush()
                except OSError:
                    return  # the client has had enough

            do_GET = do_POST = do_PUT = _respond  # noqa: N815

            def log_message(self, *_: Any) -> None: ...

        return Handler


@pytest.fixture(scope="module")
def server() -> Iterator[AnsweringServer]:
    made = AnsweringServer()
    yield made
    made.close()


@pytest.fixture
def served(stack: Stack, server: AnsweringServer, tmp_path: Path) -> Path:
    """The state of a stack whose coordinator and node are the answering server, with one payment key."""
    server.requests.clear()
    found = replace(stack, coordinator_url=server.url, rpc_url=server.url, feed_url=server.url)
    found.save(tmp_path)
    PaymentKey.generate("alice.test", 1).save(key_file(found, "alice.test", 1))
    return tmp_path
