# SPDX-License-Identifier: MIT
"""The executor process; its arguments are socket descriptor, parent process id, bytes of private memory.

Answers one frame after the other on an inherited unix socket: load, unload, run. It opens no file of the host
but the descriptors it is sent, and has no environment.
"""

from __future__ import annotations

import array
import os
import socket
import sys
from typing import Any

from outlayer_worker.errors import JobError
from outlayer_worker.executor import sandbox, seccomp
from outlayer_worker.executor.frames import (
    PREFIX,
    Frame,
    decode_header,
    decode_prefix,
    encode,
)
from outlayer_worker.executor.guest import Runtime
from outlayer_worker.executor.model import Category, Kind, Limits, RunResult, bounded_text


class Channel:
    """Blocking frames over a unix stream socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def receive(self) -> tuple[Frame, int | None] | None:
        """The next frame and the descriptor that came with it; None at the end of the stream."""
        prefix, fd = self._receive_prefix()
        if not prefix:
            return None
        header, payload = decode_prefix(prefix)
        return Frame(decode_header(self._exactly(header)), self._exactly(payload)), fd

    def send(self, frame: Frame) -> None:
        self._socket.sendall(encode(frame))

    def _receive_prefix(self) -> tuple[bytes, int | None]:
        data, control, _, _ = self._socket.recvmsg(PREFIX.size, socket.CMSG_SPACE(4))
        fd = None
        for level, kind, content in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i", content[:4])
                fd = fds[0]
        if data:
            data += self._exactly(PREFIX.size - len(data))
        return data, fd

    def _exactly(self, size: int) -> bytes:
        chunks = []
        while size:
            chunk = self._socket.recv(min(size, 1 << 20))
            if not chunk:
                raise EOFError
            chunks.append(chunk)
            size -= len(chunk)
        return b"".join(chunks)


def serve(channel: Channel) -> None:
    """Answer requests until the worker closes the socket."""
    runtime = Runtime()
    channel.send(Frame({"op": "ready", "filtered": seccomp.install()}))
    while (received := channel.receive()) is not None:
        frame, fd = received
        try:
            channel.send(_answer(runtime, frame.header, fd))
        finally:
            if fd is not None:
                os.close(fd)


def _answer(runtime: Runtime, header: dict[str, Any], fd: int | None) -> Frame:
    operation = header["op"]
    if operation == "unload":
        runtime.unload(header["code"])
        return Frame({"op": "unloaded"})
    path = f"/proc/self/fd/{fd}"
    if operation == "load":
        try:
            runtime.load(header["code"], Kind(header["kind"]), path)
        except JobError as error:
            return Frame({"op": "refused", "category": error.category, "message": error.message})
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker decides what follows
            return Frame({"op": "refused", "category": Category.CRASHED, "message": bounded_text(str(error))})
        return Frame({"op": "loaded"})
    limits = Limits(**header["limits"])
    env = [(name, value) for name, value in header["env"]]
    return _result_frame(runtime.run(header["code"], limits, env, path))


def _result_frame(result: RunResult) -> Frame:
    return Frame(
        {
            "op": "result",
            "output_bytes": len(result.output),
            "instructions": result.instructions,
            "time_ms": result.time_ms,
            "category": result.category,
            "message": result.message,
        },
        result.output + result.stderr,
    )


def main(arguments: list[str]) -> None:
    fd, parent, data_bytes = (int(item) for item in arguments)
    sandbox.enter(parent=parent, data_bytes=data_bytes)
    with socket.socket(fileno=fd) as sock:
        serve(Channel(sock))


if __name__ == "__main__":
    main(sys.argv[1:])
