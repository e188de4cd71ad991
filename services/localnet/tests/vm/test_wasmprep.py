# SPDX-License-Identifier: MIT
"""Preparation of modules: same results as the plain module, and the gas of a simple count."""

from __future__ import annotations

import functools
import random

import localnet_wasmgen as gen
import pytest
import wasmtime
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from localnet_calls import mutated_module
from localnet_modules import MODULES

from outlayer_localnet import wasmcache, wasmprep
from outlayer_localnet.params import load
from outlayer_localnet.vm_errors import PrepareError

PARAMS = load(86)
OP = PARAMS.regular_op_cost
# native code cannot be interrupted by a test's time limit, so the plain run is bounded by fuel;
# gas is enough for linear operators over 4 GiB
PLENTY = 1 << 60
MOST_OPERATORS = 5_000_000


@functools.cache
def fuelled_engine() -> wasmtime.Engine:
    """An engine for modules without a gas counter; not the one under test."""
    config = wasmtime.Config()
    config.cranelift_nan_canonicalization = True
    config.consume_fuel = True
    return wasmtime.Engine(config)


class Run:
    """A module that ran "go": its outcome, memory and globals."""

    def __init__(self, code: bytes, export: str, *, prepared: bool) -> None:
        engine = wasmcache.engine() if prepared else fuelled_engine()
        store = wasmtime.Store(engine)
        store.set_limits(table_elements=10_000)
        if not prepared:
            store.set_fuel(MOST_OPERATORS)
        instance = wasmtime.Instance(store, wasmtime.Module(engine, code), [])
        self.exports = instance.exports(store)
        if prepared:
            self.exports[wasmprep.GAS_EXPORT].set_value(store, PLENTY)
        self.trap = None
        try:
            self.exports[export](store)
        except wasmtime.Trap as trap:
            self.trap = trap.trap_code
        memory = self.exports["memory"]
        self.memory = bytes(memory.read(store, 0, 1 << 20))
        self.pages = memory.size(store)
        self.store = store

    def value(self, name: str) -> int:
        return int(self.exports[name].value(self.store))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32))
def test_prepared_program_behaves_as_the_plain_one_and_costs_a_simple_count(seed):
    program = gen.random_program(seed)
    counted = Run(program.counted(), "go", prepared=False)
    assume(counted.trap != wasmtime.TrapCode.OUT_OF_FUEL)
    prepared = Run(wasmprep.prepare(program.plain(), PARAMS), wasmprep.FUNCTION_PREFIX + "go", prepared=True)
    assert prepared.trap == counted.trap
    assert prepared.pages == counted.pages
    assert prepared.memory == counted.memory
    assert PLENTY - prepared.value(wasmprep.GAS_EXPORT) == counted.value("count") * OP
    if prepared.trap is None:
        assert prepared.value(wasmprep.STACK_EXPORT) == PARAMS.limits.max_stack_height


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.booleans())
def test_arbitrary_bytes_are_refused_and_nothing_else(data, header):
    code = b"\0asm\x01\0\0\0" + data if header else data
    try:
        wasmprep.prepare(code, PARAMS)
    except PrepareError as error:
        assert error.kind
        assert error.detail


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_damaged_module_is_refused_or_yields_a_valid_one(seed):
    try:
        prepared = wasmprep.prepare(mutated_module(seed), PARAMS)
    except PrepareError:
        return
    wasmtime.Module.validate(wasmcache.engine(), prepared)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("simd", "SIMD"),
        ("atomics", "threads"),
        ("multivalue", "multi-value"),
        ("blockparam", "multi-value"),
        ("threads", "threads"),
        ("mem64", "memory"),
        ("multimem", "memor"),
        ("tail", "tail"),
        ("extconst", "extended-const"),
    ],
)
def test_unsupported_feature_is_named(name, word):
    with pytest.raises(PrepareError) as caught:
        wasmprep.prepare(bytes(wasmtime.wat2wasm(MODULES[name])), PARAMS)
    assert caught.value.kind == "Deserialization"
    assert word.lower() in caught.value.detail.lower()


def test_component_is_told_from_a_module():
    with pytest.raises(PrepareError, match="component"):
        wasmprep.prepare(b"\0asm\x0d\0\x01\0", PARAMS)


def test_contract_cannot_reach_the_gas_counter_through_its_exports():
    code = bytes(wasmtime.wat2wasm(MODULES["exportgas"]))
    exports = {e.name for e in wasmtime.Module(wasmcache.engine(), wasmprep.prepare(code, PARAMS)).exports}
    ours = {wasmprep.GAS_EXPORT, wasmprep.STACK_EXPORT, wasmprep.MEMORY_EXPORT}
    assert exports == ours | {"f:stack", "f:go"}


def test_preparation_is_deterministic():
    code = gen.random_program(random.randrange(1 << 30)).plain()
    assert wasmprep.prepare(code, PARAMS) == wasmprep.prepare(code, PARAMS)
