# SPDX-License-Identifier: MIT
"""What happens when guests misbehave and processes die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import ARTIFACTS, Cli

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def misbehave(cli: Cli) -> str:
    wasm = str(ARTIFACTS / "misbehave.wasm")
    cli.json("project", "deploy", "misbehave", "--wasm", wasm, "--account", "alice.test")
    return "alice.test/misbehave"


def wait_for(condition: Any, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.2)
    return value


@pytest.mark.parametrize(
    ("command", "limits", "words"),
    [
        ({"do": "loop"}, ["--max-instructions", "200000000"], ("instruction", "fuel")),
        ({"do": "alloc"}, ["--max-memory-mb", "64"], ("memory",)),
        ({"do": "flood"}, [], ("output",)),
        ({"do": "sleep", "ms": 60000}, ["--max-execution-seconds", "1"], ("longer than 1 s",)),
        ({"do": "trap"}, [], ("trap", "unreachable")),
    ],
)
def test_a_misbehaving_guest_is_stopped_with_a_clear_error_and_its_neighbour_runs_on(
    cli: Cli, misbehave: str, command: dict[str, Any], limits: list[str], words: tuple[str, ...]
) -> None:
    neighbours: list[int] = []
    stop = threading.Event()

    def neighbour() -> None:
        while not stop.is_set():
            neighbours.append(cli.run("--json", "call", "alice.test/echo", '{"n":1}').code)

    thread = threading.Thread(target=neighbour)
    thread.start()
    try:
        outcome = cli.run("--json", "call", misbehave, json.dumps(command), *limits)
    finally:
        stop.set()
        thread.join()
    assert outcome.code == 1
    reply = outcome.json()
    assert reply["status"] == "failed"
    assert any(word in reply["error"].lower() for word in words), reply["error"]
    assert neighbours
    assert set(neighbours) == {0}


def test_r27_a_killed_workers_job_is_finished_by_another_and_settled_once(cli: Cli, misbehave: str) -> None:
    spent = int(cli.json("keys", "balance")["spent"])
    pending = cli.json("call", misbehave, '{"do":"sleep","ms":4000}', "--async")
    token = Path(cli.stack()["admin_token_file"]).read_text().strip()
    url = cli.stack()["coordinator_url"]

    def holder() -> str | None:
        command = ["curl", "-sS", "-H", f"Authorization: Bearer {token}", f"{url}/admin/jobs?state=claimed"]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        jobs = json.loads(answer.stdout)["items"]
        found = [job["worker_id"] for job in jobs if job.get("call_id") == pending["call_id"]]
        return found[0] if found else None

    worker = wait_for(holder)
    os.kill(cli.service_pid(worker), signal.SIGKILL)
    done = wait_for(lambda: finished(cli, pending["call_id"]), 120)
    assert done["status"] == "completed"
    balance = cli.json("keys", "balance")
    assert int(balance["spent"]) - spent == int(done["compute_cost"])
    assert int(balance["reserved"]) == 0
    assert cli.json("verify", "call", pending["call_id"])["verdict"] == "PASS"
    row = next(row for row in cli.json("status")["services"] if row["name"] == worker)
    assert row["restarts"] >= 1


def finished(cli: Cli, call_id: str) -> Any:
    reply = cli.json("result", call_id)
    return reply if reply["status"] in ("completed", "failed") else None


def test_a_request_survives_the_coordinator(cli: Cli) -> None:
    os.kill(cli.service_pid("coordinator"), signal.SIGKILL)
    words = ("request", "alice.test/echo", '{"after":"crash"}', "--account", "alice.test")
    assert cli.json(*words)["value"] == {"after": "crash"}


def test_calls_survive_the_loss_of_redis(cli: Cli) -> None:
    os.kill(cli.service_pid("valkey"), signal.SIGKILL)
    reply = cli.json("call", "alice.test/echo", '{"redis":"gone"}')
    assert reply["output"] == {"redis": "gone"}


def test_up_again_mends_a_stack_that_was_killed_and_keeps_everything(cli: Cli) -> None:
    before = cli.json("call", "alice.test/echo", '{"keep":"me"}')
    rows = cli.json("status")["services"]
    supervisor_pid = int((cli.state / "run" / "supervisor.pid").read_text())
    os.kill(supervisor_pid, signal.SIGKILL)
    for row in rows:
        if row["pid"]:
            try:
                os.kill(row["pid"], signal.SIGKILL)
            except ProcessLookupError:
                continue
    cli.ok("up", "--no-demo")
    assert cli.json("result", before["call_id"])["output"] == {"keep": "me"}
    assert cli.json("verify", "call", before["call_id"])["verdict"] == "PASS"
    assert cli.json("call", "alice.test/echo", '{"again":1}')["output"] == {"again": 1}


def test_down_then_up_keeps_projects_keys_and_calls(cli: Cli) -> None:
    before = cli.json("call", "alice.test/echo", '{"over":"night"}')
    cli.ok("down")
    assert cli.run("status").code == 1
    cli.ok("up", "--no-demo")
    assert cli.json("result", before["call_id"])["output"] == {"over": "night"}
    assert [row["name"] for row in cli.json("project", "list", "alice.test")["projects"]]
    assert cli.json("call", "alice.test/echo", '{"morning":1}')["output"] == {"morning": 1}


def test_up_twice_in_a_row_changes_no_process(cli: Cli) -> None:
    cli.ok("up", "--no-demo")
    before = {row["name"]: row["pid"] for row in cli.json("status")["services"]}
    cli.ok("up", "--no-demo")
    after = {row["name"]: row["pid"] for row in cli.json("status")["services"]}
    assert before == after
