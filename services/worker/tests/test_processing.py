# SPDX-License-Identifier: MIT
"""Jobs from claim to completion, with real executors, real quotes, and a coordinator and a chain of the test."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from types import ModuleType
from typing import Any

import pytest

from outlayer_attestation import merkle, quote
from outlayer_attestation.record import Batch, TaskRecordV2, report_data_v2
from outlayer_near.models import ExecutionSource, GitHubSource, SizeLimits, wasm_url_source
from outlayer_near.primitives import b58encode
from outlayer_worker import processing
from outlayer_worker.chain import AnswerPrices
from outlayer_worker.errors import OutputRefusedError, SubmissionError

pytestmark = pytest.mark.asyncio(loop_scope="module")


def check_proof(completion: dict[str, Any]) -> TaskRecordV2:
    """The record of a completion, after its place in the quoted batch was checked."""
    record = TaskRecordV2.from_json(completion["record"])
    batch = Batch.from_json(completion["batch"])
    proof = [bytes.fromhex(item) for item in completion["inclusion_proof"]]
    assert merkle.verify(record.leaf_hash(), completion["leaf_index"], batch.tree_size, proof, batch.root)
    report = quote.parse(batch.quote).td_report.report_data
    assert report == report_data_v2(batch.tree_size, batch.root)
    return record


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def echo(rig: Any, guests: ModuleType) -> Any:
    """The address and hash of the echo guest, which is project alice.test/echo."""
    url, digest = rig.coordinator.publish(guests.ECHO)
    rig.chain.add_project("alice.test/echo", url, digest)
    return wasm_url_source(url, digest)


async def test_an_https_call_is_run_and_its_record_says_what_happened(
    rig: Any, fakes: ModuleType, echo: Any
) -> None:
    data = b'{"hello": "world"}'
    job = fakes.https_job("alice.test/echo", data)
    (completion,) = await rig.finish(job)
    assert completion["success"] is True
    assert base64.b64decode(completion["output_base64"]) == data
    record = check_proof(completion)
    assert record.input_sha256 == record.output_sha256 == sha(data)
    assert record.wasm_sha256 == echo.wasm_url.hash
    assert record.call_id == job["https"]["call_id"]
    assert record.project_uuid == "p0000000000000001"
    assert record.contract_id == fakes.CONTRACT
    assert record.worker_public_key == rig.identity.public_key
    assert record.instructions == completion["instructions"] > 0


async def test_r17_the_attested_code_is_the_code_that_ran(rig: Any, fakes: ModuleType, echo: Any) -> None:
    (completion,) = await rig.finish(fakes.https_job("alice.test/echo", b""))
    served = rig.coordinator.wasm[echo.wasm_url.hash]
    assert check_proof(completion).wasm_sha256 == sha(served)


async def test_jobs_that_finish_while_a_quote_is_made_share_the_next_one(
    rig: Any, fakes: ModuleType, echo: Any
) -> None:
    await rig.finish(fakes.https_job("alice.test/echo", b"warm"))
    before_quotes, before_requests = len(rig.quotes), rig.coordinator.requests
    jobs = [fakes.https_job("alice.test/echo", b"%d" % index) for index in range(20)]
    # the first job's quote is being made while the others run, however slow or fast this machine is
    rig.quote_asked.clear()
    rig.quote_allowed.clear()
    (first,) = rig.start(jobs[0])
    await rig.quote_asked.wait()
    others = asyncio.create_task(rig.finish(*jobs[1:]))
    await asyncio.sleep(0.05)
    rig.quote_allowed.set()
    await asyncio.gather(first.task, others)
    completions = [rig.coordinator.completions[job["job_id"]] for job in jobs]
    for index, completion in enumerate(completions):
        assert check_proof(completion).input_sha256 == sha(b"%d" % index)
    quotes = len(rig.quotes) - before_quotes
    assert 1 < quotes < 12
    assert rig.coordinator.requests - before_requests == quotes, "one delivery for each batch"
    assert max(Batch.from_json(item["batch"]).tree_size for item in completions) > 2


async def test_a_failed_guest_is_attested_as_failed(rig: Any, fakes: ModuleType, guests: ModuleType) -> None:
    url, digest = rig.coordinator.publish(guests.TRAP)
    rig.chain.add_project("alice.test/trap", url, digest)
    (completion,) = await rig.finish(fakes.https_job("alice.test/trap", b"x"))
    assert completion["success"] is False
    assert completion["error_category"] == "guest_trap"
    assert completion["output_base64"] == ""
    record = check_proof(completion)
    assert record.success is False
    assert record.error == completion["error"]
    assert record.output_sha256 == sha(b"")


@pytest.mark.parametrize(
    ("change", "category"),
    [
        ({"project_id": "alice.test/none"}, "project_not_found"),
        ({"secrets_ref": "alice.test/default"}, "access_denied"),
    ],
)
async def test_what_cannot_be_run_is_completed_without_a_record(
    rig: Any, fakes: ModuleType, echo: Any, change: dict[str, Any], category: str
) -> None:
    job = fakes.https_job("alice.test/echo", b"")
    job["https"] |= change
    (completion,) = await rig.finish(job)
    assert completion["error_category"] == category
    assert completion["record"] is None
    assert completion["batch"] is None


async def test_code_that_is_not_there_is_a_clear_failure(rig: Any, fakes: ModuleType, echo: Any) -> None:
    rig.chain.add_project("alice.test/gone", f"{rig.coordinator.url}/wasm/{'0' * 64}", "0" * 64)
    (completion,) = await rig.finish(fakes.https_job("alice.test/gone", b""))
    assert completion["error_category"] == "wasm_unavailable"


@pytest.mark.parametrize(
    ("format_", "delivered", "argument"),
    [
        ("Json", b'{"a":1}', {"Json": {"a": 1}}),
        ("Text", b'"{ \\"a\\": 1 }"', {"Text": '{ "a": 1 }'}),
        ("Bytes", b'"eyAiYSI6IDEgfQ=="', {"Text": "eyAiYSI6IDEgfQ=="}),
    ],
)
async def test_a_near_request_is_run_resolved_and_completed(
    rig: Any, echo: Any, format_: str, delivered: bytes, argument: Any
) -> None:
    job = rig.chain.add_request(7, echo, '{ "a": 1 }', response_format=format_)
    (completion,) = await rig.finish(job)
    assert completion["success"] is True
    assert completion["resolve_tx_hash"] == "tx-7"
    assert base64.b64decode(completion["output_base64"]) == delivered
    record = check_proof(completion)
    assert record.output_sha256 == sha(delivered)
    assert (record.request_id, record.transaction_hash, record.receipt_id) == (7, "TxHash", "ReceiptId")
    assert (record.caller, record.signer_id, record.block_height) == ("bob.test", "alice.test", 1000)
    resolution = rig.chain.resolved[7]
    assert json.loads(resolution.output) == argument
    assert resolution.instructions == record.instructions


async def test_the_limits_of_a_near_request_come_from_the_chain(rig: Any, echo: Any) -> None:
    """The job of the fake coordinator says one instruction and one second."""
    limits = {"max_instructions": 5_000_000, "max_memory_mb": 33, "max_execution_seconds": 9}
    job = rig.chain.add_request(8, echo, "x", resource_limits=limits)
    (completion,) = await rig.finish(job)
    record = check_proof(completion)
    assert (record.max_instructions, record.max_memory_mb, record.max_execution_seconds) == (5_000_000, 33, 9)


async def test_a_near_failure_is_attested_and_resolved_as_failed(rig: Any, guests: ModuleType) -> None:
    source = wasm_url_source(*rig.coordinator.publish(guests.exits(3)))
    (completion,) = await rig.finish(rig.chain.add_request(9, source, ""))
    assert base64.b64decode(completion["output_base64"]) == b"null"
    assert check_proof(completion).output_sha256 == sha(b"null")
    assert rig.chain.resolved[9].success is False
    assert "code 3" in rig.chain.resolved[9].error
    assert rig.chain.resolved[9].output is None


async def test_output_that_is_not_json_fails_a_request_for_json(rig: Any, echo: Any) -> None:
    (completion,) = await rig.finish(rig.chain.add_request(10, echo, "plain", response_format="Json"))
    assert completion["error_category"] == "bad_output"
    assert check_proof(completion).success is False
    assert rig.chain.resolved[10].success is False


async def test_r1_a_request_that_the_chain_does_not_hold_is_refused(
    rig: Any, fakes: ModuleType, echo: Any
) -> None:
    rig.chain.add_request(11, echo, "real")
    forged = fakes.near_job(11, b"\x01" * 32, 1000)
    unknown = fakes.near_job(12, b"\x02" * 32, 1000)
    for completion in await rig.finish(forged, unknown):
        assert completion["error_category"] == "request_refused"
        assert completion["record"] is None
    assert not rig.chain.resolved


async def test_a_request_that_somebody_else_settled_is_not_settled_again(rig: Any, echo: Any) -> None:
    job = rig.chain.add_request(13, echo, "x")
    rig.chain.resolved[13] = "somebody else's"
    (completion,) = await rig.finish(job)
    assert completion["error_category"] == "already_settled"
    assert rig.chain.resolved[13] == "somebody else's"
    assert not rig.outbox.entries()


async def test_a_request_settled_by_another_during_the_run_is_not_settled_twice(rig: Any, echo: Any) -> None:
    job = rig.chain.add_request(14, echo, "x")
    rig.chain.on_resolve = lambda: rig.chain.resolved.setdefault(14, "somebody else's")
    (completion,) = await rig.finish(job)
    assert completion["error_category"] == "already_settled"
    assert completion["record"] is None


async def test_github_sources_fail_on_chain_with_the_reason(rig: Any) -> None:
    source = ExecutionSource(GitHub=GitHubSource(repo="https://github.com/a/b", commit="c" * 40))
    (completion,) = await rig.finish(rig.chain.add_request(15, source, ""))
    assert completion["error_category"] == "unsupported_source"
    assert completion["resolve_tx_hash"] == "tx-15"
    assert "compiler" in rig.chain.resolved[15].error


async def test_a_request_that_is_about_to_expire_is_not_run(rig: Any, echo: Any) -> None:
    job = rig.chain.add_request(16, echo, "x")
    rig.chain.height += 195
    (completion,) = await rig.finish(job)
    assert completion["error_category"] == "too_late"
    assert rig.chain.resolved[16].success is False


async def test_an_output_that_the_chain_refuses_becomes_a_failure(rig: Any, echo: Any) -> None:
    rig.chain.largest_output = 100
    (completion,) = await rig.finish(rig.chain.add_request(17, echo, "x" * 500))
    assert completion["error_category"] == "output_refused"
    record = check_proof(completion)
    assert record.success is False
    assert record.output_sha256 == sha(b"null")
    assert "prepaid gas" in rig.chain.resolved[17].error
    assert not rig.outbox.entries()


async def test_a_submission_that_fails_is_tried_again(rig: Any, echo: Any) -> None:
    rig.chain.submission_failures = 2
    (completion,) = await rig.finish(rig.chain.add_request(18, echo, "x"))
    assert completion["success"] is True
    assert not rig.outbox.entries()


async def test_a_submission_whose_good_end_was_not_seen_counts(rig: Any, echo: Any) -> None:
    rig.chain.submission_failures, rig.chain.fails_unseen = 1, True
    (completion,) = await rig.finish(rig.chain.add_request(19, echo, "x"))
    assert completion["success"] is True
    assert completion["resolve_tx_hash"] == "tx-19"
    assert check_proof(completion).request_id == 19


PRICES = AnswerPrices(
    base_fee=100,
    limits=SizeLimits(
        max_input_bytes=10_000,
        max_output_bytes=600,
        free_output_bytes=50,
        output_byte_price=10,
        input_byte_price=1,
    ),
)


@pytest.mark.parametrize(
    ("size", "reason"),
    # a Text answer has two quotes more; 100 + 10 * (142 - 50) > 1000 >= 100 + 10 * (140 - 50)
    [(140, "it needs 1020 yoctoNEAR"), (599, "at most 600")],
)
async def test_an_output_that_the_contract_would_not_take_is_never_sent(
    rig: Any, echo: Any, size: int, reason: str
) -> None:
    rig.chain.prices = PRICES
    (completion,) = await rig.finish(rig.chain.add_request(40, echo, "x" * size, response_format="Text"))
    assert completion["error_category"] == "output_too_large"
    record = check_proof(completion)
    assert (record.success, record.output_sha256) == (False, sha(b"null"))
    assert reason in (record.error or "")
    (answer,) = rig.chain.answers
    assert (answer.success, answer.output) == (False, None)
    assert reason in answer.error


async def test_an_output_that_is_just_paid_for_is_delivered(rig: Any, echo: Any) -> None:
    rig.chain.prices = PRICES
    (completion,) = await rig.finish(rig.chain.add_request(41, echo, "x" * 138, response_format="Text"))
    assert completion["success"] is True


async def test_an_input_in_state_is_part_of_the_price_of_the_answer(rig: Any, echo: Any) -> None:
    rig.chain.prices = PRICES
    job = rig.chain.add_request(42, echo, "x" * 138, response_format="Text", input_data_in_state=True)
    (completion,) = await rig.finish(job)
    assert completion["error_category"] == "output_too_large"


async def test_an_output_too_large_by_the_contracts_own_word_is_called_so(rig: Any, echo: Any) -> None:
    rig.chain.failures = [OutputRefusedError("The output is 600 bytes", too_large=True)]
    (completion,) = await rig.finish(rig.chain.add_request(43, echo, "x"))
    assert completion["error_category"] == "output_too_large"
    assert rig.chain.resolved[43].success is False


async def test_an_answer_that_fails_again_and_again_becomes_a_failure_that_is_told(
    rig: Any, echo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processing, "LONGEST_WAIT_SECONDS", 0.01)
    most = processing.MAX_FAILED_ANSWERS
    rig.chain.failures = [SubmissionError("The contract's reserve is used up", ran=True)] * most
    (completion,) = await rig.finish(rig.chain.add_request(44, echo, "x"))
    assert completion["error_category"] == "output_refused"
    assert "reserve" in completion["error"]
    assert [item.success for item in rig.chain.answers] == [True] * most + [False]
    assert rig.chain.resolved[44].success is False


async def test_a_request_that_takes_no_answer_is_given_up_after_a_bounded_number_of_transactions(
    rig: Any, echo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processing, "LONGEST_WAIT_SECONDS", 0.01)
    rig.chain.failures = [SubmissionError("Exceeded the prepaid gas", ran=True)] * 1000
    (completion,) = await rig.finish(rig.chain.add_request(45, echo, "x"))
    assert completion["error_category"] == "not_settled"
    assert "request 45 could not be answered" in completion["error"]
    assert "prepaid gas" in completion["error"]
    assert completion["record"] is None
    assert len(rig.chain.answers) == 2 * processing.MAX_FAILED_ANSWERS
    assert not rig.outbox.entries()


async def test_a_failure_that_takes_no_answer_is_given_up_too(
    rig: Any, echo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processing, "LONGEST_WAIT_SECONDS", 0.01)
    rig.chain.failures = [SubmissionError("Exceeded the prepaid gas", ran=True)] * 1000
    source = ExecutionSource(GitHub=GitHubSource(repo="https://github.com/a/b", commit="c" * 40))
    (completion,) = await rig.finish(rig.chain.add_request(46, source, ""))
    assert completion["error_category"] == "not_settled"
    assert len(rig.chain.answers) == processing.MAX_FAILED_ANSWERS


async def test_tries_that_cost_no_gas_end_with_the_time_of_the_request(
    rig: Any, echo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processing, "LONGEST_WAIT_SECONDS", 0.01)
    rig.chain.failures = [SubmissionError("the access key's allowance is used up")] * 1000
    more = 3 * processing.MAX_FAILED_ANSWERS

    def on_resolve() -> None:
        rig.chain.over = len(rig.chain.answers) >= more

    rig.chain.on_resolve = on_resolve
    (completion,) = await rig.finish(rig.chain.add_request(47, echo, "x"))
    assert completion["error_category"] == "not_settled"
    assert len(rig.chain.answers) == more + 1


async def test_a_chain_that_does_not_answer_for_a_while_fails_no_job(
    rig: Any, fakes: ModuleType, echo: Any
) -> None:
    rig.chain.outages = 2
    (completion,) = await rig.finish(fakes.https_job("alice.test/echo", b"x"))
    assert completion["success"] is True


async def test_a_record_is_anchored_to_a_final_block_that_the_worker_read(
    rig: Any, fakes: ModuleType, echo: Any
) -> None:
    (completion,) = await rig.finish(fakes.https_job("alice.test/echo", b"x"))
    record = check_proof(completion)
    assert (record.anchor_height, record.anchor_hash) == (1001, b58encode((1).to_bytes(32, "big")))
    assert 0 <= record.timestamp - record.anchor_time <= 10


async def test_calls_in_quick_succession_share_one_question_for_the_anchor(
    rig: Any, fakes: ModuleType, echo: Any
) -> None:
    await rig.finish(*(fakes.https_job("alice.test/echo", b"%d" % index) for index in range(8)))
    await rig.finish(fakes.https_job("alice.test/echo", b"one more"))
    assert rig.chain.heads == 1


async def test_a_chain_that_stands_still_delays_the_record_and_runs_the_guest_once(
    rig: Any, fakes: ModuleType, echo: Any
) -> None:
    rig.chain.late_seconds = 3600
    (held,) = rig.start(fakes.https_job("alice.test/echo", b"x"))
    while rig.chain.heads < 3:
        assert not held.task.done()
        await asyncio.sleep(0.01)
    rig.chain.late_seconds = 1
    await held.task
    (completion,) = await rig.coordinator.completed(held.job.job_id)
    assert check_proof(completion).anchor_height > 1003
    assert guest_runs(rig) == 1


@pytest.mark.parametrize("late_seconds", [3600, -3600], ids=["a stale chain", "a clock set back"])
async def test_without_an_anchor_a_job_is_left_to_its_lease_and_no_record_is_made(
    rig: Any, fakes: ModuleType, echo: Any, monkeypatch: pytest.MonkeyPatch, late_seconds: float
) -> None:
    monkeypatch.setattr(processing, "CHAIN_PATIENCE_SECONDS", 0.1)
    rig.chain.late_seconds = late_seconds
    near = rig.chain.add_request(21, echo, "x")
    held = rig.start(fakes.https_job("alice.test/echo", b"x"), near)
    await asyncio.gather(*(item.task for item in held))
    assert not rig.coordinator.completions
    assert not rig.chain.resolved
    assert not rig.quotes
    assert guest_runs(rig) == 2


def guest_runs(rig: Any) -> float:
    samples = next(iter(rig.metrics.run_seconds.collect())).samples
    return next(item.value for item in samples if item.name.endswith("_count"))


@pytest.mark.parametrize("fails", [False, True])
async def test_the_settlement_carries_the_leaf_of_the_record(
    rig: Any, guests: ModuleType, echo: Any, fails: bool
) -> None:
    source = wasm_url_source(*rig.coordinator.publish(guests.exits(3))) if fails else echo
    (completion,) = await rig.finish(rig.chain.add_request(22, source, "x"))
    assert completion["success"] is not fails
    assert rig.chain.resolved[22].record_sha256 == check_proof(completion).leaf_hash().hex()


async def test_the_settlement_of_an_output_that_the_chain_refused_carries_the_second_record(
    rig: Any, echo: Any
) -> None:
    rig.chain.largest_output = 100
    (completion,) = await rig.finish(rig.chain.add_request(23, echo, "x" * 500))
    record = check_proof(completion)
    assert record.success is False
    assert rig.chain.resolved[23].record_sha256 == record.leaf_hash().hex()


async def test_the_settlement_of_what_was_not_run_carries_no_record(rig: Any) -> None:
    source = ExecutionSource(GitHub=GitHubSource(repo="https://github.com/a/b", commit="c" * 40))
    (completion,) = await rig.finish(rig.chain.add_request(24, source, ""))
    assert completion["record"] is None
    assert rig.chain.resolved[24].record_sha256 is None


async def test_a_finished_result_survives_an_outage_of_the_coordinator(
    rig: Any, fakes: ModuleType, echo: Any
) -> None:
    await rig.finish(fakes.https_job("alice.test/echo", b"warm"))
    rig.coordinator.failures = [503, 500]
    job = fakes.https_job("alice.test/echo", b"kept")
    (held,) = rig.start(job)
    for _ in range(200):
        if rig.outbox.entries():
            break
        await asyncio.sleep(0.01)
    assert [entry["job_id"] for entry in rig.outbox.entries()] == [job["job_id"]]
    await held.task
    (completion,) = await rig.coordinator.completed(job["job_id"])
    check_proof(completion)
    assert not rig.outbox.entries()


async def test_a_result_left_on_disk_is_delivered_by_the_next_process(
    rig: Any, fakes: ModuleType, echo: Any
) -> None:
    job = fakes.https_job("alice.test/echo", b"x")
    (first,) = await rig.finish(job)
    rig.coordinator.completions.clear()
    body = {"batch": first.pop("batch"), "completions": [first]}
    rig.outbox.put(job["job_id"], body, near_tx=None)
    rig.chain.successes.add("tx-1")
    rig.outbox.put("near-good", {**body, "completions": [{**first, "job_id": "near-good"}]}, near_tx="tx-1")
    rig.outbox.put("near-bad", {**body, "completions": [{**first, "job_id": "near-bad"}]}, near_tx="failed")
    await rig.delivery.resend(rig.chain.succeeded)
    assert set(rig.coordinator.completions) == {job["job_id"], "near-good"}
    assert not rig.outbox.entries()


async def test_a_session_that_is_gone_is_opened_again(rig: Any, fakes: ModuleType, echo: Any) -> None:
    await rig.finish(fakes.https_job("alice.test/echo", b"1"))
    rig.coordinator.sessions.clear()
    (completion,) = await rig.finish(fakes.https_job("alice.test/echo", b"2"))
    assert completion["success"] is True
    assert rig.coordinator.opened == 2


async def test_a_completion_of_a_job_that_is_not_ours_any_more_is_dropped(
    rig: Any, fakes: ModuleType, echo: Any
) -> None:
    rig.coordinator.disown = True
    (held,) = rig.start(fakes.https_job("alice.test/echo", b"late"))
    await asyncio.wait_for(held.task, 20)
    assert not rig.coordinator.completions
    assert rig.coordinator.opened == 1
    assert not rig.outbox.entries()


async def test_the_environment_names_the_request(rig: Any, guests: ModuleType) -> None:
    source = wasm_url_source(*rig.coordinator.publish(guests.ENVIRONMENT))
    (completion,) = await rig.finish(rig.chain.add_request(20, source, "", attached_usd="5"))
    text = json.loads(base64.b64decode(completion["output_base64"]))
    environment = dict(line.split("=", 1) for line in text.split("\0") if line)
    assert environment["OUTLAYER_EXECUTION_TYPE"] == "NEAR"
    assert environment["NEAR_SENDER_ID"] == "alice.test"
    assert environment["NEAR_PREDECESSOR_ID"] == "bob.test"
    assert environment["NEAR_REQUEST_ID"] == "20"
    assert environment["NEAR_PAYMENT_YOCTO"] == "1000"
    assert environment["ATTACHED_USD"] == "5"
    assert environment["OUTLAYER_CALL_ID"] == ""
    assert "OUTLAYER_PROJECT_ID" not in environment
