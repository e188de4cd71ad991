# SPDX-License-Identifier: MIT
"""The JSON-RPC and the block feed: shapes, errors, HTTP status rules, waiting."""

from __future__ import annotations

import base64
import itertools
import json
import threading
import time
import urllib.error
import urllib.request

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outlayer_localnet.testing import NEAR, TGAS, Localnet, RpcFailedError, TestAccount, localnet
from outlayer_near.primitives import CreateAccount, Transfer


def post(net: Localnet, body: bytes) -> tuple[int, dict]:
    request = urllib.request.Request(net.rpc_url, body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def rpc(net: Localnet, method: str, params: object) -> tuple[int, dict]:
    return post(net, json.dumps({"jsonrpc": "2.0", "id": "7", "method": method, "params": params}).encode())


def get(net: Localnet, path: str) -> tuple[int, object]:
    try:
        with urllib.request.urlopen(net.feed_url + path, timeout=20) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


# -- envelope and errors ---------------------------------------------------------------------------


def test_an_answer_repeats_the_id_and_names_the_version(net: Localnet):
    status, answer = rpc(net, "gas_price", [None])
    assert status == 200
    assert answer == {"jsonrpc": "2.0", "id": "7", "result": {"gas_price": "100000000"}}


@pytest.mark.parametrize(
    ("method", "params", "status", "name", "cause"),
    [
        ("no_such_method", {}, 400, "REQUEST_VALIDATION_ERROR", "METHOD_NOT_FOUND"),
        ("query", {"request_type": "nonsense", "finality": "final"}, 400, "REQUEST_VALIDATION_ERROR", "PARSE_ERROR"),
        ("query", 5, 400, "REQUEST_VALIDATION_ERROR", "PARSE_ERROR"),
        ("tx", ["not-a-hash", "x"], 400, "REQUEST_VALIDATION_ERROR", "PARSE_ERROR"),
        ("send_tx", {"signed_tx_base64": "%%%"}, 400, "REQUEST_VALIDATION_ERROR", "PARSE_ERROR"),
        ("send_tx", {"signed_tx_base64": "AAAA"}, 400, "REQUEST_VALIDATION_ERROR", "PARSE_ERROR"),
        ("block", {"block_id": 10**9}, 422, "HANDLER_ERROR", "UNKNOWN_BLOCK"),
        ("block", {"finality": "perhaps"}, 400, "REQUEST_VALIDATION_ERROR", "PARSE_ERROR"),
        ("tx", ["1" * 32, "x"], 200, "HANDLER_ERROR", "UNKNOWN_TRANSACTION"),
        ("EXPERIMENTAL_receipt", {"receipt_id": "1" * 32}, 200, "HANDLER_ERROR", "UNKNOWN_RECEIPT"),
        (
            "query",
            {"request_type": "view_account", "finality": "final", "account_id": "ghost.test"},
            200,
            "HANDLER_ERROR",
            "UNKNOWN_ACCOUNT",
        ),
        (
            "query",
            {"request_type": "view_code", "finality": "final", "account_id": "test"},
            200,
            "HANDLER_ERROR",
            "NO_CONTRACT_CODE",
        ),
        ("localnet_restore", {"name": "never"}, 200, "HANDLER_ERROR", "LOCALNET_ERROR"),
        ("sandbox_fast_forward", {"delta_height": -1}, 200, "HANDLER_ERROR", "LOCALNET_ERROR"),
    ],
)  # fmt: skip
def test_errors_carry_neards_names_and_http_status(net: Localnet, method, params, status, name, cause):
    code, answer = rpc(net, method, params)
    assert code == status
    error = answer["error"]
    assert (error["name"], error["cause"]["name"]) == (name, cause)
    assert set(error) == {"name", "cause", "code", "message", "data"}


def test_what_is_not_json_is_a_parse_error(net: Localnet):
    for body in (b"", b"{", b"[]", b'"x"', b"\xff\xfe", b'{"method": 5}', b"[" * 100_000):
        status, answer = post(net, body)
        assert status == 400
        assert answer["error"]["cause"]["name"] == "PARSE_ERROR"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)
field_names = st.sampled_from(
    ["request_type", "account_id", "finality", "block_id", "public_key", "method_name", "args_base64",
     "tx_hash", "wait_until", "signed_tx_base64", "records", "changes_type", "account_ids", "keys",
     "prefix_base64", "delta_height", "receipt_id", "chunk_id", "shard_id", "code_hash"]
)  # fmt: skip
known_values = st.sampled_from(
    ["test", "final", "view_account", "view_access_key", "view_state", "call_function", "data_changes",
     "account_changes", "single_access_key_changes", "NONE", 0, 1, "1" * 32, ["test"], "", [{"Account": {}}],
     [{"Data": {"account_id": "test"}}], "view_access_key_list", "view_global_contract_code"]
)  # fmt: skip
some_params = json_values | st.dictionaries(field_names, known_values | json_values, max_size=5)


@pytest.fixture(scope="module")
def shared():
    with localnet(wait_seconds=0.05) as node:
        yield node


@settings(max_examples=150, deadline=None)
@given(st.data(), some_params)
def test_no_parameters_bring_the_node_into_trouble(shared: Localnet, data, params):
    names = sorted(set(shared._server.methods._handlers) - {"sandbox_fast_forward", "localnet_set_time"})
    status, answer = rpc(shared, data.draw(st.sampled_from(names)), params)
    assert status in (200, 400, 408, 422)
    assert ("result" in answer) != ("error" in answer)


# -- blocks ----------------------------------------------------------------------------------------

HEADER = {
    "height", "prev_height", "epoch_id", "next_epoch_id", "hash", "prev_hash", "prev_state_root",
    "block_body_hash", "chunk_receipts_root", "chunk_headers_root", "chunk_tx_root", "outcome_root",
    "chunks_included", "challenges_root", "timestamp", "timestamp_nanosec", "random_value",
    "validator_proposals", "chunk_mask", "gas_price", "block_ordinal", "rent_paid", "validator_reward",
    "total_supply", "challenges_result", "last_final_block", "last_ds_final_block", "next_bp_hash",
    "block_merkle_root", "epoch_sync_data_hash", "approvals", "signature", "latest_protocol_version",
    "chunk_endorsements",
}  # fmt: skip


def test_a_block_is_found_by_height_hash_finality_and_checkpoint(net: Localnet):
    net.produce_block()
    head = net.block()
    assert set(head["header"]) == HEADER
    for params in (
        [head["header"]["height"]],
        [head["header"]["hash"]],
        {"block_id": head["header"]["hash"]},
        {"finality": "optimistic"},
        {"finality": "near-final"},
    ):
        assert net.rpc("block", params) == head
    assert net.rpc("block", {"sync_checkpoint": "genesis"})["header"]["height"] == 0
    assert head["header"]["timestamp_nanosec"] == str(head["header"]["timestamp"])


def test_blocks_form_a_chain_with_rising_times(net: Localnet):
    for _ in range(3):
        net.produce_block()
    blocks = [net.block(height)["header"] for height in range(net.height + 1)]
    for before, after in itertools.pairwise(blocks):
        assert after["prev_hash"] == before["hash"]
        assert after["timestamp"] > before["timestamp"]


def test_a_chunk_holds_transactions_and_incoming_receipts(net: Localnet):
    result = net.send(net.test_account, "near", [Transfer(1)])
    sent, received, _ = (net.block(item["block_hash"]) for item in result.outcomes)
    first = net.rpc("chunk", [sent["chunks"][0]["chunk_hash"]])
    assert [tx["hash"] for tx in first["transactions"]] == [result.hash]
    second = net.rpc("chunk", {"block_id": received["header"]["height"], "shard_id": 0})
    assert [item["receipt_id"] for item in second["receipts"]] == [result.outcomes[1]["id"]]
    assert second["header"] == received["chunks"][0]


def test_status_names_chain_version_and_head(net: Localnet):
    status = net.rpc("status", {"finality": "final"})
    assert status["chain_id"] == "localnet"
    assert status["protocol_version"] == 86
    assert status["sync_info"]["latest_block_height"] == net.height
    assert get(net, "/status")[1]["chain_id"] == "localnet"
    assert get(net, "/health") == (200, None)


def test_the_protocol_config_holds_the_numbers_that_are_charged(net: Localnet):
    config = net.rpc("EXPERIMENTAL_protocol_config", {"finality": "final"})
    assert config["protocol_version"] == 86
    runtime = config["runtime_config"]
    assert runtime["min_gas_purchase_price"] == "1000000000"
    costs = runtime["transaction_costs"]["action_creation_config"]
    assert costs["transfer_cost"]["execution"] == 115_123_062_500


@pytest.mark.parametrize("params", [[None], ["latest"], {"epoch_id": "1" * 32}])
def test_validators_lists_the_node(net: Localnet, params):
    view = net.rpc("validators", params)
    assert [item["account_id"] for item in view["current_validators"]] == ["localnet.near"]


# -- queries ---------------------------------------------------------------------------------------


def test_keys_of_views_are_exactly_neards(net: Localnet, app: TestAccount):
    where = {"block_height", "block_hash"}
    account = {"amount", "locked", "code_hash", "storage_usage", "storage_paid_at"}
    assert set(net.account("app.test")) == where | account
    key = str(app.key.public_key).removeprefix("ed25519:")
    view = net.query("view_access_key", account_id="app.test", public_key=key)
    assert set(view) == where | {"nonce", "permission"}
    call = net.query("call_function", account_id="app.test", method_name="echo", args_base64="aGk=")
    assert set(call) == where | {"result", "logs"}
    assert bytes(call["result"]) == b"hi"


def test_contract_state_is_listed_by_prefix(net: Localnet, app: TestAccount):
    net.call(app, "app.test", "put", b"value")
    everything = net.query("view_state", account_id="app.test", prefix_base64="")["values"]
    assert everything == [{"key": "aw==", "value": base64.b64encode(b"value").decode()}]
    assert net.query("view_state", account_id="app.test", prefix_base64="eg==")["values"] == []


def test_too_much_state_is_not_listed(net: Localnet, app: TestAccount):
    net.call(app, "app.test", "put", bytes(60_000))
    with pytest.raises(RpcFailedError) as error:
        net.query("view_state", account_id="app.test", prefix_base64="")
    assert error.value.cause == "TOO_LARGE_CONTRACT_STATE"


def test_the_old_form_of_query_is_understood(net: Localnet, app: TestAccount):
    assert net.rpc("query", ["account/app.test", ""])["storage_usage"] > 182
    # base58 of "hi" is 8wr
    assert bytes(net.rpc("query", ["call/app.test/echo", "8wr"])["result"]) == b"hi"


def test_state_beyond_the_history_is_reported_as_forgotten():
    from outlayer_localnet.chain import ChainConfig

    with localnet(config=ChainConfig(history_blocks=5)) as net:
        for _ in range(10):
            net.produce_block()
        with pytest.raises(RpcFailedError) as error:
            net.query("view_account", account_id="test", block_id=1)
        assert error.value.cause == "GARBAGE_COLLECTED_BLOCK"


def test_changes_name_what_changed_and_why(net: Localnet, app: TestAccount):
    result = net.call(app, "app.test", "put", b"value")
    ran_in = result.outcomes[1]["block_hash"]
    answer = net.rpc(
        "EXPERIMENTAL_changes",
        {"changes_type": "data_changes", "account_ids": ["app.test"], "key_prefix_base64": "", "block_id": ran_in},
    )  # fmt: skip
    [change] = answer["changes"]
    assert change["type"] == "data_update"
    assert change["change"] == {"account_id": "app.test", "key_base64": "aw==", "value_base64": "dmFsdWU="}
    assert change["cause"] == {"type": "receipt_processing", "receipt_hash": result.outcomes[1]["id"]}
    touched = net.rpc("EXPERIMENTAL_changes_in_block", {"block_id": ran_in})["changes"]
    assert {"type": "data_touched", "account_id": "app.test"} in touched


# -- waiting ---------------------------------------------------------------------------------------


def test_each_wait_level_is_reached_in_turn(net: Localnet):
    signed = net.sign(net.test_account, "near", [Transfer(1)])
    for level in ("NONE", "INCLUDED", "INCLUDED_FINAL", "EXECUTED_OPTIMISTIC", "EXECUTED", "FINAL"):
        answer = net.send_bytes(signed, wait_until=level).raw
        if level != "NONE":
            assert answer["status"] in ("Started", {"SuccessValue": ""})
    assert answer["final_execution_status"] == "FINAL"


def test_a_transaction_that_does_not_end_in_time_is_a_408(app: TestAccount, net: Localnet):
    net._server.methods._wait_seconds = 0.05
    encoded = base64.b64encode(net.sign(app, "app.test", [_call("wait")])).decode()
    status, answer = rpc(net, "broadcast_tx_commit", [encoded])
    assert (status, answer["error"]["cause"]["name"]) == (408, "TIMEOUT_ERROR")


def _call(method: str):
    from outlayer_near.primitives import FunctionCall

    return FunctionCall(method, b"", 100 * TGAS)


# -- block feed ------------------------------------------------------------------------------------


def test_the_feed_tells_of_every_outcome_with_its_transaction(net: Localnet, app: TestAccount):
    result = net.call(app, "app.test", "chain", b"", gas=200 * TGAS)
    seen = {}
    for height in range(net.height + 1):
        status, document = get(net, f"/v0/block/{height}")
        assert status == 200
        [shard] = document["shards"]
        for item in shard["receipt_execution_outcomes"]:
            assert item["execution_outcome"]["block_hash"] == document["block"]["header"]["hash"]
            assert item["receipt"]["receipt_id"] == item["execution_outcome"]["id"]
            seen[item["execution_outcome"]["id"]] = item["tx_hash"]
        for item in shard["chunk"]["transactions"]:
            assert item["outcome"]["receipt"]["receipt_id"] == item["outcome"]["execution_outcome"]["outcome"][
                "receipt_ids"
            ][0]  # fmt: skip
    assert all(seen[item["id"]] == result.hash for item in result.outcomes[1:])


def test_timeouts_of_yields_keep_their_transaction_in_the_feed(net: Localnet, app: TestAccount):
    sent = net.call(app, "app.test", "wait", b"", gas=100 * TGAS, wait_until="INCLUDED")
    net.tx(sent.hash)
    time.sleep(0.05)
    net.fast_forward(300)
    finished = net.tx(sent.hash, wait_until="FINAL")
    callback = next(item for item in finished.outcomes if item["outcome"]["logs"])
    height = net.block(callback["block_hash"])["header"]["height"]
    _, document = get(net, f"/v0/block/{height}")
    hashes = [item["tx_hash"] for item in document["shards"][0]["receipt_execution_outcomes"]]
    assert sent.hash in hashes


def test_skipped_heights_are_null_and_future_ones_404(net: Localnet):
    net.fast_forward(50)
    assert get(net, f"/v0/block/{net.height - 10}") == (200, None)
    status, body = get(net, f"/v0/block/{net.height + 1000}")
    assert (status, body["type"]) == (404, "BLOCK_DOES_NOT_EXIST")


def test_the_feed_waits_for_the_next_block(net: Localnet):
    following = net.height + 1
    timer = threading.Timer(0.2, net.produce_block)
    timer.start()
    status, document = get(net, f"/v0/block/{following}")
    timer.join()
    assert status == 200
    assert document["block"]["header"]["height"] == following


def test_the_ends_of_the_feed_are_found_by_redirect(net: Localnet):
    net.produce_block()
    assert get(net, "/v0/first_block")[1]["block"]["header"]["height"] == 0
    for finality in ("final", "optimistic"):
        assert get(net, f"/v0/last_block/{finality}")[1]["block"]["header"]["height"] == net.height


def test_parts_of_a_block_are_served_alone(net: Localnet):
    height = net.produce_block()
    _, whole = get(net, f"/v0/block/{height}")
    assert get(net, f"/v0/block/{height}/headers")[1] == whole["block"]
    assert get(net, f"/v0/block/{height}/shard/0")[1] == whole["shards"][0]
    assert get(net, f"/v0/block/{height}/chunk/0")[1] == whole["shards"][0]["chunk"]
    assert get(net, f"/v0/block_opt/{height}")[1] == whole


# -- state control ---------------------------------------------------------------------------------


def test_state_can_be_patched_for_tests(net: Localnet):
    net.send(net.test_account, "rich.test", [CreateAccount()])
    records = [
        {"Account": {"account_id": "rich.test", "account": {
            "amount": str(7 * NEAR), "locked": "0", "code_hash": "1" * 32, "storage_usage": 182}}},
        {"Data": {"account_id": "rich.test", "data_key": "aw==", "value": "dg=="}},
        {"AccessKey": {"account_id": "rich.test", "public_key": str(net.test_account.key.public_key),
                       "access_key": {"nonce": 0, "permission": "FullAccess"}}},
    ]  # fmt: skip
    assert net.rpc("sandbox_patch_state", {"records": records}) == {}
    assert net.balance("rich.test") == 7 * NEAR
    rich = TestAccount("rich.test", net.test_account.key)
    assert net.send(rich, "near", [Transfer(NEAR)]).failure is None
    assert net.query("view_state", account_id="rich.test")["values"] == [{"key": "aw==", "value": "dg=="}]


def test_a_bad_record_patches_nothing(net: Localnet):
    records = [
        {"Data": {"account_id": "test", "data_key": "aw==", "value": "dg=="}},
        {"Account": {"account_id": "test", "account": {"amount": "-5", "storage_usage": 1}}},
    ]
    with pytest.raises(RpcFailedError, match="PARSE_ERROR"):
        net.rpc("sandbox_patch_state", {"records": records})
    assert net.query("view_state", account_id="test")["values"] == []
