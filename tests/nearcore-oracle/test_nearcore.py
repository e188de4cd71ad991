# SPDX-License-Identifier: MIT
"""The localnet does what nearcore's own VM does: for every call of the contracts' tests, and for random modules.

Building the VM takes minutes the first time, see ``build``; where it cannot be built this says why.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="session")
def program() -> str:
    built = subprocess.run([sys.executable, HERE / "build"], capture_output=True, text=True, check=False)
    if built.returncode == 77:
        pytest.skip(built.stderr.strip())
    assert built.returncode == 0, built.stderr[-4000:]
    return built.stdout.strip()


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_call_of_the_contract_suite_is_the_same_in_nearcore(program: str) -> None:
    done = run(HERE / "replay", program)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    counts = re.search(
        r"(\d+) calls recorded; of those unlike each other (\d+) equal, 0 different", done.stdout
    )
    assert counts is not None, done.stdout[-2000:]
    assert int(counts[2]) > 400


def test_new_random_modules_and_calls_are_the_same_in_nearcore(program: str) -> None:
    suite = "services/localnet/tests/vm/test_against_nearcore.py"
    done = run("-m", "pytest", "-n0", "-q", "-rs", suite, "-k", "new or damaged", NEARCORE_ORACLE=program)
    assert done.returncode == 0, done.stdout[-6000:]
    assert "skipped" not in done.stdout
    assert "passed" in done.stdout


def test_a_contract_that_burns_other_gas_is_told_apart(program: str, tmp_path: Path) -> None:
    """The comparison itself: with one price of the localnet changed, the same suite does not pass."""
    suite = tmp_path / "test_wrong_price.py"
    suite.write_text(WRONG_PRICE)
    done = run(HERE / "replay", program, str(suite))
    assert done.returncode == 1, done.stdout[-3000:]
    assert "burnt_gas" in done.stdout


WRONG_PRICE = '''
import dataclasses
import wasmtime
from outlayer_localnet import params
from outlayer_localnet.testing import localnet

def test_call():
    code = wasmtime.wat2wasm(
        """(module (import "env" "block_index" (func $height (result i64)))
        (memory 1) (func (export "go") (drop (call $height))))"""
    )
    with localnet() as chain:
        prices = chain.chain.params
        costs = dict(prices.ext_costs)
        costs["base"] += 1
        chain.chain.params = dataclasses.replace(prices, ext_costs=costs)
        account = chain.create_account("odd.test")
        chain.deploy(account, bytes(code))
        assert chain.call(account, "odd.test", "go").failure is None
'''
