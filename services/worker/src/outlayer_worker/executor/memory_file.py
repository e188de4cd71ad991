# SPDX-License-Identifier: MIT
"""Anonymous files in memory (memfd_create(2)): how bytes reach a process that may open nothing."""

from __future__ import annotations

import fcntl
import os

_F_ADD_SEALS = 1033
_SEALS = 0x0001 | 0x0002 | 0x0004 | 0x0008  # seal, shrink, grow, write


def sealed(name: str, data: bytes) -> int:
    """A descriptor of a memory file with these bytes, never to be changed. The caller closes it."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, _F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def empty(name: str) -> int:
    """A descriptor of an empty memory file that another process may fill. The caller closes it."""
    return os.memfd_create(name, os.MFD_CLOEXEC)


def contents(fd: int) -> bytes:
    """All bytes of a memory file."""
    size = os.fstat(fd).st_size
    chunks, offset = [], 0
    while offset < size:
        chunk = os.pread(fd, size - offset, offset)
        if not chunk:
            break
        chunks.append(chunk)
        offset += len(chunk)
    return b"".join(chunks)
