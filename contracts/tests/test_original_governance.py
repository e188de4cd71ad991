# SPDX-License-Identifier: MIT
"""Scripts and workers of the original against our register contract and keystore DAO: methods, arguments, shapes.

Each test says which methods of the original it shows; ``test_compatibility.py`` keeps the list complete.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from main_world import ARTIFACTS

from outlayer_attestation import testing as platforms
from outlayer_attestation.platform.machine import SoftwarePlatform
from outlayer_attestation.record import registration_report_data
from outlayer_attestation.testing import MEASUREMENTS, NOW, Faults
from outlayer_localnet.testing import NEAR, TGAS, Localnet, TestAccount, TxResult, clock_from, localnet
from outlayer_near.primitives import KeyPair

REGISTER, DAO, MPC = "worker.test", "dao.test", "mpc.test"
NAMES = ("owner.test", "init.test", "alice.test", "bob.test", "carol.test")
FIRST = MEASUREMENTS.to_json()
SECOND = {**FIRST, "rtmr2": "7b" * 48}
# what the original's scripts and workers attach
GAS = 300 * TGAS
ALLOWANCE = 10 * NEAR

SHOWN: dict[str, dict[str, list[str]]] = {"register": {}, "keystore-dao": {}}


def shows(contract: str, *methods: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The test calls these methods as the original's clients do, and finds what they find."""

    def register(test: Callable[..., None]) -> Callable[..., None]:
        for method in methods:
            SHOWN[contract].setdefault(method, []).append(test.__name__)
        return test

    return register


@dataclass
class World:
    chain: Localnet
    accounts: dict[str, TestAccount]
    platform: SoftwarePlatform

    def call(self, who: str, contract: str, method: str, /, **args: Any) -> TxResult:
        return self.chain.call(self.accounts[who], contract, method, args, gas=GAS)

    def do(self, who: str, contract: str, method: str, /, **args: Any) -> Any:
        result = self.call(who, contract, method, **args)
        assert result.failure is None, f"{contract}.{method}: {result.failure}"
        return result.json() if result.value else None

    def refused(self, who: str, contract: str, method: str, words: str, /, **args: Any) -> None:
        failure = json.dumps(self.call(who, contract, method, **args).failure)
        assert words in failure, failure

    def view(self, contract: str, method: str, /, **args: Any) -> Any:
        return self.chain.view(contract, method, args)

    def collateral(self) -> str:
        return platforms.collateral_with(self.platform, Faults()).to_text()

    def registration(self, key: KeyPair) -> dict[str, str]:
        public_key = str(key.public_key)
        quote = self.platform.quote(MEASUREMENTS, registration_report_data(public_key))
        return {"public_key": public_key, "tdx_quote_hex": quote.hex()}

    def access_key(self, account: str, key: KeyPair) -> Any:
        found = self.chain.query("view_access_key", account_id=account, public_key=str(key.public_key))
        return found["permission"]["FunctionCall"]

    def votes(self, proposal: int, *members: str) -> None:
        for member in members:
            self.do(member, DAO, "vote", proposal_id=proposal, approve=True)


@pytest.fixture(scope="module")
def started() -> Iterator[World]:
    platform = platforms.platform()
    with localnet(clock=clock_from(NOW)) as chain:
        accounts = {name: chain.create_account(name, 50 * NEAR) for name in NAMES}
        accounts |= {name: chain.create_account(name, 200 * NEAR) for name in (REGISTER, DAO, MPC)}
        root = {"root_ca_der_hex": platform.root_der.hex()}  # the software platform's; else Intel's
        new = {"owner_id": "owner.test", "init_worker_account": "init.test"}
        more = {"outlayer_contract_id": "outlayer.test"}
        chain.deploy(accounts[REGISTER], ARTIFACTS / "register.wasm", "new", new | more | root)
        members = {"dao_members": ["alice.test", "bob.test", "carol.test"], "mpc_contract_id": MPC}
        dao = {"owner_id": "owner.test", "init_account_id": "init.test"} | members
        chain.deploy(accounts[DAO], ARTIFACTS / "keystore-dao.wasm", "new", dao | root)
        secret = {"secret_hex": "11" * 32}
        chain.deploy(accounts[MPC], ARTIFACTS / "mpc-signer.wasm", "new", secret)
        chain.snapshot("deployed")
        yield World(chain, accounts, platform)


@pytest.fixture
def world(started: World) -> World:
    started.chain.restore("deployed")
    return started


@pytest.fixture
def register(world: World) -> World:
    """Ready for registrations."""
    world.do("owner.test", REGISTER, "update_collateral", collateral=world.collateral())
    world.do("owner.test", REGISTER, "add_approved_measurements", measurements=FIRST)
    return world


@pytest.fixture
def dao(world: World) -> World:
    world.do("owner.test", DAO, "update_collateral", collateral=world.collateral())
    world.do("owner.test", DAO, "add_approved_measurements", measurements=FIRST)
    return world


# -- the register contract -------------------------------------------------------------------------------


@shows(
    "register",
    "new",
    "add_approved_measurements",
    "remove_approved_measurements",
    "clear_all_approved_measurements",
    "get_approved_measurements",
    "is_measurements_approved",
)
def test_measurements_are_approved_and_taken_back_at_the_register_contract(world: World) -> None:
    def approved() -> Any:
        return world.view(REGISTER, "get_approved_measurements")

    owner = ("owner.test", REGISTER)
    assert approved() == []
    world.do(*owner, "add_approved_measurements", measurements=FIRST)
    world.do(*owner, "add_approved_measurements", measurements=SECOND, clear_others=False)
    world.do(*owner, "add_approved_measurements", measurements=SECOND)
    assert approved() == [FIRST, SECOND]
    assert world.view(REGISTER, "is_measurements_approved", measurements=SECOND) is True
    world.do(*owner, "add_approved_measurements", measurements=FIRST, clear_others=True)
    assert approved() == [FIRST]
    world.do(*owner, "remove_approved_measurements", measurements=FIRST)
    assert world.view(REGISTER, "is_measurements_approved", measurements=FIRST) is False
    world.do(*owner, "add_approved_measurements", measurements=SECOND)
    world.do(*owner, "clear_all_approved_measurements")
    assert approved() == []
    short = {**FIRST, "rtmr0": "abc"}
    words = "Invalid rtmr0 format: expected 96 hex characters, got 3"
    world.refused(*owner, "add_approved_measurements", words, measurements=short)
    world.refused("bob.test", REGISTER, "add_approved_measurements", "Only owner", measurements=FIRST)


@shows("register", "update_collateral", "get_collateral", "get_collaterals")
def test_collateral_is_stored_at_the_register_contract_with_and_without_a_slot(world: World) -> None:
    text = world.collateral()
    world.do("owner.test", REGISTER, "update_collateral", collateral=text)
    world.do("owner.test", REGISTER, "update_collateral", collateral=text, index=1)
    stored = world.view(REGISTER, "get_collateral")
    assert isinstance(stored, str)
    assert json.loads(stored)["tcb_info"] == json.loads(text)["tcb_info"]
    assert world.view(REGISTER, "get_collaterals") == [stored]


@shows("register", "get_init_worker_account", "transfer_ownership")
def test_the_register_contract_changes_hands(world: World) -> None:
    assert world.view(REGISTER, "get_init_worker_account") == "init.test"
    world.do("owner.test", REGISTER, "transfer_ownership", new_owner="alice.test")
    args = {"measurements": FIRST}
    world.refused("owner.test", REGISTER, "add_approved_measurements", "Only owner", **args)
    world.do("alice.test", REGISTER, "add_approved_measurements", **args)


@shows("register", "register_worker_key", "remove_worker_keys")
def test_a_worker_of_the_original_gets_its_key_and_the_owner_removes_it(register: World) -> None:
    key = KeyPair.generate()
    registration = register.registration(key)
    words = "Only init.test can call register_worker_key"
    register.refused("bob.test", REGISTER, "register_worker_key", words, **registration)
    assert register.do("init.test", REGISTER, "register_worker_key", **registration)["status"] == "approved"
    permission = register.access_key(REGISTER, key)
    assert permission["receiver_id"] == "outlayer.test"
    assert int(permission["allowance"]) == ALLOWANCE
    assert set(permission["method_names"]) == {
        "resolve_execution",
        "submit_execution_output_and_resolve",
        "resume_topup",
        "resume_delete_payment_key",
    }
    register.do("owner.test", REGISTER, "remove_worker_keys", public_keys=[registration["public_key"]])
    keys = register.chain.query("view_access_key_list", account_id=REGISTER)["keys"]
    assert registration["public_key"] not in {item["public_key"] for item in keys}


@shows("register", "migrate")
def test_migrate_of_a_state_of_today_changes_nothing(register: World) -> None:
    before = register.view(REGISTER, "get_approved_measurements")
    register.do(REGISTER, REGISTER, "migrate")
    assert register.view(REGISTER, "get_approved_measurements") == before == [FIRST]


# -- the keystore DAO ------------------------------------------------------------------------------------


@shows(
    "keystore-dao",
    "new",
    "get_owner",
    "get_config",
    "get_dao_members",
    "get_proposal",
    "get_proposals",
)
def test_a_fresh_dao_says_what_it_is(world: World) -> None:
    assert world.view(DAO, "get_owner") == "owner.test"
    assert sorted(world.view(DAO, "get_dao_members")) == ["alice.test", "bob.test", "carol.test"]
    expected = {
        "owner_id": "owner.test",
        "init_account_id": "init.test",
        "mpc_contract_id": MPC,
        "approval_threshold": 2,
        "dao_members_count": 3,
        "next_proposal_id": 1,
        "approved_keystores_count": 0,
        "approved_measurements_count": 0,
        "has_collateral": False,
    }
    config = world.view(DAO, "get_config")
    assert {name: config[name] for name in expected} == expected
    assert world.view(DAO, "get_proposal", proposal_id=1) is None
    assert world.view(DAO, "get_proposals", from_index=0, limit=10) == []


@shows("keystore-dao", "add_dao_member", "remove_dao_member")
def test_members_come_and_go_by_the_originals_argument(world: World) -> None:
    world.do("owner.test", DAO, "add_dao_member", member="bob2.test")
    assert "bob2.test" in world.view(DAO, "get_dao_members")
    for name in ("bob2.test", "alice.test", "bob.test"):
        world.do("owner.test", DAO, "remove_dao_member", member=name)
    assert world.view(DAO, "get_dao_members") == ["carol.test"]
    assert world.view(DAO, "get_config")["approval_threshold"] == 1
    words = "Cannot remove last DAO member"
    world.refused("owner.test", DAO, "remove_dao_member", words, member="carol.test")


@shows(
    "keystore-dao",
    "add_approved_measurements",
    "remove_approved_measurements",
    "clear_all_approved_measurements",
    "get_approved_measurements",
    "is_measurements_approved",
)
def test_measurements_are_approved_and_taken_back_at_the_dao(world: World) -> None:
    owner = ("owner.test", DAO)
    for given in (FIRST, SECOND, SECOND):
        world.do(*owner, "add_approved_measurements", measurements=given)
    assert world.view(DAO, "get_approved_measurements") == [FIRST, SECOND]
    world.do(*owner, "remove_approved_measurements", measurements=FIRST)
    assert world.view(DAO, "is_measurements_approved", measurements=FIRST) is False
    assert world.view(DAO, "is_measurements_approved", measurements=SECOND) is True
    world.do(*owner, "clear_all_approved_measurements")
    assert world.view(DAO, "get_approved_measurements") == []


@shows("keystore-dao", "update_collateral", "get_collaterals")
def test_collateral_is_stored_at_the_dao_with_and_without_a_slot(world: World) -> None:
    text = world.collateral()
    world.do("owner.test", DAO, "update_collateral", collateral=text)
    world.do("owner.test", DAO, "update_collateral", collateral=text, index=0)
    [stored] = world.view(DAO, "get_collaterals")
    assert json.loads(stored)["tcb_info"] == json.loads(text)["tcb_info"]
    assert world.view(DAO, "get_config")["has_collateral"] is True


@shows(
    "keystore-dao",
    "submit_keystore_registration",
    "vote",
    "get_proposal",
    "get_proposals",
    "is_keystore_approved",
    "get_approved_keystores",
)
def test_a_keystore_of_the_original_is_voted_in(dao: World) -> None:
    key = KeyPair.generate()
    registration = dao.registration(key)
    public_key = registration["public_key"]
    submitted = dao.do("init.test", DAO, "submit_keystore_registration", **registration, app_id="app")
    assert submitted == 1
    proposal = dao.view(DAO, "get_proposal", proposal_id=1)
    expected = {
        "id": 1,
        "public_key": public_key,
        "measurements": FIRST,
        "submitter": "init.test",
        "votes_for": 0,
        "votes_against": 0,
        "status": "Pending",
    }
    assert {name: proposal[name] for name in expected} == expected
    assert [item["id"] for item in dao.view(DAO, "get_proposals", from_index=0, limit=10)] == [1]
    assert dao.view(DAO, "is_keystore_approved", public_key=public_key) is False
    vote = {"proposal_id": 1, "approve": True}
    dao.refused("owner.test", DAO, "vote", "Only DAO members can vote", **vote)
    dao.refused("bob.test", DAO, "vote", "Proposal not found", proposal_id=9, approve=True)
    dao.votes(1, "alice.test")
    dao.refused("alice.test", DAO, "vote", "Already voted on this proposal", **vote)
    dao.votes(1, "bob.test")
    dao.refused("carol.test", DAO, "vote", "Proposal is not pending", **vote)
    assert dao.view(DAO, "get_proposal", proposal_id=1)["status"] == "Executed"
    assert dao.view(DAO, "is_keystore_approved", public_key=public_key) is True
    assert dao.view(DAO, "get_approved_keystores") == [public_key]
    permission = dao.access_key(DAO, key)
    assert (permission["receiver_id"], permission["method_names"]) == (DAO, ["request_key"])
    again = dao.call("init.test", DAO, "submit_keystore_registration", **registration)
    assert "Keystore already approved" in json.dumps(again.failure)


@shows("keystore-dao", "request_key")
def test_an_approved_keystore_gets_its_key_from_the_signer(dao: World) -> None:
    from py_arkworks_bls12381 import G1Point, Scalar

    from outlayer_near.primitives import b58encode

    key = KeyPair.generate()
    number = dao.do("init.test", DAO, "submit_keystore_registration", **dao.registration(key))
    dao.votes(number, "alice.test", "bob.test")
    app = "bls12381g1:" + b58encode(bytes((G1Point() * Scalar(7)).to_compressed_bytes()))
    request = {"request": {"derivation_path": "", "app_public_key": app, "domain_id": 2}}
    keystore = TestAccount(DAO, key)
    answer = dao.chain.call(keystore, DAO, "request_key", request, gas=GAS)
    assert answer.failure is None, answer.failure
    assert set(answer.json()) == {"big_y", "big_c"}
    assert all(value.startswith("bls12381g1:") for value in answer.json().values())
