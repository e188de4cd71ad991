# SPDX-License-Identifier: MIT
"""The agent in a VM whose kernel files are a folder: what it measures, writes, refuses and answers."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from outlayer_attestation.agent_http import BadRequest, report_data_of
from outlayer_attestation.dstack import GuestAgent
from outlayer_attestation.errors import GuestAgentError, VmError
from outlayer_attestation.measure import eventlog, explain
from outlayer_attestation.measure.registers import extend
from outlayer_attestation.measure.runtime import role_events, runtime_events
from outlayer_attestation.measure.shape import CONFIGURATION_FILE, SECRETS_FILE
from outlayer_attestation.vm import prepare as preparation
from outlayer_attestation.vm.__main__ import announcement
from outlayer_attestation.vm.container import given_to_container, service_environment
from outlayer_attestation.vm.places import Places
from outlayer_attestation.vm.prepare import VmStatus, dstack_event_log, prepare_vm, status_of, write_files
from outlayer_attestation.vm.quotes import QuoteSource
from outlayer_attestation.vm.rtmr import Register
from outlayer_attestation.vm.serve import start_socket, start_status

from .documents import SECRETS, document, encoded

EPOCH = 1_790_000_000
NOW = EPOCH + 1000.0


class FakeRegister:
    """The kernel's file: a write of 48 bytes extends what a read gives."""

    def __init__(self) -> None:
        self.digests: list[bytes] = []

    def read(self, register: Register) -> bytes:
        return extend(self.digests)

    def extend(self, register: Register, digest: bytes) -> None:
        assert len(digest) == 48
        self.digests.append(digest)


def make_places(
    root: Path, role: str = "worker", *, tdx: bool = False, variant: str = "production"
) -> Places:
    places = Places(root)
    image = {"format": "outlayer/image/v1", "role": role, "variant": variant, "source_date_epoch": EPOCH}
    for path, text in {
        root / "usr/lib/outlayer/image.json": json.dumps(image),
        root / "proc/cpuinfo": f"processor : 0\nflags\t\t: fpu {'tdx_guest' if tdx else ''} nx\n",
        places.host_file(CONFIGURATION_FILE): json.dumps(document(role)),
        places.host_file(SECRETS_FILE): json.dumps(SECRETS[role]),
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "run").mkdir()
    return places


@pytest.fixture
def owned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of an ordinary user cannot give files away; as root neither should they."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> FakeRegister:
    fake = FakeRegister()
    monkeypatch.setattr(Register, "read", lambda self: fake.read(self))
    monkeypatch.setattr(Register, "extend", lambda self, digest: fake.extend(self, digest))
    return fake


@pytest.mark.usefixtures("owned")
def test_role_config_and_ready_are_extended_in_this_order(tmp_path: Path, register: FakeRegister) -> None:
    places = make_places(tmp_path, tdx=True)
    status = prepare_vm(places, NOW)
    events = role_events("worker", places.host_file(CONFIGURATION_FILE).read_bytes())
    assert register.digests == [event.digest_v2() for event in events]
    assert [event.name for event in status.events] == ["role", "config", "ready"]
    assert status.tdx
    assert status.rtmr3 == extend(register.digests).hex()


@pytest.mark.usefixtures("owned")
def test_ready_comes_after_all_files_are_written(
    tmp_path: Path, register: FakeRegister, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise VmError("no space")

    monkeypatch.setattr(preparation, "write_files", fail)
    with pytest.raises(VmError, match="no space"):
        prepare_vm(make_places(tmp_path, tdx=True), NOW)
    assert len(register.digests) == 2


@pytest.mark.usefixtures("owned")
def test_a_register_that_was_extended_before_stops_the_vm(tmp_path: Path, register: FakeRegister) -> None:
    register.digests.append(bytes(48))
    with pytest.raises(VmError, match="extended before the agent started"):
        prepare_vm(make_places(tmp_path, tdx=True), NOW)


@pytest.mark.usefixtures("owned")
def test_something_else_that_extends_meanwhile_stops_the_vm(
    tmp_path: Path, register: FakeRegister, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "write_files", lambda *_, **__: register.digests.append(b"\1" * 48))
    with pytest.raises(VmError, match="RTMR3 is") as caught:
        prepare_vm(make_places(tmp_path, tdx=True), NOW)
    assert "something else extended it" in caught.value.hint


@pytest.mark.usefixtures("owned")
def test_a_trust_domain_without_the_kernels_registers_stops(tmp_path: Path) -> None:
    with pytest.raises(VmError, match="cannot be read") as caught:
        prepare_vm(make_places(tmp_path, tdx=True), NOW)
    assert "6.16" in caught.value.hint


@pytest.mark.usefixtures("owned")
def test_a_vm_without_tdx_runs_and_says_so_loudly(tmp_path: Path) -> None:
    status = prepare_vm(make_places(tmp_path), NOW)
    assert not status.tdx
    assert "NOT A TRUST DOMAIN" in announcement(status)


@pytest.mark.usefixtures("owned")
def test_a_development_image_says_what_it_is(tmp_path: Path) -> None:
    status = prepare_vm(make_places(tmp_path, variant="development"), NOW)
    assert status.variant == "development"
    assert "DEVELOPMENT IMAGE" in announcement(status)


@pytest.mark.usefixtures("owned")
def test_secrets_are_for_their_user_alone_and_in_nothing_that_is_shown(tmp_path: Path) -> None:
    places = make_places(tmp_path, "coordinator")
    status = prepare_vm(places, NOW)
    for name, text in SECRETS["coordinator"].items():
        path = places.secrets / name
        assert path.read_text() == text
        assert stat.S_IMODE(path.stat().st_mode) == 0o400
        others = [other for other in places.run.rglob("*") if other.is_file() and other != path]
        assert not any(text in other.read_text() for other in others)
        assert text not in announcement(status)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        (CONFIGURATION_FILE, None, "the host gave no config"),
        (CONFIGURATION_FILE, b"{}", "configuration"),
        (SECRETS_FILE, None, "lacks the secrets"),
        (SECRETS_FILE, b"\xff", "secrets are not JSON"),
    ],
)
@pytest.mark.usefixtures("owned")
def test_what_the_host_gives_wrongly_stops_the_vm(
    tmp_path: Path, name: str, data: bytes | None, words: str
) -> None:
    places = make_places(tmp_path)
    path = places.host_file(name)
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)
    with pytest.raises(VmError, match=words):
        prepare_vm(places, NOW)


@pytest.mark.usefixtures("owned")
def test_a_configuration_of_another_role_is_not_extended(tmp_path: Path, register: FakeRegister) -> None:
    places = make_places(tmp_path, tdx=True)
    places.host_file(CONFIGURATION_FILE).write_bytes(encoded(document("coordinator")))
    with pytest.raises(VmError, match="image of role worker"):
        prepare_vm(places, NOW)
    assert register.digests == []


@pytest.mark.usefixtures("owned")
def test_a_clock_that_the_host_turned_back_stops_the_vm(tmp_path: Path) -> None:
    with pytest.raises(VmError, match="the clock says"):
        prepare_vm(make_places(tmp_path), EPOCH - 1.0)


@pytest.mark.usefixtures("owned")
def test_files_that_are_links_are_replaced_and_not_followed(tmp_path: Path) -> None:
    places = make_places(tmp_path)
    places.run.mkdir()
    target = tmp_path / "elsewhere"
    target.write_text("untouched")
    places.configuration.symlink_to(target)
    prepare_vm(places, NOW)
    assert target.read_text() == "untouched"
    assert not places.configuration.is_symlink()


@pytest.mark.usefixtures("owned")
def test_the_event_log_beside_a_quote_is_the_predicted_one(tmp_path: Path) -> None:
    places = make_places(tmp_path)
    status = prepare_vm(places, NOW)
    log = eventlog.parse_dstack(json.dumps(dstack_event_log(status)))
    predicted = runtime_events(role_events("worker", places.host_file(CONFIGURATION_FILE).read_bytes()), 2)
    assert explain.compare(predicted, log) == []


# --- the register's file -------------------------------------------------------------------------------------


def test_a_register_file_of_another_size_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rtmr3:sha384"
    file.write_bytes(bytes(32))
    with pytest.raises(VmError, match="32 bytes, not 48"):
        Register(file).read()


def test_an_extension_is_one_write_of_48_bytes(tmp_path: Path) -> None:
    file = tmp_path / "rtmr3:sha384"
    file.write_bytes(bytes(48))
    Register(file).extend(b"\7" * 48)
    assert file.read_bytes() == b"\7" * 48


# --- quotes --------------------------------------------------------------------------------------------------


class FakeConfigfs:
    """configfs-tsm as a folder: fills a new entry as the kernel does, and takes it away as rmdir does."""

    def __init__(
        self, reports: Path, *, provider: str = "tdx_guest", generation: str = "1", quote: bytes = b"Q"
    ) -> None:
        reports.mkdir(parents=True)
        self.reports = reports
        self.files = {"provider": provider.encode(), "generation": generation.encode(), "outblob": quote}
        self.asked: list[bytes] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        mkdir, rmdir = Path.mkdir, Path.rmdir

        def make(path: Path, *arguments: Any, **more: Any) -> None:
            mkdir(path, *arguments, **more)
            if path.parent == self.reports:
                for name, data in self.files.items():
                    (path / name).write_bytes(data)

        def remove(path: Path) -> None:
            if path.parent == self.reports:
                self.asked.append((path / "inblob").read_bytes() if (path / "inblob").exists() else b"")
                for file in path.iterdir():
                    file.unlink()
            rmdir(path)

        monkeypatch.setattr(Path, "mkdir", make)
        monkeypatch.setattr(Path, "rmdir", remove)


def test_a_quote_is_asked_over_64_bytes_and_the_entry_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeConfigfs(tmp_path / "report", quote=b"quote")
    fake.install(monkeypatch)
    assert QuoteSource(fake.reports).quote(b"\1\2" + bytes(62)) == b"quote"
    assert fake.asked == [b"\1\2" + bytes(62)]
    assert list(fake.reports.iterdir()) == []


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"provider": "sev_guest"}, "sev_guest"),
        ({"generation": "2"}, "another process"),
        ({"quote": b""}, "empty"),
    ],
)
def test_a_report_that_is_not_ours_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: dict[str, Any], words: str
) -> None:
    fake = FakeConfigfs(tmp_path / "report", **what)
    fake.install(monkeypatch)
    with pytest.raises(VmError, match=words):
        QuoteSource(fake.reports).quote(bytes(64))
    assert list(fake.reports.iterdir()) == []


@pytest.mark.parametrize("data", [b"", bytes(63), bytes(65)])
def test_a_quote_is_over_exactly_64_bytes(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(VmError, match="64 bytes"):
        QuoteSource(tmp_path).quote(data)


@pytest.mark.parametrize(("given", "padded"), [("ff", b"\xff" + bytes(63)), ("01" * 64, b"\1" * 64)])
def test_report_data_of_a_request_is_padded_with_zeros(given: str, padded: bytes) -> None:
    assert report_data_of({"report_data": given}) == padded


@pytest.mark.parametrize("given", ["", "0", "zz", "00" * 65, 7, None])
def test_report_data_that_is_not_1_to_64_bytes_in_hex_is_refused(given: Any) -> None:
    with pytest.raises(BadRequest):
        report_data_of({"report_data": given})


# --- answers -------------------------------------------------------------------------------------------------


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("v")


@asynccontextmanager
async def serving(places: Places) -> AsyncIterator[int]:
    prepare_vm(places, NOW)
    status, agent = await start_status(places, "127.0.0.1", 0), await start_socket(places)
    async with status, agent:
        yield status.sockets[0].getsockname()[1]


def get(port: int, page: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", page)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@pytest.mark.usefixtures("owned")
async def test_the_service_gets_quotes_over_the_socket_that_dstack_has(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = make_places(short)
    fake = FakeConfigfs(places.reports, quote=b"\xab\xcd")
    fake.install(monkeypatch)
    async with serving(places):
        assert stat.S_IMODE(places.socket.stat().st_mode) == 0o660
        reply = await GuestAgent(places.socket).get_quote(b"\5" * 64)
    assert reply.quote == b"\xab\xcd"
    assert [event["event"] for event in json.loads(reply.event_log)] == ["role", "config", "ready"]


@pytest.mark.usefixtures("owned")
async def test_without_tdx_a_quote_is_refused_with_the_reason(short: Path) -> None:
    places = make_places(short)
    async with serving(places):
        with pytest.raises(GuestAgentError, match="no trust domain"):
            await GuestAgent(places.socket).get_quote(b"\5" * 64)


@pytest.mark.usefixtures("owned")
async def test_status_pages_say_what_was_measured(short: Path) -> None:
    places = make_places(short)
    (places.firmware_log.parent).mkdir(parents=True)
    places.firmware_log.write_bytes(b"log")
    async with serving(places) as port:
        code, body = await asyncio.to_thread(get, port, "/status")
        assert code == 200
        assert VmStatus.from_bytes(body).role == "worker"
        assert await asyncio.to_thread(get, port, "/config") == (
            200,
            places.host_file(CONFIGURATION_FILE).read_bytes(),
        )
        assert await asyncio.to_thread(get, port, "/event-log") == (200, b"log")
        code, body = await asyncio.to_thread(get, port, "/run/outlayer/secrets/worker-token")
        assert code == 404
        assert (await asyncio.to_thread(get, port, "/pcrs"))[0] == 404


@pytest.fixture
def service() -> Iterator[int]:
    """A service whose health check fails."""
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503 if self.path == "/health" else 404)
            self.end_headers()
            self.wfile.write(b'{"status":"starting"}')

        def log_message(self, *_: Any) -> None:
            """Nothing is said."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.usefixtures("owned")
async def test_health_is_the_services_own_word(
    short: Path, service: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from outlayer_attestation.vm import serve
    from outlayer_attestation.vm.roles import ROLES

    monkeypatch.setattr(serve, "ROLES", {"worker": replace(ROLES["worker"], health=(service, "/health"))})
    async with serving(make_places(short)) as port:
        assert await asyncio.to_thread(get, port, "/health") == (503, b'{"status":"starting"}')


@pytest.mark.usefixtures("owned")
async def test_health_of_a_service_that_is_down_is_503(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from outlayer_attestation.vm import serve
    from outlayer_attestation.vm.roles import ROLES

    # port 1 is nobody's
    monkeypatch.setattr(serve, "ROLES", {"worker": replace(ROLES["worker"], health=(1, "/health"))})
    async with serving(make_places(short)) as port:
        code, body = await asyncio.to_thread(get, port, "/health")
    assert code == 503
    assert json.loads(body)["status"] == "down"


# --- containers ----------------------------------------------------------------------------------------------


def test_a_container_takes_its_configuration_out_of_the_environment(tmp_path: Path) -> None:
    places = make_places(tmp_path)
    environ = {
        "OUTLAYER_CONFIG": json.dumps(document("worker")),
        "OUTLAYER_SECRETS": json.dumps(SECRETS["worker"]),
        "PATH": "/usr/bin",
        "LD_PRELOAD": "/tmp/evil.so",
    }
    given = given_to_container(places, environ, NOW)
    assert "OUTLAYER_CONFIG" not in environ
    assert "OUTLAYER_SECRETS" not in environ
    environment = service_environment(places, given, environ)
    assert environment["PATH"] == "/usr/bin"
    assert environment["WORKER_TOKEN_FILE"] == str(places.secrets / "worker-token")
    assert environment["COORDINATOR_URL"] == document("worker")["settings"]["COORDINATOR_URL"]
    assert "LD_PRELOAD" not in environment
    assert not any(text in environment.values() for text in SECRETS["worker"].values())


def test_a_container_without_a_configuration_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(VmError, match="OUTLAYER_CONFIG is not set"):
        given_to_container(make_places(tmp_path), {}, NOW)


@pytest.mark.usefixtures("owned")
def test_in_a_container_the_platform_measures(tmp_path: Path) -> None:
    places = make_places(tmp_path)
    given = given_to_container(
        places,
        {
            "OUTLAYER_CONFIG": json.dumps(document("worker")),
            "OUTLAYER_SECRETS": json.dumps(SECRETS["worker"]),
        },
        NOW,
    )
    write_files(places, given, host_network=False)
    status = status_of(given, (), tdx=True)
    assert status.measured_by == "platform"
    assert status.rtmr3 is None
    assert "nd-router" not in (places.run / "nftables.rules").read_text()
