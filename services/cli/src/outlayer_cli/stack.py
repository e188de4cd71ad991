# SPDX-License-Identifier: MIT
"""The local stack as a whole: up, down, status, logs, clean.

Everything here can be repeated: ``up`` looks at what is there and does what is missing, so it also mends a
start that was interrupted, and a stack whose processes were killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outlayer_cli import control, layout
from outlayer_cli.control import ServiceSpec
from outlayer_cli.embedded import (
    can_connect,
    ensure_postgres_database,
    init_postgres,
    postgres_command,
    postgres_url,
    valkey_command,
    valkey_config,
    valkey_url,
    write_secret,
)
from outlayer_cli.errors import StackError
from outlayer_cli.layout import Layout, Stack
from outlayer_cli.modules import clean_environment, run_module

Say = Callable[[str], None]
READY_SECONDS = 90.0
# on one's own machine the rate limit would only get in the way of measuring
LOCAL_CALLS_PER_MINUTE = "60000"


@dataclass(frozen=True)
class ServiceStatus:
    """One service as ``status`` shows it; ``healthy`` is None for one that does not run."""

    name: str
    state: str
    pid: int | None
    uptime_seconds: float | None
    restarts: int
    last_exit: str | None
    log_file: str
    healthy: bool | None


@dataclass(frozen=True)
class _Plan:
    """What one start works with."""

    layout: Layout
    ports: dict[str, int]
    workers: int
    database_url: str
    redis_url: str
    own_database: bool
    own_redis: bool
    code: str

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self.ports[service]}"


async def up(
    state: Path, *, ports: str = "default", workers: int = 2, demo: bool = True, say: Say = print
) -> Stack:
    """Start the stack, or what is missing of it, and return its description.

    Raises ``StackError`` with the service's own last log lines when one does not become ready.
    """
    place = Layout(state)
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _only_one(state):
        plan = _make_plan(place, ports, workers)
        await _ensure_supervisor(place, say)
        await _stop_outdated(plan)
        await _start_base(plan, say)
        from outlayer_cli import bootstrap

        stack = _describe(plan)
        await bootstrap.prepare_chain(place, stack, say)
        stack.save(state)
        await _start_services(plan, say)
        if demo:
            from outlayer_cli import demo as demonstration

            await demonstration.run(place, stack, say)
    return stack


async def down(state: Path) -> bool:
    """Stop the stack; its state stays. False when it did not run."""
    place = Layout(state)
    try:
        reply = await control.request(place.supervisor_socket, {"command": "shutdown"}, timeout=180)
    except StackError:
        return bool(_stop_leftovers(place))
    await _wait_for_exit(int(reply["pid"]))
    return True


async def status(state: Path) -> list[ServiceStatus]:
    """How each service is. Raises ``StackError`` when the stack does not run."""
    place = Layout(state)
    reply = await control.request(place.supervisor_socket, {"command": "status"})
    stack = Stack.load(state) if place.stack_file.exists() else None
    rows = []
    for report in reply["services"]:
        healthy = None
        if report["state"] == "running":
            healthy = stack is None or await _is_ready(place, stack.ports, report["name"])
        known = {key: report[key] for key in ServiceStatus.__dataclass_fields__ if key in report}
        rows.append(ServiceStatus(**known, healthy=healthy))
    return rows


def logs(state: Path, service: str | None = None, *, follow: bool = False, lines: int = 50) -> Iterator[str]:
    """The last lines of one service's log, or of all with names before the lines; to follow, new ones too."""
    place = Layout(state)
    found = sorted(place.logs.glob("*.log"))
    files = [file for file in found if service is None or file.stem == service]
    if not files:
        known = ", ".join(file.stem for file in found) or "none yet"
        raise StackError(
            f"there is no log of {service or 'any service'} in {place.logs}", hint=f"logs: {known}"
        )
    positions: dict[Path, int] = {}
    for file in files:
        data = file.read_bytes()
        positions[file] = len(data)
        for line in data.decode(errors="replace").splitlines()[-lines:]:
            yield line if service else f"{file.stem}: {line}"
    while follow:
        time.sleep(0.3)
        for file in files:
            with file.open("rb") as handle:
                handle.seek(positions[file])
                data = handle.read()
            complete = data.rfind(b"\n") + 1
            positions[file] += complete
            for line in data[:complete].decode(errors="replace").splitlines():
                yield line if service else f"{file.stem}: {line}"


async def clean(state: Path) -> None:
    """Stop the stack and remove its state: chain, database, keys, logs."""
    if not state.exists():
        return
    if not (Layout(state).stack_file.exists() or (state / "run").exists() or (state / "up.lock").exists()):
        raise StackError(f"{state} does not look like a stack's state", hint="see OUTLAYER_STATE")
    await down(state)
    shutil.rmtree(Layout(state).sockets, ignore_errors=True)
    shutil.rmtree(state)


# --- planning -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _only_one(state: Path) -> Iterator[None]:
    with (state / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StackError(
                f"another 'outlayer up' works on {state} at this moment", hint="wait until it has ended"
            ) from error
        yield


def _make_plan(place: Layout, ports: str, workers: int) -> _Plan:
    remembered: dict[str, int] = Stack.load(place.state).ports if place.stack_file.exists() else {}
    chosen = layout.choose_ports(ports, workers, remembered)
    given_database, given_redis = os.environ.get("DATABASE_URL"), os.environ.get("REDIS_URL")
    return _Plan(
        layout=place,
        ports=chosen,
        workers=workers,
        database_url=given_database or postgres_url(chosen["postgres"], _secret(place, "postgres.password")),
        redis_url=given_redis or valkey_url(chosen["valkey"], _secret(place, "valkey.password")),
        own_database=given_database is None,
        own_redis=given_redis is None,
        code=code_fingerprint(),
    )


def _secret(place: Layout, name: str) -> str:
    """A secret of the stack's own, made at first use and kept in a file of mode 0600."""
    path = place.credential(name)
    if not path.exists():
        write_secret(path, secrets.token_hex(32) + "\n")
    return path.read_text().strip()


def code_fingerprint() -> str:
    """A digest of the installed services' sources: a service of older code is started again by ``up``."""
    from outlayer_attestation.simulated import installed_code_digest

    names = ("attestation", "near", "coordinator", "worker", "localnet", "keeper")
    packages = [f"outlayer_{name}" for name in names]
    return installed_code_digest(packages).hex()


def _describe(plan: _Plan) -> Stack:
    place = plan.layout
    return Stack(
        format=layout.STACK_FORMAT,
        simulated=True,
        network_id=layout.NETWORK_ID,
        coordinator_url=plan.url("coordinator"),
        rpc_url=plan.url("localnet"),
        feed_url=plan.url("localnet"),
        contract_id=layout.MAIN_CONTRACT,
        operator_id=layout.OPERATOR,
        init_account_id=layout.INIT_ACCOUNT,
        developer_id=layout.DEVELOPER,
        caller_id=layout.CALLER,
        ports=plan.ports,
        credentials_dir=str(place.credentials),
        admin_token_file=str(place.credential("admin.token")),
        root_ca_file=str(place.tdx / "root_ca.der"),
        policy_file=str(place.policy / "worker.json"),
        policy_key_file=str(place.policy / "maintainer.pub"),
        workers=plan.workers,
    )


# --- supervisor and services --------------------------------------------------------------------------------


def _stop_leftovers(place: Layout) -> list[str]:
    from outlayer_cli.supervisor import stop_leftovers

    return stop_leftovers(place.pids)


async def _ensure_supervisor(place: Layout, say: Say) -> None:
    with contextlib.suppress(StackError):
        await control.request(place.supervisor_socket, {"command": "status"})
        return
    for name in _stop_leftovers(place):
        say(f"stopped {name}, left over from a stack that was killed")
    place.logs.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "outlayer_cli.supervisor"]
    command += ["--socket", str(place.supervisor_socket), "--pids", str(place.pids)]
    process = _launch_supervisor(place, command)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(StackError):
            await control.request(place.supervisor_socket, {"command": "status"})
            return
        await asyncio.sleep(0.05)
    raise StackError("the supervisor did not start" + _tail(place, "supervisor"))


def _launch_supervisor(place: Layout, command: list[str]) -> subprocess.Popen[bytes]:
    with place.log_file("supervisor").open("ab") as output:
        return subprocess.Popen(
            command,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
        )


async def _stop_outdated(plan: _Plan) -> None:
    """Stop what is not part of the stack any more, and workers of other code.

    Their simulated VMs are about to carry the measurements of the installed code: none of theirs may get its key
    approved by those.
    """
    reply = await control.request(plan.layout.supervisor_socket, {"command": "status"})
    expected = set(layout.service_names(plan.workers))
    workers = set(layout.worker_names(plan.workers))
    for report in reply["services"]:
        name = report["name"]
        if name not in expected or (name in workers and report.get("fingerprint") != plan.code):
            await _ask(plan.layout, {"command": "stop", "name": name})


async def _start_base(plan: _Plan, say: Say) -> None:
    """The servers that nothing else of ours is needed for, all at once; then their first contents."""
    place = plan.layout
    base = ["tdx", "localnet"]
    if plan.own_database:
        await asyncio.to_thread(init_postgres, place.state / "postgres", _secret(place, "postgres.password"))
        base.append("postgres")
    if plan.own_redis:
        folder = place.state / "valkey"
        folder.mkdir(exist_ok=True)
        text = valkey_config(plan.ports["valkey"], folder, _secret(place, "valkey.password"))
        write_secret(folder / "valkey.conf", text)
        base.append("valkey")
    say(await asyncio.to_thread(_prepare_platform, plan))
    for name in base:
        await _start(plan, _base_spec(plan, name))
    for name in base:
        await _wait_ready(plan, name)
    if plan.own_database:
        password = _secret(place, "postgres.password")
        await asyncio.to_thread(ensure_postgres_database, plan.ports["postgres"], password)
    say("servers run: " + ", ".join(sorted(base)))


async def _start_services(plan: _Plan, say: Say) -> None:
    await asyncio.to_thread(_prepare_coordinator, plan)
    await _start(plan, _coordinator_spec(plan))
    await _wait_ready(plan, "coordinator")
    say(f"coordinator answers at {plan.url('coordinator')}")
    await _start(plan, _keeper_spec(plan))
    await _wait_ready(plan, "keeper")
    say("keeper has looked at every registered key")
    names = layout.worker_names(plan.workers)
    for name in names:
        await _start(plan, _worker_spec(plan, name))
    for name in names:
        await _wait_ready(plan, name)
    say(f"workers are registered and have sessions: {', '.join(names)}")


async def _ask(place: Layout, message: dict[str, Any]) -> dict[str, Any]:
    return await control.request(place.supervisor_socket, message)


async def _start(plan: _Plan, spec: ServiceSpec) -> None:
    """Start a service, after a look at its port: a stranger's server there must not pass for ours."""
    place = plan.layout
    running = {
        report["name"]: report for report in (await _ask(place, {"command": "status"}))["services"]
    }.get(spec.name)
    port = plan.ports.get(spec.name)
    if port is not None and (running is None or running["state"] != "running") and can_connect(port):
        raise StackError(
            f"port {port}, which {spec.name} needs, is taken by another program",
            hint=f"stop that program, or choose: OUTLAYER_PORT_{spec.name.upper().replace('-', '_')}=<port>, "
            "or let free ports be found: outlayer up --ports auto",
        )
    await _ask(place, control.start_message(spec))


def _spec(plan: _Plan, name: str, argv: list[str], **env: str) -> ServiceSpec:
    ours = argv[0] == sys.executable
    return ServiceSpec(
        name=name,
        argv=argv,
        env=clean_environment(**env),
        log_file=str(plan.layout.log_file(name)),
        stop_signal=signal.SIGINT if name == "postgres" else signal.SIGTERM,
        fingerprint=plan.code if ours else "",
    )


def _base_spec(plan: _Plan, name: str) -> ServiceSpec:
    place = plan.layout
    if name == "postgres":
        return _spec(plan, name, postgres_command(place.state / "postgres", plan.ports[name]))
    if name == "valkey":
        return _spec(plan, name, valkey_command(place.state / "valkey" / "valkey.conf"))
    if name == "localnet":
        argv = [sys.executable, "-m", "outlayer_localnet", "serve", "--state", str(place.state / "localnet")]
        return _spec(plan, name, [*argv, "--port", str(plan.ports[name]), "--chain-id", layout.NETWORK_ID])
    argv = [sys.executable, "-m", "outlayer_attestation.platform", "serve", "--state", str(place.tdx)]
    for worker in layout.worker_names(plan.workers):
        argv += ["--guest", f"{worker}={tdx_socket(place, worker)}:{place.measurements}"]
    # the platform reads the measurements when it starts, so other values must start it again
    measured = hashlib.sha256(place.measurements.read_bytes()).hexdigest()
    return _spec(plan, name, argv, OUTLAYER_MEASUREMENTS_SHA256=measured)


def tdx_socket(place: Layout, worker: str) -> Path:
    """Where a worker finds its guest agent: the dstack socket of its simulated VM."""
    return place.sockets / f"dstack-{worker}.sock"


def _prepare_platform(plan: _Plan) -> str:
    """Keys of the software platform and the workers' measurements; says where those come from."""
    from outlayer_cli.measurement_set import configuration_document, worker_measurements

    place = plan.layout
    place.tdx.mkdir(exist_ok=True, mode=0o700)
    run_module("outlayer_attestation.platform", "init", "--state", str(place.tdx))
    configuration = configuration_document(_measured_settings(plan))
    place.worker_configuration.write_bytes(configuration)
    found = worker_measurements(layout.repository_root(), configuration)
    place.measurements.write_text(json.dumps(found.values.to_json(), indent=2) + "\n")
    return f"the workers' measurements are {found.origin}"


def _prepare_coordinator(plan: _Plan) -> None:
    """Database schema, the administrator's token and a token per worker."""
    place = plan.layout
    _secret(place, "admin.token")
    env = clean_environment(DATABASE_URL=plan.database_url)
    run_module("outlayer_coordinator.migrate", env=env)
    for worker in layout.worker_names(plan.workers):
        digest = hashlib.sha256(_secret(place, f"{worker}.token").encode()).hexdigest()
        words = ["add-worker-token", "--name", worker, "--hash", digest]
        run_module("outlayer_coordinator.admin", *words, env=env)


def _coordinator_spec(plan: _Plan) -> ServiceSpec:
    place = plan.layout
    return _spec(
        plan,
        "coordinator",
        [sys.executable, "-m", "outlayer_coordinator"],
        DATABASE_URL=plan.database_url,
        REDIS_URL=plan.redis_url,
        NEAR_RPC_URL=plan.url("localnet"),
        NEAR_BLOCK_FEED_URL=plan.url("localnet"),
        NEAR_NETWORK_ID=layout.NETWORK_ID,
        OUTLAYER_CONTRACT_ID=layout.MAIN_CONTRACT,
        OPERATOR_ACCOUNT_ID=layout.OPERATOR,
        PUBLIC_BASE_URL=plan.url("coordinator"),
        HOST="127.0.0.1",
        PORT=str(plan.ports["coordinator"]),
        ADMIN_TOKEN_FILE=str(place.credential("admin.token")),
        WASM_DIR=str(place.state / "wasm"),
        COORDINATOR_SIMULATED="1",
        PAYMENT_KEY_RATE_LIMIT_PER_MINUTE=LOCAL_CALLS_PER_MINUTE,
        **_settings("LEASE_SECONDS", "TEE_SESSION_SECONDS", "SYNC_TIMEOUT_SECONDS"),
        **_settings("MAX_CONCURRENT_CALLS_PER_KEY", "MAX_ATTEMPTS", "LOG_LEVEL"),
    )


def _keeper_spec(plan: _Plan) -> ServiceSpec:
    return _spec(
        plan,
        "keeper",
        [sys.executable, "-m", "outlayer_keeper"],
        NEAR_RPC_URL=plan.url("localnet"),
        NEAR_BLOCK_FEED_URL=plan.url("localnet"),
        OPERATOR_ACCOUNT_ID=layout.OPERATOR,
        KEEPER_ACCOUNT_ID=layout.KEEPER,
        KEEPER_KEY_FILE=str(plan.layout.credential(f"{layout.KEEPER}.json")),
        HEALTH_PORT=str(plan.ports["keeper"]),
        **_settings("ROUND_SECONDS", "MAX_DAILY_NEAR"),
    )


def _worker_spec(plan: _Plan, name: str) -> ServiceSpec:
    place = plan.layout
    return _spec(
        plan,
        name,
        [sys.executable, "-m", "outlayer_worker"],
        WORKER_ID=name,
        WORKER_TOKEN_FILE=str(place.credential(f"{name}.token")),
        INIT_ACCOUNT_KEY_FILE=str(place.credential(f"{name}.init.json")),
        DSTACK_SOCKET=str(tdx_socket(place, name)),
        WORKER_STATE_DIR=str(place.state / "workers" / name),
        HEALTH_PORT=str(plan.ports[name]),
        **_measured_settings(plan),
    )


def _measured_settings(plan: _Plan) -> dict[str, str]:
    """The settings that all workers share; in a VM they are measured into RTMR3."""
    return {
        "COORDINATOR_URL": plan.url("coordinator"),
        "NEAR_RPC_URL": plan.url("localnet"),
        "NEAR_BLOCK_FEED_URL": plan.url("localnet"),
        "NEAR_NETWORK_ID": layout.NETWORK_ID,
        "OUTLAYER_CONTRACT_ID": layout.MAIN_CONTRACT,
        "OPERATOR_ACCOUNT_ID": layout.OPERATOR,
        "INIT_ACCOUNT_ID": layout.INIT_ACCOUNT,
        **_settings("EXECUTORS", "MAX_BATCH"),
    }


def _settings(*names: str) -> dict[str, str]:
    """Settings of the services that the caller's environment may give."""
    return {name: os.environ[name] for name in names if name in os.environ}


# --- readiness ----------------------------------------------------------------------------------------------


async def _is_ready(place: Layout, ports: dict[str, int], name: str) -> bool:
    if name == "tdx":
        return await _tdx_answers(place)
    port = ports.get(name)
    if port is None:
        return True
    if name in ("postgres", "valkey"):
        return await asyncio.to_thread(can_connect, port)
    import httpx

    path = "/status" if name == "localnet" else "/health/ready"
    try:
        async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
            answer = await client.get(f"http://127.0.0.1:{port}{path}")
            return answer.status_code == 200
    except httpx.HTTPError:
        return False


async def _tdx_answers(place: Layout) -> bool:
    sockets = list(place.sockets.glob("dstack-*.sock"))
    for socket_file in sockets:
        try:
            _, writer = await asyncio.open_unix_connection(socket_file)
        except OSError:
            return False
        writer.close()
    return bool(sockets)


async def _wait_ready(plan: _Plan, name: str) -> None:
    place = plan.layout
    deadline = time.monotonic() + READY_SECONDS
    while not await _is_ready(place, plan.ports, name):
        reports = (await _ask(place, {"command": "status"}))["services"]
        report = next(item for item in reports if item["name"] == name)
        if report["restarts"] >= 3 and report["state"] != "running":
            raise StackError(f"{name} ends again and again ({report['last_exit']})" + _tail(place, name))
        if time.monotonic() > deadline:
            raise StackError(f"{name} was not ready after {READY_SECONDS:.0f} s" + _tail(place, name))
        await asyncio.sleep(0.1)


def _tail(place: Layout, service: str) -> str:
    log_file = place.log_file(service)
    if not log_file.exists():
        return ""
    lines = log_file.read_text(errors="replace").splitlines()[-12:]
    return "\n".join(["; the last lines of " + str(log_file) + ":", *lines])


async def _wait_for_exit(pid: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        await asyncio.sleep(0.05)
    raise StackError(f"the supervisor (process {pid}) did not end")
