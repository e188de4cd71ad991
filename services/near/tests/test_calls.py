# SPDX-License-Identifier: MIT
"""The calls that change the contracts' state, as they are sent."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlayer_near.calls import build
from outlayer_near.calls import caller as on_caller
from outlayer_near.calls import dao as on_dao
from outlayer_near.calls import main as on_main
from outlayer_near.calls import register as on_register
from outlayer_near.calls import token as on_token
from outlayer_near.errors import CodecError
from outlayer_near.models import (
    PAYMENT_KEY,
    AddMember,
    AllowAll,
    CkdRequest,
    Done,
    Failed,
    NewMeasurementSet,
    PlatformRules,
    ProjectSecret,
    RequestParams,
    ResourceMetrics,
    SecretsReference,
    Success,
    TopUpMessage,
    Whitelist,
    project_source,
    wasm_url_source,
)
from outlayer_near.primitives import FunctionCall

u64 = st.integers(0, 2**64 - 1)
text = st.text(max_size=12)

USED = ResourceMetrics(instructions=5, time_ms=6)


def arguments(action: FunctionCall) -> Any:
    return json.loads(action.args)


def test_a_request_has_the_arguments_of_the_abi():
    action = on_main.request_execution(
        project_source("alice.test/echo"),
        input_data='{"city":"Tōkyō"}',
        resource_limits={"max_instructions": 5},
        response_format="Json",
        secrets_ref=SecretsReference(profile="default", account_id="alice.test"),
        params=RequestParams(attached_usd=100000),
        deposit=9,
    )
    assert (action.method_name, action.deposit, action.gas) == ("request_execution", 9, 300 * 10**12)
    assert arguments(action) == {
        "source": {"Project": {"project_id": "alice.test/echo"}},
        "resource_limits": {"max_instructions": 5},
        "input_data": '{"city":"Tōkyō"}',
        "secrets_ref": {"profile": "default", "account_id": "alice.test"},
        "response_format": "Json",
        "payer_account_id": None,
        "params": {
            "force_rebuild": False,
            "store_on_fastfs": False,
            "compile_only": False,
            "attached_usd": "100000",
        },
    }


def test_r1_a_request_cannot_name_a_storage_namespace():
    assert "project_uuid" not in RequestParams.model_fields


@given(st.recursive(st.none() | u64 | text, lambda inner: st.lists(inner, max_size=3), max_leaves=6))
def test_a_json_output_arrives_byte_for_byte(value):
    written = json.dumps(value, indent=1).encode()
    action = on_main.resolve_execution(7, success=True, output=build.json_output(written), resources=USED)
    assert written in action.args
    assert arguments(action) == {
        "request_id": 7,
        "response": {
            "success": True,
            "output": {"Json": value},
            "error": None,
            "resources_used": {"instructions": 5, "time_ms": 6, "compile_time_ms": None},
            "compilation_note": None,
            "refund_usd": None,
        },
    }


def test_an_empty_json_output_is_refused():
    with pytest.raises(CodecError):
        build.json_output(b"  ")


def test_text_and_bytes_outputs_and_failures_have_their_forms():
    for output, form in (
        (build.text_output('a "b" ä'), {"Text": 'a "b" ä'}),
        (build.bytes_output(b"\x00\xff"), {"Bytes": [0, 255]}),
        (None, None),
    ):
        action = on_main.resolve_execution(1, success=False, output=output, error="no", resources=USED)
        assert arguments(action)["response"]["output"] == form
        assert arguments(action)["response"]["error"] == "no"


def test_r7_a_large_result_carries_its_refund():
    action = on_main.submit_execution_output_and_resolve(
        3, success=True, output=build.json_output(b"{}"), resources=USED, refund_usd=12
    )
    assert action.method_name == "submit_execution_output_and_resolve"
    assert (arguments(action)["request_id"], arguments(action)["refund_usd"]) == (3, 12)


def test_a_result_carries_the_leaf_of_its_record_beside_the_response():
    leaf = "ab" * 32
    output = build.json_output(b"{}")
    inline = on_main.resolve_execution(3, success=True, output=output, resources=USED, record_sha256=leaf)
    stored = on_main.submit_execution_output_and_resolve(
        3, success=True, output=output, resources=USED, record_sha256=leaf
    )
    assert [arguments(action)["record_sha256"] for action in (inline, stored)] == [leaf, leaf]
    assert "record_sha256" not in arguments(inline)["response"]


@pytest.mark.parametrize("leaf", ["", "ab", "AB" * 32, "ab" * 32 + "\n", "0x" + "ab" * 31])
def test_a_leaf_of_another_form_is_not_sent(leaf):
    for call in (on_main.resolve_execution, on_main.submit_execution_output_and_resolve):
        with pytest.raises(CodecError, match="64 lower-case hex") as refused:
            call(3, success=True, output=build.json_output(b"{}"), resources=USED, record_sha256=leaf)
        assert refused.value.hint


# -- every method: name, arguments, deposit -----------------------------------------------------------------

REGISTERS = dict.fromkeys(("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"), "ab" * 48)
CODE = wasm_url_source("u", "h")
CODE_JSON = {"WasmUrl": {"url": "u", "hash": "h"}}
PROJECT = ProjectSecret(project_id="alice.test/app")
PROJECT_JSON = {"Project": {"project_id": "alice.test/app"}}
ID = bytes(range(32))
NEW_SET = NewMeasurementSet(
    role="compiler",
    name="c",
    measurements=REGISTERS,
    not_after=9,
    platform=PlatformRules(advisory_prefix_informational=("INTEL-DOC-",), min_tcb_evaluation_data_number=17),
)

MAIN_CALLS: list[tuple[FunctionCall, dict[str, Any], int]] = [
    (
        on_main.new("o.test"),
        {"owner_id": "o.test", "operator_id": None, "event_standard": None, "event_version": None},
        0,
    ),
    (
        on_main.request_execution(CODE, resource_limits=None, deposit=3),
        {
            "source": CODE_JSON,
            "resource_limits": None,
            "input_data": "",
            "secrets_ref": None,
            "response_format": "Text",
            "payer_account_id": None,
            "params": None,
        },
        3,
    ),
    (on_main.cancel_stale_execution(4), {"request_id": 4}, 0),
    (
        on_main.resolve_execution(1, success=False, output=None, resources=USED, error="no"),
        {
            "request_id": 1,
            "response": {
                "success": False,
                "output": None,
                "error": "no",
                "resources_used": {"instructions": 5, "time_ms": 6, "compile_time_ms": None},
                "compilation_note": None,
                "refund_usd": None,
            },
        },
        0,
    ),
    (
        on_main.submit_execution_output(1, build.text_output("t")),
        {"request_id": 1, "output": {"Text": "t"}},
        0,
    ),
    (
        on_main.submit_execution_output_and_resolve(
            1, success=True, output=build.bytes_output(b"\x01"), resources=USED, refund_usd=9
        ),
        {
            "request_id": 1,
            "success": True,
            "output": {"Bytes": [1]},
            "error": None,
            "resources_used": {"instructions": 5, "time_ms": 6, "compile_time_ms": None},
            "compilation_note": None,
            "refund_usd": 9,
        },
        0,
    ),
    (on_main.create_project("p", CODE, deposit=5), {"name": "p", "source": CODE_JSON}, 5),
    (
        on_main.add_version("p", CODE, set_active=True, deposit=5),
        {"project_name": "p", "source": CODE_JSON, "set_active": True},
        5,
    ),
    (on_main.set_active_version("p", "v"), {"project_name": "p", "version_key": "v"}, 0),
    (on_main.remove_version("p", "v"), {"project_name": "p", "version_key": "v"}, 0),
    (on_main.delete_project("p"), {"project_name": "p"}, 0),
    (on_main.transfer_project("p", "b.test"), {"project_name": "p", "new_owner": "b.test"}, 0),
    (on_main.cancel_project_transfer("p"), {"project_name": "p"}, 0),
    (on_main.accept_project("a.test/p"), {"project_id": "a.test/p"}, on_main.PROJECT_MOVE_DEPOSIT),
    (
        on_main.store_secrets(PROJECT, "default", "AQ==", AllowAll(), deposit=7),
        {
            "accessor": PROJECT_JSON,
            "profile": "default",
            "encrypted_secrets_base64": "AQ==",
            "access": "AllowAll",
        },
        7,
    ),
    (on_main.delete_secrets(PAYMENT_KEY, "1"), {"accessor": {"System": "PaymentKey"}, "profile": "1"}, 0),
    (
        on_main.update_access(PROJECT, "default", Whitelist(accounts=("b.test",)), deposit=2),
        {
            "accessor": PROJECT_JSON,
            "profile": "default",
            "new_access": {"Whitelist": {"accounts": ["b.test"]}},
        },
        2,
    ),
    (
        on_main.ft_on_transfer("b.test", 10_000, TopUpMessage(nonce=1)),
        {
            "sender_id": "b.test",
            "amount": "10000",
            "msg": '{"action":"top_up_payment_key","nonce":1}',
        },
        0,
    ),
    (
        on_main.resume_topup(ID, Success(new_encrypted_data="AQ==")),
        {"data_id": ID.hex(), "result": {"Success": {"new_encrypted_data": "AQ=="}}},
        0,
    ),
    (on_main.delete_payment_key(1), {"nonce": 1}, 1),
    (
        on_main.resume_delete_payment_key(ID, Done()),
        {"data_id": ID.hex(), "result": "Success"},
        0,
    ),
    (
        on_main.top_up_payment_key_with_near(1, "swap.test", deposit=9),
        {"nonce": 1, "swap_contract_id": "swap.test"},
        9,
    ),
    (
        on_main.top_up_payment_key_with_token(1, "usd.test", 5, "swap.test"),
        {"nonce": 1, "token_id": "usd.test", "amount": "5", "swap_contract_id": "swap.test"},
        1,
    ),
    (on_main.withdraw_developer_earnings(), {}, 1),
    (on_main.set_owner("x.test"), {"new_owner_id": "x.test"}, 0),
    (on_main.set_operator("x.test"), {"new_operator_id": "x.test"}, 0),
    (on_main.set_paused(True), {"paused": True}, 0),
    (on_main.set_pricing({"base_fee": 10**21}), {"base_fee": "1000000000000000000000"}, 0),
    (on_main.set_payment_token_contract("usd.test"), {"token_contract": "usd.test"}, 0),
    (on_main.clear_payment_token_contract(), {}, 0),
    (on_main.set_max_memory_mb(512), {"max_memory_mb": 512}, 0),
    (
        on_main.credit_https_earnings("b-1", [("a.test", 2**64)], 7, deposit=5),
        {"batch_id": "b-1", "entries": [["a.test", "18446744073709551616"]], "fees": "7"},
        5,
    ),
    (on_main.set_swap_contract("swap.test"), {"swap_contract_id": "swap.test"}, 0),
    (on_main.clear_swap_contract(), {}, 0),
    (on_main.set_settlement_account("s.test"), {"account_id": "s.test"}, 0),
    (on_main.clear_settlement_account(), {}, 0),
    (on_main.withdraw_fees(5), {"amount": "5"}, 1),
    (on_main.withdraw_stablecoin_fees(), {"amount": None}, 1),
    (on_main.adopt_balances(["a.test"]), {"account_ids": ["a.test"]}, 0),
    (on_main.set_event_metadata(version="1.1.0"), {"standard": None, "version": "1.1.0"}, 0),
    (on_main.emergency_cancel_execution(1), {"request_id": 1}, 0),
    (on_main.cancel_pending_requests([1, 2]), {"request_ids": [1, 2]}, 0),
    (on_main.clear_all_pending_requests(), {"limit": None}, 0),
    (on_main.migrate(), {}, 0),
    (on_main.migrate_requests(7), {"limit": 7}, 0),
]
REGISTER_CALLS: list[tuple[FunctionCall, dict[str, Any], int]] = [
    (
        on_register.new("o.test", "i.test", "m.test", root_ca_der=b"\x01"),
        {
            "owner_id": "o.test",
            "init_worker_account": "i.test",
            "outlayer_contract_id": "m.test",
            "root_ca_der_hex": "01",
            "key_ttl_seconds": None,
            "policy_delay_seconds": None,
        },
        0,
    ),
    (
        on_register.register_worker_key("ed25519:k", b"\x04\x00"),
        {"public_key": "ed25519:k", "tdx_quote_hex": "0400"},
        0,
    ),
    (
        on_register.register_worker_key("ed25519:k", b"\x04", deposit=7),
        {"public_key": "ed25519:k", "tdx_quote_hex": "04"},
        7,
    ),
    (on_register.storage_deposit("i.test", 9), {"account_id": "i.test"}, 9),
    (on_register.storage_withdraw(2**70), {"amount": str(2**70)}, 1),
    (on_register.storage_withdraw(), {"amount": None}, 1),
    (on_register.prune_measurement_sets(50), {"limit": 50}, 0),
    (on_register.remove_expired_keys(), {"public_keys": None}, 0),
    (on_register.remove_worker_keys(["ed25519:k"]), {"public_keys": ["ed25519:k"]}, 0),
    (on_register.update_collateral("{}"), {"collateral": "{}"}, 0),
    (
        on_register.add_measurement_set(REGISTERS, name="w"),
        {
            "measurements": REGISTERS,
            "name": "w",
            "not_before": None,
            "not_after": None,
            "role": None,
            "platform": None,
        },
        0,
    ),
    (
        on_register.propose_policy("ab" * 32, [NEW_SET], grace_seconds=60),
        {
            "sha256": "ab" * 32,
            "sets": [
                {
                    "role": "compiler",
                    "name": "c",
                    "measurements": REGISTERS,
                    "not_before": None,
                    "not_after": 9,
                    "platform": {
                        "statuses": ["UpToDate"],
                        "advisory_prefix_informational": ["INTEL-DOC-"],
                        "min_tcb_evaluation_data_number": 17,
                    },
                }
            ],
            "grace_seconds": 60,
        },
        0,
    ),
    (on_register.cancel_policy(2), {"version": 2}, 0),
    (on_register.activate_policy(2), {"version": 2}, 0),
    (on_register.revoke_policy(2), {"version": 2}, 0),
    (on_register.raise_policy_delay(86_400), {"policy_delay_seconds": 86_400}, 0),
    (on_register.migrate(), {}, 0),
    (
        on_register.reverify_worker_key("ed25519:k", b"\x04"),
        {"public_key": "ed25519:k", "tdx_quote_hex": "04"},
        0,
    ),
    (on_register.expire_measurement_set(1, 5), {"id": 1, "not_after": 5}, 0),
    (on_register.transfer_ownership("x.test"), {"new_owner": "x.test"}, 0),
    (
        on_register.add_approved_measurements(REGISTERS),
        {"measurements": REGISTERS, "clear_others": None},
        0,
    ),
    (on_register.remove_approved_measurements(REGISTERS), {"measurements": REGISTERS}, 0),
    (on_register.clear_all_approved_measurements(), {}, 0),
]
CKD = CkdRequest(derivation_path="master", app_public_key="bls12381g1:5cvAh")
DAO_CALLS: list[tuple[FunctionCall, dict[str, Any], int]] = [
    (
        on_dao.submit_keystore_registration("ed25519:k", b"\x04\x00"),
        {"public_key": "ed25519:k", "tdx_quote_hex": "0400", "app_id": None},
        0,
    ),
    (
        on_dao.new("o.test", "i.test", ["a.test", "b.test"], "mpc.test", register_contract_id="r.test"),
        {
            "owner_id": "o.test",
            "init_account_id": "i.test",
            "dao_members": ["a.test", "b.test"],
            "mpc_contract_id": "mpc.test",
            "register_contract_id": "r.test",
            "root_ca_der_hex": None,
            "proposal_ttl_seconds": None,
            "keystore_ttl_seconds": None,
        },
        0,
    ),
    (
        on_dao.reverify_keystore("ed25519:k", b"\x01"),
        {"public_key": "ed25519:k", "tdx_quote_hex": "01"},
        0,
    ),
    (on_dao.remove_expired_keystores(["ed25519:k"]), {"public_keys": ["ed25519:k"]}, 0),
    (
        on_dao.propose(AddMember(account_id="c.test")),
        {"action": {"kind": "add_member", "account_id": "c.test"}},
        0,
    ),
    (on_dao.propose_revoke_keystore_keys(["ed25519:k"]), {"public_keys": ["ed25519:k"]}, 0),
    (on_dao.vote(3, True), {"proposal_id": 3, "approve": True}, 0),
    (on_dao.finalize_proposal(3), {"proposal_id": 3}, 0),
    (
        on_dao.add_approved_measurements(REGISTERS, clear_others=True),
        {"measurements": REGISTERS, "clear_others": True},
        0,
    ),
    (on_dao.remove_approved_measurements(REGISTERS), {"measurements": REGISTERS}, 0),
    (on_dao.clear_all_approved_measurements(), {}, 0),
    (on_dao.add_dao_member("c.test"), {"member": "c.test"}, 0),
    (on_dao.remove_dao_member("c.test"), {"member": "c.test"}, 0),
    (on_dao.migrate(), {}, 0),
    (on_dao.prune_proposals(5), {"limit": 5}, 0),
    (on_dao.prune_measurement_sets(5), {"limit": 5}, 0),
    (
        on_dao.propose(AddMember(account_id="c.test"), deposit=7),
        {"action": {"kind": "add_member", "account_id": "c.test"}},
        7,
    ),
    (on_dao.propose_revoke_keystore_keys([], deposit=7), {"public_keys": []}, 7),
    (
        on_dao.submit_keystore_registration("ed25519:k", b"", app_id="a", deposit=7),
        {"public_key": "ed25519:k", "tdx_quote_hex": "", "app_id": "a"},
        7,
    ),
    (on_dao.update_collateral("{}"), {"collateral": "{}"}, 0),
    (on_dao.hand_over(), {}, 0),
    (
        on_dao.request_key(CKD),
        {
            "request": {
                "derivation_path": "master",
                "app_public_key": "bls12381g1:5cvAh",
                "domain_id": 2,
            }
        },
        0,
    ),
]
TOKEN_CALLS: list[tuple[FunctionCall, dict[str, Any], int]] = [
    (
        on_token.ft_transfer("b.test", 5),
        {"receiver_id": "b.test", "amount": "5", "memo": None},
        1,
    ),
    (
        on_token.ft_transfer_call("main.test", 10_000, TopUpMessage(nonce=1, owner="b.test")),
        {
            "receiver_id": "main.test",
            "amount": "10000",
            "memo": None,
            "msg": '{"action":"top_up_payment_key","nonce":1,"owner":"b.test"}',
        },
        1,
    ),
    (on_token.storage_deposit(deposit=9), {"account_id": None, "registration_only": True}, 9),
]
CALLER_CALLS: list[tuple[FunctionCall, dict[str, Any], int]] = [
    (on_caller.new("m.test"), {"outlayer_contract_id": "m.test"}, 0),
    (
        on_caller.ask("a.test/p", "in", deposit=4),
        {"project_id": "a.test/p", "input_data": "in", "response_format": None, "resource_limits": None},
        4,
    ),
]
CALLS = {
    on_main: MAIN_CALLS,
    on_register: REGISTER_CALLS,
    on_dao: DAO_CALLS,
    on_token: TOKEN_CALLS,
    on_caller: CALLER_CALLS,
}


@pytest.mark.parametrize(
    ("action", "expected", "deposit"),
    [pytest.param(*row, id=row[0].method_name) for rows in CALLS.values() for row in rows],
)
def test_a_call_has_the_arguments_and_the_deposit_of_the_abi(action, expected, deposit):
    assert arguments(action) == expected
    assert action.deposit == deposit
    assert 0 < action.gas <= 300 * 10**12


@pytest.mark.parametrize("module", CALLS, ids=lambda module: module.__name__)
def test_every_builder_is_named_after_the_method_it_calls_and_is_shown_above(module):
    builders = {
        name
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and function.__annotations__["return"] == "FunctionCall"
    }
    assert builders == {action.method_name for action, _, _ in CALLS[module]}


def test_the_dao_proposes_calls_of_the_register_contract_as_they_are_built_here():
    action = on_dao.register_call(on_register.expire_measurement_set(1, 5))
    assert action.to_json() == {
        "kind": "call_register",
        "method": "expire_measurement_set",
        "args": '{"id":1,"not_after":5}',
    }


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_data_id_has_32_bytes(size):
    with pytest.raises(CodecError, match="32 bytes"):
        on_main.resume_topup(bytes(size), Failed(message="no"))
