# SPDX-License-Identifier: MIT
"""From WASM bytes to machine code that executors may load: compiled once, kept on disk, authenticated.

Loading machine code trusts it completely, so every artifact carries an HMAC by a key that only the worker
holds, over the code, the WASM's hash and the engine's settings; it is checked on the very bytes that are
then loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import sys
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import structlog

from outlayer_worker.errors import JobError
from outlayer_worker.executor import memory_file
from outlayer_worker.executor.model import MIB, Category, Kind, bounded_text

log = structlog.get_logger(__name__)

MAC_BYTES = 32
MAC_TAG = b"outlayer/compiled-code/v1"
_KIND_BYTE = {Kind.MODULE: b"m", Kind.COMPONENT: b"c"}


class CompiledCode:
    """Machine code in a sealed memory file. Usable as long as somebody holds this object."""

    def __init__(self, code_id: str, kind: Kind, code: bytes) -> None:
        self.code_id = code_id
        self.kind = kind
        self.size = len(code)
        self.fd = memory_file.sealed("code", code)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.close(self.fd)


@dataclass(frozen=True)
class CompileLimits:
    """Bounds of one compilation; an 18 MB Python component takes 8 s and 0.5 GB on one slow core."""

    seconds: float = 120.0
    memory_bytes: int = 3072 * MIB


async def compile_wasm(wasm: bytes, limits: CompileLimits) -> tuple[Kind, bytes]:
    """Compile in a process of its own. Raises ``JobError``: no guest, missing import, beyond the limits."""
    source, target = memory_file.sealed("wasm", wasm), memory_file.empty("code")
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-m",
            "outlayer_worker.executor.compile_child",
            *(str(item) for item in (source, target, os.getpid(), limits.memory_bytes, int(limits.seconds))),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=[source, target],
            env={},
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(limits.seconds):
                said, errors = await process.communicate()
        except TimeoutError as error:
            raise JobError(
                Category.COMPILE_LIMIT, f"the guest does not compile within {limits.seconds:g} s"
            ) from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return _compile_outcome(process.returncode, said, errors, target)
    finally:
        os.close(source)
        os.close(target)


def _compile_outcome(returncode: int | None, said: bytes, errors: bytes, target: int) -> tuple[Kind, bytes]:
    if returncode != 0:
        log.warning(
            "compiler_failed", exit_code=returncode, said=bounded_text(errors.decode(errors="replace"))
        )
        raise JobError(Category.COMPILE_LIMIT, "the guest does not compile within the compiler's limits")
    report = json.loads(said)
    if "category" in report:
        raise JobError(report["category"], report["message"])
    return Kind(report["kind"]), memory_file.contents(target)


class CodeStore:
    """Compiled code by the WASM's SHA-256: in memory first, then on disk, else compiled now.

    ``key`` is the worker's secret for the HMAC. Least recently used files go when ``max_bytes`` is exceeded.
    """

    def __init__(
        self,
        folder: Path,
        key: bytes,
        engine_digest: str,
        *,
        max_bytes: int = 1024 * MIB,
        memory_bytes: int = 512 * MIB,
        limits: CompileLimits | None = None,
    ) -> None:
        self._folder = folder
        self._key = key
        self._engine_digest = engine_digest
        self._max_bytes = max_bytes
        self._memory_bytes = memory_bytes
        self._limits = limits or CompileLimits()
        self._memory: OrderedDict[str, CompiledCode] = OrderedDict()
        self._failures: OrderedDict[str, JobError] = OrderedDict()
        self._running: dict[str, asyncio.Task[CompiledCode]] = {}
        self._one_compiler = asyncio.Semaphore(1)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def resident(self, sha256: str) -> CompiledCode | None:
        """Code that is at hand without any waiting."""
        code = self._memory.get(sha256)
        if code is not None:
            self._memory.move_to_end(sha256)
        return code

    async def stored(self, sha256: str) -> CompiledCode | None:
        """Code from memory or disk; None when it has to be compiled. A file that was changed is removed."""
        if (code := self.resident(sha256)) is not None:
            return code
        found = await asyncio.to_thread(self._read, sha256)
        return None if found is None else self._remember(sha256, *found)

    async def compiled(self, sha256: str, wasm: bytes) -> CompiledCode:
        """Code for these bytes, compiled if need be. Callers that want the same code wait for one compiler.

        Raises ``JobError`` when they do not match the hash or do not compile; the answer is remembered.
        """
        if (code := await self.stored(sha256)) is not None:
            return code
        if hashlib.sha256(wasm).hexdigest() != sha256:
            raise JobError(Category.INVALID_WASM, "the WASM bytes do not have the expected SHA-256")
        if (failure := self._failures.get(sha256)) is not None:
            raise JobError(failure.category, failure.message)
        task = self._running.get(sha256)
        if task is None:
            task = asyncio.create_task(self._compile(sha256, wasm))
            self._running[sha256] = task
            task.add_done_callback(lambda _: self._running.pop(sha256, None))
        return await asyncio.shield(task)

    async def _compile(self, sha256: str, wasm: bytes) -> CompiledCode:
        async with self._one_compiler:
            began = asyncio.get_running_loop().time()
            try:
                kind, code = await compile_wasm(wasm, self._limits)
            except JobError as error:
                self._failures[sha256] = error
                while len(self._failures) > 256:
                    self._failures.popitem(last=False)
                raise
            seconds = asyncio.get_running_loop().time() - began
            log.info("compiled", wasm_sha256=sha256, wasm_bytes=len(wasm), seconds=round(seconds, 3))
        await asyncio.to_thread(self._write, sha256, kind, code)
        return self._remember(sha256, kind, code)

    def _remember(self, sha256: str, kind: Kind, code: bytes) -> CompiledCode:
        if (known := self.resident(sha256)) is not None:
            return known
        compiled = CompiledCode(sha256, kind, code)
        self._memory[sha256] = compiled
        while len(self._memory) > 1 and sum(item.size for item in self._memory.values()) > self._memory_bytes:
            self._memory.popitem(last=False)
        return compiled

    # --- files: MAC, kind byte, machine code ---

    def _path(self, sha256: str) -> Path:
        return self._folder / f"{sha256}.{self._engine_digest[:16]}.code"

    def _mac(self, sha256: str, body: bytes) -> bytes:
        name = f"{sha256}:{self._engine_digest}:".encode()
        return hmac.digest(self._key, MAC_TAG + name + hashlib.sha256(body).digest(), "sha256")

    def _read(self, sha256: str) -> tuple[Kind, bytes] | None:
        path = self._path(sha256)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        body = data[MAC_BYTES:]
        kinds = {value: kind for kind, value in _KIND_BYTE.items()}
        if not hmac.compare_digest(data[:MAC_BYTES], self._mac(sha256, body)) or body[:1] not in kinds:
            log.error(
                "compiled_code_refused", path=path.name, reason="the file is not what this worker wrote"
            )
            path.unlink(missing_ok=True)
            return None
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)
        return kinds[body[:1]], body[1:]

    def _write(self, sha256: str, kind: Kind, code: bytes) -> None:
        body = _KIND_BYTE[kind] + code
        path = self._path(sha256)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(self._mac(sha256, body))
            file.write(body)
        partial.replace(path)
        self._evict(keep=path)

    def _evict(self, keep: Path) -> None:
        files = sorted(
            ((item.stat().st_mtime, item.stat().st_size, item) for item in self._folder.glob("*.code")),
            key=lambda entry: entry[0],
        )
        total = sum(size for _, size, _ in files)
        for _, size, path in files:
            if total <= self._max_bytes:
                break
            if path != keep:
                path.unlink(missing_ok=True)
                total -= size
