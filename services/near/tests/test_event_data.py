# SPDX-License-Identifier: MIT
"""Data of the contracts' events, in the exact form of the ABI (outlayer.md §1.7)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlayer_near.errors import ModelError
from outlayer_near.models import (
    DAO_EVENTS,
    MAIN_EVENTS,
    REGISTER_EVENTS,
    DeletePaymentKey,
    ExecutionCompleted,
    ExecutionRequested,
    ProjectStorageCleanup,
    TopUpPaymentKey,
    read_event,
)

REQUEST_DATA = (
    '{"request_id":7,"sender_id":"alice.near","predecessor_id":"bob.near",'
    '"code_source":{"WasmUrl":{"url":"https://x/a.wasm","hash":"'
    + "ab"
    * 32
    + '","build_target":"wasm32-wasip1"}},"resource_limits":{"max_instructions":1000000000,"max_memory_mb":128,'
    '"max_execution_seconds":60},"input_data":"{\\"city\\":\\"Tokyo\\"}","input_data_in_state":false,'
    '"secrets_ref":{"profile":"default","account_id":"alice.near"},"response_format":"Json",'
    '"payment":"100000000000000000000000","attached_usd":"0","timestamp":1769000000000000000,'
    '"compile_only":false,"force_rebuild":false,"store_on_fastfs":false,'
    '"project_uuid":"p0000000000000001","project_id":"alice.near/weather"}'
)
SYSTEM_EVENTS = [
    {
        "TopUpPaymentKey": {
            "data_id": [0] * 32,
            "owner": "bob.near",
            "nonce": 1,
            "amount": "0",
            "encrypted_data": "AQ==",
        }
    },
    {"DeletePaymentKey": {"data_id": [255] * 32, "owner": "bob.near", "nonce": 1}},
    {
        "ProjectStorageCleanup": {
            "project_id": "a.near/b",
            "project_uuid": "p0000000000000001",
            "timestamp": 1769000000000000000,
        }
    },
]


def test_a_requested_event_is_read_with_the_request_inside_it():
    data = [{"request_data": REQUEST_DATA, "data_id": list(range(32)), "timestamp": 1769000000000000000}]
    (item,) = read_event(MAIN_EVENTS, "execution_requested", data)
    assert isinstance(item, ExecutionRequested)
    assert item.data_id == bytes(range(32))
    assert (item.request_data.project_id, item.request_data.payment) == ("alice.near/weather", 10**23)
    assert json.loads(item.request_data.model_dump_json(by_alias=True)) == json.loads(REQUEST_DATA)
    assert [item.to_json() | {"request_data": REQUEST_DATA}] == data
    assert ExecutionRequested.read(item.to_json()) == item


def test_a_completed_event_is_read():
    value = {
        "sender_id": "bob.near",
        "code_source": {"GitHub": {"repo": "r", "commit": "c", "build_target": None}},
        "resources_used": {"instructions": 5, "time_ms": 6, "compile_time_ms": None},
        "success": False,
        "error_message": "guest trapped",
        "payment_charged": "1000",
        "payment_refunded": "2000",
        "compilation_note": None,
        "timestamp": 1769000000000000000,
        "record_sha256": "ab" * 32,
    }
    (item,) = read_event(MAIN_EVENTS, "execution_completed", [value])
    assert isinstance(item, ExecutionCompleted)
    assert item.to_json() == value
    optional = {key: part for key, part in value.items() if part is not None and key != "error_message"}
    (brief,) = read_event(MAIN_EVENTS, "execution_completed", [optional])
    assert brief.error_message is None
    del value["record_sha256"]
    (older,) = read_event(MAIN_EVENTS, "execution_completed", [value])
    assert older.record_sha256 is None


@pytest.mark.parametrize("value", SYSTEM_EVENTS, ids=lambda value: next(iter(value)))
def test_system_events_have_the_json_of_the_abi(value):
    (item,) = read_event(MAIN_EVENTS, "system_event", [value])
    assert item.to_json() == value
    assert isinstance(item, TopUpPaymentKey | DeletePaymentKey | ProjectStorageCleanup)


def test_members_that_a_later_contract_adds_to_an_event_do_no_harm():
    ((tag, body),) = SYSTEM_EVENTS[1].items()
    (item,) = read_event(MAIN_EVENTS, "system_event", [{tag: {**body, "added_later": 1}}])
    assert item == read_event(MAIN_EVENTS, "system_event", [SYSTEM_EVENTS[1]])[0]


def test_an_event_of_another_name_is_not_ours():
    assert read_event(MAIN_EVENTS, "ft_transfer", [{"anything": 1}]) is None


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("execution_requested", {}),
        ("execution_requested", [{"request_data": {}, "data_id": [0] * 32, "timestamp": 0}]),
        ("execution_requested", [{"request_data": "{}", "data_id": [0] * 32, "timestamp": 0}]),
        ("execution_requested", [{"request_data": REQUEST_DATA, "data_id": [0] * 31, "timestamp": 0}]),
        ("execution_requested", [{"request_data": REQUEST_DATA, "data_id": [256] * 32, "timestamp": 0}]),
        ("execution_completed", [{}]),
        ("system_event", [{"Other": {}}]),
        ("system_event", [{"DeletePaymentKey": {"data_id": "00", "owner": "a", "nonce": 1}}]),
        ("system_event", [{"DeletePaymentKey": {"data_id": "00" * 32, "owner": "a", "nonce": 2**32}}]),
    ],
)
def test_a_malformed_event_is_refused_by_name_with_a_hint(name, data):
    with pytest.raises(ModelError, match=name) as refused:
        read_event(MAIN_EVENTS, name, data)
    assert refused.value.hint


SET = {
    "id": 1,
    "name": None,
    "measurements": dict.fromkeys(("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"), "ab" * 48),
    "not_before": None,
    "not_after": 1769000000,
    "added_at": 1768000000,
    "role": "compiler",
    "platform": {
        "statuses": ["UpToDate", "SWHardeningNeeded"],
        "advisory_prefix_informational": ["INTEL-DOC-"],
        "min_tcb_evaluation_data_number": 17,
    },
    "policy_version": 3,
}
COLLATERAL = {
    "fmspc": "20a06f000000",
    "sha256": "ab" * 32,
    "tcb_evaluation_data_number": 17,
    "issue_date": 1768000000,
    "next_update": 1770000000,
    "stored_at": 1768000100,
}
SETS_END = {"ids": [1, 4], "not_after": 1769000000}
POLICY = {
    "version": 3,
    "sha256": "ab" * 32,
    "sets_count": 2,
    "grace_seconds": 604800,
    "activates_at": 1768086400,
}
KEYSTORE = {
    "public_key": "ed25519:k",
    "measurement_set": 1,
    "proposal_id": 4,
    "approved_at": 1769000000,
    "expires_at": 1770000000,
    "challenge": "ab" * 32,
}
KEY = {
    "public_key": "ed25519:k",
    "role": "worker",
    "measurement_set": 1,
    "tcb_status": "UpToDate",
    "fmspc": "20a06f000000",
    "expires_at": 1770000000,
    "renewed": False,
}
REGISTER_DATA = {
    "worker_key_reverified": {**KEY, "renewed": True},
    "policy_proposed": POLICY,
    "policy_cancelled": POLICY,
    "policy_activated": {
        "version": 3,
        "sha256": "ab" * 32,
        "sets": [1, 2],
        "proposed_at": 1768000000,
        "activated_at": 1768086400,
        "revoked_at": None,
        "left_out": 1,
    },
    "policy_revoked": {"version": 3},
    "policy_delay_raised": {"policy_delay_seconds": 86400},
    "worker_key_registered": KEY,
    "worker_key_rejected": {"public_key": "ed25519:k", "reason": "tcb_status", "detail": "OutOfDate"},
    "worker_keys_removed": {"public_keys": ["ed25519:k"], "reason": "expired"},
    "measurement_set_added": SET,
    "measurement_set_changed": SETS_END,
    "measurement_sets_ended": {"role": "keystore", "last_id": 9, "except": [3], "not_after": 1769000000},
    "measurement_sets_pruned": {**SET, "role": "keystore", "policy_version": None},
    "collateral_updated": COLLATERAL,
    "ownership_transferred": {"old_owner": "a.near", "new_owner": "b.near"},
}


DAO_DATA = {
    "proposal_created": {
        "id": 4,
        "action": {"kind": "update_collateral", "collateral": "sha256:" + "ab" * 32},
        "submitter": "a.near",
        "expires_at": 1769000000,
    },
    "keystore_rejected": {"public_key": "ed25519:k", "reason": "tcb_status", "detail": "OutOfDate"},
    "vote_cast": {
        "proposal_id": 4,
        "member": "a.near",
        "approve": True,
        "votes_for": 1,
        "votes_against": 0,
        "threshold": 2,
    },
    "proposal_decided": {"proposal_id": 4, "status": "Failed", "failure": "Not a DAO member"},
    "proposals_pruned": {"expired": [4, 6], "forgotten": [1]},
    "keystore_approved": KEYSTORE,
    "keystore_reverified": KEYSTORE,
    "keystore_keys_revoked": {"public_keys": ["ed25519:k"], "reason": "set_ended", "remaining": 20},
    "key_requested": {"public_key": "ed25519:k", "derivation_path": "master", "domain_id": 2},
    "measurement_set_added": {**SET, "role": "keystore", "policy_version": None},
    "measurement_set_changed": SETS_END,
    "measurement_sets_ended": {"role": "keystore", "last_id": 9, "except": [3], "not_after": 1769000000},
    "measurement_sets_pruned": {**SET, "role": "keystore", "policy_version": None},
    "collateral_updated": COLLATERAL,
    "membership_changed": {"added": "b.near", "removed": None, "members_count": 3, "threshold": 2},
    "handed_over": {"owner_id": "o.near"},
}
ADMISSION = [(REGISTER_EVENTS, REGISTER_DATA), (DAO_EVENTS, DAO_DATA)]


def test_every_event_of_the_register_contract_and_the_dao_is_shown_here():
    assert [set(kinds) for kinds, _ in ADMISSION] == [set(data) for _, data in ADMISSION]


@pytest.mark.parametrize(
    ("kinds", "name", "value"),
    [pytest.param(kinds, name, value, id=name) for kinds, data in ADMISSION for name, value in data.items()],
)
def test_events_of_the_register_contract_and_the_dao_have_their_json(kinds, name, value):
    (item,) = read_event(kinds, name, [value])
    assert item.to_json() == value


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["data_id", "TopUpPaymentKey", "request_data", "success"]), inner)
    ),
    max_leaves=6,
)


ALL_EVENTS = {**MAIN_EVENTS, **REGISTER_EVENTS, **DAO_EVENTS}


@given(st.sampled_from(sorted(ALL_EVENTS)), json_values)
def test_any_json_is_an_event_or_refused(name, data):
    try:
        items = read_event(ALL_EVENTS, name, data)
    except ModelError:
        return
    assert items is not None
    assert read_event(ALL_EVENTS, name, [item.to_json() for item in items]) == items
