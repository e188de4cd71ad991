# SPDX-License-Identifier: MIT
"""Keystore DAO on the localnet: quotes, votes, the key from the MPC signer, and the register contract it governs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from dao_world import (
    DAO,
    DAY,
    KEYSTORE,
    MPC,
    REGISTER,
    ROOT,
    SECRET,
    World,
    deploy,
    events,
    fresh_quote,
    names,
    ready,
    reason,
    refusal,
    reverify,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from py_arkworks_bls12381 import GT, G1Point, G2Point, Scalar

from outlayer_attestation import testing as platforms
from outlayer_attestation.collateral import Collateral
from outlayer_attestation.testing import MEASUREMENTS, NOW, Faults
from outlayer_localnet.testing import NEAR, TGAS, TestAccount, TxResult, clock_from, localnet
from outlayer_near.primitives import KeyPair, b58decode, b58encode

VECTORS = ROOT.parent / "shared" / "vectors"
DOMAIN = b"NEAR BLS12381G1_XMD:SHA-256_SSWU_RO_"


@pytest.fixture(scope="module")
def started() -> Iterator[World]:
    with ready() as world:
        yield world


@pytest.fixture
def world(started: World) -> World:
    """After the hand-over."""
    started.chain.restore("ready")
    return dataclasses.replace(started, key=KeyPair.generate())


@pytest.fixture
def bare(started: World) -> World:
    """Before it, without collateral."""
    started.chain.restore("bare")
    return dataclasses.replace(started, key=KeyPair.generate())


# --- votes ----------------------------------------------------------------------------------------------


def test_r13_one_approval_of_three_leaves_a_keystore_pending_and_two_admit_it(world: World) -> None:
    submitted = world.submit()
    proposal = submitted.json()
    assert (proposal, names(submitted)) == (1, ["proposal_created"])
    shown = world.view("get_proposal", proposal_id=proposal)
    assert (shown["votes_for"], shown["votes_against"], shown["status"]) == (0, 0, "Pending")
    assert (shown["public_key"], shown["measurements"]) == (str(world.key.public_key), KEYSTORE.to_json())
    world.vote(proposal, "alice")
    assert world.status(proposal) == "Pending"
    assert not world.approved()
    assert "error" in world.access_key()
    decided = world.vote(proposal, "carol")
    assert names(decided) == ["vote_cast", "keystore_approved", "proposal_decided"]
    assert world.status(proposal) == "Executed"
    assert world.approved()
    scope = world.access_key()["permission"]["FunctionCall"]
    assert (scope["receiver_id"], scope["method_names"]) == (DAO, ["request_key"])
    assert int(scope["allowance"]) == NEAR
    assert "Keystore already approved" in refusal(world.submit())


def test_r13_the_vote_of_a_removed_member_does_not_count(world: World) -> None:
    keystore = world.submit().json()
    world.vote(keystore, "carol")
    removed = world.call("alice", "propose", action={"kind": "remove_member", "account_id": "carol.test"})
    assert names(world.vote(removed.json(), "alice", "bob"))[1] == "membership_changed"
    assert world.view("get_config")["approval_threshold"] == 2
    assert world.view("get_proposal", proposal_id=keystore)["votes_for"] == 0
    world.vote(keystore, "alice")
    assert world.status(keystore) == "Pending"
    gone = world.call("carol", "vote", proposal_id=keystore, approve=True)
    assert "Only DAO members can vote" in refusal(gone)
    world.vote(keystore, "bob")
    assert world.status(keystore) == "Executed"


def test_strangers_and_the_owner_cannot_vote_and_nobody_votes_twice(world: World) -> None:
    proposal = world.submit().json()
    for stranger in ("owner", "init", "eve", "dao"):
        refused = world.call(stranger, "vote", proposal_id=proposal, approve=True)
        assert "Only DAO members can vote" in refusal(refused)
    world.vote(proposal, "alice")
    twice = world.call("alice", "vote", proposal_id=proposal, approve=True)
    assert "Already voted on this proposal" in refusal(twice)


def test_two_votes_against_reject_a_proposal(world: World) -> None:
    proposal = world.submit().json()
    world.vote(proposal, "alice", "bob", approve=False)
    assert world.status(proposal) == "Rejected"
    late = world.call("carol", "vote", proposal_id=proposal, approve=True)
    assert "Proposal is not pending" in refusal(late)
    assert not world.approved()


def test_a_proposal_expires(world: World) -> None:
    proposal = world.submit().json()
    world.vote(proposal, "alice")
    world.later(7 * DAY)
    assert world.status(proposal) == "Expired"
    late = world.call("bob", "vote", proposal_id=proposal, approve=True)
    assert "Proposal has expired" in refusal(late)


def test_a_keystore_whose_measurements_ended_before_the_last_vote_is_not_admitted(world: World) -> None:
    proposal = world.submit().json()
    world.vote(proposal, "alice")
    world.pass_("expire_measurement_set", id=1, not_after=0)
    world.vote(proposal, "bob")
    shown = world.view("get_proposal", proposal_id=proposal)
    assert (shown["status"], shown["failure"]) == (
        "Failed",
        "The keystore's measurements are no longer approved",
    )
    assert "error" in world.access_key()


@dataclass
class Model:
    """What R13 says, of proposals to add a stranger who never votes."""

    members: set[str]
    votes: list[dict[str, bool]] = field(default_factory=list)
    decided: dict[int, str] = field(default_factory=dict)

    def live(self, proposal: int, *, approve: bool) -> int:
        return sum(vote is approve and who in self.members for who, vote in self.votes[proposal].items())

    def settle(self, proposal: int) -> bool:
        """Whether the proposal is decided now."""
        threshold = len(self.members) // 2 + 1
        if self.live(proposal, approve=True) >= threshold:
            stranger = f"stranger{proposal}.test"
            self.decided[proposal] = "Executed"
            self.members.add(stranger)
        elif self.live(proposal, approve=False) > len(self.members) - threshold:
            self.decided[proposal] = "Rejected"
        return proposal in self.decided


VOTERS = ("alice", "bob", "carol", "eve")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("propose"), st.sampled_from(VOTERS)),
        st.tuples(st.just("vote"), st.sampled_from(VOTERS), st.integers(0, 2), st.booleans()),
        st.tuples(st.just("finalize"), st.integers(0, 2)),
        st.tuples(st.sampled_from(("add", "remove")), st.sampled_from(VOTERS)),
    ),
    min_size=8,
    max_size=20,
)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
@given(steps=STEPS)
def test_r13_any_sequence_of_votes_and_members_ends_as_the_rule_says(
    bare: World, steps: list[tuple[Any, ...]]
) -> None:
    bare.chain.restore("bare")
    model = Model({"alice.test", "bob.test", "carol.test"})

    def expect(result: TxResult, fine: bool) -> None:
        assert (result.failure is None) is fine, (step, result.failure)

    for step in steps:
        kind, *rest = step
        if kind == "propose":
            action = {"kind": "add_member", "account_id": f"stranger{len(model.votes)}.test"}
            fine = f"{rest[0]}.test" in model.members
            expect(bare.call(rest[0], "propose", action=action), fine)
            if fine:
                model.votes.append({})
        elif kind in ("add", "remove"):
            name = f"{rest[0]}.test"
            fine = (name in model.members) is (kind == "remove") and (kind == "add" or len(model.members) > 1)
            expect(bare.call("owner", f"{kind}_dao_member", account_id=name), fine)
            if fine:
                (model.members.add if kind == "add" else model.members.remove)(name)
        elif kind == "vote":
            name, proposal, approve = f"{rest[0]}.test", rest[1], rest[2]
            is_open = proposal < len(model.votes) and proposal not in model.decided
            fine = is_open and name in model.members and name not in model.votes[proposal]
            args = {"proposal_id": proposal + 1, "approve": approve}
            expect(bare.call(rest[0], "vote", **args), fine)
            if fine:
                model.votes[proposal][name] = approve
                model.settle(proposal)
        else:
            [proposal] = rest
            is_open = proposal < len(model.votes) and proposal not in model.decided
            result = bare.call("init", "finalize_proposal", proposal_id=proposal + 1)
            expect(result, is_open and model.settle(proposal))
    found = bare.view("get_proposals")
    wanted = [model.decided.get(index, "Pending") for index in range(len(model.votes))]
    assert [one["status"] for one in found] == wanted
    assert set(bare.view("get_dao_members")) == model.members
    assert bare.view("get_config")["approval_threshold"] == len(model.members) // 2 + 1


# --- what the owner may ---------------------------------------------------------------------------------


def test_after_the_hand_over_only_votes_change_anything(world: World) -> None:
    calls: dict[str, dict[str, Any]] = {
        "add_approved_measurements": {"measurements": MEASUREMENTS.to_json()},
        "remove_approved_measurements": {"measurements": KEYSTORE.to_json()},
        "clear_all_approved_measurements": {},
        "add_dao_member": {"account_id": "eve.test"},
        "remove_dao_member": {"account_id": "alice.test"},
        "hand_over": {},
    }
    for method, args in calls.items():
        assert "handed over" in refusal(world.call("owner", method, **args)), method
        assert "Only owner" in refusal(world.call("alice", method, **args)), method
    # what Intel signed and is newer, the owner may still bring
    newer = Faults(tcb_info={"tcbEvaluationDataNumber": 60})
    text = platforms.collateral_with(world.platform, newer).to_text()
    assert world.call("owner", "update_collateral", collateral=text).failure is None
    older = platforms.collateral_with(world.platform, Faults()).to_text()
    assert "collateral_older" in refusal(world.call("owner", "update_collateral", collateral=older))


def test_the_dao_is_set_up_by_its_owner(bare: World) -> None:
    assert bare.call("owner", "add_dao_member", account_id="eve.test").failure is None
    assert bare.view("get_dao_members") == ["alice.test", "bob.test", "carol.test", "eve.test"]
    assert bare.view("get_config")["approval_threshold"] == 3
    assert bare.call("owner", "clear_all_approved_measurements").failure is None
    assert bare.view("is_measurements_approved", measurements=KEYSTORE.to_json()) is False
    assert bare.view("get_owner") == "owner.test"
    config = bare.view("get_config")
    assert (config["has_collateral"], config["handed_over"], config["approved_measurements_count"]) == (
        False,
        False,
        0,
    )


# --- quotes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        (Faults(status="OutOfDate"), "tcb_status"),
        (Faults(status="SWHardeningNeeded"), "tcb_status"),
        (Faults(advisories=("INTEL-SA-00615",)), "advisories"),
    ],
)
def test_r12_only_keystores_on_up_to_date_platforms_are_proposed(
    bare: World, faults: Faults, expected: str
) -> None:
    text = platforms.collateral_with(bare.platform, faults).to_text()
    assert bare.call("owner", "update_collateral", collateral=text).failure is None
    assert reason(bare.submit()) == expected
    assert bare.view("get_proposals") == []


def test_other_quotes_are_answered_with_a_reason(world: World) -> None:
    assert reason(world.submit(world.quote(MEASUREMENTS))) == "measurements_not_approved"
    assert reason(world.submit(world.quote(key=KeyPair.generate()))) == "report_data_mismatch"
    assert reason(world.submit(platforms.flipped(600)(world.quote()))) == "quote_invalid"
    assert reason(world.submit(world.quote()[:-1])) == "quote_malformed"
    assert "Only init.test can call" in refusal(world.submit(who="alice"))


def test_a_set_for_another_role_is_not_the_daos_to_approve(world: World) -> None:
    entry = {"role": "worker", "name": None, "measurements": MEASUREMENTS.to_json()}
    action = {"kind": "add_measurement_set", "set": entry | {"not_before": None, "not_after": None}}
    assert "role keystore" in refusal(world.call("alice", "propose", action=action))


# --- measurement sets and collateral by vote ------------------------------------------------------------


def test_members_approve_a_measurement_set_and_let_it_end(world: World) -> None:
    newer = dataclasses.replace(KEYSTORE, mrtd="12" * 48)
    entry = {"role": "keystore", "name": "1.1", "measurements": newer.to_json()}
    decided, last = world.pass_("add_measurement_set", set=entry | {"not_before": None, "not_after": None})
    assert decided["status"] == "Executed"
    assert names(last) == ["vote_cast", "measurement_set_added", "proposal_decided"]
    assert isinstance(world.submit(world.quote(newer)).json(), int)
    decided, _ = world.pass_("expire_measurement_set", id=2, not_after=0)
    assert decided["status"] == "Executed"
    assert reason(world.submit(world.quote(newer))) == "measurements_not_approved"


def test_members_bring_newer_collateral_and_never_older(world: World) -> None:
    faults = Faults(tcb_info={"tcbEvaluationDataNumber": 70})
    newer = platforms.collateral_with(world.platform, faults)
    decided, last = world.pass_("update_collateral", collateral=newer.to_text())
    assert (decided["status"], names(last)[1]) == ("Executed", "collateral_updated")
    digest = hashlib.sha256(newer.to_text().encode()).hexdigest()
    assert decided["action"] == {"kind": "update_collateral", "collateral": f"sha256:{digest}"}
    assert world.view("get_collateral_info")[0]["tcb_evaluation_data_number"] == 70
    older = platforms.collateral_with(world.platform, Faults()).to_text()
    action = {"kind": "update_collateral", "collateral": older}
    assert "collateral_older" in refusal(world.call("alice", "propose", action=action))


# --- the key --------------------------------------------------------------------------------------------


def ask(world: World, key: KeyPair, app_key: str | dict[str, Any], path: str = "") -> TxResult:
    """``request_key``, signed by a key of the DAO account."""
    request = {"derivation_path": path, "app_public_key": app_key, "domain_id": 2}
    account = TestAccount(DAO, key)
    return world.chain.call(account, DAO, "request_key", {"request": request}, gas=300 * TGAS)


def blinding(seed: bytes) -> tuple[Scalar, str]:
    """An ephemeral scalar a, and A = a·G1 as text."""
    scalar = Scalar.from_be_bytes_mod_order(hashlib.sha256(seed).digest())
    point = G1Point() * scalar
    return scalar, "bls12381g1:" + b58encode(bytes(point.to_compressed_bytes()))


def point(text: str) -> G1Point:
    prefix, _, rest = text.partition(":")
    assert prefix == "bls12381g1"
    return G1Point.from_compressed_bytes(b58decode(rest))


def unblind(world: World, answer: dict[str, str], scalar: Scalar, account: str, path: str) -> bytes:
    """K = C - a·Y, checked by e(H(pk, app_id), pk) = e(K, G2); its 48 bytes (near.md §8.2)."""
    key = point(answer["big_c"]) - point(answer["big_y"]) * scalar
    text = world.chain.view(MPC, "public_key", {"domain_id": 2})
    public = G2Point.from_compressed_bytes(b58decode(text.removeprefix("bls12381g2:")))
    assert public == G2Point() * Scalar.from_be_bytes_mod_order(SECRET.to_bytes(32, "big"))
    preimage = f"near-mpc v0.1.0 app_id derivation:{account},{path}"
    app_id = hashlib.sha3_256(preimage.encode()).digest()
    hashed = G1Point.hash_to_curve(bytes(public.to_compressed_bytes()) + app_id, DOMAIN)
    assert GT.pairing(hashed, public) == GT.pairing(key, G2Point())
    return bytes(key.to_compressed_bytes())


def test_every_admitted_keystore_gets_the_same_key_and_can_check_it(world: World) -> None:
    found = set()
    for index in range(2):
        keystore = world.admitted()
        scalar, text = blinding(bytes([index]))
        result = ask(keystore, keystore.key, text if index == 0 else {"AppPublicKey": text})
        assert result.failure is None
        assert names(result) == ["key_requested"]
        found.add(unblind(world, result.json(), scalar, DAO, ""))
    assert len(found) == 1
    scalar, text = blinding(b"other path")
    other = ask(keystore, keystore.key, text, path="vault-1").json()
    assert unblind(world, other, scalar, DAO, "vault-1") not in found
    # whoever asks the signer directly gets a key of their own
    scalar, text = blinding(b"eve")
    request = {"derivation_path": "", "app_public_key": text, "domain_id": 2}
    eve = world.accounts["eve"]
    answer = world.chain.call(eve, MPC, "request_app_private_key", {"request": request}, deposit=1).json()
    assert unblind(world, answer, scalar, "eve.test", "") not in found


def test_only_an_admitted_keystores_key_asks_for_the_key(world: World) -> None:
    _, text = blinding(b"nobody")
    by_owner_of_the_account = ask(world, world.accounts["dao"].key, text)
    assert "no approved keystore's" in refusal(by_owner_of_the_account)
    request = {"derivation_path": "", "app_public_key": text, "domain_id": 2}
    for stranger in ("alice", "owner", "init"):
        refused = world.call(stranger, "request_key", request=request)
        assert "called by this account itself" in refusal(refused)


def test_a_key_dies_with_its_measurement_set(world: World) -> None:
    keystore = world.admitted()
    _, last = world.pass_("expire_measurement_set", id=1, not_after=0)
    assert not keystore.approved()
    assert names(last) == [
        "vote_cast",
        "measurement_set_changed",
        "keystore_keys_revoked",
        "proposal_decided",
    ]
    assert "error" in keystore.access_key()


def test_a_key_whose_set_ends_by_itself_asks_for_nothing_more(world: World) -> None:
    keystore = world.admitted()
    world.pass_("expire_measurement_set", id=1, not_after=NOW + DAY)
    assert keystore.approved()
    world.later(DAY)
    assert not keystore.approved()
    _, text = blinding(b"late")
    assert "no approved keystore's" in refusal(ask(keystore, keystore.key, text))
    assert world.call("eve", "remove_expired_keystores").json() == [str(keystore.key.public_key)]
    assert "error" in keystore.access_key()


def test_members_revoke_the_keys_of_keystores(world: World) -> None:
    keystore, other = world.admitted(), world.admitted()
    key = str(keystore.key.public_key)
    made = world.call("bob", "propose_revoke_keystore_keys", public_keys=[key])
    revoked = world.vote(made.json(), "alice", "carol")
    assert names(revoked) == ["vote_cast", "keystore_keys_revoked", "proposal_decided"]
    assert not keystore.approved()
    assert "error" in keystore.access_key()
    assert other.approved()
    assert [one["public_key"] for one in world.view("get_keystores")] == [str(other.key.public_key)]
    # no vote deletes another key of the account
    own = str(world.accounts["dao"].key.public_key)
    refused = world.call("bob", "propose_revoke_keystore_keys", public_keys=[own])
    assert "no approved keystore's key" in refusal(refused)


def test_the_stand_in_refuses_what_the_signer_refuses(world: World) -> None:
    eve = world.accounts["eve"]
    _, text = blinding(b"eve")
    good = {"derivation_path": "", "app_public_key": text, "domain_id": 2}
    wrong = (
        (good, 0, "1 yoctoNEAR"),
        (good | {"domain_id": 0}, 1, "no domain 0"),
        (good | {"app_public_key": "bls12381g1:abc"}, 1, "Not a key"),
        (good | {"app_public_key": text.replace("g1", "g2")}, 1, "Not a key"),
    )
    for request, deposit, words in wrong:
        args = {"request": request}
        refused = world.chain.call(eve, MPC, "request_app_private_key", args, deposit=deposit)
        assert words in refusal(refused)


def test_a_publicly_verifiable_key_must_be_one_key_on_both_curves(world: World) -> None:
    eve = world.accounts["eve"]
    scalar, first = blinding(b"pv")
    second = "bls12381g2:" + b58encode(bytes((G2Point() * scalar).to_compressed_bytes()))
    for pk1, fits in ((first, True), (blinding(b"other")[1], False)):
        key = {"AppPublicKeyPV": {"pk1": pk1, "pk2": second}}
        request = {"derivation_path": "", "app_public_key": key, "domain_id": 2}
        result = world.chain.call(eve, MPC, "request_app_private_key", {"request": request}, deposit=1)
        if fits:
            unblind(world, result.json(), scalar, "eve.test", "")
        else:
            assert "not the same key" in refusal(result)


# --- expiry and re-verification -------------------------------------------------------------------------


def test_a_keystores_key_expires_unless_a_fresh_quote_comes(world: World) -> None:
    keystore, other = world.admitted(), world.admitted()
    quote = fresh_quote(keystore)
    world.later(20 * DAY)
    answer = reverify(keystore, quote)
    assert (answer.json()["status"], names(answer)) == ("approved", ["keystore_reverified"])
    assert reason(reverify(keystore, quote)) == "report_data_mismatch"
    assert reason(reverify(world, world.quote())) == "key_not_registered"
    world.later(11 * DAY)
    assert (keystore.approved(), other.approved()) == (True, False)
    _, text = blinding(b"late")
    assert "no approved keystore's" in refusal(ask(other, other.key, text))
    removed = world.call("eve", "remove_expired_keystores")
    assert removed.json() == [str(other.key.public_key)]
    assert events(removed)[0]["data"][0]["reason"] == "expired"
    assert "error" in other.access_key()
    assert ask(keystore, keystore.key, text).failure is None


# --- the register contract ------------------------------------------------------------------------------


def test_the_dao_governs_the_register_contract(world: World) -> None:
    args = {"measurements": MEASUREMENTS.to_json(), "name": "worker 2"}
    decided, _ = world.pass_("call_register", method="add_measurement_set", args=json.dumps(args))
    assert decided["status"] == "Executed"
    sets = world.chain.view(REGISTER, "get_measurement_sets")
    assert [(one["name"], one["role"]) for one in sets] == [("worker 2", "worker")]
    # with a delay, votes propose and anyone activates
    raised = json.dumps({"policy_delay_seconds": DAY})
    assert world.pass_("call_register", method="raise_policy_delay", args=raised)[0]["status"] == "Executed"
    compiler = {"role": "compiler", "name": "c", "measurements": KEYSTORE.to_json()}
    version = {"sha256": "ab" * 32, "sets": [compiler | {"not_before": None, "not_after": None}]}
    decided, _ = world.pass_("call_register", method="propose_policy", args=json.dumps(version))
    assert decided["status"] == "Executed"
    world.later(DAY)
    activated = world.chain.call(world.accounts["eve"], REGISTER, "activate_policy", {"version": 1})
    assert activated.failure is None
    assert len(world.chain.view(REGISTER, "get_measurement_sets")) == 2
    # and what the register contract refuses is seen as failed
    decided, last = world.pass_("call_register", method="add_measurement_set", args=json.dumps(args))
    assert (decided["status"], decided["failure"]) == ("Failed", "The register contract refused the call")
    assert names(last)[-1] == "proposal_decided"


def test_votes_reach_no_other_contract_and_no_other_method(world: World) -> None:
    for method in ("register_worker_key", "request_app_private_key", "new"):
        action = {"kind": "call_register", "method": method, "args": "{}"}
        assert "cannot be proposed" in refusal(world.call("alice", "propose", action=action))
    refused = world.call("eve", "on_register_answer", proposal_id=1)
    assert "private" in refusal(refused)


# --- corpus ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(not VECTORS.is_dir(), reason=f"no test vectors at {VECTORS}")
def test_the_synthetic_corpus_gets_the_same_verdicts_in_the_dao() -> None:
    folder = VECTORS / "synthetic"
    wrong = []
    with localnet(clock=clock_from(1_893_456_000)) as chain:
        world = deploy(chain, (folder / "root_ca.der").read_bytes())
        chain.snapshot("corpus")
        cases = sorted(path.parent for path in folder.glob("*/expected.json"))
        for case in cases:
            chain.restore("corpus")
            expected = json.loads((case / "expected.json").read_text())["ours"]
            text = Collateral.from_json(json.loads((case / "collateral.json").read_text())).to_text()
            stored = world.call("owner", "update_collateral", collateral=text)
            code = "not_stored"
            if stored.failure is None:
                code = reason(world.submit((case / "quote.bin").read_bytes() or b"\0"))
            # a quote that verifies fails on its measurements: none are approved here
            verifies = code == "measurements_not_approved"
            # the contract has no rule for the age of collateral that Intel still calls current
            if verifies != (expected["verdict"] == "accept") and expected.get("check") != "collateral_age":
                wrong.append(f"{case.name}: {code}, expected {expected}")
    assert not wrong
    assert len(cases) == 101
