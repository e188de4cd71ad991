# SPDX-License-Identifier: MIT
"""The configuration document: what it refuses, and that errors never show a secret."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlayer_attestation.errors import VmError
from outlayer_attestation.measure.runtime import MAX_CONFIGURATION
from outlayer_attestation.vm.configuration import (
    Endpoint,
    TimeServer,
    VmConfiguration,
    configuration_digest,
    parse_secrets,
)
from outlayer_attestation.vm.roles import ROLES

from .documents import document, encoded, make_authority


@pytest.mark.parametrize("role", sorted(ROLES))
def test_a_complete_document_is_accepted_for_its_role_and_no_other(role: str) -> None:
    configuration = VmConfiguration.from_bytes(encoded(document(role)))
    assert configuration.of(role).name == role
    for other in ROLES.keys() - {role}:
        with pytest.raises(VmError, match=f"of role {role}, the image of role {other}"):
            configuration.of(other)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "outlayer/vm-config/v2"}, "format"),
        ({"role": "keeper"}, "role keeper is unknown"),
        ({"role": "coordinator"}, "takes no setting"),
        ({"extra": 1}, "extra"),
        ({"network": {"nameservers": []}}, "nameservers"),
        ({"network": {"nameservers": ["127.0.0.1"]}}, "no address of another machine"),
        ({"network": {"nameservers": ["ns.example"]}}, "nameservers"),
        ({"network": {"nameservers": ["9.9.9.9", "9.9.9.9"]}}, "twice"),
        ({"network": {"nameservers": ["9.9.9.9"], "private_endpoints": ["10.0.0.1"]}}, "ADDRESS:PORT"),
        ({"network": {"nameservers": ["9.9.9.9"], "private_endpoints": ["127.0.0.1:80"]}}, "another machine"),
        ({"network": {"nameservers": ["9.9.9.9"], "private_endpoints": ["fd00::1:80"]}}, "ADDRESS:PORT"),
        ({"network": {"nameservers": ["9.9.9.9"], "private_endpoints": ["[fe80::1%a]:80"]}}, "zone"),
        (
            {"network": {"nameservers": ["9.9.9.9"], "private_endpoints": ["1.1.1.1:80"]}},
            "is a public address",
        ),
        ({"time": {"servers": []}}, "time.servers"),
        ({"time": {}}, "time.servers"),
        ({"time": {"servers": ["time"]}}, "servers"),
        ({"time": {"servers": ["10.0.0.5"]}}, "servers"),
        ({"time": {"servers": ["127.0.0.1:4460"]}}, "another machine"),
        ({"time": {"servers": ["127.1"]}}, "servers"),
        ({"time": {"servers": ["a.example:0"]}}, "port"),
        ({"time": {"servers": ["a.example:99999"]}}, "port"),
        ({"time": {"servers": ["a.example", "a.example"]}}, "twice"),
        ({"time": {"servers": ["a.example"], "authority": "x"}}, "PEM"),
        ({"time": {"servers": ["a.example"], "authority": ""}}, "PEM"),
        ({"time": {"servers": ["a.example"], "authority": "\u00e4"}}, "PEM"),
        ({"time": {"servers": ["a.example"], "authority": "x" * 16385}}, "authority"),
        ({"time": {"servers": ["a.example"], "wait_seconds": 9}}, "wait_seconds"),
        ({"time": {"servers": ["a.example"], "wait_seconds": 3601}}, "wait_seconds"),
        ({"time": {"servers": ["a.example"], "nocerttimecheck": 1}}, "nocerttimecheck"),
        ({"time": {"servers": ["a.example nts\nserver evil.example"]}}, "servers"),
        ({"settings": {"COORDINATOR_URL": "https://a.example"}}, "needs the settings INIT_ACCOUNT_ID"),
    ],
)
def test_a_wrong_document_is_refused_by_the_field(change: dict[str, Any], words: str) -> None:
    with pytest.raises(VmError, match=words):
        VmConfiguration.from_bytes(encoded({**document("worker"), **change}))


@pytest.mark.parametrize(
    "name",
    ["LD_PRELOAD", "PYTHONPATH", "WORKER_TOKEN_FILE", "HEALTH_PORT", "DSTACK_SOCKET", "PATH", "WASM_DIR"],
)
def test_a_setting_that_could_change_what_the_image_promises_is_refused(name: str) -> None:
    value = document("worker")
    value["settings"][name] = "/tmp/x"
    with pytest.raises(VmError, match=f"takes no setting {name}"):
        VmConfiguration.from_bytes(encoded(value))


@pytest.mark.parametrize("text", ["a\nb", "a\0b", "ä", ""])
def test_a_setting_is_one_line_of_ascii(text: str) -> None:
    value = document("worker")
    value["settings"]["COORDINATOR_URL"] = text
    with pytest.raises(VmError, match="COORDINATOR_URL"):
        VmConfiguration.from_bytes(encoded(value))


def test_a_document_larger_than_what_is_measured_is_refused() -> None:
    with pytest.raises(VmError, match="bytes"):
        VmConfiguration.from_bytes(b" " * (MAX_CONFIGURATION + 1))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_document_or_a_clear_error(data: bytes) -> None:
    with pytest.raises(VmError) as caught:
        VmConfiguration.from_bytes(data)
    assert caught.value.hint


SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
TEXTS = st.text(max_size=8)


@given(st.recursive(SCALARS, lambda x: st.lists(x) | st.dictionaries(TEXTS, x), max_leaves=8))
def test_any_json_in_a_field_is_accepted_or_a_clear_error(value: Any) -> None:
    for name in ("network", "time", "settings"):
        with pytest.raises(VmError):
            VmConfiguration.from_bytes(encoded({**document("worker"), name: value}))


@given(st.ip_addresses(), st.integers(1, 65535))
def test_an_endpoint_is_read_as_it_is_written(address: Any, port: int) -> None:
    text = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
    assert Endpoint.parse(text) == Endpoint(address, port)


def test_the_digest_is_over_the_exact_bytes() -> None:
    one, two = encoded(document("worker")), json.dumps(document("worker"), indent=1).encode()
    assert VmConfiguration.from_bytes(one) == VmConfiguration.from_bytes(two)
    assert configuration_digest(one) == hashlib.sha256(one).digest() != configuration_digest(two)


@pytest.mark.parametrize("role", sorted(ROLES))
def test_plain_http_to_the_public_is_refused_in_every_setting_that_is_an_address(role: str) -> None:
    for name in ROLES[role].urls:
        for url in ("http://rpc.example", "https://rpc.example,http://1.1.1.1:3030", "http://10.0.0.6:5432"):
            value = document(role)
            value["settings"][name] = url
            with pytest.raises(VmError, match=f"{name} is plain http"):
                VmConfiguration.from_bytes(encoded(value))


def test_every_setting_that_is_an_address_is_known_as_one() -> None:
    for role in ROLES.values():
        assert role.urls == {name for name in role.needed | role.settings if name.endswith("_URL")}


def test_plain_http_to_a_listed_private_endpoint_is_accepted() -> None:
    value = document("worker")
    value["settings"]["NEAR_RPC_URL"] = "https://rpc.example,http://10.0.0.5:5432"
    VmConfiguration.from_bytes(encoded(value))


def test_the_authority_of_the_time_servers_is_of_an_authority() -> None:
    good, leaf = make_authority(), make_authority(ca=False)
    value = document("worker")
    value["time"]["authority"] = good + good
    assert VmConfiguration.from_bytes(encoded(value)).time.authority == good + good
    value["time"]["authority"] = good + leaf
    with pytest.raises(VmError, match="not of an authority"):
        VmConfiguration.from_bytes(encoded(value))


@given(st.text(max_size=40) | st.from_regex(r"[a-z0-9.:\[\]-]{1,20}", fullmatch=True))
def test_any_text_is_a_time_server_or_a_value_error(text: str) -> None:
    try:
        server = TimeServer.parse(text)
    except ValueError:
        return
    assert 0 < server.port < 65536
    # nothing that chronyd or nft would read as more than a host
    assert re.fullmatch(r"[a-z0-9.:-]+", str(server.host))


@given(st.sampled_from(["a.example", "x-y.example.net"]) | st.ip_addresses(), st.integers(1, 65535))
def test_a_time_server_is_read_as_it_is_written(host: Any, port: int) -> None:
    text = f"[{host}]:{port}" if getattr(host, "version", 4) == 6 else f"{host}:{port}"
    assert TimeServer.parse(text) == TimeServer(host, port)


REPEATED = b'{"format":"outlayer/vm-config/v1","format":"outlayer/vm-config/v1"}'


@pytest.mark.parametrize(
    "data",
    [
        REPEATED,
        encoded(document("worker")).replace(b'"servers"', b'"servers": ["b.example"], "servers"'),
        encoded(document("worker")).replace(b'"worker.example.testnet"', b'"\\ud800"'),
        json.dumps(document("worker")).encode("utf-16"),
        b"\xef\xbb\xbf" + encoded(document("worker")),
        encoded(document("worker")).replace(b"worker.example", b"worker\xff"),
        b"[" * 100_000,
    ],
    ids=["key twice", "inner key twice", "lone surrogate", "UTF-16", "byte order mark", "not UTF-8", "deep"],
)
def test_a_document_that_two_readers_could_read_differently_is_refused(data: bytes) -> None:
    with pytest.raises(VmError) as caught:
        VmConfiguration.from_bytes(data[:MAX_CONFIGURATION])
    assert caught.value.hint


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"worker-token": "hunter2", "worker-token": "x", "init-account-key": "{}"}', "a name twice"),
        (b'{"worker-token": "hunter2\\ud800", "init-account-key": "{}"}', "surrogate"),
        (b'{"worker-token\\ud800": "hunter2"}', "surrogate"),
        ('{"worker-token": "hunter2"}'.encode("utf-16"), "not UTF-8"),
        (b'{"worker-token": "hunter2\xff"}', "not UTF-8"),
        (b"[" * 60_000, "not JSON"),
    ],
)
def test_secrets_that_two_readers_could_read_differently_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(VmError, match=words) as caught:
        parse_secrets(data, ROLES["worker"])
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


def test_secrets_are_exactly_those_of_the_role() -> None:
    role = ROLES["worker"]
    good = {"worker-token": "t" * 32, "init-account-key": "{}"}
    assert parse_secrets(json.dumps(good).encode(), role) == good
    with pytest.raises(VmError, match="lacks the secrets init-account-key"):
        parse_secrets(b'{"worker-token":"x"}', role)
    with pytest.raises(VmError, match="has no secret admin-token"):
        parse_secrets(json.dumps({**good, "admin-token": "x"}).encode(), role)


@pytest.mark.parametrize(
    "data", [b'{"worker-token": "hunter2', b'["hunter2"]', b'{"worker-token": ["hunter2"]}', b'"hunter2"']
)
def test_an_error_about_secrets_shows_none(data: bytes) -> None:
    with pytest.raises(VmError) as caught:
        parse_secrets(data, ROLES["worker"])
    shown = f"{caught.value} {caught.value.hint} {caught.value.__cause__!r}"
    assert "hunter2" not in shown
