# SPDX-License-Identifier: MIT
"""Collecting evidence from a coordinator and a node that may answer anything."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from outlayer_attestation import testing
from outlayer_attestation.checks import Outcome
from outlayer_attestation.platform.machine import SoftwarePlatform
from outlayer_attestation.record import Batch, TaskRecordV2, batch_report_data, sha256_hex
from outlayer_cli import evidence_source as source
from outlayer_cli.api import Api
from outlayer_cli.errors import CliError
from outlayer_cli.main import run, translate
from outlayer_cli.payment_keys import PaymentKey
from outlayer_near.errors import NearError
from outlayer_near.primitives import b58encode
from outlayer_near.rpc import NearRpc

from .conftest import AnsweringServer, Reply, Request

REGISTER, MAIN, NETWORK = "worker.outlayer.test", "outlayer.test", "localnet"
CALL_ID = "0b5e6f1e-6c9f-4c39-9a0e-6a6b1a3b1d11"
KEY = PaymentKey("alice.test", 1, "5ec7e7" + "0" * 58)
WORKER = "ed25519:11111111111111111111111111111111"
TX = b58encode(b"t" * 32)
RECEIPT, BACK = "ask", "back"
HEAD, ANCHOR, ASKED, SETTLED = 200, 100, 90, 110
INPUT = '{"large":"input"}'
LEAF = "ab" * 32
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


def block_hash(height: int) -> str:
    return b58encode(height.to_bytes(32, "big"))


def block_time(height: int) -> int:
    return testing.NOW - 1000 + height


@pytest.fixture(scope="module")
def machine() -> SoftwarePlatform:
    return testing.platform()


@pytest.fixture(scope="module")
def item(machine: SoftwarePlatform) -> dict[str, Any]:
    """An attestation of a contract's request, as the coordinator's archive answers it."""
    record = TaskRecordV2(
        network_id=NETWORK,
        contract_id=MAIN,
        job_id="3b5e6f1e-6c9f-4c39-9a0e-6a6b1a3b1d11",
        call_id=CALL_ID,
        request_id=7,
        transaction_hash=TX,
        receipt_id=RECEIPT,
        caller="bob.test",
        signer_id="alice.test",
        project_id="alice.test/echo",
        block_height=ASKED,
        wasm_sha256="0" * 64,
        input_sha256=sha256_hex(INPUT.encode()),
        output_sha256="2" * 64,
        success=True,
        instructions=1,
        time_ms=2,
        max_instructions=3,
        max_memory_mb=4,
        max_execution_seconds=5,
        anchor_hash=block_hash(ANCHOR),
        anchor_height=ANCHOR,
        anchor_time=block_time(ANCHOR),
        timestamp=block_time(ANCHOR),
        worker_public_key=WORKER,
    )
    tree, report_data = batch_report_data([record, replace(record, job_id="x")])
    quote = testing.quote_with(machine, testing.Faults(td={"report_data": report_data}))
    return {
        "job_id": record.job_id,
        "record": record.to_json(),
        "leaf_index": 0,
        "inclusion_proof": [part.hex() for part in tree.proofs[0]],
        "batch": Batch(tree.size, tree.root, quote).to_json(),
    }


# --- a chain ------------------------------------------------------------------------------------------


def event(name: str, data: dict[str, Any]) -> str:
    value = {"standard": "near-outlayer", "version": "1.0.0", "event": name, "data": [data]}
    return "EVENT_JSON:" + json.dumps(value)


def requested(request_id: int, *, in_state: bool = False) -> str:
    request = {
        "request_id": request_id,
        "sender_id": "alice.test",
        "predecessor_id": "bob.test",
        "project_id": "alice.test/echo",
        "code_source": {"WasmUrl": {"url": "http://w", "hash": "ab", "build_target": None}},
        "input_data": "" if in_state else INPUT,
        "input_data_in_state": in_state,
        "payment": "1000",
    }
    data = {"request_data": json.dumps(request), "data_id": [1] * 32, "timestamp": 5}
    return event("execution_requested", data)


def completed(leaf: str | None = LEAF) -> str:
    data = {
        "sender_id": "bob.test",
        "code_source": {"WasmUrl": {"url": "http://w", "hash": "ab", "build_target": None}},
        "resources_used": {"instructions": 5, "time_ms": 6, "compile_time_ms": None},
        "success": True,
        "payment_charged": "1",
        "payment_refunded": "2",
        "timestamp": 7,
    }
    return event("execution_completed", data | ({"record_sha256": leaf} if leaf else {}))


def receipt(
    name: str, predecessor: str, height: int, *logs: str, calls: list[tuple[str, Any]], **outcome: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    actions = [
        {
            "FunctionCall": {
                "method_name": method,
                "args": base64.b64encode(json.dumps(args).encode()).decode(),
                "gas": 1,
                "deposit": "0",
            }
        }
        for method, args in calls
    ]
    view = {
        "receipt_id": name,
        "predecessor_id": predecessor,
        "receiver_id": MAIN,
        "receipt": {"Action": {"signer_id": "alice.test", "signer_public_key": WORKER, "actions": actions}},
    }
    result = {
        "logs": list(logs),
        "receipt_ids": [],
        "gas_burnt": 1,
        "executor_id": MAIN,
        "status": {"SuccessValue": "Ng=="},
    }
    return view, {"id": name, "block_hash": block_hash(height), "outcome": result | outcome}


def status_of(*receipts: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    return {
        "transaction": {"hash": TX},
        "receipts": [view for view, _ in receipts],
        "receipts_outcome": [outcome for _, outcome in receipts],
    }


ASK = receipt(RECEIPT, "bob.test", ASKED, requested(7), calls=[("request_execution", {})], receipt_ids=[BACK])
CALLBACK = receipt(BACK, MAIN, SETTLED, completed(), calls=[("on_execution_response", {"request_id": 7})])


class Node:
    """A NEAR node over the answering server: blocks up to ``HEAD``, of which those in ``kept`` have state."""

    def __init__(self, item: dict[str, Any], machine: SoftwarePlatform) -> None:
        self.item = item
        self.kept = set(range(HEAD + 1))
        self.status = status_of(ASK, CALLBACK)
        measurements = testing.MEASUREMENTS.to_json()
        a_set = {"id": 3, "name": "w", "measurements": measurements, "role": "worker", "added_at": 5}
        key = {
            "public_key": WORKER,
            "measurement_set": 3,
            "measurements": measurements,
            "tcb_status": "UpToDate",
            "fmspc": "53494d544458",
            "verified_at": 6,
            "expires_at": 2**40,
            "quote_report_sha256": "ab" * 32,
            "role": "worker",
            "challenge": "00" * 32,
        }
        collateral = testing.collateral_with(machine, testing.Faults())
        project = {"project_id": "alice.test/echo", "uuid": "p1", "owner": "alice.test"}
        self.views: dict[str, Any] = {
            "get_measurement_sets": [a_set],
            "get_worker_key": key,
            "get_collateral": collateral.to_text(),
            "get_project": project | {"name": "echo", "active_version": "v1", "created_at": 1},
        }

    def __call__(self, request: Request) -> Reply:
        if request.method != "POST":
            return Reply(json.dumps({"items": [self.item]}).encode())
        message = json.loads(request.body)
        found = getattr(self, message["method"].lower())(message["params"])
        return Reply(json.dumps({"jsonrpc": "2.0", "id": "x", **found}).encode())

    def _height(self, params: dict[str, Any]) -> int | None:
        wanted = params.get("block_id")
        if wanted is None:
            return HEAD
        heights = {block_hash(height): height for height in self.kept}
        height = heights.get(wanted, -1) if isinstance(wanted, str) else wanted
        return height if height in self.kept else None

    def block(self, params: dict[str, Any]) -> dict[str, Any]:
        height = self._height(params)
        if height is None:
            return UNKNOWN
        header = {"height": height, "hash": block_hash(height), "timestamp": block_time(height) * 10**9 + 5}
        return {"result": {"header": header, "chunks": []}}

    def experimental_tx_status(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"result": self.status}

    def query(self, params: dict[str, Any]) -> dict[str, Any]:
        if self._height(params) is None:
            return UNKNOWN
        value = self.views[params["method_name"]]
        return {"result": {"result": list(json.dumps(value).encode()), "logs": []}}


UNKNOWN = {"error": {"cause": {"name": "GARBAGE_COLLECTED_BLOCK"}, "data": "gone"}}


@pytest.fixture
def node(server: AnsweringServer, item: dict[str, Any], machine: SoftwarePlatform) -> Iterator[Node]:
    made = Node(item, machine)
    server.answer = made
    yield made


def ask(server: AnsweringServer, question: Any) -> Any:
    """Ask a question of the node at the server."""

    async def asked() -> Any:
        async with NearRpc(server.url) as rpc:
            return await question(rpc)

    return asyncio.run(asked())


# --- the coordinator's archive ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["call", "tx", "request", "job"])
def test_records_are_read_by_what_names_them(
    server: AnsweringServer, item: dict[str, Any], kind: str
) -> None:
    server.answer = lambda _: Reply(json.dumps(item if kind == "job" else {"items": [item]}).encode())
    server.requests.clear()
    (found,) = source.attestations(Api(server.url), kind, "a/b?c")
    assert (found.record, found.batch, found.raw) == (item["record"], item["batch"], item)
    assert found.task.job_id == item["record"]["job_id"]
    assert found.quote.hex() == item["batch"]["quote"]
    path = "/attestations/a%2Fb%3Fc" if kind == "job" else f"/attestations/by-{kind}/a%2Fb%3Fc"
    assert server.requests[0].path.rstrip("?") == path


@pytest.mark.parametrize("body", [{"items": []}, {"error": "none"}])
def test_no_record_is_an_error_that_says_so(server: AnsweringServer, body: dict[str, Any]) -> None:
    status = 404 if "error" in body else 200
    server.answer = lambda _: Reply(json.dumps(body).encode(), status=status)
    with pytest.raises(CliError, match="no attestation of call"):
        source.attestations(Api(server.url), "call", CALL_ID)


def test_the_number_of_records_of_one_answer_has_a_bound(
    server: AnsweringServer, item: dict[str, Any]
) -> None:
    small = item | {"batch": item["batch"] | {"quote": "00"}}
    for count, fits in ((source.MAX_RECORDS, True), (source.MAX_RECORDS + 1, False)):
        body = json.dumps({"items": [small] * count}).encode()
        server.answer = lambda _, body=body: Reply(body)
        with contextlib.nullcontext() if fits else pytest.raises(CliError, match="at most 100"):
            assert len(source.attestations(Api(server.url), "tx", TX)) == count


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from leaves(inner, (*path, key))


def changed(value: Any, path: tuple[str | int, ...], other: Any) -> Any:
    if not path:
        return other
    result = copy.deepcopy(value)
    place = result
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = other
    return result


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), other=JSON)
def test_any_json_from_the_archive_is_records_or_a_cli_error(
    server: AnsweringServer, item: dict[str, Any], data: st.DataObject, other: Any
) -> None:
    good = {"items": [item]}
    path = data.draw(st.sampled_from(list(leaves(good))))
    server.answer = lambda _: Reply(json.dumps(changed(good, path, other)).encode())
    for kind in ("tx", "job"):
        with contextlib.suppress(CliError):
            for found in source.attestations(Api(server.url), kind, "x"):
                assert isinstance(found.task, TaskRecordV2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": {"quote": "zz"}}, "quote is not lower-case hex"),
        ({"batch": None}, "batch"),
        ({"record": []}, "record"),
        ({"record": {"job_id": 5}}, "job_id"),
        ({"leaf_index": 2}, "leaf_index"),
        ({"leaf_index": -1}, "leaf_index"),
        ({"leaf_index": True}, "leaf_index"),
        ({"inclusion_proof": ["ab"]}, "hashes of 32 bytes"),
        ({"inclusion_proof": ["ab" * 32] * 65}, "at most 64"),
        ({"inclusion_proof": {}}, "inclusion_proof"),
    ],
)
def test_a_wrong_member_of_an_attestation_is_refused_by_name(
    server: AnsweringServer, item: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    wrong = item | {
        name: item[name] | value if isinstance(value, dict) and value else value
        for name, value in change.items()
    }
    server.answer = lambda _: Reply(json.dumps({"items": [wrong]}).encode())
    with pytest.raises(CliError, match=message):
        source.attestations(Api(server.url), "tx", TX)


@pytest.mark.parametrize("kind", ["call", "tx", "request", "job"])
def test_a_genuine_record_of_something_else_is_not_what_was_asked_for(
    item: dict[str, Any], kind: str
) -> None:
    own = {"call": CALL_ID.upper(), "tx": TX, "request": "7", "job": item["record"]["job_id"]}[kind]
    assert source.asked_for(item["record"], kind, own).outcome is Outcome.PASS
    assert source.asked_for(item["record"], kind, own + "x").outcome is Outcome.FAIL
    nothing = dict.fromkeys(("call_id", "transaction_hash", "request_id", "job_id"))
    assert source.asked_for(nothing, kind, "None").outcome is Outcome.FAIL


@pytest.mark.parametrize("text", ["!", "QQ", "QQ==\n", 5, ["QQ=="], "\ud800"])
def test_a_payload_that_is_not_base64_is_refused(server: AnsweringServer, text: Any) -> None:
    server.answer = lambda _: Reply(json.dumps({"input_base64": text}).encode())
    with pytest.raises(CliError):
        source.call_payload(Api(server.url), CALL_ID, KEY)


def test_a_payload_that_is_not_shown_is_none(server: AnsweringServer) -> None:
    for status in (401, 403, 404):
        server.answer = lambda _, status=status: Reply(b"{}", status=status)
        assert source.call_payload(Api(server.url), CALL_ID, KEY) == source.Payload()
    server.answer = lambda _: Reply(json.dumps({"input_base64": "QQ==", "output_base64": ""}).encode())
    assert source.call_payload(Api(server.url), CALL_ID, KEY) == source.Payload(b"A", b"")
    assert source.call_payload(Api(server.url), CALL_ID, None) == source.Payload()


# --- the chain: request and settlement ----------------------------------------------------------------


def facts(server: AnsweringServer, item: dict[str, Any]) -> source.ChainFacts:
    found: source.ChainFacts = ask(server, lambda rpc: source.chain_facts(rpc, MAIN, item["record"]))
    return found


def test_the_settlement_is_told_with_its_receipt_and_block(
    server: AnsweringServer, node: Node, item: dict[str, Any]
) -> None:
    found = facts(server, item)
    assert found.settlement == source.SettledReceipt(
        transaction_hash=TX,
        receipt_id=BACK,
        block_hash=block_hash(SETTLED),
        block_height=SETTLED,
        block_time=block_time(SETTLED),
        record_sha256=LEAF,
    )
    assert (found.input, found.output) == (INPUT.encode(), b"6")
    stated = {
        name: item["record"][name] for name in ("transaction_hash", "receipt_id", "request_id", "signer_id")
    }
    assert stated.items() <= found.to_json().items()
    header = ask(server, lambda rpc: source.anchor_header(rpc, item["record"]))
    word = source.chain_word("http://node", header, found)
    assert word["anchor"] == {"height": ANCHOR, "hash": block_hash(ANCHOR), "time": block_time(ANCHOR)}
    assert word["settlement"]["record_sha256"] == LEAF
    assert (word["request"]["block_height"], word["request"]["request_id"]) == (ASKED, 7)
    final = [json.loads(request.body) for request in server.requests if b"tx_status" in request.body]
    assert final[-1]["params"]["wait_until"] == "FINAL"


FAILURE = {"Failure": {"ActionError": {}}}


def with_outcome(made: Any, **outcome: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    view, result = copy.deepcopy(made)
    result["outcome"] |= outcome
    return view, result


def test_a_failed_receipt_neither_requests_nor_settles(
    server: AnsweringServer, node: Node, item: dict[str, Any]
) -> None:
    node.status = status_of(ASK, with_outcome(CALLBACK, status=FAILURE))
    found = facts(server, item)
    assert (found.settlement, found.output) == (None, None)
    node.status = status_of(with_outcome(ASK, status=FAILURE), CALLBACK)
    with pytest.raises(CliError, match="does not hold request 7"):
        facts(server, item)


def test_a_settlement_whose_block_is_not_kept_is_none(
    server: AnsweringServer, node: Node, item: dict[str, Any]
) -> None:
    node.kept.remove(SETTLED)
    found = facts(server, item)
    assert found.settlement is None
    assert found.output == b"6"


def test_a_large_input_comes_from_the_call_that_belongs_to_the_event(
    server: AnsweringServer, node: Node, item: dict[str, Any]
) -> None:
    calls = [("request_execution", {"input_data": text}) for text in ("first", "second")]
    both = receipt(
        RECEIPT,
        "bob.test",
        ASKED,
        requested(6, in_state=True),
        requested(7, in_state=True),
        calls=[calls[0], ("other", {}), calls[1]],
    )
    node.status = status_of(both)
    assert facts(server, item).input == b"second"
    node.status = status_of(with_outcome(both, logs=[requested(7, in_state=True)]))
    with pytest.raises(NearError, match="2 calls and 1 requests"):
        facts(server, item)


def test_a_record_without_a_transaction_is_an_error(server: AnsweringServer, item: dict[str, Any]) -> None:
    with pytest.raises(CliError, match="names no transaction"):
        facts(server, {"record": item["record"] | {"transaction_hash": None}})


def test_the_anchors_header_is_the_chains_own_at_that_height(
    server: AnsweringServer, node: Node, item: dict[str, Any]
) -> None:
    def header(**changes: Any) -> Any:
        record = item["record"] | changes
        return ask(server, lambda rpc: source.anchor_header(rpc, record))

    assert header().hash == block_hash(ANCHOR)
    # a record that names another chain's block is told this chain's
    assert header(anchor_hash="another").hash == block_hash(ANCHOR)
    node.kept.remove(ANCHOR)
    assert header() is None
    # nor has a chain a block that it has not reached
    assert header(anchor_height=HEAD + 1) is None


def test_another_refusal_than_of_an_old_block_is_an_error(
    server: AnsweringServer, node: Node, item: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(UNKNOWN["error"], "cause", {"name": "PARSE_ERROR"})
    node.kept.remove(ANCHOR)
    with pytest.raises(NearError):
        ask(server, lambda rpc: source.anchor_header(rpc, item["record"]))


# --- the chain: approval ------------------------------------------------------------------------------


def approval(server: AnsweringServer, item: dict[str, Any], block: int | None = None) -> Any:
    attestation = source.Attestation.from_json(item, "x")
    return ask(server, lambda rpc: source.approval(rpc, REGISTER, NETWORK, attestation, "http://node", block))


def test_the_registers_word_is_of_one_block_with_set_key_and_roles(
    server: AnsweringServer, node: Node, item: dict[str, Any]
) -> None:
    now, then = approval(server, item), approval(server, item, ANCHOR)
    assert (now["block_height"], now["block_hash"]) == (HEAD, block_hash(HEAD))
    assert (then["block_height"], then["block_hash"]) == (ANCHOR, block_hash(ANCHOR))
    assert now["measurement_set"]["role"] == now["worker_key"]["role"] == "worker"
    assert set(now["measurement_set"]) == set(source.SET_FIELDS)
    assert set(now["worker_key"]) == set(source.KEY_FIELDS)
    assert len(now["collateral_sha256"]) == 64
    node.kept.remove(ANCHOR)
    assert approval(server, item, ANCHOR) is None


def test_a_set_of_another_role_approves_no_worker(
    server: AnsweringServer, node: Node, item: dict[str, Any]
) -> None:
    node.views["get_measurement_sets"][0]["role"] = "keystore"
    node.views["get_worker_key"] = node.views["get_collateral"] = None
    found = approval(server, item)
    assert (found["measurement_set"], found["worker_key"], found["collateral_sha256"]) == (None, None, None)


def test_all_collateral_that_can_be_had_says_where_it_is_from(
    server: AnsweringServer, node: Node, item: dict[str, Any]
) -> None:
    attestation = source.Attestation.from_json(item, "x")

    def sources() -> list[str]:
        found = ask(server, lambda rpc: source.collaterals(rpc, REGISTER, attestation))
        return [text for text, _ in found]

    assert sources() == [f"register contract {REGISTER} at block {block}" for block in (HEAD, ANCHOR)]
    node.kept.remove(ANCHOR)
    assert sources() == [f"register contract {REGISTER} at block {HEAD}"]
    node.views["get_collateral"] = None
    with pytest.raises(CliError, match="holds no collateral"):
        sources()


def test_the_active_version_is_that_of_the_block(server: AnsweringServer, node: Node) -> None:
    def active(block: int) -> Any:
        return ask(server, lambda rpc: source.active_version(rpc, MAIN, "alice.test/echo", block))

    assert active(ANCHOR) == "v1"
    node.kept.remove(ANCHOR)
    assert active(ANCHOR) is None
    node.views["get_project"] = None
    assert active(HEAD) is None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), other=JSON)
def test_any_answer_of_a_node_gives_facts_or_an_error_with_a_hint(
    server: AnsweringServer, node: Node, item: dict[str, Any], data: st.DataObject, other: Any
) -> None:
    place = data.draw(st.sampled_from(["status", "views"]))
    good = getattr(node, place)
    path = data.draw(st.sampled_from([path for path in leaves(good) if place == "status" or path]))
    setattr(node, place, changed(good, path, other))
    attestation = source.Attestation.from_json(item, "x")

    async def everything(rpc: NearRpc) -> None:
        if place == "status":
            await source.chain_facts(rpc, MAIN, item["record"])
            return
        await source.approval(rpc, REGISTER, NETWORK, attestation, "e")
        await source.collaterals(rpc, REGISTER, attestation)
        await source.active_version(rpc, MAIN, "alice.test/echo", ANCHOR)

    try:
        ask(server, everything)
    except Exception as error:
        known = translate(error)
        if known is None:
            raise
        assert str(known)
    finally:
        setattr(node, place, good)


# --- every command ------------------------------------------------------------------------------------

COMMANDS = [
    ["call", "alice.test/echo", "1"],
    ["--json", "call", "alice.test/echo", "1"],
    ["result", CALL_ID],
    ["keys", "balance"],
    ["--json", "keys", "balance"],
    ["keys", "create", "--account", "alice.test"],
    ["project", "list"],
    ["project", "show", "alice.test/echo"],
    ["verify", "call", CALL_ID],
    ["verify", "tx", TX],
    ["verify", "job", CALL_ID],
]
MEMBERS = st.dictionaries(
    st.sampled_from(
        [
            "items",
            "call_id",
            "status",
            "output",
            "error",
            "record",
            "batch",
            "result",
            "header",
            "jsonrpc",
            "cause",
        ]
    ),
    JSON | st.sampled_from([CALL_ID, "completed", "failed", "pending"]),
)
BODIES = st.one_of(JSON, MEMBERS, MEMBERS.map(lambda inner: {"jsonrpc": "2.0", "result": inner})).map(
    lambda value: json.dumps(value).encode()
)
STATUSES = st.sampled_from([200, 200, 200, 201, 204, 302, 400, 404, 500])


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    words=st.sampled_from(COMMANDS),
    body=BODIES | st.binary(max_size=40),
    status=STATUSES,
    kind=st.sampled_from(["application/json"] * 4 + ["text/html"]),
)
@example(
    words=["project", "list"], body=b'{"jsonrpc":"2.0","result":null}', status=200, kind="application/json"
)
@example(words=["verify", "job", CALL_ID], body=b"{}", status=200, kind="application/json")
def test_no_server_can_crash_a_command(
    served: Path,
    server: AnsweringServer,
    words: list[str],
    body: bytes,
    status: int,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each command ends with an exit code of its own; an error that is no ``CliError`` would leave ``run``."""
    monkeypatch.setattr("outlayer_near.rpc._FIRST_WAIT_SECONDS", 0.0)
    (served / "credentials" / "admin.token").write_text("token")
    (served / "tdx").mkdir(exist_ok=True)
    (served / "tdx" / "root_ca.der").write_bytes(b"no certificate")
    reply = Reply(b"" if status == 204 else body, status=status, headers={"Content-Type": kind})
    server.answer = lambda _: reply
    assert run(["--state", str(served), *words]) in (0, 1, 2, 3)
