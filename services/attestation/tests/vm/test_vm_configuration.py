# SPDX-License-Identifier: MIT
"""The configuration document: what it refuses, and that errors never show a secret."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlayer_attestation.errors import VmError
from outlayer_attestation.measure.runtime import MAX_CONFIGURATION
from outlayer_attestation.vm.configuration import (
    Endpoint,
    VmConfiguration,
    configuration_digest,
    parse_secrets,
)
from outlayer_attestation.vm.roles import ROLES

from .documents import document, encoded


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
        ({"time": {"servers": ["time"]}}, "servers"),
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
