# SPDX-License-Identifier: MIT
"""Modules at the edges of what nearcore takes: features, limits, imports, traps. All export "go"."""

from __future__ import annotations

MODULES = {
    "multivalue": '(module (func (export "go")) (func (result i32 i32) i32.const 1 i32.const 2))',
    "blockparam": '(module (func (export "go") i32.const 1 (block (param i32) drop)))',
    "simd": '(module (func (export "go") v128.const i32x4 1 2 3 4 drop))',
    "threads": '(module (memory 1 1 shared) (func (export "go")))',
    "atomics": '(module (memory 1) (func (export "go") atomic.fence))',
    "mem64": '(module (memory i64 1) (func (export "go")))',
    "multimem": '(module (memory 1)(memory 1) (func (export "go")))',
    "tail": '(module (func $f return_call $f) (func (export "go")))',
    "externref": '(module (func (param externref)) (func (export "go")))',
    "externtable": '(module (table 1 externref) (func (export "go")))',
    "refnullextern": '(module (func (export "go") ref.null extern drop))',
    "extconst": '(module (global i32 (i32.add (i32.const 1) (i32.const 2))) (func (export "go")))',
    "globalget": '(module (global i32 (i32.const 1)) (global i32 (global.get 0)) (func (export "go")))',
    "importmem": '(module (import "env" "memory" (memory 1)) (func (export "go")))',
    "importglobal": '(module (import "env" "g" (global i32)) (func (export "go")))',
    "importtable": '(module (import "env" "t" (table 1 funcref)) (func (export "go")))',
    "importother": '(module (import "wasi" "x" (func)) (func (export "go")))',
    "unknownimport": '(module (import "env" "nope" (func)) (func (export "go")))',
    "internal": '(module (import "env" "finite_wasm_gas" (func (param i64))) (func (export "go")))',
    "wrongtype": '(module (import "env" "input" (func)) (func (export "go")))',
    "wrongtype2": '(module (import "env" "input" (func (param i32) (result i64))) (func (export "go")))',
    "pv87": '(module (import "env" "sha3_256" (func (param i64 i64 i64))) (func (export "go")))',
    "twotables": '(module (table 1 funcref) (table 1 funcref) (func (export "go")))',
    "bigtable": '(module (table 10001 funcref) (func (export "go")))',
    "table10000": '(module (table 10000 funcref) (func (export "go")))',
    "tablegrow": (
        '(module (import "env" "value_return" (func $v (param i64 i64))) (table 9999 funcref) (memory 1) '
        '(func (export "go") (i32.store (i32.const 0) (table.grow (ref.null func) (i32.const 1))) '
        "(i32.store (i32.const 4) (table.grow (ref.null func) (i32.const 1))) (call $v (i64.const 8) "
        "(i64.const 0))))"
    ),
    "memgrow": (
        '(module (import "env" "value_return" (func $v (param i64 i64))) (memory 1 2) (func (export "go") '
        "(i32.store (i32.const 0) (memory.grow (i32.const 1024))) (i32.store (i32.const 4) (memory.grow "
        "(i32.const 1))) (i32.store (i32.const 8) (memory.size))(call $v (i64.const 12) (i64.const 0))))"
    ),
    "nomem": (
        '(module (import "env" "value_return" (func $v (param i64 i64))) (func (export "go") (call $v '
        "(i64.const 12) (i64.const 0))))"
    ),
    "start": (
        '(module (import "env" "log_utf8" (func $l (param i64 i64))) (memory 1) (data (i32.const 0) "hi") '
        '(func $s (call $l (i64.const 2) (i64.const 0))) (start $s) (func (export "go")))'
    ),
    "starttrap": '(module (func $s unreachable) (start $s) (func (export "go")))',
    "dataoob": '(module (memory 1) (data (i32.const -1) "hi") (func (export "go")))',
    "elemoob": '(module (table 1 funcref) (elem (i32.const 5) 0) (func (export "go")))',
    "params65": "(module (func (param " + "i32 " * 65 + ')) (func (export "go")))',
    "params64": "(module (func (param " + "i32 " * 64 + ')) (func (export "go")))',
    "blocks5000": '(module (func (export "go") ' + "(block) " * 5000 + "))",
    "blocks5001": '(module (func (export "go") ' + "(block) " * 5001 + "))",
    "blocks50001": '(module (func (export "go")) '
    + ("(func " + "(block) " * 5000 + ")") * 10
    + "(func (block)))",
    "operands8192": '(module (func (export "go") ' + "i64.const 1 " * 1024 + "drop " * 1024 + "))",
    "operands8200": '(module (func (export "go") ' + "i64.const 1 " * 1025 + "drop " * 1025 + "))",
    "types1025": "(module " + "(type (func)) " * 1025 + '(func (export "go")))',
    "funcs10000": "(module " + "(func) " * 9999 + '(func (export "go")))',
    "funcs10001": "(module " + "(func) " * 10000 + '(func (export "go")))',
    "bigbody": '(module (func (export "go") ' + "nop " * 196605 + "))",
    "bigbody2": '(module (func (export "go") ' + "nop " * 196608 + "))",
    "reexport": (
        '(module (import "env" "block_index" (func $b (result i64))) (export "x" (func $b)) (func (export '
        '"go")))'
    ),
    "reexport0": '(module (import "env" "panic" (func $b)) (export "go" (func $b)))',
    "exportmem": '(module (memory (export "memory") 1) (func (export "go")))',
    "exportgas": (
        '(module (global (export "gas") (mut i64) (i64.const 0)) (func (export "stack")) (func (export '
        '"go")))'
    ),
    "deep": (
        "(module (func $f (param i64 i64 i64 i64) (local i64 i64) (call $f (local.get 0)(local.get "
        '0)(local.get 0)(local.get 0))) (func (export "go") (call $f (i64.const 0)(i64.const 0)(i64.const '
        "0)(i64.const 0))))"
    ),
    "deepmin": '(module (func $f (export "go") (call $f)))',
    "selft": (
        '(module (func (export "go") (drop (select (result funcref) (ref.null func) (ref.null func) '
        "(i32.const 1)))))"
    ),
    "passiveelem": (
        '(module (table 3 funcref) (func $a) (elem $e func $a) (func (export "go") (table.init $e '
        "(i32.const 0) (i32.const 0) (i32.const 1)) (elem.drop $e) (table.copy (i32.const 1)(i32.const "
        "0)(i32.const 2)) (table.fill (i32.const 0) (ref.null func) (i32.const 2)) (drop (table.get "
        "(i32.const 0))) (table.set (i32.const 1) (ref.func $a)) (drop (ref.is_null (table.get (i32.const "
        "7))))))"
    ),
}
