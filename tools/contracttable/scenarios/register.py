# SPDX-License-Identifier: MIT
"""The register contract: measurement sets, collateral, worker keys by quote."""

from __future__ import annotations

from outlayer_near.calls import register as on_register
from tools.contracttable import quotes
from tools.contracttable.errors import TableError
from tools.contracttable.scenarios.shared import ALICE, MAIN, OWNER
from tools.contracttable.stage import Stage, key_of
from tools.contracttable.table import Scenario

REGISTER = "register.test"
FMSPC = "53494d544458"


def run(stage: Stage) -> None:
    recorded = quotes.load()
    worker, other = (str(key_of(name).public_key) for name in ("worker", "other-worker"))
    for account in (ALICE, OWNER):
        stage.account(account)
    stage.deploy(REGISTER, "register", on_register.new(OWNER, ALICE, MAIN, root_ca_der=recorded.root_ca_der))
    for collateral in (recorded.collateral, recorded.newer_collateral):
        stage.call(OWNER, REGISTER, on_register.update_collateral(collateral))
    stage.call(OWNER, REGISTER, on_register.add_measurement_set(recorded.measurements, name="worker"))
    for name, key in (("worker", worker), ("other-worker", other)):
        answer = stage.call(ALICE, REGISTER, on_register.register_worker_key(key, recorded.quotes[name]))
        if answer["status"] != "approved":
            raise TableError(f"the recorded quote of {name} is rejected: {answer}")
    views(stage, worker)
    stage.call(OWNER, REGISTER, on_register.remove_worker_keys([other]))
    stage.call(OWNER, REGISTER, on_register.expire_measurement_set(1, stage.now))
    stage.call(ALICE, REGISTER, on_register.remove_expired_keys())
    stage.call(OWNER, REGISTER, on_register.add_approved_measurements(recorded.other_measurements))
    stage.call(OWNER, REGISTER, on_register.remove_approved_measurements(recorded.other_measurements))
    stage.call(OWNER, REGISTER, on_register.add_approved_measurements(recorded.other_measurements))
    stage.call(OWNER, REGISTER, on_register.clear_all_approved_measurements())
    stage.call(OWNER, REGISTER, on_register.transfer_ownership(ALICE))


def views(stage: Stage, key: str) -> None:
    for method in (
        "get_approved_measurements",
        "get_collateral_info",
        "get_config",
        "get_init_worker_account",
        "get_measurement_sets",
        "get_root_ca",
        "get_worker_keys",
        "contract_source_metadata",
    ):
        stage.view(REGISTER, method)
    stage.view(REGISTER, "get_collateral", fmspc=FMSPC)
    stage.view(REGISTER, "get_worker_key", public_key=key)
    stage.view(REGISTER, "is_worker_key_valid", public_key=key)
    stage.view(REGISTER, "is_measurements_approved", measurements=quotes.load().measurements)


SCENARIO = Scenario("Register", run)
