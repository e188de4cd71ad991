# SPDX-License-Identifier: MIT
"""What an executor's process may still ask of the kernel after it is ready."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from outlayer_worker.executor import seccomp

TRIES = """
import ctypes, errno, json, os, resource, signal, socket, subprocess, sys, threading
from outlayer_worker.executor import seccomp
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
threading.Thread(target=threading.Event().wait, daemon=True).start()
path, parent = sys.argv[1], os.getppid()
started = seccomp.install()
def attempt(action):
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno]
    except RuntimeError as error:
        return str(error)
    return "done"
def fork():
    if os.fork() == 0:
        os._exit(0)
thread = threading.Thread(target=lambda: results.__setitem__("other thread", attempt(socket.socket)))
results = {
    "started": started,
    "read": attempt(lambda: open(path).read()),
    "write": attempt(lambda: open(path, "w")),
    "create": attempt(lambda: open(path + ".new", "x")),
    "unlink": attempt(lambda: os.unlink(path)),
    "rename": attempt(lambda: os.rename(path, path + ".2")),
    "mkdir": attempt(lambda: os.mkdir(path + ".dir")),
    "chmod": attempt(lambda: os.chmod(path, 0o777)),
    "socket": attempt(socket.socket),
    "unix socket": attempt(lambda: socket.socket(socket.AF_UNIX)),
    "fork": attempt(fork),
    "execute": attempt(lambda: os.execv("/bin/true", ["true"])),
    "signal": attempt(lambda: os.kill(parent, 0)),
    "memory file": attempt(lambda: os.close(os.memfd_create("x"))),
}
thread.start()
thread.join()
print(json.dumps(results))
sys.stdout.flush()
os.abort()
"""


@pytest.fixture
def attempts(tmp_path: Path) -> tuple[dict[str, Any], int]:
    path = tmp_path / "file"
    path.write_text("kept")
    command = [sys.executable, "-c", TRIES, str(path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.stdout, answer.stderr
    assert path.read_text() == "kept"
    assert list(tmp_path.iterdir()) == [path]
    return json.loads(answer.stdout), answer.returncode


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="no list for this architecture")
def test_an_executor_may_read_and_compute_and_nothing_else(attempts: tuple[dict[str, Any], int]) -> None:
    found, returncode = attempts
    assert found.pop("started") is True
    assert {name for name, result in found.items() if result == "done"} == {"read", "memory file"}
    assert {result for result in found.values() if result != "done"} == {"EPERM"}
    assert returncode == -6, "abort still ends the process as it should"


@pytest.mark.asyncio(loop_scope="module")
async def test_executors_run_under_the_filter(bench: Any) -> None:
    for pid in bench.pool.pids:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        assert len(tasks) >= 2
        for task in tasks:
            assert "Seccomp:\t2" in (task / "status").read_text()


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_filter_is_whole_instructions_and_ends_by_allowing(machine: str) -> None:
    code = seccomp.program(machine, 1234)
    assert code is not None
    assert len(code) % 8 == 0
    assert code[-8:] == bytes.fromhex("060000000000ff7f")


def test_an_unknown_architecture_has_no_filter() -> None:
    assert seccomp.program("sparc", 1) is None
