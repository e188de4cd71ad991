# SPDX-License-Identifier: MIT
"""What several scenarios do alike."""

from __future__ import annotations

from outlayer_near.calls import main as on_main
from outlayer_near.models import ResourceMetrics, wasm_url_source
from tools.contracttable.stage import NEAR, Stage

MAIN, OPERATOR, OWNER, ALICE, BOB = "main.test", "operator.test", "owner.test", "alice.test", "bob.test"
CODE = wasm_url_source("https://coordinator.test/wasm/" + "ab" * 32, "ab" * 32)
OTHER_CODE = wasm_url_source("https://coordinator.test/wasm/" + "cd" * 32, "cd" * 32)
USED = ResourceMetrics(instructions=5_000_000, time_ms=12)
PAYMENT = NEAR // 10
STORAGE = NEAR // 10
LIMITS = {"max_instructions": 100_000_000, "max_memory_mb": 64, "max_execution_seconds": 5}


def main_contract(stage: Stage) -> None:
    """The main contract with the accounts around it, and alice's project ``app``."""
    for account in (OPERATOR, OWNER, ALICE, BOB):
        stage.account(account)
    stage.deploy(MAIN, "outlayer", on_main.new(OWNER, OPERATOR))
    stage.call(ALICE, MAIN, on_main.create_project("app", CODE, deposit=STORAGE))
