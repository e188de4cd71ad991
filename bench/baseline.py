# SPDX-License-Identifier: MIT
"""The baseline: a bare FastAPI route that inserts one row with asyncpg, behind one uvicorn process."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from fastapi import FastAPI


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    pool = await asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=4, max_size=10)
    await pool.execute("CREATE TABLE IF NOT EXISTS bench_rows (id bigserial PRIMARY KEY, body text NOT NULL)")
    app.state.pool = pool
    yield
    await pool.execute("DROP TABLE bench_rows")
    await pool.close()


app = FastAPI(lifespan=lifespan)


@app.post("/rows")
async def insert(body: dict[str, Any]) -> dict[str, int]:
    row = await app.state.pool.fetchval("INSERT INTO bench_rows (body) VALUES ($1) RETURNING id", str(body))
    return {"id": row}
