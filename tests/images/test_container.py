# SPDX-License-Identifier: MIT
"""The OCI image as a container: the filter is loaded, every right is given up, the service answers.

The runtime is made of the machine's own namespaces, so that no container engine is needed: a root of its own, a
network of its own without a way out, processes of its own, and NET_ADMIN as compose would give it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from outlayer_attestation.vm.roles import GROUP, ROLES
from tests.images.unpack import layer_of
from tools.bootproof.timeserver import Authority, time_server, unpack_chronyd

pytestmark = [pytest.mark.images, pytest.mark.timeout(300)]

# makes a network that swallows all packets, then becomes the container; numbers from linux/{if_tun,sockios,route}.h
LAUNCHER = """
import fcntl, json, os, socket, struct, sys
def address(text):
    return struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(text))
tunnel = os.open("/dev/net/tun", os.O_RDWR)
os.set_inheritable(tunnel, True)
fcntl.ioctl(tunnel, 0x400454CA, struct.pack("16sH22x", b"out0", 0x1001))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    fcntl.ioctl(s, 0x8916, struct.pack("16s16s", b"out0", address("192.0.2.2")))
    fcntl.ioctl(s, 0x891C, struct.pack("16s16s", b"out0", address("255.255.255.0")))
    for name in (b"lo", b"out0"):
        fcntl.ioctl(s, 0x8914, struct.pack("16sH14x", name, 0x41))
    anywhere, gateway = address("0.0.0.0"), address("192.0.2.1")
    fcntl.ioctl(s, 0x890B, struct.pack("Q16s16s16sH46x", 0, anywhere, gateway, anywhere, 3) + bytes(16))
os.chroot(sys.argv[1])
os.chdir("/")
os.execve(sys.argv[2], sys.argv[2:], json.loads(os.environ["CONTAINER"]))
"""
# asked from inside the container's network, as the role's user and as root
PROBE = """
import errno, os, socket, sys
"x".encode("idna")  # loaded now: the user may not read this machine's Python
if sys.argv[1] != "0":
    os.setresgid(int(sys.argv[1]), int(sys.argv[1]), int(sys.argv[1]))
    os.setresuid(int(sys.argv[1]), int(sys.argv[1]), int(sys.argv[1]))
host, port = sys.argv[2], int(sys.argv[3])
try:
    socket.create_connection((host, port), timeout=1).close()
    print("connected")
except TimeoutError:
    print("let out")
except OSError as error:
    print(errno.errorcode.get(error.errno, repr(error)))
"""
# the container's own address, behind which the test runs a time server in the container's network
TIME_ADDRESS, TIME_PORT = "192.0.2.2", 14460
AUTHORITY = Authority.make()
CONFIG: dict[str, Any] = {
    "format": "outlayer/vm-config/v1",
    "role": "worker",
    "network": {"nameservers": ["9.9.9.9"], "private_endpoints": ["10.9.8.7:8080", "10.9.8.7:3030"]},
    "time": {"servers": ["192.0.2.2:14460"], "authority": AUTHORITY.pem, "wait_seconds": 120},
    "settings": {
        "COORDINATOR_URL": "http://10.9.8.7:8080",
        "INIT_ACCOUNT_ID": "worker.test",
        "NEAR_NETWORK_ID": "localnet",
        "NEAR_RPC_URL": "http://10.9.8.7:3030",
        "OPERATOR_ACCOUNT_ID": "worker.test",
        "OUTLAYER_CONTRACT_ID": "outlayer.test",
    },
}
SECRETS = {"worker-token": "t" * 64, "init-account-key": "{}"}


class Container:
    """A running container; `pid` is that of its first process, seen from here."""

    def __init__(self, process: subprocess.Popen[bytes], pid: int, log: Path) -> None:
        self.process, self.pid, self.log = process, pid, log

    def inside(self, *words: str) -> str:
        """Run a program of this machine in the container's network."""
        command = ["nsenter", f"--net=/proc/{self.pid}/ns/net", sys.executable, "-c", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()

    def page(self, path: str) -> tuple[int, str]:
        program = (
            "import http.client,sys\n"
            "c=http.client.HTTPConnection('127.0.0.1',8090,timeout=10)\n"
            "c.request('GET',sys.argv[1]); r=c.getresponse(); print(r.status, r.read().decode())"
        )
        try:
            status, _, body = self.inside(program, path).partition(" ")
        except subprocess.CalledProcessError:
            return 0, ""
        return int(status), body

    def wait_for_health(self, *codes: int) -> None:
        """Return once ``/health`` has one of these codes."""
        for _ in range(240):
            assert self.process.poll() is None, self.log.read_text()
            if self.page("/health")[0] in codes:
                return
            time.sleep(0.5)
        raise AssertionError(f"{self.page('/health')} {self.log.read_text()[-3000:]}")

    def processes(self) -> dict[str, dict[str, str]]:
        """Command line -> fields of /proc/PID/status, for all processes of the container."""
        found = {}
        first = psutil.Process(self.pid)
        for process in [first, *first.children(recursive=True)]:
            fields = (
                row.partition(":") for row in Path(f"/proc/{process.pid}/status").read_text().splitlines()
            )
            found[" ".join(process.cmdline())] = {name: value.strip() for name, _, value in fields}
        return found


def environment(layout: Path, given: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """Entrypoint, and the variables of the image with those that are given."""
    configuration, _ = layer_of(layout)
    process = configuration["config"]
    return process["Entrypoint"], {**dict(item.split("=", 1) for item in process["Env"]), **given}


@pytest.fixture(scope="module")
def root(worker: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("oci") / "root"
    _, layer = layer_of(worker / "worker.oci")
    layer.extractall(folder, filter="tar")
    for name in ("proc", "dev", "run", "tmp", "etc", "sys"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "etc/resolv.conf").write_text("nameserver 127.0.0.11\n")
    return folder


def start(root: Path, layout: Path, given: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    entrypoint, variables = environment(layout, given)
    prepare = (
        f"mount --bind {root} {root} && mount -t proc none {root}/proc && mount -t tmpfs none {root}/run"
        f" && mount -t tmpfs none {root}/dev && touch {root}/dev/null {root}/dev/urandom"
        f" && mount --bind /dev/null {root}/dev/null && mount --bind /dev/urandom {root}/dev/urandom"
        f' && exec "$@"'
    )
    words = [
        "unshare",
        "--mount",
        "--pid",
        "--net",
        "--ipc",
        "--uts",
        "--fork",
        "--kill-child",
        "sh",
        "-c",
        prepare,
        "sh",
    ]
    words += [sys.executable, "-c", LAUNCHER, str(root), *entrypoint]
    with log.open("wb") as output:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "CONTAINER": json.dumps(variables)},
        )


def first_child(process: subprocess.Popen[bytes], log: Path) -> int:
    for _ in range(200):
        children = psutil.Process(process.pid).children()
        if children:
            return children[0].pid
        time.sleep(0.05)
    raise AssertionError(f"the container did not start: {log.read_text()[-2000:]}")


@contextmanager
def started(root: Path, layout: Path, log: Path, config: dict[str, Any] = CONFIG) -> Iterator[Container]:
    """A container that answers on its status port, for the length of the block."""
    if shutil.which("nsenter") is None:
        pytest.skip("this machine has no nsenter")
    if not Path("/dev/net/tun").exists():
        pytest.skip("this machine has no /dev/net/tun for a network that leads nowhere")
    given = {
        "OUTLAYER_CONFIG": json.dumps(config),
        "OUTLAYER_SECRETS": json.dumps(SECRETS),
        "NOT_ASKED_FOR": "x",
    }
    process = start(root, layout, given, log)
    found = Container(process, first_child(process, log), log)
    try:
        found.wait_for_health(503, 200)
        yield found
    finally:
        process.kill()
        process.wait()


@contextmanager
def running(root: Path, worker: Path, folder: Path) -> Iterator[Container]:
    """A container whose clock is confirmed and whose service is healthy, for the length of the block."""
    with (
        started(root, worker / "worker.oci", folder / "log") as found,
        told_the_time(found, worker, folder, AUTHORITY),
    ):
        found.wait_for_health(200)
        yield found


@contextmanager
def told_the_time(
    container: Container, worker: Path, folder: Path, authority: Authority, ahead: float = 0.0
) -> Iterator[None]:
    """A time server in the container's network."""
    chronyd = unpack_chronyd((worker / "worker.efi").read_bytes(), folder)
    within = ["nsenter", f"--net=/proc/{container.pid}/ns/net"]
    with time_server(
        chronyd, folder / "time", authority,
        port=TIME_PORT, address=TIME_ADDRESS, ahead=ahead, within=within,
    ):  # fmt: skip
        yield


@pytest.fixture(scope="module")
def container(root: Path, worker: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    with running(root, worker, tmp_path_factory.mktemp("container")) as found:
        yield found


def test_the_service_is_healthy_and_the_platform_is_said_to_measure(container: Container) -> None:
    assert container.page("/health") == (200, '{"status": "ok"}')
    status = json.loads(container.page("/status")[1])
    assert status["measured_by"] == "platform"
    assert status["rtmr3"] is None
    assert status["clock"]["confirmed"]
    assert status["clock"]["difference_seconds"] < 1.0


def test_every_process_has_given_up_every_right(container: Container) -> None:
    found = {line: fields for line, fields in container.processes().items() if "outlayer" in line}
    for part in ("outlayer_worker", "vm watch ", "vm keep "):
        assert any(part in line for line in found), part
    for line, fields in found.items():
        if "tini" in line:
            continue
        of_the_watch = "vm watch " in line or "chronyd" in line
        user = str(GROUP if of_the_watch else ROLES["worker"].user)
        assert set(fields["Uid"].split()) == {user}, line
        assert set(fields["Gid"].split()) == {user}, line
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(fields[name], 16) == 0, (line, name)
        assert fields["NoNewPrivs"] == "1"


def test_no_secret_is_in_an_environment_or_the_log(container: Container) -> None:
    for secret in (SECRETS["worker-token"], "OUTLAYER_SECRETS", "NOT_ASKED_FOR"):
        assert secret not in container.log.read_text()
    pending = [int(fields["Pid"]) for line, fields in container.processes().items() if "tini" not in line]
    for pid in pending:
        text = Path(f"/proc/{pid}/environ").read_bytes().decode()
        assert SECRETS["worker-token"] not in text
        assert "NOT_ASKED_FOR" not in text


def test_the_measured_name_servers_are_used(container: Container, root: Path) -> None:
    del container
    assert (root / "etc/resolv.conf").read_text().startswith("nameserver 9.9.9.9\n")


@pytest.mark.parametrize(
    ("user", "host", "port", "expected"),
    [
        ("961", "169.254.169.254", "80", "ECONNREFUSED"),
        ("961", "10.0.0.1", "443", "ECONNREFUSED"),
        ("961", "168.63.129.16", "80", "ECONNREFUSED"),
        ("961", "168.63.129.17", "80", "let out"),
        ("961", "192.0.0.192", "80", "ECONNREFUSED"),
        ("961", "192.0.2.2", "14460", "ECONNREFUSED"),
        ("960", "192.0.2.2", "14460", "connected"),
        ("0", "192.168.1.1", "22", "ECONNREFUSED"),
        ("961", "127.0.0.1", "8091", "ECONNREFUSED"),
        ("0", "127.0.0.1", "8091", "connected"),
        ("961", "10.9.8.7", "8080", "let out"),
        ("961", "10.9.8.7", "8081", "ECONNREFUSED"),
        ("961", "1.1.1.1", "443", "let out"),
        ("960", "1.1.1.1", "443", "ECONNREFUSED"),
        ("0", "9.9.9.9", "53", "let out"),
    ],
)
def test_r46_the_filter_refuses_what_is_private_and_not_listed(
    container: Container, user: str, host: str, port: str, expected: str
) -> None:
    assert container.inside(PROBE, user, host, port) == expected


def test_a_container_without_net_admin_does_not_start(root: Path, worker: Path, tmp_path: Path) -> None:
    entrypoint, variables = environment(
        worker / "worker.oci",
        {"OUTLAYER_CONFIG": json.dumps(CONFIG), "OUTLAYER_SECRETS": json.dumps(SECRETS)},
    )
    shutil.rmtree(root / "run", ignore_errors=True)
    (root / "run").mkdir()
    words = ["unshare", "--mount", "--fork", "sh", "-c", f'mount -t proc none {root}/proc && exec "$@"', "sh"]
    words += ["setpriv", "--bounding-set=-net_admin", "chroot", str(root), *entrypoint]
    done = subprocess.run(
        words, capture_output=True, text=True, env={**os.environ, **variables}, timeout=120, check=False
    )
    assert done.returncode == 1
    assert "the packet filter was not loaded" in done.stderr
    assert "cap_add: [NET_ADMIN]" in done.stderr


def test_the_container_stops_at_a_word(root: Path, worker: Path, tmp_path: Path) -> None:
    with running(root, worker, tmp_path) as own:
        os.kill(own.pid, signal.SIGTERM)
        assert own.process.wait(timeout=40) in (0, 143, -signal.SIGTERM)


def test_time_dropped_then_the_service_does_not_start_and_the_container_ends(
    root: Path, worker: Path, tmp_path: Path
) -> None:
    config = {**CONFIG, "time": {**CONFIG["time"], "wait_seconds": 15}}
    with started(root, worker / "worker.oci", tmp_path / "log", config) as own:
        assert "no time server of the configuration has confirmed the clock yet" in own.page("/health")[1]
        assert not any("outlayer_worker" in line for line in own.processes())
        assert own.process.wait(120) == 1
    said = own.log.read_text()
    assert "the clock was not confirmed within 15 s" in said
    assert "the service was not started" in said


@pytest.mark.parametrize(
    ("trusted", "ahead", "words"),
    [
        (False, 0.0, "The certificate is NOT trusted"),
        (True, 100.0, "the clock differs by 100.0 s from the time servers; 30 s are allowed"),
        (True, -86400.0, "the clock differs by 86400.0 s"),
    ],
    ids=["time-impostor", "ahead", "a day behind"],
)
def test_a_container_whose_clock_is_not_that_of_the_time_servers_stops_and_says_why(
    root: Path, worker: Path, tmp_path: Path, trusted: bool, ahead: float, words: str
) -> None:
    config = {**CONFIG, "time": {**CONFIG["time"], "wait_seconds": 60}}
    authority = AUTHORITY if trusted else Authority.make()
    with started(root, worker / "worker.oci", tmp_path / "log", config) as own:
        before = time.time()
        with told_the_time(own, worker, tmp_path, authority, ahead):
            assert own.process.wait(200) == 1
        # compared, and never set
        assert abs(time.time() - before) < 3600
    said = own.log.read_text()
    assert words in said
    assert "outlayer_worker" not in said


def test_a_service_ends_with_the_watch_over_its_clock(root: Path, worker: Path, tmp_path: Path) -> None:
    with running(root, worker, tmp_path) as own:
        (watch,) = [fields["Pid"] for line, fields in own.processes().items() if "vm watch " in line]
        os.kill(int(watch), signal.SIGKILL)
        assert own.process.wait(timeout=20) == 1


def test_an_ordinary_difference_within_the_bound_is_shown_and_accepted(
    root: Path, worker: Path, tmp_path: Path
) -> None:
    with (
        started(root, worker / "worker.oci", tmp_path / "log") as own,
        told_the_time(own, worker, tmp_path, AUTHORITY, 20.0),
    ):
        own.wait_for_health(200)
        clock = json.loads(own.page("/status")[1])["clock"]
        assert clock["confirmed"]
        assert 19.0 < clock["difference_seconds"] < 21.0
