# SPDX-License-Identifier: MIT
"""Compiled contracts, in memory and on disk.

A compiled module is machine code that wasmtime maps and runs, so a file counts only if this user owns
it, nobody else can write it, and its content has the SHA-256 written in its header. The key covers the
contract, the parameter table, the instrumentation's format and wasmtime's version.
"""

from __future__ import annotations

import hashlib
import os
import platform
import stat
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

import structlog
import wasmtime
from wasmtime import _ffi as ffi

__all__ = ["DiskCache", "MemoryCache", "default_dir", "engine"]

_WINCH: Final = 2  # WASMTIME_STRATEGY_WINCH of wasmtime/config.h, which the Python enum leaves out
_MAGIC: Final = b"outlayer-localnet-compiled-1\n"
_log = structlog.get_logger(__name__)

T = TypeVar("T")


def default_dir() -> Path:
    """``$XDG_CACHE_HOME/outlayer/localnet``, by default ``~/.cache/outlayer/localnet``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "outlayer" / "localnet"


_engine: wasmtime.Engine | None = None
_engine_lock = threading.Lock()


def engine() -> wasmtime.Engine:
    """The engine of this process, made at first use.

    Not at import: it installs signal handlers, and who installs theirs later (pytest's faulthandler)
    would take the traps of contracts.
    """
    global _engine
    with _engine_lock:
        if _engine is None:
            _engine = _new_engine()
        return _engine


def _new_engine() -> wasmtime.Engine:
    config = wasmtime.Config()
    config.cranelift_nan_canonicalization = True
    config.wasm_reference_types = True
    config.wasm_bulk_memory = True
    config.memory_may_move = False
    # the instrumentation limits the stack; this is the native room for 256 KiB of nearcore's measure
    stack = 4 * 1024 * 1024
    ffi.wasmtime_config_async_stack_size_set(config.ptr(), stack)
    config.max_wasm_stack = stack
    config.native_unwind_info = False
    if platform.machine() in ("x86_64", "AMD64"):
        # nearcore's choice too: compiles six times faster, runs a contract in milliseconds all the same
        ffi.wasmtime_config_strategy_set(config.ptr(), _WINCH)
    else:
        config.cranelift_opt_level = "none"
    return wasmtime.Engine(config)


class MemoryCache(Generic[T]):
    """A thread-safe map that keeps the ``limit`` entries used last."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[bytes, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: bytes) -> T | None:
        """The entry, if it is there."""
        with self._lock:
            value = self._entries.get(key)
            if value is not None:
                self._entries.move_to_end(key)
            return value

    def put(self, key: bytes, value: T) -> None:
        """Add an entry; the one unused for longest goes when there are too many."""
        with self._lock:
            self._entries[key] = value
            self._entries.move_to_end(key)
            if len(self._entries) > self._limit:
                self._entries.popitem(last=False)


class DiskCache:
    """Compiled modules in files of one folder. Failing to read or write is never an error."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def compiled(self, key: bytes, prepare: Callable[[], bytes]) -> wasmtime.Module:
        """The compiled module under ``key``; ``prepare`` makes the module's bytes when there is none."""
        path = self._folder / f"{key.hex()}.cwasm"
        module = self._load(path)
        if module is None:
            module = wasmtime.Module(engine(), prepare())
            self._store(path, bytes(module.serialize()))
        return module

    def _load(self, path: Path) -> wasmtime.Module | None:
        data = _read_own(path)
        if data is None:
            return None
        header = len(_MAGIC) + 32
        digest, content = data[len(_MAGIC) : header], data[header:]
        if not data.startswith(_MAGIC) or hashlib.sha256(content).digest() != digest:
            _log.warning(
                "compiled_contract_refused", file=path.name, reason="content does not match its hash"
            )
            return None
        try:
            return wasmtime.Module.deserialize(engine(), content)
        except wasmtime.WasmtimeError as error:
            _log.info("compiled_contract_refused", file=path.name, reason=str(error))
            return None

    def _store(self, path: Path, content: bytes) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
                file.write(_MAGIC + hashlib.sha256(content).digest() + content)
            Path(file.name).replace(path)
        except OSError as error:
            _log.info("compiled_contract_not_kept", file=path.name, reason=str(error))


def _read_own(path: Path) -> bytes | None:
    """The file's content if it is a regular file of this user that nobody else may write."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
            _log.warning(
                "compiled_contract_refused", file=path.name, reason="not a private file of this user"
            )
            return None
        try:
            return file.read()
        except OSError:
            return None
