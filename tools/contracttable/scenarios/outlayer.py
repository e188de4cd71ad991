# SPDX-License-Identifier: MIT
"""The main contract: projects, requests, results, secrets, money, administration."""

from __future__ import annotations

from outlayer_near.calls import build
from outlayer_near.calls import main as on_main
from outlayer_near.models import project_source
from outlayer_near.primitives import FunctionCall
from tools.contracttable.scenarios.shared import (
    ALICE,
    BOB,
    CODE,
    LIMITS,
    MAIN,
    OPERATOR,
    OTHER_CODE,
    OWNER,
    PAYMENT,
    STORAGE,
    USED,
    main_contract,
)
from tools.contracttable.stage import Stage
from tools.contracttable.table import Scenario

PROJECT = "alice.test/app"
JSON = build.json_output(b'{"degrees":21}')
LARGE = build.json_output(b'{"data":"' + b"x" * 10_000 + b'"}')


def request(text: str = '{"city":"Tokyo"}') -> FunctionCall:
    return on_main.request_execution(
        project_source(PROJECT),
        input_data=text,
        resource_limits=LIMITS,
        response_format="Json",
        deposit=PAYMENT,
    )


def run(stage: Stage) -> None:
    main_contract(stage)
    projects(stage)
    executions(stage)
    administration(stage)
    stage.view(MAIN, "contract_source_metadata")


def projects(stage: Stage) -> None:
    stage.call(ALICE, MAIN, on_main.add_version("app", OTHER_CODE, set_active=False, deposit=STORAGE))
    stage.view(MAIN, "get_project", project_id=PROJECT)
    stage.view(MAIN, "list_user_projects", account_id=ALICE)
    stage.view(MAIN, "get_version", project_id=PROJECT, version_key="cd" * 32)
    stage.view(MAIN, "list_versions", project_id=PROJECT)
    stage.view(MAIN, "get_version_count", project_id=PROJECT)
    stage.call(ALICE, MAIN, on_main.set_active_version("app", "cd" * 32))
    stage.call(ALICE, MAIN, on_main.remove_version("app", "ab" * 32))
    stage.call(ALICE, MAIN, on_main.create_project("other", CODE, deposit=STORAGE))
    stage.call(ALICE, MAIN, on_main.transfer_project("other", BOB))
    stage.call(BOB, MAIN, on_main.accept_project("alice.test/other"))
    stage.call(BOB, MAIN, on_main.delete_project("other"))


def executions(stage: Stage) -> None:
    stage.view(MAIN, "estimate_execution_cost", resource_limits=LIMITS)
    stage.call(BOB, MAIN, request())
    stage.view(MAIN, "get_request", request_id=0)
    stage.view(MAIN, "get_pending_request_ids")
    stage.call(OPERATOR, MAIN, on_main.resolve_execution(0, success=True, output=JSON, resources=USED))
    # an input that only the state holds, and outputs that a yield cannot carry
    stage.call(BOB, MAIN, request('"' + "x" * 10_000 + '"'))
    large = on_main.submit_execution_output_and_resolve(1, success=True, output=LARGE, resources=USED)
    stage.call(OPERATOR, MAIN, large)
    stage.call(BOB, MAIN, request())
    stage.call(OPERATOR, MAIN, on_main.submit_execution_output(2, LARGE))
    stage.view(MAIN, "has_pending_output", request_id=2)
    stage.view(MAIN, "get_pending_output", request_id=2)
    stage.call(OPERATOR, MAIN, on_main.resolve_execution(2, success=True, output=None, resources=USED))
    stage.call(BOB, MAIN, request())
    stage.pass_time(601)
    stage.call(BOB, MAIN, on_main.cancel_stale_execution(3))
    for number in (4, 5, 6):
        stage.call(BOB, MAIN, request())
        cancel = {
            4: on_main.emergency_cancel_execution(number),
            5: on_main.cancel_pending_requests([number]),
            6: on_main.clear_all_pending_requests(),
        }
        stage.call(OWNER, MAIN, cancel[number])
    # nobody answers: the yield times out
    stage.call(BOB, MAIN, request())
    stage.pass_blocks(210)


def administration(stage: Stage) -> None:
    for method in (
        "get_config",
        "get_event_metadata",
        "get_max_limits",
        "get_payment_token_contract",
        "get_pricing",
        "get_pricing_full",
        "get_stats",
        "get_storage_version",
        "is_paused",
    ):
        stage.view(MAIN, method)
    for method in ("get_developer_earnings", "get_user_stablecoin_balance"):
        stage.view(MAIN, method, account_id=ALICE)
    stage.call(OWNER, MAIN, on_main.set_pricing({"base_fee": 2 * 10**21}))
    stage.call(OWNER, MAIN, on_main.set_payment_token_contract("usd.test"))
    stage.call(OWNER, MAIN, on_main.set_event_metadata(version="1.0.0"))
    stage.call(OWNER, MAIN, on_main.set_operator(BOB))
    stage.call(OWNER, MAIN, on_main.set_paused(True))
    stage.call(OWNER, MAIN, on_main.set_owner(ALICE))


SCENARIO = Scenario("Main", run)
