# SPDX-License-Identifier: MIT
"""A running VM with a software TPM: started, asked over its status port, and stopped by its own process id."""

from __future__ import annotations

import http.client
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tools.bootproof.programs import Programs
from tools.imagebuild.errors import BootError

POLL_SECONDS: Final = 0.5
REQUEST_SECONDS: Final = 20.0
_MAX_REPLY: Final = 16 * 1024 * 1024


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

    def said(self) -> str:
        """The whole console, which is empty as long as QEMU has not made its file."""
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def console_end(self, lines: int = 40) -> str:
        """The last lines of the console, and what QEMU itself said."""
        said = [line for path in (self.console, _qemu_log(self.console)) for line in _lines(path)[-lines:]]
        return "\n".join(f"  | {line.rstrip()}" for line in said)


def _qemu_log(console: Path) -> Path:
    return console.with_name(f"{console.name}.qemu")


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines() if path.exists() else []


@contextmanager
def started(words: list[str], port: int, console: Path) -> Iterator[RunningVm]:
    """Run QEMU for the length of the block."""
    with _qemu_log(console).open("wb") as log:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield RunningVm(process, port, console)
    finally:
        process.kill()
        process.wait()


@contextmanager
def software_tpm(programs: Programs, folder: Path, seconds: float = 10.0) -> Iterator[Path]:
    """A software TPM with the SHA-384 bank on a unix socket, for the length of the block.

    swtpm makes the state itself, so no manufacturing step is needed: nobody checks its certificates.

    Raises:
        BootError: it does not start; with what it said.
    """
    state, control, log = folder / "tpm", folder / "tpm.sock", folder / "tpm.log"
    state.mkdir(parents=True)
    words = [str(programs.swtpm), "socket", "--tpm2", "--tpmstate", f"dir={state}"]
    words += ["--ctrl", f"type=unixio,path={control}", "--flags", "startup-clear"]
    with log.open("wb") as output:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + seconds
        while not control.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise BootError(f"swtpm does not start: {' '.join(_lines(log))[-500:]}")
            time.sleep(0.05)
        yield control
    finally:
        process.kill()
        process.wait()


def firmware_alone(programs: Programs, console: Path, accelerator: str, seconds: float) -> float | None:
    """Seconds in which the firmware reaches its boot manager, without a disk or kernel; None when it does not."""
    words = [
        str(programs.qemu),
        "-accel",
        accelerator,
        "-cpu",
        "max",
        "-machine",
        "q35,smm=off",
        "-m",
        "512M",
    ]
    words += ["-nodefaults", "-no-user-config", "-display", "none", "-serial", f"file:{console}"]
    words += ["-bios", str(programs.generic_firmware), "-no-reboot"]
    with started(words, 0, console) as vm:
        began = time.monotonic()
        while time.monotonic() - began < seconds and vm.process.poll() is None:
            if any("BdsDxe" in line for line in _lines(console)):
                return time.monotonic() - began
            time.sleep(0.05)
    return None


def kvm_works(programs: Programs, folder: Path, seconds: float = 20.0) -> bool:
    """Whether this machine's KVM can run OVMF: a device may exist that cannot emulate the reset code."""
    if not Path("/dev/kvm").exists():
        return False
    return firmware_alone(programs, folder / "kvm-test", "kvm", seconds) is not None
