# SPDX-License-Identifier: MIT
"""Bring the database to this program's schema: ``python -m outlayer_coordinator.migrate`` (uses DATABASE_URL).

Migrations are the numbered SQL files beside this module. Each runs once, in its own transaction, and its SHA-256
is kept: a file that was changed after it ran is an error, not a surprise.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import sys
from dataclasses import dataclass
from importlib import resources
from typing import Any

import asyncpg

from outlayer_coordinator.config import text_or_file
from outlayer_coordinator.errors import ConfigError, MigrationError

_NAME = re.compile(r"(?P<number>[0-9]{4})_[a-z0-9_]+\.sql")
_LOCK = 0x6F75746C61796572  # "outlayer"

_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    number     integer     PRIMARY KEY,
    name       text        NOT NULL,
    sha256     text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


@dataclass(frozen=True)
class Migration:
    number: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def load_migrations() -> tuple[Migration, ...]:
    """The migrations of this program, numbered from 1 without a gap."""
    folder = resources.files("outlayer_coordinator") / "migrations"
    found = []
    for entry in folder.iterdir():
        match = _NAME.fullmatch(entry.name)
        if match:
            found.append(Migration(int(match["number"]), entry.name, entry.read_text()))
    found.sort(key=lambda migration: migration.number)
    if [migration.number for migration in found] != list(range(1, len(found) + 1)):
        raise MigrationError("the migrations are not numbered 1, 2, 3, …", hint="the installation is damaged")
    return tuple(found)


def pending(known: tuple[Migration, ...], applied: dict[int, str]) -> tuple[Migration, ...]:
    """Which migrations have to run, given number -> SHA-256 of those that did.

    Raises:
        MigrationError: the database was migrated by a newer program, or by other files.
    """
    for migration in known:
        if applied.get(migration.number, migration.sha256) != migration.sha256:
            raise MigrationError(
                f"{migration.name} differs from the one that made this database",
                hint="never change a migration that ran; add a new one",
            )
    newer = sorted(set(applied) - {migration.number for migration in known})
    if newer:
        raise MigrationError(
            f"the database has migrations {newer} that this program does not know",
            hint="run a newer version of the coordinator",
        )
    return tuple(migration for migration in known if migration.number not in applied)


async def migrate(connection: asyncpg.Connection[Any]) -> list[str]:
    """Apply what is pending, under an advisory lock, so that several coordinators may start at once."""
    await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
    try:
        await connection.execute(_TABLE)
        rows = await connection.fetch("SELECT number, sha256 FROM schema_migrations")
        todo = pending(load_migrations(), {row["number"]: row["sha256"] for row in rows})
        for migration in todo:
            async with connection.transaction():
                await connection.execute(migration.sql)
                await connection.execute(
                    "INSERT INTO schema_migrations (number, name, sha256) VALUES ($1, $2, $3)",
                    migration.number,
                    migration.name,
                    migration.sha256,
                )
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)
    return [migration.name for migration in todo]


async def migrate_url(database_url: str) -> list[str]:
    connection = await asyncpg.connect(database_url, timeout=30)
    try:
        return await migrate(connection)
    finally:
        await connection.close()


def main() -> int:
    """Exit code 0 when the schema is current, 1 when it cannot be, 3 without DATABASE_URL."""
    try:
        url = text_or_file(os.environ, "DATABASE_URL")
    except ConfigError as error:
        sys.stderr.write(f"{error}\n  hint: {error.hint}\n")
        return 3
    try:
        names = asyncio.run(migrate_url(url))
    except MigrationError as error:
        sys.stderr.write(f"{error}\n  hint: {error.hint}\n")
        return 1
    except (OSError, asyncpg.PostgresError) as error:
        sys.stderr.write(f"the database cannot be migrated: {error}\n")
        return 1
    sys.stdout.write("".join(f"applied {name}\n" for name in names) or "the schema is current\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
