# SPDX-License-Identifier: MIT
"""Code is fetched by hash, and nothing leads the worker into a private network."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from outlayer_attestation.vm.addresses import NOT_PUBLIC_V4, NOT_PUBLIC_V6
from outlayer_worker import wasm_source
from outlayer_worker.config import from_environment
from outlayer_worker.errors import ConfigError, JobError
from outlayer_worker.wasm_source import WasmSource, is_public

SETTINGS = {
    "COORDINATOR_URL": "https://coordinator.example",
    "INIT_ACCOUNT_ID": "worker.example.testnet",
    "INIT_ACCOUNT_KEY_FILE": "/nowhere/key",
    "NEAR_NETWORK_ID": "testnet",
    "NEAR_RPC_URL": "https://rpc.example",
    "OPERATOR_ACCOUNT_ID": "register.example.testnet",
    "OUTLAYER_CONTRACT_ID": "outlayer.example.testnet",
    "WORKER_STATE_DIR": "/nowhere",
    "WORKER_TOKEN_FILE": "/nowhere/token",
}
CODE = b"\0asm\x01\0\0\0 some code"
SHA = hashlib.sha256(CODE).hexdigest()


@dataclass
class Server:
    """Answers with what is in ``pages``: bytes, or a redirect's target, or a status."""

    port: int = 0
    pages: dict[str, bytes | str | int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        page = self.pages.get(request.path, 404)
        if isinstance(page, bytes):
            return web.Response(body=page)
        if isinstance(page, str):
            return web.Response(status=302, headers={"Location": page})
        return web.Response(status=page)


async def _serve() -> tuple[Server, web.AppRunner]:
    server = Server()
    app = web.Application()
    app.router.add_get("/{tail:.*}", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.port = runner.addresses[0][1]
    return server, runner


@pytest.fixture
async def coordinator() -> AsyncIterator[Server]:
    server, runner = await _serve()
    yield server
    await runner.cleanup()


@pytest.fixture
async def stranger() -> AsyncIterator[Server]:
    server, runner = await _serve()
    yield server
    await runner.cleanup()


@pytest.fixture
async def source(coordinator: Server) -> AsyncIterator[WasmSource]:
    async def resolve(host: str, port: int) -> list[str]:
        return {"rebinding.example": ["93.184.216.34", "127.0.0.1"], "inside.example": ["127.0.0.1"]}[host]

    source = WasmSource(coordinator.url, resolve=resolve)
    yield source
    await source.close()


async def test_the_coordinators_origin_may_be_private(source: WasmSource, coordinator: Server) -> None:
    coordinator.pages["/wasm/x"] = CODE
    assert await source.fetch(f"{coordinator.url}/wasm/x", SHA) == CODE


async def test_bytes_with_another_hash_are_refused(source: WasmSource, coordinator: Server) -> None:
    coordinator.pages["/wasm/x"] = CODE + b"!"
    with pytest.raises(JobError, match="SHA-256") as caught:
        await source.fetch(f"{coordinator.url}/wasm/x", SHA)
    assert caught.value.category == "wasm_unavailable"


@pytest.mark.parametrize(
    "target",
    ["http://169.254.169.254/x", "http://10.0.0.1/", "http://[::1]/", "http://inside.example/", "ftp://x/"],
)
async def test_r46_a_redirect_to_a_private_address_is_refused(
    source: WasmSource, coordinator: Server, target: str
) -> None:
    coordinator.pages["/wasm/x"] = target
    with pytest.raises(JobError, match=r"public|http"):
        await source.fetch(f"{coordinator.url}/wasm/x", SHA)


@pytest.mark.parametrize("host", ["inside.example", "rebinding.example"])
async def test_r46_a_name_that_resolves_to_loopback_is_refused(
    source: WasmSource, stranger: Server, host: str
) -> None:
    with pytest.raises(JobError, match="not a public address"):
        await source.fetch(f"http://{host}:{stranger.port}/code.wasm", SHA)
    assert not stranger.asked


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "127.1", "2130706433", "0x7f000001"]
)
async def test_r46_another_service_on_this_machine_is_refused(
    source: WasmSource, stranger: Server, host: str
) -> None:
    with pytest.raises(JobError, match="not a public address"):
        await source.fetch(f"http://{host}:{stranger.port}/code.wasm", SHA)
    assert not stranger.asked


@pytest.mark.parametrize(
    "url", ["", "file:///etc/passwd", "http://", "http://[", "gopher://x", "http://u:p@example.com/x"]
)
async def test_an_address_that_is_none_is_refused(source: WasmSource, url: str) -> None:
    with pytest.raises(JobError):
        await source.fetch(url, SHA)


async def test_code_that_is_too_large_is_refused(
    source: WasmSource, coordinator: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wasm_source, "MAX_BYTES", 1000)
    coordinator.pages["/wasm/x"] = bytes(1001)
    with pytest.raises(JobError, match="larger than 1000"):
        await source.fetch(f"{coordinator.url}/wasm/x", SHA)


async def test_endless_redirects_end(source: WasmSource, coordinator: Server) -> None:
    coordinator.pages["/a"] = "/a"
    with pytest.raises(JobError, match="redirects"):
        await source.fetch(f"{coordinator.url}/a", SHA)
    assert len(coordinator.asked) == wasm_source.MAX_REDIRECTS + 1


async def test_a_server_error_is_tried_again(
    source: WasmSource, coordinator: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wasm_source, "FIRST_WAIT_SECONDS", 0.01)
    coordinator.pages["/wasm/x"] = 503
    with pytest.raises(JobError, match="does not answer"):
        await source.fetch(f"{coordinator.url}/wasm/x", SHA)
    assert len(coordinator.asked) == wasm_source.ATTEMPTS


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "224.0.0.1", "255.255.255.255", "192.0.2.1", "240.0.0.1", "::1", "::", "fe80::1", "fe80::1%eth0",
        "fd00::1", "ff02::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "fec0::1",
        "2001:db8::1", "2001:0:53aa:64c:0:0:0:1", "not an address", "", "168.63.129.16", "192.0.0.8", "192.0.0.192",
        "64:ff9b:1::1", "::ffff:1.1.1.1", "2606:4700::1111%eth0", "3fff::1", "5f00::1", "192.88.99.1", "1.1.1.1%x",
    ],
)  # fmt: skip
def test_r46_private_addresses_are_told_apart(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "2a00:1450::1", "168.63.129.15"]
)
def test_public_addresses_are_told_apart(address: str) -> None:
    assert is_public(address)


@given(
    st.ip_addresses(v=4, network="10.0.0.0/8")
    | st.ip_addresses(v=4, network="169.254.0.0/16")
    | st.ip_addresses(v=4, network="127.0.0.0/8")
)
def test_r46_no_private_ipv4_address_passes_in_any_form(address: object) -> None:
    for form in (f"{address}", f"::ffff:{address}", f"64:ff9b::{address}"):
        assert not is_public(form)


@given(st.ip_addresses())
def test_r46_the_worker_lets_through_what_the_packet_filter_lets_through(address: object) -> None:
    def within(ranges: tuple[str, ...]) -> bool:
        return any(address in ipaddress.ip_network(text) for text in ranges)

    assert is_public(str(address)) == (not within(NOT_PUBLIC_V4) and not within(NOT_PUBLIC_V6))


@pytest.mark.parametrize("name", ["NEAR_RPC_URL", "COORDINATOR_URL", "NEAR_BLOCK_FEED_URL"])
@pytest.mark.parametrize(
    "url", ["http://rpc.example", "http://1.1.1.1:3030", "http://[2606:4700::1111]", "HTTP://rpc.example"]
)
def test_plain_http_to_another_network_is_no_setting(name: str, url: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is plain http") as caught:
        from_environment({**SETTINGS, name: url})
    assert "https" in caught.value.hint


@pytest.mark.parametrize(
    "url", ["https://rpc.example", "http://127.0.0.1:3030", "http://localhost", "http://10.0.0.5:3030"]
)
def test_https_and_plain_http_within_a_private_network_are_settings(url: str) -> None:
    assert from_environment({**SETTINGS, "NEAR_RPC_URL": url}).near_rpc_url == url
