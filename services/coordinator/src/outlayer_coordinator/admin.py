# SPDX-License-Identifier: MIT
"""Administration on the machine of the database: ``python -m outlayer_coordinator.admin`` (uses DATABASE_URL)."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from outlayer_coordinator.config import text_or_file
from outlayer_coordinator.errors import ConfigError

_HASH = re.compile(r"[0-9a-f]{64}")

Command = Callable[["asyncpg.Connection[Any]", argparse.Namespace], Awaitable[str]]


def _hash(text: str) -> str:
    if _HASH.fullmatch(text) is None:
        raise argparse.ArgumentTypeError("expected a SHA-256 as 64 lower-case hex digits")
    return text


async def add_worker_token(connection: asyncpg.Connection[Any], options: argparse.Namespace) -> str:
    await connection.execute(
        """
        INSERT INTO worker_auth_tokens (token_hash, worker_name) VALUES ($1, $2)
        ON CONFLICT (token_hash) DO UPDATE SET worker_name = excluded.worker_name, is_active = true
        """,
        options.hash,
        options.name,
    )
    return f"{options.name} may authenticate"


async def remove_worker_token(connection: asyncpg.Connection[Any], options: argparse.Namespace) -> str:
    status = await connection.execute(
        "UPDATE worker_auth_tokens SET is_active = false WHERE worker_name = $1", options.name
    )
    return f"tokens switched off: {status.removeprefix('UPDATE ')}"


async def grant_key(connection: asyncpg.Connection[Any], options: argparse.Namespace) -> str:
    status = await connection.execute(
        """
        INSERT INTO payment_keys (owner, nonce, key_hash, initial_balance, project_ids, max_per_call, is_grant)
        VALUES ($1, $2, $3, $4, $5, $6, true) ON CONFLICT (owner, nonce) DO NOTHING
        """,
        options.owner,
        options.nonce,
        options.hash,
        options.balance,
        options.project,
        options.max_per_call,
    )
    made = status == "INSERT 0 1"
    return f"{options.owner}:{options.nonce} " + ("has its balance" if made else "exists already, unchanged")


async def delete_key(connection: asyncpg.Connection[Any], options: argparse.Namespace) -> str:
    status = await connection.execute(
        "UPDATE payment_keys SET deleted_at = now() WHERE owner = $1 AND nonce = $2 AND deleted_at IS NULL",
        options.owner,
        options.nonce,
    )
    return f"keys deleted: {status.removeprefix('UPDATE ')}"


async def set_cursor(connection: asyncpg.Connection[Any], options: argparse.Namespace) -> str:
    await connection.execute(
        """
        INSERT INTO event_cursors (stream, cursor, height) VALUES ($1, '', $2)
        ON CONFLICT (stream) DO UPDATE SET cursor = '', height = excluded.height, updated_at = now()
        """,
        f"{options.network}/{options.contract}",
        options.height - 1,
    )
    return f"the next block to be read is {options.height}; stop the coordinators first for this to hold"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m outlayer_coordinator.admin", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Command, description: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=description, description=description)
        sub.set_defaults(run=run)
        return sub

    sub = command(
        "add-worker-token", add_worker_token, "Let a worker authenticate with a token, given its hash."
    )
    sub.add_argument("--name", required=True)
    sub.add_argument("--hash", required=True, type=_hash)
    sub = command(
        "remove-worker-token", remove_worker_token, "Switch off a worker's tokens; its sessions end."
    )
    sub.add_argument("--name", required=True)
    sub = command(
        "grant-key", grant_key, "Create a payment key with a balance, given the hash of its secret."
    )
    sub.add_argument("--owner", required=True)
    sub.add_argument("--nonce", required=True, type=int)
    sub.add_argument("--hash", required=True, type=_hash)
    sub.add_argument("--balance", required=True, type=int, help="micro-USD")
    sub.add_argument("--project", action="append", default=[], help="only for this project (repeatable)")
    sub.add_argument("--max-per-call", type=int, default=0, help="micro-USD, 0 for no limit")
    sub = command("delete-key", delete_key, "Delete a payment key; its open calls still settle.")
    sub.add_argument("--owner", required=True)
    sub.add_argument("--nonce", required=True, type=int)
    sub = command(
        "set-cursor", set_cursor, "Choose the next block whose events are read; what lies before is skipped."
    )
    sub.add_argument("--network", required=True)
    sub.add_argument("--contract", required=True)
    sub.add_argument("--height", required=True, type=int)
    return top


async def _run(url: str, options: argparse.Namespace) -> str:
    connection = await asyncpg.connect(url, timeout=30)
    try:
        run: Command = options.run
        return await run(connection, options)
    finally:
        await connection.close()


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 done, 1 the database refused, 3 without DATABASE_URL (argparse exits with 2 for usage)."""
    options = parser().parse_args(arguments)
    try:
        url = text_or_file(os.environ, "DATABASE_URL")
    except ConfigError as error:
        sys.stderr.write(f"{error}\n  hint: {error.hint}\n")
        return 3
    try:
        sys.stdout.write(asyncio.run(_run(url, options)) + "\n")
    except (OSError, asyncpg.PostgresError) as error:
        sys.stderr.write(f"the database refused: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
