# SPDX-License-Identifier: MIT
"""The localnet's VM against nearcore's own (near-vm-runner 0.38), exactly.

Each outcome (return value, logs, state, receipts, error, burnt and used gas, gas profile) must be equal.
``nearcore.json`` holds outcomes recorded from nearcore for modules and calls that the generators here
make again from their seeds; new seeds are compared live where the oracle program has been built:
``tests/nearcore-oracle/build`` (needs rustc 1.93). ``tests/nearcore-oracle/record`` writes the recording.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
from pathlib import Path

import pytest
import wasmtime
from localnet_calls import host_call, make_context, mutated_module, program_call, random_host_calls
from localnet_modules import MODULES

from outlayer_localnet.replay import Call, Observed, Oracle, run_here

RECORDED = json.loads((Path(__file__).parent / "nearcore.json").read_text())
ORACLE = Path(
    os.environ.get("NEARCORE_ORACLE")
    or Path(__file__).parents[4] / "tests/nearcore-oracle/target/release/nearcore-oracle"
)
needs_oracle = pytest.mark.skipif(
    not ORACLE.is_file(),
    reason="nearcore's VM is not built here: run tests/nearcore-oracle/build (needs rustc 1.93)",
)


def module_call(name: str) -> Call:
    return Call(code=bytes(wasmtime.wat2wasm(MODULES[name])), method="go", context=make_context())


def curve_call(calls, data_hex: str) -> Call:
    import localnet_wasmgen as gen
    from localnet_calls import SIGNATURES

    data = bytes.fromhex(data_hex).ljust(4000, b"\0")
    code = gen.host_module(SIGNATURES, [(n, a) for n, a in calls], data)
    return Call(code=code, method="go", context=make_context(prepaid_gas=10**15))


def smith_call(code: bytes) -> Call:
    """A call of a module that wasm-smith made; loops that do not end run out of gas."""
    return Call(code=code, method="go", context=make_context(prepaid_gas=3 * 10**11))


def differences(ours: Observed, theirs: Observed) -> dict[str, tuple[object, object]]:
    pairs = ((f.name, getattr(ours, f.name), getattr(theirs, f.name)) for f in dataclasses.fields(Observed))
    return {name: (a, b) for name, a, b in pairs if a != b}


def compact(value):
    """Long texts and lists by their hash, so that the recording stays small."""
    if isinstance(value, dict):
        return {key: compact(item) for key, item in value.items()}
    if isinstance(value, list) and len(value) <= 100:
        return [compact(item) for item in value]
    if isinstance(value, list) or (isinstance(value, str) and len(value) > 400):
        return "sha256:" + hashlib.sha256(json.dumps(value).encode()).hexdigest()
    return value


def changes(ours: Observed, recorded) -> dict[str, tuple[object, object]]:
    """What differs from the recording."""
    seen = compact(dataclasses.asdict(ours))
    return {name: (seen[name], value) for name, value in recorded.items() if seen[name] != value}


@pytest.mark.parametrize("name", sorted(RECORDED["modules"]))
def test_module_at_the_edge_does_what_nearcore_recorded(name, params, cache_dir):
    ours = run_here(module_call(name), params, cache_dir=cache_dir)
    assert changes(ours, RECORDED["modules"][name]) == {}


def test_random_programs_do_what_nearcore_recorded(params, cache_dir):
    for seed, outcome in RECORDED["programs"].items():
        ours = run_here(program_call(int(seed)), params, cache_dir=cache_dir)
        assert changes(ours, outcome) == {}, f"program {seed}"


def test_host_function_sequences_do_what_nearcore_recorded(params, cache_dir):
    for row in RECORDED["host_calls"]:
        call = host_call([(name, args) for name, args in row["calls"]], row["seed"])
        ours = run_here(call, params, cache_dir=cache_dir)
        assert changes(ours, row["outcome"]) == {}, f"host calls {row['seed']}"


def test_curves_and_signatures_do_what_nearcore_recorded(params, cache_dir):
    for row in RECORDED["curves"]:
        ours = run_here(curve_call(row["calls"], row["data"]), params, cache_dir=cache_dir)
        assert changes(ours, row["outcome"]) == {}, row["calls"][0][0]


def test_random_modules_do_what_nearcore_recorded(params, cache_dir):
    for number, row in enumerate(RECORDED["random_modules"]):
        ours = run_here(smith_call(bytes.fromhex(row["code"])), params, cache_dir=cache_dir)
        assert changes(ours, row["outcome"]) == {}, f"module {number}"


@needs_oracle
def test_new_random_modules_equal_nearcore(params, cache_dir):
    chance = random.Random(base := random.randrange(1 << 40))
    with Oracle(ORACLE) as oracle:
        for number in range(200):
            call = smith_call(oracle.random_module(chance.randbytes(chance.randrange(200, 6_000))))
            ours = run_here(call, params, cache_dir=cache_dir)
            assert differences(ours, oracle.run(call)) == {}, f"module {number} of seed {base}"


@needs_oracle
def test_new_random_programs_equal_nearcore(params, cache_dir):
    base = random.randrange(1 << 40)
    with Oracle(ORACLE) as oracle:
        for seed in range(base, base + 150):
            call = program_call(seed)
            ours = run_here(call, params, cache_dir=cache_dir)
            assert differences(ours, oracle.run(call)) == {}, f"program {seed}"


@needs_oracle
def test_new_host_function_sequences_equal_nearcore(params, cache_dir):
    base = random.randrange(1 << 40)
    with Oracle(ORACLE) as oracle:
        for seed in range(base, base + 150):
            call = host_call(random_host_calls(seed), seed)
            ours = run_here(call, params, cache_dir=cache_dir)
            assert differences(ours, oracle.run(call)) == {}, f"host calls {seed}"


@needs_oracle
def test_damaged_modules_are_refused_as_nearcore_refuses_them(params, cache_dir):
    base = random.randrange(1 << 40)
    with Oracle(ORACLE) as oracle:
        for seed in range(base, base + 150):
            context = make_context(prepaid_gas=10**12)
            call = Call(code=mutated_module(seed), method="go", context=context)
            ours = run_here(call, params, cache_dir=cache_dir)
            assert differences(ours, oracle.run(call)) == {}, f"module {seed}"
