# SPDX-License-Identifier: MIT
"""The supervisor: keeps the services of one local stack running, and tells how they are.

It knows nothing of what the services do. ``up`` sends it a specification per service over a Unix socket, one
JSON object per line each way; it starts them, restarts those that end, and stops them in reverse order.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import structlog

from outlayer_cli.control import MAX_LINE_BYTES, ServiceSpec

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 15.0
STEADY_SECONDS = 30.0
STOP_SECONDS = 15.0
_PR_SET_PDEATHSIG = 1

log = structlog.get_logger(service="supervisor")


@dataclass
class Service:
    """A service under supervision and what happened to it."""

    spec: ServiceSpec
    process: asyncio.subprocess.Process | None = None
    started_at: float = 0.0
    restarts: int = 0
    last_exit: str | None = None
    wanted: bool = True
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    def state(self) -> str:
        if self.process is not None and self.process.returncode is None:
            return "running"
        return "restarting" if self.wanted else "stopped"

    def report(self) -> dict[str, Any]:
        running = self.state() == "running"
        return {
            "name": self.spec.name,
            "state": self.state(),
            "pid": self.process.pid if running and self.process else None,
            "uptime_seconds": round(time.time() - self.started_at, 1) if running else None,
            "restarts": self.restarts,
            "last_exit": self.last_exit,
            "log_file": self.spec.log_file,
            "fingerprint": self.spec.fingerprint,
        }


def describe_exit(code: int) -> str:
    """An exit code in words: ``exit code 1``, ``SIGKILL``."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def backoff_seconds(failures: int) -> float:
    """How long to wait before start number ``failures`` + 1 in a row."""
    return min(FIRST_BACKOFF_SECONDS * 2.0 ** max(0, failures - 1), LONGEST_BACKOFF_SECONDS)


def _die_with_parent(stop_signal: int) -> Callable[[], None]:
    libc = ctypes.CDLL(None, use_errno=True)

    def before_exec() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, stop_signal, 0, 0, 0)

    return before_exec


class Supervisor:
    """Runs the services of one stack; ``pid_dir`` remembers their processes for the next supervisor."""

    def __init__(self, pid_dir: Path) -> None:
        self._pid_dir = pid_dir
        self._services: dict[str, Service] = {}
        self._stopping = asyncio.Event()

    async def start(self, spec: ServiceSpec) -> None:
        """Start a service; one that runs with another specification is replaced."""
        existing = self._services.get(spec.name)
        if existing is not None:
            if existing.spec == spec and existing.wanted:
                return
            await self.stop(spec.name)
        service = Service(spec, restarts=existing.restarts if existing else 0)
        self._services[spec.name] = service
        service.task = asyncio.create_task(self._keep_running(service), name=spec.name)

    async def stop(self, name: str) -> None:
        service = self._services.get(name)
        if service is None:
            return
        service.wanted = False
        process = service.process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(service.spec.stop_signal)
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
            except TimeoutError:
                log.warning("killed a service that did not stop", name=name, pid=process.pid)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if service.task is not None:
            service.task.cancel()
            await asyncio.gather(service.task, return_exceptions=True)
        self._forget_pid(name)

    async def stop_all(self) -> None:
        for name in reversed(list(self._services)):
            await self.stop(name)

    def reports(self) -> list[dict[str, Any]]:
        return [service.report() for service in self._services.values()]

    async def run_until_stopped(self) -> None:
        await self._stopping.wait()

    def request_stop(self) -> None:
        self._stopping.set()

    async def _keep_running(self, service: Service) -> None:
        failures = 0
        while service.wanted:
            code = await self._run_once(service)
            if not service.wanted:
                return
            service.last_exit = describe_exit(code)
            service.restarts += 1
            steady = time.time() - service.started_at > STEADY_SECONDS
            failures = 1 if steady else failures + 1
            wait = backoff_seconds(failures)
            log.warning("service ended", name=service.spec.name, how=service.last_exit, restart_in=wait)
            await asyncio.sleep(wait)

    async def _run_once(self, service: Service) -> int:
        spec = service.spec
        log_file = Path(spec.log_file)
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *spec.argv,
                env=spec.env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_die_with_parent(spec.stop_signal),
            )
        service.process = process
        service.started_at = time.time()
        self._remember_pid(spec, process.pid)
        log.info("service started", name=spec.name, pid=process.pid)
        return await process.wait()

    def _remember_pid(self, spec: ServiceSpec, pid: int) -> None:
        self._pid_dir.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(psutil.Error):
            record = {
                "pid": pid,
                "created": psutil.Process(pid).create_time(),
                "signal": int(spec.stop_signal),
            }
            (self._pid_dir / f"{spec.name}.json").write_text(json.dumps(record))

    def _forget_pid(self, name: str) -> None:
        (self._pid_dir / f"{name}.json").unlink(missing_ok=True)


def stop_leftovers(pid_dir: Path) -> list[str]:
    """Stop the services of a supervisor that was killed; gives their names.

    A process counts as ours only if its start time equals the recorded one, for ids are used again.
    """
    stopped: list[str] = []
    for record_file in sorted(pid_dir.glob("*.json")):
        try:
            record = json.loads(record_file.read_text())
            process = psutil.Process(record["pid"])
            if abs(process.create_time() - record["created"]) < 0.05:
                _stop_process(process, record["signal"])
                stopped.append(record_file.stem)
        except (psutil.NoSuchProcess, ValueError, KeyError) as error:
            log.info("no process left of an earlier service", name=record_file.stem, reason=repr(error))
        record_file.unlink(missing_ok=True)
    return stopped


def is_alive(process: psutil.Process) -> bool:
    """Whether a process still runs. A zombie does not: nobody of ours may be there to reap an orphan."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _wait_until_gone(process: psutil.Process, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while is_alive(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _stop_process(process: psutil.Process, stop_signal: int) -> None:
    process.send_signal(stop_signal)
    if not _wait_until_gone(process, STOP_SECONDS):
        process.kill()
        _wait_until_gone(process, STOP_SECONDS)


async def _answer(supervisor: Supervisor, request: Mapping[str, Any]) -> dict[str, Any]:
    command = request.get("command")
    if command == "start":
        await supervisor.start(ServiceSpec.from_json(request["spec"]))
    elif command == "stop":
        await supervisor.stop(str(request["name"]))
    elif command == "shutdown":
        await supervisor.stop_all()
        supervisor.request_stop()
    elif command != "status":
        return {"error": f"unknown command {command!r}"}
    return {"services": supervisor.reports(), "pid": os.getpid()}


async def _serve(socket_path: Path, pid_dir: Path) -> None:
    supervisor = Supervisor(pid_dir)
    pid_dir.mkdir(parents=True, exist_ok=True)
    stop_leftovers(pid_dir)

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await reader.readline()
            try:
                reply = await _answer(supervisor, json.loads(line))
            except (ValueError, KeyError, TypeError, OSError) as error:
                log.exception("request failed")
                reply = {"error": f"{type(error).__name__}: {error}"}
            writer.write(json.dumps(reply).encode() + b"\n")
            await writer.drain()
        finally:
            writer.close()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.request_stop)
    socket_path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(on_connection, path=socket_path, limit=MAX_LINE_BYTES)
    socket_path.chmod(0o600)
    (pid_dir.parent / "supervisor.pid").write_text(f"{os.getpid()}\n")
    try:
        await supervisor.run_until_stopped()
    finally:
        await supervisor.stop_all()
        server.close()
        socket_path.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--pids", type=Path, required=True)
    options = parser.parse_args()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    )
    asyncio.run(_serve(options.socket, options.pids))


if __name__ == "__main__":
    main()
