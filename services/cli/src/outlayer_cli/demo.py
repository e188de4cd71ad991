# SPDX-License-Identifier: MIT
"""What ``up`` shows at the end: one app, run once over HTTPS and once for a contract, both runs verified.

Each step is the command that a person would type, run as a program of its own: nothing here reaches around
the command line.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from outlayer_cli import layout
from outlayer_cli.errors import StackError
from outlayer_cli.layout import Layout, Stack

PROJECT_NAME = "echo"
HTTPS_INPUT = '{"hello":"world"}'
CHAIN_INPUT = '{"hello":"chain"}'
GRANT_MICRO_USD = 10_000_000

Say = Callable[[str], None]


@dataclass(frozen=True)
class Step:
    """One line of the table: what was done, what came of it, how long it took."""

    what: str
    command: str
    result: str
    seconds: float


def shell_words(arguments: list[str]) -> str:
    """A command as a person would paste it."""
    import shlex

    return shlex.join(["outlayer", *arguments])


async def run_cli(state: Path, arguments: list[str]) -> dict[str, Any]:
    """Run ``outlayer --json …`` on this stack and give its reply. Raises ``StackError`` when it fails."""
    command = [sys.executable, "-m", "outlayer_cli.main", "--json", *arguments]
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, "OUTLAYER_STATE": str(state)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    if process.returncode != 0:
        said = (errors or output).decode(errors="replace").strip()[-1500:]
        raise StackError(f"'{shell_words(arguments)}' ended with exit code {process.returncode}: {said}")
    reply: dict[str, Any] = json.loads(output)
    return reply


async def run(place: Layout, stack: Stack, say: Say) -> list[Step]:
    """Deploy, call, request, verify; print the table. Raises ``StackError`` at the first step that fails."""
    state, project = place.state, f"{stack.developer_id}/{PROJECT_NAME}"
    steps: list[Step] = []

    async def step(what: str, arguments: list[str], tell: Callable[[dict[str, Any]], str]) -> dict[str, Any]:
        started = time.monotonic()
        reply = await run_cli(state, arguments)
        steps.append(Step(what, shell_words(arguments), tell(reply), time.monotonic() - started))
        say(f"{what}: {steps[-1].result}")
        return reply

    wasm = str(layout.repository_root() / "examples" / "artifacts" / "echo.wasm")
    await step(
        "deploy the app",
        ["project", "deploy", PROJECT_NAME, "--wasm", wasm, "--account", stack.developer_id],
        lambda reply: f"{reply['project_id']}, code {reply['wasm_sha256'][:12]}…",
    )
    if not payment_key_file(stack).exists():
        await step(
            "make a payment key",
            ["keys", "create", "--account", stack.developer_id, "--grant", str(GRANT_MICRO_USD)],
            lambda reply: f"{reply['owner']}:{reply['nonce']}, in {reply['key_file']}",
        )
    call = await step("call it over HTTPS", ["call", project, HTTPS_INPUT], _call_result)
    await step("verify that call", ["verify", "call", call["call_id"]], _verdict)
    request = await step(
        "request it from a contract",
        ["request", project, CHAIN_INPUT, "--account", stack.developer_id, "--via", stack.caller_id],
        lambda reply: f"callback got {json.dumps(reply['value'])}",
    )
    await step("verify that transaction", ["verify", "tx", request["tx_hash"]], _verdict)
    _print_table(steps)
    return steps


def payment_key_file(stack: Stack) -> Path:
    """Where ``keys create`` keeps the first payment key of the developer."""
    return Path(stack.credentials_dir) / "payment-keys" / f"{stack.developer_id}.1.json"


def _call_result(reply: dict[str, Any]) -> str:
    if reply["status"] != "completed":
        raise StackError(f"the call ended as {reply['status']}: {reply.get('error')}")
    return f"{json.dumps(reply['output'])} for ${int(reply['compute_cost']) / 1e6:.6f}"


def _verdict(reply: dict[str, Any]) -> str:
    verdict = str(reply["verdict"])
    if verdict != "PASS":
        raise StackError(f"the proof did not hold: {verdict}")
    passed = sum(check["outcome"] == "PASS" for check in reply["checks"])
    return f"{verdict}, {passed} checks" + (" (SIMULATED root of trust)" if reply["simulated"] else "")


def _print_table(steps: list[Step]) -> None:
    table = Table(title="What ran", title_justify="left", show_lines=False)
    table.add_column("step")
    table.add_column("result", overflow="fold")
    table.add_column("seconds", justify="right")
    for item in steps:
        table.add_row(item.what, item.result, f"{item.seconds:.2f}")
    Console().print(table)
