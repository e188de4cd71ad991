# SPDX-License-Identifier: MIT
"""One PostgreSQL and one Valkey per test process; each test finds a migrated database without rows."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import secrets
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
import structlog

from outlayer_attestation.platform.machine import SoftwarePlatform
from outlayer_cli.embedded import Server, temporary_postgres, temporary_valkey
from outlayer_coordinator.migrate import migrate_url


def _load(name: str) -> ModuleType:
    """A helper module of this folder, under a name that no other package's tests use."""
    full = f"outlayer_coordinator_tests_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[full]


# the default shows local variables in tracebacks, and they hold secrets
structlog.configure(
    processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()]
)
harness = _load("harness")
_STARTS = 8


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a migrated database on a server of this test process."""
    with contextlib.ExitStack() as stack:
        server = _postgres(stack, tmp_path_factory)
        asyncio.run(migrate_url(server.url))
        yield server.url


def _postgres(stack: contextlib.ExitStack, folders: pytest.TempPathFactory) -> Server:
    """A server that listens may still be starting up; on a busy machine one more try is normal."""
    for attempt in range(_STARTS):
        try:
            return stack.enter_context(temporary_postgres(folders.mktemp("postgres")))
        except asyncpg.CannotConnectNowError:
            if attempt == _STARTS - 1:
                raise
    raise AssertionError("unreachable")


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with temporary_valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url


@pytest.fixture(scope="session")
def platform() -> SoftwarePlatform:
    return SoftwarePlatform.generate()


async def _execute(url: str, sql: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


# What a test may leave behind: rows, numbers drawn from sequences, and the function (with its triggers) by which
# it injected faults. TRUNCATE would make new files for every table and index: for a few rows DELETE is cheaper.
# As a replica the server checks no foreign keys, so the order of the tables does not matter.
_CLEAN = """
DROP FUNCTION IF EXISTS fault CASCADE;
SET session_replication_role = replica;
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT tablename FROM pg_tables
                WHERE schemaname = 'public' AND tablename <> 'schema_migrations' LOOP
        EXECUTE format('DELETE FROM %I', name);
    END LOOP;
    PERFORM setval(format('%I', sequencename)::regclass, start_value, false)
    FROM pg_sequences WHERE schemaname = 'public';
END $$;
"""


@pytest_asyncio.fixture
async def database(postgres: str) -> AsyncIterator[str]:
    """URL of a migrated database without rows; one test at a time has it."""
    yield postgres
    connection = await asyncpg.connect(postgres)
    try:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await connection.execute(_CLEAN)
    finally:
        await connection.close()


@pytest_asyncio.fixture
async def empty_database(postgres: str) -> AsyncIterator[str]:
    """URL of a database of this test alone, without any table."""
    name = f"test_{secrets.token_hex(8)}"
    await _execute(postgres, f'CREATE DATABASE "{name}" TEMPLATE "template0"')
    try:
        yield postgres.rsplit("/", 1)[0] + f"/{name}"
    finally:
        await _execute(postgres, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def chain() -> Any:
    return harness.FakeChain()


@pytest_asyncio.fixture
async def start(
    database: str, valkey: str, chain: Any, platform: SoftwarePlatform, tmp_path: Path
) -> AsyncIterator[Any]:
    """Starts coordinators on this test's database: ``await start(lease_seconds=0.2)``."""
    async with contextlib.AsyncExitStack() as stack:

        async def go(**changes: Any) -> Any:
            settings = harness.settings_for(database, changes.pop("redis_url", valkey), tmp_path, **changes)
            return await stack.enter_async_context(harness.running(settings, chain, platform))

        yield go


@pytest_asyncio.fixture
async def service(start: Any) -> Any:
    """A coordinator with the settings of tests."""
    return await start()
