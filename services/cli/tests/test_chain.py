# SPDX-License-Identifier: MIT
"""What the commands read out of a transaction that they sent: only what the contract logged and did not undo."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlayer_cli.chain import _failure_of, _value_of, requested_id
from outlayer_cli.errors import CliError
from outlayer_near.errors import NearError
from outlayer_near.sender import TxOutcome

MAIN = "outlayer.test"
SOURCE = {"WasmUrl": {"url": "http://w", "hash": "ab", "build_target": None}}
SUCCESS, FAILURE = {"SuccessValue": ""}, {"Failure": {}}


def line(name: str, data: Any) -> str:
    return "EVENT_JSON:" + json.dumps(
        {"standard": "near-outlayer", "version": "1.0.0", "event": name, "data": data}
    )


def requested(request_id: int) -> str:
    request = {
        "request_id": request_id,
        "sender_id": "alice.test",
        "predecessor_id": "bob.test",
        "code_source": SOURCE,
        "input_data": "",
        "payment": "1000",
    }
    return line(
        "execution_requested", [{"request_data": json.dumps(request), "data_id": [1] * 32, "timestamp": 5}]
    )


def completed(error: str) -> str:
    data = {
        "sender_id": "bob.test",
        "code_source": SOURCE,
        "resources_used": {"instructions": 5, "time_ms": 6, "compile_time_ms": None},
        "success": False,
        "error_message": error,
        "payment_charged": "1",
        "payment_refunded": "2",
        "timestamp": 7,
    }
    return line("execution_completed", [data])


def outcome_of(*receipts: tuple[str, Any, str], value: str = "") -> TxOutcome:
    """A finished transaction with these receipts: executor, status, log line."""
    items = [
        {"outcome": {"executor_id": executor, "status": status, "logs": [log], "gas_burnt": 1}}
        for executor, status, log in receipts
    ]
    return TxOutcome.from_rpc(
        {
            "status": {"SuccessValue": value},
            "transaction": {"hash": "tx", "signer_id": "alice.test"},
            "transaction_outcome": {"outcome": {"logs": [], "gas_burnt": 1}},
            "receipts_outcome": items,
        }
    )


def test_events_count_when_the_contract_logged_them_and_did_not_fail() -> None:
    outcome = outcome_of(
        ("mallory.test", SUCCESS, requested(1)),
        (MAIN, FAILURE, requested(2)),
        (MAIN, "Unknown", requested(3)),
        (MAIN, SUCCESS, requested(4)),
        ("mallory.test", SUCCESS, completed("forged")),
        (MAIN, SUCCESS, completed("real")),
    )
    assert requested_id(outcome, MAIN) == 4
    assert _failure_of(outcome, MAIN) == "real"


def test_without_an_event_there_is_neither() -> None:
    outcome = outcome_of((MAIN, SUCCESS, "a log line"))
    assert (requested_id(outcome, MAIN), _failure_of(outcome, MAIN)) == (None, None)


@pytest.mark.parametrize("value", ["//8=", "ew=="])
def test_a_value_that_is_not_json_is_an_error(value: str) -> None:
    with pytest.raises(CliError, match="something else than JSON"):
        _value_of(outcome_of(value=value))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@given(log=JSON | JSON.map(lambda data: line("execution_requested", data)), status=JSON | st.just(SUCCESS))
def test_any_log_of_a_receipt_is_read_or_an_error_of_the_package(log: Any, status: Any) -> None:
    outcome = outcome_of((MAIN, status, log))
    try:
        assert requested_id(outcome, MAIN) is None
    except NearError as error:
        assert str(error)
