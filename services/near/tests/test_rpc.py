# SPDX-License-Identifier: MIT
"""The JSON-RPC client: what it asks again, what it does not, and how refusals are told."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlayer_near import rpc as rpc_module
from outlayer_near.errors import RpcError, RpcUnavailableError, ViewError
from outlayer_near.primitives import b58encode
from outlayer_near.rpc import Header, NearRpc


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(rpc_module, "_FIRST_WAIT_SECONDS", 0.001)


@pytest.fixture
async def rpc(node):
    async with NearRpc(node.url, timeout=5) as client:
        yield client


@pytest.mark.parametrize("fault", [500, 503, 429, "garbage", "drop", "list", "deep", "neither"])
async def test_a_read_is_asked_again_after_trouble(node, rpc, fault):
    node.methods["block"] = lambda _: {"header": {"height": 7}}
    node.faults.extend([fault, fault])
    assert await rpc.head_height() == 7
    assert node.count("block") == 1


@pytest.mark.parametrize("fault", [500, "garbage", "drop"])
async def test_a_silent_node_is_told_after_three_attempts(node, rpc, fault):
    node.faults.extend([fault] * 3)
    with pytest.raises(RpcUnavailableError) as caught:
        await rpc.head_height()
    assert caught.value.hint
    assert not node.faults


async def test_a_nodes_inner_trouble_is_asked_again(node, rpc, refusal):
    answers = iter([refusal("INTERNAL_ERROR", status=500), refusal("NO_SYNCED_BLOCKS")])

    def block(_):
        error = next(answers, None)
        if error:
            raise error
        return {"header": {"height": 9}}

    node.methods["block"] = block
    assert await rpc.head_height() == 9


async def test_a_refusal_is_not_asked_again(node, rpc, refusal):
    def block(_):
        raise refusal("UNKNOWN_BLOCK", "DB Not Found", status=422)

    node.methods["block"] = block
    with pytest.raises(RpcError) as caught:
        await rpc.block(5)
    assert (caught.value.name, caught.value.data) == ("UNKNOWN_BLOCK", "DB Not Found")
    assert caught.value.hint
    assert node.count("block") == 1


async def test_sending_is_never_repeated_by_itself(node, rpc):
    node.faults.append("drop")
    node.methods["broadcast_tx_async"] = lambda _: "hash"
    with pytest.raises(RpcUnavailableError):
        await rpc.send_transaction_async(b"signed")
    assert node.asked == []


async def test_the_next_node_is_asked_when_one_is_silent(scripted):
    first, second = await scripted(), await scripted()
    second.methods["block"] = lambda _: {"header": {"height": 3}}
    first.faults.extend([503] * 10)
    async with NearRpc(f"{first.url}, {second.url}") as client:
        assert await client.head_height() == 3
        assert client.url == second.url
        assert await client.head_height() == 3
    assert len(first.faults) == 9


def test_no_url_is_refused():
    with pytest.raises(RpcUnavailableError):
        NearRpc(" , ")


async def test_a_name_that_does_not_resolve_is_a_silent_node():
    async with NearRpc("http://node.invalid/", timeout=2) as client:
        with pytest.raises(RpcUnavailableError):
            await client.head_height()


async def test_an_unknown_account_is_none(node, rpc, refusal):
    def query(_):
        raise refusal("UNKNOWN_ACCOUNT", "account x does not exist while viewing")

    node.methods["query"] = query
    assert await rpc.view_account("x") is None
    assert not await rpc.account_exists("x")
    assert await rpc.code_hash("x") is None
    assert await rpc.view_access_key("x", "ed25519:k") is None


async def test_an_account_without_code_has_no_code_hash(node, rpc):
    node.methods["query"] = lambda _: {"amount": "1", "code_hash": "1" * 32}
    assert await rpc.code_hash("x") is None
    node.methods["query"] = lambda _: {"amount": "1", "code_hash": "8q1…"}
    assert await rpc.code_hash("x") == "8q1…"


@pytest.mark.parametrize("form", ["result", "error"])
async def test_an_unknown_key_is_none_in_both_forms_that_nodes_use(node, rpc, refusal, form):
    def query(_):
        if form == "error":
            raise refusal("UNKNOWN_ACCESS_KEY")
        return {"error": "access key k does not exist while viewing", "logs": [], "block_height": 1}

    node.methods["query"] = query
    assert await rpc.view_access_key("x", "k") is None
    assert not await rpc.has_access_key("x", "k")


@pytest.mark.parametrize(
    ("permission", "full"),
    [
        ("FullAccess", True),
        ({"FunctionCall": {"allowance": None, "receiver_id": "x", "method_names": []}}, False),
    ],
)
async def test_full_access_is_told_from_function_call_access(node, rpc, permission, full):
    node.methods["query"] = lambda _: {"nonce": 1, "permission": permission}
    assert await rpc.has_full_access_key("x", "k") is full


async def test_a_view_passes_arguments_and_block_and_gives_json(node, rpc):
    def query(params: Any):
        assert params["request_type"] == "call_function"
        assert (params["account_id"], params["method_name"], params["block_id"]) == ("c.test", "get", 12)
        assert json.loads(base64.b64decode(params["args_base64"])) == {"a": "ä"}
        return {"result": list('{"v":"ö"}'.encode()), "logs": []}

    node.methods["query"] = query
    assert await rpc.view("c.test", "get", {"a": "ä"}, 12) == {"v": "ö"}


async def test_an_empty_answer_of_a_view_is_none(node, rpc):
    node.methods["query"] = lambda _: {"result": [], "logs": []}
    assert await rpc.view("c.test", "get") is None


@pytest.mark.parametrize("form", ["result", "error"])
async def test_a_view_that_panics_is_told_with_the_contracts_words(node, rpc, refusal, form):
    words = 'wasm execution failed with error: HostError(GuestPanic { panic_msg: "no" })'

    def query(_):
        if form == "error":
            raise refusal("CONTRACT_EXECUTION_ERROR", words)
        return {"error": words, "logs": []}

    node.methods["query"] = query
    with pytest.raises(ViewError, match="GuestPanic"):
        await rpc.view("c.test", "get")


@pytest.mark.parametrize(
    "result", [{}, {"result": [256]}, {"result": None}, {"result": "text"}, {"result": 5}]
)
async def test_a_view_answer_of_another_form_is_not_taken_for_a_value(node, rpc, result):
    node.methods["query"] = lambda _: result
    with pytest.raises(RpcUnavailableError):
        await rpc.view_bytes("c.test", "get", b"{}")


async def test_a_view_that_is_not_json_is_told(node, rpc):
    node.methods["query"] = lambda _: {"result": list(b"\xff\x00"), "logs": []}
    with pytest.raises(ViewError):
        await rpc.view("c.test", "get")


# -- headers ---------------------------------------------------------------------------------------------

HASH = b58encode(bytes(31) + b"\x07")
HEADER = {
    "height": 7,
    "hash": HASH,
    "timestamp": 1_999_999_999,
    "timestamp_nanosec": "1999999999",
    "more": None,
}


@pytest.mark.parametrize(
    ("block", "params"),
    [("final", {"finality": "final"}), (7, {"block_id": 7}), (HASH, {"block_id": HASH})],
)
async def test_a_header_is_read_by_finality_height_or_hash(node, rpc, block, params):
    node.methods["block"] = lambda _: {"header": HEADER}
    assert await rpc.header(block) == Header(height=7, hash=HASH, timestamp_ns=1_999_999_999)
    assert node.asked == [("block", params)]


async def test_the_time_of_a_header_is_in_whole_seconds_rounded_down(node, rpc):
    node.methods["block"] = lambda _: {"header": HEADER}
    assert (await rpc.header()).time == 1


@pytest.mark.parametrize("block", [8, b58encode(bytes(32)), "optimistic"])
async def test_another_block_than_the_one_asked_for_is_refused(node, rpc, block):
    node.methods["block"] = lambda _: {"header": HEADER}
    with pytest.raises(RpcUnavailableError, match="was asked for") as refused:
        await rpc.header(block)
    assert refused.value.hint


@pytest.mark.parametrize(
    "change",
    [
        {"height": None},
        {"height": "7"},
        {"height": 7.0},
        {"height": True},
        {"height": -1},
        {"height": 2**64},
        {"hash": None},
        {"hash": ""},
        {"hash": 7},
        {"hash": HASH[:-1]},
        {"hash": "0" + HASH[1:]},
        {"hash": "1" * 64},
        {"timestamp": "1999999999"},
        {"timestamp": -1},
        {"timestamp": 2**64},
        {"timestamp": False},
        {"timestamp_nanosec": "1999999998"},
        {"timestamp_nanosec": 1_999_999_999},
    ],
    ids=str,
)
def test_a_header_with_a_value_of_another_kind_is_refused(change):
    with pytest.raises(RpcUnavailableError) as refused:
        Header.from_rpc({"header": {**HEADER, **change}})
    assert refused.value.hint


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(HASH),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["header", *HEADER]), inner, max_size=6)
        | st.fixed_dictionaries({"header": st.fixed_dictionaries(dict.fromkeys(HEADER, inner))})
    ),
    max_leaves=12,
)


@given(json_values)
def test_any_json_is_a_header_or_an_error_of_ours(value):
    try:
        header = Header.from_rpc(value)
    except RpcUnavailableError:
        return
    assert Header.from_rpc({"header": value["header"]}) == header
    assert header.hash == value["header"]["hash"]
