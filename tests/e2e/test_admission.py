# SPDX-License-Identifier: MIT
"""Who may work: only keys that the register contract approved, and only as long as it says."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from outlayer_cli.embedded import postgres_url
from outlayer_near.calls import register as on_register
from outlayer_near.credentials import load_credentials
from outlayer_near.primitives import FunctionCall, KeyPair
from outlayer_near.rpc import NearRpc
from outlayer_near.sender import Sender
from outlayer_near.views import RegisterViews
from outlayer_worker.identity import KEY_FILE
from tests.e2e.conftest import Cli

pytestmark = pytest.mark.e2e

TGAS = 10**12


@dataclass
class Rogue:
    """A worker on an image that nobody approved: right root of trust, right token, other measurements."""

    process: subprocess.Popen[bytes]
    log: Path
    key_file: Path


def other_measurements(cli: Cli) -> dict[str, str]:
    approved = json.loads((cli.state / "tdx" / "worker.measurements.json").read_text())
    return {**approved, "rtmr2": hashlib.sha384(b"another initrd").hexdigest()}


def add_token(cli: Cli, name: str, token: str) -> None:
    password = (cli.state / "credentials" / "postgres.password").read_text().strip()
    database = postgres_url(cli.stack()["ports"]["postgres"], password)
    digest = hashlib.sha256(token.encode()).hexdigest()
    words = ["add-worker-token", "--name", name, "--hash", digest]
    subprocess.run(
        [sys.executable, "-m", "outlayer_coordinator.admin", *words],
        env={**cli.env, "DATABASE_URL": database},
        check=True,
        capture_output=True,
    )


@pytest.fixture
def rogue(cli: Cli, tmp_path: Path) -> Iterator[Rogue]:
    with running_worker(cli, tmp_path, "rogue") as worker:
        yield worker


@contextlib.contextmanager
def running_worker(cli: Cli, tmp_path: Path, name: str) -> Iterator[Rogue]:
    """A worker of this name on other measurements than the stack's."""
    stack = cli.stack()
    measurements = tmp_path / "m.json"
    measurements.write_text(json.dumps(other_measurements(cli)))
    agent_socket = cli.state / "run" / f"{name}.sock"
    token_file = tmp_path / "token"
    token_file.write_text(f"the-token-of-{name}")
    add_token(cli, name, f"the-token-of-{name}")
    log = tmp_path / "worker.log"
    platform = [sys.executable, "-m", "outlayer_attestation.platform", "serve"]
    platform += ["--state", str(cli.state / "tdx"), "--guest", f"{name}={agent_socket}:{measurements}"]
    env = {
        **cli.env,
        "WORKER_ID": name,
        "COORDINATOR_URL": stack["coordinator_url"],
        "WORKER_TOKEN_FILE": str(token_file),
        "NEAR_RPC_URL": stack["rpc_url"],
        "NEAR_BLOCK_FEED_URL": stack["feed_url"],
        "NEAR_NETWORK_ID": stack["network_id"],
        "OUTLAYER_CONTRACT_ID": stack["contract_id"],
        "OPERATOR_ACCOUNT_ID": stack["operator_id"],
        "INIT_ACCOUNT_ID": stack["init_account_id"],
        "INIT_ACCOUNT_KEY_FILE": str(cli.state / "credentials" / "worker-1.init.json"),
        "DSTACK_SOCKET": str(agent_socket),
        "WORKER_STATE_DIR": str(tmp_path / "state"),
    }
    with log.open("wb") as output:
        agent = subprocess.Popen(platform, env=cli.env, stdout=output, stderr=output)
        wait_until(agent_socket.exists)
        worker = subprocess.Popen(
            [sys.executable, "-m", "outlayer_worker"], env=env, stdout=output, stderr=output
        )
    try:
        yield Rogue(worker, log, tmp_path / "state")
    finally:
        for process in (worker, agent):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=15)
            process.kill()
            process.wait()


def wait_until(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.1)


def test_a_worker_with_measurements_that_nobody_approved_cannot_register(cli: Cli, rogue: Rogue) -> None:
    wait_until(lambda: "measurements_not_approved" in rogue.log.read_text())
    row = workers_of(cli)
    assert "rogue" not in row


def owner_calls(cli: Cli, *actions: FunctionCall) -> Any:
    """Calls of the register contract by its owner; what the last one answers."""
    stack = cli.stack()

    async def send() -> Any:
        owner = load_credentials(Path(stack["credentials_dir"]) / f"{stack['contract_id']}.json")
        async with NearRpc(stack["rpc_url"]) as rpc:
            sender = Sender(rpc, owner.account_id, owner.key_pair)
            return (await sender.send(stack["operator_id"], actions)).json()

    return asyncio.run(send())


def has_access_key(cli: Cli, public_key: str) -> bool:
    stack = cli.stack()

    async def ask() -> bool:
        async with NearRpc(stack["rpc_url"]) as rpc:
            return await rpc.has_access_key(stack["operator_id"], public_key)

    return asyncio.run(ask())


def test_the_access_key_of_a_worker_is_gone_soon_after_its_measurements_ended(
    cli: Cli, tmp_path: Path
) -> None:
    """By time alone: nobody calls anything but the keeper."""
    ends = int(time.time()) + 25
    approve = on_register.add_measurement_set(
        other_measurements(cli), name="for a short time", not_after=ends
    )
    owner_calls(cli, approve)
    with running_worker(cli, tmp_path, "short-lived") as worker:
        wait_until(lambda: "key_registered" in worker.log.read_text(), 40)
        secret = json.loads((worker.key_file / KEY_FILE).read_text())["private_key"]
        public_key = str(KeyPair.from_secret(secret).public_key)
        assert has_access_key(cli, public_key)
        wait_until(lambda: not has_access_key(cli, public_key), 60)
    assert time.time() >= ends
    removed = 'outlayer_keeper_keys_removed_total{contract="register"} '
    wait_until(lambda: removed in keeper_metrics(cli), 20)


def keeper_metrics(cli: Cli) -> str:
    port = cli.stack()["ports"]["keeper"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def workers_of(cli: Cli) -> str:
    token = Path(cli.stack()["admin_token_file"]).read_text().strip()
    request = urllib.request.Request(
        cli.stack()["coordinator_url"] + "/admin/workers", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        body: str = answer.read().decode()
        return body


def post(url: str, token: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(
        url,
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def open_session(cli: Cli, token: str, key: KeyPair) -> tuple[int, dict[str, Any]]:
    base = cli.stack()["coordinator_url"]
    status, reply = post(f"{base}/workers/tee-challenge", token, {})
    assert status == 200
    message = b"outlayer/tee-session/v1\0" + bytes.fromhex(reply["challenge"])
    body = {
        "public_key": str(key.public_key),
        "challenge": reply["challenge"],
        "signature": key.sign(message).data.hex(),
    }
    return post(f"{base}/workers/register-tee", token, body)


def test_a_key_that_was_never_registered_cannot_open_a_session(cli: Cli) -> None:
    add_token(cli, "stranger", "the-token-of-a-stranger")
    status, reply = open_session(cli, "the-token-of-a-stranger", KeyPair.generate())
    assert status == 403, reply


def worker_key(cli: Cli, name: str) -> KeyPair:
    content = json.loads((cli.state / "workers" / name / "worker-key.json").read_text())
    return KeyPair.from_secret(content["private_key"])


def test_a_key_that_the_contract_removed_cannot_open_a_session(cli: Cli) -> None:
    """What expiry does too: the coordinator asks the register contract whether the key is valid now."""
    stack = cli.stack()
    key = worker_key(cli, "worker-2")
    token = (cli.state / "credentials" / "worker-2.token").read_text().strip()
    status, _ = open_session(cli, token, key)
    assert status == 200

    async def remove() -> bool:
        owner = load_credentials(Path(stack["credentials_dir"]) / f"{stack['contract_id']}.json")
        async with NearRpc(stack["rpc_url"]) as rpc:
            sender = Sender(rpc, owner.account_id, owner.key_pair)
            keys = {"public_keys": [str(key.public_key)]}
            await sender.call(stack["operator_id"], "remove_worker_keys", keys, gas=100 * TGAS)
            return await RegisterViews(rpc, stack["operator_id"]).is_worker_key_valid(str(key.public_key))

    assert asyncio.run(remove()) is False
    wait_until(lambda: open_session(cli, token, key)[0] == 403, 20)
    # the worker notices that the key is gone for good, starts again with a new one, and works on
    key_file = cli.state / "workers" / "worker-2" / "worker-key.json"
    wait_until(lambda: key_file.exists() and worker_key(cli, "worker-2").public_key != key.public_key, 100)
    assert open_session(cli, token, key)[0] == 403
    wait_until(lambda: open_session(cli, token, worker_key(cli, "worker-2"))[0] == 200, 60)
