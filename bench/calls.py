# SPDX-License-Identifier: MIT
"""Warm calls over HTTPS against a bare insert, on one machine, in one run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp

from bench.load import Request, Sample, closed_loop
from outlayer_cli.embedded import can_connect, free_port, postgres_url
from outlayer_cli.layout import Layout, Stack

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 6.0
# what outlayer.md §4.9 records for the original on a machine of this size: echo guest, warm, TEE off
ORIGINAL = {1: {"p50_ms": 105.8, "per_second": 9.5}, 8: {"p50_ms": 532.0, "per_second": 14.1}}
ORIGINAL_BASELINE_PER_SECOND_8 = 2170.0


@contextlib.contextmanager
def _baseline_server(database_url: str) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "bench.baseline:app", "--port", str(port)]
    command += ["--log-level", "warning", "--no-access-log"]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "DATABASE_URL": database_url})
    try:
        deadline = time.monotonic() + 20
        while not can_connect(port):
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError("the baseline server did not start")
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)


def _insert_request(session: aiohttp.ClientSession, url: str) -> Request:
    async def send() -> None:
        async with session.post(f"{url}/rows", json={"input": {"hello": "world"}}) as answer:
            if answer.status != 200:
                raise RuntimeError(f"the baseline answered {answer.status}")
            await answer.json()

    return send


def _call_request(session: aiohttp.ClientSession, url: str, payment_key: str) -> Request:
    headers = {"X-Payment-Key": payment_key}
    body = {"input": {"hello": "world"}}

    async def send() -> None:
        async with session.post(url, json=body, headers=headers) as answer:
            reply = await answer.json()
            if answer.status != 200 or reply["status"] != "completed":
                raise RuntimeError(f"a call was answered with {answer.status}: {reply}")

    return send


async def _measure(stack: Stack, database_url: str, payment_key: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    call_url = f"{stack.coordinator_url}/call/{stack.developer_id}/echo"
    with _baseline_server(database_url) as baseline_url:
        async with aiohttp.ClientSession() as session:
            for clients in (1, 8):
                insert = _insert_request(session, baseline_url)
                call = _call_request(session, call_url, payment_key)
                baseline = await closed_loop(insert, clients=clients, seconds=SECONDS)
                sample = await closed_loop(call, clients=clients, seconds=SECONDS)
                rows.append(_row(clients, baseline, sample))
    return rows


def _row(clients: int, baseline: Sample, call: Sample) -> dict[str, Any]:
    return {
        "clients": clients,
        "baseline_insert": asdict(baseline),
        "call": asdict(call),
        "rate_ratio_to_baseline": round(call.per_second / baseline.per_second, 4),
        "p50_ratio_to_baseline": round(call.p50_ms / baseline.p50_ms, 2),
        "original": ORIGINAL[clients],
        "original_rate_ratio_to_its_baseline": (
            round(ORIGINAL[8]["per_second"] / ORIGINAL_BASELINE_PER_SECOND_8, 4) if clients == 8 else None
        ),
    }


def measure_calls(state: Path, payment_key: str) -> list[dict[str, Any]]:
    """Measure a stack that runs. The baseline uses the stack's own PostgreSQL."""
    place = Layout(state)
    stack = Stack.load(state)
    password = place.credential("postgres.password").read_text().strip()
    database_url = postgres_url(stack.ports["postgres"], password)
    return asyncio.run(_measure(stack, database_url, payment_key))
