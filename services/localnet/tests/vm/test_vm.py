# SPDX-License-Identifier: MIT
"""What a call does, seen through ``run``."""

from __future__ import annotations

import dataclasses
import threading

import localnet_wasmgen as gen
import pytest
import wasmtime
from localnet_calls import DATA, SIGNATURES, SPANS, UNSUPPORTED, make_context

from outlayer_localnet import replay, vm
from outlayer_localnet.hostfns import FUNCTIONS
from outlayer_localnet.vm_errors import rust_debug_str

BOB, ALICE, METHOD, ARGS = (list(reversed(SPANS[i])) for i in range(4))
ONE_YOCTO, ZERO = SPANS[4][0], SPANS[6][0]


@pytest.fixture
def call(params, cache_dir):
    """Run a list of host calls, or WAT, and get (outcome, external)."""

    def run(what, *, method="go", storage=None, results=(), **context):
        wat = isinstance(what, str)
        code = bytes(wasmtime.wat2wasm(what)) if wat else gen.host_module(SIGNATURES, what, DATA)
        ext = replay.MemoryExternal(storage or {}, code=code)
        context = make_context(**context)
        return vm.run(code, method, context, ext, results, params, cache_dir=cache_dir), ext

    return run


def test_written_value_is_read_back_and_counted(call):
    outcome, ext = call(
        [
            ("storage_write", [*BOB, *ARGS, 0]),
            ("storage_read", [*BOB, 1]),
            ("read_register", [1, 4096]),
            ("value_return", [len(b'{"a":1}'), 4096]),
        ],
        storage_usage=500,
    )
    assert outcome.error is None
    assert outcome.return_data == b'{"a":1}'
    assert ext.storage == {b"bob.test": b'{"a":1}'}
    assert outcome.storage_usage == 500 + len(b"bob.test") + len(b'{"a":1}') + 40


def test_logs_survive_a_panic_and_gas_stays_burnt(call):
    outcome, _ = call([("log_utf8", BOB), ("panic_utf8", METHOD)])
    assert outcome.logs == ("bob.test",)
    assert str(outcome.error) == "Smart contract panicked: some_method"
    assert outcome.error.to_json() == {"ExecutionError": "Smart contract panicked: some_method"}
    assert outcome.error.debug() == 'HostError(GuestPanic { panic_msg: "some_method" })'
    assert outcome.burnt_gas > 10**9


def test_weighted_call_attaches_deposit_gas_and_weight(call):
    outcome, ext = call(
        [
            ("promise_batch_create", BOB),
            (
                "promise_batch_action_function_call_weight",
                [0, *METHOD, *ARGS, ONE_YOCTO, 3 * 10**12, 5],
            ),
        ],
        account_balance=100,
    )
    assert outcome.error is None
    assert outcome.balance == 99
    assert outcome.used_gas >= outcome.burnt_gas + 3 * 10**12
    assert ext.actions[1]["FunctionCallWeight"]["gas_weight"] == 5
    assert ext.actions[1]["FunctionCallWeight"]["prepaid_gas"] == 3 * 10**12


def test_one_yocto_is_given_to_an_account_without_balance(call):
    calls = [("promise_create", [*BOB, *METHOD, *ARGS, ONE_YOCTO, 0])]
    outcome, _ = call(calls, account_balance=0)
    assert (outcome.error, outcome.balance, outcome.subsidized) == (None, 0, 1)


def test_yield_is_created_and_resumed(call):
    outcome, ext = call(
        [
            ("promise_yield_create", [*METHOD, *ARGS, 10**12, 1, 7]),
            ("promise_yield_resume", [gen.MAX_U64, 7, *ARGS]),
            ("promise_return", [0]),
        ]
    )
    assert outcome.error is None
    assert outcome.return_data == 0
    assert [next(iter(action)) for action in ext.actions] == [
        "YieldCreate",
        "FunctionCallWeight",
        "YieldResume",
    ]


def test_view_call_refuses_what_changes_state(call):
    outcome, ext = call([("storage_write", [*BOB, *ARGS, 0])], view_max_gas=3 * 10**14)
    assert str(outcome.error) == "storage_write is not allowed in view calls"
    assert ext.storage == {}


def test_gas_that_runs_out_is_burnt_up_to_the_limit(call):
    loop = '(module (func (export "go") (loop $l (br $l))))'
    outcome, _ = call(loop, prepaid_gas=10**12)
    assert (outcome.burnt_gas, str(outcome.error)) == (10**12, "Exceeded the prepaid gas.")
    outcome, _ = call(loop, view_max_gas=2 * 10**11)
    assert outcome.burnt_gas == 2 * 10**11
    assert outcome.error.variant == "GasLimitExceeded"


def test_missing_method_burns_nothing(call):
    outcome, _ = call('(module (func (export "go")))', method="gone")
    assert outcome.burnt_gas == 0
    assert outcome.error.to_json() == {"MethodResolveError": "MethodNotFound"}


def test_loading_costs_by_size(call, params):
    wat = '(module (func (export "go")))'
    outcome, _ = call(wat)
    size = len(wasmtime.wat2wasm(wat))
    assert outcome.profile.host == {
        "contract_loading_bytes": 1_089_295 * size,
        "contract_loading_base": 35_445_963,
    }
    assert outcome.burnt_gas == sum(outcome.profile.host.values()) + 8 * params.regular_op_cost


def test_profile_adds_up_to_burnt_gas(call):
    outcome, _ = call([("promise_create", [*BOB, *METHOD, *ARGS, ZERO, 10**12]), ("log_utf8", BOB)])
    rows = outcome.profile.to_json()
    assert sum(int(row["gas_used"]) for row in rows) == outcome.burnt_gas
    assert rows == sorted(rows, key=lambda row: (row["cost_category"], row["cost"]))
    assert {"cost_category": "WASM_HOST_COST", "cost": "LOG_BASE", "gas_used": "3543313050"} in rows


def test_module_that_cannot_be_prepared_says_so(call):
    outcome, _ = call('(module (import "env" "memory" (memory 1)) (func (export "go")))')
    assert outcome.error.to_json() == {"CompilationError": {"PrepareError": "Memory"}}
    assert outcome.error.debug() == "CompilationError(PrepareError(Memory))"


@pytest.mark.parametrize("name", sorted(UNSUPPORTED))
def test_function_this_node_lacks_fails_by_name(call, name):
    outcome, _ = call([(name, [0] * len(FUNCTIONS[name].params))])
    assert str(outcome.error) == f"The host function {name} is not supported by this node"


def test_import_table_is_that_of_protocol_version_86():
    assert len(FUNCTIONS) == 89
    assert FUNCTIONS["promise_yield_resume"].result == "i32"
    assert FUNCTIONS["abort"].params == ("i32",) * 4
    assert "sha3_256" not in FUNCTIONS


def test_failure_of_the_environment_passes_through(params, cache_dir):
    class BrokenStateError(Exception):
        pass

    class Broken(replay.MemoryExternal):
        def storage_get(self, key):
            raise BrokenStateError

    code = gen.host_module(SIGNATURES, [("storage_read", [*BOB, 0])], DATA)
    with pytest.raises(BrokenStateError):
        vm.run(code, "go", make_context(), Broken({}), (), params, cache_dir=cache_dir)
    outcome = vm.run(code, "go", make_context(), replay.MemoryExternal({}), (), params, cache_dir=cache_dir)
    assert outcome.error is None


def test_calls_in_several_threads_do_not_meet(params, cache_dir):
    calls = [("input", [0]), ("read_register", [0, 4096]), ("log_utf8", [2, 4096]), ("panic", [])]
    code = gen.host_module(SIGNATURES, calls, DATA)
    wrong: list[object] = []

    def work(number: int) -> None:
        for _ in range(20):
            context = make_context(input=b"%02d" % number)
            ext = replay.MemoryExternal({})
            outcome = vm.run(code, "go", context, ext, (), params, cache_dir=cache_dir)
            if outcome.logs != (f"{number:02d}",) or outcome.error.variant != "GuestPanic":
                wrong.append(outcome)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_deep_recursion_in_a_thread_ends_as_the_stack_limit_says(call):
    params = "i64 " * 20
    args = "(local.get 0)" * 20
    wat = (
        f"(module (func $f (param {params}) (local {params}) (call $f {args}))"
        f' (func (export "go") (call $f {"(i64.const 1)" * 20})))'
    )
    seen: list[str] = []
    thread = threading.Thread(target=lambda: seen.append(str(call(wat)[0].error)))
    thread.start()
    thread.join()
    assert seen == ["Accessed memory outside the bounds."]


def test_outcomes_are_the_same_from_memory_and_from_disk(call, monkeypatch):
    wat = '(module (func (export "go") (loop (block (br 0))) nop))'
    first, _ = call(wat)
    monkeypatch.setattr(vm, "_MEMORY_CACHE", type(vm._MEMORY_CACHE)(limit=4))
    second, _ = call(wat)
    assert dataclasses.asdict(first) == dataclasses.asdict(second)


@pytest.mark.parametrize(
    ("text", "shown"),
    [('a"b\\', r'"a\"b\\"'), ("\n\t\0", r'"\n\t\0"'), ("ü€", '"ü€"'), ("\x01", r'"\u{1}"')],
)
def test_debug_text_is_escaped_as_rust_does(text, shown):
    assert rust_debug_str(text) == shown
