# SPDX-License-Identifier: MIT
"""The client of a coordinator that is not trusted: sizes, times and forms of what it may answer."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outlayer_cli import api as client
from outlayer_cli.api import Api, ApiError
from outlayer_cli.errors import CliError, UsageError
from outlayer_cli.payment_keys import PaymentKey
from outlayer_cli.replies import MOST_LEVELS, delivered_digests, member_text, read_json, shown
from outlayer_coordinator.call_request import splice_output

from .conftest import AnsweringServer, Reply, Request

KEY = PaymentKey("alice.test", 1, "5ec7e7" + "0" * 58)
CALL_ID = "0b5e6f1e-6c9f-4c39-9a0e-6a6b1a3b1d11"


def replying(server: AnsweringServer, body: Any, **options: Any) -> Api:
    reply = Reply(body, **options)
    server.answer = lambda _: reply
    return Api(server.url)


def test_a_reply_longer_than_allowed_is_cut_and_refused(server: AnsweringServer) -> None:
    sent = []

    def endless() -> Any:
        for part in itertools.repeat(b" " * 65536):
            sent.append(len(part))
            yield part

    api = replying(server, endless())
    with pytest.raises(CliError, match="longer than 1048576 bytes"):
        api.get_json("/x")
    api = replying(server, b'"' + b"x" * client.MAX_REPLY_BYTES + b'"')
    with pytest.raises(CliError, match="longer than"):
        api.get_json("/x")
    api = replying(server, b'"' + b"x" * (client.MAX_REPLY_BYTES - 2) + b'"')
    assert len(api.get_json("/x")) == client.MAX_REPLY_BYTES - 2


def test_what_a_refusal_says_is_cut(server: AnsweringServer) -> None:
    api = replying(server, itertools.repeat(b"n" * 65536), status=400)
    with pytest.raises(ApiError) as caught:
        api.get_json("/x")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("where", ["headers", "body"])
def test_a_server_that_never_ends_is_left_at_the_time_limit(where: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        writer.write(head if where == "headers" else head + b"\r\n")
        while not writer.is_closing():
            writer.write(b"X-More: 1\r\n" if where == "headers" else b" ")
            await asyncio.wait_for(writer.drain(), 1)
            await asyncio.sleep(0.01)

    address: list[int] = []
    ready, done = threading.Event(), threading.Event()

    async def serve() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        address.append(server.sockets[0].getsockname()[1])
        ready.set()
        await asyncio.to_thread(done.wait)
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        with pytest.raises(CliError, match=r"was not answered within 0\.3 s"):
            Api(f"http://127.0.0.1:{address[0]}").request("GET", "/x", seconds=0.3)
    finally:
        done.set()
        thread.join()


def test_a_packed_reply_is_refused(server: AnsweringServer) -> None:
    api = replying(
        server,
        gzip.compress(b"{}"),
        headers={"Content-Type": "application/json", "Content-Encoding": "gzip"},
    )
    with pytest.raises(CliError, match="packed"):
        api.get_json("/x")
    assert server.requests[-1].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("kind", ["text/html", "", "application/jsonp", "text/json"])
def test_a_reply_of_another_type_is_refused(server: AnsweringServer, kind: str) -> None:
    with pytest.raises(CliError, match="expected application/json"):
        replying(server, b"{}", headers={"Content-Type": kind}).get_json("/x")


def test_a_type_may_have_parameters(server: AnsweringServer) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert replying(server, b"[1]", headers=headers).get_json("/x") == [1]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_takes_no_secret_along(server: AnsweringServer, status: int) -> None:
    headers = {"Location": f"{server.url}/elsewhere", "Content-Type": "application/json"}
    api = replying(server, b"{}", status=status, headers=headers)
    server.requests.clear()
    with pytest.raises(ApiError, match="elsewhere"):
        api.get_json("/x", payment_key=KEY)
    assert [request.path for request in server.requests] == ["/x"]


@pytest.mark.parametrize("url", ["", "nowhere", "ftp://host", "http://", "http://[::1"])
def test_what_is_no_url_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError):
        Api(url)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON"),
        (b"\xff", "not UTF-8"),
        ("{}".encode("utf-16"), "not UTF-8"),
        (b'{"a":1,"a":2}', "twice"),
        (b'{"a":NaN}', "NaN"),
        (b"[Infinity]", "Infinity"),
        (b"[" * 600 + b"]" * 600, "nested"),
        (b"1" * 5000, "not JSON"),
    ],
)
def test_what_is_not_strict_json_is_refused_by_name(body: bytes, message: str) -> None:
    with pytest.raises(CliError, match=message):
        read_json(body, "GET /x")


def test_brackets_inside_of_texts_are_no_nesting() -> None:
    assert read_json(json.dumps(["[{" * 1000, '\\"[']).encode(), "x") == ["[{" * 1000, '\\"[']
    assert read_json(b"[" * MOST_LEVELS + b"]" * MOST_LEVELS, "x")


def test_an_answer_about_another_call_is_refused(server: AnsweringServer) -> None:
    other = CALL_ID.replace("0b5e", "1b5e")
    api = replying(server, json.dumps({"call_id": other, "status": "pending"}).encode())
    with pytest.raises(CliError, match=other):
        api.result(CALL_ID, KEY)


@pytest.mark.parametrize(
    "change",
    [
        {"call_id": "../../x"},
        {"call_id": CALL_ID + "\n"},
        {"call_id": None},
        {"status": "done"},
        {"status": 1},
        {"compute_cost": 1},
        {"compute_cost": "-1"},
        {"time_ms": "3"},
        {"time_ms": True},
        {"instructions": 2**64},
        {"error": 5},
        {"output": ...},
        {"status": "failed"},
    ],
)
def test_a_call_reply_with_one_wrong_member_is_refused_by_name(
    server: AnsweringServer, change: dict[str, Any]
) -> None:
    good = {"call_id": CALL_ID, "status": "completed", "output": None, "compute_cost": "1"}
    value = {name: item for name, item in (good | change).items() if item is not ...}
    with pytest.raises(CliError, match="cannot be used"):
        replying(server, json.dumps(value).encode()).call("a.test/b", b"{}", KEY, {})
    assert replying(server, json.dumps(good).encode()).call("a.test/b", b"{}", KEY, {}).reply.output is None


def test_an_error_never_shows_the_keys_secret(server: AnsweringServer) -> None:
    def echo(request: Request) -> Reply:
        return Reply(json.dumps({"error": "no"}).encode(), status=401)

    server.answer = echo
    with pytest.raises(ApiError) as caught:
        Api(server.url).balance(KEY)
    assert KEY.secret not in f"{caught.value} {caught.value.hint} {caught.value!r}"
    assert KEY.secret in server.requests[-1].headers["x-payment-key"]


@given(text=st.text())
def test_what_a_stranger_says_is_printable_and_short(text: str) -> None:
    found = shown(text)
    assert len(found) <= 301
    assert all(character.isprintable() for character in found)
    found.encode("utf-8")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(output=st.binary(max_size=60) | VALUES.map(lambda v: json.dumps(v, indent=1).encode()), rest=VALUES)
def test_the_digest_of_what_was_delivered_is_that_of_the_guests_bytes(output: bytes, rest: Any) -> None:
    """The coordinator splices JSON in as it is, and delivers other text as a JSON string."""
    from outlayer_attestation.record import sha256_hex

    reply = b'{"a":' + json.dumps(rest).encode() + b',"output":' + splice_output(output) + b',"z":"}"}'
    value = read_json_or_none(reply)
    if value is None:
        return
    found = delivered_digests(reply)
    try:
        output.decode("utf-8")
    except UnicodeDecodeError:
        return  # such bytes cannot be delivered as JSON: they are replaced, and the hash tells
    assert sha256_hex(output) in found


def read_json_or_none(content: bytes) -> Any:
    try:
        return read_json(content, "x")
    except CliError:
        return None


@settings(max_examples=200)
@given(
    value=st.dictionaries(st.text(max_size=4), VALUES, max_size=5),
    indent=st.none() | st.integers(0, 3),
    ascii_only=st.booleans(),
)
def test_each_members_text_is_found_whatever_the_spelling(
    value: dict[str, Any], indent: int | None, ascii_only: bool
) -> None:
    content = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    for name, item in value.items():
        text = member_text(content, name)
        assert text is not None
        assert json.loads(text) == item
    assert member_text(content, "not a member") is None
