# SPDX-License-Identifier: MIT
"""``project``: code with a name, on chain."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from outlayer_cli.session import Session

app = typer.Typer(name="project", help="Projects: code with a name, on chain.", no_args_is_help=True)


@app.command()
def deploy(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The project's name under your account.")],
    wasm: Annotated[Path, typer.Option(help="A WASI module or component.")],
    account: Annotated[str | None, typer.Option(help="Default: the stack's developer.")] = None,
    activate: Annotated[bool, typer.Option(help="Make it the version that runs.")] = True,
) -> None:
    """Upload code and make it a project, or a new version of one."""
    from outlayer_cli.chain import deploy_project

    session: Session = context.obj
    owner = account or session.stack.developer_id
    reply = asyncio.run(deploy_project(session, name, wasm, owner, activate=activate))
    done = f"transaction {reply['tx_hash']}" if reply["tx_hash"] else "the chain has this version already"
    session.result(
        reply, f"{reply['project_id']}: {reply['bytes']} bytes, SHA-256 {reply['wasm_sha256']}\n{done}"
    )


@app.command("list")
def list_projects(
    context: typer.Context,
    account: Annotated[str | None, typer.Argument(help="Default: the developer.")] = None,
) -> None:
    """The projects of an account."""
    from outlayer_cli import chain

    session: Session = context.obj
    rows = asyncio.run(chain.list_projects(session, account or session.stack.developer_id))
    session.result(
        {"projects": rows}, "\n".join(f"{row['project_id']}  {row['active_version']}" for row in rows)
    )


@app.command()
def show(context: typer.Context, project_id: Annotated[str, typer.Argument(help="owner/name")]) -> None:
    """A project and its versions; the active one is marked."""
    from outlayer_cli.chain import show_project

    session: Session = context.obj
    reply = asyncio.run(show_project(session, project_id))
    lines = [f"{reply['project_id']}  {reply['uuid']}"]
    lines += [f"{'*' if row['active'] else ' '} {row['version_key']}" for row in reply["versions"]]
    session.result(reply, "\n".join(lines))
