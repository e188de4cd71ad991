# SPDX-License-Identifier: MIT
"""One PostgreSQL and one Valkey per test process, and a migrated database of its own for each test."""

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
    """URL of a server that holds a migrated database named ``template``."""
    with contextlib.ExitStack() as stack:
        server = _postgres(stack, tmp_path_factory)
        asyncio.run(_execute(server.url, 'CREATE DATABASE "template"'))
        asyncio.run(migrate_url(database_url(server.url, "template")))
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


def database_url(server_url: str, name: str) -> str:
    return server_url.rsplit("/", 1)[0] + f"/{name}"


async def _execute(url: str, sql: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def fresh_database(server_url: str, template: str) -> AsyncIterator[str]:
    name = f"test_{secrets.token_hex(8)}"
    await _execute(server_url, f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    try:
        yield database_url(server_url, name)
    finally:
        await _execute(server_url, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest_asyncio.fixture
async def database(postgres: str) -> AsyncIterator[str]:
    """URL of a migrated database of this test alone."""
    async with fresh_database(postgres, "template") as url:
        yield url


@pytest_asyncio.fixture
async def empty_database(postgres: str) -> AsyncIterator[str]:
    """URL of a database without any table."""
    async with fresh_database(postgres, "template0") as url:
        yield url


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
