# SPDX-License-Identifier: MIT
"""Starting a guest: a warm run of the echo module in an executor, against starting a process at all."""

from __future__ import annotations

import asyncio
import hashlib
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from outlayer_worker.executor.code import CodeStore
from outlayer_worker.executor.engine import settings_digest
from outlayer_worker.executor.model import MIB, Limits
from outlayer_worker.executor.pool import ExecutorPool, RunRequest

ARTIFACTS = Path(__file__).resolve().parents[1] / "examples" / "artifacts"
RUNS = 200
LIMITS = Limits(instructions=1_000_000_000, memory_bytes=128 * MIB, seconds=10, output_bytes=16 * MIB)


async def _median_ms(step: Callable[[], Awaitable[None]]) -> float:
    for _ in range(10):
        await step()
    times = []
    for _ in range(RUNS):
        before = time.perf_counter()
        await step()
        times.append(time.perf_counter() - before)
    return round(statistics.median(times) * 1e3, 3)


async def _start_process() -> None:
    process = await asyncio.create_subprocess_exec("true")
    if await process.wait() != 0:
        raise RuntimeError("'true' failed")


async def _measure(names: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        store = CodeStore(Path(folder), b"bench" * 8, settings_digest())
        pool = ExecutorPool(1)
        await pool.start()
        try:
            baseline = await _median_ms(_start_process)
            results: dict[str, Any] = {"baseline_start_a_process_ms": baseline}
            for name in names:
                wasm = (ARTIFACTS / f"{name}.wasm").read_bytes()
                code = await store.compiled(hashlib.sha256(wasm).hexdigest(), wasm)

                async def run(code: Any = code, name: str = name) -> None:
                    result = await pool.run(code, RunRequest(b'{"hello":"bench"}', {}, LIMITS))
                    if not result.success:
                        raise RuntimeError(f"{name}: {result.message}")

                median = await _median_ms(run)
                results[name] = {"run_ms": median, "ratio_to_baseline": round(median / baseline, 3)}
            return results
        finally:
            await pool.close()


def measure_guests() -> dict[str, Any]:
    """Median milliseconds of a warm run, for the module and the component."""
    return asyncio.run(_measure(["echo", "echo-p2"]))
