# SPDX-License-Identifier: MIT
"""Small guests in text form, each with one habit."""

from __future__ import annotations

import wasmtime

_WASI = "wasi_snapshot_preview1"


def _module(body: str, *, imports: str = "", memory: str = '(memory (export "memory") 2)') -> bytes:
    return bytes(wasmtime.wat2wasm(f"(module {imports} {memory} {body})"))


def _import(name: str, parameters: str, result: str = "(result i32)") -> str:
    return f'(import "{_WASI}" "{name}" (func ${name} (param {parameters}) {result}))'


FD_READ = _import("fd_read", "i32 i32 i32 i32")
FD_WRITE = _import("fd_write", "i32 i32 i32 i32")
PROC_EXIT = _import("proc_exit", "i32", "")
POLL = _import("poll_oneoff", "i32 i32 i32 i32")
ENVIRON = _import("environ_get", "i32 i32") + _import("environ_sizes_get", "i32 i32")

ECHO = _module(
    """(func (export "_start") (local $n i32)
      (loop $more
        (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 65536))
        (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (local.set $n (i32.load (i32.const 8)))
        (if (local.get $n) (then
          (i32.store (i32.const 4) (local.get $n))
          (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
          (br $more)))))""",
    imports=FD_READ + FD_WRITE,
)

LOOP = _module('(func (export "_start") (loop $again (br $again)))')

TRAP = _module('(func (export "_start") unreachable)')

RECURSE = _module('(func $deep (export "_start") (call $deep) (call $deep))')


def exits(code: int) -> bytes:
    return _module(f'(func (export "_start") (call $proc_exit (i32.const {code})))', imports=PROC_EXIT)


def says(text: str, times: int = 1, *, stream: int = 1) -> bytes:
    """Writes a text a number of times, whatever the host answers; -1 is for ever."""
    size = len(text.encode())
    return _module(
        f"""(data (i32.const 64) "{text}")
        (func (export "_start") (local $n i32) (local.set $n (i32.const {times}))
          (loop $more
            (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const {size}))
            (drop (call $fd_write (i32.const {stream}) (i32.const 0) (i32.const 1) (i32.const 8)))
            (local.set $n (i32.sub (local.get $n) (i32.const 1)))
            (br_if $more (local.get $n))))""",
        imports=FD_WRITE,
    )


GROW_THEN_TRAP = _module(
    """(func (export "_start")
      (loop $more
        (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
      unreachable)"""
)

MANY_MEMORIES = _module(
    '(func (export "_start") '
    + "".join(
        f"(loop $m{index} (br_if $m{index} (i32.ne (memory.grow {index} (i32.const 64)) (i32.const -1))))"
        for index in range(8)
    )
    + " unreachable)",
    memory='(memory (export "memory") 1)' + "(memory 1)" * 7,
)

GROW_TABLE = _module(
    """(table $t 1 funcref)
    (func (export "_start")
      (loop $more
        (br_if $more (i32.ne (table.grow $t (ref.null func) (i32.const 100000)) (i32.const -1))))
      unreachable)"""
)

SLEEP = _module(
    """(func (export "_start")
      (i32.store (i32.const 16) (i32.const 1))
      (i64.store (i32.const 24) (i64.const 3600000000000))
      (drop (call $poll_oneoff (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128))))""",
    imports=POLL,
)

ENVIRONMENT = _module(
    """(func (export "_start") (local $size i32)
      (drop (call $environ_sizes_get (i32.const 0) (i32.const 4)))
      (local.set $size (i32.load (i32.const 4)))
      (drop (call $environ_get (i32.const 1024) (i32.const 8192)))
      (i32.store (i32.const 0) (i32.const 8192)) (i32.store (i32.const 4) (local.get $size))
      (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))""",
    imports=ENVIRON + FD_WRITE,
)

OPENS_A_FILE = _module(
    """(data (i32.const 64) "etc/passwd")
    (func (export "_start")
      (if (i32.eqz (call $path_open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 10) (i32.const 0)
          (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 128))) (then unreachable)))""",
    imports=_import("path_open", "i32 i32 i32 i32 i32 i64 i64 i32 i32"),
)

WANTS_HOST_FUNCTION = _module(
    '(func (export "_start"))', imports='(import "env" "steal" (func $steal (param i32)))'
)

NO_START = _module('(func (export "main"))')

WANTS_HTTP = bytes(
    wasmtime.wat2wasm(
        """(component
          (import "wasi:http/outgoing-handler@0.2.3" (instance $http))
          (core module $m (func (export "run") (result i32) i32.const 0))
          (core instance $i (instantiate $m))
          (func $run (result (result)) (canon lift (core func $i "run")))
          (instance $r (export "run" (func $run)))
          (export "wasi:cli/run@0.2.3" (instance $r)))"""
    )
)


def component(result: int) -> bytes:
    """A component whose ``run`` returns ok (0) or err (1)."""
    return bytes(
        wasmtime.wat2wasm(
            f"""(component
              (core module $m (func (export "run") (result i32) i32.const {result}))
              (core instance $i (instantiate $m))
              (func $run (result (result)) (canon lift (core func $i "run")))
              (instance $r (export "run" (func $run)))
              (export "wasi:cli/run@0.2.3" (instance $r)))"""
        )
    )
