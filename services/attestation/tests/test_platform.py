# SPDX-License-Identifier: MIT
"""The software TDX platform: its state folder, its collateral, and the agent that clients of dstack meet."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from dstack_sdk import AsyncDstackClient, DstackClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outlayer_attestation import quote as layout
from outlayer_attestation import testing
from outlayer_attestation.agent_http import MAX_BODY
from outlayer_attestation.appraisal import appraise, collateral_window
from outlayer_attestation.checks import Outcome
from outlayer_attestation.collateral import Collateral
from outlayer_attestation.dstack import GuestAgent
from outlayer_attestation.errors import GuestAgentError, PlatformError
from outlayer_attestation.measurements import Measurements
from outlayer_attestation.platform import __main__ as command
from outlayer_attestation.platform.agent import Guest, start_agent
from outlayer_attestation.platform.machine import SoftwarePlatform

# --- state folder ---


def test_init_keeps_its_keys_to_itself_and_its_root_public(tmp_path: Path) -> None:
    folder = tmp_path / "tdx"
    made = SoftwarePlatform.init(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "platform.json").stat().st_mode) == 0o600
    assert (folder / "root_ca.der").read_bytes() == made.root_der
    assert sorted(path.name for path in folder.iterdir()) == ["platform.json", "root_ca.der"]


def test_init_twice_gives_the_same_platform(tmp_path: Path) -> None:
    first = SoftwarePlatform.init(tmp_path)
    (tmp_path / "root_ca.der").unlink()
    assert SoftwarePlatform.init(tmp_path).root_der == first.root_der
    assert (tmp_path / "root_ca.der").exists()


def test_init_by_many_at_once_gives_one_platform(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        roots = set(pool.map(lambda _: SoftwarePlatform.init(tmp_path / "tdx").root_der, range(8)))
    assert len(roots) == 1


def test_a_folder_without_a_platform_and_a_damaged_one_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(PlatformError) as missing:
        SoftwarePlatform.load(tmp_path)
    assert "init" in missing.value.hint
    SoftwarePlatform.init(tmp_path)
    state = tmp_path / "platform.json"
    for damage in ("", "{}", state.read_text().replace("BEGIN", "BEGUN")):
        state.write_text(damage)
        with pytest.raises(PlatformError, match=r"platform\.json"):
            SoftwarePlatform.load(tmp_path)


def test_every_certificate_says_that_it_is_simulated(machine: SoftwarePlatform) -> None:
    for authority in (machine.root, machine.platform_ca, machine.pck, machine.tcb_signing):
        assert "SIMULATED" in authority.certificate.subject.rfc4514_string()
    quote = machine.quote(testing.MEASUREMENTS, b"x")
    assert b"SIMULATED" in layout.parse(quote).header.user_data
    assert b"SIM" in layout.parse(quote).pck_extension.fmspc


# --- collateral ---


def test_collateral_is_valid_for_30_days_and_carries_no_pck_chain(machine: SoftwarePlatform) -> None:
    now = datetime.fromtimestamp(testing.NOW, UTC)
    collateral = machine.collateral(now)
    start, end = collateral_window(collateral)
    assert start <= testing.NOW < end
    assert end - testing.NOW == 30 * 86_400
    assert "pck_certificate_chain" not in collateral.to_json()
    assert machine.pck.pem() not in collateral.to_text()


@pytest.mark.parametrize("version", [4, 5])
def test_a_quote_of_either_version_verifies_with_fresh_collateral(
    machine: SoftwarePlatform, version: int
) -> None:
    quote = machine.quote(testing.MEASUREMENTS, testing.REPORT_DATA, version=version)
    collateral = machine.collateral(datetime.fromtimestamp(testing.NOW, UTC))
    verdict = appraise(quote, collateral, root_ca_der=machine.root_der, now=testing.NOW)
    assert (verdict.outcome, verdict.status) == (Outcome.PASS, "UpToDate")
    assert verdict.measurements == testing.MEASUREMENTS
    assert layout.parse(quote).td_report.report_data == testing.REPORT_DATA


def test_certificates_outlive_any_local_stack(machine: SoftwarePlatform) -> None:
    later = datetime.fromtimestamp(testing.NOW, UTC) + timedelta(days=15 * 365)
    quote = machine.quote(testing.MEASUREMENTS, b"x")
    moment = int(later.timestamp())
    verdict = appraise(quote, machine.collateral(later), root_ca_der=machine.root_der, now=moment)
    assert verdict.outcome is Outcome.PASS


def test_the_collateral_command_writes_a_copy_for_later(tmp_path: Path) -> None:
    folder, out = tmp_path / "tdx", tmp_path / "collateral.json"
    assert command.main(["init", "--state", str(folder)]) == 0
    assert command.main(["collateral", "--state", str(folder), "--out", str(out)]) == 0
    collateral = Collateral.from_json(out.read_text())
    kept = list((folder / "collateral").iterdir())
    assert [path.read_bytes() for path in kept] == [out.read_bytes()]
    assert collateral.to_text() == out.read_text()
    platform = SoftwarePlatform.load(folder)
    quote = platform.quote(testing.MEASUREMENTS, b"x")
    verdict = appraise(quote, collateral, root_ca_der=platform.root_der, now=int(time.time()))
    assert verdict.outcome is Outcome.PASS


def test_a_command_that_cannot_work_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["collateral", "--state", str(tmp_path), "--out", str(tmp_path / "c")]) == 2
    assert "init" in capsys.readouterr().err
    SoftwarePlatform.init(tmp_path)
    assert command.main(["serve", "--state", str(tmp_path), "--guest", "nonsense"]) == 2
    assert "NAME=SOCKET" in capsys.readouterr().err


# --- agent ---


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path fits into a socket address."""
    with tempfile.TemporaryDirectory(prefix="tdx") as name:
        yield Path(name)


class RunningAgent:
    """The agent in a thread of its own, since the SDK's client blocks."""

    def __init__(self, platform: SoftwarePlatform, guest: Guest) -> None:
        self.loop = asyncio.new_event_loop()
        self.guest = guest
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.server = asyncio.run_coroutine_threadsafe(start_agent(platform, guest), self.loop).result(10)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.server.close)
        asyncio.run_coroutine_threadsafe(self._settle(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    async def _settle(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def agent(machine: SoftwarePlatform, short_folder: Path) -> Iterator[Path]:
    running = RunningAgent(machine, Guest("worker", short_folder / "dstack.sock", testing.MEASUREMENTS))
    yield running.guest.socket
    running.stop()


def test_the_socket_is_for_its_owner_only(agent: Path) -> None:
    assert stat.S_IMODE(agent.stat().st_mode) == 0o600


def test_dstacks_client_gets_a_quote(agent: Path) -> None:
    reply = DstackClient(str(agent)).get_quote(b"hello")
    report = layout.parse(reply.decode_quote()).td_report
    assert report.report_data == b"hello".ljust(64, b"\0")
    assert report.measurements == testing.MEASUREMENTS
    assert reply.decode_event_log() == []
    assert reply.report_data == report.report_data.hex()


async def test_dstacks_async_client_gets_quote_info_and_version(agent: Path) -> None:
    async with AsyncDstackClient(str(agent)) as client:
        first = await client.get_quote(bytes(64))
        second = await client.get_quote(b"\1" * 64)
        info = await client.info()
        version = await client.version()
    assert layout.parse(first.decode_quote()).td_report.report_data == bytes(64)
    assert layout.parse(second.decode_quote()).td_report.report_data == b"\1" * 64
    assert info.tcb_info.rtmr3 == testing.MEASUREMENTS.rtmr3
    assert "SIMULATED" in info.app_name
    assert "simulated" in version.version


async def test_our_client_gets_a_quote(agent: Path) -> None:
    client = GuestAgent(agent)
    reply = await client.get_quote(testing.REPORT_DATA)
    assert layout.parse(reply.quote).td_report.report_data == testing.REPORT_DATA
    assert reply.event_log == "[]"
    assert "SIMULATED" in (await client.info())["app_name"]


async def test_many_ask_at_once(agent: Path) -> None:
    client = GuestAgent(agent)
    wanted = [number.to_bytes(64, "big") for number in range(1, 41)]
    replies = await asyncio.gather(*(client.get_quote(value) for value in wanted))
    assert [layout.parse(reply.quote).td_report.report_data for reply in replies] == wanted


@pytest.mark.parametrize("size", [0, 65])
async def test_our_client_refuses_report_data_of_another_size(agent: Path, size: int) -> None:
    with pytest.raises(GuestAgentError, match="64 bytes"):
        await GuestAgent(agent).get_quote(bytes(size))


async def test_no_agent_is_a_clear_error(short_folder: Path) -> None:
    with pytest.raises(GuestAgentError) as raised:
        await GuestAgent(short_folder / "none.sock").get_quote(b"x")
    assert "software platform" in raised.value.hint


@pytest.fixture
async def liar(short_folder: Path) -> AsyncIterator[tuple[Path, list[bytes]]]:
    """An agent that answers with whatever is put into the list."""
    answers: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answers[0])
        writer.close()

    server = await asyncio.start_unix_server(handle, str(short_folder / "liar.sock"))
    yield short_folder / "liar.sock", answers
    server.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nnot json",
        b"HTTP/1.1 200 OK\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\n\r\n{}",
        b'HTTP/1.1 200 OK\r\n\r\n{"quote": "zz"}',
        b'HTTP/1.1 200 OK\r\n\r\n{"quote": 5}',
        b'HTTP/1.1 200 OK\r\n\r\n{"quote": "00", "event_log": 5}',
        b'HTTP/1.1 500 Oh\r\n\r\n{"error": "no device"}',
        b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000,
    ],
)
async def test_a_lying_agent_gives_our_error(liar: tuple[Path, list[bytes]], answer: bytes) -> None:
    path, answers = liar
    answers.append(answer)
    with pytest.raises(GuestAgentError):
        await GuestAgent(path, timeout=5).get_quote(b"x")


def exchange(path: Path, request: bytes) -> bytes:
    """Send raw bytes, end the stream, read all that comes back."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(path))
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while data := connection.recv(65536):
            received += data
        return received


def post(body: bytes, method: str = "GetQuote", extra: str = "") -> bytes:
    head = f"POST /{method} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (post(b"not json"), 400),
        (post(b"[]"), 400),
        (post(b"{}"), 400),
        (post(b'{"report_data": ""}'), 400),
        (post(b'{"report_data": "zz"}'), 400),
        (post(b'{"report_data": 5}'), 400),
        (post(b'{"report_data": "' + b"00" * 65 + b'"}'), 400),
        (post(b"{}", "EmitEvent"), 400),
        (post(b"{}", "GetKey"), 404),
        (post(b"{}", extra="Transfer-Encoding: chunked\r\n"), 411),
        (b"POST /GetQuote HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 413),
        (b"POST /GetQuote HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY + 1), 413),
        (b"POST /GetQuote HTTP/1.1\r\nContent-Length: 50\r\n\r\n{}", 400),
        (b"DELETE /GetQuote HTTP/1.1\r\n\r\n", 400),
        (b"GET /GetQuote SPDY\r\n\r\n", 400),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", 413),
        (b"GET /GetQuote?report_data=00ff HTTP/1.1\r\n\r\n", 200),
        (b"GET /Info HTTP/1.0\r\n\r\n", 200),
    ],
)
def test_bad_requests_get_a_clear_answer(agent: Path, request_: bytes, status: int) -> None:
    reply = exchange(agent, request_)
    head, _, body = reply.partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status
    assert b"X-Outlayer-Simulated: true" in head
    assert (b"error" in json.loads(body).__repr__().encode()) == (status != 200)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(max_size=300))
def test_noise_does_not_stop_the_agent(agent: Path, noise: bytes) -> None:
    exchange(agent, noise)
    assert exchange(agent, b"GET /Version HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_a_quote_takes_less_than_a_millisecond(machine: SoftwarePlatform) -> None:
    def seconds() -> float:
        start = time.perf_counter()
        machine.quote(testing.MEASUREMENTS, testing.REPORT_DATA)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(50)) < 1e-3


# --- the process ---


def serve(folder: Path, state: Path) -> subprocess.Popen[bytes]:
    measurements = folder / "m.json"
    measurements.write_text(json.dumps(testing.MEASUREMENTS.to_json()))
    command_line = [sys.executable, "-m", "outlayer_attestation.platform", "serve", "--state", str(state)]
    for name in ("a", "b"):
        command_line += ["--guest", f"{name}={folder / name}.sock:{measurements}"]
    process = subprocess.Popen(command_line, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        if all((folder / f"{name}.sock").exists() for name in "ab"):
            break
        time.sleep(0.02)
    return process


def test_the_process_serves_its_guests_and_survives_its_own_kill(short_folder: Path, tmp_path: Path) -> None:
    SoftwarePlatform.init(tmp_path)
    process = serve(short_folder, tmp_path)
    try:
        assert GuestAgent(short_folder / "a.sock").get_quote_blocking(b"1").quote
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=10)
        assert (short_folder / "a.sock").exists()  # stale: the next start replaces it
        process = serve(short_folder, tmp_path)
        deadline = time.monotonic() + 20
        while True:
            try:
                reply = GuestAgent(short_folder / "b.sock").get_quote_blocking(b"2")
                break
            except GuestAgentError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert layout.parse(reply.quote).td_report.measurements == testing.MEASUREMENTS
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=10)
        assert process.returncode == 0
        assert not list(short_folder.glob("*.sock"))
        assert all(json.loads(line)["simulated"] for line in log.splitlines() if b"listens" in line)
    finally:
        process.kill()
        process.communicate()


async def test_a_second_agent_on_a_live_socket_is_refused(agent: Path, machine: SoftwarePlatform) -> None:
    with pytest.raises(PlatformError, match="another guest agent"):
        await start_agent(machine, Guest("other", agent, testing.MEASUREMENTS))
    assert GuestAgent(agent).get_quote_blocking(b"still").quote


async def test_a_file_in_the_sockets_place_is_left_alone(
    machine: SoftwarePlatform, short_folder: Path
) -> None:
    place = short_folder / "precious"
    place.write_text("data")
    with pytest.raises(PlatformError, match="not a socket"):
        await start_agent(machine, Guest("x", place, testing.MEASUREMENTS))
    assert place.read_text() == "data"


async def test_a_socket_path_that_is_too_long_is_a_clear_error(
    machine: SoftwarePlatform, tmp_path: Path
) -> None:
    with pytest.raises(PlatformError, match="longer"):
        await start_agent(machine, Guest("x", tmp_path / ("d" * 120), testing.MEASUREMENTS))


def test_a_guest_is_named_with_socket_and_measurements(tmp_path: Path) -> None:
    file = tmp_path / "m.json"
    file.write_text(json.dumps(testing.MEASUREMENTS.to_json()))
    guest = Guest.parse(f"worker-1=/run/a:b.sock:{file}")
    assert guest == Guest("worker-1", Path("/run/a:b.sock"), testing.MEASUREMENTS)
    assert Measurements.from_file(file) == guest.measurements


def test_the_root_is_a_self_signed_ca(machine: SoftwarePlatform) -> None:
    root = x509.load_der_x509_certificate(machine.root_der)
    root.verify_directly_issued_by(root)
    assert root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
