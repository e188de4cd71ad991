# SPDX-License-Identifier: MIT
"""The programs: migrate, admin, and the server itself as a process."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from outlayer_coordinator.migrate import migrate_url


def run(module: str, url: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"outlayer_coordinator.{module}", *words]
    env = {**os.environ, "DATABASE_URL": url}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)


async def test_several_coordinators_may_migrate_at_once(empty_database: str) -> None:
    applied = await asyncio.gather(*(migrate_url(empty_database) for _ in range(4)))
    assert sorted(len(names) for names in applied)[:3] == [0, 0, 0]
    assert max(applied, key=len)[0] == "0001_initial.sql"


async def test_a_changed_migration_is_refused_by_name(empty_database: str) -> None:
    await migrate_url(empty_database)
    connection = await asyncpg.connect(empty_database)
    await connection.execute("UPDATE schema_migrations SET sha256 = 'x' WHERE number = 1")
    await connection.close()
    answer = await asyncio.to_thread(run, "migrate", empty_database)
    assert answer.returncode == 1
    assert "0001_initial.sql differs" in answer.stderr


async def test_admin_adds_and_switches_off_a_worker(service: Any) -> None:
    url = service.settings.database_url
    token = "a-workers-token-of-some-length"
    headers = {"Authorization": f"Bearer {token}"}
    digest = hashlib.sha256(token.encode()).hexdigest()
    for _ in range(2):  # repeating it is no error
        answer = await asyncio.to_thread(
            run, "admin", url, "add-worker-token", "--name", "w1", "--hash", digest
        )
        assert answer.returncode == 0, answer.stderr
    good = await service.client.post("/workers/tee-challenge", json={}, headers=headers)
    assert good.status_code == 200
    await asyncio.to_thread(run, "admin", url, "remove-worker-token", "--name", "w1")
    bad = await service.client.post("/workers/tee-challenge", json={}, headers=headers)
    assert bad.status_code == 401


async def test_admin_grants_and_deletes_a_key(service: Any) -> None:
    url, secret = service.settings.database_url, "ab" * 32
    digest = hashlib.sha256(secret.encode()).hexdigest()
    words = ("grant-key", "--owner", "bob.test", "--nonce", "7", "--hash", digest, "--balance", "5000")
    assert (await asyncio.to_thread(run, "admin", url, *words)).returncode == 0
    assert "unchanged" in (await asyncio.to_thread(run, "admin", url, *words)).stdout
    header = {"X-Payment-Key": f"bob.test:7:{secret}"}
    balance = await service.client.get("/payment-keys/balance", headers=header)
    assert (balance.json()["available"], balance.json()["is_grant"]) == ("5000", True)
    await asyncio.to_thread(run, "admin", url, "delete-key", "--owner", "bob.test", "--nonce", "7")
    assert (await service.client.get("/payment-keys/balance", headers=header)).status_code == 401


def test_programs_say_what_is_missing() -> None:
    assert run("migrate", "").returncode == 3
    assert run("admin", "", "delete-key", "--owner", "a", "--nonce", "1").returncode == 3
    assert (
        run("admin", "postgresql://127.0.0.1:1/x", "delete-key", "--owner", "a", "--nonce", "1").returncode
        == 1
    )
    command = [sys.executable, "-m", "outlayer_coordinator"]
    answer = subprocess.run(command, env={}, capture_output=True, text=True, check=False, timeout=60)
    assert answer.returncode == 1
    assert "ADMIN_TOKEN_FILE is not set" in answer.stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_server(env: dict[str, str], log: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "outlayer_coordinator"], env=env, stdout=log, stderr=log)


async def test_the_server_starts_serves_and_stops_when_told(
    database: str, valkey: str, tmp_path: Path
) -> None:
    port = free_port()
    token = tmp_path / "admin.token"
    token.write_text("a token of the administrator")
    env = {
        **os.environ,
        "DATABASE_URL": database,
        "REDIS_URL": valkey,
        "NEAR_RPC_URL": "http://127.0.0.1:9",
        "NEAR_NETWORK_ID": "localnet",
        "OUTLAYER_CONTRACT_ID": "outlayer.test",
        "OPERATOR_ACCOUNT_ID": "worker.outlayer.test",
        "PUBLIC_BASE_URL": f"http://127.0.0.1:{port}",
        "ADMIN_TOKEN_FILE": str(token),
        "WASM_DIR": str(tmp_path / "wasm"),
        "PORT": str(port),
    }
    log = (tmp_path / "log").open("wb")
    process = start_server(env, log)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            async with asyncio.timeout(30):
                while True:
                    try:
                        if (await client.get("/health/ready")).status_code == 200:
                            break
                    except httpx.TransportError:
                        assert process.poll() is None, (tmp_path / "log").read_text()
                    await asyncio.sleep(0.05)
            assert (await client.get("/health")).text == "OK"
            detailed = await client.get("/health/detailed")
            assert detailed.status_code == 503
            assert detailed.json()["checks"]["event_monitor"]["status"] in ("starting", "error")
            metrics = (await client.get("/metrics")).text
            assert 'outlayer_http_requests_total{route="ready",status="200"}' in metrics
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 20) in (0, -signal.SIGTERM)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        log.close()
    text = (tmp_path / "log").read_text()
    assert "Traceback" not in text
    assert database.split(":")[2].split("@")[0] not in text


async def test_health_tells_the_parts_apart(start: Any) -> None:
    service = await start(redis_url="redis://127.0.0.1:1/0")
    ready = await service.client.get("/health/ready")
    assert (ready.status_code, ready.json()["redis"]["status"]) == (200, "degraded")
    assert (await service.client.get("/health/detailed")).status_code == 503
    worker = await service.worker()
    await worker.heartbeat()
    detailed = await service.client.get("/health/detailed")
    assert (detailed.status_code, detailed.json()["status"]) == (200, "degraded")
    assert detailed.json()["simulated"] is True
    assert detailed.json()["checks"]["workers"]["active"] == 1
    await service.context.database.main.close()
    assert (await service.client.get("/health/ready")).status_code == 503
    assert (await service.client.get("/health")).status_code == 200
