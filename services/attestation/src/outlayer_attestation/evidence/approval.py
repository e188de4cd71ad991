# SPDX-License-Identifier: MIT
"""Approval: the signed policy's rules, and the register contract's word over the record's whole interval.

Set and key must have been approved when the record was made. The contract is asked at the record's anchor and at
its settlement, where the node keeps those blocks, and now; without the old blocks, the times that it keeps
(``added_at``, ``verified_at``) have to be before the anchor.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from outlayer_attestation.checks import Check, decide, failed, unproven
from outlayer_attestation.evidence.basis import CLOCK_SKEW_SECONDS, Basis, signed_by
from outlayer_attestation.evidence.statement import (
    Approval,
    MeasurementSet,
    Settlement,
    Statement,
    WorkerKey,
)
from outlayer_attestation.evidence.trust import TrustAnchors
from outlayer_attestation.evidence.verdict import Interval, shown
from outlayer_attestation.measurements import Measurements, describe
from outlayer_attestation.policy import Policy, find_measurements
from outlayer_attestation.record import TaskRecordV2

RECORD_ROLE: Final = "worker"
"""Task records are made by executors alone; another role's policy, set or key says nothing about them."""

_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Facts:
    """What approval is judged on. ``fmspc`` None: the quote cannot be read."""

    record: TaskRecordV2
    interval: Interval
    trust: TrustAnchors
    policy: Policy | None
    collaterals: frozenset[str]
    fmspc: str | None
    settlement: Settlement | None
    now: int


# --- the signed policy ---


def policy_checks(facts: Facts, measured: list[Check]) -> list[Check]:
    """The signed policy: signed, of this role, valid over the interval, and ``measured`` of the quote."""
    policy = facts.policy
    if policy is None:
        detail = "no signed policy was given; offline, approval is judged by it"
        return [unproven("policy_signature", "no_policy", detail)]
    role = policy.document.role
    detail = f"the policy is for the role {role}, the record is a {RECORD_ROLE}'s"
    checks = [
        decide("policy_signature", bool(policy.signers), "not_signed", f"sha256 {describe(policy.sha256)}"),
        decide("policy_role", role == RECORD_ROLE, "other_role", detail),
        _policy_valid(policy, facts.interval),
        *measured,
    ]
    return signed_by(policy.signers, checks)


def _policy_valid(policy: Policy, interval: Interval) -> Check:
    valid = policy.document.valid
    name, detail = "policy_valid", f"valid {valid.not_before} to {valid.not_after}"
    if not valid.covers(interval.start) or (interval.bounded and not valid.covers(interval.end)):
        return failed(name, "policy_not_valid_then", detail)
    if not valid.covers(interval.end):
        return unproven(name, "policy_ended_since", f"{detail}; time not bounded above")
    return decide(name, True, "", detail)


# --- the chain ---


def chain_checks(facts: Facts, approval: Approval | None, basis: Basis) -> list[Check]:
    """The register contract's word."""
    if approval is None:
        return [unproven("chain_word", "no_approval", "the bundle holds no word of the chain")]
    return [
        _chain_word(facts, approval.now, basis),
        *_then(facts, approval, basis),
        *_names(facts, approval, basis),
        _collateral(facts, approval, basis),
        *_SetJudge(facts, approval, basis).checks(),
        *_KeyJudge(facts, approval, basis).checks(),
    ]


def _chain_word(facts: Facts, word: Statement, basis: Basis) -> Check:
    name = "chain_word"
    if word.recorded_at > facts.now + CLOCK_SKEW_SECONDS:
        return failed(name, "recorded_in_future", f"{word.words}, {shown(word.recorded_at)}")
    newer = word.block_height >= facts.record.anchor_height
    detail = word.words if newer else f"{word.words}; the record's anchor is {facts.record.anchor_height}"
    return basis.holds(name, newer, "older_than_the_record", detail)


def _then(facts: Facts, approval: Approval, basis: Basis) -> list[Check]:
    """The words of then are of the anchor's block and of the settlement's."""
    checks = []
    if approval.anchor is not None:
        block = (facts.record.anchor_height, facts.record.anchor_hash)
        checks.append(_of_block("chain_word_at_anchor", approval.anchor, block, basis))
    if approval.settlement is not None:
        settled = facts.settlement
        block = (settled.block_height, settled.block_hash) if settled else (-1, "")
        checks.append(_of_block("chain_word_at_settlement", approval.settlement, block, basis))
    return checks


def _of_block(name: str, word: Statement, block: tuple[int, str], basis: Basis) -> Check:
    same = (word.block_height, word.block_hash) == block
    return basis.holds(name, same, "another_block", f"{word.words}, hash {word.block_hash}")


def _statements(approval: Approval) -> list[Statement]:
    return [word for word in (approval.now, approval.anchor, approval.settlement) if word is not None]


def _names(facts: Facts, approval: Approval, basis: Basis) -> list[Check]:
    networks = {word.network_id for word in _statements(approval)}
    contracts = {word.contract for word in _statements(approval)}
    record, trust = facts.record, facts.trust
    checks = []
    if networks != {record.network_id}:
        detail = f"the record is of {record.network_id}, the chain's word of {', '.join(sorted(networks))}"
        checks.append(failed("network", "inconsistent", detail))
    else:
        checks.append(_name("network", record.network_id, trust.network_id))
    checks.append(_name("main_contract", record.contract_id, trust.contract_id))
    wanted, found = trust.register_contract_id, ", ".join(sorted(contracts))
    if wanted is None:
        checks.append(unproven("register_contract", "not_expected", f"{found}; name the one you expect"))
    else:
        detail = f"{found}, expected {wanted}"
        checks.append(basis.holds("register_contract", contracts == {wanted}, "other_name", detail))
    return checks


def _name(name: str, found: str | None, wanted: str | None) -> Check:
    """A name that the quote binds, against the one expected."""
    if wanted is None:
        return unproven(name, "not_expected", f"{found}; name the one you expect")
    if found is None:
        return unproven(name, "not_in_record", f"expected {wanted}")
    return decide(name, found == wanted, "other_name", f"{found}, expected {wanted}")


def _collateral(facts: Facts, approval: Approval, basis: Basis) -> Check:
    """What the contract judged by is among what is judged by here: nothing newer was left out."""
    digests = {word.collateral_sha256 for word in _statements(approval)} - {None}
    missing = sorted(str(digest) for digest in digests - facts.collaterals)
    if missing:
        detail = f"the contract held {describe(missing[0])}, which the bundle does not hold"
        return unproven("collateral_on_chain", "collateral_left_out", detail)
    return basis.holds(
        "collateral_on_chain", True, "", ", ".join(describe(item) for item in sorted(digests, key=str))
    )


class _SetJudge:
    """The measurement set with the quote's five values."""

    def __init__(self, facts: Facts, approval: Approval, basis: Basis) -> None:
        self.facts = facts
        self.interval = facts.interval
        self.approval = approval
        self.basis = basis
        words = (approval.anchor, approval.settlement, approval.now)
        self.found = next((word.measurement_set for word in words if word and word.measurement_set), None)

    def checks(self) -> list[Check]:
        name = "measurement_set"
        for when, word in (("anchor", self.approval.anchor), ("settlement", self.approval.settlement)):
            if word is not None and word.measurement_set is None:
                detail = f"at the {when}, block {word.block_height}, no such set was approved"
                return [failed(name, "not_approved_then", detail)]
        if self.found is None:
            return [unproven(name, "not_on_chain", "the chain has no set with these measurements")]
        judges = (self._in_policy, self._role, self._added, self._active, self._since)
        return [judge(self.found) for judge in judges]

    def _in_policy(self, found: MeasurementSet) -> Check:
        policy = self.facts.policy
        known = policy is None or find_measurements(policy, found.measurements) is not None
        detail = f"set {found.id}" + ("" if policy is None else " and the policy")
        return self.basis.holds("measurement_set", known, "not_in_policy", detail)

    def _role(self, found: MeasurementSet) -> Check:
        sets = [word.measurement_set for word in _statements(self.approval) if word.measurement_set]
        same = all(item.role == RECORD_ROLE for item in sets)
        return self.basis.holds("measurement_set_role", same, "other_role", found.role)

    def _added(self, found: MeasurementSet) -> Check:
        name, start = "measurement_set_added", self.interval.start
        if found.added_at is None:
            return unproven(name, "not_told", "the contract does not tell since when")
        detail = f"approved {shown(found.added_at)}, the anchor is of {shown(start)}"
        return self.basis.holds(name, found.added_at <= start, "approved_later", detail)

    def _active(self, found: MeasurementSet) -> Check:
        name, interval = "measurement_set_active", self.interval
        detail = f"set {found.id}, active {shown(found.not_before)} to {shown(found.not_after)}"
        if not found.active(interval.start) or (interval.bounded and not found.active(interval.end)):
            return failed(name, "set_not_active_then", detail)
        latest = self.approval.now.measurement_set or found
        if not interval.bounded and not latest.active(self.facts.now):
            detail = f"set {latest.id}, active {shown(latest.not_before)} to {shown(latest.not_after)}"
            return unproven(name, "set_ended_since", f"{detail}; time not bounded above")
        return self.basis.holds(name, True, "", detail)

    def _since(self, found: MeasurementSet) -> Check:
        """A set that was taken back before its end was taken back for a reason."""
        name, latest = "measurement_set_since", self.approval.now.measurement_set
        if latest is None and not found.ended(self.facts.now):
            return unproven(name, "removed_since", f"set {found.id} was removed before its end")
        return self.basis.holds(name, True, "", "ended and removed" if latest is None else f"set {latest.id}")


class _KeyJudge:
    """The key that signs for the worker on chain."""

    def __init__(self, facts: Facts, approval: Approval, basis: Basis) -> None:
        self.facts = facts
        self.interval = facts.interval
        self.approval = approval
        self.basis = basis
        self.first = approval.anchor or approval.settlement or approval.now
        self.last = approval.settlement or approval.now

    def checks(self) -> list[Check]:
        name = "worker_key"
        for when, word in (("anchor", self.approval.anchor), ("settlement", self.approval.settlement)):
            if word is not None and word.worker_key is None:
                detail = f"at the {when}, block {word.block_height}, the key was not registered"
                return [failed(name, "not_registered_then", detail)]
        first, last = self.first.worker_key, self.last.worker_key
        if first is None or last is None:
            return (
                [self._since(first or last)]
                if first or last
                else [unproven(name, "key_not_registered", "the register contract has no such key")]
            )
        keys = [word.worker_key for word in _statements(self.approval) if word.worker_key]
        same = all(key.public_key == self.facts.record.worker_public_key for key in keys)
        return [
            self.basis.holds(name, same, "other_key", first.public_key),
            self.basis.holds("worker_key_role", self._role(keys), "other_role", first.role),
            self._registered(first),
            self._valid(first, last),
            self._since(last),
            self._set(),
            *self._platform(keys),
        ]

    def _role(self, keys: list[WorkerKey]) -> bool:
        return all(key.role == RECORD_ROLE for key in keys)

    def _registered(self, key: WorkerKey) -> Check:
        """``verified_at`` moves with every renewal, so a later one proves nothing without the word of then."""
        name, start = "worker_key_registered", self.interval.start
        detail = f"verified {shown(key.verified_at)}, the anchor is of {shown(start)}"
        if key.verified_at >= key.expires_at or key.verified_at > self.first.recorded_at + CLOCK_SKEW_SECONDS:
            return failed(name, "dates_inconsistent", detail)
        if key.verified_at <= start:
            return self.basis.holds(name, True, "", detail)
        if self.approval.anchor is not None:
            return failed(name, "registered_later", detail)
        hint = "; name an archival node to see whether it was registered before"
        return unproven(name, "registered_or_renewed_later", detail + hint)

    def _valid(self, first: WorkerKey, last: WorkerKey) -> Check:
        name, interval = "worker_key_valid", self.interval
        detail = f"valid until {shown(last.expires_at)}"
        if first.expires_at <= interval.start or (interval.bounded and last.expires_at <= interval.end):
            return failed(name, "key_expired_then", detail)
        if not interval.bounded and last.expires_at <= self.facts.now:
            return unproven(name, "key_expired_since", f"{detail}; time not bounded above")
        return self.basis.holds(name, True, "", detail)

    def _since(self, known: WorkerKey | None) -> Check:
        """A key that was removed before its end was removed for a reason."""
        name = "worker_key_since"
        if self.approval.now.worker_key is not None:
            return self.basis.holds(name, True, "", "registered now")
        ended = known is not None and known.expires_at <= self.facts.now
        if self.interval.bounded and ended:
            return self.basis.holds(name, True, "", "expired and removed since")
        return unproven(name, "removed_since", "the register contract no longer has the key")

    def _set(self) -> Check:
        """The registration names the set that the quote is judged by, at each block that was asked."""
        name = "worker_key_measurements"
        for word in _statements(self.approval):
            key, found = word.worker_key, word.measurement_set
            if key is None or found is None:
                continue
            if key.measurement_set == found.id and key.measurements == found.measurements:
                continue
            detail = f"registered with set {key.measurement_set}, the quote is of set {found.id}"
            if word is not self.approval.now or key.measurement_set == found.id:
                return failed(name, "inconsistent", detail)
            if self.interval.bounded and self.approval.settlement is not None:
                continue  # registered again after the settlement, whose own word counts
            if key.verified_at <= self.interval.start:
                return failed(name, "inconsistent", detail)
            return unproven(name, "registered_again_later", detail)
        found = self.first.measurement_set
        if found is None:
            return unproven(name, "not_on_chain")
        return self.basis.holds(name, True, "", f"set {found.id}")

    def _platform(self, keys: list[WorkerKey]) -> list[Check]:
        policy = self.facts.policy
        statuses = policy.document.platform.statuses if policy else ["UpToDate"]
        first = keys[0]
        good = all(key.tcb_status in statuses for key in keys)
        checks = [self.basis.holds("worker_key_tcb", good, "tcb_status", first.tcb_status)]
        if self.facts.fmspc is None:
            checks.append(unproven("worker_key_fmspc", "quote_unreadable"))
        else:
            same = all(key.fmspc == self.facts.fmspc for key in keys)
            detail = f"{first.fmspc}, the quote has {self.facts.fmspc}"
            checks.append(self.basis.holds("worker_key_fmspc", same, "other_platform", detail))
        digests = all(_HASH.fullmatch(key.quote_report_sha256) for key in keys)
        detail = "digest of the registration's report"
        checks.append(self.basis.holds("worker_key_report", digests, "malformed", detail))
        return checks


def approved_set(approval: Approval | None) -> Measurements | None:
    """The measurements that the chain's word approves."""
    if approval is None:
        return None
    words = (approval.anchor, approval.settlement, approval.now)
    found = next((word.measurement_set for word in words if word and word.measurement_set), None)
    return found.measurements if found else None
