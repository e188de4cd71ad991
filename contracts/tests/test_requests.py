# SPDX-License-Identifier: MIT
"""Requests of every kind, what is refused, every way of cancelling, and projects that change hands."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from main_world import (
    BASE_FEE,
    BYTE,
    COST,
    MAIN,
    OPERATOR,
    PAYMENT,
    PROJECT,
    USED,
    World,
    system_events,
    wasm_url,
)

from outlayer_localnet.testing import NEAR, TGAS, TxResult
from outlayer_near.models import DEFAULT_BUILD_TARGET

ALICE, BOB, CAROL = "alice.test", "bob.test", "carol.test"
GITHUB = {"GitHub": {"repo": "github.com/alice/app", "commit": "main"}}
URL = {"WasmUrl": {"url": "https://example.test/a.wasm", "hash": "ab" * 32}}


def requested(result: TxResult) -> dict[str, Any]:
    """``request_data`` of the one ``execution_requested`` event."""
    [event] = [
        json.loads(line[11:])
        for line in result.logs
        if line.startswith("EVENT_JSON:") and json.loads(line[11:])["event"] == "execution_requested"
    ]
    return json.loads(event["data"][0]["request_data"])


def data_of(world: World, sent: TxResult) -> dict[str, Any]:
    return requested(world.chain.tx(sent.hash))


@pytest.mark.parametrize("source", [GITHUB, URL], ids=["github", "url"])
def test_r11_the_default_build_target_is_the_one_constant(world: World, source: dict[str, Any]) -> None:
    plain, _ = world.request(source=source)
    [(kind, members)] = source.items()
    named, _ = world.request(source={kind: {**members, "build_target": DEFAULT_BUILD_TARGET}})
    first, second = (data_of(world, sent)["code_source"] for sent in (plain, named))
    assert first == second
    assert first[kind]["build_target"] == DEFAULT_BUILD_TARGET


@pytest.mark.parametrize("source", [GITHUB, URL, {"Project": {"project_id": PROJECT}}])
def test_r1_a_callers_project_uuid_is_refused_for_every_source(world: World, source: Any) -> None:
    params = {"project_uuid": "p0000000000000001"}
    args = {"source": source, "resource_limits": {}, "params": params}
    world.refused(BOB, "request_execution", "project_uuid cannot be given", PAYMENT, **args)


def test_r1_only_a_project_source_has_a_uuid(world: World) -> None:
    sent, _ = world.request()
    data = data_of(world, sent)
    assert (data["project_uuid"], data["project_id"]) == ("p0000000000000001", PROJECT)
    for source in (GITHUB, URL):
        sent, _ = world.request(source=source)
        data = data_of(world, sent)
        assert (data["project_uuid"], data["project_id"]) == (None, None)


@pytest.mark.parametrize("name", ["a/b", "", "a b", "ä", "x" * 65])
def test_r3_a_project_name_holds_no_slash(world: World, name: str) -> None:
    world.refused(BOB, "create_project", "Project name", NEAR, name=name, source=wasm_url("b"))


def test_r10_absent_limits_take_the_defaults(world: World) -> None:
    for given in ({"max_instructions": 1}, {"max_instructions": 1, "max_memory_mb": None}):
        sent, request_id = world.request(resource_limits=given)
        limits = data_of(world, sent)["resource_limits"]
        assert limits == {"max_instructions": 1, "max_memory_mb": 128, "max_execution_seconds": 60}
        assert world.view("get_request", request_id=request_id)["resource_limits"] == limits


@pytest.mark.parametrize("args", [{"resource_limits": None}, {"params": {"compile_only": True}}])
def test_a_compile_only_request_costs_the_base_fee(world: World, args: dict[str, Any]) -> None:
    before = world.chain.balance(BOB)
    sent, request_id = world.request(deposit=PAYMENT, source=GITHUB, **args)
    assert data_of(world, sent)["compile_only"] is True
    used = {"instructions": 0, "time_ms": 0}
    world.resolve(request_id, output=None, compilation_note="compiled", resources_used=used)
    final = world.final(sent)
    assert final.json() is None
    assert before - world.chain.balance(BOB) == BASE_FEE + final.tokens_burnt
    words = "input_data must be empty for compile_only mode"
    refused = {"source": GITHUB, "input_data": "x", **args}
    world.refused(BOB, "request_execution", words, PAYMENT, **refused)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"source": URL, "params": {"force_rebuild": True}}, "force_rebuild is not applicable for WasmUrl"),
        ({"source": GITHUB, "params": {"store_on_fastfs": True}}, "store_on_fastfs requires force_rebuild"),
        ({"resource_limits": {"max_instructions": 500_000_000_001}}, "exceeds hard limit of 500000000000"),
        ({"resource_limits": {"max_execution_seconds": 181}}, "exceeds hard limit of 180 seconds"),
        ({"source": {"Project": {"project_id": "alice.test/no"}}}, "Project not found"),
        ({"source": {"Project": {"project_id": PROJECT, "version_key": "no"}}}, "Version not found"),
    ],
)
def test_what_cannot_run_is_refused_by_name(world: World, args: dict[str, Any], words: str) -> None:
    full = {"source": {"Project": {"project_id": PROJECT}}, "resource_limits": {}, **args}
    world.refused(BOB, "request_execution", words, PAYMENT, **full)


def test_a_rebuild_may_be_stored(world: World) -> None:
    params = {"force_rebuild": True, "store_on_fastfs": True}
    sent, _ = world.request(source=GITHUB, params=params)
    data = data_of(world, sent)
    assert (data["force_rebuild"], data["store_on_fastfs"]) == (True, True)


def test_a_payment_below_the_estimate_is_refused(world: World) -> None:
    limits = {"max_instructions": 2_000_000, "max_execution_seconds": 60}
    needed = int(world.view("estimate_execution_cost", resource_limits=limits))
    args = {"source": URL, "resource_limits": limits}
    words = f"Insufficient payment: required {needed} yoctoNEAR for compute, got {needed - 1}"
    world.refused(BOB, "request_execution", words, needed - 1, **args)
    world.request(deposit=needed, **args)


@pytest.mark.parametrize(("size", "in_state"), [(9_999, False), (10_000, True), (100_000, True)])
def test_a_large_input_is_read_from_state(world: World, size: int, in_state: bool) -> None:
    text = "ü" + "x" * (size - 2)
    sent, request_id = world.request(deposit=2 * NEAR, input_data=text)
    data = data_of(world, sent)
    assert (data["input_data"], data["input_data_in_state"]) == ("" if in_state else text, in_state)
    stored = world.view("get_request", request_id=request_id)["input_data"]
    assert stored == (text if in_state else None), "the event holds it"


@pytest.mark.parametrize("size", [0, 1, 1_024])
def test_a_short_input_is_in_the_event_and_in_state(world: World, size: int) -> None:
    sent, request_id = world.request(input_data="x" * size)
    assert data_of(world, sent)["input_data"] == "x" * size
    assert world.view("get_request", request_id=request_id)["input_data"] == "x" * size


def test_a_request_is_shown_as_the_original_shows_it(world: World) -> None:
    world.deposit_usd(BOB, 10_000)
    params = {"attached_usd": "7"}
    _, request_id = world.request(input_data="in", params=params, payer_account_id=CAROL)
    world.ok(OPERATOR, "submit_execution_output", request_id=request_id, output={"Text": "hi"})
    shown = world.view("get_request", request_id=request_id)
    assert len(shown.pop("data_id")) == 32 and shown.pop("timestamp") > 10**18
    assert shown == {
        "request_id": request_id,
        "sender_id": BOB,
        "execution_source": {"Project": {"project_id": PROJECT, "version_key": None}},
        "resolved_source": {"WasmUrl": {**wasm_url("a")["WasmUrl"], "build_target": DEFAULT_BUILD_TARGET}},
        "resource_limits": {
            "max_instructions": 1_000_000_000,
            "max_memory_mb": 128,
            "max_execution_seconds": 60,
        },
        "payment": PAYMENT,
        "secrets_ref": None,
        "response_format": "Text",
        "input_data": "in",
        "payer_account_id": CAROL,
        "attached_usd": 7,
        "project_owner": ALICE,
        "pending_output": {"Text": list(b"hi")},
        "output_submitted": True,
    }
    assert world.view("get_pending_output", request_id=request_id) == {"Text": "hi"}


@pytest.mark.parametrize("output", [{"Json": {"a": [1, 2]}}, {"Text": 'a"b'}, {"Bytes": [0, 255]}])
@pytest.mark.parametrize("size", [1, 6_000])
def test_a_pending_output_is_shown_as_it_was_submitted(world: World, output: Any, size: int) -> None:
    [(kind, value)] = output.items()
    value = [value] * size if kind == "Json" else value * size
    _, request_id = world.request()
    gas = 300 * TGAS
    world.ok(OPERATOR, "submit_execution_output", gas=gas, request_id=request_id, output={kind: value})
    assert world.view("get_pending_output", request_id=request_id) == {kind: value}


def test_what_a_source_says_about_its_target_is_kept(world: World) -> None:
    for source in (GITHUB, URL):
        [(kind, members)] = source.items()
        for target in (None, DEFAULT_BUILD_TARGET, "wasm32-wasip2"):
            _, request_id = world.request(source={kind: {**members, "build_target": target}})
            shown = world.view("get_request", request_id=request_id)
            assert shown["execution_source"][kind]["build_target"] == target
            assert shown["resolved_source"][kind]["build_target"] == (target or DEFAULT_BUILD_TARGET)


@pytest.mark.parametrize("text", ['"' * 9_999, '{"k":"v"},' * 999, "\\" * 5_000, "\u0001" * 3_000])
def test_an_input_whose_escapes_would_not_fit_the_log_is_read_from_state(world: World, text: str) -> None:
    sent, request_id = world.request(deposit=NEAR, input_data=text)
    assert data_of(world, sent)["input_data_in_state"] is True
    assert world.view("get_request", request_id=request_id)["input_data"] == text
    world.resolve(request_id)
    assert world.final(sent).json() == 1


def test_the_payment_holds_what_a_large_input_occupies(world: World) -> None:
    size = 200_000
    args = {"source": URL, "resource_limits": {}, "input_data": "x" * size}
    refused = world.call(BOB, "request_execution", 2 * NEAR, **args)
    [needed] = re.findall(r"needs (\d+) yoctoNEAR held", json.dumps(refused.failure))
    assert 2 * NEAR < int(needed) < 2 * NEAR + 500 * BYTE
    world.refused(BOB, "request_execution", "Insufficient payment", int(needed) - 1, **args)
    before = world.chain.balance(BOB)
    sent, request_id = world.request(deposit=int(needed), **args)
    world.resolve(request_id)
    final = world.final(sent)
    price = int(world.view("get_size_limits")["input_byte_price"])
    assert before - world.chain.balance(BOB) == COST + size * price + final.tokens_burnt


@pytest.mark.parametrize("error", ["e" * 800, "\u0001" * 130, '"' * 400])
def test_settlement_never_fails_for_the_length_of_its_event(world: World, error: str) -> None:
    url = {"WasmUrl": {"url": "h" * (2_048 - 64 - len(DEFAULT_BUILD_TARGET)), "hash": "ab" * 32}}
    sent, request_id = world.request(source=url)
    world.resolve(request_id, success=False, output=None, error=error)
    final = world.final(sent)
    assert final.failure is None
    assert final.json() is None
    assert any("execution_completed" in line for line in final.logs)
    assert world.pending() == []


def test_a_source_that_no_event_could_name_is_refused(world: World) -> None:
    words = "A code source has at most 2048 bytes of text"
    long = {"WasmUrl": {"url": "h" * 2_048, "hash": "ab" * 32}}
    world.refused(BOB, "request_execution", words, PAYMENT, source=long, resource_limits={})
    world.refused(BOB, "create_project", words, NEAR, name="p", source=long)
    other = {"GitHub": {"repo": "r", "commit": "c" * 3_000}}
    world.refused(ALICE, "add_version", words, NEAR, project_name="app", source=other, set_active=True)


def test_a_large_output_can_come_in_two_steps(world: World) -> None:
    sent, request_id = world.request()
    output = {"Json": {"rows": ["x" * 5_000]}}
    world.refused(BOB, "submit_execution_output", "Only operator", request_id=request_id, output=output)
    world.ok(OPERATOR, "submit_execution_output", request_id=request_id, output=output)
    assert world.view("has_pending_output", request_id=request_id) is True
    assert world.view("get_request", request_id=request_id)["output_submitted"] is True
    words = "Output already submitted for this request"
    world.refused(OPERATOR, "submit_execution_output", words, request_id=request_id, output=output)
    world.resolve(request_id, output=None)
    assert world.final(sent).json() == output["Json"]


def test_a_version_runs_by_its_key(world: World) -> None:
    world.ok(ALICE, "add_version", NEAR, project_name="app", source=GITHUB, set_active=False)
    active, _ = world.request()
    source = {"Project": {"project_id": PROJECT, "version_key": "github.com/alice/app@main"}}
    chosen, _ = world.request(source=source)
    assert "WasmUrl" in data_of(world, active)["code_source"]
    assert data_of(world, chosen)["code_source"]["GitHub"]["commit"] == "main"


def test_r8_charged_and_refunded_add_up_to_the_payment(world: World) -> None:
    before = world.chain.balance(BOB)
    sent, request_id = world.request()
    world.resolve(request_id)
    final = world.final(sent)
    assert f'[[yNEAR charged: "{COST}"]]' in final.logs
    assert before - world.chain.balance(BOB) == COST + final.tokens_burnt
    sent, request_id = world.request()
    world.resolve(request_id, output=None, resources_used={"instructions": 2**63, "time_ms": 2**63})
    assert f'[[yNEAR charged: "{PAYMENT}"]]' in world.final(sent).logs
    assert world.view("get_stats") == [2, str(COST + PAYMENT)]


# -- cancelling ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "method"),
    [
        (BOB, "cancel_stale_execution"),
        (MAIN, "emergency_cancel_execution"),
        (MAIN, "cancel_pending_requests"),
        (MAIN, "clear_all_pending_requests"),
    ],
)
def test_r6_every_way_of_cancelling_returns_everything(world: World, who: str, method: str) -> None:
    world.deposit_usd(BOB, 70_000)
    before = world.chain.balance(CAROL)
    _, request_id = world.request(payer_account_id=CAROL, params={"attached_usd": "70000"})
    assert world.usd(BOB) == 0
    args: dict[str, Any] = {"request_id": request_id}
    if method == "cancel_pending_requests":
        args = {"request_ids": [request_id, 999]}
    elif method == "clear_all_pending_requests":
        args = {}
    elif method == "cancel_stale_execution":
        world.refused(ALICE, method, "Only the sender can cancel this execution", **args)
        world.refused(BOB, method, "Execution is not yet stale", **args)
        world.chain.set_time(601)
        world.chain.produce_block()
    if who == MAIN:
        world.refused(BOB, method, "Only owner", **args)
    done = world.ok(who, method, **args)
    if method.endswith("requests"):
        assert done.json() == 1
    assert world.chain.balance(CAROL) == before + PAYMENT
    assert world.usd(BOB) == 70_000
    assert world.pending() == []
    words = "Execution request not found"
    world.refused(OPERATOR, "resolve_execution", words, **resolution(request_id))
    world.chain.fast_forward(210)
    assert (world.usd(BOB), world.chain.balance(CAROL)) == (70_000, before + PAYMENT)


def test_the_owner_clears_no_more_requests_than_asked(world: World) -> None:
    ids = [world.request()[1] for _ in range(3)]
    words = "At most 100 requests"
    world.refused(MAIN, "clear_all_pending_requests", words, limit=101)
    assert world.ok(MAIN, "clear_all_pending_requests", limit=2).json() == 2
    assert len(set(world.pending()) & set(ids)) == 1
    assert world.ok(MAIN, "clear_all_pending_requests").json() == 1
    assert world.ok(MAIN, "clear_all_pending_requests").json() == 0


def resolution(request_id: int) -> dict[str, Any]:
    return {"request_id": request_id, "response": {"success": True, "resources_used": USED}}


# -- projects that change hands --------------------------------------------------------------------------


def test_r2_a_transfer_waits_for_the_new_owner(world: World) -> None:
    world.ok(ALICE, "transfer_project", project_name="app", new_owner=BOB)
    assert world.view("get_project", project_id=PROJECT)["owner"] == ALICE
    assert world.view("list_user_projects", account_id=BOB) == []
    world.refused(CAROL, "accept_project", "was not offered to this account", project_id=PROJECT)
    uuid = world.view("get_project", project_id=PROJECT)["uuid"]
    assert world.ok(BOB, "accept_project", project_id=PROJECT).json() == "bob.test/app"
    moved = world.view("get_project", project_id="bob.test/app")
    assert (moved["owner"], moved["uuid"]) == (BOB, uuid)
    assert world.view("get_project", project_id=PROJECT) is None
    assert world.view("list_user_projects", account_id=ALICE) == []
    assert world.view("get_version_count", project_id="bob.test/app") == 1


def test_r2_an_offer_can_be_taken_back(world: World) -> None:
    world.ok(ALICE, "transfer_project", project_name="app", new_owner=BOB)
    assert world.view("get_project_offer", project_id=PROJECT) == BOB
    world.ok(ALICE, "cancel_project_transfer", project_name="app")
    assert world.view("get_project_offer", project_id=PROJECT) is None
    world.refused(BOB, "accept_project", "was not offered to this account", project_id=PROJECT)
    world.refused(ALICE, "cancel_project_transfer", "was not offered to anybody", project_name="app")


def test_r4_a_deleted_project_gives_back_every_deposit_and_byte(world: World) -> None:
    usage = world.chain.account(MAIN)["storage_usage"]
    before = world.chain.balance(BOB)
    burnt = 0
    for step in (
        world.ok(BOB, "create_project", NEAR, name="p", source=wasm_url("1")),
        world.ok(BOB, "add_version", NEAR, project_name="p", source=GITHUB, set_active=True),
        world.ok(BOB, "add_version", NEAR, project_name="p", source=wasm_url("2"), set_active=False),
        world.ok(BOB, "remove_version", project_name="p", version_key="1" * 64),
        world.ok(BOB, "delete_project", project_name="p"),
    ):
        burnt += step.tokens_burnt
    assert world.chain.balance(BOB) == before - burnt
    assert world.chain.account(MAIN)["storage_usage"] == usage
    [cleanup] = system_events(step, "ProjectStorageCleanup")
    assert (cleanup["project_id"], cleanup["project_uuid"]) == ("bob.test/p", "p0000000000000002")
    assert world.view("get_version", project_id="bob.test/p", version_key="2" * 64) is None
