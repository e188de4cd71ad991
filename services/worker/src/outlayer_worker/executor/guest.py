# SPDX-License-Identifier: MIT
"""Loads compiled code and runs it once per request, inside an executor process."""

from __future__ import annotations

import errno
import math
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import wasmtime
from wasmtime import component as wit

from outlayer_worker.errors import JobError
from outlayer_worker.executor import sandbox
from outlayer_worker.executor.engine import make_engine
from outlayer_worker.executor.model import (
    MIB,
    STDERR_LIMIT,
    Category,
    Kind,
    Limits,
    RunResult,
    bounded_text,
)

# Beside the guest's own memory a run needs the store, host buffers and the stacks of two host threads.
HOST_SLACK_BYTES = 24 * MIB
RUN_INTERFACE = re.compile(r"wasi:cli/run@0\.2\.\d+")
P1_MODULE = "wasi_snapshot_preview1"
P2_PACKAGES = re.compile(r"wasi:(?:cli|clocks|filesystem|io|random|sockets)/[a-z0-9-]+@0\.2\.\d+")

_OUT_OF_MEMORY_SAID = re.compile(
    rb"memory allocation of \d+ bytes failed|MemoryError|out of memory|cannot allocate memory", re.IGNORECASE
)
_LIMIT_HIT = re.compile(
    r"exceeds (?:memory|table) limits|count too high|Cannot allocate memory|failed to grow|out of memory",
    re.IGNORECASE,
)


class _Output:
    """Collects what a guest writes; past the limit it calls ``on_full`` once and takes no more."""

    def __init__(self, limit: int, on_full: Callable[[], None]) -> None:
        self._limit = limit
        self._on_full = on_full
        self._chunks: list[bytes] = []
        self._size = 0
        self.full = False

    def write(self, data: bytes) -> int:
        if self.full or self._size + len(data) > self._limit:
            if not self.full:
                self.full = True
                self._on_full()
            return -errno.ENOSPC
        self._chunks.append(data)
        self._size += len(data)
        return len(data)

    def value(self) -> bytes:
        return b"".join(self._chunks)


class _Head:
    """Keeps the first bytes of a stream for the log and drops the rest."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()

    def write(self, data: bytes) -> int:
        self._data += data[: self._limit - len(self._data)]
        return len(data)

    def value(self) -> bytes:
        return bytes(self._data)


class _Clock:
    """One thread that interrupts the running guest (an epoch step) when its time is over."""

    def __init__(self, engine: wasmtime.Engine) -> None:
        self._engine = engine
        self._changed = threading.Condition()
        self._deadline: float | None = None
        self.expired = False
        threading.Thread(target=self._watch, daemon=True).start()

    def start(self, seconds: float) -> None:
        with self._changed:
            self.expired = False
            self._deadline = time.monotonic() + seconds
            self._changed.notify()

    def stop(self) -> None:
        with self._changed:
            self._deadline = None

    def _watch(self) -> None:
        with self._changed:
            while True:
                if self._deadline is None:
                    self._changed.wait()
                    continue
                left = self._deadline - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                    continue
                self._deadline = None
                self.expired = True
                self._engine.increment_epoch()


@dataclass(frozen=True)
class _Loaded:
    start: Callable[[wasmtime.Store], None]


class GuestExitError(Exception):
    """``wasi:cli/run`` returned its error case, which carries no text."""


class Runtime:
    """Compiled code by id, ready to run."""

    def __init__(self) -> None:
        self._engine = make_engine()
        self._clock = _Clock(self._engine)
        self._modules = wasmtime.Linker(self._engine)
        self._modules.define_wasi()
        self._components = wit.Linker(self._engine)
        self._components.add_wasip2()
        self._loaded: dict[str, _Loaded] = {}

    def load(self, code_id: str, kind: Kind, path: str) -> None:
        """Take a compiled artifact from a file. It must be authentic: its machine code is trusted."""
        if kind is Kind.MODULE:
            module = wasmtime.Module.deserialize_file(self._engine, path)
            pre = self._modules.instantiate_pre(module)
            self._loaded[code_id] = _Loaded(lambda store: _run_module(pre, store))
        else:
            component = wit.Component.deserialize_file(self._engine, path)
            interface = run_interface(component, self._engine)
            self._loaded[code_id] = _Loaded(
                lambda store: _run_component(self._components, component, interface, store)
            )

    def unload(self, code_id: str) -> None:
        self._loaded.pop(code_id, None)

    def run(self, code_id: str, limits: Limits, env: list[tuple[str, str]], stdin_path: str) -> RunResult:
        """One run in a fresh instance. Never raises for what the guest does."""
        loaded = self._loaded[code_id]
        output = _Output(limits.output_bytes, self._engine.increment_epoch)
        stderr = _Head(STDERR_LIMIT)
        store = wasmtime.Store(self._engine)
        before = sandbox.private_memory()
        began = time.monotonic()
        failure: tuple[Category, str] | None = None
        try:
            _prepare(store, limits, env, stdin_path, output, stderr)
            sandbox.limit_memory(before + limits.memory_bytes + HOST_SLACK_BYTES)
            self._clock.start(limits.seconds)
            try:
                loaded.start(store)
            finally:
                self._clock.stop()
        except (wasmtime.WasmtimeError, wasmtime.Trap, GuestExitError, MemoryError) as error:
            if not (isinstance(error, wasmtime.ExitTrap) and error.code == 0):
                used = sandbox.private_memory() - before
                failure = _explain(error, limits, output, stderr.value(), used, timed_out=self._clock.expired)
        finally:
            elapsed = time.monotonic() - began
            sandbox.lift_memory_limit()
        spent = limits.instructions - store.get_fuel()
        if failure is not None and failure[0] is Category.TIMEOUT:
            # compiled code keeps its fuel in a register, which an interruption loses: the whole budget counts
            spent = limits.instructions
        store.close()
        if failure is None and output.full:
            failure = (Category.OUTPUT, _output_message(limits))
        if failure is None:
            return RunResult(output.value(), stderr.value(), spent, math.ceil(elapsed * 1000))
        return RunResult(b"", stderr.value(), spent, math.ceil(elapsed * 1000), *failure)


def _prepare(
    store: wasmtime.Store,
    limits: Limits,
    env: list[tuple[str, str]],
    stdin_path: str,
    output: _Output,
    stderr: _Head,
) -> None:
    store.set_limits(
        memory_size=limits.memory_bytes,
        table_elements=limits.memory_bytes // 8,
        instances=256,
        tables=256,
        memories=64,
    )
    store.set_fuel(limits.instructions)
    store.set_epoch_deadline(1)
    wasi = wasmtime.WasiConfig()
    wasi.argv = ["guest"]
    wasi.env = env
    wasi.stdin_file = stdin_path
    wasi.stdout_custom = output.write
    wasi.stderr_custom = stderr.write
    store.set_wasi(wasi)


def _run_module(pre: wasmtime.InstancePre, store: wasmtime.Store) -> None:
    start = pre.instantiate(store).exports(store)["_start"]
    cast("wasmtime.Func", start)(store)


def _run_component(
    linker: wit.Linker, component: wit.Component, interface: str, store: wasmtime.Store
) -> None:
    instance = linker.instantiate(store, component)
    index = instance.get_export_index(store, interface)
    function = instance.get_func(store, instance.get_export_index(store, "run", index) or "run")
    if function is None:
        raise wasmtime.WasmtimeError("wasi:cli/run holds no function run")
    if getattr(function(store), "tag", "ok") == "err":
        raise GuestExitError


def run_interface(component: wit.Component, engine: wasmtime.Engine) -> str:
    """The name under which a component exports ``wasi:cli/run``. Raises ``JobError`` when it does not."""
    for name in component.type.exports(engine):
        if RUN_INTERFACE.fullmatch(name):
            return str(name)
    raise JobError(Category.INVALID_WASM, "the component does not export wasi:cli/run@0.2")


def check_imports(compiled: wasmtime.Module | wit.Component, engine: wasmtime.Engine) -> None:
    """What a guest needs must be what executors give. Raises ``JobError`` naming the first other import."""
    if isinstance(compiled, wasmtime.Module):
        for item in compiled.imports:
            if item.module != P1_MODULE:
                raise _missing(f"{item.module}.{item.name}")
        exported = {item.name: item.type for item in compiled.exports}
        start = exported.get("_start")
        if not isinstance(start, wasmtime.FuncType) or start.params or start.results:
            raise JobError(Category.INVALID_WASM, "the module does not export a function _start: () -> ()")
        linker = wasmtime.Linker(engine)
        linker.define_wasi()
        try:
            linker.instantiate_pre(compiled)
        except wasmtime.WasmtimeError as error:
            raise JobError(Category.MISSING_IMPORT, bounded_text(str(error))) from error
        return
    for name in compiled.type.imports(engine):
        if not P2_PACKAGES.fullmatch(name):
            raise _missing(name)
    run_interface(compiled, engine)


def _missing(name: str) -> JobError:
    return JobError(
        Category.MISSING_IMPORT,
        bounded_text(
            f"the guest imports {name}, which executors do not provide (WASI 0.1 and 0.2 without HTTP)"
        ),
    )


def _output_message(limits: Limits) -> str:
    return f"the guest wrote more than {limits.output_bytes} bytes of output"


def _explain(
    error: Exception, limits: Limits, output: _Output, stderr: bytes, used_bytes: int, *, timed_out: bool
) -> tuple[Category, str]:
    """Category and message of a run that did not end well."""
    text = str(error)
    if output.full:
        return Category.OUTPUT, _output_message(limits)
    if _is_trap(error, wasmtime.TrapCode.OUT_OF_FUEL, "all fuel consumed"):
        return Category.INSTRUCTIONS, f"the guest used all its {limits.instructions} instructions"
    if timed_out:
        return Category.TIMEOUT, f"the guest ran longer than {limits.seconds:g} s"
    starved = used_bytes >= limits.memory_bytes * 7 // 8 or _OUT_OF_MEMORY_SAID.search(stderr)
    if isinstance(error, MemoryError) or _LIMIT_HIT.search(text) or starved:
        return Category.MEMORY, f"the guest needs more than its {limits.memory_bytes // MIB} MiB of memory"
    if isinstance(error, GuestExitError):
        return Category.GUEST_EXIT, "the guest ended with an error (run returned err)"
    if isinstance(error, wasmtime.ExitTrap):
        return Category.GUEST_EXIT, f"the guest exited with code {error.code}"
    return Category.GUEST_TRAP, bounded_text(f"the guest trapped: {_reason(text)}", 300)


def _is_trap(error: Exception, code: wasmtime.TrapCode, words: str) -> bool:
    if isinstance(error, wasmtime.Trap):
        return error.trap_code == code
    return f"wasm trap: {words}" in str(error)


def _reason(text: str) -> str:
    """The cause out of wasmtime's report, without the guest's backtrace."""
    found = re.search(r"wasm trap: ([^\n]+)", text)
    return found.group(1) if found else text.splitlines()[0] if text else "unknown reason"
