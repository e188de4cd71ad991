# SPDX-License-Identifier: MIT
"""Appraisal of quotes: the shared synthetic cases, real pairs, our own cases, and mutations of all of them."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outlayer_attestation import policy, testing
from outlayer_attestation import quote as layout
from outlayer_attestation.appraisal import INTEL_ROOT_CA_SHA256, Appraisal, appraise, collateral_window
from outlayer_attestation.checks import Check, Outcome, overall
from outlayer_attestation.collateral import Collateral
from outlayer_attestation.errors import CollateralError
from outlayer_attestation.memory import forget
from outlayer_attestation.platform.machine import SoftwarePlatform
from outlayer_attestation.platform.quoting import QuotingEnclave, TdFields


def seconds(text: str) -> int:
    return int(datetime.fromisoformat(text + "+00:00").timestamp())


# --- the shared synthetic corpus ---

SYNTHETIC = Path(__file__).resolve().parents[4] / "shared" / "vectors" / "synthetic"
CASES = sorted(path.parent.name for path in SYNTHETIC.glob("*/expected.json"))

STRICT_QUOTE = policy.QuoteRules.model_validate_json(
    json.dumps(policy.local_document([], fmspc=[], not_before=0, not_after=1)["quote"])
)


def collateral_age_check(appraisal: Appraisal, days: int) -> list[Check]:
    rules = policy.PlatformRules(
        fmspc=["90c06f000000"],
        statuses=["UpToDate"],
        advisories_allowed=[],
        advisory_prefix_informational=[],
        out_of_date_grace_days=0,
        min_tcb_evaluation_data_number=0,
        max_collateral_age_days=days,
        dynamic_platform=True,
        cached_keys=True,
        smt=True,
    )
    return [check for check in policy.platform_checks(rules, appraisal) if check.name == "collateral_age"]


def test_the_synthetic_corpus_is_complete(vectors: Path) -> None:
    assert len(CASES) == len(json.loads((vectors / "synthetic/index.json").read_text())) == 101


@pytest.mark.parametrize("name", CASES)
def test_a_synthetic_case_gives_our_verdict(vectors: Path, name: str) -> None:
    """TCB policy is not asked: "accept" means that the quote verifies with that status."""
    place = vectors / "synthetic" / name
    expected = json.loads((place / "expected.json").read_text())
    collateral = Collateral.from_json((place / "collateral.json").read_text())
    root = (vectors / "synthetic/root_ca.der").read_bytes()
    result = appraise((place / "quote.bin").read_bytes(), collateral, root_ca_der=root, now=expected["now"])
    checks = [*result.checks, *collateral_age_check(result, 7)]
    if result.quote is not None:
        pinned = {"td_attributes", "mr_service_td"}
        checks += [check for check in policy.quote_checks(STRICT_QUOTE, result) if check.name in pinned]
    failing = {check.name for check in checks if check.outcome is Outcome.FAIL}
    ours = expected["ours"]
    if ours["verdict"] == "accept":
        assert not failing
        assert overall(checks) is Outcome.PASS
        if expected["want"] not in ("accept", "reject"):
            assert result.status == expected["want"]
    else:
        assert failing
        if "check" in ours:
            assert ours["check"] in failing


# --- real pairs ---

REAL_PAIRS = [
    (
        "dcap-qvl/tdx_quote",
        "dcap-qvl/tdx_quote_collateral.json",
        ("2025-06-19T10:32:27", "2025-07-19T10:00:35"),
        "UpToDate",
        (),
    ),
    (
        "dcap-qvl/sgx_quote",
        "dcap-qvl/sgx_quote_collateral.json",
        ("2025-06-19T10:56:11", "2025-07-19T10:01:18"),
        "ConfigurationAndSWHardeningNeeded",
        ("INTEL-SA-00289", "INTEL-SA-00615"),
    ),
    (
        "dcap-qvl/near-gas/quote_hex.txt",
        "dcap-qvl/near-gas/quote_collateral.json",
        ("2025-09-02T07:41:59", "2025-10-02T07:03:51"),
        "UpToDate",
        (),
    ),
    (
        "dstack/quote-report.json",
        "dcap-qvl/tdx_quote_outdated_collateral.json",
        ("2026-02-18T10:58:51", "2026-03-20T10:41:15"),
        "UpToDate",
        (),
    ),
    (
        "dcap-qvl/tdx_quote",
        "outlayer/our_collateral.json",
        ("2026-08-10T00:38:14", "2026-09-08T23:45:02"),
        "UpToDate",
        (),
    ),
]


def read_quote(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".json":
        return bytes.fromhex(json.loads(data)["quote"])
    if path.suffix in (".hex", ".txt"):
        return bytes.fromhex(data.decode().strip().removeprefix("0x"))
    return data


def real(vectors: Path, quote: str, collateral: str, now: int) -> Appraisal:
    root = (vectors / "dcap-qvl/TrustedRootCA.der").read_bytes()
    given_collateral = Collateral.from_json((vectors / collateral).read_text())
    return appraise(read_quote(vectors / quote), given_collateral, root_ca_der=root, now=now)


@pytest.mark.parametrize(("quote", "collateral", "window", "status", "advisories"), REAL_PAIRS)
def test_a_real_pair_gives_its_status_inside_its_window(
    vectors: Path,
    quote: str,
    collateral: str,
    window: tuple[str, str],
    status: str,
    advisories: tuple[str, ...],
) -> None:
    start, end = map(seconds, window)
    given_collateral = Collateral.from_json((vectors / collateral).read_text())
    # TCB info and QE identity count up to and including their end, a CRL does not
    assert collateral_window(given_collateral) in ((start, end), (start, end + 1))
    after = collateral_window(given_collateral)[1]
    for now in (start, (start + end) // 2, end - 1):
        result = real(vectors, quote, collateral, now)
        assert (result.outcome, result.status) == (Outcome.PASS, status)
        assert tuple(sorted(result.advisory_ids)) == advisories
        assert not result.simulated
    for now in (start - 1, after):
        assert real(vectors, quote, collateral, now).outcome is Outcome.FAIL


MARCH = "2026-03-05T00:00:00"
OUTDATED = "dcap-qvl/tdx_quote_outdated_collateral.json"
AUGUST = "2026-08-20T00:00:00"
OWN_FMSPC = "outlayer/our_collateral.json"
REAL_NEGATIVES = [
    ("automata/quotev5.dat", OUTDATED, MARCH, "mr_service_td", "Invalid MR service TD"),
    ("dcap-qvl/tdx_quote_outdated", OUTDATED, MARCH, "tcb_level", "No matching TCB level"),
    ("trustee/tdx_quote_5.dat", OUTDATED, MARCH, "tcb_level", "No matching TCB level"),
    # these three are of another FMSPC than that collateral, and below every level of their own
    ("dcap-qvl/quote-from-tappd.hex", OUTDATED, MARCH, "tcb_info_fmspc", "b0c06f000000"),
    ("dcap-qvl/tdx-quote.hex", OUTDATED, MARCH, "tcb_info_fmspc", "b0c06f000000"),
    ("dstack/ra-tls-tdx_quote", OUTDATED, MARCH, "tcb_info_fmspc", "b0c06f000000"),
    ("dcap-qvl/quote-from-tappd.hex", OWN_FMSPC, AUGUST, "tcb_level", "No matching TCB level"),
    ("dcap-qvl/tdx-quote.hex", OWN_FMSPC, AUGUST, "tcb_level", "No matching TCB level"),
    ("dstack/ra-tls-tdx_quote", OWN_FMSPC, AUGUST, "tcb_level", "No matching TCB level"),
]


@pytest.mark.parametrize(("quote", "collateral", "time", "check", "message"), REAL_NEGATIVES)
def test_a_real_negative_is_refused_for_its_reason(
    vectors: Path, quote: str, collateral: str, time: str, check: str, message: str
) -> None:
    result = real(vectors, quote, collateral, seconds(time))
    assert result.outcome is Outcome.FAIL
    details = [item.detail for item in result.checks if item.outcome is Outcome.FAIL and item.name == check]
    assert any(message in detail for detail in details)


@pytest.mark.parametrize(
    "collateral", [OUTDATED, "dcap-qvl/tdx_quote_collateral.json", "outlayer/our_collateral.json"]
)
def test_a_real_debug_td_never_passes(vectors: Path, collateral: str) -> None:
    start, end = collateral_window(Collateral.from_json((vectors / collateral).read_text()))
    assert real(vectors, "trustee/tdx_quote_4.dat", collateral, (start + end) // 2).outcome is Outcome.FAIL


def test_intels_root_is_pinned(vectors: Path) -> None:
    import hashlib

    root = (vectors / "dcap-qvl/TrustedRootCA.der").read_bytes()
    assert hashlib.sha256(root).hexdigest() == INTEL_ROOT_CA_SHA256


# --- our own cases ---


@pytest.fixture(scope="module")
def own(machine: SoftwarePlatform) -> dict[str, testing.Case]:
    return {case.name: case for case in testing.cases(machine)}


NAMES = [*testing.ACCEPTED, *testing.REFUSED, "bad_stranger_quote", "bad_stranger_collateral"]


@pytest.mark.parametrize("name", NAMES)
def test_a_case_of_our_own_gives_its_verdict(
    machine: SoftwarePlatform, own: dict[str, testing.Case], name: str
) -> None:
    case = own[name]
    result = appraise(case.quote, case.collateral, root_ca_der=machine.root_der, now=testing.NOW)
    assert (result.outcome is Outcome.PASS) == case.accepted
    if case.accepted:
        assert result.status == case.status
    else:
        assert case.check in result.failing()


def test_cases_can_be_written_as_vectors(own: dict[str, testing.Case], tmp_path: Path) -> None:
    own["bad_pck_revoked"].write(tmp_path)
    place = tmp_path / "bad_pck_revoked"
    assert (place / "quote.bin").read_bytes() == own["bad_pck_revoked"].quote
    assert Collateral.from_json((place / "collateral.json").read_text()) == own["bad_pck_revoked"].collateral
    expected = json.loads((place / "expected.json").read_text())
    assert expected["ours"] == {"verdict": "reject", "check": "revocation"}


def test_names_are_unique() -> None:
    assert len(set(NAMES)) == len(NAMES)


# --- mutations ---


Pair = tuple[bytes, Collateral]


@pytest.fixture(scope="module")
def fine(machine: SoftwarePlatform) -> Pair:
    """A quote and collateral with nothing wrong."""
    faults = testing.Faults()
    return testing.quote_with(machine, faults), testing.collateral_with(machine, faults)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_of_a_quote_is_refused(
    machine: SoftwarePlatform, fine: Pair, data: st.DataObject
) -> None:
    quote, collateral = fine
    bit = data.draw(st.integers(0, len(quote) * 8 - 1))
    changed = bytearray(quote)
    changed[bit // 8] ^= 1 << (bit % 8)
    result = appraise(bytes(changed), collateral, root_ca_der=machine.root_der, now=testing.NOW)
    assert result.outcome is Outcome.FAIL or testing.same_but_for_pem(quote, bytes(changed))


COVERED = sorted(Collateral.__slots__)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_character_of_the_collateral_is_refused_or_means_the_same(
    machine: SoftwarePlatform, fine: Pair, data: st.DataObject
) -> None:
    quote, collateral = fine
    name = data.draw(st.sampled_from(COVERED))
    text = getattr(collateral, name)
    place = data.draw(st.integers(0, len(text) - 1))
    character = data.draw(st.characters(codec="ascii").filter(lambda c: c != text[place]))
    changed = text[:place] + character + text[place + 1 :]
    try:
        mutated = Collateral.from_json(collateral.to_json() | {name: changed})
    except CollateralError:
        return
    if mutated == collateral:
        return  # another spelling, rewritten on reading
    result = appraise(quote, mutated, root_ca_der=machine.root_der, now=testing.NOW)
    assert result.outcome is Outcome.FAIL


def test_a_certificate_of_an_impossible_version_is_a_failed_check(
    machine: SoftwarePlatform, fine: Pair
) -> None:
    """Found by mutation: the certificate parser has an exception of its own for this."""
    quote, collateral = fine
    der = x509.load_pem_x509_certificates(collateral.tcb_info_issuer_chain.encode())[0].public_bytes(
        Encoding.DER
    )
    place = der.index(bytes.fromhex("a003020102")) + 4
    body = base64.encodebytes(der[:place] + b"\x06" + der[place + 1 :]).decode()
    pem = f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n"
    mutated = replace(collateral, tcb_info_issuer_chain=pem + machine.root.pem())
    result = appraise(quote, mutated, root_ca_der=machine.root_der, now=testing.NOW)
    assert "tcb_signing_certificate" in result.failing()
    leaf = pem.encode()
    chain = leaf + machine.platform_ca.pem().encode() + machine.root.pem().encode()
    enclave = QuotingEnclave(machine.attestation_key, machine.pck, chain.decode())
    fields = TdFields(measurements=testing.MEASUREMENTS, report_data=b"x")
    result = appraise(enclave.quote(fields), collateral, root_ca_der=machine.root_der, now=testing.NOW)
    assert "pck_chain" in result.failing()


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(COVERED), value=st.text(max_size=60) | st.text("0123456789abcdef", max_size=60))
def test_collateral_that_is_nonsense_gives_failed_checks(
    machine: SoftwarePlatform, fine: Pair, name: str, value: str
) -> None:
    quote, collateral = fine
    try:
        mutated = Collateral.from_json(collateral.to_json() | {name: value})
    except CollateralError:
        return
    result = appraise(quote, mutated, root_ca_der=machine.root_der, now=testing.NOW)
    assert result.outcome is Outcome.FAIL


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(now=st.integers(-(2**70), 2**70))
def test_the_clock_decides_and_never_raises(machine: SoftwarePlatform, fine: Pair, now: int) -> None:
    quote, collateral = fine
    start, end = collateral_window(collateral)
    outcome = appraise(quote, collateral, root_ca_der=machine.root_der, now=now).outcome
    assert (outcome is Outcome.PASS) == (start <= now < end)


def test_the_window_is_exact(machine: SoftwarePlatform, fine: Pair) -> None:
    quote, collateral = fine
    start, end = collateral_window(collateral)
    outcomes = [
        appraise(quote, collateral, root_ca_der=machine.root_der, now=now).outcome
        for now in (start - 1, start, end - 1, end)
    ]
    assert outcomes == [Outcome.FAIL, Outcome.PASS, Outcome.PASS, Outcome.FAIL]


# --- two implementations ---


class Credulous:
    """A library that accepts everything."""

    status = "UpToDate"
    advisory_ids: tuple[str, ...] = ()


OURS = (
    "attestation_key_binding",
    "certification_data_type",
    "crl_signature",
    "pck_chain",
    "qe_report_signature",
    "quote_signature",
    "tcb_info_fmspc",
    "tcb_info_pceid",
    "tcb_info_signature",
    "tcb_info_type",
    "tcb_signing_certificate",
)


def test_the_precheck_refuses_alone(
    machine: SoftwarePlatform,
    own: dict[str, testing.Case],
    fine: Pair,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the library's help, each for its own reason: before and after it was seen to be good."""
    monkeypatch.setattr("dcap_qvl.verify_with_root_ca", lambda *_: Credulous())
    tried = set()
    for case in own.values():
        if case.check in OURS:
            result = appraise(case.quote, case.collateral, root_ca_der=machine.root_der, now=testing.NOW)
            assert case.check in result.failing(), case.name
            tried.add(case.check)
    assert tried == set(OURS)
    quote, good = fine
    other = replace(good, qe_identity_signature=good.tcb_info_signature)
    for collateral, failing in ((good, ()), (other, ("qe_identity_signature",)), (good, ())):
        result = appraise(quote, collateral, root_ca_der=machine.root_der, now=testing.NOW)
        assert result.failing() == failing


def test_the_library_refuses_alone(
    machine: SoftwarePlatform, own: dict[str, testing.Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outlayer_attestation.appraisal._Precheck.run", lambda _: [])
    ours_only = {"tcb_signing_certificate", "tcb_info_pceid", "tcb_info_type", "certification_data_type"}
    for case in own.values():
        if case.accepted or case.check in ours_only or case.name == "bad_crl_future":
            continue
        result = appraise(case.quote, case.collateral, root_ca_der=machine.root_der, now=testing.NOW)
        assert result.outcome is Outcome.FAIL, case.name


# --- each part is read once ---


def test_each_part_is_read_once_and_the_library_asked_once(
    machine: SoftwarePlatform, fine: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dcap_qvl

    quote, collateral = fine
    calls: list[str] = []

    def counted(owner: object, name: str) -> None:
        original = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    for name in ("tcb_info_json", "qe_identity_json", "to_text"):
        counted(Collateral, name)
    for name in ("verify_with_root_ca", "verify"):
        counted(dcap_qvl, name)
    counted(x509, "load_der_x509_crl")
    counted(layout, "pck_extension")
    forget()
    for again in (False, True):
        result = appraise(quote, collateral, root_ca_der=machine.root_der, now=testing.NOW)
        assert result.outcome is Outcome.PASS
        assert collateral_window(collateral)[0] <= testing.NOW
        assert result.collateral_sha256
        once = [
            "load_der_x509_crl",
            "load_der_x509_crl",
            "pck_extension",
            "qe_identity_json",
            "tcb_info_json",
        ]
        assert sorted(calls) == sorted([*([] if again else [*once, "to_text"]), "verify_with_root_ca"])
        calls.clear()


# --- collateral ---


def test_a_pck_chain_in_collateral_is_dropped(machine: SoftwarePlatform, fine: Pair) -> None:
    collateral = fine[1]
    carried = Collateral.from_json(collateral.to_json() | {"pck_certificate_chain": machine.pck_chain})
    assert carried == collateral
    assert Collateral.from_json(carried.to_text()) == collateral
    assert carried.sha256() == collateral.sha256()


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "",
        "[]",
        '{"tcb_info": "a", "tcb_info": "b"}',
        "[" * 100_000,
        {},
        {"tcb_info": "x"},
    ],
)
def test_what_is_no_collateral_is_a_collateral_error(value: Any) -> None:
    with pytest.raises(CollateralError):
        Collateral.from_json(value)


def test_unknown_and_malformed_fields_of_collateral_are_refused(
    machine: SoftwarePlatform, fine: Pair
) -> None:
    good = fine[1].to_json()
    for change in ({"more": "x"}, {"pck_crl": "zz"}, {"pck_crl": "0 0"}, {"tcb_info": 5}, {"tcb_info": "é"}):
        with pytest.raises(CollateralError):
            Collateral.from_json(good | change)


def test_the_result_says_how_it_was_reached(machine: SoftwarePlatform, fine: Pair) -> None:
    quote, collateral = fine
    result = appraise(quote, collateral, root_ca_der=machine.root_der, now=testing.NOW)
    assert result.simulated
    assert result.collateral_sha256 == collateral.sha256()
    assert "dcap-qvl 0.7" in result.verifier
    assert result.evaluation_data_number == 20
    assert result.claims["platform"]["pck"]["fmspc"] == list(b"SIMTDX")
    older = replace(collateral, tcb_info=collateral.tcb_info.replace("2027", "2026"))
    assert older.sha256() != collateral.sha256()


def test_advisories_of_the_level_that_a_td_15_runs_on_now_count() -> None:
    """Its status is that of the launch, so without them an old module would pass as up to date."""
    platform, faults = testing.platform(), testing.running_on_older("INTEL-SA-00999")
    made, collateral = testing.quote_with(platform, faults), testing.collateral_with(platform, faults)
    judged = appraise(made, collateral, root_ca_der=platform.root_der, now=testing.NOW)
    assert (judged.failing(), judged.status, judged.advisory_ids) == ((), "UpToDate", ("INTEL-SA-00999",))
    failing = [check.name for check in policy.tcb_checks(judged) if check.outcome is Outcome.FAIL]
    assert failing == ["advisories"]
