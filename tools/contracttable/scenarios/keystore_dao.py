# SPDX-License-Identifier: MIT
"""The keystore DAO: admission by quote and vote, all kinds of proposals, the key from the MPC network."""

from __future__ import annotations

from typing import Final

import wasmtime

from outlayer_near.calls import dao as on_dao
from outlayer_near.calls import register as on_register
from outlayer_near.models import (
    AddMeasurementSet,
    AddMember,
    CkdRequest,
    ExpireMeasurementSet,
    NewMeasurementSet,
    ProposalAction,
    RemoveMember,
    UpdateCollateral,
)
from outlayer_near.primitives import b58encode
from tools.contracttable import quotes
from tools.contracttable.errors import TableError
from tools.contracttable.scenarios.shared import ALICE, BOB, MAIN, OWNER
from tools.contracttable.stage import Stage, key_of
from tools.contracttable.table import Scenario

DAO: Final = "dao.test"
REGISTER: Final = "register.test"
SIGNER: Final = "signer.test"
CAROL: Final = "carol.test"
FMSPC: Final = "53494d544458"
# the signer's own gas is not the DAO's, so one that answers with nothing will do
SILENT_SIGNER: Final = '(module (memory 1) (func (export "request_app_private_key")))'
POINT: Final = "bls12381g1:" + b58encode(bytes(range(48)))


def run(stage: Stage) -> None:
    recorded = quotes.load()
    for account in (ALICE, BOB, CAROL, OWNER):
        stage.account(account)
    stage.deploy(SIGNER, bytes(wasmtime.wat2wasm(SILENT_SIGNER)))
    root = recorded.root_ca_der
    stage.deploy(REGISTER, "register", on_register.new(DAO, ALICE, MAIN, root_ca_der=root))
    members = [ALICE, BOB]
    init = on_dao.new(OWNER, ALICE, members, SIGNER, register_contract_id=REGISTER, root_ca_der=root)
    stage.deploy(DAO, "keystore-dao", init)
    set_up(stage, recorded)
    keystores(stage, recorded)
    proposals(stage, recorded)


def set_up(stage: Stage, recorded: quotes.Recording) -> None:
    """What the owner does until it hands over."""
    measured = recorded.other_measurements
    for action in (
        on_dao.add_approved_measurements(measured),
        on_dao.remove_approved_measurements(measured),
        on_dao.add_approved_measurements(recorded.measurements),
        on_dao.clear_all_approved_measurements(),
        on_dao.add_approved_measurements(measured),
        on_dao.update_collateral(recorded.collateral),
        on_dao.add_dao_member(CAROL),
        on_dao.remove_dao_member(CAROL),
        on_dao.add_dao_member(CAROL),
        on_dao.hand_over(),
    ):
        stage.call(OWNER, DAO, action)


def keystores(stage: Stage, recorded: quotes.Recording) -> None:
    """Two are admitted, one asks for the key, one is revoked."""
    for name in ("keystore", "other-keystore"):
        submit = on_dao.submit_keystore_registration(public_key(name), recorded.quotes[name])
        number = stage.call(ALICE, DAO, submit)
        if not isinstance(number, int):
            raise TableError(f"the recorded quote of {name} is rejected: {number}")
        decide(stage, number)
    request = CkdRequest(derivation_path="master", app_public_key=POINT)
    stage.call(DAO, DAO, on_dao.request_key(request), key=key_of("keystore"))
    # a challenge is random, so no recorded quote commits to it: all of the work, and then a refusal
    again = on_dao.reverify_keystore(public_key("keystore"), recorded.quotes["keystore"])
    stage.call(ALICE, DAO, again)
    views(stage, recorded)
    revoke = on_dao.propose_revoke_keystore_keys([public_key("other-keystore")])
    decide(stage, stage.call(ALICE, DAO, revoke))


def proposals(stage: Stage, recorded: quotes.Recording) -> None:
    another = NewMeasurementSet(role="keystore", name="next", measurements=recorded.measurements)
    actions: list[ProposalAction] = [
        AddMeasurementSet(set=another),
        ExpireMeasurementSet(id=1, not_after=stage.now),
        UpdateCollateral(collateral=recorded.newer_collateral),
        on_dao.register_call(on_register.add_approved_measurements(recorded.measurements)),
        AddMember(account_id=OWNER),
    ]
    for action in actions:
        decide(stage, stage.call(ALICE, DAO, on_dao.propose(action)))
    # two approvals are not enough for four members, but they are for three
    number = stage.call(ALICE, DAO, on_dao.propose(ExpireMeasurementSet(id=3, not_after=stage.now)))
    decide(stage, number)
    removal = stage.call(ALICE, DAO, on_dao.propose(RemoveMember(account_id=OWNER)))
    decide(stage, removal)
    stage.call(CAROL, DAO, on_dao.vote(removal, True))
    stage.call(CAROL, DAO, on_dao.finalize_proposal(number))
    stage.pass_time(30 * 86_400)
    stage.call(CAROL, DAO, on_dao.remove_expired_keystores())
    stage.call(CAROL, DAO, on_dao.prune_proposals())
    stage.call(CAROL, DAO, on_dao.prune_measurement_sets())
    stage.call(OWNER, DAO, on_dao.migrate())


def views(stage: Stage, recorded: quotes.Recording) -> None:
    for method in (
        "contract_source_metadata",
        "get_approved_keystores",
        "get_approved_measurements",
        "get_collateral_info",
        "get_collaterals",
        "get_config",
        "get_dao_members",
        "get_keystores",
        "get_measurement_sets",
        "get_owner",
        "get_proposals",
        "get_root_ca",
    ):
        stage.view(DAO, method)
    stage.view(DAO, "get_proposal", proposal_id=1)
    stage.view(DAO, "get_measurement_set", id=1)
    stage.view(DAO, "get_collateral", fmspc=FMSPC)
    stage.view(DAO, "get_keystore", public_key=public_key("keystore"))
    stage.view(DAO, "is_keystore_approved", public_key=public_key("keystore"))
    stage.view(DAO, "is_measurements_approved", measurements=recorded.other_measurements)


def decide(stage: Stage, number: int) -> None:
    """Both of the first members vote for it."""
    for member in (ALICE, BOB):
        stage.call(member, DAO, on_dao.vote(number, True))


def public_key(name: str) -> str:
    return str(key_of(name).public_key)


UNMEASURED: Final = {
    "on_key_renewed": "a renewal's quote commits to a random challenge, so none is recorded; "
    "contracts/tests measure it",
}
SCENARIO = Scenario("Keystore DAO", run, UNMEASURED)
