# SPDX-License-Identifier: MIT
"""Executor processes as the worker sees them: started ahead, killed and replaced when stuck."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import structlog

from outlayer_worker.errors import ExecutorStartError, JobError, ProtocolError
from outlayer_worker.executor import memory_file
from outlayer_worker.executor.code import CompiledCode
from outlayer_worker.executor.frames import PREFIX, Frame, decode_header, decode_prefix, encode
from outlayer_worker.executor.model import MIB, STDERR_LIMIT, Category, Limits, RunResult, bounded_text

log = structlog.get_logger(__name__)

START_SECONDS = 30.0
LOAD_SECONDS = 30.0
# An epoch step ends a guest that computes within a millisecond or so; one that sits in a host call is killed.
GRACE_SECONDS = 0.25
RESIDENT_CODES = 16
RESIDENT_BYTES = 512 * MIB


@dataclass(frozen=True)
class RunRequest:
    """One execution: exact input bytes, environment, limits."""

    input: bytes
    env: Mapping[str, str]
    limits: Limits


class _Lost(Exception):  # noqa: N818 - how the executor's end shows itself, not a fault of ours
    """The executor closed its socket."""


class Executor:
    """One executor process. Answers one request at a time; after ``kill`` it is useless."""

    def __init__(self, process: asyncio.subprocess.Process, sock: socket.socket) -> None:
        self._process = process
        self._socket = sock
        self._resident: OrderedDict[str, int] = OrderedDict()
        self._said = bytearray()
        self._drain = asyncio.create_task(self._read_stderr())

    @classmethod
    async def start(cls, *, data_bytes: int) -> Executor:
        """Spawn a process and wait until it is ready. Raises ``ExecutorStartError``."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-m",
                "outlayer_worker.executor.child",
                str(theirs.fileno()),
                str(os.getpid()),
                str(data_bytes),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                env={},
                start_new_session=True,
            )
        executor = cls(process, ours)
        try:
            async with asyncio.timeout(START_SECONDS):
                reply = await executor._receive()
            if reply.header.get("op") != "ready":
                raise ProtocolError("an executor did not begin with 'ready'")
            if not reply.header.get("filtered"):
                log.warning("executor_without_system_call_filter", pid=process.pid)
        except (_Lost, TimeoutError, ProtocolError) as error:
            await executor.kill()
            raise ExecutorStartError(
                f"an executor process did not start: {executor.said() or error!r}",
                hint="is the worker's package installed for this interpreter?",
            ) from error
        except BaseException:
            await executor.kill()
            raise
        return executor

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    def holds(self, code: CompiledCode) -> bool:
        """Whether this code can run here without loading it first."""
        return code.code_id in self._resident

    def said(self) -> str:
        """The last words of the process on stderr; a guest's output never goes there."""
        return bounded_text(bytes(self._said[-400:]).decode(errors="replace"))

    async def kill(self) -> None:
        """End the process now and wait for it."""
        self._socket.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await self._drain

    async def load(self, code: CompiledCode) -> None:
        """Make code resident. Raises ``JobError`` when the executor cannot take it."""
        if self.holds(code):
            self._resident.move_to_end(code.code_id)
            return
        while self._resident and (
            len(self._resident) >= RESIDENT_CODES or sum(self._resident.values()) + code.size > RESIDENT_BYTES
        ):
            oldest, _ = self._resident.popitem(last=False)
            await self._ask(Frame({"op": "unload", "code": oldest}), None, LOAD_SECONDS)
        reply = await self._ask(
            Frame({"op": "load", "code": code.code_id, "kind": code.kind}), code.fd, LOAD_SECONDS
        )
        if reply.header.get("op") != "loaded":
            raise JobError(
                str(reply.header.get("category", Category.CRASHED)),
                bounded_text(str(reply.header.get("message", "the code could not be loaded"))),
            )
        self._resident[code.code_id] = code.size

    async def run(self, code: CompiledCode, request: RunRequest) -> RunResult:
        """Run resident code once. Raises ``TimeoutError`` when it is stuck, ``_Lost`` when it ended."""
        header = {
            "op": "run",
            "code": code.code_id,
            "limits": asdict(request.limits),
            "env": list(request.env.items()),
        }
        stdin = memory_file.sealed("stdin", request.input)
        try:
            reply = await self._ask(Frame(header), stdin, request.limits.seconds + GRACE_SECONDS)
        finally:
            os.close(stdin)
        return _decode_result(reply, request.limits)

    async def exit_code(self) -> int:
        """How the process ended: negative for a signal."""
        return await self._process.wait()

    async def _ask(self, frame: Frame, fd: int | None, seconds: float) -> Frame:
        async with asyncio.timeout(seconds):
            try:
                await self._send(encode(frame), fd)
                return await self._receive()
            except ConnectionError as error:
                raise _Lost from error

    async def _send(self, data: bytes, fd: int | None) -> None:
        loop = asyncio.get_running_loop()
        if fd is not None:
            # requests and replies alternate, so the socket's buffer is empty here and takes the first bytes
            sent = socket.send_fds(self._socket, [data], [fd])
            data = data[sent:]
        if data:
            await loop.sock_sendall(self._socket, data)

    async def _receive(self) -> Frame:
        header, payload = decode_prefix(await self._exactly(PREFIX.size))
        return Frame(decode_header(await self._exactly(header)), await self._exactly(payload))

    async def _exactly(self, size: int) -> bytes:
        loop = asyncio.get_running_loop()
        data = bytearray()
        while len(data) < size:
            try:
                chunk = await loop.sock_recv(self._socket, min(size - len(data), 1 << 20))
            except ConnectionError as error:
                raise _Lost from error
            if not chunk:
                raise _Lost
            data += chunk
        return bytes(data)

    async def _read_stderr(self) -> None:
        while self._process.stderr and (chunk := await self._process.stderr.read(4096)):
            self._said = (self._said + chunk)[-4096:]


def _decode_result(reply: Frame, limits: Limits) -> RunResult:
    """A result out of a reply; an executor that a guest controls gains nothing by lying about sizes."""
    header: dict[str, Any] = reply.header
    try:
        size, instructions, time_ms = (
            int(header[name]) for name in ("output_bytes", "instructions", "time_ms")
        )
        category = None if header["category"] is None else Category(header["category"])
        message = bounded_text(str(header["message"]))
        operation = header["op"]
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError("an executor's result lacks a field") from error
    in_range = (
        0 <= size <= min(limits.output_bytes, len(reply.payload)) and instructions >= 0 and time_ms >= 0
    )
    if operation != "result" or not in_range or not 0 <= instructions <= limits.instructions:
        raise ProtocolError("an executor's result is out of range")
    stderr = reply.payload[size:][:STDERR_LIMIT]
    return RunResult(reply.payload[:size], stderr, instructions, time_ms, category, message)


class ExecutorPool:
    """A fixed number of executors. A job that kills its executor fails alone; a new process takes its place."""

    def __init__(self, size: int, *, max_memory_bytes: int = 1024 * MIB) -> None:
        if size < 1:
            raise ValueError("a pool needs at least one executor")
        self._size = size
        # code (mapped privately while it is loaded), the interpreter, and the largest guest
        self._data_bytes = RESIDENT_BYTES + 256 * MIB + max_memory_bytes
        self._idle: list[Executor] = []
        self._free = asyncio.Semaphore(0)
        self._all: set[Executor] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def size(self) -> int:
        return self._size

    @property
    def pids(self) -> list[int]:
        return sorted(executor.pid for executor in self._all)

    async def start(self) -> None:
        """Start all executors. Raises ``ExecutorStartError``."""
        await asyncio.gather(*(self._add() for _ in range(self._size)))

    async def close(self) -> None:
        """Kill all executors."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(executor.kill() for executor in list(self._all)))
        self._all.clear()
        self._idle.clear()

    async def run(self, code: CompiledCode, request: RunRequest) -> RunResult:
        """Run code once. What goes wrong with the guest is in the result.

        Raises ``JobError`` when the code itself cannot be loaded.
        """
        async with self._borrow(code) as executor:
            loop = asyncio.get_running_loop()
            began = loop.time()
            limits = request.limits

            def ended(category: Category, message: str, instructions: int) -> RunResult:
                elapsed = int((loop.time() - began) * 1000) + 1
                return RunResult(b"", b"", instructions, elapsed, category, message)

            try:
                await executor.load(code)
            except (TimeoutError, _Lost, ProtocolError) as error:
                await executor.kill()
                raise JobError(Category.CRASHED, "the executor failed while it loaded the code") from error
            began = loop.time()
            try:
                return await executor.run(code, request)
            except TimeoutError:
                await executor.kill()
                # what a guest spent before it went to sleep is not known any more: its whole budget counts
                message = f"the guest ran longer than {limits.seconds:g} s (it waited in a host call)"
                return ended(Category.TIMEOUT, message, limits.instructions)
            except ProtocolError as error:
                await executor.kill()
                return ended(Category.CRASHED, str(error), 0)
            except _Lost:
                code_number = await executor.exit_code()
                if code_number == -signal.SIGABRT:
                    message = f"the guest needs more than its {limits.memory_bytes // MIB} MiB of memory"
                    return ended(Category.MEMORY, message, limits.instructions)
                log.warning("executor_lost", pid=executor.pid, exit_code=code_number, said=executor.said())
                return ended(Category.CRASHED, "the executor process ended during the run", 0)

    @contextlib.asynccontextmanager
    async def _borrow(self, code: CompiledCode) -> AsyncIterator[Executor]:
        executor = await self._take(code)
        try:
            yield executor
        except BaseException:
            # whatever it was doing when this call was cut off, its next answer would be for somebody else
            await executor.kill()
            raise
        finally:
            self._give_back(executor)

    async def _take(self, code: CompiledCode) -> Executor:
        while True:
            await self._free.acquire()
            executor = next((item for item in self._idle if item.holds(code)), self._idle[-1])
            self._idle.remove(executor)
            if executor.alive:
                return executor
            self._give_back(executor)

    def _give_back(self, executor: Executor) -> None:
        if executor.alive:
            self._idle.append(executor)
            self._free.release()
            return
        self._all.discard(executor)
        if not self._closed:
            task = asyncio.create_task(self._replace(executor))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _replace(self, lost: Executor) -> None:
        await lost.kill()
        delay = 0.1
        while True:
            try:
                return await self._add()
            except (ExecutorStartError, OSError) as error:
                log.warning("executor_start_failed", error=str(error))
                await asyncio.sleep(delay)
                delay = min(delay * 2, 10.0)

    async def _add(self) -> None:
        executor = await Executor.start(data_bytes=self._data_bytes)
        self._all.add(executor)
        self._idle.append(executor)
        self._free.release()
