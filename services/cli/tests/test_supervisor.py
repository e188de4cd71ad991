# SPDX-License-Identifier: MIT
"""The supervisor keeps services running, and leaves none behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from outlayer_cli import control, supervisor
from outlayer_cli.control import ServiceSpec
from outlayer_cli.errors import StackError

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]


def spec(folder: Path, name: str = "sleeper", argv: list[str] | None = None) -> ServiceSpec:
    return ServiceSpec(name, argv or SLEEPER, dict(os.environ), str(folder / f"{name}.log"))


async def ask(folder: Path, message: dict[str, Any]) -> dict[str, Any]:
    return await control.request(folder / "s.sock", message)


async def report(folder: Path, name: str = "sleeper") -> dict[str, Any]:
    services = (await ask(folder, {"command": "status"}))["services"]
    return next(item for item in services if item["name"] == name)


async def until(condition: Any, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.05)


def launch(folder: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "outlayer_cli.supervisor"]
    return subprocess.Popen([*words, "--socket", str(folder / "s.sock"), "--pids", str(folder / "pids")])


async def answers(folder: Path) -> bool:
    with contextlib.suppress(StackError):
        await ask(folder, {"command": "status"})
        return True
    return False


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Path]:
    process = launch(tmp_path)
    await until(lambda: answers(tmp_path))
    yield tmp_path
    with contextlib.suppress(StackError):
        await ask(tmp_path, {"command": "shutdown"})
    process.wait(timeout=20)


async def test_a_service_that_is_killed_is_started_again_and_status_says_so(running: Path) -> None:
    await ask(running, control.start_message(spec(running)))
    await until(lambda: state_is(running, "running"))
    first = (await report(running))["pid"]
    os.kill(first, signal.SIGKILL)

    async def restarted() -> bool:
        now = await report(running)
        return now["state"] == "running" and now["pid"] != first

    await until(restarted)
    now = await report(running)
    assert now["restarts"] == 1
    assert now["last_exit"] == "SIGKILL"


async def state_is(folder: Path, state: str) -> bool:
    return bool((await report(folder))["state"] == state)


async def test_starting_the_same_service_twice_changes_nothing(running: Path) -> None:
    await ask(running, control.start_message(spec(running)))
    await until(lambda: state_is(running, "running"))
    before = (await report(running))["pid"]
    await ask(running, control.start_message(spec(running)))
    assert (await report(running))["pid"] == before


async def test_another_specification_replaces_the_process(running: Path) -> None:
    await ask(running, control.start_message(spec(running)))
    await until(lambda: state_is(running, "running"))
    before = (await report(running))["pid"]
    changed = spec(running, argv=[*SLEEPER, "changed"])
    await ask(running, control.start_message(changed))
    await until(lambda: state_is(running, "running"))
    assert (await report(running))["pid"] != before
    assert not psutil.pid_exists(before)


async def test_shutdown_ends_every_service(running: Path) -> None:
    for name in ("one", "two"):
        await ask(running, control.start_message(spec(running, name)))
        await until(lambda name=name: named_state_is(running, name, "running"))
    pids = [(await report(running, name))["pid"] for name in ("one", "two")]
    await ask(running, {"command": "shutdown"})
    assert not any(psutil.pid_exists(pid) for pid in pids)


async def named_state_is(folder: Path, name: str, state: str) -> bool:
    return bool((await report(folder, name))["state"] == state)


async def test_services_of_a_killed_supervisor_are_stopped_by_the_next(tmp_path: Path) -> None:
    first = launch(tmp_path)
    await until(lambda: answers(tmp_path))
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    await ask(tmp_path, control.start_message(spec(tmp_path, argv=[sys.executable, "-c", stubborn])))
    await until(lambda: state_is(tmp_path, "running"))
    orphan = (await report(tmp_path))["pid"]
    await asyncio.sleep(0.5)
    first.kill()
    first.wait()
    process = psutil.Process(orphan)
    assert supervisor.is_alive(process)
    supervisor.STOP_SECONDS, kept = 0.5, supervisor.STOP_SECONDS
    try:
        assert supervisor.stop_leftovers(tmp_path / "pids") == ["sleeper"]
    finally:
        supervisor.STOP_SECONDS = kept
    assert not supervisor.is_alive(process)


def test_a_process_id_that_was_used_again_is_left_alone(tmp_path: Path) -> None:
    record = f'{{"pid": {os.getpid()}, "created": 1.0, "signal": 9}}'
    (tmp_path / "service.json").write_text(record)
    assert supervisor.stop_leftovers(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


async def test_an_unknown_command_is_refused_with_its_name(running: Path) -> None:
    with pytest.raises(StackError, match="frobnicate"):
        await ask(running, {"command": "frobnicate"})


async def test_asking_a_stack_that_does_not_run_says_how_to_start_it(tmp_path: Path) -> None:
    with pytest.raises(StackError) as caught:
        await ask(tmp_path, {"command": "status"})
    assert "outlayer up" in caught.value.hint


def test_waits_between_restarts_grow_up_to_a_bound() -> None:
    waits = [supervisor.backoff_seconds(count) for count in range(1, 12)]
    assert waits == sorted(waits)
    assert waits[0] == supervisor.FIRST_BACKOFF_SECONDS
    assert waits[-1] == supervisor.LONGEST_BACKOFF_SECONDS
