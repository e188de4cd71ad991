# SPDX-License-Identifier: MIT
"""What the commands read out of a transaction that they sent: only what the contract logged and did not undo."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlayer_cli.chain import (
    _value_of,
    deposit_for,
    failure_of,
    has_succeeded,
    money_of,
    settlement_in,
)
from outlayer_cli.errors import CliError
from outlayer_near.errors import NearError
from outlayer_near.events import Settlement
from outlayer_near.models import STORAGE_BYTE_PRICE, SizeLimits
from outlayer_near.sender import TxOutcome

MAIN = "outlayer.test"
KEY = "ed25519:11111111111111111111111111111111"
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


def receipt_of(
    name: str,
    executor: str,
    status: Any,
    *logs: Any,
    callback_of: int | None = None,
    made: tuple[str, ...] = (),
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A receipt of the contract, by default a request, and its outcome."""
    method = "request_execution" if callback_of is None else "on_execution_response"
    args = base64.b64encode(json.dumps({"request_id": callback_of}).encode()).decode()
    call = {"FunctionCall": {"method_name": method, "args": args, "gas": 1, "deposit": "0"}}
    view = {
        "receipt_id": name,
        "predecessor_id": "bob.test" if callback_of is None else executor,
        "receiver_id": executor,
        "receipt": {"Action": {"signer_id": "alice.test", "signer_public_key": KEY, "actions": [call]}},
    }
    outcome = {"logs": list(logs), "receipt_ids": list(made), "gas_burnt": 1, "executor_id": executor}
    return view, {"id": name, "block_hash": f"b-{name}", "outcome": {**outcome, "status": status}}


def status_of(*receipts: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    return {
        "transaction": {"hash": "tx"},
        "receipts": [view for view, _ in receipts],
        "receipts_outcome": [outcome for _, outcome in receipts],
    }


def outcome_with(value: str) -> TxOutcome:
    return TxOutcome("tx", "alice.test", True, base64.b64decode(value), None, (), 1, {})


def test_only_what_the_contract_logged_of_this_request_and_did_not_undo_counts() -> None:
    status = status_of(
        receipt_of("a", "mallory.test", SUCCESS, requested(1)),
        receipt_of("b", MAIN, FAILURE, requested(2), made=("e",)),
        receipt_of("c", MAIN, "Unknown", requested(3)),
        receipt_of("d", MAIN, SUCCESS, requested(4), made=("f", "g", "h", "i")),
        receipt_of("e", MAIN, SUCCESS, completed("of another request"), callback_of=2),
        receipt_of("f", MAIN, FAILURE, completed("failed"), callback_of=4),
        receipt_of("g", "mallory.test", SUCCESS, completed("forged"), callback_of=4),
        receipt_of("h", MAIN, SUCCESS, completed("of another request"), callback_of=5),
        receipt_of("i", MAIN, SUCCESS, completed("real"), callback_of=4),
    )
    request, settled = settlement_in(status, MAIN)
    assert request is not None
    assert request.request.request_id == 4
    assert failure_of(settled) == "real"
    assert money_of(status, MAIN, request, settled) == ("1", "2")


def test_of_a_request_that_timed_out_all_but_the_base_fee_came_back() -> None:
    asked = receipt_of("a", MAIN, SUCCESS, requested(4), made=("b", "c"))
    lines = '[[yNEAR charged: "10"]]', '[[yNEAR charged: "7"]]'
    failed = receipt_of("b", MAIN, FAILURE, lines[0], callback_of=4)
    status = status_of(asked, failed, receipt_of("c", MAIN, SUCCESS, lines[1], callback_of=4))
    request, settled = settlement_in(status, MAIN)
    assert money_of(status, MAIN, request, settled) == ("7", "993")
    assert "nobody answered" in (failure_of(settled) or "")


@pytest.mark.parametrize(
    ("success", "value", "succeeded"),
    [(True, None, True), (False, {"n": 1}, False), (None, {"n": 1}, True), (None, None, False)],
)
def test_the_contracts_word_decides_and_without_it_the_value(
    success: bool | None, value: Any, succeeded: bool
) -> None:
    settled = Settlement("r", "b", None, success, b"")
    assert has_succeeded(settled, value) is succeeded
    assert has_succeeded(None, value) is (value is not None)


def test_without_an_event_nothing_is_said_to_have_been_paid() -> None:
    status = status_of(receipt_of("a", MAIN, SUCCESS, "a log line"))
    request, settled = settlement_in(status, MAIN)
    assert (request, failure_of(settled)) == (None, None)
    assert money_of(status, MAIN, request, settled) == (None, None)


LIMITS = SizeLimits(
    max_input_bytes=10**6,
    max_output_bytes=262_144,
    free_output_bytes=1_024,
    output_byte_price=2 * 10**16,
    input_byte_price=4 * 10**15,
)


@given(
    compute=st.integers(0, 10**26),
    base_fee=st.integers(0, 10**24),
    input_bytes=st.integers(0, 10**6),
    output_bytes=st.integers(0, 262_144),
    record_bytes=st.integers(300, 4_000),
)
def test_what_is_attached_covers_the_run_the_storage_and_any_answer(
    compute: int, base_fee: int, input_bytes: int, output_bytes: int, record_bytes: int
) -> None:
    deposit = deposit_for(compute, base_fee, LIMITS, input_bytes)
    sizes = input_bytes * LIMITS.input_byte_price + LIMITS.output_price(output_bytes)
    assert deposit >= compute + sizes
    assert deposit >= base_fee + sizes
    assert deposit >= (record_bytes + input_bytes) * STORAGE_BYTE_PRICE


def test_a_contract_without_size_limits_is_paid_for_the_run_and_each_byte_of_the_input() -> None:
    assert deposit_for(10**21, 10**21, None, 20_000) >= 10**21 + 20_000 * STORAGE_BYTE_PRICE


@pytest.mark.parametrize("value", ["//8=", "ew=="])
def test_a_value_that_is_not_json_is_an_error(value: str) -> None:
    with pytest.raises(CliError, match="something else than JSON"):
        _value_of(outcome_with(value))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@given(log=JSON | JSON.map(lambda data: line("execution_requested", data)), status=JSON | st.just(SUCCESS))
def test_any_log_of_a_receipt_is_read_or_an_error_of_the_package(log: Any, status: Any) -> None:
    try:
        assert settlement_in(status_of(receipt_of("a", MAIN, status, log)), MAIN) == (None, None)
    except NearError as error:
        assert str(error)
