# SPDX-License-Identifier: MIT
"""The connection pools. SQL stands beside the code that uses it; asyncpg prepares each statement once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncpg

from outlayer_coordinator.config import Settings
from outlayer_coordinator.errors import CoordinatorError

T = TypeVar("T")
_DEADLOCK_RETRIES = 5
_FIRST_WAIT_SECONDS = 0.005
_COMMAND_SECONDS = 30.0


@dataclass(frozen=True)
class Database:
    """``main`` commits durably. ``quick`` is for leases: a claim that a crash forgets is only claimed again."""

    main: asyncpg.Pool[Any]
    quick: asyncpg.Pool[Any]

    @classmethod
    async def open(cls, settings: Settings) -> Database:
        try:
            main = await _pool(settings, settings.db_pool_size)
            quick = await _pool(settings, max(2, settings.db_pool_size // 2), synchronous_commit="off")
        except (OSError, asyncpg.PostgresError) as error:
            raise CoordinatorError(
                f"PostgreSQL cannot be reached: {error}", hint="see DATABASE_URL and that the server runs"
            ) from error
        return cls(main, quick)

    async def close(self) -> None:
        for pool in (self.main, self.quick):
            try:
                await asyncio.wait_for(pool.close(), 5)
            except TimeoutError:
                pool.terminate()


async def _keep(_: Any) -> None:
    """No statement here changes a session's settings, so a connection needs no reset, which costs a round trip."""


async def _pool(settings: Settings, size: int, **server_settings: str) -> asyncpg.Pool[Any]:
    return await asyncpg.create_pool(
        settings.database_url,
        min_size=1,
        max_size=size,
        reset=_keep,
        command_timeout=_COMMAND_SECONDS,
        server_settings={"application_name": "outlayer-coordinator", **server_settings},
    )


async def retried(statement: Callable[[], Awaitable[T]]) -> T:
    """Run one statement again when it lost a deadlock; each is a transaction of its own, so nothing is half done."""
    wait = _FIRST_WAIT_SECONDS
    for _ in range(_DEADLOCK_RETRIES):
        try:
            return await statement()
        except (asyncpg.DeadlockDetectedError, asyncpg.SerializationError):
            await asyncio.sleep(wait)
            wait *= 2
    return await statement()
