# SPDX-License-Identifier: MIT
"""A chain with the keystore DAO, the MPC signer and the register contract that the DAO owns, for the tests of them."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from outlayer_attestation import testing as platforms
from outlayer_attestation.measurements import Measurements
from outlayer_attestation.platform.machine import SoftwarePlatform
from outlayer_attestation.record import registration_report_data, reverification_report_data
from outlayer_attestation.testing import MEASUREMENTS, NOW, Faults
from outlayer_localnet.testing import NEAR, TGAS, Localnet, TestAccount, TxResult, clock_from, localnet
from outlayer_near.primitives import KeyPair, Transfer

ROOT = Path(__file__).resolve().parents[2]
ARTIFACTS = ROOT / "contracts" / "artifacts"
# as the first version of the state was written
OLD_DAO = ROOT / "contracts" / "tests" / "fixtures" / "keystore-dao-v1.wasm"
DAO, REGISTER, MPC = "dao.test", "register.test", "mpc.test"
KEYSTORE = dataclasses.replace(MEASUREMENTS, rtmr3="55" * 48)
SECRET = int.from_bytes(hashlib.sha256(b"the signer network's key, for tests").digest(), "big") >> 2
BYTE = 10**19
DAY = 86_400


@dataclass
class World:
    """A chain with the DAO of three members, the signer, and a register contract that the DAO owns."""

    chain: Localnet
    accounts: dict[str, TestAccount]
    platform: SoftwarePlatform | None = None
    key: KeyPair = field(default_factory=KeyPair.generate)

    def call(
        self, who: str, method: str, *, gas: int = 250 * TGAS, deposit: int = 0, **args: Any
    ) -> TxResult:
        return self.chain.call(self.accounts[who], DAO, method, args, gas=gas, deposit=deposit)

    def ok(self, who: str, method: str, *, gas: int = 250 * TGAS, deposit: int = 0, **args: Any) -> TxResult:
        result = self.call(who, method, gas=gas, deposit=deposit, **args)
        assert result.failure is None, result.failure
        return result

    def view(self, method: str, **args: Any) -> Any:
        return self.chain.view(DAO, method, args)

    def quote(self, measurements: Measurements = KEYSTORE, key: KeyPair | None = None) -> bytes:
        data = registration_report_data(str((key or self.key).public_key))
        return self.platform.quote(measurements, data)

    def submit(self, quote: bytes | None = None, who: str = "init") -> TxResult:
        args = {"public_key": str(self.key.public_key), "tdx_quote_hex": (quote or self.quote()).hex()}
        return self.call(who, "submit_keystore_registration", **args)

    def vote(self, proposal: int, *members: str, approve: bool = True) -> TxResult:
        for name in members:
            result = self.call(name, "vote", proposal_id=proposal, approve=approve)
            assert result.failure is None, result.failure
        return result

    def pass_(self, kind: str, **action: Any) -> tuple[dict[str, Any], TxResult]:
        """Propose and let two of three members agree; the proposal as it stands then, and the last vote."""
        made = self.call("alice", "propose", action={"kind": kind, **action})
        assert made.failure is None, made.failure
        last = self.vote(made.json(), "alice", "bob")
        return self.view("get_proposal", proposal_id=made.json()), last

    def admitted(self) -> World:
        """Another keystore that was voted in."""
        other = dataclasses.replace(self, key=KeyPair.generate())
        other.vote(other.submit().json(), "alice", "bob")
        return other

    def approved(self) -> bool:
        return self.view("is_keystore_approved", public_key=str(self.key.public_key))

    def access_key(self) -> dict[str, Any]:
        return self.chain.query("view_access_key", account_id=DAO, public_key=str(self.key.public_key))

    def spare(self) -> int:
        """What of the DAO's balance its storage does not need, in yoctoNEAR."""
        account = self.chain.account(DAO)
        return int(account["amount"]) - account["storage_usage"] * BYTE

    def leave(self, spare: int) -> None:
        """Take balance away from the DAO's account, or bring some, until it has about so much to spare.

        What is left at 0 is the gas that taking it away could have cost: less than 30 bytes take.
        """
        surplus = self.spare() - max(spare, 3 * 10**20)
        if surplus > 0:
            result = self.chain.send(self.accounts["dao"], "owner.test", [Transfer(surplus)])
        else:
            result = self.chain.send(self.accounts["owner"], DAO, [Transfer(-surplus)])
        assert result.failure is None, result.failure

    def status(self, proposal: int) -> str:
        return self.view("get_proposal", proposal_id=proposal)["status"]

    def later(self, seconds: int) -> None:
        self.chain.set_time(seconds)
        self.chain.produce_block()


NAMES = ("owner", "init", "alice", "bob", "carol", "eve")


def deploy(chain: Localnet, root: bytes | None, code: Path = ARTIFACTS / "keystore-dao.wasm") -> World:
    accounts = {name: chain.create_account(f"{name}.test", 50 * NEAR) for name in NAMES}
    args = {
        "owner_id": "owner.test",
        "init_account_id": "init.test",
        "dao_members": ["alice.test", "bob.test", "carol.test"],
        "mpc_contract_id": MPC,
        "register_contract_id": REGISTER,
    } | ({} if root is None else {"root_ca_der_hex": root.hex()})
    accounts["dao"] = chain.create_account(DAO, 200 * NEAR)
    chain.deploy(accounts["dao"], code, "new", args)
    return World(chain, accounts)


@contextlib.contextmanager
def ready(code: Path = ARTIFACTS / "keystore-dao.wasm") -> Iterator[World]:
    """Before the hand-over and without collateral as the snapshot ``bare``, after it as ``ready``."""
    platform = platforms.platform()
    with localnet(clock=clock_from(NOW)) as chain:
        world = deploy(chain, platform.root_der, code)
        world.platform = platform
        mpc = chain.create_account(MPC, 50 * NEAR)
        chain.deploy(
            mpc, ARTIFACTS / "mpc-signer.wasm", "new", {"secret_hex": SECRET.to_bytes(32, "big").hex()}
        )
        register = chain.create_account(REGISTER, 50 * NEAR)
        args = {"owner_id": DAO, "init_worker_account": "init.test", "outlayer_contract_id": "outlayer.test"}
        rooted = args | {"root_ca_der_hex": platform.root_der.hex()}
        chain.deploy(register, ARTIFACTS / "register.wasm", "new", rooted)
        assert (
            world.call("owner", "add_approved_measurements", measurements=KEYSTORE.to_json()).failure is None
        )
        chain.snapshot("bare")
        text = platforms.collateral_with(platform, Faults()).to_text()
        assert world.call("owner", "update_collateral", collateral=text).failure is None
        assert world.call("owner", "hand_over").failure is None
        chain.snapshot("ready")
        yield world


def events(result: TxResult) -> list[dict[str, Any]]:
    found = [json.loads(line[11:]) for line in result.logs if line.startswith("EVENT_JSON:")]
    return [one for one in found if one["standard"] == "outlayer-keystore-dao"]


def names(result: TxResult) -> list[str]:
    return [one["event"] for one in events(result)]


def refusal(result: TxResult) -> str:
    assert result.failure is not None
    return json.dumps(result.failure)


def reason(result: TxResult) -> str:
    answer = result.json()
    assert answer["status"] == "rejected"
    assert names(result) == ["keystore_rejected"]
    return str(answer["reason"])


def reverify(world: World, quote: bytes) -> TxResult:
    args = {"public_key": str(world.key.public_key), "tdx_quote_hex": quote.hex()}
    return world.call("eve", "reverify_keystore", **args)


def fresh_quote(world: World) -> bytes:
    key = str(world.key.public_key)
    challenge = bytes.fromhex(world.view("get_keystore", public_key=key)["challenge"])
    return world.platform.quote(KEYSTORE, reverification_report_data(DAO, key, challenge))
