# SPDX-License-Identifier: MIT
"""Task records: unambiguous hashing, strict JSON, and the original's V1 formula."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlayer_attestation import quote as layout
from outlayer_attestation import record as records
from outlayer_attestation.appraisal import appraise
from outlayer_attestation.base58 import decode_ed25519_key, encode_ed25519_key
from outlayer_attestation.checks import Outcome
from outlayer_attestation.collateral import Collateral
from outlayer_attestation.errors import RecordError
from outlayer_attestation.record import Batch, TaskRecordV1, TaskRecordV2

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
UINT = st.integers(0, 2**64)
HASH = st.binary(min_size=32, max_size=32).map(bytes.hex)

REQUIRED: dict[str, st.SearchStrategy[Any]] = {
    "network_id": TEXT,
    "job_id": TEXT,
    "wasm_sha256": HASH,
    "input_sha256": HASH,
    "output_sha256": HASH,
    "success": st.booleans(),
    "instructions": UINT,
    "time_ms": UINT,
    "max_instructions": UINT,
    "max_memory_mb": UINT,
    "max_execution_seconds": UINT,
    "anchor_hash": TEXT,
    "anchor_height": UINT,
    "anchor_time": UINT,
    "timestamp": UINT,
    "worker_public_key": TEXT,
}
OPTIONAL_TEXT = [
    "contract_id",
    "transaction_hash",
    "receipt_id",
    "call_id",
    "caller",
    "signer_id",
    "payment_key_owner",
    "project_id",
    "project_uuid",
    "version_key",
    "code_url",
    "error",
    "secrets_ref",
]
OPTIONAL_UINT = ("request_id", "payment_key_nonce", "attached_usd", "refund_usd", "block_height")
OPTIONAL: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(OPTIONAL_TEXT, st.none() | TEXT),
    **dict.fromkeys(OPTIONAL_UINT, st.none() | UINT),
}
RECORDS = st.builds(TaskRecordV2, **REQUIRED, **OPTIONAL)

MINIMAL = TaskRecordV2(
    network_id="localnet",
    job_id="j",
    wasm_sha256="0" * 64,
    input_sha256="1" * 64,
    output_sha256="2" * 64,
    success=True,
    instructions=1,
    time_ms=2,
    max_instructions=3,
    max_memory_mb=4,
    max_execution_seconds=5,
    anchor_hash="h",
    anchor_height=7,
    anchor_time=8,
    timestamp=6,
    worker_public_key="ed25519:k",
)


def reference_preimage(record: TaskRecordV2) -> bytes:
    """The encoding of the design, written a second time from its text."""
    data = b"outlayer/task-record/v2"
    for field in fields(record):
        value = getattr(record, field.name)
        text = b"" if value is None else str(value).encode()
        if isinstance(value, bool):
            text = b"true" if value else b"false"
        data += bytes([value is not None]) + len(text).to_bytes(4, "big") + text
    return data


@given(record=RECORDS)
def test_the_leaf_is_the_hash_of_the_documented_encoding(record: TaskRecordV2) -> None:
    assert record.leaf_hash() == hashlib.sha256(b"\0" + reference_preimage(record)).digest()


def test_the_leaf_of_a_known_record_does_not_move() -> None:
    assert MINIMAL.leaf_hash().hex() == "f62e0bb55732e65be9b357235adbae2f601cbe772f4ac189f6201e63f2728587"
    assert MINIMAL.preimage().startswith(
        b"outlayer/task-record/v2\x01\x00\x00\x00\x07execute\x01\x00\x00\x00\x08localnet\x00\x00\x00\x00\x00"
    )


@given(record=RECORDS)
def test_json_gives_the_same_record_back(record: TaskRecordV2) -> None:
    text = json.dumps(record.to_json())
    assert TaskRecordV2.from_json(json.loads(text)) == record


@given(first=RECORDS, second=RECORDS)
def test_r15_different_records_have_different_preimages(first: TaskRecordV2, second: TaskRecordV2) -> None:
    assert (first.preimage() == second.preimage()) == (first == second)


@given(record=RECORDS, data=st.data())
def test_r15_a_value_moved_to_another_optional_field_changes_the_hash(
    record: TaskRecordV2, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from([OPTIONAL_TEXT, list(OPTIONAL_UINT)]))
    source, target = data.draw(st.permutations(kind))[:2]
    value = "x" if kind is OPTIONAL_TEXT else 7
    here = replace(record, **{source: value, target: None})
    there = replace(record, **{source: None, target: value})
    assert here.leaf_hash() != there.leaf_hash()


@given(left=TEXT, right=TEXT.filter(bool))
def test_r15_a_byte_moved_to_the_neighbour_changes_the_hash(left: str, right: str) -> None:
    before = replace(MINIMAL, receipt_id=left, call_id=right)
    after = replace(MINIMAL, receipt_id=left + right[0], call_id=right[1:])
    assert before.leaf_hash() != after.leaf_hash()


def test_r15_absent_is_not_empty_and_not_zero() -> None:
    assert replace(MINIMAL, call_id=None).leaf_hash() != replace(MINIMAL, call_id="").leaf_hash()
    assert replace(MINIMAL, refund_usd=None).leaf_hash() != replace(MINIMAL, refund_usd=0).leaf_hash()


def test_r16_identifiers_that_the_caller_knows_are_bound() -> None:
    for change in ({"request_id": 1}, {"transaction_hash": "h"}, {"call_id": "c"}, {"receipt_id": "r"}):
        assert replace(MINIMAL, **change).leaf_hash() != MINIMAL.leaf_hash()


def test_r17_the_executed_wasm_is_bound() -> None:
    executed = records.sha256_hex(b"\0asm")
    assert replace(MINIMAL, wasm_sha256=executed).leaf_hash() != MINIMAL.leaf_hash()
    missing = {name: value for name, value in MINIMAL.to_json().items() if name != "wasm_sha256"}
    with pytest.raises(RecordError, match="wasm_sha256"):
        TaskRecordV2.from_json(missing)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unknown": 1}, "unknown"),
        ({"instructions": -1}, "instructions"),
        ({"instructions": 1.0}, "instructions"),
        ({"instructions": True}, "instructions"),
        ({"instructions": None}, "instructions"),
        ({"success": 1}, "success"),
        ({"success": "true"}, "success"),
        ({"wasm_sha256": "A" * 64}, "wasm_sha256"),
        ({"wasm_sha256": "a" * 64 + "\n"}, "wasm_sha256"),
        ({"caller": 5}, "caller"),
        ({"caller": "\ud800"}, "caller"),
        ({"error": "é" * 257}, "error"),
        ({"task_type": "compile"}, "task_type"),
        ({"network_id": None}, "network_id"),
    ],
)
def test_a_malformed_field_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        TaskRecordV2.from_json(MINIMAL.to_json() | change)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@given(value=JSON, name=st.sampled_from([*REQUIRED, *OPTIONAL]))
def test_any_json_is_a_record_or_a_record_error(value: Any, name: str) -> None:
    for given_value in (value, MINIMAL.to_json() | {name: value}):
        try:
            assert TaskRecordV2.from_json(given_value).leaf_hash()
        except RecordError as error:
            assert str(error)


@given(text=st.text())
def test_a_clipped_error_always_fits(text: str) -> None:
    assert replace(MINIMAL, error=records.clip_error(text)).leaf_hash()


# --- batches ---


def test_report_data_is_sha512_of_tag_size_and_root() -> None:
    root = bytes(range(32))
    expected = hashlib.sha512(b"outlayer/batch/v2" + (5).to_bytes(8, "big") + root).digest()
    assert records.report_data_v2(5, root) == expected
    assert records.report_data_v2(4, root) != expected


def test_a_lone_record_is_a_batch_of_one() -> None:
    tree, report_data = records.batch_report_data([MINIMAL])
    assert tree.proofs == ((),)
    assert report_data == records.report_data_v2(1, MINIMAL.leaf_hash())


@given(size=st.integers(1, 65536), root=st.binary(min_size=32, max_size=32), quote=st.binary(max_size=50))
def test_a_batch_travels_as_json(size: int, root: bytes, quote: bytes) -> None:
    batch = Batch(size, root, quote)
    assert Batch.from_json(json.loads(json.dumps(batch.to_json()))) == batch


@given(value=JSON, name=st.sampled_from(["version", "tree_size", "root", "quote", "more"]))
def test_any_json_is_a_batch_or_a_record_error(value: Any, name: str) -> None:
    good = Batch(1, bytes(32), b"q").to_json()
    for given_value in (value, good | {name: value}):
        try:
            assert Batch.from_json(given_value).to_json()["version"] == 2
        except RecordError as error:
            assert str(error)


def test_registration_binds_the_key_and_all_64_bytes() -> None:
    raw = bytes(range(32))
    assert records.registration_report_data(raw) == raw + bytes(32)
    assert records.registration_report_data(encode_ed25519_key(raw)) == raw + bytes(32)


def test_reverification_commits_to_contract_key_and_challenge() -> None:
    raw, challenge = bytes(range(32)), bytes(range(32, 64))
    data = records.reverification_report_data("worker.test", raw, challenge)
    preimage = b"outlayer/reverification/v1\0\0\0\0\x0bworker.test\0\0\0\x20" + raw
    assert data == hashlib.sha512(preimage + b"\0\0\0\x20" + challenge).digest()
    with pytest.raises(RecordError, match="32 bytes"):
        records.reverification_report_data("worker.test", raw, challenge[:31])


@given(raw=st.binary(min_size=32, max_size=32))
def test_keys_have_one_text(raw: bytes) -> None:
    assert decode_ed25519_key(encode_ed25519_key(raw)) == raw


@given(text=st.text(max_size=60) | st.text("123abcXYZ", max_size=60).map("ed25519:".__add__))
def test_any_text_is_a_key_or_a_record_error(text: str) -> None:
    try:
        assert encode_ed25519_key(decode_ed25519_key(text)) == text
    except RecordError as error:
        assert str(error)


def test_one_record_is_hashed_and_bound_within_a_tenth_of_a_millisecond() -> None:
    def seconds() -> float:
        start = time.perf_counter()
        for _ in range(100):
            records.batch_report_data([MINIMAL])
        return (time.perf_counter() - start) / 100

    assert min(seconds() for _ in range(20)) < 1e-4


def test_records_and_the_guest_client_import_nothing_heavy() -> None:
    code = (
        "import sys, outlayer_attestation.record, outlayer_attestation.dstack, outlayer_attestation.quote;"
        "print([m for m in ('pydantic', 'cryptography', 'dcap_qvl', 'structlog') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- V1 ---


def published(vectors: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((vectors / "outlayer/testnet-2008-chain.json").read_text())
    return value


def test_the_published_v1_record_verifies_under_intels_root(vectors: Path) -> None:
    value = published(vectors)
    record = TaskRecordV1.from_json(value)
    quote = base64.b64decode(value["tdx_quote"])
    assert layout.parse(quote).td_report.report_data == record.report_data()
    collateral = Collateral.from_json((vectors / "outlayer/our_collateral.json").read_text())
    root = (vectors / "dcap-qvl/TrustedRootCA.der").read_bytes()
    verdict = appraise(quote, collateral, root_ca_der=root, now=1_787_000_000)
    assert (verdict.outcome, verdict.status, verdict.simulated) == (Outcome.PASS, "UpToDate", False)


@pytest.mark.parametrize(
    "name",
    [
        "task_id",
        "repo_url",
        "commit_hash",
        "build_target",
        "wasm_hash",
        "input_hash",
        "output_hash",
        "block_height",
        "caller_account_id",
        "secrets_ref",
        "timestamp",
        "attached_usd",
    ],
)
def test_each_field_of_the_published_v1_record_is_bound(vectors: Path, name: str) -> None:
    value = published(vectors)
    before = TaskRecordV1.from_json(value).commitment()
    changed = value[name] + 1 if isinstance(value[name], int) else value[name] + "x"
    assert TaskRecordV1.from_json(value | {name: changed}).commitment() != before


def test_the_time_of_a_v1_record_decides_its_formula() -> None:
    record = TaskRecordV1(
        task_type="execute",
        task_id=1,
        output_hash="o",
        timestamp=records.V1_CUTOFF - 1,
        caller_account_id="alice.near",
    )
    old = hashlib.sha256(b"execute" + (1).to_bytes(8, "little") + b"o").digest()
    assert record.commitment() == old
    new = replace(record, timestamp=records.V1_CUTOFF)
    stamp = records.V1_CUTOFF.to_bytes(8, "little")
    expected = hashlib.sha256(b"execute" + (1).to_bytes(8, "little") + b"oalice.near" + stamp).digest()
    assert new.commitment() == expected


@given(value=JSON, name=st.sampled_from(["task_type", "task_id", "output_hash", "timestamp", "repo_url"]))
def test_any_json_is_a_v1_record_or_a_record_error(value: Any, name: str) -> None:
    good = {"task_type": "execute", "task_id": 1, "output_hash": "o", "timestamp": 1}
    for given_value in (value, good | {name: value}):
        try:
            assert len(TaskRecordV1.from_json(given_value).report_data()) == 64
        except RecordError as error:
            assert str(error)
