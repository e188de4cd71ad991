# SPDX-License-Identifier: MIT
"""What an executor or compiler process gives up before it touches a guest's bytes. Linux, no privileges."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}): {os.strerror(error)}")


def enter(*, parent: int, data_bytes: int, cpu_seconds: int | None = None) -> None:
    """Die with the parent, gain no privilege, dump no memory, start nothing, and stay below the limits.

    ``parent`` is the worker's process id: if it has died meanwhile, this process ends at once.
    ``data_bytes`` bounds private writable memory (RLIMIT_DATA): wasmtime reserves gigabytes of address space
    that it never makes writable, so an address-space limit would say nothing.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, data_bytes))
    if cpu_seconds is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))
    os.chdir("/")


def private_memory() -> int:
    """Bytes of private writable memory now, as RLIMIT_DATA counts them (VmData of proc_pid_status(5))."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmData in /proc/self/status")


def limit_memory(data_bytes: int) -> None:
    """Set the soft limit; the hard one, set at the start, stays above it."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (min(data_bytes, hard), hard))


def lift_memory_limit() -> None:
    """Back to the hard limit between runs."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
