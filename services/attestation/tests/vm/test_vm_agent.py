# SPDX-License-Identifier: MIT
"""The agent in a VM whose kernel files are a folder: what it measures, writes, refuses and answers."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
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
from outlayer_attestation.vm.container import Watch, given_to_container, say_confirmed, service_environment
from outlayer_attestation.vm.places import Places
from outlayer_attestation.vm.prepare import VmStatus, dstack_event_log, prepare_vm, status_of, write_files
from outlayer_attestation.vm.quotes import QuoteSource
from outlayer_attestation.vm.rtmr import Register
from outlayer_attestation.vm.serve import start_socket, start_status

from .documents import SECRETS, document, encoded, make_authority
from .stand_ins import EPOCH, NOW, FakeClock, FakeConfigfs, FakeRegister, make_places


@pytest.fixture
def owned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of an ordinary user cannot give files away; as root neither should they."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> FakeRegister:
    fake = FakeRegister()
    fake.install(monkeypatch)
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
        (SECRETS_FILE, b"\xff", "not UTF-8"),
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
def test_the_time_is_proven_by_the_public_authorities_or_by_those_of_the_document_alone(
    tmp_path: Path,
) -> None:
    places = make_places(tmp_path)
    written = places.run / "time-authorities.pem"
    prepare_vm(places, NOW)
    assert written.read_text() == "the public authorities\n"
    own = make_authority()
    value = document("worker")
    value["time"]["authority"] = own
    places.host_file(CONFIGURATION_FILE).write_bytes(encoded(value))
    prepare_vm(places, NOW)
    assert written.read_text() == own


@pytest.mark.usefixtures("owned")
def test_an_image_without_public_authorities_stops_when_it_needs_them(tmp_path: Path) -> None:
    places = make_places(tmp_path)
    places.authorities.unlink()
    with pytest.raises(VmError, match="cannot be read"):
        prepare_vm(places, NOW)


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
async def serving(places: Places, clock: FakeClock | None = None) -> AsyncIterator[int]:
    prepare_vm(places, NOW)
    watched = clock or FakeClock()
    status, agent = await start_status(places, watched, "127.0.0.1", 0), await start_socket(places, watched)
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
async def test_a_clock_that_does_not_count_stops_quotes_and_is_shown_until_it_counts_again(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places, clock = make_places(short), FakeClock()
    fake = FakeConfigfs(places.reports, quote=b"\xab")
    fake.install(monkeypatch)
    clock.reason = "the clock jumped by 3600.0 s"
    async with serving(places, clock) as port:
        with pytest.raises(GuestAgentError, match=r"there are no quotes: the clock jumped by 3600\.0 s"):
            await GuestAgent(places.socket).get_quote(b"\5" * 64)
        assert fake.asked == []
        code, body = await asyncio.to_thread(get, port, "/health")
        assert (code, json.loads(body)) == (503, {"status": "clock", "error": clock.reason})
        status = VmStatus.from_bytes((await asyncio.to_thread(get, port, "/status"))[1])
        assert status.clock is not None
        assert (status.clock.confirmed, status.clock.objection) == (False, clock.reason)
        clock.reason = None
        assert (await GuestAgent(places.socket).get_quote(b"\5" * 64)).quote == b"\xab"
        status = VmStatus.from_bytes((await asyncio.to_thread(get, port, "/status"))[1])
        assert status.clock is not None
        assert (status.clock.confirmed, status.clock.difference_seconds) == (True, 0.25)


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


# --- two processes that belong together --------------------------------------------------------------------------


FOREVER = "import time; time.sleep(600)"
# keep_both changes the handlers of signals and waits for all children, so it runs in a process of its own
KEEPER = """
import os, sys
from outlayer_attestation.vm.container import keep_both
def spawn(program):
    pid = os.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", program])
    return pid
watch, service = spawn(sys.argv[1]), spawn(sys.argv[2])
print(watch, service, flush=True)
sys.exit(keep_both(watch, service))
"""


@contextmanager
def kept(watch: str, service: str) -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    words = [sys.executable, "-c", KEEPER, watch, service]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pids = [int(text) for text in process.stdout.readline().split()]
    try:
        yield process, *pids
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()
        process.stdout.close()


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize(
    "program",
    ["pass", "import sys; sys.exit(1)", "import os; os.kill(os.getpid(), 9)"],
    ids=["0", "1", "killed"],
)
def test_a_service_is_killed_when_the_watch_over_its_clock_ends(program: str) -> None:
    with kept(program, FOREVER) as (process, _, service):
        assert process.wait(30) == 1
        # an orphan that was killed may still wait to be reaped by init
        state = Path(f"/proc/{service}/stat")
        assert is_gone(service) or state.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize(
    ("program", "code"),
    [("pass", 0), ("import sys; sys.exit(3)", 3), ("import os; os.kill(os.getpid(), 15)", 143)],
)
def test_a_container_ends_with_the_code_of_its_service(program: str, code: int) -> None:
    with kept(FOREVER, program) as (process, _, _):
        assert process.wait(30) == code


def test_a_word_to_stop_is_passed_on_to_the_service() -> None:
    service = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "open('/proc/self/comm', 'w').write('armed')\n"
        "time.sleep(600)\n"
    )
    with kept(FOREVER, service) as (process, _, pid):
        comm = Path(f"/proc/{pid}/comm")
        deadline = time.monotonic() + 30
        while comm.read_text() != "armed\n":
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 7


def test_a_service_is_not_started_when_the_watch_ends_before_it_confirmed() -> None:
    read, write = os.pipe()
    os.close(write)
    with pytest.raises(VmError, match="was not started"):
        Watch(1, read).wait_until_confirmed()
    read, write = os.pipe()
    say_confirmed(write)
    Watch(1, read).wait_until_confirmed()


def test_a_containers_documents_that_are_no_text_are_refused(tmp_path: Path) -> None:
    places = make_places(tmp_path)
    for name, words in (("OUTLAYER_CONFIG", "not UTF-8"), ("OUTLAYER_SECRETS", "not UTF-8")):
        environ = {"OUTLAYER_CONFIG": json.dumps(document("worker")), name: "\udcff"}
        with pytest.raises(VmError, match=words):
            given_to_container(places, environ, NOW)
