# SPDX-License-Identifier: MIT
"""Random WebAssembly modules for tests.

Code is made as a list of operators, so the same program can be written plainly, or with a counter in
front of every single operator: an independent count of what nearcore charges for.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field

I32, I64, F32, F64 = 0x7F, 0x7E, 0x7D, 0x7C
SIZES = {I32: 4, I64: 8, F32: 4, F64: 8}
MAX_U64 = (1 << 64) - 1


def uleb(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def sleb(value: int) -> bytes:
    out = bytearray()
    while True:
        byte = value & 0x7F
        value >>= 7
        if (value == 0 and not byte & 0x40) or (value == -1 and byte & 0x40):
            return bytes([*out, byte])
        out.append(byte | 0x80)


def i64_const(value: int) -> bytes:
    return b"\x42" + sleb(value - (1 << 64) if value >> 63 else value)


def vector(items: list[bytes]) -> bytes:
    return uleb(len(items)) + b"".join(items)


def section(number: int, content: bytes) -> bytes:
    return bytes([number]) + uleb(len(content)) + content


def name(text: str) -> bytes:
    return uleb(len(text.encode())) + text.encode()


@dataclass
class Op:
    """One operator: what it is, and how many units it costs (linear ones cost by their operand)."""

    code: bytes
    cost: int = 1
    linear: bool = False
    after: bool = False  # charged behind the operator: loop


@dataclass
class Function:
    params: list[int]
    result: int | None
    locals: list[int] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)

    @property
    def frame(self) -> int:
        return 64 + sum(SIZES[t] for t in self.params + self.locals)


@dataclass
class Program:
    """Functions over one memory, four globals and a table of the first functions."""

    functions: list[Function]
    exports: dict[str, int]
    data: bytes = b""

    def plain(self) -> bytes:
        return self._write(counted=False)

    def counted(self) -> bytes:
        """With an exported i64 global "count" that counts every operator on its own."""
        return self._write(counted=True)

    def _write(self, *, counted: bool) -> bytes:
        types, index = [], {}
        for f in self.functions:
            key = (tuple(f.params), f.result)
            if key not in index:
                index[key] = len(types)
                results = b"\x00" if f.result is None else b"\x01" + bytes([f.result])
                types.append(b"\x60" + uleb(len(f.params)) + bytes(f.params) + results)
        globals_ = [
            b"\x7f\x01\x41\x05\x0b",
            b"\x7e\x01\x42\x07\x0b",
            b"\x7d\x01\x43" + struct.pack("<f", 1.5) + b"\x0b",
            b"\x7c\x01\x44" + struct.pack("<d", -2.25) + b"\x0b",
        ]
        exports = [name(n) + b"\x00" + uleb(i) for n, i in self.exports.items()]
        if counted:
            exports.append(name("count") + b"\x03" + uleb(len(globals_)))
            globals_.append(b"\x7e\x01\x42\x00\x0b")
            exports.append(name("memory") + b"\x02\x00")
        table_size = min(4, len(self.functions))
        elements = [b"\x00\x41\x00\x0b" + vector([uleb(i) for i in range(table_size)])]
        bodies = [self._body(f, counted=counted) for f in self.functions]
        pages = b"\x01" + uleb(1024) + uleb(2048) if counted else b"\x00\x01"
        return b"".join(
            (
                b"\0asm\x01\0\0\0",
                section(1, vector(types)),
                section(3, vector([uleb(index[tuple(f.params), f.result]) for f in self.functions])),
                section(4, vector([b"\x70\x01" + uleb(table_size + 2) + uleb(10)])),
                section(5, b"\x01" + pages),
                section(6, vector(globals_)),
                section(7, vector(exports)),
                section(9, vector(elements)),
                section(12, uleb(1)),
                section(10, vector(bodies)),
                section(11, vector([b"\x01" + uleb(len(self.data)) + self.data])),
            )
        )

    def _body(self, function: Function, *, counted: bool) -> bytes:
        locals_ = [uleb(1) + bytes([t]) for t in function.locals]
        scratch = uleb(len(function.params) + len(function.locals))
        count = b"\x23\x04"
        code = bytearray()
        if counted:
            locals_.append(b"\x01\x7f")
            code += count + b"\x42" + sleb((function.frame + 7) // 8) + b"\x7c\x24\x04"
        for op in function.ops:
            charge = count + b"\x42" + sleb(op.cost) + b"\x7c\x24\x04" if op.cost else b""
            if op.linear:
                charge = b"\x21" + scratch + count + b"\x20" + scratch + b"\xad\x7c"
                charge += b"\x42\x20\x7c\x24\x04\x20" + scratch
            if not counted:
                code += op.code
            elif op.after:
                code += op.code + charge
            else:
                code += charge + op.code
        body = vector(locals_) + bytes(code) + b"\x0b"
        return uleb(len(body)) + body


# -- random programs -------------------------------------------------------------------------------

_BINARY = {
    I32: [*range(0x6A, 0x79)],
    I64: [*range(0x7C, 0x8B)],
    F32: [*range(0x92, 0x99)],
    F64: [*range(0xA0, 0xA7)],
}
_UNARY = {
    I32: [0x67, 0x68, 0x69, 0xC0, 0xC1],
    I64: [0x79, 0x7A, 0x7B, 0xC2, 0xC3, 0xC4],
    F32: [*range(0x8B, 0x92)],
    F64: [*range(0x99, 0xA0)],
}
_CONVERT = {  # result: [(opcode, operand)]
    I32: [
        (0xA7, I64),
        (0xA8, F32),
        (0xA9, F32),
        (0xAA, F64),
        (0xAB, F64),
        (0xBC, F32),
        (0x45, I32),
        (0x50, I64),
    ],
    I64: [(0xAC, I32), (0xAD, I32), (0xAE, F32), (0xAF, F32), (0xB0, F64), (0xB1, F64), (0xBD, F64)],
    F32: [(0xB2, I32), (0xB3, I32), (0xB4, I64), (0xB5, I64), (0xB6, F64), (0xBE, I32)],
    F64: [(0xB7, I32), (0xB8, I32), (0xB9, I64), (0xBA, I64), (0xBB, F32), (0xBF, I64)],
}
_COMPARE = [
    (range(0x46, 0x50), I32),
    (range(0x51, 0x5B), I64),
    (range(0x5B, 0x61), F32),
    (range(0x61, 0x67), F64),
]
_LOAD = {I32: [0x28, 0x2C, 0x2D, 0x2E, 0x2F], I64: [0x29, *range(0x30, 0x36)], F32: [0x2A], F64: [0x2B]}
_STORE = {I32: [0x36, 0x3A, 0x3B], I64: [0x37, 0x3C, 0x3D, 0x3E], F32: [0x38], F64: [0x39]}
_SAT = {I32: (0, 1, 2, 3), I64: (4, 5, 6, 7)}


class _Generator:
    def __init__(self, rng: random.Random, *, recursion: bool) -> None:
        self.rng = rng
        self.functions: list[Function] = []
        self.recursion = recursion

    def program(self) -> Program:
        rng = self.rng
        shapes = [
            Function([rng.choice([*SIZES]) for _ in range(rng.randrange(3))], rng.choice([None, *SIZES]))
            for _ in range(rng.randrange(1, 4))
        ]
        self.functions = [*shapes, Function([], None)]
        for i, function in enumerate(self.functions):
            function.locals = [rng.choice([*SIZES]) for _ in range(rng.randrange(6))]
            self._fill(i, function)
        data = bytes(rng.randrange(256) for _ in range(32))
        return Program(self.functions, {"go": len(self.functions) - 1}, data)

    def _fill(self, index: int, function: Function) -> None:
        self.current, self.index, self.ops = function, index, function.ops
        self.locals = function.params + function.locals
        self.labels: list[tuple[int | None, bool]] = []  # (type a branch carries, is a loop)
        self.budget = self.rng.randrange(20, 120)
        for _ in range(self.rng.randrange(1, 6)):
            self.statement(3)
        if function.result is not None:
            self.expression(function.result, 3)

    def emit(self, code: bytes, **kw: bool | int) -> None:
        self.budget -= 1
        self.ops.append(Op(code, **kw))

    # one value of the type
    def expression(self, kind: int, depth: int) -> None:
        rng = self.rng
        if depth <= 0 or self.budget <= 0:
            self.leaf(kind)
            return
        choice = rng.randrange(14)
        if choice < 3:
            self.expression(kind, depth - 1)
            self.expression(kind, depth - 1)
            self.emit(bytes([rng.choice(_BINARY[kind])]))
        elif choice == 3:
            self.expression(kind, depth - 1)
            self.emit(bytes([rng.choice(_UNARY[kind])]))
        elif choice == 4:
            opcode, operand = rng.choice(_CONVERT[kind])
            self.expression(operand, depth - 1)
            self.emit(bytes([opcode]))
        elif choice == 5 and kind == I32:
            opcodes, operand = rng.choice(_COMPARE)
            self.expression(operand, depth - 1)
            self.expression(operand, depth - 1)
            self.emit(bytes([rng.choice(opcodes)]))
        elif choice == 5 and kind in _SAT:
            self.expression(F32, depth - 1)
            self.emit(b"\xfc" + uleb(rng.choice(_SAT[kind][:2])))
        elif choice == 6:
            self.address(depth - 1)
            self.emit(bytes([rng.choice(_LOAD[kind])]) + b"\x00" + uleb(rng.choice([0, 4, 1000])))
        elif choice == 7:
            self.expression(kind, depth - 1)
            self.expression(kind, depth - 1)
            self.expression(I32, depth - 1)
            self.emit(b"\x1b" if rng.randrange(2) else b"\x1c\x01" + bytes([kind]))
        elif choice == 8:
            self.expression(I32, depth - 1)
            self.emit(b"\x04" + bytes([kind]))
            self.labels.append((kind, False))
            self.expression(kind, depth - 1)
            self.emit(b"\x05", cost=0)
            self.expression(kind, depth - 1)
            self.close()
        elif choice == 9:
            self.emit(b"\x02" + bytes([kind]), cost=0)
            self.labels.append((kind, False))
            self.statement(depth - 1)
            self.expression(kind, depth - 1)
            if rng.randrange(2):
                self.expression(I32, depth - 1)
                self.emit(b"\x0d\x00")
            self.close()
        elif choice == 10 and kind == I32:
            self.expression(I32, 0) if rng.randrange(3) else self.emit(b"\x41" + sleb(rng.randrange(3)))
            self.emit(b"\x40\x00", linear=True)
        elif choice == 11:
            self.call(kind, depth)
        else:
            self.leaf(kind)

    def leaf(self, kind: int) -> None:
        rng = self.rng
        matching = [i for i, t in enumerate(self.locals) if t == kind]
        choice = rng.randrange(4)
        if choice == 0 and matching:
            self.emit(b"\x20" + uleb(rng.choice(matching)))
        elif choice == 1:
            self.emit(b"\x23" + uleb([I32, I64, F32, F64].index(kind)))
        elif choice == 2 and kind == I32:
            self.emit(rng.choice([b"\x3f\x00", b"\xfc\x10\x00"]))
        elif kind == I32:
            self.emit(b"\x41" + sleb(rng.choice([0, 1, -1, 7, 100, 2**31 - 1, -(2**31)])))
        elif kind == I64:
            self.emit(b"\x42" + sleb(rng.choice([0, 1, -1, 12345678901, -(2**63)])))
        elif kind == F32:
            self.emit(b"\x43" + struct.pack("<f", rng.choice([0.0, 1.0, -3.5, 1e30, float("inf")])))
        else:
            self.emit(b"\x44" + struct.pack("<d", rng.choice([0.0, 1.0, -3.5, 1e300, float("-inf")])))

    def address(self, depth: int) -> None:
        if self.rng.randrange(12):
            self.emit(b"\x41" + sleb(self.rng.randrange(4096)))
        else:
            self.expression(I32, depth)

    def close(self) -> None:
        self.labels.pop()
        self.emit(b"\x0b", cost=0)

    def call(self, kind: int | None, depth: int) -> None:
        last = self.index + 1 if self.recursion else self.index
        callable_ = [i for i in range(last) if self.functions[i].result == kind]
        if not callable_:
            if kind is not None:
                self.leaf(kind)
            return
        target = self.rng.choice(callable_)
        for param in self.functions[target].params:
            self.expression(param, depth - 1)
        if target < 4 and not self.rng.randrange(3):
            shapes: list[tuple[tuple[int, ...], int | None]] = []
            for f in self.functions:
                shape = (tuple(f.params), f.result)
                if shape not in shapes:
                    shapes.append(shape)
            f = self.functions[target]
            # now and then another index: null entries and wrong signatures trap
            entry = target if self.rng.randrange(8) else self.rng.randrange(8)
            if entry < len(self.functions) and entry >= last:
                entry = target
            self.emit(b"\x41" + sleb(entry))
            self.emit(b"\x11" + uleb(shapes.index((tuple(f.params), f.result))) + b"\x00")
        else:
            self.emit(b"\x10" + uleb(target))

    # no net effect on the stack
    def statement(self, depth: int) -> None:
        rng = self.rng
        if self.budget <= 0:
            return
        choice = rng.randrange(16)
        if depth <= 0:
            choice = rng.randrange(4)
        if choice == 0:
            self.emit(b"\x01")
        elif choice == 1 and self.locals:
            target = rng.randrange(len(self.locals))
            self.expression(self.locals[target], depth)
            self.emit(b"\x21" + uleb(target))
        elif choice == 2:
            target = rng.randrange(4)
            self.expression([I32, I64, F32, F64][target], depth)
            self.emit(b"\x24" + uleb(target))
        elif choice <= 4:
            kind = rng.choice([*SIZES])
            self.expression(kind, depth)
            if kind in self.locals and rng.randrange(2):
                self.emit(b"\x22" + uleb(self.locals.index(kind)))
            self.emit(b"\x1a")
        elif choice == 5:
            kind = rng.choice([*SIZES])
            self.address(depth - 1)
            self.expression(kind, depth - 1)
            self.emit(bytes([rng.choice(_STORE[kind])]) + b"\x00" + uleb(rng.choice([0, 8])))
        elif choice == 6:
            self.bulk(depth)
        elif choice <= 8:
            self.expression(I32, depth - 1)
            self.emit(b"\x04\x40")
            self.labels.append((None, False))
            self.statement(depth - 1)
            if rng.randrange(2):
                self.emit(b"\x05", cost=0)
                self.statement(depth - 1)
            self.close()
        elif choice == 9:
            self.emit(b"\x02\x40", cost=0)
            self.labels.append((None, False))
            self.statement(depth - 1)
            self.branch(depth)
            self.statement(depth - 1)
            self.close()
        elif choice <= 11:
            self.loop(depth)
        elif choice == 12:
            self.call(None, depth)
        elif choice == 13 and not rng.randrange(4):
            self.emit(b"\x00")
        else:
            self.branch(depth)

    def loop(self, depth: int) -> None:
        """A loop that runs a few times, or never goes back."""
        counter = len(self.current.params) + len(self.current.locals)
        self.current.locals.append(I32)
        self.locals = self.current.params + self.current.locals
        self.emit(b"\x03\x40", after=True)
        self.labels.append((None, True))
        self.statement(depth - 1)
        if self.rng.randrange(4):
            self.emit(b"\x20" + uleb(counter))
            self.emit(b"\x41\x01")
            self.emit(b"\x6a")
            self.emit(b"\x22" + uleb(counter))
            self.emit(b"\x41" + sleb(self.rng.randrange(1, 6)))
            self.emit(b"\x49")
            self.emit(b"\x0d\x00")
            self.statement(depth - 1)
        self.close()

    def branch(self, depth: int) -> None:
        """A branch forward, conditional or not; code behind it may be dead."""
        forward = [d for d, (kind, loop) in enumerate(reversed(self.labels)) if kind is None and not loop]
        choice = self.rng.randrange(8)
        if forward and choice < 4:
            self.expression(I32, depth - 1)
            self.emit(b"\x0d" + uleb(self.rng.choice(forward)))
        elif forward and choice == 4:
            self.emit(b"\x0c" + uleb(self.rng.choice(forward)))
        elif forward and choice == 5:
            self.expression(I32, depth - 1)
            targets = [uleb(self.rng.choice(forward)) for _ in range(self.rng.randrange(1, 4))]
            self.emit(b"\x0e" + vector(targets[:-1]) + targets[-1])
        elif choice == 6 and not self.rng.randrange(3):
            if self.current.result is not None:
                self.expression(self.current.result, depth - 1)
            self.emit(b"\x0f")

    def bulk(self, depth: int) -> None:
        rng = self.rng
        choice = rng.randrange(6)
        if choice == 5:
            self.emit(b"\xfc\x09\x00")
            return
        if choice == 4:
            self.emit(b"\xd0\x70")
            self.emit(b"\x41" + sleb(rng.randrange(3)))
            self.emit(b"\xfc\x0f\x00", linear=True)
            self.emit(b"\x1a")
            return
        self.address(depth - 1)
        self.emit(b"\x41" + sleb(rng.randrange(40)))
        self.emit(b"\x41" + sleb(rng.choice([0, 3, 30, 5000])))
        self.emit(
            (b"\xfc\x0b\x00", b"\xfc\x0a\x00\x00", b"\xfc\x08\x00\x00", b"\xfc\x0b\x00")[choice], linear=True
        )


def random_program(seed: int, *, recursion: bool = False) -> Program:
    """A valid module with an exported function "go"; without ``recursion`` nearly all of them end.

    A loop's counter is a local like any other, so a body may set it back for ever: bound what you run.
    """
    return _Generator(random.Random(seed), recursion=recursion).program()


# -- modules that call the host --------------------------------------------------------------------


def host_module(
    functions: dict[str, tuple[tuple[str, ...], str | None]], calls: list[tuple[str, list[int]]], data: bytes
) -> bytes:
    """A module whose "go" makes ``calls`` (name, arguments) in order.

    Results are added up in the i64 at the end of ``data`` (address ``len(data)``), so they are seen.
    """
    kinds = {"i32": I32, "i64": I64}
    used = list(dict.fromkeys(n for n, _ in calls))
    types, type_index, imports = [b"\x60\x00\x00"], {}, []
    for function in used:
        params, result = functions[function]
        key = (params, result)
        if key not in type_index:
            type_index[key] = len(types)
            results = b"\x00" if result is None else b"\x01" + bytes([kinds[result]])
            types.append(b"\x60" + uleb(len(params)) + bytes(kinds[p] for p in params) + results)
        imports.append(name("env") + name(function) + b"\x00" + uleb(type_index[key]))
    code = bytearray()
    address = uleb(len(data))
    for function, args in calls:
        params, result = functions[function]
        if result is not None:
            code += b"\x41\x00\x41\x00\x29\x00" + address
        for kind, arg in zip(params, args, strict=True):
            if kind == "i64":
                code += i64_const(arg & MAX_U64)
            else:
                value = arg & 0xFFFFFFFF
                code += b"\x41" + sleb(value - (1 << 32) if value >> 31 else value)
        code += b"\x10" + uleb(used.index(function))
        if result == "i32":
            code += b"\xad"
        if result is not None:
            code += b"\x7c\x37\x00" + address
    body = b"\x00" + bytes(code) + b"\x0b"
    return b"".join(
        (
            b"\0asm\x01\0\0\0",
            section(1, vector(types)),
            section(2, vector(imports)),
            section(3, b"\x01\x00"),
            section(5, b"\x01\x00\x01"),
            section(7, vector([name("go") + b"\x00" + uleb(len(used))])),
            section(10, vector([uleb(len(body)) + body])),
            section(11, vector([b"\x00\x41\x00\x0b" + uleb(len(data)) + data])),
        )
    )
