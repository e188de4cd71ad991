# SPDX-License-Identifier: MIT
"""Guests run in processes of their own, within limits, and harm nobody but themselves."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from outlayer_worker.errors import JobError
from outlayer_worker.executor.model import MIB, Category

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_guest_reads_its_input_and_its_output_comes_back(bench: Any, guests: ModuleType) -> None:
    data = os.urandom(300_000)
    result = await bench.run(guests.ECHO, data)
    assert result.success, result
    assert result.output == data


async def test_the_same_run_costs_the_same_instructions_whatever_ran_before(
    bench: Any, guests: ModuleType
) -> None:
    first = await bench.run(guests.ECHO, b"once")
    await bench.run(guests.LOOP, instructions=10_000_000)
    again = await bench.run(guests.ECHO, b"once")
    assert first.instructions == again.instructions > 0


async def test_instructions_are_counted_exactly(bench: Any, guests: ModuleType) -> None:
    """The second write costs as much as each further one."""
    counts = [(await bench.run(guests.says("x", times))).instructions for times in (1, 2, 3, 50)]
    step = counts[1] - counts[0]
    assert counts[2] - counts[1] == step
    assert counts[3] - counts[0] == 49 * step
    exact = await bench.run(guests.says("x", 50), instructions=counts[3])
    assert exact.success
    assert exact.instructions == counts[3]
    # wasmtime looks at the fuel when a loop begins again, so the last round may still end
    short = await bench.run(guests.says("x", 50), instructions=counts[3] - 2 * step)
    assert short.category is Category.INSTRUCTIONS


async def test_a_guest_that_loops_is_stopped_at_its_instructions(bench: Any, guests: ModuleType) -> None:
    result = await bench.run(guests.LOOP, instructions=5_000_000)
    assert result.category is Category.INSTRUCTIONS
    assert result.instructions == 5_000_000
    assert "5000000 instructions" in result.message


async def test_r45_a_guest_that_loops_is_stopped_at_its_time(bench: Any, guests: ModuleType) -> None:
    pids = bench.pool.pids
    result = await bench.run(guests.LOOP, instructions=10**15, seconds=0.3)
    assert result.category is Category.TIMEOUT
    assert 300 <= result.time_ms < 2500
    assert result.instructions == 10**15, "what it spent is not known: its budget counts"
    assert bench.pool.pids == pids, "a guest that computes is stopped without its executor being killed"


async def test_r45_a_guest_that_sleeps_is_stopped_at_its_time(bench: Any, guests: ModuleType) -> None:
    began = time.monotonic()
    result = await bench.run(guests.SLEEP, seconds=0.3)
    assert result.category is Category.TIMEOUT
    assert time.monotonic() - began < 4
    assert (await bench.run(guests.ECHO, b"next")).output == b"next"


async def test_r44_a_guest_that_allocates_is_stopped(bench: Any, guests: ModuleType) -> None:
    result = await bench.run(guests.GROW_THEN_TRAP, memory=32 * MIB)
    assert result.category is Category.MEMORY
    assert "32 MiB" in result.message


@pytest.mark.parametrize("guest", ["MANY_MEMORIES", "GROW_TABLE"])
async def test_r44_the_limit_holds_over_all_memories_and_tables(
    bench: Any, guests: ModuleType, guest: str
) -> None:
    result = await bench.run(getattr(guests, guest), memory=32 * MIB)
    assert result.category is Category.MEMORY
    for pid in bench.pool.pids:
        assert psutil.Process(pid).memory_info().rss < 160 * MIB
    assert (await bench.run(guests.ECHO, b"next")).output == b"next"


async def test_a_guest_that_floods_its_output_is_stopped(bench: Any, guests: ModuleType) -> None:
    result = await bench.run(guests.says("x" * 1000, -1), instructions=10**14, output=100_000)
    assert result.category is Category.OUTPUT
    assert "100000 bytes" in result.message
    assert result.output == b""
    assert result.instructions < 10**8


async def test_output_of_exactly_the_limit_is_kept(bench: Any, guests: ModuleType) -> None:
    result = await bench.run(guests.says("x" * 1000, 100), output=100_000)
    assert result.success
    assert len(result.output) == 100_000


async def test_stderr_is_bounded_and_never_part_of_the_output(bench: Any, guests: ModuleType) -> None:
    result = await bench.run(guests.says("x" * 1000, 3000, stream=2))
    assert result.success
    assert result.output == b""
    assert len(result.stderr) == MIB


@pytest.mark.parametrize(("guest", "words"), [("TRAP", "unreachable"), ("RECURSE", "call stack exhausted")])
async def test_a_trap_is_a_failure_that_says_why(
    bench: Any, guests: ModuleType, guest: str, words: str
) -> None:
    result = await bench.run(getattr(guests, guest))
    assert result.category is Category.GUEST_TRAP
    assert words in result.message


async def test_an_exit_code_decides(bench: Any, guests: ModuleType) -> None:
    assert (await bench.run(guests.exits(0))).success
    failed = await bench.run(guests.exits(7))
    assert failed.category is Category.GUEST_EXIT
    assert "code 7" in failed.message


async def test_a_component_runs_and_its_result_decides(bench: Any, guests: ModuleType) -> None:
    assert (await bench.run(guests.component(0))).success
    assert (await bench.run(guests.component(1))).category is Category.GUEST_EXIT


async def test_the_environment_is_what_was_given_and_nothing_else(bench: Any, guests: ModuleType) -> None:
    result = await bench.run(guests.ENVIRONMENT, env={"NEAR_SENDER_ID": "alice.test", "EMPTY": ""})
    assert result.output == b"NEAR_SENDER_ID=alice.test\0EMPTY=\0"


async def test_r47_a_guest_has_no_directory(bench: Any, guests: ModuleType) -> None:
    assert (await bench.run(guests.OPENS_A_FILE)).success


async def test_a_neighbour_runs_on_while_guests_misbehave(pair: Any, guests: ModuleType) -> None:
    bad = [guests.LOOP, guests.SLEEP, guests.MANY_MEMORIES, guests.TRAP]

    async def misbehave() -> None:
        for wasm in bad:
            assert not (await pair.run(wasm, seconds=0.4, instructions=10**15)).success

    task = asyncio.create_task(misbehave())
    answers = 0
    while not task.done():
        result = await pair.run(guests.ECHO, b"still here")
        assert result.output == b"still here"
        answers += 1
    await task
    assert answers > 3


async def test_killing_an_executor_fails_its_job_alone(pair: Any, guests: ModuleType) -> None:
    await pair.run(guests.ECHO)
    before = set(pair.pool.pids)
    job = asyncio.create_task(pair.run(guests.LOOP, instructions=10**15, seconds=15))
    busy = await _busy(before)
    os.kill(busy, signal.SIGKILL)
    assert (await job).category is Category.CRASHED
    results = await asyncio.gather(*(pair.run(guests.ECHO, b"%d" % index) for index in range(6)))
    assert [result.output for result in results] == [b"%d" % index for index in range(6)]
    assert busy not in pair.pool.pids


async def _busy(pids: set[int]) -> int:
    """The executor that computes."""
    for _ in range(200):
        for pid in pids:
            if psutil.Process(pid).cpu_percent(0.02) > 50:
                return pid
        await asyncio.sleep(0.02)
    raise AssertionError("no executor is busy")


async def test_a_cancelled_run_leaves_no_answer_behind_for_the_next(pair: Any, guests: ModuleType) -> None:
    job = asyncio.create_task(pair.run(guests.SLEEP, seconds=15))
    await asyncio.sleep(0.3)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    results = await asyncio.gather(*(pair.run(guests.ECHO, b"%d" % index) for index in range(4)))
    assert [result.output for result in results] == [b"0", b"1", b"2", b"3"]


async def test_an_executor_holds_no_descriptor_and_no_environment_of_the_worker(pair: Any) -> None:
    for pid in pair.pool.pids:
        process = psutil.Process(pid)
        assert process.environ().keys() <= {"LC_CTYPE"}
        assert process.net_connections("inet") == []
        opened = [str(item.readlink()) for item in Path(f"/proc/{pid}/fd").iterdir()]
        ours = ("socket:", "pipe:", "anon_inode:", "/dev/")
        assert not [item for item in opened if not item.startswith(ours)]
        assert "NoNewPrivs:\t1" in Path(f"/proc/{pid}/status").read_text()


@pytest.mark.parametrize(
    ("guest", "category", "words"),
    [
        ("WANTS_HOST_FUNCTION", Category.MISSING_IMPORT, "env.steal"),
        ("WANTS_HTTP", Category.MISSING_IMPORT, "wasi:http/outgoing-handler@0.2.3"),
        ("NO_START", Category.INVALID_WASM, "_start"),
    ],
)
async def test_a_guest_that_cannot_run_here_is_refused_by_name(
    bench: Any, guests: ModuleType, guest: str, category: Category, words: str
) -> None:
    for _ in range(2):
        with pytest.raises(JobError, match=words) as caught:
            await bench.run(getattr(guests, guest))
        assert caught.value.category == category


@pytest.mark.parametrize(
    "wasm", [b"", b"(module)", b"\0asm", b"\0asm\x01\0\0\0garbage", b"\0asm\x0d\0\x01\0\xff"]
)
async def test_bytes_that_are_no_guest_are_refused(bench: Any, wasm: bytes) -> None:
    with pytest.raises(JobError) as caught:
        await bench.run(wasm)
    assert caught.value.category == Category.INVALID_WASM
