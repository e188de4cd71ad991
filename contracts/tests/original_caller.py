# SPDX-License-Identifier: MIT
"""A contract that was written for the original's main contract, as WebAssembly text.

It gives ``request_execution`` at least 10 Tgas and all that is left, keeps 5 Tgas for its callback, and passes its
whole deposit on: what the original tells its users to do.
"""

from __future__ import annotations

import json
from typing import Any

import wasmtime

REQUEST_GAS, CALLBACK_GAS = 10 * 10**12, 5 * 10**12
FAILED = "the request failed"


def code(main: str, caller: str, request: dict[str, Any]) -> bytes:
    """The contract: ``ask`` makes this request of ``main``; ``on_answer`` returns what came."""
    texts = {
        "main": main,
        "method": "request_execution",
        "request": json.dumps(request),
        "self": caller,
        "callback": "on_answer",
        "failed": json.dumps(FAILED),
    }
    at, places, data = 64, {}, []
    for name, text in texts.items():
        raw = text.encode()
        places[name] = f"(i64.const {len(raw)}) (i64.const {at})"
        data.append(f'(data (i32.const {at}) "{"".join(f"{chr(92)}{byte:02x}" for byte in raw)}")')
        at += len(raw)
    return bytes(
        wasmtime.wat2wasm(f"""(module
  (import "env" "attached_deposit" (func $deposit (param i64)))
  (import "env" "promise_batch_create" (func $create (param i64 i64) (result i64)))
  (import "env" "promise_batch_then" (func $then (param i64 i64 i64) (result i64)))
  (import "env" "promise_batch_action_function_call_weight"
    (func $call (param i64 i64 i64 i64 i64 i64 i64 i64)))
  (import "env" "promise_return" (func $return (param i64)))
  (import "env" "promise_result" (func $result (param i64 i64) (result i64)))
  (import "env" "value_return" (func $value (param i64 i64)))
  (memory 2)
  {" ".join(data)}
  (func (export "ask") (local $request i64) (local $end i64)
    (call $deposit (i64.const 0))
    (local.set $request (call $create {places["main"]}))
    (call $call (local.get $request) {places["method"]} {places["request"]}
      (i64.const 0) (i64.const {REQUEST_GAS}) (i64.const 1))
    (local.set $end (call $then (local.get $request) {places["self"]}))
    (call $call (local.get $end) {places["callback"]} (i64.const 0) (i64.const 0)
      (i64.const 16) (i64.const {CALLBACK_GAS}) (i64.const 0))
    (call $return (local.get $end)))
  (func (export "on_answer")
    (if (i64.eq (call $result (i64.const 0) (i64.const 0)) (i64.const 1))
      (then (call $value (i64.const -1) (i64.const 0)))
      (else (call $value {places["failed"]})))))""")
    )
