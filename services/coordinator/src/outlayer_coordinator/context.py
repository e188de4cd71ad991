# SPDX-License-Identifier: MIT
"""One process's parts, put together once and handed to the routes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from outlayer_coordinator.archive import Archive
from outlayer_coordinator.calls import Calls, RateLimiter
from outlayer_coordinator.chain import ChainViews, Fresh, NearChain, ProjectCache
from outlayer_coordinator.config import Settings
from outlayer_coordinator.db import Database
from outlayer_coordinator.doorbell import Doorbell
from outlayer_coordinator.ingest import Ingest
from outlayer_coordinator.jobs import Jobs
from outlayer_coordinator.migrate import migrate_url
from outlayer_coordinator.sessions import Sessions
from outlayer_coordinator.wasm import WasmStore
from outlayer_near.rpc import NearRpc

_STALE_PRICING_SECONDS = 3600.0
"""Finished work is settled at the last known price for so long when the chain cannot be asked."""


@dataclass
class Context:
    settings: Settings
    database: Database
    doorbell: Doorbell
    chain: ChainViews
    calls: Calls
    jobs: Jobs
    sessions: Sessions
    archive: Archive
    wasm: WasmStore
    ingest: Ingest
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)

    @classmethod
    async def open(cls, settings: Settings, chain: ChainViews | None = None) -> Context:
        """Migrate, connect and start the background tasks. ``chain`` replaces JSON-RPC (tests)."""
        await migrate_url(settings.database_url)
        database = await Database.open(settings)
        doorbell = Doorbell(settings.redis_url)
        if chain is None:
            rpc = NearRpc(settings.near_rpc_url)
            chain = NearChain(rpc, settings.contract_id, settings.operator_account_id)
        pricing = Fresh(chain.pricing, settings.pricing_seconds, stale_seconds=_STALE_PRICING_SECONDS)
        limiter = RateLimiter(doorbell, settings.rate_per_minute)
        context = cls(
            settings=settings,
            database=database,
            doorbell=doorbell,
            chain=chain,
            calls=Calls(settings, database, doorbell, ProjectCache(chain), limiter),
            jobs=Jobs(settings, database, doorbell, pricing),
            sessions=Sessions(settings, database, chain),
            archive=Archive(database),
            wasm=WasmStore(settings, database, chain),
            ingest=Ingest.of(settings, doorbell.work),
        )
        await doorbell.start()
        context.tasks.append(asyncio.create_task(context.jobs.sweep_forever(), name="sweeper"))
        if settings.ingest:
            context.tasks.append(asyncio.create_task(context.ingest.run_forever(), name="ingest"))
        return context

    def stop_waiting(self) -> None:
        """Let long polls and synchronous calls end with what there is: at shutdown."""
        self.calls.stop()
        self.jobs.stop()
        self.doorbell.wake_all()

    async def close(self) -> None:
        self.stop_waiting()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.doorbell.close()
        await self.chain.close()
        await self.database.close()


def context_of(request: Request) -> Context:
    context: Context = request.app.state.context
    return context
