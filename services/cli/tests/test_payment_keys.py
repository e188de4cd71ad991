# SPDX-License-Identifier: MIT
"""Payment keys stay with the client, in files that only their owner can read."""

from __future__ import annotations

import hashlib
import http.server
import json
import stat
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from outlayer_cli.errors import UsageError
from outlayer_cli.layout import Stack
from outlayer_cli.payment_keys import PaymentKey, choose_key, first_key_file, header_command, key_file


def test_the_service_learns_the_hash_of_the_text_and_never_the_secret() -> None:
    key = PaymentKey.generate("alice.test", 1)
    assert len(key.secret) == 64
    assert key.key_hash == hashlib.sha256(key.secret.encode()).hexdigest()
    assert key.secret not in repr(key)


def test_a_key_file_is_private_and_read_back(tmp_path: Path) -> None:
    key = PaymentKey.generate("alice.test", 3)
    path = tmp_path / "keys" / "k.json"
    key.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert PaymentKey.load(path) == key


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"owner":"a"}', '{"owner":"a","nonce":1,"secret":"b","x":1}']
)
def test_what_is_no_key_file_is_a_clear_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "k.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"k\.json"):
        PaymentKey.load(path)


def test_the_developers_lowest_key_is_taken_by_default(stack: Stack) -> None:
    for owner, nonce in (("alice.test", 10), ("alice.test", 2), ("a.alice.test", 1)):
        PaymentKey.generate(owner, nonce).save(key_file(stack, owner, nonce))
    assert first_key_file(stack) == key_file(stack, "alice.test", 2)
    assert choose_key(stack, None).nonce == 2


def test_without_a_key_the_error_says_how_to_make_one(stack: Stack) -> None:
    with pytest.raises(UsageError) as caught:
        choose_key(stack, None)
    assert "keys create" in caught.value.hint


@pytest.fixture
def echo_server() -> Iterator[tuple[int, list[tuple[str, bytes]]]]:
    seen: list[tuple[str, bytes]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append((self.headers["X-Payment-Key"], body))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            return

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1], seen
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_pasted_curl_line_sends_the_key_and_shows_no_secret(
    tmp_path: Path, stack: Stack, echo_server: tuple[int, list[tuple[str, bytes]]]
) -> None:
    port, seen = echo_server
    stack = replace(stack, coordinator_url=f"http://127.0.0.1:{port}")
    key = PaymentKey.generate("alice.test", 1)
    path = tmp_path / "a folder" / "k.json"
    key.save(path)
    line = header_command(stack, path, "alice.test/echo", '{"hello":"world"}')
    assert key.secret not in line
    subprocess.run(["bash", "-c", line], check=True, capture_output=True)
    header, body = seen[0]
    assert header == key.header
    assert json.loads(body) == {"input": {"hello": "world"}}
