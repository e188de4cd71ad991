# SPDX-License-Identifier: MIT
"""Where our main contract differs from the original's, with both on one chain: each test names what it shows.

The compatibility page has a row for each, with the rule that explains it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from both_mains import LIMITS, OURS, Side, deployed, events, wasm_url
from main_world import ARTIFACTS, BYTE, OPERATOR, PAYMENT_KEY

from outlayer_localnet.testing import NEAR, TGAS

ALICE, BOB, CAROL = "alice.test", "bob.test", "carol.test"
USED = {"instructions": 5_000_000, "time_ms": 12, "compile_time_ms": None}
GITHUB = {"GitHub": {"repo": "github.com/alice/app", "commit": "main", "build_target": "wasm32-wasip1"}}
ESTIMATE = 7_000_100_000_000_000_000_000


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Side, Side]]:
    with deployed() as sides:
        yield sides


@pytest.fixture
def original(both: tuple[Side, Side]) -> Side:
    """With ``ours`` on the same chain, as they were deployed."""
    both[0].chain.restore("deployed")
    return both[0]


@pytest.fixture
def ours(original: Side, both: tuple[Side, Side]) -> Side:
    return both[1]


def announced(side: Side, **args: Any) -> dict[str, Any]:
    """``request_data`` of the event of a request."""
    sent, _ = side.request(**args)
    [event] = side.events(sent, "execution_requested")
    data: dict[str, Any] = json.loads(event["request_data"])
    return data


def answered(side: Side, output: Any, deposit: int = NEAR // 10, **more: Any) -> Any:
    """A request that the operator answers in the short way; its final outcome."""
    sent, request_id = side.request(deposit=deposit, params=more.pop("params", {}))
    response = {"success": True, "output": output, "resources_used": USED, **more}
    side.do(OPERATOR, "resolve_execution", request_id=request_id, response=response)
    return side.final(sent)


# -- requests --------------------------------------------------------------------------------------------


def test_the_original_takes_a_callers_project_uuid_and_ours_refuses_it(original: Side, ours: Side) -> None:
    foreign = {"source": wasm_url("a"), "params": {"project_uuid": "p00000000000000ff"}}
    assert announced(original, **foreign)["project_uuid"] == "p00000000000000ff"
    args = {**foreign, "resource_limits": LIMITS}
    assert "project_uuid cannot be given" in ours.refused(BOB, "request_execution", NEAR, **args)


def test_the_original_announces_null_limits_and_ours_the_defaults(original: Side, ours: Side) -> None:
    partial = {"resource_limits": {"max_instructions": 1}}
    left_out = {"max_memory_mb": None, "max_execution_seconds": None}
    assert announced(original, **partial)["resource_limits"] == {"max_instructions": 1, **left_out}
    filled = {"max_memory_mb": 128, "max_execution_seconds": 60}
    assert announced(ours, **partial)["resource_limits"] == {"max_instructions": 1, **filled}


def test_the_original_announces_no_target_and_ours_the_default_one(original: Side, ours: Side) -> None:
    source = {"GitHub": {"repo": "r", "commit": "c", "build_target": None}}
    assert announced(original, source=source)["code_source"]["GitHub"]["build_target"] is None
    assert announced(ours, source=source)["code_source"]["GitHub"]["build_target"] == "wasm32-wasip1"


def test_a_long_input_is_free_in_the_original_and_held_for_in_ours(original: Side, ours: Side) -> None:
    """The words name what is needed, and with exactly that the request is taken."""
    size = 10_000
    args = {"resource_limits": LIMITS, "input_data": "x" * size, "source": wasm_url("a")}
    original.request(deposit=ESTIMATE, **args)
    words = ours.refused(BOB, "request_execution", ESTIMATE, **args)
    needed = int(words.split(" yoctoNEAR")[0].split()[-1])
    assert size * BYTE < needed < 2 * size * BYTE
    assert "needs" in words
    assert words == ours.refused(BOB, "request_execution", ESTIMATE, **args)
    ours.refused(BOB, "request_execution", needed - 1, **args)
    ours.request(deposit=needed, **args)


def test_more_memory_than_a_worker_gives_is_taken_by_the_original_only(original: Side, ours: Side) -> None:
    args = {"source": wasm_url("a"), "resource_limits": {**LIMITS, "max_memory_mb": 1_000_000}}
    original.request(**args)
    words = ours.refused(BOB, "request_execution", NEAR, **args)
    assert "Requested max_memory_mb 1000000 exceeds hard limit of" in words


def test_a_source_that_its_last_event_could_not_name_is_taken_by_the_original_only(
    original: Side, ours: Side
) -> None:
    args = {"source": {"WasmUrl": {"url": "h" * 3_000, "hash": "ab" * 32}}, "resource_limits": LIMITS}
    original.request(**args)
    words = ours.refused(BOB, "request_execution", NEAR, **args)
    assert "A code source has at most 2048 bytes of text" in words


def test_an_input_whose_event_would_not_fit_the_log_fails_in_the_original_only(
    original: Side, ours: Side
) -> None:
    args = {"source": wasm_url("a"), "resource_limits": LIMITS, "input_data": '"' * 9_999}
    assert "log" in original.refused(BOB, "request_execution", NEAR, **args)
    assert announced(ours, deposit=NEAR, **args)["input_data_in_state"] is True


def test_a_short_input_is_shown_by_ours_where_the_payment_covers_it(original: Side, ours: Side) -> None:
    text = "y" * 1_000
    for side, deposit, shown in (
        (original, ESTIMATE, text),
        (ours, ESTIMATE, None),
        (ours, NEAR // 10, text),
    ):
        sent, request_id = side.request(deposit=deposit, input_data=text)
        assert side.view("get_request", request_id=request_id)["input_data"] == shown
        [event] = side.events(sent, "execution_requested")
        assert json.loads(event["request_data"])["input_data"] == text


def test_get_request_shows_the_projects_owner_as_well(original: Side, ours: Side) -> None:
    names = []
    for side in (original, ours):
        _, request_id = side.request()
        names.append(set(side.view("get_request", request_id=request_id)))
    assert names[1] - names[0] == {"project_owner"}
    assert names[0] <= names[1]


# -- answers ---------------------------------------------------------------------------------------------


def test_the_original_pays_in_its_callback_and_ours_in_the_operators_call(original: Side, ours: Side) -> None:
    """What comes after the operator's call cannot change what was paid; a block earlier nothing is known."""
    charged = []
    for side in (original, ours):
        _, request_id = side.request()
        response = {"success": True, "output": None, "resources_used": USED}
        args = {"request_id": request_id, "response": response}
        side.send(OPERATOR, "resolve_execution", wait="EXECUTED_OPTIMISTIC", **args)
        charged.append(int(side.view("get_stats")[1]))
        side.chain.fast_forward(3)
        assert int(side.view("get_stats")[1]) > 0
    assert charged[1] > 0


def test_an_answer_that_the_payment_does_not_cover_is_delivered_by_the_original_only(
    original: Side, ours: Side
) -> None:
    """Bytes are what costs the operator most to hand in: an array of numbers, for each of them."""
    payload = [255] * 60_000
    value = base64.b64encode(bytes(payload)).decode()
    whole = {"output": {"Bytes": payload}, "success": True, "error": None, "resources_used": USED}
    method = "submit_execution_output_and_resolve"
    sent, request_id = original.request(deposit=ESTIMATE)
    original.do(OPERATOR, method, **whole, request_id=request_id)
    assert original.final(sent).json() == value
    _, request_id = ours.request(deposit=ESTIMATE)
    words = ours.refused(OPERATOR, method, **whole, request_id=request_id)
    assert f"does not pay for an output of {len(value) + 2} bytes: needs" in words
    needed = int(words.split("needs ")[1].split()[0])
    sent, request_id = ours.request(deposit=needed)
    ours.do(OPERATOR, method, **whole, request_id=request_id)
    assert ours.final(sent).json() == value


def test_r7_the_original_forgets_the_usd_refund_of_a_long_answer(original: Side, ours: Side) -> None:
    whole = {"output": {"Text": "x" * 2_000}, "success": True, "error": None, "resources_used": USED}
    left = []
    for side in (original, ours):
        side.final(side.pay(BOB, 30_000, {"action": "deposit_balance"}))
        sent, request_id = side.request(params={"attached_usd": "30000"})
        args = {**whole, "request_id": request_id, "refund_usd": 10_000}
        side.do(OPERATOR, "submit_execution_output_and_resolve", **args)
        side.final(sent)
        left.append(side.view("get_user_stablecoin_balance", account_id=BOB))
    assert left == ["0", "10000"]


def test_ours_names_the_record_in_the_last_event(original: Side, ours: Side) -> None:
    leaf = "cd" * 32
    found = []
    for side in (original, ours):
        sent, request_id = side.request()
        args = {"request_id": request_id, "record_sha256": leaf}
        response = {"success": True, "output": None, "resources_used": USED}
        side.do(OPERATOR, "resolve_execution", response=response, **args)
        [event] = events(side.final(sent), "execution_completed")
        found.append(event.get("record_sha256"))
    assert found == [None, leaf]


def test_r8_the_original_tells_a_cost_above_the_payment(original: Side, ours: Side) -> None:
    charged = []
    for side in (original, ours):
        sent, request_id = side.request(deposit=ESTIMATE)
        used = {"instructions": 0, "time_ms": 10**9}
        response = {"success": True, "output": None, "resources_used": used}
        side.do(OPERATOR, "resolve_execution", request_id=request_id, response=response)
        [event] = events(side.final(sent), "execution_completed")
        charged.append(int(event["payment_charged"]))
    assert charged[0] > ESTIMATE
    assert charged[1] == ESTIMATE


def test_json_is_rewritten_by_the_original_and_delivered_as_sent_by_ours(original: Side, ours: Side) -> None:
    text = '{"b":1.10,"a":[1e3]}'
    values = []
    for side in (original, ours):
        sent, request_id = side.request()
        head = f'{{"request_id":{request_id},"response":{{"success":true,"resources_used":{json.dumps(USED)},'
        raw = f'{head}"output":{{"Json":{text}}}}}}}'.encode()
        operator = side.accounts[OPERATOR]
        assert side.chain.call(operator, side.contract, "resolve_execution", raw).failure is None
        values.append(side.final(sent).value)
    assert values[1] == text.encode()
    assert values[0] != values[1]
    assert json.loads(values[0]) == json.loads(values[1])


# -- projects and secrets --------------------------------------------------------------------------------


def test_r2_a_project_moves_at_once_in_the_original(original: Side, ours: Side) -> None:
    owners = []
    for side in (original, ours):
        side.do(ALICE, "transfer_project", project_name="app", new_owner=BOB)
        owners.append([bool(side.view("list_user_projects", account_id=name)) for name in (ALICE, BOB)])
    assert owners == [[False, True], [True, False]]


def test_r4_a_deleted_project_leaves_its_versions_in_the_original(original: Side, ours: Side) -> None:
    left = []
    for side in (original, ours):
        empty = side.chain.account(side.contract)["storage_usage"]
        side.do(BOB, "create_project", NEAR, name="p", source=GITHUB)
        side.do(BOB, "delete_project", project_name="p")
        left.append(side.chain.account(side.contract)["storage_usage"] - empty)
    assert left[0] > 0
    assert left[1] == 0


def test_a_deposit_is_a_formula_in_the_original_and_what_is_occupied_in_ours(
    original: Side, ours: Side
) -> None:
    exact = []
    for side in (original, ours):
        before = side.chain.account(side.contract)["storage_usage"], side.chain.balance(CAROL)
        key = "r" * 1_000
        source = {"GitHub": {"repo": key, "commit": "c", "build_target": "wasm32-wasip1"}}
        result = side.send(CAROL, "create_project", NEAR, name="p", source=source)
        assert result.failure is None
        bytes_ = side.chain.account(side.contract)["storage_usage"] - before[0]
        paid = before[1] - side.chain.balance(CAROL) - result.tokens_burnt
        exact.append(paid == bytes_ * BYTE)
    assert exact == [False, True]


def test_an_estimate_is_what_a_new_entry_is_charged(original: Side, ours: Side) -> None:
    """Where the original's formula has no room for what a list of long names takes, ours counts it."""
    accessor = {"Repo": {"repo": "r" * 600, "branch": "b" * 200}}
    entry = {"accessor": accessor, "profile": "p", "encrypted_secrets_base64": "Yg==", "access": "AllowAll"}
    occupied = []
    for side in (original, ours):
        estimate = int(side.view("estimate_storage_cost", owner=CAROL, **entry))
        before = side.chain.account(side.contract)["storage_usage"], side.chain.balance(CAROL)
        result = side.send(CAROL, "store_secrets", NEAR, **entry)
        assert before[1] - side.chain.balance(CAROL) - result.tokens_burnt == estimate
        bytes_ = side.chain.account(side.contract)["storage_usage"] - before[0]
        occupied.append(bytes_ * BYTE == estimate)
    assert occupied == [False, True]


def test_r5_a_longer_condition_is_free_in_the_original(original: Side, ours: Side) -> None:
    name = {"accessor": {"WasmHash": {"hash": "ab" * 32}}, "profile": "p"}
    long = {"Whitelist": {"accounts": [f"account-{number}.test" for number in range(50)]}}
    for side in (original, ours):
        args = {**name, "encrypted_secrets_base64": "Yg==", "access": "AllowAll"}
        side.do(BOB, "store_secrets", NEAR, **args)
    original.do(BOB, "update_access", **name, new_access=long)
    assert "Required" in ours.refused(BOB, "update_access", **name, new_access=long)
    ours.do(BOB, "update_access", NEAR, **name, new_access=long)


def test_profiles_are_listed_by_ours_only(original: Side, ours: Side) -> None:
    listed = []
    accessor = {"WasmHash": {"hash": "ab" * 32}}
    for side in (original, ours):
        args = {"encrypted_secrets_base64": "Yg==", "access": "AllowAll"}
        side.do(BOB, "store_secrets", NEAR, accessor=accessor, profile="p", **args)
        listed.append(side.view("list_profiles", accessor=accessor, owner=BOB))
    assert listed == [[], ["p"]]


STRICTER: dict[str, tuple[Any, str, Any]] = {
    "a hash in capitals": ({"WasmHash": {"hash": "AB" * 32}}, "p", "AllowAll"),
    "a nonce with zeros in front": (PAYMENT_KEY, "01", "AllowAll"),
    "an empty whitelist": ({"WasmHash": {"hash": "ab" * 32}}, "p", {"Whitelist": {"accounts": []}}),
    "a condition that nobody judges": ({"WasmHash": {"hash": "ab" * 32}}, "p", {"Moon": {"phase": "full"}}),
    "a condition of 257 parts": (
        {"WasmHash": {"hash": "ab" * 32}},
        "p",
        {"Logic": {"operator": "Or", "conditions": ["AllowAll"] * 257}},
    ),
}


@pytest.mark.parametrize("name", STRICTER)
def test_a_secret_with_two_names_or_without_a_judge_is_taken_by_the_original_only(
    original: Side, ours: Side, name: str
) -> None:
    accessor, profile, access = STRICTER[name]
    args = {"accessor": accessor, "profile": profile, "access": access, "encrypted_secrets_base64": "Yg=="}
    original.do(BOB, "store_secrets", NEAR, **args)
    ours.refused(BOB, "store_secrets", NEAR, **args)


# -- money -----------------------------------------------------------------------------------------------


def test_null_takes_the_token_away_in_the_original_and_nothing_in_ours(original: Side, ours: Side) -> None:
    original.do("owner", "set_payment_token_contract", token_contract=None)
    assert original.view("get_payment_token_contract") is None
    token = ours.view("get_payment_token_contract")
    assert token is not None
    for args in ({"token_contract": None}, {}, {"unknown": "usdc.test"}):
        ours.refused("owner", "set_payment_token_contract", **args)
        assert ours.view("get_payment_token_contract") == token
    ours.do("owner", "clear_payment_token_contract")
    assert ours.view("get_payment_token_contract") is None


def test_two_top_ups_of_one_key_lose_one_in_the_original(original: Side, ours: Side) -> None:
    """Each answer rewrites the ciphertext that its own event showed: the second overwrites the first."""
    kept = []
    for side in (original, ours):
        args = {"accessor": PAYMENT_KEY, "profile": "1", "access": "AllowAll"}
        side.do(BOB, "store_secrets", NEAR, encrypted_secrets_base64="MA==", **args)
        before = side.tokens(BOB) + side.tokens(CAROL)
        begun = []
        for who in (BOB, CAROL):
            message = {"action": "top_up_payment_key", "nonce": 1, "owner": BOB}
            begun.append(side.pay(who, 20_000, message))
            side.chain.produce_block()
            side.chain.fast_forward(3)
        shown = [side.events(sent, "system_event") for sent in begun]
        for event in (found[0]["TopUpPaymentKey"] for found in shown if found):
            assert event["encrypted_data"] == "MA=="
            result = {"Success": {"new_encrypted_data": "MjAwMDA="}}
            side.do(OPERATOR, "resume_topup", data_id=bytes(event["data_id"]).hex(), result=result)
        for sent in begun:
            side.final(sent)
        kept.append(before - side.tokens(BOB) - side.tokens(CAROL))
    assert kept == [40_000, 20_000]


def test_a_first_deposit_of_less_than_a_cent_goes_back_from_ours(original: Side, ours: Side) -> None:
    kept = []
    for side in (original, ours):
        before = side.tokens(CAROL)
        side.final(side.pay(CAROL, 9_999, {"action": "deposit_balance"}))
        kept.append(before - side.tokens(CAROL))
    assert kept == [9_999, 0]


# -- the owner -------------------------------------------------------------------------------------------


def test_more_than_a_hundred_cancellations_at_once_are_refused_by_ours(original: Side, ours: Side) -> None:
    assert original.do("owner", "clear_all_pending_requests", limit=101) == 0
    words = ours.refused("owner", "clear_all_pending_requests", limit=101)
    assert "At most 100 requests can be cleared at once" in words


def test_a_state_of_the_original_is_recognised_and_not_taken_over(original: Side, ours: Side) -> None:
    code = (ARTIFACTS / "outlayer.wasm").read_bytes()
    account = original.accounts[original.contract]
    with pytest.raises(Exception, match="This is the state of an original OutLayer contract") as refused:
        original.chain.deploy(account, code, "migrate", {})
    assert original.contract in str(refused.value)
    assert ours.contract == OURS
    assert original.view("get_config") == [original.contract, OPERATOR]


def test_ours_numbers_the_version_of_its_state(original: Side, ours: Side) -> None:
    assert not original.view("get_storage_version").isdigit()
    assert ours.view("get_storage_version").isdigit()


# -- what is not here ------------------------------------------------------------------------------------


def test_a_sum_that_is_only_stated_tops_up_nothing(ours: Side) -> None:
    args = {"nonce": 1, "token_id": "token.test", "amount": "1", "swap_contract_id": "swap.test"}
    words = ours.refused(BOB, "top_up_payment_key_with_token", NEAR, **args)
    assert "ft_transfer_call" in words


def test_gas_of_a_hundred_teragas_is_enough_for_each_call_of_a_user(ours: Side) -> None:
    """The original's wallets attach 100 Tgas to these."""
    user = ours.accounts[CAROL]
    for method, args in (
        ("create_project", {"name": "p", "source": GITHUB}),
        ("transfer_project", {"project_name": "p", "new_owner": BOB}),
        ("delete_project", {"project_name": "p"}),
    ):
        deposit = NEAR if method == "create_project" else 0
        done = ours.chain.call(user, OURS, method, args, deposit=deposit, gas=100 * TGAS)
        assert done.failure is None, done.failure
