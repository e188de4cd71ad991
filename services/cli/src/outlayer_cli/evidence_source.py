# SPDX-License-Identifier: MIT
"""Collecting the evidence for a result: from the coordinator (not trusted), the chain, and the client's own key.

Whatever a remote party answers, these functions give their result or raise an error with a hint.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import time
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import Any, NoReturn
from urllib.parse import quote as quoted

from outlayer_attestation import quote as quotes
from outlayer_attestation.checks import Check, decide, passed, unproven
from outlayer_attestation.collateral import Collateral
from outlayer_attestation.errors import AttestationError
from outlayer_attestation.merkle import HASH_SIZE
from outlayer_attestation.record import Batch, TaskRecordV2, unhex
from outlayer_cli.api import MAX_ATTESTATIONS_BYTES, Api, ApiError
from outlayer_cli.errors import CliError
from outlayer_cli.payment_keys import PaymentKey
from outlayer_cli.replies import decode_base64, shown, unexpected
from outlayer_near.errors import EventError, RpcError
from outlayer_near.events import RequestEvent, requests_of_transaction, settlement_of
from outlayer_near.models import MeasurementSet
from outlayer_near.rpc import Header, NearRpc
from outlayer_near.views import OutlayerViews, RegisterViews

MAX_RECORDS = 100
"""Of one answer. A coordinator of this version sends no more for a request or a transaction."""
MAX_PROOF_HASHES = 64
NOT_KEPT = ("UNKNOWN_BLOCK", "GARBAGE_COLLECTED_BLOCK")
"""What a node says of a block, or of its state, that it does not keep any more."""


@dataclass(frozen=True)
class Payload:
    """The bytes that the guest read and that were delivered; None for what the client does not have."""

    input: bytes | None = None
    output: bytes | None = None


# --- the coordinator ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Attestation:
    """One record with its place in a quoted batch, each part read strictly. ``raw`` is the JSON as it came."""

    record: dict[str, Any]
    leaf_index: int
    inclusion_proof: tuple[str, ...]
    batch: dict[str, Any]
    raw: dict[str, Any] = field(repr=False)
    task: TaskRecordV2 = field(repr=False)
    quote: bytes = field(repr=False)

    @classmethod
    def from_json(cls, value: object, what: str) -> Attestation:
        """Read one attestation. Raises ``CliError``."""
        if not isinstance(value, dict):
            raise unexpected(what, "an attestation is not an object")
        try:
            task = TaskRecordV2.from_json(value.get("record"))
            batch = Batch.from_json(value.get("batch"))
            proof = _proof(value.get("inclusion_proof"), what)
        except AttestationError as error:
            raise unexpected(what, shown(error)) from error
        index = value.get("leaf_index")
        if type(index) is not int or not 0 <= index < batch.tree_size:
            raise unexpected(what, "leaf_index is not a place in the batch")
        return cls(value["record"], index, proof, value["batch"], value, task, batch.quote)


def _proof(value: object, what: str) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_PROOF_HASHES:
        raise unexpected(what, f"inclusion_proof is not a list of at most {MAX_PROOF_HASHES} hashes")
    if any(len(unhex("inclusion_proof", item)) != HASH_SIZE for item in value):
        raise unexpected(what, f"inclusion_proof holds something else than hashes of {HASH_SIZE} bytes")
    return tuple(value)


def attestations(api: Api, kind: str, key: str) -> list[Attestation]:
    """Records by ``call``, ``tx``, ``request`` or ``job``. Raises ``CliError`` when there is none."""
    safe = quoted(key, safe="")
    path = f"/attestations/{safe}" if kind == "job" else f"/attestations/by-{kind}/{safe}"
    what = f"GET {path}"
    try:
        reply = api.get_json(path, max_bytes=MAX_ATTESTATIONS_BYTES)
    except ApiError as error:
        if error.status != 404:
            raise
        reply = {"items": []}
    if not isinstance(reply, dict):
        raise unexpected(what, "it is not an object")
    items = [reply] if kind == "job" and "record" in reply else reply.get("items")
    if not isinstance(items, list):
        raise unexpected(what, "it has no items", 'an object with a list "items"')
    if len(items) > MAX_RECORDS:
        raise unexpected(what, f"it has {len(items)} records", f"at most {MAX_RECORDS}")
    if not items:
        raise CliError(
            f"there is no attestation of {kind} {shown(key)}",
            hint="it exists once the result was delivered; see that the id is right",
        )
    return [Attestation.from_json(item, what) for item in items]


_ASKED_BY = {"call": "call_id", "tx": "transaction_hash", "request": "request_id", "job": "job_id"}


def asked_for(record: dict[str, Any], kind: str, key: str) -> Check:
    """Whether a record is of what was asked for: a coordinator may send a genuine record of something else."""
    name = "transaction" if kind == "tx" else kind
    found = record.get(_ASKED_BY[kind])
    wanted = key.lower() if kind in ("call", "job") else key
    same = found is not None and str(found) == wanted
    return decide(f"asked_{name}", same, f"other_{name}", f"asked for {shown(key)}, the record is of {found}")


def call_payload(api: Api, call_id: str, key: PaymentKey | None) -> Payload:
    """Input and output of a call, with the payment key that made it; nothing without it."""
    if key is None:
        return Payload()
    try:
        reply = api.payload(call_id, key)
    except ApiError as error:
        if error.status in (401, 403, 404):
            return Payload()
        raise
    what = f"GET /calls/{call_id}/payload"
    return Payload(decode_base64(reply.input_base64, what), decode_base64(reply.output_base64, what))


# --- the chain: a request and its settlement ----------------------------------------------------------


@dataclass(frozen=True)
class SettledReceipt:
    """The receipt in which the main contract delivered the answer, and the block that it is in.

    ``block_time`` is unix seconds, rounded down. ``record_sha256`` None: the receipt names no record.
    """

    transaction_hash: str
    receipt_id: str
    block_hash: str
    block_height: int
    block_time: int
    record_sha256: str | None

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class ChainFacts:
    """What the chain says of one request: its event, the value that its callback returned, and its settlement.

    Only receipts count that succeeded, in a final block. ``settlement`` is None while the request waits, and when
    the node does not keep the block of the settlement.
    """

    event: RequestEvent
    input: bytes
    output: bytes | None
    settlement: SettledReceipt | None = None
    requests: tuple[int, ...] = ()
    """Ids of all requests of the transaction."""

    def to_json(self) -> dict[str, Any]:
        return {
            "transaction_hash": self.event.tx_hash,
            "receipt_id": self.event.receipt_id,
            "request_id": self.event.request.request_id,
            "predecessor_id": self.event.predecessor_id,
            "signer_id": self.event.signer_id,
            "project_id": self.event.request.project_id,
            "block_height": self.event.block_height,
            "block_hash": self.event.block_hash,
        }


def chain_word(endpoint: str, anchor: Header | None, facts: ChainFacts | None) -> dict[str, Any]:
    """The member ``chain`` of a bundle: what this endpoint answered about a record's blocks and receipts."""
    settlement = None if facts is None else facts.settlement
    header = None
    if anchor is not None:
        header = {"height": anchor.height, "hash": anchor.hash, "time": anchor.time}
    return {
        "endpoint": endpoint,
        "anchor": header,
        "settlement": None if settlement is None else settlement.to_json(),
        "request": None if facts is None else facts.to_json(),
    }


async def header_or_none(rpc: NearRpc, block: int | str) -> Header | None:
    """A block's header; None when the node does not keep the block. Raises ``NearError`` for any other trouble."""
    try:
        return await rpc.header(block)
    except RpcError as error:
        if error.name in NOT_KEPT:
            return None
        raise


async def anchor_header(rpc: NearRpc, record: dict[str, Any]) -> Header | None:
    """The chain's own header at the height of a record's anchor; None when the node does not keep that block.

    By height, so that a record which names a block of another chain is told the hash that this chain has there.
    None as well for a height that this chain has not reached.
    """
    height = TaskRecordV2.from_json(record).anchor_height
    head = await rpc.header("final")
    if height > head.height:
        return None
    return await header_or_none(rpc, height)


async def chain_facts(rpc: NearRpc, contract_id: str, record: dict[str, Any]) -> ChainFacts:
    """Read a request's transaction by an own connection. Raises ``CliError`` when it does not hold the request."""
    task = TaskRecordV2.from_json(record)
    if not task.transaction_hash or not task.signer_id:
        raise CliError("the record names no transaction")
    status = await rpc.transaction(task.transaction_hash, task.signer_id, wait_until="FINAL", receipts=True)
    requests = list(requests_of_transaction(status, contract_id))
    event = next((item for item in requests if item.request.request_id == task.request_id), None)
    if event is None:
        raise CliError(
            f"transaction {shown(task.transaction_hash)} does not hold request {task.request_id}",
            hint="see that --rpc is a node of the record's network",
        )
    header = await rpc.header(event.block_hash)
    event = dataclasses.replace(event, block_height=header.height, block_timestamp=header.timestamp_ns)
    settled = settlement_of(status, contract_id, event)
    receipt = None
    if settled is not None:
        block = await header_or_none(rpc, settled.block_hash)
        if block is not None:
            receipt = SettledReceipt(
                transaction_hash=event.tx_hash,
                receipt_id=settled.receipt_id,
                block_hash=block.hash,
                block_height=block.height,
                block_time=block.time,
                record_sha256=settled.record_sha256,
            )
    return ChainFacts(
        event=event,
        input=_input_of(status, event, requests),
        output=None if settled is None else settled.value,
        settlement=receipt,
        requests=tuple(item.request.request_id for item in requests),
    )


def all_recorded(facts: ChainFacts, recorded: Set[int | None]) -> Check:
    """Whether each request of the transaction has a record: a coordinator may leave one out."""
    missing = sorted(set(facts.requests) - recorded)
    if missing:
        return unproven("all_requests", "requests_without_record", f"requests {missing[:20]} have no record")
    return passed("all_requests", f"{len(facts.requests)} of the transaction have a record")


def _input_of(status: dict[str, Any], event: RequestEvent, requests: Sequence[RequestEvent]) -> bytes:
    """The request's input: from the event, or, when it was too large for that, from the call's arguments.

    One receipt may hold several requests: its n-th event is that of its n-th call.
    """
    if not event.request.input_data_in_state:
        return event.request.input_data.encode()
    same = [item.request.request_id for item in requests if item.receipt_id == event.receipt_id]
    calls = _arguments_of(status, event.receipt_id, "request_execution")
    if len(calls) != len(same):
        _unknown_status(f"receipt {event.receipt_id} has {len(calls)} calls and {len(same)} requests")
    value = calls[same.index(event.request.request_id)].get("input_data") or ""
    if not isinstance(value, str):
        _unknown_status("input_data is not text")
    return value.encode("utf-8", "surrogatepass")


def _arguments_of(status: dict[str, Any], receipt_id: str, method: str) -> list[dict[str, Any]]:
    try:
        receipt = next(item for item in status["receipts"] if item["receipt_id"] == receipt_id)
        found = []
        for action in receipt["receipt"]["Action"]["actions"]:
            call = action.get("FunctionCall") if isinstance(action, dict) else None
            if call and call["method_name"] == method:
                found.append(json.loads(base64.b64decode(call["args"])))
    except (StopIteration, TypeError, KeyError, ValueError, AttributeError, RecursionError) as error:
        _unknown_status(f"{error!r:.200}")
    if not all(isinstance(item, dict) for item in found):
        _unknown_status("the arguments of a call are not an object")
    return found


def _unknown_status(reason: str) -> NoReturn:
    raise EventError(
        f"the node's answer about a transaction has an unknown form ({reason})",
        hint="see that the URL is that of a NEAR node",
    )


async def active_version(rpc: NearRpc, contract_id: str, project_id: str | None, block: int) -> str | None:
    """The version of a project that was active at a block; None when the node does not keep that block's state."""
    if project_id is None:
        return None
    try:
        project = await OutlayerViews(rpc, contract_id, block).get_project(project_id)
    except RpcError as error:
        if error.name in NOT_KEPT:
            return None
        raise
    return None if project is None else project.active_version


# --- the chain: approval and collateral ---------------------------------------------------------------


async def approval(
    rpc: NearRpc,
    register_id: str,
    network_id: str,
    item: Attestation,
    endpoint: str,
    block: int | None = None,
) -> dict[str, Any] | None:
    """What the register contract says, all at one block, of the measurements and key behind a record.

    ``block`` None is the newest final one. None when the node does not keep the state of the block asked for.
    """
    report = _td_quote(item)
    try:
        header = await rpc.header("final" if block is None else block)
        views = RegisterViews(rpc, register_id, header.hash)
        sets = await views.get_measurement_sets()
        worker_key = await views.get_worker_key(item.task.worker_public_key)
        stored = await views.get_collateral(report.pck_extension.fmspc.hex())
    except RpcError as error:
        if block is not None and error.name in NOT_KEPT:
            return None
        raise
    key_set = None if worker_key is None else worker_key.measurement_set
    found = _matching_set(sets, report.td_report.measurements.to_json(), key_set)
    return {
        "contract": register_id,
        "network_id": network_id,
        "measurement_set": None if found is None else {name: getattr(found, name) for name in SET_FIELDS},
        "worker_key": None
        if worker_key is None
        else {name: getattr(worker_key, name) for name in KEY_FIELDS},
        "collateral_sha256": None if stored is None else Collateral.from_json(stored).sha256(),
        "block_height": header.height,
        "block_hash": header.hash,
        "endpoint": endpoint,
        "recorded_at": int(time.time()),
    }


# what a bundle of format 2 holds of the chain's answers, whatever newer contracts add to them
SET_FIELDS = ("id", "name", "role", "measurements", "not_before", "not_after", "added_at")
KEY_FIELDS = (
    *("public_key", "role", "measurement_set", "measurements", "tcb_status", "fmspc"),
    *("verified_at", "expires_at", "quote_report_sha256"),
)


def _matching_set(
    sets: list[MeasurementSet], measurements: dict[str, str], key_set: int | None = None
) -> MeasurementSet | None:
    """The worker's set with these five values; of several the one that the key is registered with, else one without
    an end, else the one that ends last: the same values may be approved again in a new set."""
    same = [entry for entry in sets if entry.measurements == measurements and entry.role == "worker"]
    named = next((entry for entry in same if entry.id == key_set), None)
    if named is not None:
        return named
    return max(same, key=lambda entry: 2**64 if entry.not_after is None else entry.not_after, default=None)


async def collaterals(
    rpc: NearRpc, register_id: str, item: Attestation, more: Sequence[int] = ()
) -> list[tuple[str, Collateral]]:
    """All collateral for the platform of a record that can be had, each with where it is from; the newest first.

    The register contract's of the newest final block and, where the node keeps it, of the block of the record's
    anchor and of those at ``more`` heights. Raises ``CliError`` when there is none.
    """
    fmspc = _td_quote(item).pck_extension.fmspc.hex()
    found: list[tuple[str, Collateral]] = []
    blocks: list[int | str] = ["final", item.task.anchor_height, *more]
    for block in blocks:
        try:
            header = await rpc.header(block)
            stored = await RegisterViews(rpc, register_id, header.hash).get_collateral(fmspc)
        except RpcError as error:
            if block != "final" and error.name in NOT_KEPT:
                continue
            raise
        if stored is not None:
            source = f"register contract {register_id} at block {header.height}"
            found.append((source, Collateral.from_json(stored)))
    if not found:
        raise CliError(
            f"{register_id} holds no collateral for platforms of FMSPC {fmspc}",
            hint="its owner stores it there: update_collateral",
        )
    return found


def _td_quote(item: Attestation) -> quotes.Quote:
    quote = quotes.parse(item.quote)
    if not isinstance(quote.report, quotes.TdReport):
        raise CliError("the batch holds no TDX quote")
    return quote
