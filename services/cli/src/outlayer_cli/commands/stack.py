# SPDX-License-Identifier: MIT
"""``up``, ``down``, ``status``, ``logs``, ``clean``: the local stack."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from outlayer_cli import stack as stacks
from outlayer_cli.errors import EXIT_FAILED, UsageError
from outlayer_cli.layout import Layout, Stack
from outlayer_cli.session import SIMULATED_NOTICE, Session

app = typer.Typer()


@app.command()
def up(
    context: typer.Context,
    ports: Annotated[str, typer.Option(help="'default', or 'auto' for free ones.")] = "default",
    workers: Annotated[int, typer.Option(min=1, max=16)] = 2,
    demo: Annotated[bool, typer.Option(help="Deploy, run and verify an app at the end.")] = True,
) -> None:
    """Start everything on this machine, or what is missing of it."""
    session: Session = context.obj
    stack = asyncio.run(stacks.up(session.state, ports=ports, workers=workers, demo=demo, say=session.say))
    session.result(
        {"simulated": stack.simulated, "coordinator_url": stack.coordinator_url, "rpc_url": stack.rpc_url},
        describe(session.state, stack),
    )


def describe(state: Path, stack: Stack) -> str:
    """Where things run, where logs and credentials are, and a line to paste."""
    from outlayer_cli.payment_keys import first_key_file, header_command

    place = Layout(state)
    lines = [
        "",
        SIMULATED_NOTICE,
        "",
        f"API          {stack.coordinator_url}   (described at {stack.coordinator_url}/openapi.json)",
        f"NEAR RPC     {stack.rpc_url}   (chain {stack.network_id}, contract {stack.contract_id})",
        f"logs         {place.logs}   (outlayer logs [service] [--follow])",
        f"credentials  {place.credentials}   (accounts *.json, admin.token, payment-keys/)",
        f"policy       {stack.policy_file}",
    ]
    key_file = first_key_file(stack)
    if key_file is not None:
        lines += ["", "Paste this to call the app without the command line:", ""]
        lines.append(header_command(stack, key_file, f"{stack.developer_id}/echo", '{"hello":"world"}'))
    lines += ["", "stop with: make down"]
    return "\n".join(lines)


@app.command()
def down(context: typer.Context) -> None:
    """Stop the stack; its state stays."""
    session: Session = context.obj
    stopped = asyncio.run(stacks.down(session.state))
    session.result({"stopped": stopped}, "stopped" if stopped else "the stack did not run")


@app.command()
def status(context: typer.Context) -> None:
    """Show what runs. Exit code 1 when a service does not."""
    session: Session = context.obj
    rows = asyncio.run(stacks.status(session.state))
    healthy = all(row.healthy for row in rows)
    if session.json_output:
        session.result({"healthy": healthy, "services": [asdict(row) for row in rows]})
    else:
        _print_status(session, rows)
    if not healthy:
        raise typer.Exit(EXIT_FAILED)


def _print_status(session: Session, rows: list[stacks.ServiceStatus]) -> None:
    from rich.table import Table

    print(SIMULATED_NOTICE)
    table = Table()
    for column in ("service", "state", "healthy", "pid", "up for", "restarts", "last exit"):
        table.add_column(column)
    for row in rows:
        uptime = "" if row.uptime_seconds is None else f"{row.uptime_seconds:.0f} s"
        health = {True: "yes", False: "no", None: ""}[row.healthy]
        table.add_row(
            row.name, row.state, health, str(row.pid or ""), uptime, str(row.restarts), row.last_exit or ""
        )
    session.console.print(table)


@app.command()
def logs(
    context: typer.Context,
    service: Annotated[str | None, typer.Argument()] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f")] = False,
    lines: Annotated[int, typer.Option(min=1)] = 50,
) -> None:
    """Show the last lines of the services' logs."""
    session: Session = context.obj
    for line in stacks.logs(session.state, service, follow=follow, lines=lines):
        print(line, flush=True)


@app.command()
def clean(
    context: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Stop the stack and remove its state: chain, database, keys, logs."""
    session: Session = context.obj
    if not yes:
        if session.json_output:
            raise UsageError("clean removes the chain, the database and all keys", hint="confirm with --yes")
        typer.confirm(f"Remove {session.state} with its chain, database and keys?", abort=True)
    asyncio.run(stacks.clean(session.state))
    session.result({"removed": str(session.state)}, f"removed {session.state}")
