# SPDX-License-Identifier: MIT
"""Our whole stack, two workers and the command line, serving the main contract as the original has it."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from outlayer_near.primitives import b58encode
from outlayer_near.rpc import NearRpc
from tests.e2e.conftest import ARTIFACTS, ROOT, Cli

pytestmark = pytest.mark.e2e

DEVELOPER, CALLER, PROJECT = "alice.test", "bob.test", "alice.test/echo"
MAIN = "outlayer.test"
BASE_FEE = 10**21


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    folder = tmp_path_factory.mktemp("original")
    tool = Cli(folder / "state", folder / "home")
    launcher = [sys.executable, "-m", "tests.interop.stack_on_original", str(folder / "checkout")]
    words = [*launcher, "up", "--ports", "auto", "--no-demo"]
    try:
        started = subprocess.run(
            words, env=tool.env, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240
        )
        assert started.returncode == 0, started.stdout + started.stderr
        for name in ("echo", "misbehave"):
            wasm = str(ARTIFACTS / f"{name}.wasm")
            tool.ok("project", "deploy", name, "--wasm", wasm, "--account", DEVELOPER)
        yield tool
    finally:
        tool.run("down")


def request(cli: Cli, text: str, *more: str) -> Any:
    return cli.json("request", PROJECT, text, "--account", DEVELOPER, *more)


@pytest.fixture(scope="module")
def reply(cli: Cli) -> Any:
    """The answer to a request that a contract made."""
    return request(cli, '{"hello":"original"}', "--via", CALLER)


def open_checks(verdict: Any) -> dict[str, str]:
    """The checks that neither hold nor are taken from the bundle, with their reasons."""
    checks = verdict["checks"]
    return {c["name"]: c["reason"] for c in checks if c["outcome"] not in ("PASS", "STATED")}


def test_the_stack_stands_on_the_originals_contract(cli: Cli) -> None:
    async def installed() -> str | None:
        async with NearRpc(cli.stack()["rpc_url"]) as rpc:
            return await rpc.code_hash(MAIN)

    wasm = (ROOT / "contracts" / "artifacts" / "original-main.wasm").read_bytes()
    assert asyncio.run(installed()) == b58encode(hashlib.sha256(wasm).digest())


def test_a_contract_gets_its_value(reply: Any) -> None:
    assert reply["value"] == {"hello": "original"}


def test_the_settlement_is_read(reply: Any) -> None:
    charged, refunded = int(reply["charged"]), int(reply["refunded"])
    assert charged + refunded == int(reply["attached"])
    assert charged > BASE_FEE


def test_a_record_that_the_settlement_does_not_name_is_unproven_above_in_time_only(
    cli: Cli, reply: Any, tmp_path: Path
) -> None:
    path = tmp_path / "evidence.json"
    live = cli.run("--json", "verify", "tx", reply["tx_hash"], "--save", str(path))
    saved = cli.run("--json", "verify", "bundle", str(path))
    for outcome in (live, saved):
        assert outcome.code == 2, outcome.out + outcome.err
        verdict = outcome.json()
        assert verdict["verdict"] == "UNPROVEN"
        assert open_checks(verdict) == {"not_after": "settlement_names_no_record"}


@pytest.mark.parametrize("size", [2_000, 30_000])
def test_inputs_and_answers_too_long_for_an_event_or_a_yield_arrive_whole(cli: Cli, size: int) -> None:
    text = "x" * size
    assert request(cli, f'{{"text":"{text}"}}')["value"] == {"text": text}


def test_a_failed_run_gives_null_and_costs_the_base_fee(cli: Cli) -> None:
    words = ("request", f"{DEVELOPER}/misbehave", '{"do":"trap"}', "--account", DEVELOPER)
    outcome = cli.run("--json", *words)
    answer = outcome.json()
    assert (answer["value"], answer["success"], answer["charged"]) == (None, False, str(BASE_FEE))


def test_a_payment_key_made_there_pays_for_calls(cli: Cli) -> None:
    made = cli.json("keys", "create", "--account", DEVELOPER, "--grant", "1000000")
    assert (made["owner"], made["nonce"]) == (DEVELOPER, 1)
    answer = cli.json("call", PROJECT, '{"n":1}')
    assert (answer["status"], answer["output"]) == ("completed", {"n": 1})
    assert cli.json("verify", "call", answer["call_id"])["verdict"] == "PASS"
