# SPDX-License-Identifier: MIT
"""Callers that choose the worst: as much input as a receipt holds, and as little gas as the contract takes."""

from __future__ import annotations

from collections.abc import Callable

import wasmtime
from main_world import BYTE, MAIN, World

from outlayer_localnet.testing import TGAS

_ARGUMENTS_AT = 4_096
_HEAD = b'{"source":{"WasmUrl":{"url":"x","hash":"%b"}},"resource_limits":{},"input_data":"' % (b"a" * 64)
_TAIL = b'"}'


def sender(contract_id: str, size: int, deposit: int, gas: int, letter: int = 65) -> bytes:
    """A contract whose method ``go`` asks for a run on an input of ``size`` bytes, made in its own memory: more than
    a transaction can carry."""
    total = len(_HEAD) + size + len(_TAIL)
    pages = (_ARGUMENTS_AT + total) // 65_536 + 2
    receiver, method = contract_id.encode(), b"request_execution"
    text = f"""(module
 (import "env" "promise_batch_create" (func $batch (param i64 i64) (result i64)))
 (import "env" "promise_batch_action_function_call" (func $call (param i64 i64 i64 i64 i64 i64 i64)))
 (memory {pages})
 (data (i32.const 0) "{_escaped(receiver)}")
 (data (i32.const 128) "{_escaped(method)}")
 (data (i32.const 192) "{_escaped(deposit.to_bytes(16, "little"))}")
 (data (i32.const {_ARGUMENTS_AT}) "{_escaped(_HEAD)}")
 (data (i32.const {_ARGUMENTS_AT + len(_HEAD) + size}) "{_escaped(_TAIL)}")
 (func (export "go")
  (memory.fill (i32.const {_ARGUMENTS_AT + len(_HEAD)}) (i32.const {letter}) (i32.const {size}))
  (call $call (call $batch (i64.const {len(receiver)}) (i64.const 0)) (i64.const {len(method)}) (i64.const 128)
   (i64.const {total}) (i64.const {_ARGUMENTS_AT}) (i64.const 192) (i64.const {gas}))))"""
    return bytes(wasmtime.wat2wasm(text))


def _escaped(data: bytes) -> str:
    return "".join(f"\\{byte:02x}" for byte in data)


def least_gas(world: World, begin: Callable[[int], object], *, most: float = 400) -> int:
    """The least gas, to 0.01 Tgas, with which ``begin`` makes a request wait; the chain is left with that one.

    ``begin`` sends the transaction with this gas and does not wait for its end.
    """
    chain = world.chain
    chain.snapshot("before")

    def waits(gas: float) -> bool:
        chain.restore("before")
        begin(int(gas * TGAS))
        for _ in range(6):
            chain.produce_block()
            if world.pending():
                return True
        return False

    low, high = 1.0, most
    assert waits(high), "the request does not wait with the most gas"
    while high - low > 0.01:
        middle = (low + high) / 2
        low, high = (low, middle) if waits(middle) else (middle, high)
    assert waits(high)
    return int(high * TGAS)


def free(world: World) -> int:
    """What the contract has beside its stake, in yoctoNEAR."""
    account = world.chain.account(MAIN)
    return int(account["amount"]) - account["storage_usage"] * BYTE
