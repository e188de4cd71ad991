# SPDX-License-Identifier: MIT
"""Receipts of HTTPS calls: what the client sent stays known, and a record is compared with it."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outlayer_attestation.checks import Check, Outcome
from outlayer_attestation.record import sha256_hex
from outlayer_cli import receipts
from outlayer_cli.commands.calls import encode_body, encode_input, parse_input
from outlayer_cli.errors import EXIT_FAILED, EXIT_USAGE, CliError, UsageError
from outlayer_cli.main import run
from outlayer_cli.payment_keys import PaymentKey
from outlayer_cli.receipts import (
    CLOCK_SKEW_SECONDS,
    Receipt,
    ReceiptFolder,
    answered,
    compare_receipt,
    compare_stated,
    load,
    new_receipt,
    receipt_folder,
    without_receipt,
)
from outlayer_coordinator import call_request

from .conftest import AnsweringServer, Reply

CALL_ID = "0b5e6f1e-6c9f-4c39-9a0e-6a6b1a3b1d11"
OTHER_ID = "1b5e6f1e-6c9f-4c39-9a0e-6a6b1a3b1d11"
SENT, RECEIVED = 1_800_000_000, 1_800_000_002
KEY = PaymentKey("alice.test", 1, "5ec7e7" + "0" * 58)

SENT_RECEIPT = new_receipt(
    project="alice.test/echo",
    version_key="v1",
    limits={"max_memory_mb": 256},
    key=KEY,
    attached_usd=7,
    compute_limit_usd=None,
    input_bytes=b'{"a":1}',
    coordinator="http://127.0.0.1:8080",
    asynchronous=False,
    now=SENT,
)
RECEIPT = answered(SENT_RECEIPT, CALL_ID, "completed", [sha256_hex(b'"out"'), sha256_hex(b"out")], RECEIVED)
RECORD: dict[str, Any] = {
    "call_id": CALL_ID,
    "project_id": "alice.test/echo",
    "version_key": "v1",
    "caller": "alice.test",
    "payment_key_owner": "alice.test",
    "payment_key_nonce": 1,
    "secrets_ref": None,
    "attached_usd": 7,
    "input_sha256": sha256_hex(b'{"a":1}'),
    "output_sha256": sha256_hex(b"out"),
    "success": True,
    "max_instructions": 10_000_000_000,
    "max_memory_mb": 256,
    "max_execution_seconds": 60,
    "anchor_time": SENT - 20,
    "timestamp": SENT + 1,
}


def outcomes(checks: list[Check]) -> dict[str, Outcome]:
    return {check.name.removeprefix("receipt_"): check.outcome for check in checks}


def failing(receipt: Receipt, record: dict[str, Any], *more: Any) -> set[str]:
    return {
        name for name, found in outcomes(compare_receipt(receipt, record, *more)).items() if found != "PASS"
    }


# --- comparing ---


def test_the_record_of_the_call_that_was_made_passes_every_check() -> None:
    assert failing(RECEIPT, RECORD) == set()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"input_sha256": "0" * 64}, "input"),
        ({"project_id": "mallory.test/echo"}, "project"),
        ({"version_key": "v0"}, "version"),
        ({"max_instructions": 1}, "limits"),
        ({"max_memory_mb": 128}, "limits"),
        ({"max_execution_seconds": 180}, "limits"),
        ({"caller": "mallory.test"}, "caller"),
        ({"payment_key_owner": "mallory.test"}, "payment_key"),
        ({"payment_key_nonce": 2}, "payment_key"),
        ({"secrets_ref": "bob.test/default"}, "secrets"),
        ({"attached_usd": 8}, "deposit"),
        ({"attached_usd": None}, "deposit"),
        ({"call_id": OTHER_ID}, "call_id"),
        ({"success": False}, "success"),
        ({"output_sha256": sha256_hex(b"other")}, "output"),
        ({"timestamp": SENT - CLOCK_SKEW_SECONDS - 1}, "time"),
        ({"anchor_time": SENT - CLOCK_SKEW_SECONDS - 1}, "time"),
        ({"timestamp": RECEIVED + CLOCK_SKEW_SECONDS + 1}, "time"),
        ({"anchor_time": RECEIVED + CLOCK_SKEW_SECONDS + 1}, "time"),
        ({"anchor_time": None}, "time"),
    ],
)
def test_each_thing_that_a_coordinator_could_change_fails_by_its_name_with_both_values(
    change: dict[str, Any], name: str
) -> None:
    checks = compare_receipt(RECEIPT, RECORD | change)
    assert {check.name for check in checks if check.outcome is Outcome.FAIL} == {f"receipt_{name}"}
    (failed,) = [check for check in checks if check.outcome is Outcome.FAIL]
    for value in change.values():
        assert str(value) in failed.detail


def test_times_at_the_bounds_pass() -> None:
    for moment in (SENT - CLOCK_SKEW_SECONDS, RECEIVED + CLOCK_SKEW_SECONDS):
        assert failing(RECEIPT, RECORD | {"timestamp": moment, "anchor_time": moment}) == set()


def test_a_missing_member_of_a_record_is_never_a_pass() -> None:
    for name in RECORD:
        record = {key: value for key, value in RECORD.items() if key != name}
        if name != "secrets_ref":
            assert failing(RECEIPT, record), name


def test_a_call_whose_result_was_not_seen_is_not_bounded_above_and_has_no_output_to_compare() -> None:
    pending = answered(SENT_RECEIPT, CALL_ID, "pending", (), RECEIVED)
    checks = compare_receipt(pending, RECORD | {"timestamp": SENT + 10**6})
    assert {check.name for check in checks if check.outcome is not Outcome.PASS} == set()
    assert "receipt_output" not in {check.name for check in checks}
    assert "nothing bounds it above" in next(check for check in checks if check.name == "receipt_time").detail


def test_a_call_whose_answer_was_lost_has_everything_but_its_id() -> None:
    (check,) = [check for check in compare_receipt(SENT_RECEIPT, RECORD) if check.outcome is not Outcome.PASS]
    assert (check.name, check.outcome, check.reason) == ("receipt_call_id", Outcome.UNPROVEN, "no_answer")


def test_a_version_that_was_not_asked_for_is_compared_with_the_one_active_on_chain() -> None:
    asked_none = replace(RECEIPT, version_key=None)
    assert outcomes(compare_receipt(asked_none, RECORD, "v1"))["version"] is Outcome.PASS
    assert outcomes(compare_receipt(asked_none, RECORD, "v2"))["version"] is Outcome.UNPROVEN
    assert outcomes(compare_receipt(asked_none, RECORD))["version"] is Outcome.STATED
    assert outcomes(compare_receipt(RECEIPT, RECORD, "v2"))["version"] is Outcome.PASS


def test_a_failed_call_delivers_nothing() -> None:
    failed = answered(SENT_RECEIPT, CALL_ID, "failed", (), RECEIVED)
    record = RECORD | {"success": False, "output_sha256": sha256_hex(b"")}
    assert failing(failed, record) == set()
    assert failing(failed, RECORD) == {"success", "output"}


def test_default_limits_are_those_of_the_api() -> None:
    defaults = call_request.ResourceLimits()
    assert {name: getattr(defaults, name) for name in receipts.LIMITS} == receipts.DEFAULT_LIMITS


def test_without_a_receipt_each_thing_that_could_have_been_changed_is_named_and_undecided() -> None:
    checks = without_receipt()
    assert {check.outcome for check in checks} == {Outcome.UNPROVEN}
    names = {check.name for check in checks}
    assert {"receipt_input", "receipt_project", "receipt_limits", "receipt_caller"} <= names
    compared = {check.name for check in compare_receipt(RECEIPT, RECORD)}
    assert names <= compared
    # the other three are of the answer that the client got
    assert compared - names == {"receipt_call_id", "receipt_success", "receipt_output"}
    assert all("outlayer call keeps" in check.detail for check in checks)


def test_a_receipt_inside_of_a_bundle_is_stated_and_a_damaged_one_fails() -> None:
    value = RECEIPT.to_json()
    assert {check.outcome for check in compare_stated(value, RECORD)} == {Outcome.STATED}
    changed = outcomes(compare_stated(value, RECORD | {"project_id": "mallory.test/echo"}))
    assert changed["project"] is Outcome.FAIL
    for wrong in (None, 5, value | {"sent_at": "now"}):
        assert outcomes(compare_stated(wrong, RECORD)) == {"format": Outcome.FAIL}


# --- the file ---


def test_a_receipt_reads_back_and_holds_no_secret() -> None:
    for receipt in (SENT_RECEIPT, RECEIPT):
        text = json.dumps(receipt.to_json())
        assert Receipt.from_json(json.loads(text)) == receipt
        assert KEY.secret not in text
        assert receipt.to_json()["format"] == "outlayer/call-receipt/v1"


def test_files_are_for_their_owner_alone_and_found_by_the_calls_id(tmp_path: Path) -> None:
    folder = ReceiptFolder(tmp_path / "receipts")
    begun = folder.begin(SENT_RECEIPT)
    assert folder.unanswered() == [begun]
    assert load(begun) == SENT_RECEIPT
    done = folder.finish(begun, RECEIPT)
    assert folder.find(CALL_ID) == folder.find(CALL_ID.upper()) == RECEIPT
    assert (folder.unanswered(), folder.find(OTHER_ID)) == ([], None)
    assert stat.S_IMODE(done.stat().st_mode) == 0o600


def test_an_answer_with_another_calls_id_does_not_replace_that_calls_receipt(tmp_path: Path) -> None:
    folder = ReceiptFolder(tmp_path)
    folder.finish(folder.begin(SENT_RECEIPT), RECEIPT)
    begun = folder.begin(replace(SENT_RECEIPT, sent_at=SENT + 5))
    with pytest.raises(CliError, match="id of another"):
        folder.finish(begun, replace(RECEIPT, sent_at=SENT + 5))
    assert folder.find(CALL_ID) == RECEIPT
    assert load(begun).sent_at == SENT + 5


@pytest.mark.parametrize("call_id", ["", "..", "../x", CALL_ID + "\n", CALL_ID.replace("-", "/"), "x" * 36])
def test_what_is_no_id_names_no_file(tmp_path: Path, call_id: str) -> None:
    with pytest.raises(UsageError):
        ReceiptFolder(tmp_path).find(call_id)


def test_only_the_newest_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "MOST_RECEIPTS", 3)
    folder = ReceiptFolder(tmp_path)
    for number in range(5):
        begun = folder.begin(replace(SENT_RECEIPT, sent_at=SENT + number))
        os.utime(begun, (number, number))
    assert [load(path).sent_at for path in folder.unanswered()] == [SENT + 2, SENT + 3, SENT + 4]
    for path in folder.unanswered():
        os.utime(path, (2**33, 2**33))  # written when the clock was wrong
    begun = folder.begin(SENT_RECEIPT)
    assert begun in folder.unanswered()
    assert len(folder.unanswered()) == 3


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "receipts").write_text("a file where a folder should be")
    with pytest.raises(CliError) as caught:
        receipt_folder(tmp_path).begin(SENT_RECEIPT)
    assert "--no-receipt" in caught.value.hint


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300)
@given(value=JSON, name=st.sampled_from([*RECEIPT.to_json(), "more"]))
def test_any_json_is_a_receipt_or_a_usage_error(value: Any, name: str) -> None:
    for item in (value, RECEIPT.to_json() | {name: value}):
        try:
            found = Receipt.from_json(item)
        except UsageError as error:
            assert str(error)
            continue
        assert Receipt.from_json(json.loads(json.dumps(found.to_json()))) == found
        assert compare_receipt(found, RECORD)


@given(content=st.binary(max_size=80))
def test_any_file_is_a_receipt_or_a_usage_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / f"receipt-{os.getpid()}.json"
    file.write_bytes(content)
    with pytest.raises(UsageError):
        load(file)


@given(record=st.dictionaries(st.sampled_from(list(RECORD)), JSON))
def test_any_record_is_compared(record: dict[str, Any]) -> None:
    for check in compare_receipt(RECEIPT, record):
        assert isinstance(check.to_json()["detail"], str)


# --- the input ---


@settings(max_examples=300)
@given(value=JSON)
def test_the_hashed_input_is_what_the_coordinator_gives_the_guest(value: Any) -> None:
    try:
        data = encode_input(value)
    except UsageError:
        return  # NaN, infinity, half a surrogate pair
    body = encode_body(data, {"async": False, "version_key": "ü"})
    assert call_request.parse_body(body).input == data


@pytest.mark.parametrize(
    "text", ["NaN", "-Infinity", "1e999", '"\\ud800"', "[" * 100_000, "{", "@", "@/nowhere", "1" * 5000]
)
def test_an_input_that_cannot_be_sent_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        encode_input(parse_input(text))


def test_an_input_file_has_a_bound_and_is_utf_8(tmp_path: Path) -> None:
    file = tmp_path / "input.json"
    file.write_bytes(b'"\xff"')
    with pytest.raises(UsageError, match="UTF-8"):
        parse_input(f"@{file}")
    with file.open("wb") as stream:
        stream.truncate(3 * 2**30)
    with pytest.raises(UsageError, match="longer than"):
        parse_input(f"@{file}")


# --- the commands ---


def answer(server: AnsweringServer, body: dict[str, Any] | bytes, **options: Any) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    server.answer = lambda _: Reply(content, **options)


def completed(output: bytes = b'{"b": 1}\n') -> bytes:
    head = f'{{"call_id":"{CALL_ID}","status":"completed","output":'.encode()
    return head + output + b',"compute_cost":"5","instructions":1,"time_ms":1}'


def call(state: Path, *more: str) -> int:
    return run(["--state", str(state), "call", "alice.test/echo", '{"b": [1, "é"]}', *more])


def test_a_call_leaves_a_receipt_of_what_was_sent_and_got(
    served: Path, server: AnsweringServer, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(server, completed())
    assert call(served, "--max-memory-mb", "64", "--deposit", "3", "--version", "v9") == 0
    found = receipt_folder(served).find(CALL_ID)
    assert found is not None
    assert found.input_sha256 == sha256_hex('{"b":[1,"é"]}'.encode())
    assert found.output_sha256 == (sha256_hex(b'{"b": 1}\n'),)
    assert (found.project_id, found.version_key, found.attached_usd) == ("alice.test/echo", "v9", 3)
    assert found.requested_limits == {
        "max_instructions": None, "max_memory_mb": 64, "max_execution_seconds": None
    }  # fmt: skip
    assert (found.status, found.coordinator, found.asynchronous) == ("completed", server.url, False)
    assert found.sent_at <= (found.received_at or 0)
    sent = call_request.parse_body(server.requests[0].body)
    assert sha256_hex(sent.input) == found.input_sha256
    assert CALL_ID in capsys.readouterr().out


def test_the_receipt_is_there_before_the_request_is_answered(served: Path, server: AnsweringServer) -> None:
    seen: list[Receipt] = []

    def reply(_: Any) -> Reply:
        seen.extend(load(path) for path in receipt_folder(served).unanswered())
        return Reply(completed())

    server.answer = reply
    assert call(served) == 0
    assert [(receipt.status, receipt.call_id) for receipt in seen] == [("sent", None)]
    assert receipt_folder(served).unanswered() == []


def test_a_lost_answer_leaves_the_receipt_and_says_where_it_is(
    served: Path, server: AnsweringServer, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(server, completed()[:-5])
    assert call(served) == EXIT_FAILED
    (left,) = receipt_folder(served).unanswered()
    assert str(left) in capsys.readouterr().err
    assert load(left).status == "sent"


def test_a_refused_call_leaves_no_receipt_and_a_failing_server_does(
    served: Path, server: AnsweringServer
) -> None:
    answer(server, {"error": "no money"}, status=402)
    assert call(served) == EXIT_FAILED
    assert receipt_folder(served).unanswered() == []
    answer(server, {"error": "oops"}, status=502)
    assert call(served) == EXIT_FAILED
    assert len(receipt_folder(served).unanswered()) == 1


def test_a_call_can_be_made_without_a_receipt(served: Path, server: AnsweringServer) -> None:
    answer(server, completed())
    (served / "receipts").write_text("no folder")
    assert call(served) == EXIT_FAILED
    assert server.requests == []  # nothing is sent that leaves no receipt
    assert call(served, "--no-receipt") == 0


def test_an_answer_is_shown_even_when_its_receipt_cannot_be_completed(
    served: Path, server: AnsweringServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    answer(server, completed(b'"paid for"'))
    assert call(served) == 0
    shown = capsys.readouterr()
    assert "paid for" in shown.out
    assert "No space left" in shown.err


def test_a_result_that_comes_later_completes_the_receipt_and_a_second_one_may_not_differ(
    served: Path, server: AnsweringServer, capsys: pytest.CaptureFixture[str]
) -> None:
    def result() -> int:
        return run(["--state", str(served), "result", CALL_ID.upper()])

    answer(server, {"call_id": CALL_ID, "status": "pending", "poll_url": f"/calls/{CALL_ID}"})
    assert call(served, "--async") == 0
    pending = receipt_folder(served).find(CALL_ID)
    assert pending is not None
    assert (pending.status, pending.received_at, pending.asynchronous) == ("pending", None, True)
    answer(server, completed(b"[1]"))
    assert result() == 0
    done = receipt_folder(served).find(CALL_ID)
    assert done is not None
    assert (done.status, done.output_sha256) == ("completed", (sha256_hex(b"[1]"),))
    assert result() == 0
    answer(server, completed(b"[2]"))
    capsys.readouterr()
    assert result() == EXIT_FAILED
    assert "another result" in capsys.readouterr().err
    assert receipt_folder(served).find(CALL_ID) == done


def test_the_id_of_an_earlier_call_in_an_answer_is_an_error(served: Path, server: AnsweringServer) -> None:
    answer(server, completed())
    assert call(served) == 0
    assert call(served) == EXIT_FAILED
    assert len(receipt_folder(served).unanswered()) == 1


def test_a_result_of_what_is_no_id_is_a_usage_error(served: Path, server: AnsweringServer) -> None:
    assert run(["--state", str(served), "result", "../../etc"]) == EXIT_USAGE
    assert server.requests == []


def test_half_a_surrogate_pair_in_an_output_is_printed_escaped(
    served: Path, server: AnsweringServer, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(server, completed(b'"\\ud800 \xc3\xa9"'))
    assert call(served) == 0
    assert '"\\ud800 \\u00e9"' in capsys.readouterr().out
