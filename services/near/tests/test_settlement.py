# SPDX-License-Identifier: MIT
"""How a request ended, out of its transaction: only the receipt counts that is its callback and succeeded."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlayer_near.errors import EventError
from outlayer_near.events import (
    RequestEvent,
    Settlement,
    charge_of,
    requests_of_transaction,
    settlement_of,
)

CONTRACT = "outlayer.test"
KEY = "ed25519:11111111111111111111111111111111"
LEAF, OTHER_LEAF = "ab" * 32, "cd" * 32
SOURCE = {"WasmUrl": {"url": "http://w", "hash": "ab", "build_target": None}}


def event(name: str, data: dict[str, Any]) -> str:
    value = {"standard": "near-outlayer", "version": "1.0.0", "event": name, "data": [data]}
    return "EVENT_JSON:" + json.dumps(value)


def requested(request_id: int) -> str:
    request = {
        "request_id": request_id,
        "sender_id": "alice.test",
        "predecessor_id": "bob.test",
        "code_source": SOURCE,
        "input_data": "",
        "payment": "1000",
    }
    data = {"request_data": json.dumps(request), "data_id": [request_id] * 32, "timestamp": 5}
    return event("execution_requested", data)


def completed(leaf: Any = LEAF, *, success: bool = True) -> str:
    data = {
        "sender_id": "bob.test",
        "code_source": SOURCE,
        "resources_used": {"instructions": 5, "time_ms": 6, "compile_time_ms": None},
        "success": success,
        "payment_charged": "1",
        "payment_refunded": "2",
        "timestamp": 7,
        "record_sha256": leaf,
    }
    return event("execution_completed", {name: item for name, item in data.items() if item is not None})


def receipt(
    name: str,
    predecessor: str,
    *logs: str,
    method: str = "request_execution",
    args: Any = None,
    made: tuple[str, ...] = (),
    status: Any = None,
    receiver: str = CONTRACT,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A receipt and its outcome, in the block ``block-<name>``."""
    encoded = base64.b64encode(json.dumps(args or {}).encode()).decode()
    call = {"FunctionCall": {"method_name": method, "args": encoded, "gas": 1, "deposit": "0"}}
    view = {
        "receipt_id": name,
        "predecessor_id": predecessor,
        "receiver_id": receiver,
        "receipt": {"Action": {"signer_id": "alice.test", "signer_public_key": KEY, "actions": [call]}},
    }
    outcome = {
        "logs": list(logs),
        "receipt_ids": list(made),
        "gas_burnt": 1,
        "executor_id": receiver,
        "status": {"SuccessValue": "bnVsbA=="} if status is None else status,
    }
    return view, {"id": name, "block_hash": f"block-{name}", "outcome": outcome}


def callback(name: str, request_id: int, *logs: str, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    args = {"request_id": request_id}
    return receipt(name, CONTRACT, *logs, method="on_execution_response", args=args, **more)


def status_of(*receipts: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    return {
        "transaction": {"hash": "tx"},
        "receipts": [view for view, _ in receipts],
        "receipts_outcome": [outcome for _, outcome in receipts],
    }


ASK = receipt("ask", "bob.test", requested(7), made=("back",), status={"SuccessReceiptId": "back"})
GOOD = status_of(ASK, callback("back", 7, completed(), status={"SuccessValue": "Ng=="}))


def the_request(status: Any, request_id: int = 7) -> RequestEvent:
    (found,) = (
        item for item in requests_of_transaction(status, CONTRACT) if item.request.request_id == request_id
    )
    return found


@pytest.mark.parametrize("success", [True, False])
@pytest.mark.parametrize("leaf", [LEAF, None])
def test_the_settlement_is_what_the_callbacks_event_says(success: bool, leaf: str | None) -> None:
    status = status_of(ASK, callback("back", 7, completed(leaf, success=success)))
    assert settlement_of(status, CONTRACT, the_request(status)) == Settlement(
        receipt_id="back",
        block_hash="block-back",
        record_sha256=leaf,
        success=success,
        value=b"null",
        charged=1,
        refunded=2,
    )


def test_the_value_is_what_the_callback_returned() -> None:
    found = settlement_of(GOOD, CONTRACT, the_request(GOOD))
    assert found is not None
    assert found.value == b"6"


def test_a_request_that_waits_has_no_settlement() -> None:
    status = status_of(ASK)
    assert settlement_of(status, CONTRACT, the_request(status)) is None


def test_a_timeout_settles_without_an_event() -> None:
    status = status_of(ASK, callback("back", 7))
    found = settlement_of(status, CONTRACT, the_request(status))
    assert found is not None
    assert (found.success, found.record_sha256, found.charged, found.refunded) == (None, None, None, None)


FAILED = {"Failure": {"ActionError": {"index": 0, "kind": {}}}}


@pytest.mark.parametrize(
    "impostor",
    [
        pytest.param(callback("back", 7, completed(), status=FAILED), id="failed, though its logs remain"),
        pytest.param(callback("back", 7, completed(), status="Unknown"), id="not executed yet"),
        pytest.param(callback("back", 8, completed()), id="the callback of another request"),
        pytest.param(callback("back", 7, completed(), receiver="other.test"), id="another contract's"),
        pytest.param(callback("elsewhere", 7, completed()), id="not made by the requesting receipt"),
        pytest.param(
            receipt("back", CONTRACT, completed(), method="other", args={"request_id": 7}),
            id="another method",
        ),
        pytest.param(
            receipt("back", "eve.test", completed(), method="on_execution_response", args={"request_id": 7}),
            id="called by another account",
        ),
    ],
)
def test_what_is_not_the_callback_of_the_request_settles_nothing(impostor: Any) -> None:
    status = status_of(ASK, impostor)
    assert settlement_of(status, CONTRACT, the_request(status)) is None


def test_an_outcome_of_another_executor_settles_nothing() -> None:
    view, outcome = callback("back", 7, completed())
    outcome["outcome"]["executor_id"] = "other.test"
    status = status_of(ASK, (view, outcome))
    assert settlement_of(status, CONTRACT, the_request(status)) is None


def test_an_event_counts_only_when_the_contract_logged_it() -> None:
    ask = receipt("ask", "bob.test", requested(7), made=("evil", "back"))
    evil = callback("evil", 7, completed(OTHER_LEAF), receiver="eve.test")
    status = status_of(ask, evil, callback("back", 7, completed()))
    found = settlement_of(status, CONTRACT, the_request(status))
    assert found is not None
    assert (found.receipt_id, found.record_sha256) == ("back", LEAF)


@pytest.mark.parametrize("first", ["a", "b"])
def test_two_requests_of_one_receipt_have_a_settlement_each(first: str) -> None:
    made = ("a", "b") if first == "a" else ("b", "a")
    ask = receipt("ask", "bob.test", requested(7), requested(8), made=made)
    answers = [callback("a", 7, completed(LEAF)), callback("b", 8, completed(OTHER_LEAF, success=False))]
    status = status_of(ask, *(answers if first == "a" else reversed(answers)))
    seven, eight = (settlement_of(status, CONTRACT, the_request(status, number)) for number in (7, 8))
    assert seven is not None
    assert eight is not None
    assert (seven.receipt_id, seven.record_sha256, seven.success) == ("a", LEAF, True)
    assert (eight.receipt_id, eight.record_sha256, eight.success) == ("b", OTHER_LEAF, False)


def test_a_request_that_failed_after_it_was_logged_is_none() -> None:
    status = status_of(receipt("ask", "bob.test", requested(7), status=FAILED))
    assert not list(requests_of_transaction(status, CONTRACT))


@pytest.mark.parametrize("leaf", ["", "AB" * 32, "ab" * 31, "ab" * 32 + "\n", 5, ["ab" * 32], {}])
def test_a_leaf_of_another_form_is_an_error_not_a_leaf(leaf: Any) -> None:
    status = status_of(ASK, callback("back", 7, completed(leaf)))
    with pytest.raises(EventError, match="record_sha256"):
        settlement_of(status, CONTRACT, the_request(status))


# -- what was charged ------------------------------------------------------------------------------------


def charge_line(amount: str = "123") -> str:
    return f'[[yNEAR charged: "{amount}"]]'


def answer(name: str, request_id: int, *logs: str, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The operator's call that settles a request."""
    args = {"request_id": request_id, "response": {}}
    return receipt(name, "worker.test", *logs, **{"method": "resolve_execution", "args": args, **more})


@pytest.mark.parametrize(
    "where",
    [
        pytest.param(status_of(ASK, callback("back", 7, charge_line())), id="the request's transaction"),
        pytest.param(status_of(answer("answer", 7, charge_line())), id="the operator's transaction"),
        pytest.param(
            status_of(answer("a", 7, charge_line(), method="submit_execution_output_and_resolve")),
            id="a large answer",
        ),
        pytest.param(status_of(answer("a", 7, "other", charge_line())), id="among other lines"),
        pytest.param(
            status_of(callback("a", 7, charge_line("9"), status=FAILED), callback("b", 7, charge_line())),
            id="after a failed receipt with a line of its own",
        ),
        pytest.param(
            status_of(callback("a", 8, charge_line("9")), callback("b", 7, charge_line())),
            id="after another request's",
        ),
    ],
)
def test_the_charge_is_read_in_either_transaction(where: Any) -> None:
    assert charge_of(where, CONTRACT, 7) == 123


@pytest.mark.parametrize("number", [0, 2**64 - 1])
def test_the_charge_of_the_first_and_of_the_last_request_is_found(number: int) -> None:
    assert charge_of(status_of(callback("back", number, charge_line())), CONTRACT, number) == 123


@pytest.mark.parametrize(
    "impostor",
    [
        pytest.param(callback("a", 7, charge_line(), status=FAILED), id="failed, though its logs remain"),
        pytest.param(answer("a", 7, charge_line(), status=FAILED), id="a failed answer"),
        pytest.param(callback("a", 8, charge_line()), id="the callback of another request"),
        pytest.param(answer("a", 8, charge_line()), id="another request's answer"),
        pytest.param(callback("a", 7, charge_line(), receiver="eve.test"), id="another contract's"),
        pytest.param(answer("a", 7, charge_line(), receiver="eve.test"), id="another contract's answer"),
        pytest.param(answer("a", 7, charge_line(), method="say"), id="another method"),
        pytest.param(
            receipt("a", "eve.test", charge_line(), method="on_execution_response", args={"request_id": 7}),
            id="a callback that somebody else made",
        ),
        pytest.param(callback("a", 7, "x " + charge_line()), id="in the middle of a line"),
        pytest.param(callback("a", 7, charge_line("-5")), id="not a number"),
        pytest.param(callback("a", 7, charge_line("٣")), id="digits that are not ASCII"),
        pytest.param(callback("a", 7, charge_line("1" * 40)), id="longer than any amount"),
        pytest.param(callback("a", 7), id="no line"),
    ],
)
def test_what_is_not_the_request_own_charge_is_none(impostor: Any) -> None:
    assert charge_of(status_of(ASK, impostor), CONTRACT, 7) is None


# -- any answer ------------------------------------------------------------------------------------------


def changed(value: Any) -> Iterator[Any]:
    """The value with each part, at any depth, replaced or removed."""
    yield from (None, 5, True, "text", [], {}, [None], {"Action": None}, "é")
    if isinstance(value, dict):
        for key in value:
            yield {other: item for other, item in value.items() if other != key}
            for item in changed(value[key]):
                yield {**value, key: item}
    elif isinstance(value, list):
        for index in range(len(value)):
            for item in changed(value[index]):
                yield [*value[:index], item, *value[index + 1 :]]


def test_a_transaction_with_any_part_missing_or_changed_is_read_or_an_error_of_ours() -> None:
    request, good = the_request(GOOD), settlement_of(GOOD, CONTRACT, the_request(GOOD))
    refused = 0
    for status in changed(copy.deepcopy(GOOD)):
        try:
            list(requests_of_transaction(status, CONTRACT))
            found = settlement_of(status, CONTRACT, request)
            charge_of(status, CONTRACT, 7)
        except EventError as error:
            assert error.hint or "event" in str(error)
            refused += 1
            continue
        assert found is None or good is None or found.record_sha256 in (good.record_sha256, None)
    assert refused > 100


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["receipts", "receipts_outcome", "id", "outcome", "receipt_id", "status"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_any_json_is_a_transaction_or_an_error_of_ours(value: Any) -> None:
    for read in (
        lambda: list(requests_of_transaction(value, CONTRACT)),
        lambda: settlement_of(value, CONTRACT, the_request(GOOD)),
        lambda: charge_of(value, CONTRACT, 7),
    ):
        try:
            assert not read()
        except EventError:
            continue


@given(
    st.binary(max_size=40)
    | st.text(max_size=40).map(str.encode)
    | json_values.map(lambda v: json.dumps(v).encode())
)
def test_any_arguments_of_a_callback_are_read_or_an_error_of_ours(args: bytes) -> None:
    status = copy.deepcopy(GOOD)
    call = status["receipts"][1]["receipt"]["Action"]["actions"][0]["FunctionCall"]
    call["args"] = base64.b64encode(args).decode()
    try:
        assert settlement_of(status, CONTRACT, the_request(status)) is None
    except EventError:
        return


def test_deeply_nested_arguments_of_a_callback_are_an_error_of_ours() -> None:
    status = copy.deepcopy(GOOD)
    call = status["receipts"][1]["receipt"]["Action"]["actions"][0]["FunctionCall"]
    call["args"] = base64.b64encode(b"[" * 200_000).decode()
    with pytest.raises(EventError):
        settlement_of(status, CONTRACT, the_request(status))
