# SPDX-License-Identifier: MIT
"""A small closed-loop load: so many clients, each sends its next request when the last one is answered."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

Request = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Sample:
    """Times in milliseconds, rate in requests per second."""

    clients: int
    requests: int
    p50_ms: float
    p95_ms: float
    per_second: float

    @classmethod
    def of(cls, clients: int, times: list[float], elapsed: float) -> Sample:
        ordered = sorted(times)
        return cls(
            clients=clients,
            requests=len(ordered),
            p50_ms=round(statistics.median(ordered) * 1e3, 3),
            p95_ms=round(ordered[int(len(ordered) * 0.95)] * 1e3, 3),
            per_second=round(len(ordered) / elapsed, 2),
        )


async def closed_loop(request: Request, *, clients: int, seconds: float, warm_up: int = 20) -> Sample:
    """Run ``request`` from ``clients`` loops for a bounded time. An answer that is not good must raise."""
    for _ in range(warm_up):
        await request()
    times: list[float] = []
    started = time.perf_counter()
    end = started + seconds

    async def client() -> None:
        while (before := time.perf_counter()) < end:
            await request()
            times.append(time.perf_counter() - before)

    await asyncio.gather(*(client() for _ in range(clients)))
    return Sample.of(clients, times, time.perf_counter() - started)
