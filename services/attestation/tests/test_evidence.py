# SPDX-License-Identifier: MIT
"""Evidence bundles: a true one is proven offline, every change of one is found and named."""

from __future__ import annotations

import base64
import copy
import json
import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outlayer_attestation import evidence, merkle, policy, testing
from outlayer_attestation import quote as layout
from outlayer_attestation.base58 import encode_ed25519_key
from outlayer_attestation.checks import Outcome
from outlayer_attestation.collateral import Collateral
from outlayer_attestation.platform.machine import SoftwarePlatform
from outlayer_attestation.record import Batch, TaskRecordV2, batch_report_data, sha256_hex

REPOSITORY = Path(__file__).resolve().parents[3]
T = 1_800_000_000
INPUT, OUTPUT = b'{"hello":"world"}', b'{"echo":{"hello":"world"}}'
KEY = encode_ed25519_key(bytes(range(32)))
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
MAINTAINER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
MAINTAINER_KEY = encode_ed25519_key(MAINTAINER.public_key().public_bytes_raw())


def record(number: int = 0, **changes: Any) -> TaskRecordV2:
    """A record of a contract's request with every field present."""
    values: dict[str, Any] = {
        "network_id": "localnet",
        "contract_id": "outlayer.test",
        "request_id": number,
        "transaction_hash": "9Xk2oZBcGFR5Q2m8Yz8Q3n4CwY6H7uG7uG7uG7uG7uGX",
        "receipt_id": "4Tk2oZBcGFR5Q2m8Yz8Q3n4CwY6H7uG7uG7uG7uG7uGX",
        "call_id": "c0ffee00-0000-4000-8000-000000000000",
        "job_id": f"job-{number}",
        "caller": "bob.test",
        "signer_id": "alice.test",
        "payment_key_owner": "alice.test",
        "payment_key_nonce": 1,
        "project_id": "alice.test/echo",
        "project_uuid": "p0000000000000001",
        "version_key": "a" * 64,
        "code_url": "http://127.0.0.1:1/wasm/" + "a" * 64,
        "wasm_sha256": sha256_hex(b"wasm"),
        "input_sha256": sha256_hex(INPUT),
        "output_sha256": sha256_hex(OUTPUT),
        "success": True,
        "error": "none",
        "instructions": 1000,
        "time_ms": 5,
        "max_instructions": 10**9,
        "max_memory_mb": 128,
        "max_execution_seconds": 60,
        "secrets_ref": "alice.test/default",
        "attached_usd": 0,
        "refund_usd": 0,
        "block_height": 1234,
        "timestamp": T,
        "worker_public_key": KEY,
    }
    return TaskRecordV2(**(values | changes))


def approval(collateral: Collateral) -> dict[str, Any]:
    measurements = testing.MEASUREMENTS.to_json()
    return {
        "contract": "worker.outlayer.test",
        "network_id": "localnet",
        "measurement_set": {
            "id": 3,
            "name": "worker",
            "measurements": measurements,
            "not_before": T - 1000,
            "not_after": T + 10**6,
            "added_at": T - 1000,
        },
        "worker_key": {
            "public_key": KEY,
            "measurement_set": 3,
            "measurements": dict(measurements),
            "tcb_status": "UpToDate",
            "fmspc": "53494d544458",
            "verified_at": T - 500,
            "expires_at": T + 10**6,
            "quote_report_sha256": "ab" * 32,
        },
        "collateral_sha256": collateral.sha256(),
        "block_height": 777,
        "block_hash": "7Zk2oZBcGFR5Q2m8Yz8Q3n4CwY6H7uG7uG7uG7uG7uGX",
        "endpoint": "http://127.0.0.1:3030",
        "recorded_at": T + 60,
    }


def make(machine: SoftwarePlatform, faults: testing.Faults | None = None, **changes: Any) -> dict[str, Any]:
    """A bundle of the third of five records, on a platform with these faults."""
    faults = faults or testing.Faults()
    records = [record(number, **changes) for number in range(5)]
    tree, report_data = batch_report_data(records)
    quote = testing.quote_with(machine, replace(faults, td={**faults.td, "report_data": report_data}))
    collateral = testing.collateral_with(machine, faults)
    return evidence.make_bundle(
        attestation={
            "record": records[2].to_json(),
            "leaf_index": 2,
            "inclusion_proof": [item.hex() for item in tree.proofs[2]],
            "batch": Batch(tree.size, tree.root, quote).to_json(),
        },
        collateral=collateral,
        trust=trust(machine),
        approval=approval(collateral),
        input_bytes=INPUT,
        output_bytes=OUTPUT,
        chain={"transaction_hash": "9Xk2", "block": {"height": 5}},
    )


def trust(machine: SoftwarePlatform) -> evidence.TrustAnchors:
    return evidence.TrustAnchors(
        root_ca_der=machine.root_der,
        network_id="localnet",
        contract_id="outlayer.test",
        register_contract_id="worker.outlayer.test",
    )


def document(**platform: Any) -> dict[str, Any]:
    made = policy.local_document(
        [("worker", testing.MEASUREMENTS)],
        fmspc=["53494d544458"],
        not_before=T - 10**6,
        not_after=T + 10**6,
    )
    made["platform"] |= platform
    return made


def local_policy(**platform: Any) -> policy.Policy:
    data = policy.canonical_bytes(document(**platform))
    signers = policy.verify_signatures(data, policy.sign(data, [MAINTAINER]), [MAINTAINER_KEY])
    return policy.Policy(policy.parse(data), sha256_hex(data), signers)


@pytest.fixture(scope="module")
def bundle(machine: SoftwarePlatform) -> dict[str, Any]:
    return make(machine)


POLICY = local_policy()


def judge(machine: SoftwarePlatform, bundle: Any, now: int = T + 3600) -> evidence.Verdict:
    return evidence.appraise(bundle, trust(machine), POLICY, now)


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

Path_ = tuple[str | int, ...]


def leaves(value: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        yield path, value
    for key, item in items:
        yield from leaves(item, (*path, key))


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


def changed(bundle: dict[str, Any], path: Path_, value: Any) -> dict[str, Any]:
    """The same bundle with one leaf replaced; only the way to the leaf is copied."""
    result: Any = copy.copy(bundle)
    place = result
    for key in path[:-1]:
        place[key] = copy.copy(place[key])
        place = place[key]
    place[path[-1]] = value
    return result


def dotted(path: Path_) -> str:
    return ".".join(key for key in map(str, path) if not key.isdigit())


def expected_check(path: Path_) -> tuple[str, ...]:
    """The check (or the checks) that must be among those that fail when this leaf changes in value."""
    name = dotted(path)
    table = {
        "bundle_format": ("Binding/bundle_format",),
        "simulated": ("Platform/simulated_flag",),
        "record": ("Binding/inclusion_proof",),
        "leaf_index": ("Binding/inclusion_proof",),
        "inclusion_proof": ("Binding/inclusion_proof",),
        "batch.version": ("Binding/bundle_format",),
        "batch.tree_size": ("Binding/report_data",),
        "batch.root": ("Binding/report_data", "Binding/inclusion_proof"),
        "batch.quote": ("Platform/quote_layout",),
        "collateral.tcb_info": ("Platform/tcb_info_signature", "Approval/collateral_digest"),
        "collateral.tcb_info_signature": ("Platform/tcb_info_signature",),
        "collateral.tcb_info_issuer_chain": ("Platform/tcb_signing_certificate",),
        "collateral.qe_identity": ("Platform/qe_identity_signature",),
        "collateral.qe_identity_signature": ("Platform/qe_identity_signature",),
        "collateral.qe_identity_issuer_chain": ("Platform/tcb_signing_certificate",),
        "collateral.root_ca_crl": ("Platform/crl_signature",),
        "collateral.pck_crl": ("Platform/crl_signature",),
        "collateral.pck_crl_issuer_chain": ("Approval/collateral_digest",),
        "root_ca_sha256": ("Platform/root_of_trust",),
        "approval.contract": ("Approval/register_contract",),
        "approval.network_id": ("Approval/network",),
        "approval.collateral_sha256": ("Approval/collateral_digest",),
        "approval.measurement_set.id": ("Approval/worker_key_measurements",),
        "approval.worker_key.public_key": ("Approval/worker_key",),
        "approval.worker_key.measurement_set": ("Approval/worker_key_measurements",),
        "approval.worker_key.measurements": ("Approval/worker_key_measurements",),
        "approval.worker_key.tcb_status": ("Approval/worker_key_tcb",),
        "approval.worker_key.fmspc": ("Approval/worker_key_fmspc",),
        "payload.input_base64": ("Payload/input",),
        "payload.output_base64": ("Payload/output",),
    }
    for register in ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"):
        table[f"approval.measurement_set.measurements.{register}"] = (f"Identity/{register}",)
    longest = max((key for key in table if name == key or name.startswith(f"{key}.")), key=len, default=None)
    assert longest is not None, f"no check is expected to cover {name}"
    return table[longest]


def documented() -> set[str]:
    """The members that docs/reference/evidence.md says no check covers."""
    text = (REPOSITORY / "docs/reference/evidence.md").read_text()
    section = text.split("## What no check covers")[1]
    return set(re.findall(r"^\| `([a-z0-9_.]+)` \|", section, flags=re.MULTILINE))


def is_documented(path: Path_, names: set[str]) -> bool:
    name = dotted(path)
    return any(name == known or name.startswith(f"{known}.") for known in names)


def test_every_leaf_of_a_bundle_is_covered_or_documented(
    machine: SoftwarePlatform, bundle: dict[str, Any]
) -> None:
    uncovered: set[str] = set()
    names = documented()
    for path, value in leaves(bundle):
        for variant in variants(value):
            if path == ("batch", "quote") and variant == value + "00":
                continue  # zero padding: the documented encodings have a test of their own
            verdict = judge(machine, changed(bundle, path, variant))
            if verdict.outcome is Outcome.PASS:
                uncovered.add(
                    next((n for n in names if is_documented(path, {n})), f"NOT LISTED: {dotted(path)}")
                )
            elif not is_documented(path, names) and variant is not None:
                assert verdict.exit_code == 1, (path, variant, verdict.failing())
    assert uncovered == names


def test_each_change_of_value_is_named_by_the_right_check(
    machine: SoftwarePlatform, bundle: dict[str, Any]
) -> None:
    names = documented()
    seen = set()
    for path, value in leaves(bundle):
        if is_documented(path, names):
            continue
        verdict = judge(machine, changed(bundle, path, variants(value)[0]))
        failing = verdict.failing()
        wanted = expected_check(path)
        # a change that leaves the strict format is caught when the bundle is read
        if failing and failing[0].endswith("bundle_format"):
            wanted = ("Binding/bundle_format",)
        assert set(wanted) <= set(failing), (path, failing)
        seen.add(path[0])
    assert seen == set(bundle) - {"chain"}


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


@pytest.mark.parametrize(
    "member", ["record", "batch", "collateral", "approval", "inclusion_proof", "payload"]
)
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
    verdict = judge(machine, bundle | {"payload": None})
    assert verdict.failing() == ("Payload/input", "Payload/output")
    assert verdict.exit_code == 2


def test_an_absent_approval_is_unproven(machine: SoftwarePlatform, bundle: dict[str, Any]) -> None:
    verdict = judge(machine, bundle | {"approval": None})
    assert verdict.failing() == ("Approval/chain_word",)
    assert verdict.exit_code == 2


def test_without_a_policy_approval_is_unproven_and_r12_still_counts(
    machine: SoftwarePlatform, bundle: dict[str, Any]
) -> None:
    anchors = trust(machine)
    verdict = evidence.appraise(bundle, anchors, None, T)
    assert verdict.failing() == ("Approval/policy_signature",)
    old = make(machine, testing.Faults(status="OutOfDate", advisories=("INTEL-SA-00837",)))
    assert {"Platform/tcb_status", "Platform/advisories"} <= set(
        evidence.appraise(old, anchors, None, T).failing()
    )


def test_names_that_nobody_expects_are_unproven(machine: SoftwarePlatform, bundle: dict[str, Any]) -> None:
    bare = evidence.TrustAnchors(root_ca_der=machine.root_der)
    verdict = evidence.appraise(bundle, bare, POLICY, T)
    assert verdict.failing() == ("Approval/network", "Approval/main_contract", "Approval/register_contract")
    assert verdict.exit_code == 2


def test_collateral_of_another_time_leaves_the_platform_unproven(machine: SoftwarePlatform) -> None:
    later = make(machine, timestamp=T + 31 * 86_400)
    verdict = judge(machine, later, now=T + 40 * 86_400)
    assert "Platform/collateral_window" in verdict.failing()
    window = [check for check in verdict.checks if check.name == "collateral_window"]
    assert [check.outcome for check in window] == [Outcome.UNPROVEN]


def test_a_removed_worker_key_is_unproven(machine: SoftwarePlatform, bundle: dict[str, Any]) -> None:
    verdict = judge(machine, changed(bundle, ("approval", "worker_key"), None))
    assert verdict.failing() == ("Approval/worker_key",)
    assert verdict.exit_code == 2


def test_a_key_that_was_registered_again_with_another_set_is_unproven(
    machine: SoftwarePlatform, bundle: dict[str, Any]
) -> None:
    again = changed(bundle, ("approval", "worker_key", "measurement_set"), 4)
    again = changed(again, ("approval", "worker_key", "verified_at"), T + 10)
    verdict = judge(machine, again)
    assert verdict.failing() == ("Approval/worker_key_measurements",)
    assert verdict.exit_code == 2


# --- what contradicts ---


def test_a_record_from_the_future_fails(machine: SoftwarePlatform, bundle: dict[str, Any]) -> None:
    assert "Platform/clock" in judge(machine, bundle, now=T - 301).failing()
    assert judge(machine, bundle, now=T - 100).outcome is Outcome.PASS


def test_a_key_that_had_expired_fails(machine: SoftwarePlatform, bundle: dict[str, Any]) -> None:
    verdict = judge(machine, changed(bundle, ("approval", "worker_key", "expires_at"), T))
    assert verdict.failing() == ("Approval/worker_key_valid",)


def test_a_set_that_was_not_active_fails(machine: SoftwarePlatform, bundle: dict[str, Any]) -> None:
    verdict = judge(machine, changed(bundle, ("approval", "measurement_set", "not_after"), T))
    assert verdict.failing() == ("Approval/measurement_set_active",)


def test_a_set_on_chain_that_the_policy_does_not_name_fails(machine: SoftwarePlatform) -> None:
    other = replace(testing.MEASUREMENTS, rtmr2="ab" * 48)
    records = [record()]
    tree, report_data = batch_report_data(records)
    healthy = make(machine)
    made = copy.deepcopy(healthy)
    made |= {"record": records[0].to_json(), "leaf_index": 0, "inclusion_proof": []}
    made["batch"] = Batch(1, tree.root, machine.quote(other, report_data)).to_json()
    for place in ("measurement_set", "worker_key"):
        made["approval"][place]["measurements"] = other.to_json()
    verdict = judge(machine, made)
    assert verdict.failing() == ("Approval/policy_measurements", "Approval/measurement_set")


def test_r12_the_local_policy_refuses_other_statuses_and_any_advisory(machine: SoftwarePlatform) -> None:
    for faults, check in (
        (testing.Faults(status="SWHardeningNeeded"), "Platform/tcb_status"),
        (testing.Faults(status="OutOfDate"), "Platform/tcb_status"),
        (testing.Faults(advisories=("INTEL-SA-00837",)), "Platform/advisories"),
        (testing.Faults(advisories=("INTEL-DOC-10000",)), "Platform/advisories"),
    ):
        assert judge(machine, make(machine, faults)).failing() == (check,)
    informational = local_policy(advisory_prefix_informational=["INTEL-DOC-"])
    noted = make(machine, testing.Faults(advisories=("INTEL-DOC-10000",)))
    assert evidence.appraise(noted, trust(machine), informational, T).outcome is Outcome.PASS


def test_a_bundle_of_a_simulated_platform_never_passes_under_intels_root(
    machine: SoftwarePlatform, bundle: dict[str, Any], vectors: Any
) -> None:
    intel = replace(trust(machine), root_ca_der=(vectors / "dcap-qvl/TrustedRootCA.der").read_bytes())
    verdict = evidence.appraise(bundle, intel, POLICY, T)
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
