# SPDX-License-Identifier: MIT
"""When a record was made. Its own timestamp is its host's word; the chain bounds it from both sides.

Not before the anchor: nobody knows the hash of a block before it exists. Not after the settlement: the receipt
carries the record's leaf, and nobody knows that before the record exists. An HTTPS call has no such receipt, so
whatever must hold for the record must then hold from the anchor up to now.
"""

from __future__ import annotations

from outlayer_attestation.checks import Check, decide, failed, passed, unproven
from outlayer_attestation.evidence.basis import CLOCK_SKEW_SECONDS, Basis
from outlayer_attestation.evidence.statement import ChainWord, Settlement
from outlayer_attestation.evidence.verdict import Interval, shown
from outlayer_attestation.record import TaskRecordV2

DEFAULT_MAX_AGE_SECONDS = 300
"""How much older than the record its anchor may be, where no policy says so."""

NOT_BOUNDED = (
    "time not bounded above: nothing on chain names this record, so key, set, TCB and revocation are judged over"
    " the whole interval from its anchor to now"
)


def interval_of(record: TaskRecordV2, chain: ChainWord | None, now: int, *, asked: bool) -> Interval:
    """The interval in which the record was made.

    A settlement that cannot be this record's bounds nothing, and neither does one that is merely stated: whoever
    makes up a bundle makes up its settlement, too.
    """
    settlement = None if chain is None else chain.settlement
    bounds = asked and record.request_id is not None
    if not bounds or settlement is None or _fault(record, settlement) is not None:
        return Interval(start=record.anchor_time, end=max(now, record.anchor_time), bounded=False)
    return Interval(start=record.anchor_time, end=settlement.block_time, bounded=True)


def _fault(record: TaskRecordV2, settlement: Settlement) -> tuple[str, str] | None:
    """Why a settlement is not the one of this record, as reason and detail; None when it is."""
    if settlement.record_sha256 != record.leaf_hash().hex():
        return "not_the_settled_record", f"with the record {settlement.record_sha256}"
    if settlement.transaction_hash != record.transaction_hash:
        return "settled_by_another_transaction", f"by transaction {settlement.transaction_hash}"
    if settlement.block_time < record.anchor_time or settlement.block_height <= record.anchor_height:
        return (
            "anchor_after_settlement",
            f"the anchor is block {record.anchor_height} of {shown(record.anchor_time)}",
        )
    return None


def time_checks(
    record: TaskRecordV2,
    chain: ChainWord | None,
    interval: Interval,
    basis: Basis,
    max_age_seconds: int,
    now: int,
) -> list[Check]:
    """Whether the chain bounds the record, and whether the record's own times fit between."""
    return [
        _not_before(record, chain, basis),
        _not_after(record, chain, basis, now),
        _record_time(record, interval),
        _anchor_age(record, max_age_seconds),
    ]


def _not_before(record: TaskRecordV2, chain: ChainWord | None, basis: Basis) -> Check:
    name = "not_before"
    header = None if chain is None else chain.anchor
    if header is None:
        detail = f"block {record.anchor_height} of {shown(record.anchor_time)} by the worker's word"
        if basis.asked:
            return unproven(
                name, "block_not_kept", f"{detail}; the node does not keep it: name an archival one"
            )
        return unproven(name, "no_header", f"{detail}; the bundle holds no header of it")
    found = (header.height, header.hash, header.time)
    same = found == (record.anchor_height, record.anchor_hash, record.anchor_time)
    detail = f"block {header.height} {header.hash} of {shown(header.time)}"
    if not same:
        detail = (
            f"the record's anchor is block {record.anchor_height} {record.anchor_hash} of"
            f" {shown(record.anchor_time)}, the chain has {detail}"
        )
    return basis.holds(name, same, "anchor_of_another_chain", detail)


def _not_after(record: TaskRecordV2, chain: ChainWord | None, basis: Basis, now: int) -> Check:
    name = "not_after"
    if record.request_id is None:
        return passed(name, NOT_BOUNDED, reason="not_bounded_above")
    settlement = None if chain is None else chain.settlement
    if settlement is None:
        detail = f"no successful settlement of request {record.request_id} was found; {NOT_BOUNDED}"
        return unproven(name, "no_settlement", detail)
    where = f"settled in block {settlement.block_height} at {shown(settlement.block_time)}"
    if settlement.record_sha256 is None:
        return unproven(name, "settlement_names_no_record", f"{where}; {NOT_BOUNDED}")
    fault = _fault(record, settlement)
    if fault is not None:
        reason, detail = fault
        return failed(name, reason, f"{where}, {detail}")
    if settlement.block_time > now + CLOCK_SKEW_SECONDS:
        return failed(name, "settled_in_future", where)
    return basis.holds(name, True, "", f"{where}; the receipt carries this record")


def _record_time(record: TaskRecordV2, interval: Interval) -> Check:
    name, detail = "record_time", f"{shown(record.timestamp)} by the worker's clock; {interval.text}"
    if record.timestamp < interval.start - CLOCK_SKEW_SECONDS:
        return failed(name, "before_its_anchor", detail)
    if interval.bounded and record.timestamp > interval.end + CLOCK_SKEW_SECONDS:
        return failed(name, "after_its_settlement", detail)
    return passed(name, detail)


def _anchor_age(record: TaskRecordV2, limit: int) -> Check:
    age = record.timestamp - record.anchor_time
    return decide(
        "anchor_age", age <= limit, "anchor_too_old", f"{age} s older than the record; at most {limit}"
    )
