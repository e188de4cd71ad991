# SPDX-License-Identifier: MIT
"""The register contract: measurement sets, policies, collateral, worker keys by quote."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from outlayer_near.calls import register as on_register
from outlayer_near.models import NewMeasurementSet
from tools.contracttable import quotes
from tools.contracttable.errors import TableError
from tools.contracttable.scenarios.shared import ALICE, MAIN, OWNER
from tools.contracttable.stage import NEAR, Stage, key_of
from tools.contracttable.table import Scenario

REGISTER: Final = "other-register.test"
FMSPC: Final = "53494d544458"
BEFORE_ROLES: Final = Path(__file__).resolve().parents[3] / "contracts/tests/fixtures/register-v1.wasm"
DELAY: Final = 3_600


def run(stage: Stage) -> None:
    recorded = quotes.load()
    for account in (ALICE, OWNER):
        stage.account(account)
    upgrade(stage, recorded)
    stage.deploy(REGISTER, "register", on_register.new(OWNER, ALICE, MAIN, root_ca_der=recorded.root_ca_der))
    keys(stage, recorded)
    measurement_sets(stage, recorded)
    policies(stage, recorded)
    stage.call(OWNER, REGISTER, on_register.transfer_ownership(ALICE))


def upgrade(stage: Stage, recorded: quotes.Recording) -> None:
    """A key from before roles is verified again: of such a key the recording knows the challenge."""
    contract = quotes.REGISTER
    init = on_register.new(OWNER, ALICE, MAIN, root_ca_der=recorded.root_ca_der)
    stage.deploy(contract, BEFORE_ROLES.read_bytes(), init)
    stage.call(OWNER, contract, on_register.update_collateral(recorded.collateral))
    stage.call(OWNER, contract, on_register.add_measurement_set(recorded.measurements, name="worker"))
    register(stage, contract, "worker", recorded)
    stage.upgrade(contract, "register")
    stage.call(OWNER, contract, on_register.migrate())
    quote = recorded.quotes[quotes.REVERIFICATION]
    approved(stage.call(ALICE, contract, on_register.reverify_worker_key(public_key("worker"), quote)))


def keys(stage: Stage, recorded: quotes.Recording) -> None:
    for collateral in (recorded.collateral, recorded.newer_collateral):
        stage.call(OWNER, REGISTER, on_register.update_collateral(collateral))
    stage.call(OWNER, REGISTER, on_register.add_measurement_set(recorded.measurements, name="worker"))
    stage.call(OWNER, REGISTER, on_register.storage_deposit(ALICE, NEAR))
    for name in ("worker", "other-worker"):
        register(stage, REGISTER, name, recorded)
    stage.call(ALICE, REGISTER, on_register.storage_withdraw())
    for method in (
        "get_approved_measurements",
        "get_collateral_info",
        "get_collaterals",
        "get_config",
        "get_init_worker_account",
        "get_keys_without_approval",
        "get_measurement_sets",
        "get_root_ca",
        "get_worker_keys",
        "storage_balance_bounds",
        "contract_source_metadata",
    ):
        stage.view(REGISTER, method)
    stage.view(REGISTER, "get_collateral", fmspc=FMSPC)
    stage.view(REGISTER, "get_measurement_set", id=1)
    stage.view(REGISTER, "storage_balance_of", account_id=ALICE)
    stage.view(REGISTER, "get_worker_key", public_key=public_key("worker"))
    stage.view(REGISTER, "is_worker_key_valid", public_key=public_key("worker"))
    stage.view(REGISTER, "is_measurements_approved", measurements=recorded.measurements)
    stage.call(OWNER, REGISTER, on_register.remove_worker_keys([public_key("other-worker")]))
    stage.call(OWNER, REGISTER, on_register.expire_measurement_set(1, stage.now))
    stage.call(ALICE, REGISTER, on_register.remove_expired_keys())


def measurement_sets(stage: Stage, recorded: quotes.Recording) -> None:
    """The original's methods."""
    stage.call(OWNER, REGISTER, on_register.add_approved_measurements(recorded.other_measurements))
    stage.call(OWNER, REGISTER, on_register.remove_approved_measurements(recorded.other_measurements))
    stage.call(OWNER, REGISTER, on_register.add_approved_measurements(recorded.other_measurements))
    stage.call(OWNER, REGISTER, on_register.clear_all_approved_measurements())
    stage.call(ALICE, REGISTER, on_register.prune_measurement_sets())


def policies(stage: Stage, recorded: quotes.Recording) -> None:
    """A version of two sets is proposed, cancelled, proposed, waits, counts, and is revoked."""
    stage.call(OWNER, REGISTER, on_register.raise_policy_delay(DELAY))
    sets = [
        NewMeasurementSet(role="worker", name="worker", measurements=recorded.measurements),
        NewMeasurementSet(role="compiler", name="compiler", measurements=recorded.other_measurements),
    ]
    propose = on_register.propose_policy("ab" * 32, sets, grace_seconds=DELAY)
    stage.call(OWNER, REGISTER, on_register.cancel_policy(stage.call(OWNER, REGISTER, propose)))
    version = stage.call(OWNER, REGISTER, propose)
    stage.view(REGISTER, "get_pending_policy")
    stage.pass_time(DELAY)
    stage.call(ALICE, REGISTER, on_register.activate_policy(version))
    stage.view(REGISTER, "get_policies")
    stage.call(OWNER, REGISTER, on_register.revoke_policy(version))


def register(stage: Stage, contract: str, name: str, recorded: quotes.Recording) -> None:
    approved(
        stage.call(ALICE, contract, on_register.register_worker_key(public_key(name), recorded.quotes[name]))
    )


def approved(answer: dict[str, object]) -> None:
    if answer["status"] != "approved":
        raise TableError(f"a recorded quote is rejected: {answer}")


def public_key(name: str) -> str:
    return str(key_of(name).public_key)


SCENARIO = Scenario("Register", run)
