# SPDX-License-Identifier: MIT
"""A running VM with a software TPM: started, asked over its status port, and stopped by its own process id."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tools.bootproof.errors import BootError
from tools.bootproof.programs import Programs

STATUS_PORT: Final = 8090
POLL_SECONDS: Final = 0.5
REQUEST_SECONDS: Final = 20.0
_MAX_REPLY: Final = 16 * 1024 * 1024


def free_port() -> int:
    """A TCP port of loopback that nobody has right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Answer:
    """A page of the status port."""

    status: int
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class RunningVm:
    """A VM. ``console`` is the file that its serial port writes."""

    process: subprocess.Popen[bytes]
    port: int
    console: Path

    def get(self, page: str) -> Answer | None:
        """A page, or None while nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=REQUEST_SECONDS)
        try:
            connection.request("GET", page, headers={"Connection": "close"})
            response = connection.getresponse()
            return Answer(response.status, response.read(_MAX_REPLY))
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def wait_until_healthy(self, seconds: float) -> float:
        """Seconds until the service inside answered its health check.

        Raises:
            BootError: it did not, or the VM stopped; with the end of the console.
        """
        began = time.monotonic()
        last = "nobody answered"
        while time.monotonic() - began < seconds:
            if self.process.poll() is not None:
                raise BootError(f"the VM stopped (exit {self.process.returncode})\n{self.console_end()}")
            answer = self.get("/health")
            if answer is not None and answer.status == http.client.OK:
                return time.monotonic() - began
            if answer is not None:
                last = f"HTTP {answer.status} {answer.body[:300]!r}"
            time.sleep(POLL_SECONDS)
        raise BootError(f"not healthy after {seconds:.0f} s: {last}\n{self.console_end()}")

    def require(self, page: str) -> Answer:
        """A page that has to be there. Raises ``BootError``."""
        answer = self.get(page)
        if answer is None or answer.status != http.client.OK:
            found = "nobody answered" if answer is None else f"HTTP {answer.status} {answer.body[:200]!r}"
            raise BootError(f"{page}: {found}\n{self.console_end()}")
        return answer

    def console_end(self, lines: int = 40) -> str:
        """The last lines of the console."""
        text = self.console.read_text(errors="replace") if self.console.exists() else ""
        return "\n".join(f"  | {line.rstrip()}" for line in text.splitlines()[-lines:])


@contextmanager
def started(words: list[str], port: int, console: Path) -> Iterator[RunningVm]:
    """Run QEMU for the length of the block."""
    with (console.parent / "qemu.log").open("wb") as log:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield RunningVm(process, port, console)
    finally:
        process.kill()
        process.wait()
        log_text = (console.parent / "qemu.log").read_text(errors="replace").strip()
        if log_text and process.returncode not in (-signal.SIGKILL, 0):
            console.write_text(
                console.read_text(errors="replace") + log_text if console.exists() else log_text
            )


@contextmanager
def software_tpm(programs: Programs, folder: Path, seconds: float = 10.0) -> Iterator[Path]:
    """A software TPM with the SHA-384 bank on a unix socket, for the length of the block.

    swtpm makes the state itself, so no manufacturing step is needed: nobody checks its certificates.
    """
    state, control = folder / "tpm", folder / "tpm.sock"
    state.mkdir(parents=True)
    words = [str(programs.swtpm), "socket", "--tpm2", "--tpmstate", f"dir={state}"]
    words += ["--ctrl", f"type=unixio,path={control}", "--flags", "startup-clear"]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + seconds
        while not control.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise BootError(
                    "swtpm does not start", hint="try: make images-boot again; the tool root may be damaged"
                )
            time.sleep(0.05)
        yield control
    finally:
        process.kill()
        process.wait()


def kvm_works(programs: Programs, folder: Path, seconds: float = 20.0) -> bool:
    """Whether this machine's KVM can run OVMF: a device may exist that cannot emulate the reset code."""
    if not Path("/dev/kvm").exists():
        return False
    console = folder / "kvm-test"
    words = [str(programs.qemu), "-accel", "kvm", "-cpu", "max", "-machine", "q35,smm=off", "-m", "256M"]
    words += ["-nodefaults", "-no-user-config", "-display", "none", "-serial", f"file:{console}"]
    words += ["-bios", str(programs.generic_firmware), "-no-reboot"]
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and process.poll() is None:
            if console.exists() and b"BdsDxe" in console.read_bytes():
                return True
            time.sleep(0.1)
        return False
    finally:
        process.kill()
        process.wait()
