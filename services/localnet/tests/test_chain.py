# SPDX-License-Identifier: MIT
"""Time, heights, snapshots, pacing, and what survives a restart."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from localnet_contracts import kitchen_sink

from outlayer_localnet.blocks import next_gas_price
from outlayer_localnet.chain import Chain, ChainConfig
from outlayer_localnet.errors import StoreError
from outlayer_localnet.params import load
from outlayer_localnet.testing import NEAR, TGAS, Localnet, RpcFailedError, TestAccount, localnet
from outlayer_near.primitives import AccessKey, AddKey, CreateAccount, DeployContract, KeyPair, Transfer

SECOND = 10**9


class Clock:
    """A clock that tests move by hand, in ns."""

    def __init__(self, now: int = 1_800_000_000 * SECOND) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


# -- time ------------------------------------------------------------------------------------------


def test_block_time_follows_the_clock_and_always_rises():
    clock = Clock()
    with localnet(clock=clock) as net:
        net.produce_block()
        first = net.block()["header"]["timestamp"]
        net.produce_block()
        assert net.block()["header"]["timestamp"] == first + 1  # the clock stands still
        clock.now += 60 * SECOND
        net.produce_block()
        assert net.block()["header"]["timestamp"] == clock.now
        clock.now -= 30 * SECOND
        net.produce_block()
        assert net.block()["header"]["timestamp"] == clock.now + 30 * SECOND + 1


def test_the_clock_can_be_moved_and_contracts_see_it(net: Localnet):
    before = net.block()["header"]["timestamp"]
    net.set_time(3600)
    after = net.block()["header"]["timestamp"]
    assert 3600 * SECOND <= after - before < 3660 * SECOND


def test_fast_forward_skips_heights_and_their_time(net: Localnet):
    before = net.block()["header"]
    assert net.fast_forward(1000) == before["height"] + 1000
    after = net.block()["header"]
    assert after["prev_height"] == before["height"]
    assert after["prev_hash"] == before["hash"]
    assert 600 * SECOND <= after["timestamp"] - before["timestamp"] < 660 * SECOND
    with pytest.raises(RpcFailedError, match="UNKNOWN_BLOCK"):
        net.block(before["height"] + 500)


def test_an_idle_node_keeps_a_heartbeat():
    with localnet(config=ChainConfig(block_interval=0.02), heartbeat=True) as net:
        begin = net.height
        deadline = time.monotonic() + 10
        while net.height < begin + 5:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_node_without_heartbeat_makes_no_block_on_its_own(net: Localnet):
    height = net.height
    time.sleep(0.1)
    assert net.height == height


def test_the_gas_price_moves_by_a_hundredth_towards_half_full_blocks():
    params = load(86)
    price = 10**9
    assert next_gas_price(price, params.gas_limit, params) == price * 1005 // 1000
    assert next_gas_price(price, params.gas_limit // 2, params) == price
    assert next_gas_price(price, 0, params) == price * 995 // 1000
    assert next_gas_price(params.min_gas_price, 0, params) == params.min_gas_price
    assert next_gas_price(params.max_gas_price, params.gas_limit, params) == params.max_gas_price


# -- pacing ----------------------------------------------------------------------------------------


def test_traffic_cannot_use_up_a_yields_blocks_before_its_time(net: Localnet, app: TestAccount):
    clock = Clock(net.block()["header"]["timestamp"])
    chain = net.chain
    net.call(app, "app.test", "wait_detached", b"", gas=100 * TGAS, wait_until="INCLUDED")
    time.sleep(0.1)
    chain._clock = clock
    assert chain.block_delay() == 0.0  # the first half may pass at any rate
    while chain.block_delay() == 0.0:
        clock.now += 1
        chain.produce_block()
    waited = blocks = 0
    while chain._oldest_yield() is not None:
        delay = chain.block_delay()
        waited, blocks = waited + delay, blocks + 1
        clock.now += int(delay * SECOND)
        chain.produce_block()
    assert 99 <= blocks <= 102
    assert waited == pytest.approx(chain.config.min_yield_seconds, abs=2)


def test_an_idle_chain_and_a_resolved_yield_are_not_slowed(net: Localnet, app: TestAccount):
    net.call(app, "app.test", "wait_and_resume", b"", gas=200 * TGAS)
    for _ in range(150):
        net.chain.produce_block()
    assert net.chain.block_delay() == 0.0


# -- blocks with much to do ------------------------------------------------------------------------


def test_receipts_above_the_gas_limit_of_a_block_wait_for_the_next():
    key = KeyPair(bytes(range(32)))
    chain = Chain.open(None, key.public_key)

    def send(signer: str, receiver: str, actions, nonce: int) -> None:
        from outlayer_near.primitives import Transaction

        signed = Transaction(signer, key.public_key, nonce, receiver, chain.head.hash, tuple(actions)).sign(
            key
        )
        chain.submit(signed, len(signed.to_bytes()))

    def settle() -> None:
        while chain.has_work:
            chain.produce_block()

    send("test", "app.test", [CreateAccount(), Transfer(100 * NEAR), AddKey(key.public_key, AccessKey())], 1)
    settle()
    chain.fast_forward(50)
    send("app.test", "app.test", [DeployContract(kitchen_sink())], 40 * 10**6)
    settle()
    from outlayer_near.primitives import FunctionCall

    for nonce in range(5):
        send("test", "app.test", [FunctionCall("loop_forever", b"", 400 * TGAS)], 40 * 10**6 + nonce)
    chain.produce_block()
    used = []
    while chain.has_work:
        used.append(chain.produce_block().gas_used)
    assert used[0] > 10**15
    assert sum(1 for gas in used if gas > 400 * TGAS) == 2  # three calls, then two
    assert max(used) < 10**15 + 401 * TGAS
    chain.close()


# -- snapshots -------------------------------------------------------------------------------------


def test_restoring_a_snapshot_takes_everything_back(net: Localnet, app: TestAccount):
    net.call(app, "app.test", "put", b"before")
    net.snapshot("here")
    height, balance = net.height, net.balance("app.test")
    later = net.call(app, "app.test", "put", b"after")
    net.fast_forward(100)
    net.restore("here")
    assert net.height == height
    assert net.balance("app.test") == balance
    assert net.view_bytes("app.test", "get", b"") == b"before"
    with pytest.raises(RpcFailedError, match="UNKNOWN_TRANSACTION"):
        net.tx(later.hash)
    assert net.call(app, "app.test", "put", b"again").failure is None


def test_a_snapshot_can_be_restored_many_times_with_a_yield_in_it(net: Localnet, app: TestAccount):
    started = net.call(app, "app.test", "wait", b"", gas=100 * TGAS, wait_until="INCLUDED")
    while net.chain.has_work:
        time.sleep(0.002)
    net.snapshot()
    for answer in (b"one", b"two"):
        net.call(app, "app.test", "resume", answer, gas=100 * TGAS)
        assert net.tx(started.hash, wait_until="FINAL").value == answer
        net.restore()


# -- restart ---------------------------------------------------------------------------------------


def test_a_restart_continues_from_the_last_block(tmp_path: Path):
    with localnet(tmp_path) as net:
        app = net.create_account("app.test")
        net.deploy(app, kitchen_sink())
        old = net.call(app, "app.test", "put", b"kept")
        net.set_time(1000)
        started = net.call(app, "app.test", "wait", b"", gas=100 * TGAS, wait_until="INCLUDED")
        while net.chain.has_work:
            time.sleep(0.002)
        head = net.block()["header"]
    with localnet(tmp_path) as net:
        assert net.block()["header"] == head
        assert net.view_bytes("app.test", "get", b"") == b"kept"
        assert net.tx(old.hash).raw["final_execution_status"] == "FINAL"
        net.produce_block()
        assert net.block()["header"]["timestamp"] - head["timestamp"] < 60 * SECOND  # the shift was kept
        net.call(app, "app.test", "resume", b"later", gas=100 * TGAS)
        assert net.tx(started.hash, wait_until="FINAL").value == b"later"


def test_receipts_in_flight_survive_a_restart(tmp_path: Path):
    key = KeyPair(bytes(range(32)))
    chain = Chain.open(tmp_path, key.public_key)
    from outlayer_near.primitives import Transaction

    signed = Transaction("test", key.public_key, 1, "near", chain.head.hash, (Transfer(NEAR),)).sign(key)
    chain.submit(signed, 200)
    chain.produce_block()
    assert chain.has_work
    chain.close()
    again = Chain.open(tmp_path, key.public_key)
    assert again.has_work
    again.produce_block()
    from outlayer_localnet.state import get_account

    account = get_account(again.state, "near")
    assert account is not None
    assert account.amount == 1_000_001 * NEAR
    again.close()


def test_history_is_readable_after_a_restart(tmp_path: Path):
    with localnet(tmp_path) as net:
        app = net.create_account("app.test")
        net.deploy(app, kitchen_sink())
        net.call(app, "app.test", "put", b"old")
        height = net.height
        net.call(app, "app.test", "put", b"new")
    with localnet(tmp_path) as net:
        answer = net.query(
            "call_function", account_id="app.test", method_name="get", args_base64="", block_id=height
        )
        assert bytes(answer["result"]) == b"old"


def test_another_chain_id_is_refused(tmp_path: Path):
    with localnet(tmp_path):
        pass
    with (
        pytest.raises(StoreError, match="localnet"),
        localnet(tmp_path, config=ChainConfig(chain_id="other")),
    ):
        pass


def test_a_lost_genesis_key_is_reported_not_replaced(tmp_path: Path):
    with localnet(tmp_path):
        pass
    (tmp_path / "genesis_key.json").unlink()
    with pytest.raises(StoreError, match="lost its genesis key"), localnet(tmp_path):
        pass
    assert not (tmp_path / "genesis_key.json").exists()


def test_a_genesis_key_of_another_chain_is_refused(tmp_path: Path):
    for name in ("one", "two"):
        with localnet(tmp_path / name):
            pass
    (tmp_path / "one" / "genesis_key.json").replace(tmp_path / "two" / "genesis_key.json")
    with pytest.raises(StoreError, match="does not belong") as error, localnet(tmp_path / "two"):
        pass
    assert "genesis_key.json" in error.value.hint


def test_a_damaged_credentials_file_is_a_clear_error(tmp_path: Path):
    for text in ("", "[]", '{"private_key": 5}', '{"private_key": "ed25519:0"}'):
        (tmp_path / "genesis_key.json").write_text(text)
        with pytest.raises(StoreError, match="not a credentials file"), localnet(tmp_path):
            pass


def test_two_nodes_cannot_share_a_state_directory(tmp_path: Path):
    with localnet(tmp_path), pytest.raises(StoreError, match=r"cannot open .* locked"), localnet(tmp_path):
        pass


# -- the command -----------------------------------------------------------------------------------


class Served:
    """``python -m outlayer_localnet serve`` in a process of its own."""

    def __init__(self, state: Path, *extra: str, port: int = 0) -> None:
        command = [sys.executable, "-m", "outlayer_localnet", "serve", "--state", str(state)]
        self.process = subprocess.Popen(
            [*command, "--port", str(port), *extra], stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert line.startswith("{"), line + self.process.stderr.read()
        self.url = json.loads(line)["url"]

    def rpc(self, method: str, params: object) -> dict:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        request = urllib.request.Request(self.url, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as reply:
            answer: dict = json.load(reply)
        return answer["result"]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(timeout=20)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


@pytest.mark.timeout(120)
def test_a_killed_node_has_lost_nothing_that_it_reported(tmp_path: Path):
    import base64

    from outlayer_near.primitives import Transaction, decode_hash

    served = Served(tmp_path / "state", "--block-interval", "0.05")
    key = KeyPair.from_secret(
        json.loads((tmp_path / "state" / "genesis_key.json").read_text())["private_key"]
    )
    done = []
    for round_number in range(2):
        for number in range(8):
            block_hash = decode_hash(served.rpc("status", {})["sync_info"]["latest_block_hash"])
            nonce = round_number * 100 + number + 1
            tx = Transaction("test", key.public_key, nonce, "near", block_hash, (Transfer(1),))
            encoded = base64.b64encode(tx.sign(key).to_bytes()).decode()
            answer = served.rpc("send_tx", {"signed_tx_base64": encoded, "wait_until": "EXECUTED"})
            done.append(answer["transaction"]["hash"])
        served.stop(signal.SIGKILL)
        served = Served(tmp_path / "state", "--block-interval", "0.05")
        for tx_hash in done:
            assert served.rpc("tx", [tx_hash, "test"])["status"] == {"SuccessValue": ""}
        near = served.rpc(
            "query", {"request_type": "view_account", "finality": "final", "account_id": "near"}
        )
        assert int(near["amount"]) == 1_000_000 * NEAR + len(done)
    assert served.stop() == 0


def test_the_command_stops_cleanly_and_keeps_its_key_private(tmp_path: Path):
    served = Served(tmp_path)
    credentials = tmp_path / "genesis_key.json"
    assert stat.S_IMODE(credentials.stat().st_mode) == 0o600
    body = json.loads(credentials.read_text())
    assert set(body) == {"account_id", "public_key", "private_key"}
    keys = served.rpc(
        "query", {"request_type": "view_access_key_list", "finality": "final", "account_id": "test"}
    )
    assert [item["public_key"] for item in keys["keys"]] == [body["public_key"]]
    assert served.stop() == 0


def test_a_taken_port_is_a_clear_error(tmp_path: Path):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        command = [sys.executable, "-m", "outlayer_localnet", "serve", "--state", str(tmp_path), "--port"]
        ended = subprocess.run([*command, str(port)], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert re.search(rf"cannot listen on 127.0.0.1:{port}: .*in use", ended.stderr)
    assert "--port" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_state_directory_that_cannot_be_made_is_a_clear_error(tmp_path: Path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    command = [
        sys.executable,
        "-m",
        "outlayer_localnet",
        "serve",
        "--state",
        str(blocked / "x"),
        "--port",
        "0",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=os.environ)
    assert ended.returncode == 1
    assert "cannot create" in ended.stderr
    assert "Traceback" not in ended.stderr
