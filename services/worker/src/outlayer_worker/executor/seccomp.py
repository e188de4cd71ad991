# SPDX-License-Identifier: MIT
"""A system-call filter for executors: a guest that broke out of its WASM would find little to do (seccomp(2)).

Refused with EPERM: new programs and processes, new sockets, opening files for writing, changing the file system,
looking into or signalling other processes, and kernel interfaces that a guest never needs.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from dataclasses import dataclass

_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_SET_MODE_FILTER, _TSYNC = 1, 1
_CLONE_THREAD = 0x10000
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_X32_BIT = 0x40000000


@dataclass(frozen=True)
class _Calls:
    """System-call numbers of one architecture (asm/unistd.h); None where it does not have the call."""

    audit: int
    seccomp: int
    clone: int
    clone3: int
    tgkill: int
    openat: int
    open: int | None
    refused: tuple[int, ...]


_X86_64 = _Calls(
    audit=0xC000003E,
    seccomp=317,
    clone=56,
    clone3=435,
    tgkill=234,
    openat=257,
    open=2,
    refused=(
        # socket … listen, socketpair, accept4, fork, vfork, execve, execveat
        41, 42, 43, 49, 50, 53, 288, 57, 58, 59, 322,
        # kill, tkill, rt_sigqueueinfo, rt_tgsigqueueinfo, pidfd_send_signal, pidfd_open, pidfd_getfd
        62, 200, 129, 297, 424, 434, 438,
        # ptrace, process_vm_readv/writev, perf_event_open, bpf, userfaultfd, io_uring_setup, kcmp
        101, 310, 311, 298, 321, 323, 425, 312,
        # truncate, rename, mkdir, rmdir, creat, link, unlink, symlink, chmod, chown, lchown, mknod
        76, 82, 83, 84, 85, 86, 87, 88, 90, 92, 94, 133,
        # mkdirat … fchmodat, renameat2, openat2, fchmodat2
        258, 259, 260, 263, 264, 265, 266, 268, 316, 437, 452,
        # mount, umount2, pivot_root, chroot, unshare, setns, open_tree … move_mount, keys, modules, kexec
        165, 166, 155, 161, 272, 308, 428, 429, 430, 432, 248, 249, 250, 175, 313, 246, 320,
    ),
)  # fmt: skip
_AARCH64 = _Calls(
    audit=0xC00000B7,
    seccomp=277,
    clone=220,
    clone3=435,
    tgkill=131,
    openat=56,
    open=None,
    refused=(
        198, 199, 200, 201, 202, 203, 242, 221, 281,
        129, 130, 138, 240, 424, 434, 438,
        117, 270, 271, 241, 280, 282, 425, 272,
        45, 33, 34, 35, 36, 37, 38, 53, 54, 276, 437, 452,
        40, 39, 41, 51, 97, 268, 428, 429, 430, 432, 217, 218, 219, 105, 273, 104, 294,
    ),
)  # fmt: skip
_CALLS = {"x86_64": _X86_64, "aarch64": _AARCH64}


def _instruction(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def program(machine: str, pid: int) -> bytes | None:
    """The filter in classic BPF; None for an architecture without a list. Every rule is ended by its own return."""
    calls = _CALLS.get(machine)
    if calls is None:
        return None
    refuse = _instruction(_RETURN, _ERRNO | errno.EPERM)
    lines = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_JUMP_EQUAL, calls.audit, 1, 0),
        _instruction(_RETURN, _KILL_PROCESS),
        _instruction(_LOAD, _NUMBER),
        _instruction(_JUMP_GREATER_EQUAL, _X32_BIT, 0, 1),
        refuse,
        # glibc asks clone3 first and falls back to clone, whose flags can be looked at
        _instruction(_JUMP_EQUAL, calls.clone3, 0, 1),
        _instruction(_RETURN, _ERRNO | errno.ENOSYS),
    ]
    for number in calls.refused:
        lines += [_instruction(_JUMP_EQUAL, number, 0, 1), refuse]
    # threads, but no processes
    lines += _argument_rule(calls.clone, 0, _instruction(_JUMP_ANY_BIT, _CLONE_THREAD, 1, 0))
    # abort() signals the own process
    lines += _argument_rule(calls.tgkill, 0, _instruction(_JUMP_EQUAL, pid, 1, 0))
    # files are opened for reading only
    reading = _instruction(_JUMP_ANY_BIT, _WRITING, 0, 1)
    lines += _argument_rule(calls.openat, 2, reading)
    if calls.open is not None:
        lines += _argument_rule(calls.open, 1, reading)
    lines.append(_instruction(_RETURN, _ALLOW))
    return b"".join(lines)


def _argument_rule(number: int, argument: int, check: bytes) -> list[bytes]:
    """For one call: ``check`` jumps over the refusal when the argument's low half is fine."""
    return [
        _instruction(_JUMP_EQUAL, number, 0, 4),
        _instruction(_LOAD, _FIRST_ARGUMENT + 8 * argument),
        check,
        _instruction(_RETURN, _ERRNO | errno.EPERM),
        _instruction(_RETURN, _ALLOW),
    ]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def install() -> bool:
    """Filter all threads of this process from now on; it must have ``no_new_privs``. False where it cannot be."""
    machine = platform.machine()
    code = program(machine, os.getpid())
    if code is None:
        return False
    buffer = ctypes.create_string_buffer(code, len(code))
    filled = _Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    answer: int = libc.syscall(_CALLS[machine].seccomp, _SET_MODE_FILTER, _TSYNC, ctypes.byref(filled))
    return answer == 0
