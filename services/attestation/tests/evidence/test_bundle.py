# SPDX-License-Identifier: MIT
"""Evidence bundles: a true one is proven, every change of one is found and named."""

from __future__ import annotations

import base64
import copy
import json
import re
import socket
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outlayer_attestation import evidence, merkle, testing
from outlayer_attestation import quote as layout
from outlayer_attestation.checks import Outcome
from outlayer_attestation.platform.machine import SoftwarePlatform
from outlayer_attestation.record import Batch, batch_report_data, sha256_hex

from .cases import (
    POLICY,
    REPOSITORY,
    Path_,
    T,
    chain_word,
    changed,
    document,
    judge,
    leaves,
    local_policy,
    make,
    of_a_call,
    record,
    signed,
    trust,
    with_collaterals,
)

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@pytest.fixture(scope="module")
def bundle(machine: SoftwarePlatform) -> dict[str, Any]:
    return make(machine)


# --- a true bundle ---


def test_a_true_bundle_is_proven_and_says_simulated(
    machine: SoftwarePlatform, bundle: dict[str, Any]
) -> None:
    verdict = judge(machine, bundle)
    assert (verdict.outcome, verdict.exit_code, verdict.failing()) == (Outcome.PASS, 0, ())
    assert verdict.simulated
    assert verdict.tcb_status == "UpToDate"
    assert [layer.layer for layer in verdict.layers if not layer.asked] == list(evidence.NOT_ASKED)
    assert verdict.to_json()["layers"]["Source"] == "not asked: outlayer audit"


def test_a_bundle_is_judged_with_no_network(
    machine: SoftwarePlatform, bundle: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert judge(machine, json.dumps(bundle)).exit_code == 0


def test_a_bundle_stays_proven_years_later(machine: SoftwarePlatform, bundle: dict[str, Any]) -> None:
    assert judge(machine, bundle, now=T + 10 * 365 * 86_400).outcome is Outcome.PASS


def test_text_bytes_and_object_give_the_same_verdict(
    machine: SoftwarePlatform, bundle: dict[str, Any]
) -> None:
    text = json.dumps(bundle)
    assert judge(machine, bundle) == judge(machine, text) == judge(machine, text.encode())


# --- the mutation table ---


def variants(value: Any) -> list[Any]:
    """Other values of the same kind (and one of another)."""
    if isinstance(value, bool):
        return [not value, None]
    if isinstance(value, int):
        return [value + 1, value - 1, value + 10**9, 0, str(value), None] if value > 0 else [1, 10**9, None]
    if not isinstance(value, str):
        return [1, "x"]
    found = [value + "x", "", 1, None]
    if re.fullmatch(r"[0-9a-fA-F]{2,}", value):
        flipped = format(int(value[0], 16) ^ 1, "x") + value[1:]
        found = [flipped, value[:-1] + format(int(value[-1], 16) ^ 8, "x"), value + "00", *found]
    else:
        found = [("A" if value[:1] != "A" else "B") + value[1:], *found]
    return found


def dotted(path: Path_) -> str:
    return ".".join(key for key in map(str, path) if not key.isdigit())


def expected_check(path: Path_) -> tuple[str, ...]:
    """The check (or the checks) that must be among those that fail when this leaf changes in value."""
    name = dotted(path)
    table = {
        "bundle_format": ("Binding/bundle_format",),
        "simulated": ("Platform/simulated_flag",),
        "record": ("Binding/inclusion_proof", "Binding/not_after"),
        "leaf_index": ("Binding/inclusion_proof",),
        "inclusion_proof": ("Binding/inclusion_proof",),
        "batch.version": ("Binding/bundle_format",),
        "batch.tree_size": ("Binding/report_data",),
        "batch.root": ("Binding/report_data", "Binding/inclusion_proof"),
        "batch.quote": ("Platform/quote_layout",),
        "collaterals.collateral": ("Platform/collaterals_genuine", "Approval/collateral_on_chain"),
        "root_ca_sha256": ("Platform/root_of_trust",),
        "approval.now.block_height": ("Approval/chain_word",),
        "approval.anchor.block_height": ("Approval/chain_word_at_anchor",),
        "approval.anchor.block_hash": ("Approval/chain_word_at_anchor",),
        "chain.anchor": ("Binding/not_before",),
        "chain.settlement.record_sha256": ("Binding/not_after",),
        "chain.settlement.transaction_hash": ("Binding/not_after",),
        "chain.settlement.block_height": ("Approval/chain_word_at_settlement",),
        "chain.settlement.block_hash": ("Approval/chain_word_at_settlement",),
        "approval.settlement.block_height": ("Approval/chain_word_at_settlement",),
        "approval.settlement.block_hash": ("Approval/chain_word_at_settlement",),
        "chain.request.transaction_hash": ("Binding/chain_transaction",),
        "chain.request.receipt_id": ("Binding/chain_receipt",),
        "chain.request.request_id": ("Binding/chain_request",),
        "chain.request.predecessor_id": ("Binding/chain_caller",),
        "chain.request.signer_id": ("Binding/chain_signer",),
        "chain.request.project_id": ("Binding/chain_project",),
        "chain.request.block_height": ("Binding/chain_block",),
        "payload.input_base64": ("Payload/input",),
        "payload.output_base64": ("Payload/output",),
    }
    for when in ("now", "anchor", "settlement"):
        table |= {
            f"approval.{when}.contract": ("Approval/register_contract",),
            f"approval.{when}.network_id": ("Approval/network",),
            f"approval.{when}.collateral_sha256": ("Approval/collateral_on_chain",),
            f"approval.{when}.worker_key.public_key": ("Approval/worker_key",),
            f"approval.{when}.worker_key.role": ("Approval/worker_key_role",),
            f"approval.{when}.worker_key.measurement_set": ("Approval/worker_key_measurements",),
            f"approval.{when}.measurement_set.id": ("Approval/worker_key_measurements",),
            f"approval.{when}.worker_key.measurements": ("Approval/worker_key_measurements",),
            f"approval.{when}.measurement_set.measurements": ("Approval/worker_key_measurements",),
            f"approval.{when}.measurement_set.role": ("Approval/measurement_set_role",),
            f"approval.{when}.worker_key.tcb_status": ("Approval/worker_key_tcb",),
            f"approval.{when}.worker_key.fmspc": ("Approval/worker_key_fmspc",),
        }
    for when in ("anchor", "settlement"):
        table |= {
            f"approval.{when}.measurement_set.id": ("Approval/worker_key_measurements",),
            f"approval.{when}.measurement_set.measurements": ("Approval/worker_key_measurements",),
            f"approval.{when}.worker_key.measurement_set": ("Approval/worker_key_measurements",),
            f"approval.{when}.worker_key.measurements": ("Approval/worker_key_measurements",),
        }
    for register in ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"):
        table[f"approval.anchor.measurement_set.measurements.{register}"] = (f"Identity/{register}",)
    longest = max((key for key in table if name == key or name.startswith(f"{key}.")), key=len, default=None)
    assert longest is not None, f"no check is expected to cover {name}"
    return table[longest]


def documented() -> set[str]:
    """The members that docs/reference/evidence.md says no check covers."""
    text = (REPOSITORY / "docs/reference/evidence.md").read_text()
    section = text.split("## What no check covers")[1]
    return set(re.findall(r"^\| `([a-z0-9_.*]+)` \|", section, flags=re.MULTILINE))


def covering(path: Path_, names: set[str]) -> str | None:
    """The documented member that this leaf belongs to."""
    parts = dotted(path).split(".")
    for name in names:
        wanted = name.split(".")
        if len(wanted) <= len(parts) and all(map(lambda one, two: one in ("*", two), wanted, parts)):
            return name
    return None


@pytest.mark.parametrize("kind", ["request", "call"])
def test_every_leaf_of_a_bundle_is_covered_or_documented(machine: SoftwarePlatform, kind: str) -> None:
    names = documented()
    whole = make(machine) if kind == "request" else of_a_call(machine)
    uncovered: set[str] = set()
    for path, value in leaves(whole):
        listed = covering(path, names)
        for variant in variants(value):
            if path == ("batch", "quote") and variant == value + "00":
                continue  # zero padding: the documented encodings have a test of their own
            verdict = judge(machine, changed(whole, path, variant), asked=False)
            if verdict.outcome is Outcome.PASS:
                uncovered.add(listed or f"NOT LISTED: {dotted(path)}")
            elif listed is None and variant is not None:
                assert verdict.exit_code == 1, (path, variant, verdict.failing())
    of_requests = {name for name in names if name.startswith(("chain.settlement", "chain.request"))}
    expected = names if kind == "request" else names - of_requests
    assert uncovered == expected - {"receipt"}


def test_each_change_of_value_is_named_by_the_right_check(
    machine: SoftwarePlatform, bundle: dict[str, Any]
) -> None:
    names = documented()
    seen = set()
    for path, value in leaves(bundle):
        if covering(path, names) is not None:
            continue
        verdict = judge(machine, changed(bundle, path, variants(value)[0]), asked=False)
        failing = verdict.failing()
        wanted = expected_check(path)
        # a change that leaves the strict format is caught when the bundle is read
        if failing and failing[0].endswith("bundle_format"):
            wanted = ("Binding/bundle_format",)
        assert set(wanted) <= set(failing), (path, failing)
        seen.add(path[0])
    assert seen == set(bundle) - {"receipt"}


@pytest.mark.parametrize(
    ("name", "offset", "check"),
    [
        ("version", 0, "Platform/quote_layout"),
        ("vendor id", 12, "Platform/quote_signature"),
        ("user data", 40, "Platform/quote_signature"),
        ("TEE_TCB_SVN", 48, "Platform/quote_signature"),
        ("MRSEAM", 64, "Platform/quote_signature"),
        ("TDATTRIBUTES", 168, "Platform/td_attributes"),
        ("XFAM", 176, "Platform/xfam"),
        ("MRTD", layout.MRTD_OFFSET, "Identity/mrtd"),
        ("MRCONFIGID", 232, "Approval/mr_config_id"),
        ("MROWNER", 280, "Platform/mr_owner"),
        ("RTMR0", layout.RTMR0_OFFSET, "Identity/rtmr0"),
        ("RTMR1", layout.RTMR1_OFFSET, "Identity/rtmr1"),
        ("RTMR2", layout.RTMR2_OFFSET, "Identity/rtmr2"),
        ("RTMR3", layout.RTMR3_OFFSET, "Identity/rtmr3"),
        ("REPORTDATA", layout.REPORT_DATA_OFFSET, "Binding/report_data"),
        ("REPORTDATA end", layout.REPORT_DATA_OFFSET + 63, "Binding/report_data"),
        ("auth data length", 632, "Platform/quote_layout"),
        ("quote signature r", 640, "Platform/quote_signature"),
        ("quote signature s", 680, "Platform/quote_signature"),
        ("attestation key", 710, "Platform/attestation_key_binding"),
        ("certification type", 764, "Platform/certification_data_type"),
        ("QE report", 780, "Platform/qe_report_signature"),
        ("QE report signature", 1160, "Platform/qe_report_signature"),
        ("QE auth data", 1225, "Platform/attestation_key_binding"),
        ("inner certification type", 1252, "Platform/pck_chain"),
        ("PCK certificate", 1700, "Platform/pck_chain"),
        ("PCK CA certificate", 3000, "Platform/pck_chain"),
        ("root certificate", 4200, "Platform/pck_chain"),
    ],
)
def test_a_changed_byte_of_the_quote_is_named(
    machine: SoftwarePlatform, bundle: dict[str, Any], name: str, offset: int, check: str
) -> None:
    quote = bytes.fromhex(bundle["batch"]["quote"])
    mutated = changed(bundle, ("batch", "quote"), testing.flipped(offset)(quote).hex())
    verdict = judge(machine, mutated)
    assert verdict.exit_code == 1, name
    assert check in verdict.failing()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_of_the_quote_fails(
    machine: SoftwarePlatform, bundle: dict[str, Any], data: st.DataObject
) -> None:
    quote = bytearray.fromhex(bundle["batch"]["quote"])
    bit = data.draw(st.integers(0, len(quote) * 8 - 1))
    quote[bit // 8] ^= 1 << (bit % 8)
    failed = judge(machine, changed(bundle, ("batch", "quote"), quote.hex())).exit_code == 1
    assert failed or testing.same_but_for_pem(bytes.fromhex(bundle["batch"]["quote"]), bytes(quote))


def test_unsigned_encodings_of_a_quote_give_the_same_verdict_as_documented(
    machine: SoftwarePlatform, bundle: dict[str, Any]
) -> None:
    quote = bytes.fromhex(bundle["batch"]["quote"])
    other_s = P256_ORDER - int.from_bytes(quote[668:700], "big")
    mirrored = quote[:668] + other_s.to_bytes(32, "big") + quote[700:]
    for same in (quote + bytes(70), mirrored):
        assert judge(machine, changed(bundle, ("batch", "quote"), same.hex())).outcome is Outcome.PASS


@pytest.mark.parametrize("member", sorted(evidence.Bundle.__dataclass_fields__.keys() - {"input", "output"}))
def test_a_missing_member_is_a_failure(
    machine: SoftwarePlatform, bundle: dict[str, Any], member: str
) -> None:
    verdict = judge(machine, {key: value for key, value in bundle.items() if key != member})
    assert verdict.failing()[0].endswith("bundle_format")
    assert verdict.exit_code == 1


@pytest.mark.parametrize(
    ("member", "version"),
    [("bundle_format", 1), ("bundle_format", 3), ("bundle_format", "2"), ("bundle_format", True)],
)
def test_an_unknown_version_is_refused_not_guessed(
    machine: SoftwarePlatform, bundle: dict[str, Any], member: str, version: Any
) -> None:
    assert "Binding/bundle_format" in judge(machine, bundle | {member: version}).failing()


def test_unknown_members_and_duplicate_keys_are_refused(
    machine: SoftwarePlatform, bundle: dict[str, Any]
) -> None:
    assert judge(machine, bundle | {"extra": 1}).exit_code == 1
    text = json.dumps(bundle)
    twice = text[:-1] + ', "simulated": true}'
    verdict = judge(machine, twice)
    assert verdict.exit_code == 1
    assert "twice" in verdict.layer(evidence.Layer.BINDING).checks[0].detail


# --- what cannot be decided ---


def test_absent_payloads_are_unproven(machine: SoftwarePlatform, bundle: dict[str, Any]) -> None:
    nothing = {"input_base64": None, "output_base64": None}
    verdict = judge(machine, bundle | {"payload": nothing})
    assert verdict.failing() == ("Payload/input", "Payload/output")
    assert verdict.exit_code == 2


def test_an_absent_approval_is_unproven(machine: SoftwarePlatform, bundle: dict[str, Any]) -> None:
    verdict = judge(machine, bundle | {"approval": None})
    assert verdict.failing() == ("Approval/chain_word",)
    assert verdict.exit_code == 2


def test_without_a_policy_approval_is_unproven_and_r12_still_counts(
    machine: SoftwarePlatform, bundle: dict[str, Any]
) -> None:
    assert judge(machine, bundle, by=None).failing() == ("Approval/policy_signature",)
    old = make(machine, testing.Faults(status="OutOfDate", advisories=("INTEL-SA-00837",)))
    assert {"Platform/tcb_status", "Platform/advisories"} <= set(judge(machine, old, by=None).failing())


def test_names_that_nobody_expects_are_unproven(machine: SoftwarePlatform, bundle: dict[str, Any]) -> None:
    bare = evidence.TrustAnchors(root_ca_der=machine.root_der)
    verdict = evidence.appraise(bundle, bare, POLICY, T + 60, asked=True)
    assert verdict.failing() == ("Approval/network", "Approval/main_contract", "Approval/register_contract")
    assert verdict.exit_code == 2


# --- what contradicts ---


def test_a_set_on_chain_that_the_policy_does_not_name_fails(machine: SoftwarePlatform) -> None:
    other = replace(testing.MEASUREMENTS, rtmr2="ab" * 48)
    of = record()
    tree, report_data = batch_report_data([of])
    made = copy.deepcopy(make(machine))
    made |= {"record": of.to_json(), "leaf_index": 0, "inclusion_proof": [], "chain": chain_word(of)}
    made["batch"] = Batch(1, tree.root, machine.quote(other, report_data)).to_json()
    for statement in made["approval"].values():
        for place in ("measurement_set", "worker_key"):
            statement[place]["measurements"] = other.to_json()
    verdict = judge(machine, made)
    assert verdict.failing() == ("Approval/policy_measurements", "Approval/measurement_set")


def test_r12_the_local_policy_refuses_other_statuses_and_any_advisory(machine: SoftwarePlatform) -> None:
    for faults, check in (
        (testing.Faults(status="SWHardeningNeeded"), "tcb_status"),
        (testing.Faults(status="OutOfDate"), "tcb_status"),
        (testing.Faults(advisories=("INTEL-SA-00837",)), "advisories"),
        (testing.Faults(advisories=("INTEL-DOC-10000",)), "advisories"),
    ):
        failing = judge(machine, make(machine, faults)).failing()
        assert failing == (f"Platform/{check}", f"Platform/newest_{check}")
    informational = local_policy(advisory_prefix_informational=["INTEL-DOC-"])
    noted = make(machine, testing.Faults(advisories=("INTEL-DOC-10000",)))
    assert judge(machine, noted, by=informational).outcome is Outcome.PASS


@pytest.mark.parametrize("role", ["coordinator", "compiler", "keystore"])
def test_a_policy_of_another_role_approves_no_record(
    machine: SoftwarePlatform, bundle: dict[str, Any], role: str
) -> None:
    other = signed(document() | {"role": role})
    assert judge(machine, bundle, by=other).failing() == ("Approval/policy_role",)


@pytest.mark.parametrize("place", ["measurement_set", "worker_key"])
def test_a_set_or_key_of_another_role_approves_no_record(
    machine: SoftwarePlatform, bundle: dict[str, Any], place: str
) -> None:
    made = copy.deepcopy(bundle)
    for statement in made["approval"].values():
        statement[place]["role"] = "coordinator"
    assert judge(machine, made).failing() == (f"Approval/{place}_role",)


def test_collateral_that_is_not_signed_under_the_root_has_no_business_in_a_bundle(
    machine: SoftwarePlatform, bundle: dict[str, Any]
) -> None:
    stranger = testing.collateral_with(testing.platform(), testing.Faults())
    verdict = judge(machine, with_collaterals(bundle, stranger))
    assert "Platform/collaterals_genuine" in verdict.failing()
    assert verdict.exit_code == 1


def test_a_bundle_of_a_simulated_platform_never_passes_under_intels_root(
    machine: SoftwarePlatform, bundle: dict[str, Any], vectors: Any
) -> None:
    intel = replace(trust(machine), root_ca_der=(vectors / "dcap-qvl/TrustedRootCA.der").read_bytes())
    verdict = evidence.appraise(bundle, intel, POLICY, T + 60)
    assert not verdict.simulated
    assert {"Platform/root_of_trust", "Platform/simulated_flag", "Platform/pck_chain"} <= set(
        verdict.failing()
    )


def test_a_failed_run_is_proven_like_any_other(machine: SoftwarePlatform) -> None:
    made = make(machine, success=False, error="fuel ran out", output_sha256=sha256_hex(b"null"))
    made["payload"]["output_base64"] = base64.b64encode(b"null").decode()
    assert judge(machine, made).outcome is Outcome.PASS


def test_a_proof_for_another_place_in_the_tree_fails(
    machine: SoftwarePlatform, bundle: dict[str, Any]
) -> None:
    for index in (0, 1, 3, 4, 5, merkle.MAX_LEAVES):
        verdict = judge(machine, bundle | {"leaf_index": index})
        assert verdict.failing() == ("Binding/inclusion_proof",)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=JSON, data=st.data())
def test_whatever_stands_in_a_bundle_never_raises(
    machine: SoftwarePlatform, bundle: dict[str, Any], value: Any, data: st.DataObject
) -> None:
    path, _ = data.draw(st.sampled_from(list(leaves(bundle))))
    cut = path[: data.draw(st.integers(1, len(path)))]
    assert judge(machine, changed(bundle, cut, value)).exit_code in (0, 1, 2)
    assert judge(machine, value).exit_code == 1


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(max_size=200))
def test_bytes_that_are_no_bundle_are_a_failure_not_an_exception(
    machine: SoftwarePlatform, noise: bytes
) -> None:
    assert judge(machine, noise).exit_code == 1
