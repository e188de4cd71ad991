# SPDX-License-Identifier: MIT
"""When a record was made: forgeries of time, each with its own verdict."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outlayer_attestation import evidence, testing
from outlayer_attestation.checks import Outcome
from outlayer_attestation.platform.machine import SoftwarePlatform
from outlayer_attestation.record import TaskRecordV2

from .cases import (
    ANCHOR,
    DAY,
    POLICY,
    SETTLED,
    T,
    changed,
    check_of,
    document,
    judge,
    later,
    local_policy,
    make,
    of_a_call,
    record,
    signed,
    with_collaterals,
)

Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def request_bundle(machine: SoftwarePlatform) -> dict[str, Any]:
    return make(machine)


@pytest.fixture(scope="module")
def call_bundle(machine: SoftwarePlatform) -> dict[str, Any]:
    return of_a_call(machine)


def with_change(bundle: dict[str, Any], change: Change) -> dict[str, Any]:
    made = copy.deepcopy(bundle)
    change(made)
    return made


def everywhere(name: str, **values: Any) -> Change:
    """The same change in the chain's word at every block."""

    def change(bundle: dict[str, Any]) -> None:
        for statement in bundle["approval"].values():
            if statement is not None:
                statement[name] |= values

    return change


def without_old_blocks(bundle: dict[str, Any]) -> None:
    """What a node gives that keeps no state of old blocks."""
    bundle["approval"]["anchor"] = None
    bundle["approval"]["settlement"] = None


# --- what a true record says ---


def test_a_settled_request_is_bounded_from_both_sides(
    machine: SoftwarePlatform, request_bundle: dict[str, Any]
) -> None:
    verdict = judge(machine, request_bundle)
    assert verdict.outcome is Outcome.PASS
    assert verdict.interval == evidence.Interval(start=ANCHOR, end=SETTLED, bounded=True)
    assert verdict.to_json()["time"] == {"not_before": ANCHOR, "not_after": SETTLED}
    assert [item.what for item in verdict.judged] == [
        "the collateral of its time",
        "the newest collateral known",
    ]


def test_a_call_is_not_bounded_above_and_the_verdict_says_so(
    machine: SoftwarePlatform, call_bundle: dict[str, Any]
) -> None:
    verdict = judge(machine, call_bundle)
    assert verdict.outcome is Outcome.PASS
    assert verdict.to_json()["time"] == {"not_before": ANCHOR, "not_after": None}
    check = check_of(verdict, "Binding/not_after")
    assert check.reason == "not_bounded_above"
    assert "time not bounded above" in check.detail


def test_a_settled_request_stays_proven_years_later(
    machine: SoftwarePlatform, request_bundle: dict[str, Any]
) -> None:
    assert judge(machine, request_bundle, now=T + 9 * 365 * DAY).outcome is Outcome.PASS


# --- forgeries of time, each with its verdict ---


FORGED_RECORDS: dict[str, tuple[dict[str, Any], str, str]] = {
    "the host's clock is half a day behind": (
        {"timestamp": T - DAY // 2},
        "Binding/record_time",
        "before_its_anchor",
    ),
    "the host's clock is half a day ahead": (
        {"timestamp": T + DAY // 2},
        "Binding/anchor_age",
        "anchor_too_old",
    ),
    "the worker was shown an old block": (
        {"anchor_time": T - DAY // 2},
        "Binding/anchor_age",
        "anchor_too_old",
    ),
    "the anchor has another hash": (
        {"anchor_hash": "x" * 44},
        "Binding/not_before",
        "anchor_of_another_chain",
    ),
    "the anchor has another height": ({"anchor_height": 1}, "Binding/not_before", "anchor_of_another_chain"),
    "the anchor has another time": (
        {"anchor_time": ANCHOR - 1},
        "Binding/not_before",
        "anchor_of_another_chain",
    ),
    "the anchor is newer than the settlement": (
        {"anchor_time": SETTLED + 1, "timestamp": SETTLED + 2},
        "Binding/not_after",
        "anchor_after_settlement",
    ),
}


@pytest.mark.parametrize("name", FORGED_RECORDS)
def test_a_forged_record_of_a_request_fails(machine: SoftwarePlatform, name: str) -> None:
    changes, check, reason = FORGED_RECORDS[name]
    verdict = judge(machine, make(machine, **changes), now=T + 2 * DAY)
    assert verdict.exit_code == 1
    assert check in verdict.failing()
    assert check_of(verdict, check).reason == reason


@pytest.mark.parametrize("name", [name for name in FORGED_RECORDS if "settlement" not in name])
def test_a_forged_record_of_a_call_fails(machine: SoftwarePlatform, name: str) -> None:
    changes, check, reason = FORGED_RECORDS[name]
    verdict = judge(machine, of_a_call(machine, **changes), now=T + 2 * DAY)
    assert verdict.exit_code == 1
    assert check_of(verdict, check).reason == reason


FORGED_CHAINS: dict[str, tuple[Change, str, str]] = {
    "the key was registered after the record's anchor": (
        everywhere("worker_key", verified_at=T),
        "Approval/worker_key_registered",
        "registered_later",
    ),
    "the key was not registered at the anchor": (
        lambda bundle: bundle["approval"]["anchor"].update(worker_key=None),
        "Approval/worker_key",
        "not_registered_then",
    ),
    "the key was removed before the settlement": (
        lambda bundle: bundle["approval"]["settlement"].update(worker_key=None),
        "Approval/worker_key",
        "not_registered_then",
    ),
    "the key had expired at the anchor": (
        everywhere("worker_key", expires_at=ANCHOR),
        "Approval/worker_key_valid",
        "key_expired_then",
    ),
    "the key expired before the settlement": (
        everywhere("worker_key", expires_at=SETTLED),
        "Approval/worker_key_valid",
        "key_expired_then",
    ),
    "the set was approved after the record's anchor": (
        everywhere("measurement_set", added_at=T),
        "Approval/measurement_set_added",
        "approved_later",
    ),
    "the set was not approved at the anchor": (
        lambda bundle: bundle["approval"]["anchor"].update(measurement_set=None),
        "Approval/measurement_set",
        "not_approved_then",
    ),
    "the set became active after the anchor": (
        everywhere("measurement_set", not_before=ANCHOR + 1),
        "Approval/measurement_set_active",
        "set_not_active_then",
    ),
    "the set ended before the settlement": (
        everywhere("measurement_set", not_after=SETTLED),
        "Approval/measurement_set_active",
        "set_not_active_then",
    ),
    "the settlement names another record": (
        lambda bundle: bundle["chain"]["settlement"].update(record_sha256="ab" * 32),
        "Binding/not_after",
        "not_the_settled_record",
    ),
    "the settlement is of another transaction": (
        lambda bundle: bundle["chain"]["settlement"].update(transaction_hash="x" * 44),
        "Binding/not_after",
        "settled_by_another_transaction",
    ),
    "the settlement is in the anchor's block": (
        lambda bundle: bundle["chain"]["settlement"].update(block_height=1300),
        "Binding/not_after",
        "anchor_after_settlement",
    ),
    "the word at the settlement is of another block": (
        lambda bundle: bundle["approval"]["settlement"].update(block_height=1311),
        "Approval/chain_word_at_settlement",
        "another_block",
    ),
    "the settlement is of tomorrow": (
        lambda bundle: bundle["chain"]["settlement"].update(block_time=T + DAY),
        "Binding/not_after",
        "settled_in_future",
    ),
    "the chain's word is older than the record": (
        lambda bundle: bundle["approval"]["now"].update(block_height=0),
        "Approval/chain_word",
        "older_than_the_record",
    ),
    "the word at the anchor is of another block": (
        lambda bundle: bundle["approval"]["anchor"].update(block_hash="x" * 44),
        "Approval/chain_word_at_anchor",
        "another_block",
    ),
}


@pytest.mark.parametrize("name", FORGED_CHAINS)
@pytest.mark.parametrize("asked", [True, False])
def test_what_the_chain_contradicts_fails(
    machine: SoftwarePlatform, request_bundle: dict[str, Any], name: str, asked: bool
) -> None:
    change, check, reason = FORGED_CHAINS[name]
    verdict = judge(machine, with_change(request_bundle, change), asked=asked)
    if (
        not asked
        and "the settlement" in name
        and reason.endswith("_then")
        and check_of(verdict, check).reason != reason
    ):
        # a settlement that is merely stated bounds nothing: what ends soon after it ended before now
        assert (verdict.exit_code, check_of(verdict, check).outcome) == (2, Outcome.UNPROVEN)
        return
    assert verdict.exit_code == 1
    assert check_of(verdict, check).reason == reason


OPEN_CHAINS: dict[str, tuple[Change, str, str]] = {
    "the set was taken back since": (
        lambda bundle: bundle["approval"]["now"].update(measurement_set=None),
        "Approval/measurement_set_since",
        "removed_since",
    ),
    "the key was removed since": (
        lambda bundle: bundle["approval"]["now"].update(worker_key=None),
        "Approval/worker_key_since",
        "removed_since",
    ),
    "the settlement names no record": (
        lambda bundle: bundle["chain"]["settlement"].update(record_sha256=None),
        "Binding/not_after",
        "settlement_names_no_record",
    ),
    "no settlement was found": (
        lambda bundle: (bundle["chain"].update(settlement=None), bundle["approval"].update(settlement=None))[
            1
        ],
        "Binding/not_after",
        "no_settlement",
    ),
    "the request was not read": (
        lambda bundle: bundle["chain"].update(request=None),
        "Binding/chain_request",
        "no_request",
    ),
    "the anchor's block is not kept": (
        lambda bundle: bundle["chain"].update(anchor=None),
        "Binding/not_before",
        "block_not_kept",
    ),
    "nothing of the chain was read": (
        lambda bundle: (bundle.update(chain=None), bundle["approval"].update(settlement=None))[1],
        "Binding/not_before",
        "block_not_kept",
    ),
    "the node keeps no old blocks and the key was renewed": (
        lambda bundle: (everywhere("worker_key", verified_at=T)(bundle), without_old_blocks(bundle))[1],
        "Approval/worker_key_registered",
        "registered_or_renewed_later",
    ),
    "the contract held collateral that was left out": (
        lambda bundle: bundle["approval"]["now"].update(collateral_sha256="cd" * 32),
        "Approval/collateral_on_chain",
        "collateral_left_out",
    ),
}


@pytest.mark.parametrize("name", OPEN_CHAINS)
def test_what_the_chain_leaves_open_is_unproven(
    machine: SoftwarePlatform, request_bundle: dict[str, Any], name: str
) -> None:
    change, check, reason = OPEN_CHAINS[name]
    verdict = judge(machine, with_change(request_bundle, change))
    assert verdict.exit_code == 2, verdict.failing()
    assert check_of(verdict, check).reason == reason


def test_a_node_without_old_blocks_is_enough_while_set_and_key_are_old_ones(
    machine: SoftwarePlatform, request_bundle: dict[str, Any]
) -> None:
    assert judge(machine, with_change(request_bundle, without_old_blocks)).outcome is Outcome.PASS


def test_a_set_and_a_key_that_ended_by_themselves_since_are_no_fault(
    machine: SoftwarePlatform, request_bundle: dict[str, Any]
) -> None:
    made = copy.deepcopy(request_bundle)
    made["approval"]["now"] |= {"measurement_set": None, "worker_key": None}
    assert judge(machine, made, now=T + 20 * DAY).outcome is Outcome.PASS


# --- what is not bounded above must hold up to now ---

SINCE: dict[str, tuple[Change, str, str]] = {
    "the key expired": (
        lambda bundle: bundle["approval"]["now"]["worker_key"].update(expires_at=T + 600),
        "Approval/worker_key_valid",
        "key_expired_since",
    ),
    "the key was removed": (
        lambda bundle: bundle["approval"]["now"].update(worker_key=None),
        "Approval/worker_key_since",
        "removed_since",
    ),
    "the set ended": (
        lambda bundle: bundle["approval"]["now"]["measurement_set"].update(not_after=T + 600),
        "Approval/measurement_set_active",
        "set_ended_since",
    ),
    "the set was removed": (
        lambda bundle: bundle["approval"]["now"].update(measurement_set=None),
        "Approval/measurement_set_since",
        "removed_since",
    ),
    "the key was registered again with another set": (
        lambda bundle: bundle["approval"]["now"]["worker_key"].update(measurement_set=4, verified_at=T + 9),
        "Approval/worker_key_measurements",
        "registered_again_later",
    ),
}


@pytest.mark.parametrize("name", SINCE)
def test_a_call_is_unproven_when_what_it_rests_on_ended_before_now(
    machine: SoftwarePlatform, call_bundle: dict[str, Any], name: str
) -> None:
    change, check, reason = SINCE[name]
    verdict = judge(machine, with_change(call_bundle, change))
    assert verdict.exit_code == 2, verdict.failing()
    found = check_of(verdict, check)
    assert (found.outcome, found.reason) == (Outcome.UNPROVEN, reason)


def test_a_call_is_unproven_when_its_policy_ended_before_now(
    machine: SoftwarePlatform, call_bundle: dict[str, Any], request_bundle: dict[str, Any]
) -> None:
    made = document()
    made["valid"]["not_after"] = "2027-01-15T08:30:00Z"
    ended = signed(made)
    assert judge(machine, call_bundle, by=ended).failing() == ("Approval/policy_valid",)
    assert judge(machine, call_bundle, by=ended).exit_code == 2
    assert judge(machine, request_bundle, by=ended).outcome is Outcome.PASS


def test_a_call_needs_collateral_of_now_and_a_request_does_not(
    machine: SoftwarePlatform, call_bundle: dict[str, Any], request_bundle: dict[str, Any]
) -> None:
    far = T + 10 * DAY
    assert judge(machine, call_bundle, now=far).outcome is Outcome.PASS
    far = T + 40 * DAY
    made = with_change(call_bundle, everywhere("worker_key", expires_at=far + DAY))
    made = with_change(made, everywhere("measurement_set", not_after=None))
    verdict = judge(machine, made, now=far)
    assert verdict.failing() == ("Platform/collateral_of_now",)
    assert "--collateral" in check_of(verdict, "Platform/collateral_of_now").detail
    fresh = evidence.KnownCollateral("the file new.json", later(machine, 39))
    assert judge(machine, made, now=far, known=[fresh]).outcome is Outcome.PASS
    assert judge(machine, request_bundle, now=far).outcome is Outcome.PASS


def test_collateral_of_now_may_not_be_older_than_the_policy_allows(
    machine: SoftwarePlatform, call_bundle: dict[str, Any]
) -> None:
    week = local_policy(max_collateral_age_days=7)
    assert judge(machine, call_bundle, by=week, now=T + 6 * DAY).outcome is Outcome.PASS
    assert judge(machine, call_bundle, by=week, now=T + 8 * DAY).failing() == ("Platform/now_collateral_age",)


def test_a_settlement_that_is_merely_stated_bounds_nothing(
    machine: SoftwarePlatform, request_bundle: dict[str, Any]
) -> None:
    """Made today with a host's clock and words of last week, under collateral that has ended since."""
    far = T + 40 * DAY
    verdict = judge(machine, request_bundle, now=far, asked=False)
    assert verdict.interval is not None
    assert not verdict.interval.bounded
    assert check_of(verdict, "Platform/collateral_of_now").outcome is Outcome.UNPROVEN
    assert verdict.exit_code == 2
    assert judge(machine, request_bundle, now=far).outcome is Outcome.PASS


# --- collateral: of then, and the newest known ---


def test_old_parts_beside_new_tcb_info_do_not_make_it_count_less(
    machine: SoftwarePlatform, request_bundle: dict[str, Any]
) -> None:
    bad = later(machine, 1, status="OutOfDate", tcb_info={"tcbEvaluationDataNumber": 21})
    clean = testing.collateral_with(machine, testing.Faults())
    weak = replace(bad, pck_crl=clean.pck_crl, root_ca_crl=clean.root_ca_crl)
    verdict = judge(machine, with_collaterals(request_bundle, weak), now=T + 2 * DAY)
    assert "Platform/newest_tcb_status" in verdict.failing()
    number = {"tcbEvaluationDataNumber": 22}
    other = later(machine, 1.5, qe_identity=number)
    both = judge(machine, with_collaterals(request_bundle, weak, other), now=T + 2 * DAY)
    assert "Platform/newest_tcb_status" in both.failing()


def test_a_pck_revoked_since_fails_whatever_the_record_says(
    machine: SoftwarePlatform, request_bundle: dict[str, Any], call_bundle: dict[str, Any]
) -> None:
    revoked = later(machine, 1, platform_ca_revokes=("pck",))
    for bundle in (request_bundle, call_bundle):
        verdict = judge(machine, with_collaterals(bundle, revoked), now=T + 2 * DAY)
        assert "Platform/revocation_known" in verdict.failing()
        assert verdict.exit_code == 1
        assert check_of(verdict, "Platform/dcap_qvl").outcome is Outcome.PASS


def test_a_backdated_record_with_collateral_of_then_and_a_pck_revoked_today_fails(
    machine: SoftwarePlatform,
) -> None:
    old = make(machine, anchor_time=ANCHOR - DAY // 2, timestamp=T - DAY // 2)
    revoked = later(machine, 0, platform_ca_revokes=("pck",))
    verdict = judge(machine, with_collaterals(old, revoked))
    assert {"Binding/not_before", "Platform/revocation_known"} <= set(verdict.failing())


def test_a_rolled_back_crl_in_the_newest_collateral_hides_no_revocation(
    machine: SoftwarePlatform, request_bundle: dict[str, Any]
) -> None:
    revoking = later(machine, 1, platform_ca_revokes=("pck",))
    clean = testing.collateral_with(machine, testing.Faults())
    number = {"tcbEvaluationDataNumber": 21}
    newest = later(machine, 2, tcb_info=number, qe_identity=number)
    rolled_back = replace(newest, pck_crl=clean.pck_crl, root_ca_crl=clean.root_ca_crl)
    verdict = judge(machine, with_collaterals(request_bundle, revoking, rolled_back), now=T + 3 * DAY)
    assert verdict.failing() == ("Platform/revocation_known",)


def test_a_rolled_back_crl_ages_the_collateral(machine: SoftwarePlatform) -> None:
    old = make(machine, testing.Faults(crl_age=timedelta(days=8)))
    week = local_policy(max_collateral_age_days=7)
    assert "Platform/collateral_age" in judge(machine, old, by=week).failing()


def test_old_collateral_beside_a_new_record_is_unproven(machine: SoftwarePlatform) -> None:
    stale = testing.Faults(tcb_age=timedelta(days=40), qe_age=timedelta(days=40), crl_age=timedelta(days=40))
    verdict = judge(machine, make(machine, stale))
    assert check_of(verdict, "Platform/collateral_window").reason == "collateral_not_of_that_time"
    assert verdict.exit_code in (1, 2)


def test_of_two_valid_collaterals_the_newest_evaluation_counts(
    machine: SoftwarePlatform, request_bundle: dict[str, Any]
) -> None:
    number = {"tcbEvaluationDataNumber": 21}
    newer = later(machine, -0.02, status="OutOfDate", tcb_info=number, qe_identity=number)
    verdict = judge(machine, with_collaterals(request_bundle, newer))
    assert verdict.tcb_status == "OutOfDate"
    assert verdict.collateral_sha256 == newer.sha256()
    assert "the newest of 2 valid then" in verdict.judged[0].text
    order = with_collaterals(request_bundle | {"collaterals": []}, newer)
    order["collaterals"] += request_bundle["collaterals"]
    assert judge(machine, order).judged[0].status == "OutOfDate"


def test_the_newest_collateral_decides_unless_the_policy_says_otherwise(
    machine: SoftwarePlatform, request_bundle: dict[str, Any], call_bundle: dict[str, Any]
) -> None:
    newest = later(machine, 1, status="OutOfDate", advisories=("INTEL-SA-00837",))
    both = with_collaterals(request_bundle, newest)
    verdict = judge(machine, both, now=T + 2 * DAY)
    assert verdict.failing() == ("Platform/newest_tcb_status", "Platform/newest_advisories")
    assert [item.status for item in verdict.judged] == ["UpToDate", "OutOfDate"]
    lenient = local_policy(newest_collateral="revocation_only")
    assert judge(machine, both, now=T + 2 * DAY, by=lenient).outcome is Outcome.PASS
    revoked = later(machine, 1, platform_ca_revokes=("pck",))
    still = judge(machine, with_collaterals(request_bundle, revoked), now=T + 2 * DAY, by=lenient)
    assert "Platform/revocation_known" in still.failing()
    of_call = judge(machine, with_collaterals(call_bundle, newest), now=T + 2 * DAY, by=lenient)
    assert of_call.exit_code != 0, "a call may have been made after the platform fell behind"


# --- the policy's own bound on age ---


def test_the_anchor_may_be_as_old_as_the_policy_says_and_no_older(machine: SoftwarePlatform) -> None:
    made = document()
    made["report_data"]["max_age_seconds"] = 10
    strict = signed(made)
    assert judge(machine, of_a_call(machine, timestamp=ANCHOR + 10), by=strict).outcome is Outcome.PASS
    verdict = judge(machine, of_a_call(machine, timestamp=ANCHOR + 11), by=strict)
    assert verdict.failing() == ("Binding/anchor_age",)
    assert judge(machine, of_a_call(machine, timestamp=ANCHOR + 11), by=POLICY).outcome is Outcome.PASS


def test_a_record_later_than_its_settlement_fails_whatever_age_the_policy_allows(
    machine: SoftwarePlatform,
) -> None:
    made = document()
    made["report_data"]["max_age_seconds"] = 10**6
    lenient = signed(made)
    assert judge(machine, make(machine, timestamp=SETTLED + 300), by=lenient).outcome is Outcome.PASS
    verdict = judge(machine, make(machine, timestamp=SETTLED + 301), by=lenient)
    assert verdict.failing() == ("Binding/record_time",)
    assert check_of(verdict, "Binding/record_time").reason == "after_its_settlement"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    anchor=st.integers(T - 10 * DAY, T + 10 * DAY),
    timestamp=st.integers(T - 10 * DAY, T + 10 * DAY),
    settled=st.integers(T - 10 * DAY, T + 10 * DAY),
)
def test_no_choice_of_clocks_proves_a_record_outside_of_its_interval(
    machine: SoftwarePlatform, anchor: int, timestamp: int, settled: int
) -> None:
    """Whatever anchor, clock and settlement a host arranges, a proven record lies between the chain's two times."""
    made = make(machine, anchor_time=anchor, timestamp=timestamp)
    made["chain"]["anchor"]["time"] = anchor
    made["chain"]["settlement"]["block_time"] = settled
    verdict = judge(machine, made, now=T + 11 * DAY)
    if verdict.outcome is Outcome.PASS:
        assert anchor <= settled
        assert anchor - 300 <= timestamp <= min(anchor + 300, settled + 300)


def test_the_leaf_covers_the_anchor() -> None:
    one = record()
    for changes in ({"anchor_hash": "y" * 44}, {"anchor_height": 1}, {"anchor_time": 1}):
        other = TaskRecordV2(**(one.to_json() | changes))
        assert other.leaf_hash() != one.leaf_hash()


def test_offline_the_chains_words_are_stated_and_never_pass(
    machine: SoftwarePlatform, request_bundle: dict[str, Any]
) -> None:
    verdict = judge(machine, request_bundle, asked=False)
    assert verdict.outcome is Outcome.PASS
    proven_live = set(judge(machine, request_bundle).named(Outcome.PASS))
    of_the_chain = proven_live - set(verdict.named(Outcome.PASS))
    assert set(verdict.stated()) == of_the_chain
    for name in ("Approval/worker_key", "Approval/chain_word", "Binding/not_before", "Binding/not_after"):
        assert name in verdict.stated()
    assert verdict.to_json()["rests_on"]["stated"] == list(verdict.stated())


def test_a_bundle_is_changed_in_one_place_by_the_helper(request_bundle: dict[str, Any]) -> None:
    made = changed(request_bundle, ("chain", "anchor", "time"), 1)
    assert made["chain"]["anchor"]["time"] == 1
    assert request_bundle["chain"]["anchor"]["time"] == ANCHOR
