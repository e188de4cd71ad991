# SPDX-License-Identifier: MIT
"""``image approved``: what the register contract approves, for ``measure --expect``. A part of ``image``."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from outlayer_cli.errors import CliError, UsageError
from outlayer_cli.replies import shown
from outlayer_cli.session import Session

if TYPE_CHECKING:
    from outlayer_near.models import MeasurementSet


def approved(
    context: typer.Context,
    role: Annotated[str, typer.Argument(help="The image's role: worker, …")],
    out: Annotated[Path | None, typer.Option(help="Write the measurements here, as JSON.")] = None,
    set_id: Annotated[int | None, typer.Option("--set", help="One set of several, by its number.")] = None,
    rpc: Annotated[str | None, typer.Option(help="A NEAR node; default: the stack's.")] = None,
    register: Annotated[str | None, typer.Option(help="The register contract; default: the stack's.")] = None,
) -> None:
    """Read the approved measurements of a role from the chain."""
    session: Session = context.obj
    endpoint = rpc or session.stack.rpc_url
    contract = register or session.stack.operator_id
    sets, height = asyncio.run(_read(endpoint, contract))
    active = [item for item in sets if item.role == role and item.active_at(int(time.time()))]
    found = choose(active, role, contract, set_id)
    if out is not None:
        out.write_text(json.dumps(found.measurements, indent=1) + "\n")
    name = shown(found.name or "without a name")
    text = f"set {found.id} ({name}) of {contract} at block {height}"
    lines = [f"{register:6} {value}" for register, value in found.measurements.items()]
    value = {
        "set": found.id,
        "name": found.name,
        "contract": contract,
        "block_height": height,
        "measurements": found.measurements,
    }
    session.result(value, "\n".join([text, *lines, *([f"written to {out}"] if out else [])]))


async def _read(endpoint: str, contract: str) -> tuple[list[MeasurementSet], int]:
    """All sets, and the block at which they were read."""
    from outlayer_near.rpc import NearRpc
    from outlayer_near.views import RegisterViews

    async with NearRpc(endpoint) as node:
        header = await node.header()
        return await RegisterViews(node, contract, header.hash).get_measurement_sets(), header.height


def choose(active: list[MeasurementSet], role: str, contract: str, set_id: int | None) -> MeasurementSet:
    """The one that was asked for, of the active ones of a role. Raises ``CliError``."""
    if not active:
        raise CliError(
            f"{contract} approves no measurements of the role {shown(role)} now",
            hint="see that the role and the contract are right",
        )
    chosen = active if set_id is None else [item for item in active if item.id == set_id]
    if len(chosen) == 1:
        return chosen[0]
    known = ", ".join(f"{item.id} ({shown(item.name or 'without a name')})" for item in active)
    raise UsageError(f"{contract} approves several or other sets: {known}", hint="name one: --set NUMBER")
