# SPDX-License-Identifier: MIT
"""Records that the original published: genuine ones are never called failed, and nothing in them is believed."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from outlayer_attestation import evidence, policy, testing
from outlayer_attestation.appraisal import INTEL_ROOT_CA_SHA256
from outlayer_attestation.checks import Outcome
from outlayer_attestation.collateral import Collateral
from outlayer_attestation.errors import AttestationError
from outlayer_attestation.intel_root import INTEL_ROOT_CA_DER
from outlayer_attestation.original import (
    V1_SCHEME,
    ambiguous_fields,
    appraise_original,
    is_format_1,
    read_bundle_1,
    read_record,
    read_records,
)
from outlayer_attestation.platform.machine import SoftwarePlatform
from outlayer_attestation.record import V1_CUTOFF, TaskRecordV1, sha256_hex

from .cases import REPOSITORY, Path_, changed, check_of, document, leaves, signed

NOW = testing.NOW
INPUT, OUTPUT = '{"city":"Paris"}', '{"a":1,"b":[true,null]}'
FIELDS: dict[str, Any] = {
    "task_id": 2008,
    "task_type": "execute",
    "caller_account_id": "alice.near",
    "block_height": 261_245_882,
    "repo_url": "https://github.com/someone/weather",
    "commit_hash": "main",
    "build_target": "wasm32-wasip2",
    "wasm_hash": sha256_hex(b"wasm"),
    "input_hash": sha256_hex(INPUT.encode()),
    "output_hash": sha256_hex(OUTPUT.encode()),
    "secrets_ref": "bob.near/default",
    "attached_usd": "0",
    "timestamp": NOW,
}
V1_POLICY = signed(document() | {"report_data": {"scheme": V1_SCHEME, "max_age_seconds": 300}})


def publish(machine: SoftwarePlatform, **changes: Any) -> dict[str, Any]:
    """A record as the original's API answers it, with a quote that commits to it."""
    value = {name: item for name, item in (FIELDS | changes).items() if item is not None}
    data = TaskRecordV1.from_json(value).report_data()
    quote = testing.quote_with(machine, testing.Faults(td={"report_data": data}))
    return {
        "id": 1263,
        "tdx_quote": base64.b64encode(quote).decode(),
        "worker_measurement": testing.MEASUREMENTS.rtmr3,
        "request_id": 569,
        "transaction_hash": "HBZiBDSwok8mfSpQi7cvUHvgb8GHFK8xefvj5U1k29N",
        **value,
    }


def bundle_of(machine: SoftwarePlatform, **changes: Any) -> dict[str, Any]:
    """A bundle of format 1."""
    return {
        "bundle_format": 1,
        "how_to_verify": "verify bundle <this file>",
        "network": "mainnet",
        "attestation": publish(machine, **changes) | {"call_id": None, "project_id": None},
        "collateral": json.dumps(collateral(machine).to_json()),
        "collateral_info": {"fmspc": "b0c06f000000", "covers_execution_time": True},
        "register_contract": "worker.near",
        "measurements_approved": True,
        "input_raw": INPUT,
        "output": json.loads(OUTPUT),
        "verification": {"identity": {"verdict": "pass"}},
    }


def collateral(machine: SoftwarePlatform, **faults: Any) -> Collateral:
    return testing.collateral_with(machine, testing.Faults(**faults))


def known(*items: Collateral) -> list[evidence.KnownCollateral]:
    return [evidence.KnownCollateral(f"file {number}", item) for number, item in enumerate(items)]


def judge(
    machine: SoftwarePlatform,
    value: Any,
    *,
    by: policy.Policy | None = V1_POLICY,
    collaterals: list[evidence.KnownCollateral] | None = None,
    now: int = NOW + 3600,
) -> evidence.Verdict:
    given_ones = known(collateral(machine)) if collaterals is None else collaterals
    return appraise_original(value, evidence.TrustAnchors(root_ca_der=machine.root_der), by, now, given_ones)


def with_payload(value: dict[str, Any]) -> dict[str, Any]:
    return {
        "bundle_format": 1,
        "network": "mainnet",
        "attestation": value,
        "input_raw": INPUT,
        "output_raw": OUTPUT,
    }


# --- genuine records ---


def test_a_genuine_record_with_its_payload_is_proven_by_ones_own_policy(machine: SoftwarePlatform) -> None:
    verdict = judge(machine, with_payload(publish(machine)))
    assert (verdict.outcome, verdict.failing()) == (Outcome.PASS, ())
    assert verdict.judged_at == NOW
    assert verdict.tcb_status == "UpToDate"


def test_the_published_record_is_unproven_and_not_failed_by_collateral_of_another_period(
    vectors: Path,
) -> None:
    value = (vectors / "outlayer/testnet-2008-chain.json").read_bytes()
    given_one = Collateral.from_json((vectors / "outlayer/our_collateral.json").read_text())
    (published,) = read_records(value)
    trust = evidence.TrustAnchors(root_ca_der=INTEL_ROOT_CA_DER)
    verdict = appraise_original(published, trust, None, 1_790_000_000, known(given_one))
    assert verdict.named(Outcome.FAIL) == ()
    assert check_of(verdict, "Platform/collateral_window").reason == "collateral_not_of_that_time"
    assert verdict.layer(evidence.Layer.BINDING).outcome is Outcome.PASS
    assert not verdict.simulated
    assert check_of(verdict, "Identity/worker_measurement").outcome is Outcome.PASS
    assert "transaction_hash" in check_of(verdict, "Binding/uncovered_fields").detail


def test_intels_root_is_the_pinned_one() -> None:
    assert hashlib.sha256(INTEL_ROOT_CA_DER).hexdigest() == INTEL_ROOT_CA_SHA256
    contracts_own = REPOSITORY / "contracts/crates/quote-verify/src/intel_root_ca.der"
    assert contracts_own.read_bytes() == INTEL_ROOT_CA_DER


def test_a_record_under_another_root_than_the_trusted_one_fails(machine: SoftwarePlatform) -> None:
    trust = evidence.TrustAnchors(root_ca_der=INTEL_ROOT_CA_DER)
    verdict = appraise_original(publish(machine), trust, None, NOW + 1, known(collateral(machine)))
    assert "Platform/pck_chain" in verdict.named(Outcome.FAIL)


def test_several_records_of_one_file_are_read_one_by_one(machine: SoftwarePlatform) -> None:
    first, second = publish(machine), publish(machine, task_id=7)
    for value in ([first, second], {"items": [first, second]}):
        assert [item.record.task_id for item in read_records(json.dumps(value))] == [2008, 7]


# --- time ---


def test_a_record_stays_proven_by_the_collateral_of_its_time(machine: SoftwarePlatform) -> None:
    verdict = judge(machine, with_payload(publish(machine)), now=NOW + 10 * 365 * 86_400)
    assert (verdict.outcome, verdict.failing()) == (Outcome.PASS, ())


def test_collateral_of_another_period_leaves_the_platform_unproven(machine: SoftwarePlatform) -> None:
    day = timedelta(days=1)
    later = collateral(machine, tcb_age=-40 * day, qe_age=-40 * day, crl_age=-40 * day)
    verdict = judge(machine, publish(machine), collaterals=known(later), now=NOW + 41 * 86400)
    assert check_of(verdict, "Platform/collateral_window").reason == "collateral_not_of_that_time"
    assert verdict.named(Outcome.FAIL) == ()


def test_a_certificate_that_the_newest_collateral_revokes_fails_an_old_record(
    machine: SoftwarePlatform,
) -> None:
    day = timedelta(days=1)
    newest = collateral(
        machine, tcb_age=-20 * day, qe_age=-20 * day, crl_age=-20 * day, platform_ca_revokes=("pck",)
    )
    good = known(collateral(machine))
    assert "Platform/revocation_known" not in judge(machine, publish(machine), collaterals=good).failing()
    verdict = judge(machine, publish(machine), collaterals=[*good, *known(newest)], now=NOW + 21 * 86400)
    assert "Platform/revocation_known" in verdict.named(Outcome.FAIL)


def test_without_collateral_the_platform_is_unproven(machine: SoftwarePlatform) -> None:
    verdict = judge(machine, publish(machine), collaterals=[])
    assert check_of(verdict, "Platform/collateral_window").reason == "no_collateral"
    assert verdict.exit_code == 2


def test_a_record_of_the_future_fails(machine: SoftwarePlatform) -> None:
    assert "Platform/clock" in judge(machine, publish(machine), now=NOW - 301).named(Outcome.FAIL)
    assert "Platform/clock" not in judge(machine, publish(machine), now=NOW - 300).failing()


@pytest.mark.parametrize(("age", "holds"), [(0, True), (1, True), (-1, False)])
def test_time_decides_the_formula_never_trying(machine: SoftwarePlatform, age: int, holds: bool) -> None:
    """A quote over the newer fields proves nothing once the record is dated before them, and the other way round."""
    value = publish(machine, timestamp=V1_CUTOFF)
    verdict = judge(machine, value | {"timestamp": V1_CUTOFF + age} if age < 0 else value)
    assert (check_of(verdict, "Binding/report_data").outcome is Outcome.PASS) is holds


def test_fields_that_an_older_record_does_not_hash_are_named(machine: SoftwarePlatform) -> None:
    value = publish(machine, timestamp=V1_CUTOFF - 1)
    verdict = judge(machine, value | {"caller_account_id": "mallory.near"})
    assert check_of(verdict, "Binding/report_data").outcome is Outcome.PASS
    uncovered = check_of(verdict, "Binding/uncovered_fields")
    assert uncovered.outcome is Outcome.STATED
    for name in ("caller_account_id", "secrets_ref", "attached_usd", "timestamp", "transaction_hash"):
        assert name in uncovered.detail
    assert "input_hash" not in uncovered.detail


# --- approval ---


def test_a_flag_of_approval_is_stated_and_decides_nothing(machine: SoftwarePlatform) -> None:
    for flag in (True, False):
        verdict = judge(machine, bundle_of(machine) | {"measurements_approved": flag}, by=None)
        check = check_of(verdict, "Approval/measurements_approved")
        assert (check.outcome, check.detail) == (Outcome.STATED, str(flag))
        assert verdict.layer(evidence.Layer.APPROVAL).outcome is Outcome.UNPROVEN
        assert check_of(verdict, "Identity/mrtd").outcome is Outcome.UNPROVEN


def test_measurements_that_the_policy_does_not_name_fail(machine: SoftwarePlatform) -> None:
    made = document() | {"report_data": {"scheme": V1_SCHEME, "max_age_seconds": 300}}
    made["measurements"] = [entry | {"rtmr1": "1" * 96} for entry in made["measurements"]]
    verdict = judge(machine, publish(machine), by=signed(made))
    assert "Approval/policy_measurements" in verdict.named(Outcome.FAIL)


def test_a_policy_of_another_role_or_scheme_proves_no_record(machine: SoftwarePlatform) -> None:
    batch = judge(machine, with_payload(publish(machine)), by=signed(document()))
    assert batch.failing() == ("Binding/report_data_scheme",)
    assert batch.exit_code == 2
    other_role = signed(
        document() | {"role": "coordinator", "report_data": {"scheme": V1_SCHEME, "max_age_seconds": 300}}
    )
    assert "Approval/policy_role" in judge(machine, publish(machine), by=other_role).named(Outcome.FAIL)


# --- the quote and what is said of it ---


def test_a_worker_measurement_of_other_bytes_is_a_finding_that_says_which(
    machine: SoftwarePlatform,
) -> None:
    value = publish(machine)
    quote = base64.b64decode(value["tdx_quote"])
    for offset in (223, 256):
        wrong = value | {"worker_measurement": quote[offset : offset + 48].hex()}
        verdict = judge(machine, with_payload(wrong))
        check = check_of(verdict, "Identity/worker_measurement")
        assert (check.outcome, check.reason) == (Outcome.UNPROVEN, "not_the_quotes_rtmr3")
        assert f"offset {quote.find(quote[offset : offset + 48])}" in check.detail
        assert verdict.failing() == ("Identity/worker_measurement",)
    nowhere = judge(machine, value | {"worker_measurement": "ab" * 48})
    assert "nowhere" in check_of(nowhere, "Identity/worker_measurement").detail


def test_a_development_placeholder_is_called_that(machine: SoftwarePlatform) -> None:
    text = base64.b64encode(b"no-attestation-dev-mode").decode()
    verdict = judge(machine, publish(machine) | {"tdx_quote": text})
    assert check_of(verdict, "Platform/quote_present").reason == "development_placeholder"
    assert verdict.exit_code == 1


# --- payload ---


def test_json_payloads_are_hashed_as_the_original_spells_them(machine: SoftwarePlatform) -> None:
    text = '{"z":1,"a":"é"}'
    value = publish(
        machine, input_hash=sha256_hex(text.encode()), output_hash=sha256_hex('{"a":"é","z":1}'.encode())
    )
    bundle = {"bundle_format": 1, "network": "n", "attestation": value}
    both = bundle | {"input": json.loads(text), "output": json.loads(text)}
    assert judge(machine, both).layer(evidence.Layer.PAYLOAD).outcome is Outcome.PASS
    swapped = bundle | {"input": {"a": "é", "z": 1}, "output": json.loads(text)}
    assert "Payload/input" in judge(machine, swapped).named(Outcome.FAIL)


def test_json_with_fractions_that_differs_is_unproven_since_its_spelling_is_not_known(
    machine: SoftwarePlatform,
) -> None:
    bundle = {"bundle_format": 1, "network": "n", "attestation": publish(machine), "input": {"t": 1e300}}
    assert check_of(judge(machine, bundle), "Payload/input").reason == "spelling_not_known"


def test_an_execution_without_output_needs_no_bytes(machine: SoftwarePlatform) -> None:
    for nothing in (b"", b"[EXECUTION-FAILED]"):
        value = publish(machine, output_hash=sha256_hex(nothing))
        assert check_of(judge(machine, value), "Payload/output").reason == "no_output"


# --- every leaf ---


def documented() -> set[str]:
    text = (REPOSITORY / "docs/reference/original-records.md").read_text()
    section = text.split("## What no check covers")[1]
    return set(re.findall(r"^\| `([a-z0-9_.]+)` \|", section, flags=re.MULTILINE))


def variants(value: Any) -> list[Any]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1, value + 10**9]
    if isinstance(value, str):
        return [value + "x", value[:-1], ("A" if value[:1] != "A" else "B") + value[1:]]
    return [1, "x"]


def member(path: Path_) -> str:
    """The documented name that a leaf goes by."""
    names = [str(part) for part in path]
    return names[1] if names[0] == "attestation" else names[0]


def test_every_leaf_of_a_published_record_is_covered_or_documented(machine: SoftwarePlatform) -> None:
    bundle = bundle_of(machine)
    assert judge(machine, bundle, collaterals=[]).exit_code == 0
    free = documented()
    passing = set()
    for path, value in leaves(bundle):
        name = member(path)
        if name in (
            "tdx_quote",
            "collateral",
        ):  # their own mutations are those of the quote and of the evidence
            continue
        for other in variants(value):
            if judge(machine, changed(bundle, path, other), collaterals=[]).outcome is Outcome.PASS:
                passing.add(name)
    assert passing - free == set()
    assert free - passing <= {"call_id"}  # null in this bundle, and another value of it is no mutation


def test_every_bit_of_a_records_quote_counts(machine: SoftwarePlatform) -> None:
    value = publish(machine)
    quote = base64.b64decode(value["tdx_quote"])
    for offset in range(0, len(quote) - 1, 97):
        wrong = testing.flipped(offset)(quote)
        if same_certificates(quote, wrong):
            continue
        verdict = judge(machine, with_payload(value | {"tdx_quote": base64.b64encode(wrong).decode()}))
        assert verdict.outcome is not Outcome.PASS, offset


def same_certificates(first: bytes, second: bytes) -> bool:
    try:
        return testing.same_but_for_pem(first, second)
    except (AttestationError, ValueError):
        return False


# --- ambiguity ---

TEXT = st.text("abc/.", max_size=6)
MAYBE = st.none() | TEXT.filter(bool)
DIGEST = st.sampled_from(["ab" * 32, "cd" * 32, "0" * 64])


@st.composite
def v1_records(draw: st.DrawFn) -> TaskRecordV1:
    return TaskRecordV1(
        task_type="execute",
        task_id=draw(st.integers(0, 9)),
        repo_url=draw(MAYBE),
        commit_hash=draw(MAYBE),
        build_target=draw(MAYBE),
        wasm_hash=draw(st.none() | DIGEST),
        input_hash=draw(st.none() | DIGEST),
        output_hash=draw(DIGEST),
        block_height=draw(st.none() | st.just(261_245_882)),
        caller_account_id=draw(MAYBE),
        project_id=draw(MAYBE),
        secrets_ref=draw(MAYBE),
        attached_usd=draw(st.none() | st.just("0")),
        timestamp=draw(st.sampled_from([V1_CUTOFF - 1, V1_CUTOFF])),
    )


MOVES = ["repo_url", "commit_hash", "build_target", "wasm_hash", "input_hash", "output_hash"]
CALLERS = ["caller_account_id", "project_id", "secrets_ref"]


@settings(max_examples=300)
@given(record=v1_records(), data=st.data())
def test_a_field_that_another_record_of_the_same_hash_has_otherwise_is_named(
    record: TaskRecordV1, data: st.DataObject
) -> None:
    """Text moves between two fields, in either direction, wherever all fields between them are absent."""
    newer = record.timestamp >= V1_CUTOFF
    names = data.draw(st.sampled_from([MOVES, CALLERS, MOVES + CALLERS] if newer else [MOVES]))
    first = data.draw(st.integers(0, len(names) - 2))
    second = data.draw(st.integers(first + 1, len(names) - 1))
    left, right = names[first], names[second]
    joined = (getattr(record, left) or "") + (getattr(record, right) or "")
    cut = data.draw(st.integers(0, len(joined)))
    moved = {left: joined[:cut] or None, right: joined[cut:] or None}
    assume(all(len(moved.get(name) or "0" * 64) == 64 for name in ("wasm_hash", "input_hash")))
    assume(len(moved.get("output_hash", "0" * 64) or "") == 64)
    other = replace(record, **moved)
    if other.commitment() == record.commitment() and other != record:
        assert {left, right} <= set(ambiguous_fields(record))


def test_fields_that_can_be_read_in_one_way_only_are_not_named() -> None:
    lone = TaskRecordV1(
        task_type="execute", task_id=1, output_hash="0" * 64, timestamp=V1_CUTOFF, block_height=5
    )
    assert ambiguous_fields(lone) == ()
    assert ambiguous_fields(replace(lone, attached_usd="10")) == ()
    caller = replace(lone, caller_account_id="a.near")
    assert ambiguous_fields(caller) == ("caller_account_id", "project_id", "secrets_ref")
    assert "output_hash" not in ambiguous_fields(replace(lone, repo_url="r", input_hash="1" * 64))
    assert ambiguous_fields(replace(lone, task_type="executf"))[:2] == ("task_type", "task_id")


def test_without_a_block_height_even_the_output_can_be_read_as_the_callers_name() -> None:
    record = TaskRecordV1(
        task_type="execute", task_id=1, wasm_hash="a" * 64, output_hash="b" * 64, timestamp=V1_CUTOFF
    )
    other = replace(record, wasm_hash=None, output_hash="a" * 64, caller_account_id="b" * 64)
    assert other.commitment() == record.commitment()
    assert {"wasm_hash", "output_hash", "caller_account_id"} <= set(ambiguous_fields(record))
    assert "output_hash" not in ambiguous_fields(replace(record, block_height=5))


def test_the_same_hash_really_has_two_readings() -> None:
    base = TaskRecordV1(
        task_type="execute", task_id=1, output_hash="0" * 64, timestamp=V1_CUTOFF, block_height=5
    )
    caller, project = replace(base, caller_account_id="a.near"), replace(base, project_id="a.near")
    assert caller.commitment() == project.commitment()


@pytest.mark.parametrize("name", ["repo_url", "caller_account_id", "task_type", "secrets_ref"])
def test_control_characters_which_would_move_numbers_are_refused(
    machine: SoftwarePlatform, name: str
) -> None:
    verdict = judge(machine, publish(machine) | {name: "execute\0"})
    assert check_of(verdict, "Binding/record_format").reason == "malformed"


@pytest.mark.parametrize(
    "change", [{"timestamp": 2**56}, {"timestamp": -1}, {"block_height": 2**56}, {"task_id": -2}]
)
def test_numbers_beyond_any_real_value_are_refused(machine: SoftwarePlatform, change: dict[str, Any]) -> None:
    verdict = judge(machine, publish(machine) | change)
    assert check_of(verdict, "Binding/record_format").reason == "malformed"


# --- any bytes ---

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=JSON, data=st.data())
def test_any_json_in_any_member_gives_a_verdict(
    machine: SoftwarePlatform, value: Any, data: st.DataObject
) -> None:
    bundle = BUNDLES.setdefault(id(machine), bundle_of(machine))
    inside = data.draw(st.booleans())
    names = sorted(bundle["attestation"] if inside else bundle)
    name = data.draw(st.sampled_from(names))
    path = ("attestation", name) if inside else (name,)
    for item in (value, changed(bundle, path, value)):
        verdict = judge(machine, item, collaterals=[])
        assert verdict.exit_code in (0, 1, 2)
        assert isinstance(json.dumps(verdict.to_json()), str)


BUNDLES: dict[int, dict[str, Any]] = {}


@given(content=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_records_or_an_error_of_the_package(content: bytes) -> None:
    for read in (read_records, read_bundle_1):
        try:
            assert read(content)
        except AttestationError as error:
            assert str(error)


@pytest.mark.parametrize(
    "text",
    ['{"a":1,"a":2}', "[]", "[1]", '{"items":[]}', "NaN", "[" * 100_000, "\ud800", '{"tdx_quote":"QQ=="}'],
)
def test_what_is_not_a_record_is_refused(text: str) -> None:
    with pytest.raises(AttestationError):
        read_records(text)


def test_other_formats_are_not_format_1(machine: SoftwarePlatform) -> None:
    for other in (2, "1", True, 1.0, None):
        assert not is_format_1({"bundle_format": other})
        with pytest.raises(AttestationError, match="format 1"):
            read_bundle_1(bundle_of(machine) | {"bundle_format": other})


def test_unknown_members_of_a_bundle_are_refused_and_of_a_record_named(machine: SoftwarePlatform) -> None:
    with pytest.raises(AttestationError, match="unknown"):
        read_bundle_1(bundle_of(machine) | {"approved": True})
    assert "approved" in read_record(publish(machine) | {"approved": True}).uncovered
