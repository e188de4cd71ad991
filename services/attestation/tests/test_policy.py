# SPDX-License-Identifier: MIT
"""Policy files: strict to read, signed over exact bytes, and monotonic when judged."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outlayer_attestation import policy, testing
from outlayer_attestation.appraisal import Appraisal, appraise
from outlayer_attestation.base58 import encode_ed25519_key
from outlayer_attestation.checks import Outcome, overall
from outlayer_attestation.errors import PolicyError
from outlayer_attestation.platform import endorsements
from outlayer_attestation.platform.machine import SoftwarePlatform

KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in range(3)]
NAMES = [encode_ed25519_key(key.public_key().public_bytes_raw()) for key in KEYS]
FMSPC = "53494d544458"


def document() -> dict[str, Any]:
    return policy.local_document(
        [("worker", testing.MEASUREMENTS)],
        fmspc=[FMSPC],
        not_before=testing.NOW - 1000,
        not_after=testing.NOW + 1000,
        version=2,
    )


def parsed(value: dict[str, Any]) -> policy.Policy:
    data = policy.canonical_bytes(value)
    return policy.Policy(policy.parse(data), "0" * 64, (NAMES[0],))


def result(machine: SoftwarePlatform, **faults: Any) -> Appraisal:
    given_faults = testing.Faults(**faults)
    return appraise(
        testing.quote_with(machine, given_faults),
        testing.collateral_with(machine, given_faults),
        root_ca_der=machine.root_der,
        now=testing.NOW,
    )


def failing(value: dict[str, Any], appraisal: Appraisal) -> list[str]:
    return [
        check.name for check in policy.evaluate(parsed(value), appraisal) if check.outcome is not Outcome.PASS
    ]


# --- on chain ---


def test_a_files_compact_tuples_carry_its_rules_and_values() -> None:
    value = document()
    value["platform"]["advisory_prefix_informational"] = ["INTEL-DOC-"]
    [entry] = policy.chain_sets(policy.parse(policy.canonical_bytes(value)))
    assert entry == {
        "role": "worker",
        "name": "worker",
        "measurements": testing.MEASUREMENTS.to_json(),
        "not_before": testing.NOW - 1000,
        "not_after": testing.NOW + 1000,
        "platform": {
            "statuses": ["UpToDate"],
            "advisory_prefix_informational": ["INTEL-DOC-"],
            "min_tcb_evaluation_data_number": 1,
        },
    }


@pytest.mark.parametrize(
    ("name", "given_value"), [("advisories_allowed", ["INTEL-SA-00837"]), ("out_of_date_grace_days", 3)]
)
def test_a_rule_that_the_chain_does_not_have_is_not_dropped(name: str, given_value: Any) -> None:
    value = document()
    value["platform"][name] = given_value
    with pytest.raises(PolicyError, match=name):
        policy.chain_sets(policy.parse(policy.canonical_bytes(value)))


# --- reading ---


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*path, key)
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def test_the_local_policy_is_a_policy() -> None:
    found = policy.parse(policy.canonical_bytes(document()))
    assert found.platform.statuses == ["UpToDate"]
    assert found.platform.advisory_prefix_informational == []
    assert found.measurements[0].matches(testing.MEASUREMENTS)


def test_every_absent_field_is_refused() -> None:
    good = document()
    paths = [path for path in leaves(good) if isinstance(path[-1], str)]
    assert len(paths) >= 50
    for path in paths:
        bad = copy.deepcopy(good)
        del at(bad, path[:-1])[path[-1]]
        with pytest.raises(PolicyError):
            policy.parse(policy.canonical_bytes(bad))


def test_an_unknown_field_is_refused_at_every_level() -> None:
    good = document()
    places = {path[:-1] for path in leaves(good) if isinstance(path[-1], str)}
    for place in places:
        bad = copy.deepcopy(good)
        at(bad, place)["surprise"] = True
        with pytest.raises(PolicyError, match="surprise"):
            policy.parse(policy.canonical_bytes(bad))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"role": "worker"', '"role": "worker",\n  "role": "worker"', "twice"),
        ("  ", "    ", "canonical"),
        ("\n", "\r\n", "canonical"),
        ('"version": 2', '"version": 2.0', "integer"),
        ('"version": 2', '"version": NaN', "integer"),
        ('"version": 2', '"version": "2"', "version"),
        ('"version": 2', '"version": true', "version"),
        ('"smt": true', '"smt": 1', "smt"),
        ("attestation-policy/v1", "attestation-policy/v2", "format"),
        (FMSPC, FMSPC.upper(), "fmspc"),
        ('"UpToDate"', '"Revoked"', "statuses"),
        (testing.MEASUREMENTS.rtmr3, testing.MEASUREMENTS.rtmr3[:-1], "rtmr3"),
        (testing.MEASUREMENTS.rtmr3, testing.MEASUREMENTS.rtmr3.upper(), "rtmr3"),
        (testing.MEASUREMENTS.rtmr3, "any", "rtmr3"),
        (testing.MEASUREMENTS.rtmr3, "replay", "events"),
        ('"mr_service_td": "zero"', '"mr_service_td": "any"', "mr_service_td"),
        ('"not_before": "2027', '"not_before": "2028', "not_before"),
        ("T07:", "T99:", "valid"),
        ('"supersedes": 1', '"supersedes": 2', "supersedes"),
        (
            '"advisory_prefix_informational": []',
            '"advisory_prefix_informational": [\n      "INTEL-SA-"\n    ]',
            "SA",
        ),
    ],
)
def test_a_file_that_is_not_exactly_of_the_format_is_refused(old: str, new: str, message: str) -> None:
    text = policy.canonical_bytes(document()).decode()
    assert old in text
    with pytest.raises(PolicyError, match=message):
        policy.parse(text.replace(old, new, 1 if "\n" not in old and old.strip() else -1).encode())


def test_mr_seam_any_needs_its_reason() -> None:
    bad = document()
    bad["quote"]["mr_seam"] = "ab" * 48
    with pytest.raises(PolicyError, match="mr_seam_why"):
        policy.parse(policy.canonical_bytes(bad))
    del bad["quote"]["mr_seam_why"]
    assert policy.parse(policy.canonical_bytes(bad)).quote.mr_seam == "ab" * 48


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_bytes_are_a_policy_or_a_policy_error(data: st.DataObject) -> None:
    good = policy.canonical_bytes(document())
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, min(len(good), start + 40)))
    mutated = good[:start] + data.draw(st.binary(max_size=40)) + good[end:]
    for candidate in (mutated, data.draw(st.binary(max_size=60))):
        try:
            policy.parse(candidate)
        except PolicyError as error:
            assert str(error)


# --- signatures ---


def test_a_signed_policy_is_loaded_with_its_digest_and_signers(tmp_path: Path) -> None:
    path = tmp_path / "policy" / "worker.json"
    data = policy.write_signed(path, document(), KEYS[:2])
    loaded = policy.load(path, NAMES, threshold=2)
    assert loaded.signers == (NAMES[0], NAMES[1])
    assert loaded.document == policy.parse(data)
    import hashlib

    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_too_few_or_unknown_signers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "worker.json"
    policy.write_signed(path, document(), KEYS[:1])
    with pytest.raises(PolicyError, match="2 are needed"):
        policy.load(path, NAMES, threshold=2)
    with pytest.raises(PolicyError, match="1 are needed"):
        policy.load(path, [NAMES[2]])
    with pytest.raises(PolicyError, match="at least one"):
        policy.load(path, NAMES, threshold=0)


def test_the_same_signer_twice_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "worker.json"
    policy.write_signed(path, document(), [KEYS[0], KEYS[0]])
    with pytest.raises(PolicyError, match="2 are needed"):
        policy.load(path, NAMES, threshold=2)


def test_an_edited_policy_and_an_edited_signature_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "worker.json"
    data = policy.write_signed(path, document(), KEYS[:1])
    path.write_bytes(data.replace(b'"smt": true', b'"smt": false'))
    with pytest.raises(PolicyError, match="another policy"):
        policy.load(path, NAMES)
    path.write_bytes(data)
    signature = policy.signature_path(path)
    value = json.loads(signature.read_text())
    text = value["signatures"][0]["signature"]
    value["signatures"][0]["signature"] = ("0" if text[0] != "0" else "1") + text[1:]
    signature.write_text(json.dumps(value))
    with pytest.raises(PolicyError, match="does not verify"):
        policy.load(path, NAMES)


@settings(max_examples=100, deadline=None)
@given(
    value=st.recursive(
        st.none() | st.integers() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
        max_leaves=6,
    ),
    name=st.sampled_from(["format", "policy_sha256", "signatures"]),
)
def test_any_signature_file_gives_signers_or_a_policy_error(value: Any, name: str) -> None:
    data = policy.canonical_bytes(document())
    good = json.loads(policy.sign(data, KEYS[:1]))
    for candidate in (
        value,
        good | {name: value},
        good | {"signatures": [good["signatures"][0] | {"signature": value}]},
    ):
        try:
            assert set(policy.verify_signatures(data, json.dumps(candidate).encode(), NAMES)) <= set(NAMES)
        except PolicyError as error:
            assert str(error)


def test_trusted_keys_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "maintainer.pub"
    path.write_text(f"# maintainers\n{NAMES[0]}  # first\n\n{NAMES[1]}\n")
    assert policy.read_public_keys(path) == (NAMES[0], NAMES[1])
    path.write_text("ssh-ed25519 AAAA")
    with pytest.raises(PolicyError, match="no ed25519 key"):
        policy.read_public_keys(path)
    with pytest.raises(PolicyError, match="cannot read"):
        policy.read_public_keys(tmp_path / "none")


# --- evaluation ---


def test_a_healthy_quote_passes_its_policy(machine: SoftwarePlatform) -> None:
    checks = policy.evaluate(parsed(document()), result(machine))
    assert overall(checks) is Outcome.PASS
    assert len({check.name for check in checks}) == len(checks)


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"fmspc": ["b0c06f000000"]}, "fmspc"),
        ({"min_tcb_evaluation_data_number": 21}, "tcb_evaluation_data_number"),
        ({"dynamic_platform": False}, "dynamic_platform"),
        ({"cached_keys": False}, "cached_keys"),
        ({"smt": False}, "smt"),
    ],
)
def test_each_platform_rule_has_its_check(
    machine: SoftwarePlatform, change: dict[str, Any], check: str
) -> None:
    value = document()
    value["platform"] |= change
    assert failing(value, result(machine)) == [check]


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"versions": [5]}, "quote_version"),
        ({"td_attributes": "0000005000000000"}, "td_attributes"),
        ({"xfam": "e700060000000000"}, "xfam"),
        ({"mr_owner": "ab" * 48}, "mr_owner"),
        ({"mr_owner_config": "ab" * 48}, "mr_owner_config"),
    ],
)
def test_each_quote_rule_has_its_check(machine: SoftwarePlatform, change: dict[str, Any], check: str) -> None:
    value = document()
    value["quote"] |= change
    assert failing(value, result(machine)) == [check]


def test_the_mask_opens_bits_and_no_others(machine: SoftwarePlatform) -> None:
    perfmon = result(machine, td={"td_attributes": bytes.fromhex("0000001000000080")})
    value = document()
    assert failing(value, perfmon) == ["td_attributes"]
    value["quote"]["td_attributes_mask"] = "ffffffffffffff7f"
    assert failing(value, perfmon) == []


def test_collateral_age_is_counted_from_the_older_of_the_two(machine: SoftwarePlatform) -> None:
    from datetime import timedelta

    value = document()
    value["platform"]["max_collateral_age_days"] = 7
    for faults in ({"tcb_age": timedelta(days=8)}, {"qe_age": timedelta(days=8)}):
        assert failing(value, result(machine, **faults)) == ["collateral_age"]
    assert failing(value, result(machine, tcb_age=timedelta(days=7))) == []


def test_a_refused_tcb_level_says_what_is_short_and_by_how_much(machine: SoftwarePlatform) -> None:
    levels = {
        "tcbLevels": [
            endorsements.level("UpToDate", endorsements.platform_tcb(pce_svn=endorsements.PCE_SVN + 2)),
            endorsements.level("OutOfDate", endorsements.platform_tcb()),
        ]
    }
    (check, _) = policy.tcb_checks(result(machine, tcb_info=levels))
    assert check.outcome is Outcome.FAIL
    assert f"PCESVN is {endorsements.PCE_SVN}" in check.detail
    assert "2 short" in check.detail


def test_r12_by_default_only_up_to_date_without_advisories(machine: SoftwarePlatform) -> None:
    value = document()
    for status in ("OutOfDate", "SWHardeningNeeded", "ConfigurationNeeded"):
        assert failing(value, result(machine, status=status)) == ["tcb_status"]
    for advisory in ("INTEL-SA-00837", "INTEL-DOC-10000"):
        assert failing(value, result(machine, advisories=(advisory,))) == ["advisories"]
    names = [
        check.name
        for check in policy.tcb_checks(result(machine, status="OutOfDate", advisories=("INTEL-SA-1",)))
        if check.outcome is Outcome.FAIL
    ]
    assert names == ["tcb_status", "advisories"]


def test_r12_a_policy_may_name_advisories(machine: SoftwarePlatform) -> None:
    value = document()
    value["platform"]["advisories_allowed"] = ["INTEL-SA-00837"]
    value["platform"]["advisory_prefix_informational"] = ["INTEL-DOC-"]
    assert failing(value, result(machine, advisories=("INTEL-SA-00837", "INTEL-DOC-1"))) == []
    assert failing(value, result(machine, advisories=("INTEL-SA-00838",))) == ["advisories"]


def test_grace_is_for_platforms_that_are_only_out_of_date(machine: SoftwarePlatform) -> None:
    value = document()
    value["platform"]["out_of_date_grace_days"] = 400  # the level's date is 2026-01-01
    assert failing(value, result(machine, status="OutOfDate")) == []
    assert failing(value, result(machine, status="OutOfDateConfigurationNeeded")) == ["tcb_status"]
    value["platform"]["out_of_date_grace_days"] = 300
    assert failing(value, result(machine, status="OutOfDate")) == ["tcb_status"]


@pytest.mark.parametrize("register", ["mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"])
def test_registers_of_two_entries_are_never_mixed(machine: SoftwarePlatform, register: str) -> None:
    value = document()
    other = copy.deepcopy(value["measurements"][0])
    other["name"] = "other"
    value["measurements"][0][register] = "ab" * 48
    other["mr_config_id"] = "zero"
    for name in {"mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"} - {register}:
        other[name] = "cd" * 48
    value["measurements"].append(other)
    assert failing(value, result(machine)) == ["policy_measurements"]


def test_replayed_rtmr3_stays_unproven_without_an_event_log(machine: SoftwarePlatform) -> None:
    value = document()
    value["measurements"][0]["rtmr3"] = "replay"
    value["events"] = {
        "register": 3,
        "type": 134217729,
        "exactly": ["role"],
        "values": {"role": ["ab"]},
        "forbid_unknown": True,
        "forbid_duplicates": True,
    }
    checks = policy.evaluate(parsed(value), result(machine))
    assert [check.name for check in checks if check.outcome is Outcome.UNPROVEN] == ["rtmr3_replay"]


def test_a_policy_counts_only_in_its_time(machine: SoftwarePlatform) -> None:
    given_result = result(machine)
    for moved, ok in ((-1001, False), (-1000, True), (999, True), (1000, False)):
        checks = policy.evaluate(parsed(document()), replace(given_result, now=testing.NOW + moved))
        valid = next(check for check in checks if check.name == "policy_valid")
        assert (valid.outcome is Outcome.PASS) is ok


def test_a_quote_that_cannot_be_read_passes_no_policy(machine: SoftwarePlatform) -> None:
    broken = appraise(
        b"", testing.collateral_with(machine, testing.Faults()), root_ca_der=machine.root_der, now=testing.NOW
    )
    checks = [check for check in policy.evaluate(parsed(document()), broken) if check.name != "policy_valid"]
    assert checks
    assert {check.outcome for check in checks} == {Outcome.UNPROVEN}


ALLOW_LISTS = [
    ("platform", "fmspc", [FMSPC, "b0c06f000000"]),
    ("platform", "statuses", ["UpToDate", "SWHardeningNeeded", "OutOfDate", "ConfigurationNeeded"]),
    ("platform", "advisories_allowed", ["INTEL-SA-00837", "INTEL-SA-1"]),
    ("platform", "advisory_prefix_informational", ["INTEL-DOC-", "INTEL-X-"]),
    ("quote", "versions", [4, 5]),
]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_removing_an_allowed_value_never_accepts_more(machine: SoftwarePlatform, data: st.DataObject) -> None:
    wide = document()
    for section, name, values in ALLOW_LISTS:
        smallest = 0 if "advisor" in name else 1
        wide[section][name] = data.draw(st.lists(st.sampled_from(values), min_size=smallest, unique=True))
    narrow = copy.deepcopy(wide)
    section, name, _ = data.draw(st.sampled_from(ALLOW_LISTS))
    kept = narrow[section][name]
    if len(kept) < (1 if "advisor" in name else 2):
        return
    kept.pop(data.draw(st.integers(0, len(kept) - 1)))
    status = data.draw(st.sampled_from(["UpToDate", "SWHardeningNeeded", "OutOfDate"]))
    advisories = data.draw(st.lists(st.sampled_from(["INTEL-SA-00837", "INTEL-DOC-1"]), unique=True))
    given_result = result(machine, status=status, advisories=tuple(advisories))
    if not failing(narrow, given_result):
        assert not failing(wide, given_result)
