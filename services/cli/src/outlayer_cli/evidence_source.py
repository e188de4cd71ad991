# SPDX-License-Identifier: MIT
"""Collecting the evidence for a result: from the coordinator (not trusted), the chain, and the client's own key."""

from __future__ import annotations

import base64
import dataclasses
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from outlayer_attestation.checks import Check, decide
from outlayer_attestation.collateral import Collateral
from outlayer_attestation.evidence import TrustAnchors, make_bundle
from outlayer_attestation.quote import TdReport, parse
from outlayer_cli.api import Api, ApiError
from outlayer_cli.errors import CliError
from outlayer_cli.payment_keys import PaymentKey
from outlayer_near.errors import NearError
from outlayer_near.events import Block as EventBlock
from outlayer_near.events import RequestEvent, events_of_block, parse_request, receipts_of_transaction
from outlayer_near.rpc import NearRpc
from outlayer_near.views import RegisterViews


@dataclass(frozen=True)
class Payload:
    """The bytes that the guest read and that were delivered; None for what the client does not have."""

    input: bytes | None = None
    output: bytes | None = None


@dataclass(frozen=True)
class ChainFacts:
    """What the chain says of one request: its event, and the value that its callback returned."""

    event: RequestEvent
    input: bytes
    output: bytes | None

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


def attestations(api: Api, kind: str, key: str) -> list[dict[str, Any]]:
    """Records by ``call``, ``tx``, ``request`` or ``job``. Raises ``CliError`` when there is none."""
    path = f"/attestations/{key}" if kind == "job" else f"/attestations/by-{kind}/{key}"
    try:
        reply = api.get_json(path)
    except ApiError as error:
        if error.status != 404:
            raise
        reply = {"items": []}
    items: list[dict[str, Any]] = [reply] if kind == "job" and "record" in reply else reply["items"]
    if not items:
        raise CliError(
            f"there is no attestation of {kind} {key}",
            hint="it exists once the result was delivered; see that the id is right",
        )
    return items


def call_payload(api: Api, call_id: str, key: PaymentKey | None) -> Payload:
    """Input and output of a call, with the payment key that made it; nothing without it."""
    if key is None:
        return Payload()
    try:
        reply = api.get_json(f"/calls/{call_id}/payload", payment_key=key)
    except ApiError as error:
        if error.status in (401, 403, 404):
            return Payload()
        raise
    return Payload(_decode(reply.get("input_base64")), _decode(reply.get("output_base64")))


def _decode(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


async def chain_facts(rpc: NearRpc, contract_id: str, record: dict[str, Any]) -> ChainFacts:
    """Read a request's transaction by an own connection. Raises ``CliError`` when it does not hold the request."""
    tx_hash, signer = record.get("transaction_hash"), record.get("signer_id")
    if not tx_hash or not signer:
        raise CliError("the record names no transaction")
    status = await rpc.transaction(tx_hash, signer, receipts=True)
    for event in _request_events(status, contract_id):
        if event.request.request_id == record.get("request_id"):
            return ChainFacts(
                event=event,
                input=_input_of(status, event),
                output=_callback_value(status, event, contract_id),
            )
    raise CliError(f"transaction {tx_hash} does not hold request {record.get('request_id')}")


def _request_events(status: dict[str, Any], contract_id: str) -> Iterator[RequestEvent]:
    outcomes = {item["id"]: item for item in status["receipts_outcome"]}
    for receipt in receipts_of_transaction(status):
        block = EventBlock(0, outcomes[receipt.receipt_id]["block_hash"], 0, (receipt,))
        for event in events_of_block(block, contract_id):
            if event.event == "execution_requested":
                yield parse_request(event)


def _input_of(status: dict[str, Any], event: RequestEvent) -> bytes:
    """The request's input: from the event, or, when it was too large for that, from the call's arguments."""
    if not event.request.input_data_in_state:
        return event.request.input_data.encode()
    receipt = next(item for item in status["receipts"] if item["receipt_id"] == event.receipt_id)
    for action in receipt["receipt"]["Action"]["actions"]:
        call = action.get("FunctionCall") if isinstance(action, dict) else None
        if call and call["method_name"] == "request_execution":
            arguments = json.loads(base64.b64decode(call["args"]))
            return str(arguments.get("input_data") or "").encode()
    return b""


def _callback_value(status: dict[str, Any], event: RequestEvent, contract_id: str) -> bytes | None:
    """What the main contract's callback returned: the yielded receipt is a child of the requesting one."""
    outcomes = {item["id"]: item["outcome"] for item in status["receipts_outcome"]}
    for child in outcomes[event.receipt_id]["receipt_ids"]:
        outcome = outcomes.get(child)
        if outcome is None or outcome["executor_id"] != contract_id:
            continue
        result = outcome["status"]
        if isinstance(result, dict) and "SuccessValue" in result:
            return base64.b64decode(result["SuccessValue"])
    return None


def chain_checks(record: dict[str, Any], facts: ChainFacts) -> list[Check]:
    """The record against the chain's own words."""
    event = facts.event
    pairs = {
        "transaction": (record.get("transaction_hash"), event.tx_hash),
        "request": (record.get("request_id"), event.request.request_id),
        "receipt": (record.get("receipt_id"), event.receipt_id),
        "caller": (record.get("caller"), event.predecessor_id),
        "project": (record.get("project_id"), event.request.project_id),
    }
    return [
        decide(f"chain_{name}", stated == found, "differs_from_chain", f"record {stated}, chain {found}")
        for name, (stated, found) in pairs.items()
    ]


async def approval(
    rpc: NearRpc, register_id: str, network_id: str, item: dict[str, Any], endpoint: str
) -> tuple[dict[str, Any], Collateral]:
    """What the register contract says, all at one block, of the measurements and key behind a record."""
    block = await rpc.block()
    block_hash = block["header"]["hash"]
    views = RegisterViews(rpc, register_id, block_hash)
    quote = parse(bytes.fromhex(item["batch"]["quote"]))
    if not isinstance(quote.report, TdReport):
        raise CliError("the batch holds no TDX quote")
    measurements = quote.report.measurements.to_json()
    raw = views.rpc.view
    sets = await raw(register_id, "get_measurement_sets", {}, block_hash)
    key_args = {"public_key": item["record"]["worker_public_key"]}
    worker_key = await raw(register_id, "get_worker_key", key_args, block_hash)
    collateral = await _collateral_for(views, item["record"], quote.pck_extension.fmspc.hex())
    statement = {
        "contract": register_id,
        "network_id": network_id,
        "measurement_set": _matching_set(sets, measurements),
        "worker_key": None if worker_key is None else {name: worker_key[name] for name in KEY_FIELDS},
        "collateral_sha256": collateral.sha256(),
        "block_height": int(block["header"]["height"]),
        "block_hash": block_hash,
        "endpoint": endpoint,
        "recorded_at": int(time.time()),
    }
    return statement, collateral


async def _collateral_for(views: RegisterViews, record: dict[str, Any], fmspc: str) -> Collateral:
    """The contract's collateral that covers the time of the run: today's, else the one of the run's own block."""
    from outlayer_attestation.appraisal import collateral_window

    stored = await views.get_collateral(fmspc)
    if stored is None:
        raise CliError(f"{views.contract_id} holds no collateral for platforms of FMSPC {fmspc}")
    newest = Collateral.from_json(stored)
    start, end = collateral_window(newest)
    if start <= int(record["timestamp"]) < end or record.get("block_height") is None:
        return newest
    try:
        older = await dataclasses.replace(views, block=int(record["block_height"])).get_collateral(fmspc)
    except NearError:
        # a node that does not keep that block: the newest is judged, and says itself what it does not cover
        return newest
    return newest if older is None else Collateral.from_json(older)


# what a bundle of format 2 holds of the chain's answers, whatever newer contracts add to them
SET_FIELDS = ("id", "name", "measurements", "not_before", "not_after", "added_at")
KEY_FIELDS = (
    *("public_key", "measurement_set", "measurements", "tcb_status", "fmspc"),
    *("verified_at", "expires_at", "quote_report_sha256"),
)


def _matching_set(sets: list[dict[str, Any]], measurements: dict[str, str]) -> dict[str, Any] | None:
    """The worker's set with these five values; of several, one without an end, else the one that ends last."""
    same = [
        entry
        for entry in sets
        if entry["measurements"] == measurements and entry.get("role", "worker") == "worker"
    ]
    found = max(same, key=lambda entry: entry["not_after"] or 2**63, default=None)
    return None if found is None else {name: found[name] for name in SET_FIELDS}


def assemble(
    item: dict[str, Any],
    trust: TrustAnchors,
    statement: dict[str, Any],
    collateral: Collateral,
    payload: Payload,
    facts: ChainFacts | None,
) -> dict[str, Any]:
    return make_bundle(
        attestation=item,
        collateral=collateral,
        trust=trust,
        approval=statement,
        input_bytes=payload.input,
        output_bytes=payload.output,
        chain=None if facts is None else facts.to_json(),
    )
