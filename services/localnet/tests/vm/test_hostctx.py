# SPDX-License-Identifier: MIT
"""Gas counting and registers on their own."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from localnet_calls import make_context

from outlayer_localnet.hostctx import MAX_U64, GasCounter, HostCtx
from outlayer_localnet.params import load
from outlayer_localnet.replay import MemoryExternal
from outlayer_localnet.vm_errors import HostFailure

PARAMS = load(86)


def counter(prepaid: int, max_burnt: int = 10**15) -> GasCounter:
    limits = dataclasses.replace(PARAMS.limits, max_gas_burnt=max_burnt)
    params = dataclasses.replace(PARAMS, limits=limits)
    return GasCounter(params, make_context(prepaid_gas=prepaid))


def host_ctx(**limits: int) -> HostCtx:
    params = dataclasses.replace(PARAMS, limits=dataclasses.replace(PARAMS.limits, **limits))
    return HostCtx(params, make_context(), MemoryExternal({}), ())


@pytest.mark.parametrize(
    ("burnt", "prepaid", "variant"),
    [
        (5, 7, "GasLimitExceeded"),
        (5, 5, "GasLimitExceeded"),
        (7, 5, "GasLimitExceeded"),
        (8, 7, "GasExceeded"),
    ],
)
def test_which_limit_is_reported(burnt, prepaid, variant):
    gas = counter(prepaid, burnt)
    gas.burn(5)
    with pytest.raises(HostFailure) as caught:
        gas.burn(3)
    assert caught.value.error.variant == variant
    assert gas.burnt == min(8, burnt, prepaid)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 10**6), st.integers(0, 10**6)), max_size=30),
    st.integers(0, 10**7),
)
def test_gas_is_never_burnt_beyond_what_was_paid(steps, prepaid):
    gas = counter(prepaid)
    try:
        for promise, burn, more in steps:
            if promise:
                gas.deduct(burn, burn + more)
            else:
                gas.burn(burn)
    except HostFailure:
        pass
    assert gas.burnt <= prepaid
    assert gas.used <= prepaid
    assert gas.remaining == prepaid - gas.used


def test_number_that_does_not_fit_is_an_overflow():
    gas = counter(10**14)
    with pytest.raises(HostFailure) as caught:
        gas.pay("base", MAX_U64)
    assert caught.value.error.variant == "IntegerOverflow"
    assert gas.burnt == 0


def test_full_register_table_refuses_overwriting_too():
    h = host_ctx(max_number_registers=2)
    h.set_register(42, b"foo")
    h.set_register(24, b"bar")
    for register in (12, 42):
        with pytest.raises(HostFailure, match="outside the bounds"):
            h.set_register(register, b"baz")
    # the charges of nearcore's own test of this
    assert h.gas.burnt == 4 * 2_865_522_486 + 12 * 3_801_564


def test_registers_share_a_memory_limit():
    h = host_ctx(registers_memory_limit=11)
    for value in (b"foo", b"bar", b"", b"baz"):
        h.set_register(42, value)
    with pytest.raises(HostFailure):
        h.set_register(42, b"quux")
