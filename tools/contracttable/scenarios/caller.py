# SPDX-License-Identifier: MIT
"""The example contract that asks for an execution."""

from __future__ import annotations

from outlayer_near.calls import build
from outlayer_near.calls import caller as on_caller
from outlayer_near.calls import main as on_main
from tools.contracttable.scenarios.shared import ALICE, MAIN, OPERATOR, PAYMENT, USED, main_contract
from tools.contracttable.stage import Stage
from tools.contracttable.table import Scenario

CALLER = "caller.test"


def run(stage: Stage) -> None:
    main_contract(stage)
    stage.deploy(CALLER, "caller", on_caller.new(MAIN))
    stage.call(ALICE, CALLER, on_caller.ask("alice.test/app", '{"city":"Tokyo"}', deposit=PAYMENT))
    answer = on_main.resolve_execution(
        0, success=True, output=build.json_output(b'{"degrees":21}'), resources=USED
    )
    stage.call(OPERATOR, MAIN, answer)
    stage.view(CALLER, "last_answer")
    stage.view(CALLER, "contract_source_metadata")


SCENARIO = Scenario("Caller, the example for contract developers", run)
