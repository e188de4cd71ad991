# SPDX-License-Identifier: MIT
"""``call``, ``result`` and ``request``: run an app, over HTTPS or from the chain."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from outlayer_cli.api import Api
from outlayer_cli.errors import EXIT_FAILED, UsageError
from outlayer_cli.payment_keys import choose_key
from outlayer_cli.session import Session

app = typer.Typer()

KeyFile = Annotated[
    Path | None, typer.Option("--payment-key-file", help="Default: the developer's first key.")
]
MaxInstructions = Annotated[int | None, typer.Option(min=1)]
MaxMemory = Annotated[int | None, typer.Option("--max-memory-mb", min=1)]
MaxSeconds = Annotated[int | None, typer.Option("--max-execution-seconds", min=1)]


def parse_input(text: str) -> Any:
    """The JSON value to send; ``@file`` reads it from a file. Raises ``UsageError`` for anything else."""
    if text.startswith("@"):
        path = Path(text[1:])
        if not path.is_file():
            raise UsageError(f"there is no input file {path}")
        text = path.read_text()
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageError(
            f"the input is not JSON: {error}", hint="""a text needs quotes of its own: '"text"'"""
        ) from error


def limits_of(instructions: int | None, memory_mb: int | None, seconds: int | None) -> dict[str, int]:
    given = {
        "max_instructions": instructions,
        "max_memory_mb": memory_mb,
        "max_execution_seconds": seconds,
    }
    return {name: value for name, value in given.items() if value is not None}


@app.command()
def call(
    context: typer.Context,
    project: Annotated[str, typer.Argument(help="owner/name")],
    input_json: Annotated[str, typer.Argument(metavar="INPUT", help="JSON, or @file")],
    asynchronous: Annotated[bool, typer.Option("--async", help="Do not wait for the result.")] = False,
    payment_key_file: KeyFile = None,
    version: Annotated[str | None, typer.Option(help="A version key; default: the active one.")] = None,
    compute_limit: Annotated[int | None, typer.Option(min=0, help="Most to pay, in micro-USD.")] = None,
    deposit: Annotated[int | None, typer.Option(min=0, help="For the developer, in micro-USD.")] = None,
    max_instructions: MaxInstructions = None,
    max_memory_mb: MaxMemory = None,
    max_execution_seconds: MaxSeconds = None,
) -> None:
    """Call an app over HTTPS and print its answer. Exit code 1 when the app failed."""
    session: Session = context.obj
    body: dict[str, Any] = {"input": parse_input(input_json), "async": asynchronous}
    limits = limits_of(max_instructions, max_memory_mb, max_execution_seconds)
    if limits:
        body["resource_limits"] = limits
    if version is not None:
        body["version_key"] = version
    headers = {
        name: str(value)
        for name, value in {"X-Compute-Limit": compute_limit, "X-Attached-Deposit": deposit}.items()
        if value is not None
    }
    key = choose_key(session.stack, payment_key_file)
    with Api(session.stack.coordinator_url) as api:
        path = f"/call/{project}"
        reply = api.expect(api.request("POST", path, payment_key=key, headers=headers, json=body))
    _show(session, reply)


@app.command()
def result(
    context: typer.Context,
    call_id: Annotated[str, typer.Argument()],
    payment_key_file: KeyFile = None,
) -> None:
    """What came of a call. Exit code 1 when the app failed."""
    session: Session = context.obj
    key = choose_key(session.stack, payment_key_file)
    with Api(session.stack.coordinator_url) as api:
        reply = api.get_json(f"/calls/{call_id}", payment_key=key)
    _show(session, reply)


def _show(session: Session, reply: dict[str, Any]) -> None:
    call_id, status = reply["call_id"], reply["status"]
    if session.json_output:
        session.result(reply)
    elif status == "completed":
        print(json.dumps(reply.get("output"), ensure_ascii=False))
        cost = int(reply.get("compute_cost") or 0) / 1e6
        print(f"\ncall {call_id}: {reply.get('time_ms')} ms in the guest, ${cost:.6f}")
        print(f"verify it with: outlayer verify call {call_id}")
    elif status == "failed":
        print(f"the app failed: {reply.get('error')}\n\ncall {call_id}")
    else:
        print(f"call {call_id} is {status}; ask again with: outlayer result {call_id}")
    if status == "failed":
        raise typer.Exit(EXIT_FAILED)


@app.command()
def request(
    context: typer.Context,
    project: Annotated[str, typer.Argument(help="owner/name")],
    input_json: Annotated[str, typer.Argument(metavar="INPUT", help="JSON, or @file")],
    account: Annotated[str, typer.Option(help="The account that signs and pays.")],
    via: Annotated[str | None, typer.Option(help="A contract with the caller example's 'ask'.")] = None,
    max_instructions: MaxInstructions = None,
    max_memory_mb: MaxMemory = None,
    max_execution_seconds: MaxSeconds = None,
) -> None:
    """Request an execution on chain and print the value. Exit code 1 when the execution failed."""
    from outlayer_cli.chain import request_execution

    session: Session = context.obj
    limits = limits_of(max_instructions, max_memory_mb, max_execution_seconds)
    text = json.dumps(parse_input(input_json), separators=(",", ":"), ensure_ascii=False)
    reply = asyncio.run(request_execution(session, project, text, account, via, limits))
    if session.json_output:
        session.result(reply)
    else:
        print(json.dumps(reply["value"], ensure_ascii=False))
        print(f"\ntransaction {reply['tx_hash']}, request {reply['request_id']}")
        print(f"verify it with: outlayer verify tx {reply['tx_hash']}")
    if not reply["success"]:
        raise typer.Exit(EXIT_FAILED)
