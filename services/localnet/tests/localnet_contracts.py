# SPDX-License-Identifier: MIT
"""Small contracts in WAT for tests: each method is a few host calls.

``contract()`` glues methods together; texts get their place in memory by the ``text`` helper. Registers
and memory beyond 4096 are free for use.
"""

from __future__ import annotations

import functools

import wasmtime

_IMPORTS = {
    "input": "i64",
    "register_len": "i64 -> i64",
    "read_register": "i64 i64",
    "value_return": "i64 i64",
    "log_utf8": "i64 i64",
    "panic_utf8": "i64 i64",
    "storage_write": "i64 i64 i64 i64 i64 -> i64",
    "storage_read": "i64 i64 i64 -> i64",
    "storage_remove": "i64 i64 i64 -> i64",
    "block_index": "-> i64",
    "block_timestamp": "-> i64",
    "attached_deposit": "i64",
    "random_seed": "i64",
    "predecessor_account_id": "i64",
    "prepaid_gas": "-> i64",
    "promise_create": "i64 i64 i64 i64 i64 i64 i64 i64 -> i64",
    "promise_then": "i64 i64 i64 i64 i64 i64 i64 i64 i64 -> i64",
    "promise_and": "i64 i64 -> i64",
    "promise_batch_create": "i64 i64 -> i64",
    "promise_batch_then": "i64 i64 i64 -> i64",
    "promise_batch_action_create_account": "i64",
    "promise_batch_action_deploy_contract": "i64 i64 i64",
    "promise_batch_action_transfer": "i64 i64",
    "promise_batch_action_function_call": "i64 i64 i64 i64 i64 i64 i64",
    "promise_batch_action_function_call_weight": "i64 i64 i64 i64 i64 i64 i64 i64",
    "promise_return": "i64",
    "promise_results_count": "-> i64",
    "promise_result": "i64 i64 -> i64",
    "promise_yield_create": "i64 i64 i64 i64 i64 i64 i64 -> i64",
    "promise_yield_resume": "i64 i64 i64 i64 -> i32",
}


class Builder:
    """Collects methods and the texts they use."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._methods: list[str] = []
        self._used: set[str] = set()

    def text(self, value: str | bytes) -> str:
        """``(i64.const len) (i64.const ptr)`` of a constant."""
        raw = value.encode() if isinstance(value, str) else value
        at = self._data.find(raw)
        if at < 0:
            at = len(self._data)
            self._data += raw
        return f"(i64.const {len(raw)}) (i64.const {at})"

    def at(self, raw: bytes) -> str:
        """``(i64.const ptr)`` of a constant."""
        return self.text(raw).split(" (i64", 1)[1].join(["(i64", ""])

    def u128(self, value: int) -> str:
        """Pointer to an amount."""
        return self.at(value.to_bytes(16, "little"))

    def call(self, name: str, *args: str | int) -> str:
        """A host call; numbers become constants."""
        self._used.add(name)
        parts = " ".join(f"(i64.const {arg})" if isinstance(arg, int) else arg for arg in args)
        return f"(call ${name} {parts})"

    def read(self, register: int, at: int = 8192) -> str:
        """``(len) (ptr)`` after copying a register to memory."""
        copy = self.call("read_register", register, at)
        return f"(block (result i64) {copy} {self.call('register_len', register)}) (i64.const {at})"

    def method(self, name: str, *body: str) -> Builder:
        """Add an exported method."""
        self._methods.append(f'(func (export "{name}") (local $p i64) (local $q i64) {" ".join(body)})')
        return self

    def build(self) -> bytes:
        """The module's bytes."""
        imports = []
        for name in sorted(self._used):
            left, _, right = _IMPORTS[name].partition("->")
            params = f"(param {left})" if left.strip() else ""
            result = f"(result {right})" if right.strip() else ""
            imports.append(f'(import "env" "{name}" (func ${name} {params} {result}))')
        data = "".join(f"\\{byte:02x}" for byte in self._data)
        source = (
            f'(module {" ".join(imports)} (memory (export "memory") 1) '
            f'(data (i32.const 0) "{data}") {" ".join(self._methods)})'
        )
        return bytes(wasmtime.wat2wasm(source))


@functools.cache
def kitchen_sink() -> bytes:
    """Storage, logs, panics, promises and yields in one contract.

    ``put``/``del_key`` use the key ``k`` with the input as value; ``get`` returns it. ``echo`` returns its
    input; ``fail`` panics with it.
    """
    b = Builder()
    key = b.text("k")
    take = b.call("input", 0)
    back = b.call("value_return", b.read(0))
    b.method("noop")
    b.method("echo", take, back)
    b.method("fail", take, b.call("panic_utf8", b.read(0)))
    b.method("say", take, b.call("log_utf8", b.read(0)))
    b.method("put", take, f"(drop {b.call('storage_write', key, b.read(0), 1)})")
    b.method("put_and_fail", take, f"(drop {b.call('storage_write', key, b.read(0), 1)})", "(unreachable)")
    b.method("get", f"(drop {b.call('storage_read', key, 1)})", b.call("value_return", b.read(1)))
    b.method("del_key", f"(drop {b.call('storage_remove', key, 1)})")
    b.method("seed", b.call("random_seed", 0), back)
    b.method("who", b.call("predecessor_account_id", 0), back)
    b.method("loop_forever", "(loop $again (br $again))")
    _promises(b, take)
    _yields(b, take)
    return b.build()


def _promises(b: Builder, take: str) -> None:
    me, gas, free = b.text("app.test"), 20 * 10**12, b.u128(0)

    def create(method: str, args: str, deposit: str = free) -> str:
        return b.call("promise_create", me, b.text(method), b.text(args), deposit, gas)

    def then(promise: str, method: str) -> str:
        return b.call("promise_then", promise, me, b.text(method), b.text(""), free, gas)

    b.method("chain", f"(local.set $p {create('echo', 'first')})",
             b.call("promise_return", then("(local.get $p)", "show_result")))  # fmt: skip
    b.method("chain_failing", f"(local.set $p {create('fail', 'oops')})",
             b.call("promise_return", then("(local.get $p)", "show_result")))  # fmt: skip
    three = " ".join(
        f"(i64.store (i32.const {4096 + 8 * i}) {create('echo', word)})"
        for i, word in enumerate(("one", "two", "three"))
    )
    joined = b.call("promise_and", 4096, 3)
    b.method("join", three, b.call("promise_return", then(joined, "count_results")))
    # what a callback got: "ok:" or "failed:" and the value
    show = (
        f"(if (i64.eq {b.call('promise_result', 0, 0)} (i64.const 1)) "
        f"(then {b.call('value_return', b.read(0))}) "
        f"(else {b.call('value_return', b.text('failed'))}))"
    )
    b.method("show_result", show)
    digit = f"(i64.store8 (i32.const 4096) (i64.add (i64.const 48) {b.call('promise_results_count')}))"
    b.method("count_results", digit, b.call("value_return", 1, 4096))
    b.method("forward", b.call("promise_return", create("echo", "forwarded")))
    b.method("pay_failing", f"(drop {create('fail', 'no', b.u128(10**24))})")
    spread = (
        f"(local.set $p {b.call('promise_batch_create', me)})",
        b.call("promise_batch_action_function_call_weight", "(local.get $p)", b.text("gas"), b.text(""),
               free, 0, 1),
        b.call("promise_batch_action_function_call_weight", "(local.get $p)", b.text("gas"), b.text(""),
               free, 0, 2),
    )  # fmt: skip
    b.method("spread", *spread)
    b.method("gas", f"(i64.store (i32.const 4096) {b.call('prepaid_gas')})",
             b.call("value_return", 8, 4096))  # fmt: skip
    child = b.text("child.app.test")
    b.method("make_child", take, f"(local.set $p {b.call('promise_batch_create', child)})",
             b.call("promise_batch_action_create_account", "(local.get $p)"),
             b.call("promise_batch_action_transfer", "(local.get $p)", b.u128(2 * 10**24)),
             b.call("promise_batch_action_deploy_contract", "(local.get $p)", b.read(0)),
             b.call("promise_batch_action_function_call", "(local.get $p)", b.text("put"), b.text("born"),
                    free, gas))  # fmt: skip


def _yields(b: Builder, take: str) -> None:
    id_key = b.text("yield-id")
    create = b.call("promise_yield_create", b.text("on_resume"), b.text(""), 20 * 10**12, 0, 2)
    keep = f"(drop {b.call('storage_write', id_key, b.read(2), 3)})"

    def resume(payload: str) -> str:
        return b.call("promise_yield_resume", b.read(4), payload)

    load = f"(drop {b.call('storage_read', id_key, 4)})"
    answer = "(i64.store8 (i32.const 4096) (i64.add (i64.const 48) (i64.extend_i32_u (local.get $r))))"
    begin = f"(local.set $p {create})"
    b.method("wait", begin, keep, b.call("promise_return", "(local.get $p)"))
    b.method("wait_detached", begin, keep)
    b.method("wait_and_fail", begin, keep, "(unreachable)")
    b.method("wait_and_resume", begin, keep, load, f"(drop {resume(b.text('at once'))})",
             b.call("promise_return", "(local.get $p)"))  # fmt: skip
    b.method("wait_then", begin, keep,
             b.call("promise_return", b.call("promise_then", "(local.get $p)", b.text("app.test"),
                                             b.text("show_result"), b.text(""), b.u128(0), 20 * 10**12)))  # fmt: skip
    payload = b.read(0, 16384)
    one = answer.replace("(i64.extend_i32_u (local.get $r))", f"(i64.extend_i32_u {resume(payload)})")
    b.method("resume", take, load, one, b.call("value_return", 1, 4096))
    b.method("resume_twice", take, load, f"(drop {resume(payload)})", one, b.call("value_return", 1, 4096))
    # resume with a data id given as input: only an account's own yields may be resumed
    foreign = b.call("promise_yield_resume", b.read(0, 16384), b.text("x"))
    b.method("resume_id", take,
             answer.replace("(i64.extend_i32_u (local.get $r))", f"(i64.extend_i32_u {foreign})"),
             b.call("value_return", 1, 4096))  # fmt: skip
    b.method("yield_id", load, b.call("value_return", b.read(4)))
    b.method("on_resume",
             f"(if (i64.eq {b.call('promise_result', 0, 0)} (i64.const 1)) "
             f"(then {b.call('log_utf8', b.text('resumed'))} {b.call('value_return', b.read(0))}) "
             f"(else {b.call('log_utf8', b.text('timed out'))} {b.call('value_return', b.text('late'))}))")  # fmt: skip
