# SPDX-License-Identifier: MIT
"""The main contract: projects, requests, results, secrets, money, administration."""

from __future__ import annotations

import base64

import wasmtime

from outlayer_near.calls import build
from outlayer_near.calls import main as on_main
from outlayer_near.models import (
    PAYMENT_KEY,
    AllowAll,
    DepositMessage,
    Done,
    Logic,
    NearBalance,
    ProjectSecret,
    RequestParams,
    Success,
    TopUpMessage,
    Whitelist,
    project_source,
)
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
TOKEN = "usd.test"
# the token's own gas is not this contract's, so one that agrees to everything will do
WILLING_TOKEN = '(module (memory 1) (func (export "ft_transfer")))'
SWAP = "swap.test"
WILLING_SWAP = '(module (memory 1) (func (export "swap_near_to_stablecoin")))'
CIPHERTEXT = base64.b64encode(bytes(range(200))).decode()
CONDITION = Logic(
    operator="And", conditions=(Whitelist(accounts=(ALICE, BOB)), NearBalance(operator="Gte", value=10**24))
)
LARGE = build.json_output(b'{"data":"' + b"x" * 10_000 + b'"}')
# what a worker tells with every result of a run
RECORD = "ab" * 32


def request(text: str = '{"city":"Tokyo"}', deposit: int = PAYMENT) -> FunctionCall:
    return on_main.request_execution(
        project_source(PROJECT),
        input_data=text,
        resource_limits=LIMITS,
        response_format="Json",
        deposit=deposit,
    )


def run(stage: Stage) -> None:
    main_contract(stage)
    projects(stage)
    executions(stage)
    secrets(stage)
    payments(stage)
    stage.call(MAIN, MAIN, on_main.migrate())
    stage.call(BOB, MAIN, on_main.migrate_requests())
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
    stage.view(MAIN, "get_project_offer", project_id="alice.test/other")
    stage.call(ALICE, MAIN, on_main.cancel_project_transfer("other"))
    stage.call(ALICE, MAIN, on_main.transfer_project("other", BOB))
    stage.call(BOB, MAIN, on_main.accept_project("alice.test/other"))
    stage.call(BOB, MAIN, on_main.delete_project("other"))


def executions(stage: Stage) -> None:
    stage.view(MAIN, "estimate_execution_cost", resource_limits=LIMITS)
    stage.call(BOB, MAIN, request())
    stage.view(MAIN, "get_request", request_id=0)
    stage.view(MAIN, "get_pending_request_ids")
    stage.call(
        OPERATOR,
        MAIN,
        on_main.resolve_execution(0, success=True, output=JSON, resources=USED, record_sha256=RECORD),
    )
    # an input that only the state holds, and outputs that a yield cannot carry
    stage.view(MAIN, "get_size_limits")
    stage.call(BOB, MAIN, request('"' + "x" * 10_000 + '"', 2 * PAYMENT))
    large = on_main.submit_execution_output_and_resolve(
        1, success=True, output=LARGE, resources=USED, record_sha256=RECORD
    )
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


def secrets(stage: Stage) -> None:
    accessor = ProjectSecret(project_id=PROJECT)
    common = {"accessor": accessor.to_json(), "profile": "default", "owner": ALICE}
    stage.view(
        MAIN,
        "estimate_storage_cost",
        **common,
        encrypted_secrets_base64=CIPHERTEXT,
        access=AllowAll().to_json(),
    )
    store = on_main.store_secrets(accessor, "default", CIPHERTEXT, AllowAll(), deposit=STORAGE)
    stage.call(ALICE, MAIN, store)
    stage.call(ALICE, MAIN, on_main.update_access(accessor, "default", CONDITION, deposit=STORAGE))
    stage.view(MAIN, "get_secrets", **common)
    stage.view(MAIN, "secrets_exist", **common)
    stage.view(MAIN, "list_profiles", accessor=accessor.to_json(), owner=ALICE)
    stage.view(MAIN, "list_user_secrets", account_id=ALICE)
    stage.call(ALICE, MAIN, on_main.delete_secrets(accessor, "default"))


def payments(stage: Stage) -> None:
    """A payment key is made, topped up and deleted; a run with attached USD pays its developer."""
    stage.deploy(TOKEN, bytes(wasmtime.wat2wasm(WILLING_TOKEN)))
    stage.call(OWNER, MAIN, on_main.set_payment_token_contract(TOKEN))
    stage.view(MAIN, "get_next_payment_key_nonce", account_id=BOB)
    store = on_main.store_secrets(PAYMENT_KEY, "1", CIPHERTEXT, AllowAll(), deposit=STORAGE)
    stage.call(BOB, MAIN, store)
    stage.call(TOKEN, MAIN, on_main.ft_on_transfer(BOB, 1_000_000, TopUpMessage(nonce=1)))
    done = Success(new_encrypted_data=CIPHERTEXT)
    stage.call(OPERATOR, MAIN, on_main.resume_topup(last_data_id(stage, "TopUpPaymentKey"), done))
    stage.call(BOB, MAIN, on_main.delete_payment_key(1))
    data_id = last_data_id(stage, "DeletePaymentKey")
    stage.call(OPERATOR, MAIN, on_main.resume_delete_payment_key(data_id, Done()))
    stage.call(TOKEN, MAIN, on_main.ft_on_transfer(BOB, 1_000_000, DepositMessage()))
    paid = on_main.request_execution(
        project_source(PROJECT),
        resource_limits=LIMITS,
        params=RequestParams(attached_usd=500_000),
        deposit=PAYMENT,
    )
    stage.call(BOB, MAIN, paid)
    (number,) = stage.view(MAIN, "get_pending_request_ids")
    answer = on_main.resolve_execution(number, success=True, output=JSON, resources=USED, refund_usd=100_000)
    stage.call(OPERATOR, MAIN, answer)
    stage.call(ALICE, MAIN, on_main.withdraw_developer_earnings())
    https_earnings(stage)
    swap(stage)


def https_earnings(stage: Stage) -> None:
    """What a payment key spent off chain becomes a developer's and the owner's, and the owner takes fees."""
    store = on_main.store_secrets(PAYMENT_KEY, "2", CIPHERTEXT, AllowAll(), deposit=STORAGE)
    stage.call(BOB, MAIN, store)
    stage.call(TOKEN, MAIN, on_main.ft_on_transfer(BOB, 1_000_000, TopUpMessage(nonce=2)))
    done = Success(new_encrypted_data=CIPHERTEXT)
    stage.call(OPERATOR, MAIN, on_main.resume_topup(last_data_id(stage, "TopUpPaymentKey"), done))
    stage.call(OWNER, MAIN, on_main.set_settlement_account(BOB))
    stage.view(MAIN, "get_settlement_account")
    batch = on_main.credit_https_earnings("1", [(ALICE, 400_000)], fees=100_000, deposit=STORAGE)
    stage.call(BOB, MAIN, batch)
    stage.view(MAIN, "is_https_batch_credited", batch_id="1")
    stage.view(MAIN, "get_stablecoin_pools")
    stage.call(OWNER, MAIN, on_main.withdraw_stablecoin_fees())
    stage.call(OWNER, MAIN, on_main.withdraw_fees())
    stage.view(MAIN, "get_near_books")
    stage.call(BOB, MAIN, on_main.adopt_balances([ALICE]))
    stage.call(OWNER, MAIN, on_main.clear_settlement_account())


def swap(stage: Stage) -> None:
    stage.deploy(SWAP, bytes(wasmtime.wat2wasm(WILLING_SWAP)))
    stage.call(OWNER, MAIN, on_main.set_swap_contract(SWAP))
    stage.view(MAIN, "get_swap_contract")
    stage.call(BOB, MAIN, on_main.top_up_payment_key_with_near(2, SWAP, deposit=PAYMENT))
    stage.call(OWNER, MAIN, on_main.clear_swap_contract())


def last_data_id(stage: Stage, kind: str) -> bytes:
    """Of the last system event of a kind."""
    events = [item[kind] for item in stage.events("system_event") if kind in item]
    return bytes(events[-1]["data_id"])


def administration(stage: Stage) -> None:
    for method in (
        "get_config",
        "get_event_metadata",
        "get_max_limits",
        "get_max_memory_mb",
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
    stage.call(OWNER, MAIN, on_main.clear_payment_token_contract())
    stage.call(OWNER, MAIN, on_main.set_max_memory_mb(2_048))
    stage.call(OWNER, MAIN, on_main.set_event_metadata(version="1.0.0"))
    stage.call(OWNER, MAIN, on_main.set_operator(BOB))
    stage.call(OWNER, MAIN, on_main.set_paused(True))
    stage.call(OWNER, MAIN, on_main.set_owner(ALICE))


REFUSED = "always refused"
SCENARIO = Scenario(
    "Main",
    run,
    {"top_up_payment_key_with_token": REFUSED},
)
