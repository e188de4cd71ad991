# SPDX-License-Identifier: MIT
"""Turns a contract's module into one that counts gas and stack as nearcore does.

The rules are those of nearcore's preparation at protocol version 86 (``near-vm-runner`` 0.38,
``prepare_v3``/``instrument_v3``, and the analyses of ``finite-wasm`` 0.6):

* cost: one ``regular_op_cost`` per executed operator; ``block``, ``else`` and ``end`` are free; ``loop``
  costs one each iteration; ``memory``/``table`` ``.copy .fill .init .grow`` cost
  ``linear_op_base_cost + n * linear_op_unit_cost``, n being what is asked for;
* on function entry ``ceil(frame / 8)`` operators, frame being 64 bytes and the params and locals;
* stack: each active function holds its frame and its largest operand stack (bytes).

Charges stand at the same points and in the same amounts as in nearcore, so the gas is the same after a
trap and when gas runs out in the middle too. What differs is the shape of the code: instead of calling
the host, a charge subtracts from an exported global (``GAS_EXPORT``, gas left) and executes
``unreachable`` when that went negative; too deep a stack sets ``STACK_EXPORT`` to -1 and does the same.
No function or type index changes, so function bodies are copied in slices.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import wasmtime

from outlayer_localnet.params import Params
from outlayer_localnet.vm_errors import PrepareError

__all__ = [
    "FORMAT",
    "FUNCTION_PREFIX",
    "GAS_EXPORT",
    "MEMORY_EXPORT",
    "STACK_EXPORT",
    "START_EXPORT",
    "PrepareError",
    "prepare",
]

# Bump when the output for the same input changes; part of the compiled code's cache key.
FORMAT: Final = 2

GAS_EXPORT: Final = "gas"
STACK_EXPORT: Final = "stack"
MEMORY_EXPORT: Final = "memory"
START_EXPORT: Final = "start"
# Exported functions get this prefix, so no contract can name one like our own exports.
FUNCTION_PREFIX: Final = "f:"

_PAGE: Final = 65_536

# value types of the binary format, and their size on nearcore's model of the stack
_I32, _I64, _F32, _F64, _V128, _FUNCREF, _EXTERNREF = 0x7F, 0x7E, 0x7D, 0x7C, 0x7B, 0x70, 0x6F
_SIZE: Final = {_I32: 4, _I64: 8, _F32: 4, _F64: 8, _V128: 16, _FUNCREF: 8, _EXTERNREF: 8}

_SECTION_NAMES: Final = {13: "tag (exceptions)"}
_PREFIX_NAMES: Final = {0xFB: "garbage collection", 0xFD: "SIMD", 0xFE: "threads (atomics)"}


# -- reading the binary format ---------------------------------------------------------------------


def _bad(detail: str) -> PrepareError:
    return PrepareError("Deserialization", detail)


class _Reader:
    """Cursor over bytes; raises :class:`PrepareError` at the end of input and on overlong numbers."""

    __slots__ = ("data", "end", "pos")

    def __init__(self, data: bytes, pos: int, end: int) -> None:
        self.data = data
        self.pos = pos
        self.end = end

    def byte(self) -> int:
        if self.pos >= self.end:
            raise _bad("unexpected end of the module")
        value = self.data[self.pos]
        self.pos += 1
        return value

    def take(self, size: int) -> bytes:
        end = self.pos + size
        if end > self.end:
            raise _bad("unexpected end of the module")
        chunk = self.data[self.pos : end]
        self.pos = end
        return chunk

    def u32(self) -> int:
        result = shift = 0
        while True:
            byte = self.byte()
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > 28:
                raise _bad("an integer is too long")
        if result >> 32:
            raise _bad("an integer is too large")
        return result

    def u64(self) -> int:
        result = shift = 0
        while True:
            byte = self.byte()
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                return result
            shift += 7
            if shift > 63:
                raise _bad("an integer is too long")

    def skip_leb(self) -> None:
        while self.byte() >= 0x80:
            pass

    def name(self) -> str:
        raw = self.take(self.u32())
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise _bad("a name is not UTF-8") from None


def _uleb(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _sleb(value: int) -> bytes:
    out = bytearray()
    while True:
        byte = value & 0x7F
        value >>= 7
        if (value == 0 and not byte & 0x40) or (value == -1 and byte & 0x40):
            out.append(byte)
            return bytes(out)
        out.append(byte | 0x80)


class _FuncType(NamedTuple):
    params: bytes
    results: bytes


@dataclass(slots=True)
class _Module:
    """What the instrumentation needs to know of a module; sections are (start, end) of their content."""

    sections: dict[int, tuple[int, int]] = field(default_factory=dict)
    types: list[_FuncType] = field(default_factory=list)
    imported: list[int] = field(default_factory=list)  # type index per imported function
    defined: list[int] = field(default_factory=list)  # type index per function with a body
    tables: int = 0
    global_types: list[int] = field(default_factory=list)
    function_exports: list[tuple[str, int]] = field(default_factory=list)
    start: int | None = None
    bodies: list[tuple[int, int]] = field(default_factory=list)


# -- sections: structure and limits ----------------------------------------------------------------


def _read_limits(r: _Reader) -> int:
    flags = r.byte()
    if flags > 1:
        raise _bad("shared or 64-bit memories and tables are not allowed")
    minimum = r.u32()
    if flags:
        r.u32()
    return minimum


def _read_types(r: _Reader, module: _Module, params: Params) -> None:
    count = r.u32()
    if count > params.limits.max_types_per_contract:
        raise PrepareError(
            "TooManyTypes", f"{count} types, the limit is {params.limits.max_types_per_contract}"
        )
    for _ in range(count):
        form = r.byte()
        if form != 0x60:
            raise _bad(f"type form 0x{form:02x} (garbage collection proposal) is not allowed")
        module.types.append(_FuncType(r.take(r.u32()), r.take(r.u32())))
        if len(module.types[-1].results) > 1:
            raise _bad("functions with several results (multi-value) are not allowed")


def _read_imports(r: _Reader, module: _Module, params: Params) -> None:
    for _ in range(r.u32()):
        namespace, name, kind = r.name(), r.name(), r.byte()
        if kind == 0:
            type_index = r.u32()
        elif kind == 1:
            r.byte()
            _read_limits(r)
        elif kind == 2:
            _read_limits(r)
        elif kind == 3:
            r.take(2)
        else:
            raise _bad(f"import {namespace}.{name} has kind {kind}")
        if namespace != "env":
            raise PrepareError("Instantiate", f"import {namespace}.{name}: only functions of 'env' exist")
        if kind == 2:
            raise PrepareError("Memory", "the memory must be declared, not imported")
        if kind in (1, 3):
            raise PrepareError("Instantiate", f"import {namespace}.{name} is not a function")
        module.imported.append(type_index)
        if len(module.imported) > params.limits.max_functions_number_per_contract:
            raise PrepareError("TooManyFunctions", "too many imported functions")


def _read_tables(r: _Reader, module: _Module, params: Params) -> None:
    starts = []
    module.tables = r.u32()
    for _ in range(module.tables):
        kind = r.byte()
        if kind not in (_FUNCREF, _EXTERNREF):
            raise _bad(f"table type 0x{kind:02x} is not allowed")
        starts.append(_read_limits(r))
    if module.tables > params.limits.max_tables_per_contract:
        raise PrepareError("TooManyTables", f"{module.tables} tables")
    if any(start > params.limits.max_elements_per_contract_table for start in starts):
        raise PrepareError("TooManyTableElements", "the table starts with too many elements")


def _skip_const_expr(r: _Reader) -> None:
    opcode = r.byte()
    if opcode in (0x41, 0x42, 0x23, 0xD2):  # i32.const, i64.const, global.get, ref.func
        r.skip_leb()
    elif opcode == 0x43:
        r.take(4)
    elif opcode == 0x44:
        r.take(8)
    elif opcode == 0xD0:
        r.byte()
    else:
        raise _bad(f"opcode 0x{opcode:02x} in a constant expression")
    if r.byte() != 0x0B:
        raise _bad("a constant expression of several operators (extended-const) is not allowed")


def _read_globals(r: _Reader, module: _Module) -> None:
    for _ in range(r.u32()):
        module.global_types.append(r.byte())
        r.byte()
        _skip_const_expr(r)


def _read_exports(r: _Reader, module: _Module) -> None:
    for _ in range(r.u32()):
        name, kind, index = r.name(), r.byte(), r.u32()
        if kind == 0:
            module.function_exports.append((name, index))


def _check_elements(r: _Reader) -> None:
    # bodies of constant expressions are all that wasmtime would take and nearcore would not
    for _ in range(r.u32()):
        flags = r.u32()
        if flags > 7:
            raise _bad("unknown element segment flags")
        if not flags & 1:
            if flags & 2:
                r.u32()
            _skip_const_expr(r)
        if flags & 3:
            r.byte()
        for _ in range(r.u32()):
            if flags & 4:
                _skip_const_expr(r)
            else:
                r.u32()


def _check_data(r: _Reader) -> None:
    for _ in range(r.u32()):
        flags = r.u32()
        if flags > 2:
            raise _bad("unknown data segment flags")
        if flags == 2:
            r.u32()
        if flags != 1:
            _skip_const_expr(r)
        r.take(r.u32())


def _read_code(r: _Reader, module: _Module, params: Params) -> None:
    limits = params.limits
    count = r.u32()
    if count + len(module.imported) > limits.max_functions_number_per_contract:
        raise PrepareError("TooManyFunctions", f"{count + len(module.imported)} functions")
    locals_left = limits.max_locals_per_contract
    for _ in range(count):
        size = r.u32()
        start = r.pos
        r.take(size)
        if size > limits.max_function_body_size:
            raise PrepareError("FunctionBodyTooLarge", f"a function has {size} bytes")
        body = _Reader(r.data, start, r.pos)
        for _ in range(body.u32()):
            number, kind = body.u32(), body.byte()
            if kind not in _SIZE:
                raise _bad(f"local type 0x{kind:02x} is not allowed")
            locals_left -= number
            if locals_left < 0:
                raise PrepareError("TooManyLocals", f"more than {limits.max_locals_per_contract} locals")
        module.bodies.append((start, r.pos))


def _parse(code: bytes, params: Params) -> _Module:
    if code[:8] != b"\0asm\x01\0\0\0":
        what = "a component, not a module" if code[:4] == b"\0asm" else "not a WebAssembly module"
        raise _bad(what)
    module = _Module()
    outer = _Reader(code, 8, len(code))
    while outer.pos < outer.end:
        section = outer.byte()
        size = outer.u32()
        start = outer.pos
        outer.take(size)
        if section == 0:
            continue
        if section > 12:
            raise _bad(f"section {section} {_SECTION_NAMES.get(section, '')} is not allowed")
        if section in module.sections:
            raise _bad(f"section {section} appears twice")
        module.sections[section] = (start, outer.pos)
        r = _Reader(code, start, outer.pos)
        if section == 1:
            _read_types(r, module, params)
        elif section == 2:
            _read_imports(r, module, params)
        elif section == 3:
            module.defined.extend(r.u32() for _ in range(r.u32()))
        elif section == 4:
            _read_tables(r, module, params)
        elif section == 6:
            _read_globals(r, module)
        elif section == 7:
            _read_exports(r, module)
        elif section == 8:
            module.start = r.u32()
        elif section == 9:
            _check_elements(r)
        elif section == 10:
            _read_code(r, module, params)
        elif section == 11:
            _check_data(r)
    return module


@functools.cache
def _validation_engine() -> wasmtime.Engine:
    """An engine whose validator knows exactly the proposals that nearcore allows."""
    config = wasmtime.Config()
    config.wasm_threads = False
    config.wasm_tail_call = False
    config.wasm_reference_types = True
    config.wasm_bulk_memory = True
    config.wasm_relaxed_simd = False
    config.wasm_simd = False
    config.wasm_multi_value = False
    config.wasm_multi_memory = False
    config.wasm_memory64 = False
    config.wasm_exceptions = False
    config.wasm_function_references = False
    config.wasm_gc = False
    config.wasm_wide_arithmetic = False
    config.wasm_custom_page_sizes = False
    config.wasm_stack_switching = False
    config.gc_support = False
    return wasmtime.Engine(config)


def _validate(code: bytes) -> None:
    try:
        wasmtime.Module.validate(_validation_engine(), code)
    except wasmtime.WasmtimeError as error:
        raise _bad(f"the module is not valid: {error}") from None


# -- the operators ---------------------------------------------------------------------------------

# How the immediates of an opcode are skipped, and how the decoder treats it.
_NONE, _LEB, _MEMARG, _FOUR, _EIGHT, _SPECIAL = range(6)


class _Op(NamedTuple):
    immediate: int
    pops: int  # operands taken, as far as sizes are concerned
    push: int  # size of what is pushed, 0 for nothing
    traps: bool  # ends a run of operators that are charged together


def _operator_table() -> list[_Op | None]:
    table: list[_Op | None] = [None] * 256

    def fill(opcodes: range, immediate: int, pops: int, push: int, *, traps: bool = False) -> None:
        for opcode in opcodes:
            table[opcode] = _Op(immediate, pops, push, traps)

    def one(opcode: int) -> range:
        return range(opcode, opcode + 1)

    for opcode in (0x00, 0x02, 0x03, 0x04, 0x05, 0x0B, 0x0C, 0x0D, 0x0E, 0x0F, 0x10, 0x11):
        table[opcode] = _Op(_SPECIAL, 0, 0, traps=False)
    for opcode in (0x1C, 0x20, 0x23, 0xFC):
        table[opcode] = _Op(_SPECIAL, 0, 0, traps=False)
    fill(one(0x01), _NONE, 0, 0)  # nop
    fill(one(0x1A), _NONE, 1, 0)  # drop
    fill(one(0x1B), _NONE, 2, 0)  # select
    fill(one(0x21), _LEB, 1, 0)  # local.set
    fill(one(0x22), _LEB, 0, 0)  # local.tee
    fill(one(0x24), _LEB, 1, 0)  # global.set
    fill(one(0x25), _LEB, 1, 8, traps=True)  # table.get
    fill(one(0x26), _LEB, 2, 0, traps=True)  # table.set
    for opcode, push in ((0x28, 4), (0x29, 8), (0x2A, 4), (0x2B, 8)):
        fill(one(opcode), _MEMARG, 1, push, traps=True)
    fill(range(0x2C, 0x30), _MEMARG, 1, 4, traps=True)
    fill(range(0x30, 0x36), _MEMARG, 1, 8, traps=True)
    fill(range(0x36, 0x3F), _MEMARG, 2, 0, traps=True)
    fill(one(0x3F), _LEB, 0, 4)  # memory.size
    fill(one(0x41), _LEB, 0, 4)
    fill(one(0x42), _LEB, 0, 8)
    fill(one(0x43), _FOUR, 0, 4)
    fill(one(0x44), _EIGHT, 0, 8)
    fill(one(0x45), _NONE, 1, 4)  # i32.eqz
    fill(range(0x46, 0x50), _NONE, 2, 4)  # i32 comparisons
    fill(one(0x50), _NONE, 1, 4)  # i64.eqz
    fill(range(0x51, 0x67), _NONE, 2, 4)  # i64, f32, f64 comparisons
    fill(range(0x67, 0x6A), _NONE, 0, 0)  # i32 clz ctz popcnt
    fill(range(0x6A, 0x79), _NONE, 1, 0)  # i32 binary
    fill(range(0x79, 0x7C), _NONE, 0, 0)  # i64 unary
    fill(range(0x7C, 0x8B), _NONE, 1, 0)  # i64 binary
    fill(range(0x8B, 0x92), _NONE, 0, 0)  # f32 unary
    fill(range(0x92, 0x99), _NONE, 1, 0)  # f32 binary
    fill(range(0x99, 0xA0), _NONE, 0, 0)  # f64 unary
    fill(range(0xA0, 0xA7), _NONE, 1, 0)  # f64 binary
    for start in (0x6D, 0x7F):  # integer div and rem trap
        fill(range(start, start + 4), _NONE, 1, 0, traps=True)
    fill(one(0xA7), _NONE, 1, 4)  # i32.wrap_i64
    fill(range(0xA8, 0xAC), _NONE, 1, 4, traps=True)  # i32.trunc
    fill(range(0xAC, 0xAE), _NONE, 1, 8)  # i64.extend_i32
    fill(range(0xAE, 0xB2), _NONE, 1, 8, traps=True)  # i64.trunc
    fill(range(0xB2, 0xB7), _NONE, 1, 4)  # f32.convert, f32.demote
    fill(range(0xB7, 0xBC), _NONE, 1, 8)  # f64.convert, f64.promote
    for opcode, push in ((0xBC, 4), (0xBD, 8), (0xBE, 4), (0xBF, 8)):  # reinterpret
        fill(one(opcode), _NONE, 1, push)
    fill(range(0xC0, 0xC2), _NONE, 1, 4)  # i32.extend8_s, extend16_s
    fill(range(0xC2, 0xC5), _NONE, 1, 8)  # i64.extend
    fill(one(0xD0), _LEB, 0, 8)  # ref.null
    fill(one(0xD1), _NONE, 1, 4)  # ref.is_null
    fill(one(0xD2), _LEB, 0, 8)  # ref.func
    # memory.grow is charged by its operand
    table[0x40] = _Op(_SPECIAL, 0, 0, traps=False)
    return table


_OPS: Final = _operator_table()

# 0xFC sub-opcodes: (number of LEB immediates, pops, push, charged by its last operand)
_FC: Final[dict[int, tuple[int, int, int, bool]]] = {
    **{sub: (0, 1, 4 if sub < 4 else 8, False) for sub in range(8)},  # trunc_sat
    8: (2, 3, 0, True),  # memory.init
    9: (1, 0, 0, False),  # data.drop
    10: (2, 3, 0, True),  # memory.copy
    11: (1, 3, 0, True),  # memory.fill
    12: (2, 3, 0, True),  # table.init
    13: (1, 0, 0, False),  # elem.drop
    14: (2, 3, 0, True),  # table.copy
    15: (1, 2, 4, True),  # table.grow
    16: (1, 0, 4, False),  # table.size
    17: (1, 3, 0, True),  # table.fill
}


# -- analysis of one function ----------------------------------------------------------------------

_LOOP, _UNTAKEN, _TAKEN = range(3)


class _Frame:
    """A block, loop or if that is open; ``polymorphic``: the rest of it cannot be reached."""

    __slots__ = ("height", "kind", "polymorphic", "result", "taken")

    def __init__(self, kind: int, height: int, result: int, *, polymorphic: bool) -> None:
        self.kind = kind
        self.height = height
        self.result = result
        self.polymorphic = polymorphic
        self.taken = False


class _Charge:
    """Operators charged together, before the operator at ``offset``.

    ``barrier``: never joined to what precedes. ``closed``: nothing joins it from behind. A charge at the
    head of a loop is a barrier if something branches to that loop, known only at the end.
    """

    __slots__ = ("barrier", "closed", "linear", "loop", "offset", "units")

    def __init__(self, offset: int, units: int, *, barrier: bool, loop: _Frame | None = None) -> None:
        self.offset = offset
        self.units = units
        self.barrier = barrier
        self.loop = loop
        self.closed = False
        self.linear = False


@dataclass(slots=True)
class _Analysis:
    charges: list[_Charge]
    returns: list[tuple[int, int]]  # (offset of a return, depth of the function's own block)
    operand_bytes: int
    blocks: int
    calls: bool  # may enter another function with a body
    end: int  # offset of the final `end`


def _block_result(r: _Reader) -> int:
    """Size of a block's result; block types that name a function type would need multi-value."""
    kind = r.byte()
    if kind == 0x40:
        return 0
    size = _SIZE.get(kind)
    if size is None:
        # a function type, which without multi-value has no parameters and at most one result
        raise _bad("block types by index (multi-value) are not allowed")
    return size


class _Analyzer:
    """One pass over a validated function body."""

    def __init__(self, module: _Module, params: Params) -> None:
        self._max_blocks = params.limits.max_blocks_per_function
        self._max_operands = params.limits.max_operand_stack_bytes_per_function
        # per function index: how many operands a call takes, size of its result; is it ours to meter
        self._calls = [self._shape(module.types[i]) for i in module.imported + module.defined]
        self._types = [self._shape(t) for t in module.types]
        self._imports = len(module.imported)
        self._globals = [_SIZE[t] for t in module.global_types]

    @staticmethod
    def _shape(func_type: _FuncType) -> tuple[int, int]:
        return len(func_type.params), _SIZE[func_type.results[0]] if func_type.results else 0

    def run(self, code: bytes, start: int, end: int, local_sizes: _LocalSizes) -> _Analysis:  # noqa: C901, PLR0912, PLR0915, RUF100 - the hot loop of the preparation; splitting it doubles its time
        ops, shapes, types, global_sizes = _OPS, self._calls, self._types, self._globals
        frames = [_Frame(_UNTAKEN, 0, 0, polymorphic=False)]
        frame = frames[0]
        operands: list[int] = []
        size = peak = blocks = 0
        charges: list[_Charge] = []
        returns: list[tuple[int, int]] = []
        calls = False
        current: _Charge | None = None
        barrier = False  # the operator before was a branch, a trap point or a branch target
        r = _Reader(code, start, end)
        pos = start
        while True:
            offset = pos
            opcode = code[pos]
            pos += 1
            op = ops[opcode]
            if op is None:
                raise _bad(_opcode_name(opcode))
            immediate, pops, push, closes = op
            units = 1
            linear = False
            dead = frame.polymorphic
            if immediate == _NONE:
                pass
            elif immediate == _LEB:
                while code[pos] >= 0x80:
                    pos += 1
                pos += 1
            elif immediate == _MEMARG:
                while code[pos] >= 0x80:
                    pos += 1
                pos += 1
                while code[pos] >= 0x80:
                    pos += 1
                pos += 1
            elif opcode == 0x20 or opcode == 0x23:  # local.get, global.get  # noqa: PLR1714, RUF100
                index = shift = 0
                while True:
                    byte = code[pos]
                    pos += 1
                    index |= (byte & 0x7F) << shift
                    if byte < 0x80:
                        break
                    shift += 7
                push = local_sizes.of(index) if opcode == 0x20 else global_sizes[index]
            elif immediate == _FOUR:
                pos += 4
            elif immediate == _EIGHT:
                pos += 8
            else:
                r.pos = pos
                if opcode == 0x10 or opcode == 0x11:  # call, call_indirect  # noqa: PLR1714, RUF100
                    index = r.u32()
                    if opcode == 0x11:
                        r.u32()
                        # nearcore's analysis leaves the table index on the stack; so does this one
                        pops, push = types[index]
                        calls = True
                    else:
                        pops, push = shapes[index]
                        calls = calls or index >= self._imports
                    closes = True
                elif opcode == 0x0D:  # br_if
                    frames[-1 - r.u32()].taken = True
                    pops, closes = 1, True
                elif opcode == 0x02 or opcode == 0x04:  # block, if  # noqa: PLR1714, RUF100
                    blocks += 1
                    if blocks > self._max_blocks:
                        raise PrepareError("TooManyBlocksPerFunction", f"more than {self._max_blocks} blocks")
                    result = _block_result(r)
                    if opcode == 0x04:
                        closes = True
                        if not dead:
                            size -= operands.pop()
                    else:
                        units = 0
                    frame = _Frame(
                        _TAKEN if opcode == 0x04 else _UNTAKEN, len(operands), result, polymorphic=dead
                    )
                    frames.append(frame)
                elif opcode == 0x0B:  # end
                    units = 0
                    closes = frame.kind == _TAKEN or (frame.kind == _UNTAKEN and frame.taken)
                    if len(frames) == 1:
                        if current is not None:
                            charges.append(current)
                        break
                    ended = frames.pop()
                    frame = frames[-1]
                    if not frame.polymorphic:
                        size -= sum(operands[ended.height :])
                        del operands[ended.height :]
                        if ended.result:
                            operands.append(ended.result)
                            size += ended.result
                            if size > peak:
                                peak = size
                elif opcode == 0x03:  # loop
                    blocks += 1
                    if blocks > self._max_blocks:
                        raise PrepareError("TooManyBlocksPerFunction", f"more than {self._max_blocks} blocks")
                    frame = _Frame(_LOOP, len(operands), _block_result(r), polymorphic=dead)
                    frames.append(frame)
                    pos = r.pos
                    if not dead:
                        if current is None or current.closed or barrier:
                            if current is not None:
                                charges.append(current)
                            current = _Charge(offset, 0, barrier=barrier)
                        charges.append(current)
                        current = _Charge(pos, 1, barrier=False, loop=frame)
                        barrier = False
                    continue
                elif opcode == 0x05:  # else
                    units = 0
                    closes = True
                    ended = frames.pop()
                    frame = frames[-1]
                    dead = frame.polymorphic
                    if not dead:
                        size -= sum(operands[ended.height :])
                        del operands[ended.height :]
                    frame = _Frame(_TAKEN, ended.height, ended.result, polymorphic=dead)
                    frames.append(frame)
                elif opcode == 0x0C:  # br
                    frames[-1 - r.u32()].taken = True
                    closes = True
                    frame.polymorphic = True
                elif opcode == 0x0E:  # br_table
                    for _ in range(r.u32() + 1):
                        frames[-1 - r.u32()].taken = True
                    closes = True
                    frame.polymorphic = True
                elif opcode == 0x0F:  # return
                    frames[0].taken = True
                    returns.append((offset, len(frames) - 1))
                    closes = True
                    frame.polymorphic = True
                elif opcode == 0x00:  # unreachable
                    closes = True
                    frame.polymorphic = True
                elif opcode == 0x40:  # memory.grow
                    r.byte()
                    linear = closes = True
                elif opcode == 0x1C:  # select with types
                    r.take(r.u32())
                    pops = 2
                else:  # 0xFC
                    sub = r.u32()
                    entry = _FC.get(sub)
                    if entry is None:
                        raise _bad(f"opcode 0xfc {sub} is not allowed")
                    immediates, pops, push, linear = entry
                    for _ in range(immediates):
                        r.skip_leb()
                    closes = linear
                pos = r.pos

            # where its gas is charged
            if dead:
                if current is not None:
                    charges.append(current)
                    current = None
                barrier = closes and opcode == 0x0B
                continue
            if linear:
                if current is not None:
                    charges.append(current)
                current = _Charge(offset, 0, barrier=True)
                current.linear = current.closed = True
            elif current is None or barrier or current.closed:
                if current is not None:
                    charges.append(current)
                current = _Charge(offset, units, barrier=barrier)
                current.closed = closes
            else:
                current.units += units
                current.closed = closes
            barrier = closes

            # what it does to the operand stack
            if pops == 1:
                size -= operands.pop()
            elif pops:
                size -= sum(operands[-pops:])
                del operands[-pops:]
            if push:
                operands.append(push)
                size += push
                if size > peak:
                    peak = size
        if pos != end:
            raise _bad("a function body goes on after its end")
        if peak > self._max_operands:
            raise PrepareError("OperandStackTooLarge", f"a function uses {peak} bytes of operand stack")
        return _Analysis(_joined(charges), returns, peak, blocks, calls, offset)


def _joined(charges: list[_Charge]) -> list[_Charge]:
    """Join a loop head's charge with what precedes it where nothing branches to the loop."""
    out: list[_Charge] = []
    previous: _Charge | None = None
    for charge in charges:
        head = charge.loop
        if (
            head is not None
            and not head.taken
            and not charge.barrier
            and previous is not None
            and not previous.closed
        ):
            previous.units += charge.units
            previous.closed = charge.closed
            continue
        out.append(charge)
        previous = charge
    return [charge for charge in out if charge.units or charge.linear]


def _opcode_name(opcode: int) -> str:
    proposal = _PREFIX_NAMES.get(opcode)
    if proposal is None and opcode in (0x06, 0x07, 0x08, 0x09, 0x0A, 0x18, 0x19, 0x1F):
        proposal = "exception handling"
    if proposal is None and opcode in (0x12, 0x13, 0x15):
        proposal = "tail calls"
    return f"opcode 0x{opcode:02x} ({proposal or 'unknown'}) is not allowed"


class _LocalSizes:
    """Stack sizes of params and locals by index, kept in runs: a body may declare a million locals."""

    __slots__ = ("_ends", "_few", "_sizes", "count", "total")

    def __init__(self, params: bytes, declared: list[tuple[int, int]]) -> None:
        self._ends: list[int] = []
        self._sizes: list[int] = []
        self.count = self.total = 0
        for count, kind in [*((1, kind) for kind in params), *declared]:
            self.count += count
            self.total += count * _SIZE[kind]
            self._ends.append(self.count)
            self._sizes.append(_SIZE[kind])
        few = self.count <= 4096
        self._few = (
            [s for s, (n, _) in zip(self._sizes, self._runs(), strict=True) for _ in range(n)]
            if few
            else None
        )

    def _runs(self) -> list[tuple[int, int]]:
        starts = [0, *self._ends[:-1]] if self._ends else []
        return [(end - start, start) for start, end in zip(starts, self._ends, strict=True)]

    def of(self, index: int) -> int:
        if self._few is not None:
            return self._few[index]
        for end, size in zip(self._ends, self._sizes, strict=True):
            if index < end:
                return size
        raise _bad("a local that does not exist")


# -- writing ---------------------------------------------------------------------------------------


class _Instrumenter:
    """Writes function bodies with charges; ``gas`` and ``stack`` are the indices of our globals."""

    def __init__(self, module: _Module, params: Params) -> None:
        self._module = module
        self._params = params
        self._gas = _uleb(len(module.global_types))
        self._stack = _uleb(len(module.global_types) + 1)
        self._get_gas = b"\x23" + self._gas
        # if gas < 0: unreachable
        self._check = b"\x24" + self._gas + self._get_gas + b"\x42\x00\x53\x04\x40\x00\x0b"
        self._cache: dict[int, bytes] = {}
        self._analyzer = _Analyzer(module, params)

    def _charge(self, units: int) -> bytes:
        code = self._cache.get(units)
        if code is None:
            gas = units * self._params.regular_op_cost
            code = self._get_gas + b"\x42" + _sleb(gas) + b"\x7d" + self._check
            self._cache[units] = code
        return code

    def _charge_linear(self, local: bytes) -> bytes:
        p = self._params
        return b"".join(
            (
                b"\x21" + local,  # local.set n
                self._get_gas,
                b"\x20" + local + b"\xad",  # local.get n, i64.extend_i32_u
                b"\x42" + _sleb(p.linear_op_unit_cost) + b"\x7e\x7d",
                b"\x42" + _sleb(p.linear_op_base_cost) + b"\x7d",
                self._check,
                b"\x20" + local,
            )
        )

    def body(self, code: bytes, start: int, end: int, type_index: int) -> tuple[bytes, int]:
        """The instrumented body (locals and code, without size) and its number of blocks."""
        func_type = self._module.types[type_index]
        r = _Reader(code, start, end)
        groups = r.u32()
        groups_start = r.pos
        declared = [(r.u32(), r.byte()) for _ in range(groups)]
        locals_ = _LocalSizes(func_type.params, declared)
        analysis = self._analyzer.run(code, r.pos, end, locals_)
        out = [_uleb(groups), code[groups_start : r.pos]]
        linear = b""
        if any(charge.linear for charge in analysis.charges):
            out = [_uleb(groups + 1), code[groups_start : r.pos], b"\x01\x7f"]
            linear = self._charge_linear(_uleb(locals_.count))
        frame = 64 + locals_.total
        held = frame + analysis.operand_bytes
        if analysis.calls:
            out.append(b"\x02" + (bytes([func_type.results[0]]) if func_type.results else b"\x40"))
        out.append(self._enter(held, keep=analysis.calls))
        out.append(self._charge((frame + 7) // 8))
        self._copy(out, code, r.pos, analysis, linear)
        if analysis.calls:
            out.append(b"\x0b" + self._leave(held))
        out.append(b"\x0b")
        return b"".join(out), analysis.blocks

    def _enter(self, held: int, *, keep: bool) -> bytes:
        get, size = b"\x23" + self._stack, b"\x41" + _sleb(held)
        exhausted = b"\x04\x40\x41\x7f\x24" + self._stack + b"\x00\x0b"  # if: stack = -1, unreachable
        code = get + size + b"\x48" + exhausted
        # a function that enters no other need only look whether its own frame fits
        return code + (get + size + b"\x6b\x24" + self._stack if keep else b"")

    def _leave(self, held: int) -> bytes:
        return b"\x23" + self._stack + b"\x41" + _sleb(held) + b"\x6a\x24" + self._stack

    def _copy(self, out: list[bytes], code: bytes, start: int, analysis: _Analysis, linear: bytes) -> None:
        """Copy operators up to the final ``end``, with charges in front of theirs.

        In a function with our block around its body, ``return`` becomes a branch to that block, so the
        frame is given back on each way out; a branch to the function's own label ends there anyway.
        """
        edits = [(c.offset, linear if c.linear else self._charge(c.units), False) for c in analysis.charges]
        if analysis.calls:
            edits += [(offset, b"\x0c" + _uleb(depth), True) for offset, depth in analysis.returns]
            edits.sort(key=lambda edit: (edit[0], edit[2]))
        pos = start
        for offset, text, replaces in edits:
            out.append(code[pos:offset])
            out.append(text)
            pos = offset + 1 if replaces else offset
        out.append(code[pos : analysis.end])


def _section(number: int, content: bytes) -> bytes:
    return bytes([number]) + _uleb(len(content)) + content


def _string(text: str) -> bytes:
    raw = text.encode("utf-8")
    return _uleb(len(raw)) + raw


def _code_section(code: bytes, module: _Module, params: Params) -> bytes:
    limits = params.limits
    instrumenter = _Instrumenter(module, params)
    out = [_uleb(len(module.bodies))]
    blocks_left, params_left = limits.max_blocks_per_contract, limits.max_params_per_contract
    for type_index, (start, end) in zip(module.defined, module.bodies, strict=True):
        count = len(module.types[type_index].params)
        if count > limits.max_params_per_function:
            raise PrepareError("TooManyParamsPerFunction", f"a function has {count} parameters")
        params_left -= count
        if params_left < 0:
            raise PrepareError("TooManyParamsPerContract", f"more than {limits.max_params_per_contract}")
        body, blocks = instrumenter.body(code, start, end, type_index)
        blocks_left -= blocks
        if blocks_left < 0:
            raise PrepareError("TooManyBlocksPerContract", f"more than {limits.max_blocks_per_contract}")
        out.append(_uleb(len(body)))
        out.append(body)
    return b"".join(out)


def _export_section(module: _Module) -> bytes:
    index = len(module.global_types)
    exports = [(FUNCTION_PREFIX + name, 0, i) for name, i in module.function_exports]
    exports += [(GAS_EXPORT, 3, index), (STACK_EXPORT, 3, index + 1), (MEMORY_EXPORT, 2, 0)]
    if module.start is not None:
        exports.append((START_EXPORT, 0, module.start))
    parts = (_string(name) + bytes([kind]) + _uleb(i) for name, kind, i in exports)
    return _uleb(len(exports)) + b"".join(parts)


def _global_section(code: bytes, module: _Module, params: Params) -> bytes:
    ours = b"\x7e\x01\x42\x00\x0b" + b"\x7f\x01\x41" + _sleb(params.limits.max_stack_height) + b"\x0b"
    declared = b""
    if 6 in module.sections:
        r = _Reader(code, *module.sections[6])
        r.u32()
        declared = code[r.pos : r.end]
    return _uleb(len(module.global_types) + 2) + declared + ours


def _rewrite(code: bytes, module: _Module, params: Params) -> bytes:
    limits = params.limits
    memory = b"\x01\x01" + _uleb(limits.initial_memory_pages) + _uleb(limits.max_memory_pages)
    out = [code[:8]]

    def copy(number: int) -> None:
        if number in module.sections:
            start, end = module.sections[number]
            out.append(_section(number, code[start:end]))

    for number in (1, 2, 3, 4):
        copy(number)
    out.append(_section(5, memory))
    out.append(_section(6, _global_section(code, module, params)))
    out.append(_section(7, _export_section(module)))
    for number in (9, 12):
        copy(number)
    if module.bodies:
        out.append(_section(10, _code_section(code, module, params)))
    copy(11)
    return b"".join(out)


def prepare(code: bytes, params: Params) -> bytes:
    """The instrumented module for contract ``code``.

    Raises :class:`PrepareError` for anything that nearcore would refuse, and nothing else.
    """
    try:
        module = _parse(code, params)
        _validate(code)
        prepared = _rewrite(code, module, params)
    except (IndexError, KeyError, ValueError, OverflowError, MemoryError) as error:
        raise _bad(f"malformed: {type(error).__name__}") from error
    if len(prepared) > params.limits.max_instrumented_code_size:
        raise PrepareError("InstrumentedCodeTooLarge", f"{len(prepared)} bytes")
    return prepared
