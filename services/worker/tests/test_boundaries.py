# SPDX-License-Identifier: MIT
"""Settings, keys, jobs from the wire, limits in blocks, and the exact bytes of calls."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlayer_attestation.record import MAX_ERROR_BYTES, TaskRecordV2, clip_error, sha256_hex
from outlayer_near.models import SizeLimits, wasm_url_source
from outlayer_near.primitives import PublicKey, Signature
from outlayer_near.rpc import Header
from outlayer_worker import guest_env, preparation
from outlayer_worker.chain import (
    AnswerPrices,
    ChainRequest,
    RequestGoneError,
    ResolvedProject,
    failed_answer,
)
from outlayer_worker.config import Config, from_environment
from outlayer_worker.errors import (
    ConfigError,
    JobError,
    OutputRefusedError,
    ProtocolError,
    SubmissionError,
)
from outlayer_worker.executor.model import Category, RunResult
from outlayer_worker.guest_env import GuestContext, ProjectContext, guest_environment
from outlayer_worker.identity import KEY_FILE, forget, load_or_create
from outlayer_worker.jobs import Job, parse_job
from outlayer_worker.preparation import AnswerBounds, HostLimits, Moment, Place
from outlayer_worker.registration import needs_renewal
from outlayer_worker.resolution import INLINE_LIMIT, Resolution, resolve_call

HOST = HostLimits(256, 180.0, 1 << 20, 1 << 16)
PLACE = Place("localnet", "outlayer.test", "ed25519:key")
SOURCE = wasm_url_source("http://example.com/x", "a" * 64)
MEASURED = {"mrtd": "ab" * 48}
SETTINGS = {
    "COORDINATOR_URL": "http://127.0.0.1:8080/",
    "WORKER_TOKEN_FILE": "/nowhere/token",
    "WORKER_ID": "w1",
    "NEAR_RPC_URL": "http://127.0.0.1:3030",
    "OUTLAYER_CONTRACT_ID": "outlayer.test",
    "OPERATOR_ACCOUNT_ID": "worker.outlayer.test",
    "INIT_ACCOUNT_ID": "init.outlayer.test",
    "INIT_ACCOUNT_KEY_FILE": "/nowhere/init.json",
    "NEAR_NETWORK_ID": "localnet",
    "WORKER_STATE_DIR": "/nowhere/state",
}


# --- settings ---


def test_settings_have_defaults() -> None:
    config = from_environment(SETTINGS)
    assert config.coordinator_url == "http://127.0.0.1:8080"
    assert (config.executors, config.max_batch, config.health_port) == (2, 32, 0)
    assert config.near_block_feed_url is None


def test_a_worker_without_a_label_is_named_after_its_key(tmp_path: Path) -> None:
    assert from_environment({**SETTINGS, "WORKER_ID": ""}).worker_id is None
    one, two = (load_or_create(tmp_path / name, MEASURED) for name in ("a", "b"))
    assert one.default_name().startswith("worker-")
    assert one.default_name() != two.default_name()


@pytest.mark.parametrize("name", sorted(SETTINGS.keys() - {"WORKER_ID"}))
def test_a_missing_setting_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        from_environment({**SETTINGS, name: ""})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EXECUTORS", "0"),
        ("MAX_BATCH", "many"),
        ("COORDINATOR_URL", "localhost"),
        ("NEAR_RPC_URL", "ftp://x"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        from_environment({**SETTINGS, name: value})


def test_a_token_file_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    config: Config = replace(from_environment(SETTINGS), worker_token_file=tmp_path / "token")
    with pytest.raises(ConfigError, match="WORKER_TOKEN_FILE"):
        config.worker_token()
    (tmp_path / "token").write_text("secret\n")
    assert config.worker_token() == "secret"


# --- identity ---


def test_the_key_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    first = load_or_create(tmp_path / "state", MEASURED)
    path = tmp_path / "state" / KEY_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_or_create(tmp_path / "state", MEASURED).public_key == first.public_key
    assert first.key.secret not in repr(first)


def test_other_measurements_get_another_key(tmp_path: Path) -> None:
    first = load_or_create(tmp_path, MEASURED)
    second = load_or_create(tmp_path, {"mrtd": "cd" * 48})
    assert first.public_key != second.public_key
    assert load_or_create(tmp_path, {"mrtd": "cd" * 48}).public_key == second.public_key


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"private_key": 5}', '{"private_key": "ed25519:x"}'])
def test_a_broken_key_file_is_a_clear_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / KEY_FILE
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="worker key"):
        load_or_create(tmp_path, MEASURED)


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    load_or_create(tmp_path, MEASURED)
    (tmp_path / KEY_FILE).chmod(0o644)
    with pytest.raises(ConfigError, match="others may read"):
        load_or_create(tmp_path, MEASURED)


def test_a_challenge_is_signed_under_its_own_tag(tmp_path: Path) -> None:
    worker = load_or_create(tmp_path, MEASURED)
    signature = Signature(0, worker.sign_challenge(bytes(32)))
    key = PublicKey.parse(worker.public_key)
    assert key.verify(b"outlayer/tee-session/v1\0" + bytes(32), signature)
    assert not key.verify(bytes(32), signature)


def test_the_key_of_the_code_cache_is_not_the_signing_key(tmp_path: Path) -> None:
    worker = load_or_create(tmp_path, MEASURED)
    assert len(worker.cache_key()) == 32
    assert worker.cache_key().hex() not in (tmp_path / KEY_FILE).read_text()


# --- jobs ---


def test_a_job_from_the_wire_is_read(fakes: ModuleType) -> None:
    job = parse_job(fakes.https_job("alice.test/echo", b"\x00\xff"))
    assert job.https is not None
    assert job.https.input == b"\x00\xff"
    assert job.https.compute_limit_usd == 10000
    near = parse_job(fakes.near_job(5, b"\x01" * 32, 77))
    assert near.near is not None
    assert (near.near.request_id, near.near.block_height) == (5, 77)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@given(st.data())
def test_a_job_with_any_field_changed_is_read_or_refused(fakes: ModuleType, data: st.DataObject) -> None:
    value: dict[str, Any] = data.draw(
        st.sampled_from([fakes.https_job("a/b", b"x"), fakes.near_job(1, bytes(32), 2)])
    )
    place = data.draw(st.sampled_from([item for item in (value, value["https"], value["near"]) if item]))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(JSON)
    try:
        job = parse_job(value)
    except ProtocolError:
        return
    assert isinstance(job, Job)
    assert (job.https is None) != (job.near is None)


@given(JSON)
def test_anything_else_is_no_job(value: Any) -> None:
    with pytest.raises(ProtocolError):
        parse_job(value)


# --- environment of guests ---


def context(**fields: Any) -> GuestContext:
    return GuestContext("HTTPS", "localnet", "a.test", "a.test", 1, 2, 3, **fields)


def test_r20_the_list_of_names_is_what_guests_get() -> None:
    with_project = guest_environment(context(project=ProjectContext("alice.test/echo", "p1")))
    assert set(with_project) == set(guest_env.ALWAYS + guest_env.NEAR_ONLY + guest_env.PROJECT_ONLY)
    assert set(with_project) <= guest_env.RESERVED
    assert set(guest_environment(context())) == set(guest_env.ALWAYS + guest_env.NEAR_ONLY)


def test_r3_a_project_id_splits_into_owner_and_name() -> None:
    environment = guest_environment(context(project=ProjectContext("alice.test/echo", "p1")))
    assert environment["OUTLAYER_PROJECT_OWNER"] == "alice.test"
    assert environment["OUTLAYER_PROJECT_NAME"] == "echo"


# --- limits ---


def chain_request(fakes: ModuleType, **fields: Any) -> ChainRequest:
    chain = fakes.FakeChain()
    chain.add_request(1, SOURCE, "in", **fields)
    found: ChainRequest = chain.requests[1]
    return found


@given(passed=st.integers(0, 250), pace=st.floats(0.01, 2.0))
def test_a_near_run_ends_before_its_yield_expires(fakes: ModuleType, passed: int, pace: float) -> None:
    found = chain_request(fakes)
    start = found.event.block_timestamp
    head = Header(found.event.block_height + passed, "hash", start + round(passed * pace * 1e9))
    try:
        seconds = preparation.near_seconds(found, head, HOST, block_seconds=0.6)
    except JobError as error:
        assert error.category == "too_late"
        return
    assert 0 < seconds <= HOST.max_seconds
    # even when blocks come as fast as they have come so far, some are left when the run ends
    fastest = min(0.6, pace) if passed >= 10 else 0.6
    assert passed + seconds / fastest < preparation.YIELD_BLOCKS - preparation.MARGIN_BLOCKS + 1


def test_a_long_https_run_is_bounded_by_the_worker(fakes: ModuleType) -> None:
    job = parse_job(fakes.https_job("a.test/b", b"", max_execution_seconds=100000))
    assert job.https is not None
    project = ResolvedProject(ProjectContext("a.test/b", "p1"), "a" * 64, SOURCE)
    prepared = preparation.prepare_https(job, job.https, project, HOST, PLACE)
    assert prepared.request.limits.seconds == HOST.max_seconds
    assert prepared.subject.max_execution_seconds == 100000


def test_more_memory_than_executors_have_is_refused(fakes: ModuleType) -> None:
    job = parse_job(fakes.https_job("a.test/b", b"", max_memory_mb=10_000))
    assert job.https is not None
    project = ResolvedProject(ProjectContext("a.test/b", "p1"), "a" * 64, SOURCE)
    with pytest.raises(JobError, match="10000 MiB") as caught:
        preparation.prepare_https(job, job.https, project, HOST, PLACE)
    assert caught.value.category == "limits_exceeded"


@pytest.mark.parametrize("digest", ["", "A" * 64, "a" * 63, "../../../etc/passwd"])
def test_a_hash_that_is_none_is_refused(digest: str) -> None:
    with pytest.raises(JobError, match="SHA-256"):
        preparation.wasm_url(wasm_url_source("http://example.com/x", digest))


@given(
    output=st.binary(max_size=60),
    category=st.none() | st.sampled_from(list(Category)),
    format_=st.sampled_from(["Bytes", "Text", "Json"]),
    instructions=st.integers(0, 2**40),
)
def test_a_record_always_hashes_what_is_delivered(
    fakes: ModuleType, output: bytes, category: Category | None, format_: str, instructions: int
) -> None:
    job = parse_job(fakes.near_job(1, bytes(32), 2))
    found = chain_request(fakes, response_format=format_)
    prepared = preparation.prepare_near(job, found, HOST, 10.0, PLACE)
    made = Moment(99, Header(5, "hash", 97_999_999_999))
    finished = preparation.finish(prepared, RunResult(output, b"", instructions, 3, category, "why"), made)
    record: TaskRecordV2 = finished.record
    assert record.output_sha256 == sha256_hex(finished.output)
    assert record.success == (finished.near_output is not None) == (finished.error_category is None)
    if not record.success:
        assert finished.output == b"null"
    assert (record.instructions, record.timestamp) == (instructions, 99)
    assert (record.anchor_hash, record.anchor_height, record.anchor_time) == ("hash", 5, 97)


# --- calls to the contract ---


@given(
    request_id=st.integers(0, 2**64 - 1),
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=2000),
    error=st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=512),
    with_record=st.booleans(),
)
def test_the_call_is_json_and_large_results_go_through_state(
    request_id: int, text: str, error: str | None, with_record: bool
) -> None:
    output = None if error is not None else b'{"Text":' + json.dumps(text).encode() + b"}"
    leaf = "ab" * 32 if with_record else None
    resolution = Resolution(request_id, error is None, output, error, 5, 6, record_sha256=leaf)
    action = resolve_call(resolution)
    method, arguments = action.method_name, action.args
    value = json.loads(arguments)
    assert value["request_id"] == request_id
    inner = value["response"] if method == "resolve_execution" else value
    assert inner["success"] == (error is None)
    assert inner["output"] == (None if error is not None else {"Text": text})
    assert error is None if inner["error"] is None else (error or "").startswith(inner["error"])
    assert value.get("record_sha256") == leaf
    assert inner["resources_used"] == {"instructions": 5, "time_ms": 6, "compile_time_ms": None}
    if method == "resolve_execution":
        assert len(arguments) < INLINE_LIMIT
    if len(output or b"") >= INLINE_LIMIT:
        assert method == "submit_execution_output_and_resolve"


LEAF = "ab" * 32


def near_limit(size: int, leaf: str | None) -> Resolution:
    """A result whose inline call has arguments of exactly ``size`` bytes."""
    empty = Resolution(1, True, b'{"Text":""}', None, 5, 6, record_sha256=leaf)
    text = "x" * (size - len(resolve_call(empty).args))
    return replace(empty, output=b'{"Text":"%s"}' % text.encode())


@pytest.mark.parametrize("leaf", [None, LEAF])
def test_a_result_goes_through_state_from_the_first_byte_over_the_limit_on(leaf: str | None) -> None:
    below, at = (resolve_call(near_limit(size, leaf)) for size in (INLINE_LIMIT - 1, INLINE_LIMIT))
    assert (below.method_name, len(below.args)) == ("resolve_execution", INLINE_LIMIT - 1)
    assert at.method_name == "submit_execution_output_and_resolve"
    assert json.loads(at.args).get("record_sha256") == leaf


def test_a_result_that_went_inline_alone_goes_through_state_with_a_record() -> None:
    alone = near_limit(INLINE_LIMIT - 1, None)
    assert resolve_call(alone).method_name == "resolve_execution"
    assert (
        resolve_call(replace(alone, record_sha256=LEAF)).method_name == "submit_execution_output_and_resolve"
    )


@pytest.mark.parametrize("char", ['"', "\\", "\x01", "€", "x"])
def test_a_failures_message_is_cut_only_where_it_would_not_fit(char: str) -> None:
    """A guest chooses much of it, and JSON writes six bytes for some characters: nothing may be stuck for that."""
    message = clip_error(char * MAX_ERROR_BYTES)
    action = resolve_call(
        Resolution(2**64 - 1, False, None, message, 2**64 - 1, 2**64 - 1, record_sha256=LEAF)
    )
    assert action.method_name == "resolve_execution"
    assert len(action.args) < INLINE_LIMIT
    told = json.loads(action.args)["response"]["error"]
    assert message.startswith(told)
    if char in "€x":
        assert told == message
    else:
        assert len(action.args) > INLINE_LIMIT - 8


def test_a_key_that_was_given_up_is_replaced_at_the_next_start(tmp_path: Path) -> None:
    first = load_or_create(tmp_path, MEASURED)
    forget(tmp_path, first)
    second = load_or_create(tmp_path, MEASURED)
    assert second.public_key != first.public_key
    forget(tmp_path, first)
    assert load_or_create(tmp_path, MEASURED).public_key == second.public_key, "a newer key stays"


PRICES = AnswerPrices(
    base_fee=1_000,
    limits=SizeLimits(
        max_input_bytes=10_000,
        max_output_bytes=5_000,
        free_output_bytes=1_000,
        output_byte_price=7,
        input_byte_price=3,
    ),
)


@pytest.mark.parametrize("size", [0, 1, 999, 1_000])
def test_an_output_of_the_free_size_is_taken_however_little_is_paid(size: int) -> None:
    assert AnswerBounds(PRICES, payment=0, stored_input_bytes=50).problem(size) is None


@given(st.integers(1_001, 5_000), st.integers(0, 10_000))
def test_a_larger_output_is_taken_from_exactly_the_payment_on_that_covers_it(size: int, stored: int) -> None:
    needed = 1_000 + 3 * stored + 7 * (size - 1_000)
    assert AnswerBounds(PRICES, needed, stored).problem(size) is None
    problem = AnswerBounds(PRICES, needed - 1, stored).problem(size)
    assert problem is not None
    assert f"needs {needed} yoctoNEAR" in problem


def test_an_output_above_the_largest_is_not_taken_at_any_price() -> None:
    bounds = AnswerBounds(PRICES, payment=10**30, stored_input_bytes=0)
    assert bounds.problem(5_000) is None
    assert "at most 5000" in (bounds.problem(5_001) or "")


@pytest.mark.parametrize("success", [True, False])
@pytest.mark.parametrize("said", ["Execution request 7 is already answered", "Execution request not found"])
def test_an_answer_that_came_second_finds_its_request_gone(said: str, success: bool) -> None:
    words = f"transaction x failed: Smart contract panicked: {said}"
    assert isinstance(failed_answer(words, success=success, request_id=7), RequestGoneError)


@pytest.mark.parametrize("success", [True, False])
@pytest.mark.parametrize(
    "words",
    [
        "Smart contract panicked: Unable to resume execution promise",
        "Smart contract panicked: The contract's reserve is used up, try again: 1 yoctoNEAR are free",
    ],
)
def test_what_may_pass_is_tried_again(words: str, success: bool) -> None:
    error = failed_answer(words, success=success, request_id=7)
    assert isinstance(error, SubmissionError)
    assert error.ran


@pytest.mark.parametrize(
    ("words", "too_large"),
    [
        ("panicked: The output is 262145 bytes, a callback delivers at most 262144", True),
        ("panicked: The payment of 5 does not pay for an output of 2000 bytes: needs 9 yoctoNEAR", True),
        ("Exceeded the prepaid gas.", False),
    ],
)
def test_an_output_that_the_contract_refuses_is_not_sent_again(words: str, too_large: bool) -> None:
    error = failed_answer(words, success=True, request_id=7)
    assert isinstance(error, OutputRefusedError)
    assert error.too_large is too_large
    assert isinstance(failed_answer(words, success=False, request_id=7), SubmissionError)


def test_a_key_is_renewed_well_before_it_expires() -> None:
    assert not needs_renewal(0, 30, 19.9)
    assert needs_renewal(0, 30, 20)
    assert needs_renewal(0, 30, 31)
