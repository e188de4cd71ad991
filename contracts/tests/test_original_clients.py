# SPDX-License-Identifier: MIT
"""Clients and callers of the original against our main contract: the same call on both contracts, the same answer.

A scenario is one client's walk; it is given one contract and returns all that the client sees. What differs, and by
which rule, is on the compatibility page; ``test_compatibility.py`` keeps the two lists complete.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import original_caller
import pytest
from both_mains import LIMITS, Side, deployed, events, plain, wasm_url
from main_world import OPERATOR, PAYMENT_KEY

from outlayer_localnet.testing import NEAR, TGAS

ALICE, BOB, CAROL = "alice.test", "bob.test", "carol.test"
USED = {"instructions": 5_000_000, "time_ms": 12, "compile_time_ms": None}
REPO = {"Repo": {"repo": "github.com/alice/app", "branch": "main"}}
ANY_BRANCH = {"Repo": {"repo": "github.com/alice/app", "branch": None}}
GITHUB = {"GitHub": {"repo": "github.com/alice/app", "commit": "main", "build_target": "wasm32-wasip1"}}

Scenario = Callable[[Side], Any]
SCENARIOS: dict[str, tuple[Scenario, tuple[str, ...]]] = {}


def same(*methods: str) -> Callable[[Scenario], Scenario]:
    """Both contracts answer this scenario alike; it shows these methods."""

    def register(scenario: Scenario) -> Scenario:
        SCENARIOS[scenario.__name__] = (scenario, methods)
        return scenario

    return register


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Side, Side]]:
    with deployed() as sides:
        yield sides


@pytest.fixture
def original(both: tuple[Side, Side]) -> Side:
    both[0].chain.restore("deployed")
    return both[0]


@pytest.fixture
def ours(both: tuple[Side, Side]) -> Side:
    both[0].chain.restore("deployed")
    return both[1]


# -- scenarios -------------------------------------------------------------------------------------------


@same(
    "new",
    "get_stats",
    "get_pricing",
    "get_pricing_full",
    "get_max_limits",
    "is_paused",
    "get_config",
    "get_event_metadata",
    "get_payment_token_contract",
    "get_storage_version",
)
def a_fresh_contract_says_what_it_is(side: Side) -> Any:
    side.called.add("new")
    names = (
        "get_stats",
        "get_pricing",
        "get_pricing_full",
        "get_max_limits",
        "is_paused",
        "get_config",
        "get_event_metadata",
        "get_payment_token_contract",
    )
    return {name: side.view(name) for name in names}, type(side.view("get_storage_version"))


@same(
    "get_request",
    "get_pending_output",
    "has_pending_output",
    "get_pending_request_ids",
    "get_developer_earnings",
    "get_user_stablecoin_balance",
    "get_next_payment_key_nonce",
    "get_project",
    "get_version",
    "list_user_secrets",
    "list_user_projects",
    "get_secrets",
    "secrets_exist",
)
def what_is_not_there_is_null_zero_or_empty(side: Side) -> Any:
    missing = {"accessor": REPO, "profile": "default", "owner": CAROL}
    return [
        side.view("get_request", request_id=99),
        side.view("get_pending_output", request_id=99),
        side.view("has_pending_output", request_id=99),
        side.view("get_pending_request_ids"),
        side.view("get_pending_request_ids", from_index=7, limit=3),
        side.view("get_developer_earnings", account_id=CAROL),
        side.view("get_user_stablecoin_balance", account_id=CAROL),
        side.view("get_next_payment_key_nonce", account_id=CAROL),
        side.view("get_project", project_id="carol.test/none"),
        side.view("get_version", project_id="carol.test/none", version_key="a"),
        side.view("list_versions", project_id="carol.test/none"),
        side.view("get_version_count", project_id="carol.test/none"),
        side.view("list_user_secrets", account_id=CAROL, from_index=0, limit=10),
        side.view("list_user_projects", account_id=CAROL),
        side.view("get_secrets", **missing),
        side.view("secrets_exist", **missing),
    ]


@same("estimate_execution_cost")
def a_price_counts_the_defaults_for_what_is_not_given(side: Side) -> Any:
    limits = (None, {}, {"max_instructions": 5_999_999}, {"max_execution_seconds": None}, LIMITS)
    found = [side.view("estimate_execution_cost", resource_limits=given) for given in limits]
    assert found[0] == "7000100000000000000000"
    return found


@same("set_pricing", "set_owner", "set_operator", "set_paused", "set_event_metadata")
def the_owner_changes_what_it_names_and_nothing_else(side: Side) -> Any:
    side.do("owner", "set_pricing", base_fee="5", per_sec_fee_usd="7")
    side.do("owner", "set_event_metadata", version="2.0.0")
    side.do("owner", "set_paused", paused=True)
    words = side.refused(BOB, "request_execution", NEAR, source=GITHUB, resource_limits=LIMITS)
    side.do("owner", "set_operator", new_operator_id=CAROL)
    side.do("owner", "set_owner", new_owner_id=ALICE)
    side.refused("owner", "set_paused", paused=False)
    side.do(ALICE, "set_paused", paused=False)
    return [
        words,
        *(side.view(name) for name in ("get_pricing_full", "get_config", "is_paused", "get_event_metadata")),
    ]


@same("set_payment_token_contract")
def the_token_is_named_by_the_originals_argument(side: Side) -> Any:
    side.do("owner", "set_payment_token_contract", token_contract="other.test")
    return side.view("get_payment_token_contract")


@same("request_execution", "get_request", "get_pending_request_ids")
def a_request_is_announced_and_shown(side: Side) -> Any:
    more = {"input_data": '{"city":"Tokyo"}', "response_format": "Json", "payer_account_id": CAROL}
    secrets = {"profile": "default", "account_id": ALICE}
    sent, request_id = side.request(secrets_ref=secrets, params={"force_rebuild": False}, **more)
    [event] = side.events(sent, "execution_requested")
    shown = side.view("get_request", request_id=request_id)
    known = (  # ours may show more
        "request_id data_id sender_id execution_source resolved_source resource_limits payment timestamp"
        " secrets_ref response_format input_data payer_account_id attached_usd pending_output output_submitted"
    )
    assert (type(shown["payment"]), type(shown["attached_usd"])) == (int, int)
    return [
        {**event, "request_data": json.loads(event["request_data"])},
        {name: shown[name] for name in known.split()},
        side.view("get_pending_request_ids", from_index=0, limit=5),
    ]


def settled(side: Side, sent: Any) -> Any:
    """What a caller and an indexer see of an end: value, charge, event."""
    final = side.final(sent)
    charged = [line for line in final.logs if line.startswith("[[yNEAR charged")]
    return [final.json(), charged, events(final, "execution_completed")]


@same("resolve_execution", "get_stats")
def an_answer_is_delivered_charged_and_announced(side: Side) -> Any:
    found = []
    for output in ({"Json": {"b": 1, "a": [1, "ä"]}}, {"Text": 'a"b'}, {"Bytes": [104, 105]}, None):
        sent, request_id = side.request()
        note = {"compilation_note": "Cached WASM", "error": None, "refund_usd": None}
        response = {"success": True, "output": output, "resources_used": USED, **note}
        side.do(OPERATOR, "resolve_execution", request_id=request_id, response=response)
        found.append(settled(side, sent))
    return found, side.view("get_stats")


def a_failed_run(side: Side) -> Any:
    sent, request_id = side.request(payer_account_id=CAROL)
    before = side.chain.balance(CAROL)
    response = {"success": False, "output": None, "error": "it broke", "resources_used": USED}
    side.do(OPERATOR, "resolve_execution", request_id=request_id, response=response)
    return [*settled(side, sent), side.chain.balance(CAROL) - before]


@same("resolve_execution")
def a_failed_run_gives_null_and_costs_the_base_fee(side: Side) -> Any:
    return a_failed_run(side)


@same("submit_execution_output", "get_pending_output", "has_pending_output", "get_request")
def an_output_that_waits_is_shown_and_then_delivered(side: Side) -> Any:
    output = {"Json": {"rows": ["x" * 2_000]}}
    sent, request_id = side.request()
    side.do(OPERATOR, "submit_execution_output", request_id=request_id, output=output)
    shown = side.view("get_request", request_id=request_id)
    found = [
        side.view("get_pending_output", request_id=request_id),
        side.view("has_pending_output", request_id=request_id),
        shown["pending_output"],
        shown["output_submitted"],
        side.refused(OPERATOR, "submit_execution_output", request_id=request_id, output=output),
    ]
    response = {"success": True, "output": None, "resources_used": USED}
    side.do(OPERATOR, "resolve_execution", request_id=request_id, response=response)
    return [*found, side.final(sent).json()]


@same("submit_execution_output_and_resolve")
def a_long_answer_comes_in_one_call(side: Side) -> Any:
    text = "x" * 3_000
    sent, request_id = side.request()
    args = {"output": {"Text": text}, "success": True, "error": None, "resources_used": USED}
    more = {"request_id": request_id, "compilation_note": None}
    side.do(OPERATOR, "submit_execution_output_and_resolve", **args, **more)
    return side.final(sent).json()


@same("resolve_execution", "submit_execution_output", "submit_execution_output_and_resolve")
def an_answer_to_nothing_or_from_a_stranger_is_refused(side: Side) -> Any:
    response = {"success": True, "resources_used": USED}
    answer = {"request_id": 99, "output": {"Text": "a"}}
    whole = {**answer, "success": True, "resources_used": USED}
    _, request_id = side.request()
    side.refused(BOB, "resolve_execution", request_id=request_id, response=response)
    return [
        side.refused(OPERATOR, "resolve_execution", request_id=99, response=response),
        side.refused(OPERATOR, "submit_execution_output", **answer),
        side.refused(OPERATOR, "submit_execution_output_and_resolve", **whole),
        side.view("get_pending_request_ids"),
    ]


@same("request_execution")
def a_time_out_gives_null_and_no_event(side: Side) -> Any:
    sent, _ = side.request()
    side.chain.fast_forward(210)
    return [*settled(side, sent), side.view("get_pending_request_ids")]


@same("cancel_stale_execution")
def only_the_sender_cancels_and_only_what_is_stale(side: Side) -> Any:
    _, request_id = side.request(payer_account_id=CAROL)
    before = side.chain.balance(CAROL)
    words = [
        side.refused(who, "cancel_stale_execution", request_id=number)
        for who, number in ((ALICE, request_id), (BOB, request_id), (BOB, 99))
    ]
    side.chain.set_time(601)
    side.chain.produce_block()
    side.do(BOB, "cancel_stale_execution", request_id=request_id)
    return [*words, side.chain.balance(CAROL) - before]


@same("emergency_cancel_execution", "cancel_pending_requests", "clear_all_pending_requests")
def the_owner_cancels_requests_by_id_and_in_bulk(side: Side) -> Any:
    ids = [side.request()[1] for _ in range(5)]
    side.do("owner", "emergency_cancel_execution", request_id=ids[0])
    counts = [
        side.do("owner", "cancel_pending_requests", request_ids=[ids[1], 999]),
        side.do("owner", "clear_all_pending_requests", limit=1),
        side.do("owner", "clear_all_pending_requests"),
        side.do("owner", "clear_all_pending_requests"),
    ]
    return [*counts, side.refused("owner", "emergency_cancel_execution", request_id=999)]


REFUSED: tuple[dict[str, Any], ...] = (
    {"source": {"Project": {"project_id": "alice.test/none"}}},
    {"source": {"Project": {"project_id": "alice.test/app", "version_key": "none"}}},
    {"source": wasm_url("a"), "params": {"force_rebuild": True}},
    {"source": GITHUB, "resource_limits": {**LIMITS, "max_instructions": 500_000_000_001}},
    {"source": GITHUB, "resource_limits": {**LIMITS, "max_execution_seconds": 181}},
    {"source": GITHUB, "params": {"attached_usd": "1"}},
    {"source": {"Project": {"project_id": "alice.test/app"}}, "params": {"attached_usd": "1"}},
    {"source": GITHUB, "deposit": 7_000_100_000_000_000_000_000 - 1},
)


@same("request_execution")
def a_request_that_cannot_be_is_refused_in_the_same_words(side: Side) -> Any:
    return [
        side.refused(BOB, "request_execution", **{"deposit": NEAR, "resource_limits": LIMITS, **case})
        for case in REFUSED
    ]


@same("create_project", "add_version", "set_active_version", "remove_version")
def a_project_grows_and_shrinks(side: Side) -> Any:
    app = {"project_id": "alice.test/app"}
    found = [
        side.view("get_project", **app),
        side.do(ALICE, "create_project", NEAR, name="other", source=GITHUB),
    ]
    side.do(ALICE, "add_version", NEAR, project_name="app", source=wasm_url("b"), set_active=False)
    side.do(ALICE, "add_version", NEAR, project_name="app", source=GITHUB, set_active=True)
    key = "github.com/alice/app@main"
    found += [side.view("get_version", **app, version_key=key), side.view("get_version_count", **app)]
    side.do(ALICE, "set_active_version", project_name="app", version_key="b" * 64)
    side.do(ALICE, "remove_version", project_name="app", version_key=key)
    shown = [item["wasm_hash"] for item in side.view("list_versions", **app, from_index=0, limit=10)]
    return [*found, shown, side.view("get_project", **app), side.view("list_versions", **app, from_index=5)]


@same("get_version", "list_versions", "get_version_count", "list_user_projects", "get_project")
def projects_and_versions_are_listed(side: Side) -> Any:
    app = {"project_id": "alice.test/app"}
    return [
        side.view("list_user_projects", account_id=ALICE),
        side.view("get_project", **app),
        side.view("get_version", **app, version_key="a" * 64),
        side.view("list_versions", **app),
        side.view("get_version_count", **app),
    ]


@same("create_project", "add_version")
def a_project_that_cannot_be_is_refused_in_the_same_words(side: Side) -> Any:
    words = [
        side.refused(ALICE, "create_project", NEAR, name="app", source=wasm_url("a")),
        side.refused(ALICE, "add_version", NEAR, project_name="app", source=wasm_url("a"), set_active=True),
    ]
    poor = side.refused(ALICE, "create_project", 1, name="poor", source=wasm_url("a"))
    return [*words, poor.split(".")[0]]


@same("delete_project")
def a_deleted_project_is_announced_and_gone(side: Side) -> Any:
    result = side.send(ALICE, "delete_project", project_name="app")
    assert result.failure is None
    return [events(result, "system_event"), side.view("get_project", project_id="alice.test/app")]


def stored(side: Side, who: str, accessor: Any, profile: str, text: str = "Y2lwaGVy", **more: Any) -> None:
    args = {"accessor": accessor, "profile": profile, "encrypted_secrets_base64": text, "access": "AllowAll"}
    side.do(who, "store_secrets", NEAR // 2, **{**args, **more})


@same("store_secrets", "get_secrets", "secrets_exist", "update_access", "delete_secrets")
def a_secret_is_kept_changed_and_removed(side: Side) -> Any:
    name = {"accessor": ANY_BRANCH, "profile": "default", "owner": BOB}
    stored(side, BOB, ANY_BRANCH, "default", access={"Whitelist": {"accounts": [ALICE, CAROL]}})
    fallback = side.view("get_secrets", accessor=REPO, profile="default", owner=BOB)
    access = {"Whitelist": {"accounts": [ALICE]}}
    own = {"accessor": ANY_BRANCH, "profile": "default"}
    side.do(BOB, "update_access", **own, new_access=access)
    found = [fallback, side.view("get_secrets", **name), side.view("secrets_exist", **name)]
    missing = side.refused(ALICE, "update_access", **own, new_access=access)
    side.do(BOB, "delete_secrets", **own)
    return [*found, missing, side.view("get_secrets", **name), side.refused(BOB, "delete_secrets", **own)]


@same("list_user_secrets")
def a_client_walks_the_pages_until_one_is_empty(side: Side) -> Any:
    for number in range(7):
        stored(side, BOB, {"WasmHash": {"hash": "ab" * 32}}, f"profile-{number}")
    pages, at = [], 0
    while page := side.view("list_user_secrets", account_id=BOB, from_index=at, limit=3):
        pages.append(page)
        at += len(page)
        assert at <= 500, "the walk does not end"
    seen = sorted(item["profile"] for page in pages for item in page)
    assert seen == [f"profile-{number}" for number in range(7)]
    return [[len(page) for page in pages], sorted(pages[0][0])]


BAD_SECRETS: tuple[tuple[Any, str, str], ...] = (
    ({"Repo": {"repo": "", "branch": None}}, "p", "x"),
    ({"Repo": {"repo": "r", "branch": ""}}, "p", "x"),
    ({"Repo": {"repo": "r", "branch": "b" * 256}}, "p", "x"),
    ({"Project": {"project_id": "nothing"}}, "p", "x"),
    ({"Project": {"project_id": "alice.test/none"}}, "p", "x"),
    (ANY_BRANCH, "p" * 65, "x"),
    (ANY_BRANCH, "p", ""),
    (PAYMENT_KEY, "one", "x"),
)


@same("store_secrets")
def a_secret_that_cannot_be_is_refused_in_the_same_words(side: Side) -> Any:
    return [
        side.refused(
            BOB,
            "store_secrets",
            NEAR,
            accessor=accessor,
            profile=profile,
            encrypted_secrets_base64=text,
            access="AllowAll",
        )
        for accessor, profile, text in BAD_SECRETS
    ]


@same("store_secrets", "get_next_payment_key_nonce")
def a_new_payment_key_is_announced_with_nothing_on_it(side: Side) -> Any:
    args = {"accessor": PAYMENT_KEY, "profile": "1", "access": "AllowAll"}
    result = side.send(BOB, "store_secrets", NEAR, encrypted_secrets_base64="Y2lwaGVy", **args)
    assert result.failure is None
    [event] = events(result, "system_event")
    assert event["TopUpPaymentKey"]["data_id"] == [0] * 32
    return [event, side.view("get_next_payment_key_nonce", account_id=BOB)]


def topped_up(side: Side, result: Any) -> tuple[Any, int]:
    """A top-up of 20,000 that the operator answered: its event and the tokens that bob paid."""
    stored(side, BOB, PAYMENT_KEY, "1")
    before = side.tokens(BOB)
    sent = side.pay(BOB, 20_000, {"action": "top_up_payment_key", "nonce": 1})
    [event] = side.until(lambda: side.events(sent, "system_event"))
    data_id = bytes(event["TopUpPaymentKey"]["data_id"]).hex()
    side.do(OPERATOR, "resume_topup", data_id=data_id, result=result)
    side.final(sent)
    return event, before - side.tokens(BOB)


@same("ft_on_transfer", "resume_topup")
def a_top_up_that_succeeds_keeps_the_tokens_and_one_that_fails_does_not(side: Side) -> Any:
    event, paid = topped_up(side, {"Success": {"new_encrypted_data": "bmV3"}})
    name = {"accessor": PAYMENT_KEY, "profile": "1", "owner": BOB}
    kept = side.view("get_secrets", **name)["encrypted_secrets"]
    side.chain.restore("deployed")
    _, nothing = topped_up(side, {"Error": {"message": "no"}})
    return [event, paid, kept, nothing, side.view("get_secrets", **name)["encrypted_secrets"]]


@same("delete_payment_key", "resume_delete_payment_key")
def a_payment_key_is_deleted_when_the_operator_agrees(side: Side) -> Any:
    stored(side, BOB, PAYMENT_KEY, "1")
    missing = side.refused(BOB, "delete_payment_key", 1, nonce=2)
    sent = side.send(BOB, "delete_payment_key", 1, wait="INCLUDED", nonce=1)
    [event] = side.until(lambda: side.events(sent, "system_event"))
    data_id = bytes(event["DeletePaymentKey"]["data_id"]).hex()
    side.do(OPERATOR, "resume_delete_payment_key", data_id=data_id, result="Success")
    final = side.final(sent)
    assert final.failure is None
    return [missing, event, side.view("secrets_exist", accessor=PAYMENT_KEY, profile="1", owner=BOB)]


@same("ft_on_transfer", "withdraw_developer_earnings", "get_developer_earnings")
def attached_usd_is_earned_but_for_what_is_refunded(side: Side) -> Any:
    side.final(side.pay(BOB, 50_000, {"action": "deposit_balance"}))
    sent, request_id = side.request(params={"attached_usd": "30000"})
    left = side.view("get_user_stablecoin_balance", account_id=BOB)
    response = {"success": True, "output": {"Text": "a"}, "resources_used": USED, "refund_usd": 10_000}
    side.do(OPERATOR, "resolve_execution", request_id=request_id, response=response)
    side.final(sent)
    found = [
        left,
        side.view("get_user_stablecoin_balance", account_id=BOB),
        side.view("get_developer_earnings", account_id=ALICE),
    ]
    before = side.tokens(ALICE)
    side.do(ALICE, "withdraw_developer_earnings", 1)
    nothing = side.refused(ALICE, "withdraw_developer_earnings", 1)
    return [*found, side.tokens(ALICE) - before, nothing]


@same("ft_on_transfer")
def tokens_with_a_wrong_message_come_back(side: Side) -> Any:
    before = side.tokens(BOB)
    messages: tuple[Any, ...] = (
        {"action": "top_up_payment_key", "nonce": 1},
        {"action": "other"},
        {"action": "deposit_balance", "nonce": "x"},
    )
    for message in messages[:2]:
        side.final(side.pay(BOB, 20_000, message))
    side.final(side.pay(BOB, 9_999, {"action": "top_up_payment_key", "nonce": 1}))
    return [
        before - side.tokens(BOB),
        side.refused(BOB, "ft_on_transfer", sender_id=BOB, amount="1", msg="{}").split(".")[0],
    ]


def asked(side: Side, deposit: int, gas: int, request: dict[str, Any], output: Any) -> Any:
    """A contract written for the original asks; what its callback returns, and what it has more than before."""
    name = "caller.test"
    account = side.chain.create_account(name, 50 * NEAR)
    side.chain.deploy(account, original_caller.code(side.contract, name, request))
    side.called.add("request_execution")
    before = side.chain.balance(name)
    user = side.accounts[BOB]
    sent = side.chain.call(user, name, "ask", {}, deposit=deposit, gas=gas, wait_until="INCLUDED")
    [request_id] = side.until(lambda: side.view("get_pending_request_ids"))
    response = {"success": output is not None, "output": output, "resources_used": USED}
    side.do(OPERATOR, "resolve_execution", request_id=request_id, response=response)
    value = side.final(sent).json()
    earned = side.chain.balance(name) - before  # its refund, and its share of the gas
    return value, earned > deposit - NEAR // 200


FLIP = {
    "source": {"Project": {"project_id": "alice.test/app"}},
    "resource_limits": LIMITS,
    "input_data": '{"min":0,"max":1}',
    "response_format": "Json",
}


@same("request_execution")
def a_caller_with_the_smallest_deposit_of_the_tutorial_gets_its_value(side: Side) -> Any:
    return asked(side, NEAR // 100, 300 * TGAS, FLIP, {"Json": {"flip": "heads"}})


@same("request_execution")
def a_caller_with_a_hundred_teragas_gets_its_value(side: Side) -> Any:
    return asked(side, NEAR // 10, 100 * TGAS, FLIP, {"Text": "x" * 800})


@same("request_execution")
def a_caller_sees_null_for_a_failed_run(side: Side) -> Any:
    return asked(side, NEAR // 100, 300 * TGAS, FLIP, None)


@same("request_execution")
def a_caller_sees_the_failure_of_a_request_that_is_refused(side: Side) -> Any:
    name = "caller.test"
    account = side.chain.create_account(name, 50 * NEAR)
    side.chain.deploy(account, original_caller.code(side.contract, name, FLIP))
    side.called.add("request_execution")
    user = side.accounts[BOB]
    return side.chain.call(user, name, "ask", {}, deposit=NEAR // 1000, gas=300 * TGAS).json()


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_a_client_of_the_original_sees_the_same(both: tuple[Side, Side], name: str) -> None:
    scenario, methods = SCENARIOS[name]
    answers = []
    for side in both:
        side.chain.restore("deployed")
        side.called.clear()
        answers.append(plain(scenario(side), side.contract))
        assert set(methods) <= side.called, f"{name} does not call {set(methods) - side.called}"
    theirs, mine = answers
    assert mine == theirs
