# SPDX-License-Identifier: MIT
"""Runs contract methods as nearcore does at protocol version 86, on wasmtime.

:func:`run` is one function call: it loads the code (see :mod:`wasmprep` and :mod:`wasmcache`), gives the
module the functions of :mod:`hostfns` and reports what happened. It runs in the caller's thread, and
several threads may run calls at once.

Host calls go through wasmtime's C API (its own Python bindings of it), because the object layer costs
several times more per call and keeps one pending exception for all threads.
"""
# ruff: noqa: SLF001

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import wasmtime
from wasmtime import _ffi as ffi

from outlayer_localnet import wasmcache, wasmprep
from outlayer_localnet.hostctx import (
    MAX_U64,
    External,
    HostCtx,
    Profile,
    PromiseResult,
    VMContext,
)
from outlayer_localnet.hostfns import FUNCTIONS, Import
from outlayer_localnet.params import Params
from outlayer_localnet.vm_errors import (
    HostFailure,
    PrepareError,
    VMError,
    VMHostError,
    host,
    link,
    method_resolve,
    trap,
)

__all__ = [
    "External",
    "Profile",
    "PromiseResult",
    "Tap",
    "VMContext",
    "VMError",
    "VMOutcome",
    "add_tap",
    "remove_tap",
    "run",
]

_U64_MASK: Final = MAX_U64
_U32_MASK: Final = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class VMOutcome:
    """What a call did.

    ``return_data``: bytes, or the index of the receipt whose result this call's is, or ``None``.
    ``used_gas`` is burnt and promised gas, before unused gas goes to weighted calls. ``balance``
    (yoctoNEAR, with the incoming deposit, without what promises took) and ``storage_usage`` (bytes) count
    only if ``error`` is ``None``. ``subsidized`` is yoctoNEAR minted for one-yocto deposits.
    """

    burnt_gas: int
    used_gas: int
    return_data: bytes | int | None
    logs: tuple[str, ...]
    error: VMError | None
    balance: int
    storage_usage: int
    profile: Profile
    subsidized: int = 0


# -- host functions as seen by wasmtime ------------------------------------------------------------


class _Running(threading.local):
    """The call that runs in this thread."""

    call: _Call | None = None


_running = _Running()


class _Call:
    """Glue between one instance and its :class:`HostCtx`: gas in the module's global, pending errors."""

    __slots__ = ("ctx", "error", "gas_global", "store", "value")

    def __init__(self, ctx: HostCtx, store: Any) -> None:
        self.ctx = ctx
        self.store = store
        self.gas_global = ffi.wasmtime_global_t()
        self.value = ffi.wasmtime_val_t(kind=ffi.WASMTIME_I64)
        self.error: BaseException | None = None

    def take_gas(self) -> None:
        """Burn what the operators used since the module last ran."""
        ffi.wasmtime_global_get(self.store, ctypes.byref(self.gas_global), ctypes.byref(self.value))
        gas = self.ctx.gas
        burned = gas.remaining - self.value.of.i64
        if burned > 0:
            gas.burn(burned)

    def give_gas(self) -> None:
        """Tell the module how much gas there is."""
        self.value.kind = ffi.WASMTIME_I64
        self.value.of.i64 = self.ctx.gas.remaining
        error = ffi.wasmtime_global_set(self.store, ctypes.byref(self.gas_global), ctypes.byref(self.value))
        if error:
            raise wasmtime.WasmtimeError._from_ptr(error)


_RawCallback = ctypes.CFUNCTYPE(
    ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint64), ctypes.c_size_t
)
_TRAP_TEXT: Final = b"host function"
_TABLE: Final = tuple(FUNCTIONS.values())


def _dispatch(index: int | None, _caller: int, values: Any, _count: int) -> int:
    """Called by wasmtime for every host function; 0, or a trap that ends the run.

    Values are 16 bytes each, the number in the low eight.
    """
    call = _running.call
    if call is None:  # cannot happen: modules only run inside run()
        return _new_trap()
    try:
        call.take_gas()
        function = _TABLE[index or 0]
        # a pointer slice that is empty and has a step yields one item (ctypes rounds up)
        args = values[: 2 * len(function.params) : 2] if function.params else []
        if function.params and function.params[0] == "i32":
            args = [arg & _U32_MASK for arg in args]
        result = function.run(call.ctx, *args)
        if function.result is not None:
            values[0] = result
        call.give_gas()
    except BaseException as error:  # noqa: BLE001 - nothing may unwind through wasmtime's frames
        call.error = error
        return _new_trap()
    return 0


def _new_trap() -> int:
    pointer = ffi.wasmtime_trap_new(ctypes.create_string_buffer(_TRAP_TEXT), len(_TRAP_TEXT))
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0


_callback = _RawCallback(_dispatch)
_NO_FINALIZER: Final = ctypes.cast(0, ctypes.CFUNCTYPE(None, ctypes.c_void_p))


def _func_type(function: Import) -> wasmtime.FuncType:
    kinds = {"i32": wasmtime.ValType.i32, "i64": wasmtime.ValType.i64}
    results = [kinds[function.result]()] if function.result else []
    return wasmtime.FuncType([kinds[name]() for name in function.params], results)


def _new_linker() -> wasmtime.Linker:
    linker = wasmtime.Linker(wasmcache.engine())
    raw = ctypes.cast(_callback, ffi.wasmtime_func_unchecked_callback_t)
    for index, function in enumerate(_TABLE):
        name, func_type = function.name.encode(), _func_type(function)
        error = ffi.wasmtime_linker_define_func_unchecked(
            linker.ptr(),
            ctypes.create_string_buffer(b"env"),
            3,
            ctypes.create_string_buffer(name),
            len(name),
            func_type.ptr(),
            raw,
            index,
            _NO_FINALIZER,
        )
        if error:
            raise wasmtime.WasmtimeError._from_ptr(error)
    return linker


_linker_lock = threading.Lock()
_shared_linker: wasmtime.Linker | None = None


def _linker() -> wasmtime.Linker:
    """The import table for this process's engine, made at first use."""
    global _shared_linker
    with _linker_lock:
        if _shared_linker is None:
            _shared_linker = _new_linker()
        return _shared_linker


# -- code ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Code:
    """A contract ready to run, or why it cannot be."""

    pre: wasmtime.InstancePre | None
    error: VMError | None
    methods: dict[str, bool]  # name: has no parameters and no results
    has_start: bool = False
    has_table: bool = False


_WASMTIME: Final = importlib.metadata.version("wasmtime")
_MEMORY_CACHE: Final[wasmcache.MemoryCache[_Code]] = wasmcache.MemoryCache(limit=256)


def _load(code: bytes, params: Params, cache_dir: Path | None) -> _Code:
    identity = f"{wasmprep.FORMAT}\0{_WASMTIME}\0{params.digest}\0".encode()
    key = hashlib.sha256(identity + hashlib.sha256(code).digest()).digest()
    known = _MEMORY_CACHE.get(key)
    if known is None:
        known = _compile(key, code, params, cache_dir)
        _MEMORY_CACHE.put(key, known)
    return known


def _compile(key: bytes, code: bytes, params: Params, cache_dir: Path | None) -> _Code:
    cache = wasmcache.DiskCache(cache_dir or wasmcache.default_dir())
    try:
        module = cache.compiled(key, lambda: wasmprep.prepare(code, params))
    except PrepareError as error:
        return _Code(None, error.to_vm_error(), {})
    except wasmtime.WasmtimeError as error:
        message = f"Wasmtime compilation error: {error}"
        failure = VMError("CompilationError", "WasmtimeCompileError", message, (("msg", str(error)),))
        return _Code(None, failure, {})
    methods, names = {}, set()
    for export in module.exports:
        names.add(export.name)
        if export.name.startswith(wasmprep.FUNCTION_PREFIX) and isinstance(export.type, wasmtime.FuncType):
            plain = not export.type.params and not export.type.results
            methods[export.name.removeprefix(wasmprep.FUNCTION_PREFIX)] = plain
    try:
        pre = _linker().instantiate_pre(module)
    except wasmtime.WasmtimeError as error:
        return _Code(None, link(_link_message(str(error))), methods)
    return _Code(pre, None, methods, has_start=wasmprep.START_EXPORT in names)


def _link_message(text: str) -> str:
    if "unknown import" in text:
        return "unknown or invalid import"
    # wasmtime prints the chain of causes; nearcore keeps the last one
    return text.strip().splitlines()[-1].strip().removeprefix("0:").removeprefix("1:").strip()


# -- running ---------------------------------------------------------------------------------------

_TRAPS: Final = {
    wasmtime.TrapCode.STACK_OVERFLOW: "StackOverflow",
    wasmtime.TrapCode.MEMORY_OUT_OF_BOUNDS: "MemoryOutOfBounds",
    wasmtime.TrapCode.TABLE_OUT_OF_BOUNDS: "MemoryOutOfBounds",
    wasmtime.TrapCode.INDIRECT_CALL_TO_NULL: "IndirectCallToNull",
    wasmtime.TrapCode.BAD_SIGNATURE: "IncorrectCallIndirectSignature",
    wasmtime.TrapCode.INTEGER_OVERFLOW: "IllegalArithmetic",
    wasmtime.TrapCode.INTEGER_DIVISION_BY_ZERO: "IllegalArithmetic",
    wasmtime.TrapCode.BAD_CONVERSION_TO_INTEGER: "IllegalArithmetic",
    wasmtime.TrapCode.UNREACHABLE: "Unreachable",
}


class _Instance:
    """An instance with its store, and the exports that a run needs."""

    def __init__(self, code: _Code, params: Params, ctx: HostCtx) -> None:
        self.store = wasmtime.Store(wasmcache.engine())
        limits = params.limits
        self.store.set_limits(table_elements=limits.max_elements_per_contract_table)
        self._context = self.store._context()
        self.call = _Call(ctx, self._context)
        self._stack = ffi.wasmtime_global_t()
        self._instance = ffi.wasmtime_instance_t()
        self._code = code

    def start(self) -> VMError | None:
        """Instantiate and resolve the exports."""
        assert self._code.pre is not None  # noqa: S101 - the caller looked at code.error
        trapped = ctypes.POINTER(ffi.wasm_trap_t)()
        error = ffi.wasmtime_instance_pre_instantiate(
            self._code.pre.ptr(), self._context, ctypes.byref(self._instance), ctypes.byref(trapped)
        )
        failure = self._failure(error, trapped)
        if failure is not None:
            return failure
        self.call.gas_global = self._export(wasmprep.GAS_EXPORT).of.global_
        self._stack = self._export(wasmprep.STACK_EXPORT).of.global_
        memory = self._export(wasmprep.MEMORY_EXPORT).of.memory
        base = ffi.wasmtime_memory_data(self._context, ctypes.byref(memory))
        ctx, context = self.call.ctx, self._context
        ctx.memory_base = ctypes.cast(base, ctypes.c_void_p).value or 0
        ctx.memory_size_now = lambda: ffi.wasmtime_memory_data_size(context, ctypes.byref(memory))
        ctx.memory_size = ctx.memory_size_now()
        return None

    def _export(self, name: str) -> Any:
        raw = name.encode()
        item = ffi.wasmtime_extern_t()
        if not ffi.wasmtime_instance_export_get(
            self._context,
            ctypes.byref(self._instance),
            ctypes.create_string_buffer(raw),
            len(raw),
            ctypes.byref(item),
        ):
            raise VMHostError(f"the prepared module has no export {name}")
        return item

    def invoke(self, export: str) -> VMError | None:
        """Call an exported function without parameters and results; burns its gas."""
        function = self._export(export).of.func
        trapped = ctypes.POINTER(ffi.wasm_trap_t)()
        call = self.call
        try:
            call.give_gas()
            error = ffi.wasmtime_func_call(
                self._context, ctypes.byref(function), None, 0, None, 0, ctypes.byref(trapped)
            )
            failure = self._failure(error, trapped)
            if call.error is None:
                call.take_gas()
        except HostFailure as stopped:
            return stopped.error
        if failure is not None and failure.variant == "Unreachable" and self._stack_exhausted():
            return host("MemoryAccessViolation").error
        return failure

    def _stack_exhausted(self) -> bool:
        value = ffi.wasmtime_val_t()
        ffi.wasmtime_global_get(self._context, ctypes.byref(self._stack), ctypes.byref(value))
        return bool(value.of.i32 < 0)

    def _failure(self, error: Any, trapped: Any) -> VMError | None:
        """What a call into wasmtime ended with."""
        pending = self.call.error
        if error:
            text = wasmtime.WasmtimeError._from_ptr(error)
            if pending is None:
                raise VMHostError(f"wasmtime failed: {text}")
        caught = wasmtime.Trap._from_ptr(trapped) if trapped else None
        if pending is not None:
            if isinstance(pending, HostFailure):
                return pending.error
            raise pending
        if caught is None:
            return None
        code = caught.trap_code
        name = None if code is None else _TRAPS.get(code)
        if name is None:
            raise VMHostError(f"wasmtime stopped for an unexpected reason: {caught.message}")
        return trap(name)


class Tap(Protocol):
    """Watches calls: sees what goes in, may stand between the VM and ``ext``, sees what comes out."""

    def before(
        self, code: bytes, method: str, ctx: VMContext, ext: External, results: tuple[PromiseResult, ...]
    ) -> External:
        """A call begins; the external it shall use."""

    def after(self, ext: External, outcome: VMOutcome) -> None:
        """The call with this external ended."""


_taps: list[Tap] = []


def add_tap(tap: Tap) -> None:
    """Let ``tap`` watch all calls of this process."""
    _taps.append(tap)


def remove_tap(tap: Tap) -> None:
    """Stop ``tap`` from watching."""
    _taps.remove(tap)


def run(
    code: bytes,
    method: str,
    ctx: VMContext,
    ext: External,
    promise_results: Sequence[PromiseResult],
    params: Params,
    *,
    cache_dir: Path | None = None,
) -> VMOutcome:
    """Call ``method`` of contract ``code``.

    Each promise result is the value's bytes, or ``None`` for a failed promise. What the contract does
    wrong comes back as ``VMOutcome.error``; exceptions are the node's own trouble, or those of ``ext``.
    """
    results = tuple(promise_results)
    taps = tuple(_taps)
    for tap in taps:
        ext = tap.before(code, method, ctx, ext, results)
    h = HostCtx(params, ctx, ext, results)
    error = _run(code, method, h, params, cache_dir)
    gas = h.gas
    profile = gas.profile
    accounted = sum(profile.host.values()) + sum(profile.actions.values())
    profile.wasm = max(0, gas.burnt - accounted)
    outcome = VMOutcome(
        burnt_gas=gas.burnt,
        used_gas=gas.used,
        return_data=h.return_data,
        logs=tuple(h.logs),
        error=error,
        balance=h.balance,
        storage_usage=h.storage_usage,
        profile=profile,
        subsidized=h.subsidized,
    )
    for tap in reversed(taps):
        tap.after(ext, outcome)
    return outcome


def _run(code: bytes, method: str, h: HostCtx, params: Params, cache_dir: Path | None) -> VMError | None:
    if not method:
        return method_resolve("MethodEmptyName")
    loaded = _load(code, params, cache_dir)
    if loaded.error is not None and loaded.error.kind == "CompilationError":
        return loaded.error
    try:
        h.gas.pay("contract_loading_bytes", len(code))
        h.gas.pay("contract_loading_base")
    except HostFailure:
        return host("GasExceeded").error
    if loaded.error is not None:
        return loaded.error
    plain = loaded.methods.get(method)
    if plain is None or not plain:
        # the call does nothing at all at this protocol version: not even loading is charged
        _forget(h)
        return method_resolve("MethodNotFound" if plain is None else "MethodInvalidSignature")
    return _execute(loaded, method, h, params)


def _forget(h: HostCtx) -> None:
    h.balance = h.storage_usage = 0
    h.gas.burnt = h.gas.promised = 0
    h.gas.profile = Profile()


def _execute(loaded: _Code, method: str, h: HostCtx, params: Params) -> VMError | None:
    instance = _Instance(loaded, params, h)
    outer = _running.call
    _running.call = instance.call
    try:
        error = instance.start()
        if error is None and loaded.has_start:
            error = instance.invoke(wasmprep.START_EXPORT)
        if error is None:
            error = instance.invoke(wasmprep.FUNCTION_PREFIX + method)
        return error
    finally:
        _running.call = outer
        instance.store.close()
