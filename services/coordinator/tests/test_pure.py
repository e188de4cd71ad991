# SPDX-License-Identifier: MIT
"""Parsers and decisions without I/O."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlayer_coordinator.call_request import (
    LARGEST_LIMITS,
    check_project_id,
    compact_json,
    parse_body,
    parse_money,
    parse_payment_key,
    splice_output,
)
from outlayer_coordinator.completion import join_proof, parse_report, split_proof
from outlayer_coordinator.config import Settings
from outlayer_coordinator.errors import ApiError, ConfigError, MigrationError
from outlayer_coordinator.migrate import Migration, load_migrations, pending

TEXT = st.text(st.characters(codec="utf-8"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(JSON, st.booleans(), st.sampled_from([None, 2]))
def test_the_input_means_the_same_and_is_compact(value: Any, ascii_only: bool, indent: int | None) -> None:
    body = json.dumps({"async": True, "input": value}, ensure_ascii=ascii_only, indent=indent)
    found = parse_body(body.encode())
    assert found.asynchronous
    assert found.input.decode() == json.dumps(value, separators=(",", ":"), ensure_ascii=False)


@given(JSON)
def test_compacting_twice_changes_nothing(value: Any) -> None:
    once = compact_json(json.dumps(value, indent=1))
    assert compact_json(once.decode()) == once


@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a":', "}")])
def test_nesting_has_a_limit_of_its_own_whatever_the_recursion_limit_is(opened: str, closed: str) -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000_000)
    try:
        for levels in (512, 2_000_000):
            with pytest.raises(ApiError, match="deeper than 512 levels"):
                parse_body(b'{"input":' + opened.encode() * levels)
    finally:
        sys.setrecursionlimit(limit)
    deep = opened * 511 + "1" + closed * 511
    assert parse_body(f'{{"input":{deep}}}'.encode()).input.decode() == deep


def test_brackets_in_strings_are_no_levels() -> None:
    text = json.dumps(["[" * 10_000, '"[{' * 1_000], separators=(",", ":"))
    assert parse_body(f'{{"input":{text}}}'.encode()).input.decode() == text


@given(st.binary(max_size=200) | TEXT.map(str.encode) | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_body_does_anything_but_parse_or_400(body: bytes) -> None:
    try:
        found = parse_body(body)
    except ApiError as error:
        assert error.status == 400
    else:
        json.loads(found.input)
        assert 1 <= found.limits.max_memory_mb <= LARGEST_LIMITS.max_memory_mb


MEMBERS = st.fixed_dictionaries(
    {"input": JSON},
    optional={
        "async": JSON,
        "resource_limits": JSON,
        "version_key": JSON,
        "secrets_ref": JSON,
        "other": JSON,
    },
)


@given(MEMBERS)
def test_members_of_any_kind_parse_or_are_400(value: dict[str, Any]) -> None:
    try:
        found = parse_body(json.dumps(value).encode())
    except ApiError as error:
        assert error.status == 400
    else:
        assert type(found.asynchronous) is bool


@given(st.text(max_size=150))
def test_no_payment_key_header_does_anything_but_parse_401_or_400(header: str) -> None:
    try:
        claim = parse_payment_key(header)
    except ApiError as error:
        assert error.status in (400, 401)
    else:
        assert len(claim.key_hash) == 64


@given(st.text(max_size=30), st.integers(0, 10**15))
def test_an_amount_is_digits_or_the_default(header: str, default: int) -> None:
    found = parse_money(header, default)
    assert 0 <= found <= 10**15
    if not (header.isascii() and header.isdigit() and len(header) <= 20):
        assert found == default


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_an_answer_is_always_json_whatever_the_guest_wrote(output: bytes) -> None:
    value = json.loads(splice_output(output).decode("utf-8", "surrogatepass"))
    try:
        expected = orjson.loads(output)
    except orjson.JSONDecodeError:
        assert value == output.decode("utf-8", "replace")
    else:
        assert value == expected or value == json.loads(output)


COMPLETION = st.fixed_dictionaries(
    {},
    optional={
        "job_id": st.uuids().map(str) | JSON,
        "attempt": st.integers() | JSON,
        "success": st.booleans() | JSON,
        "output_base64": JSON,
        "error": JSON,
        "error_category": JSON,
        "instructions": st.integers() | JSON,
        "time_ms": st.integers() | JSON,
        "refund_usd": JSON,
        "record": JSON,
        "leaf_index": JSON,
        "inclusion_proof": JSON,
    },
)
REPORT = st.fixed_dictionaries(
    {}, optional={"batch": JSON, "completions": st.lists(COMPLETION, max_size=3) | JSON}
)


@given(st.binary(max_size=100) | REPORT.map(lambda value: json.dumps(value).encode()))
def test_no_report_does_anything_but_parse_or_400(body: bytes) -> None:
    try:
        report = parse_report(body)
    except ApiError as error:
        assert error.status == 400
    else:
        assert report.completions


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=8))
def test_a_proof_comes_back_as_it_was_stored(proof: list[bytes]) -> None:
    assert split_proof(join_proof(proof)) == [item.hex() for item in proof]


@pytest.mark.parametrize(
    ("owner", "project"), [("alice.test", ""), ("alice.test", "a/b"), ("A", "x"), ("a.b", "\n")]
)
def test_r3_a_project_id_holds_exactly_one_slash(owner: str, project: str) -> None:
    with pytest.raises(ApiError):
        check_project_id(owner, project)


def test_a_number_keeps_its_spelling() -> None:
    assert parse_body(b'{"input": [1.0, 1e5, -0, 123456789012345678901234567890]}').input == (
        b"[1.0,1e5,-0,123456789012345678901234567890]"
    )


# --- settings --------------------------------------------------------------------------------------------------


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    token = tmp_path / "admin.token"
    token.write_text("a secret of the administrator\n")
    return {
        "DATABASE_URL": "postgresql://u:secretpassword@h/d",
        "REDIS_URL": "redis://:secretpassword@h",
        "NEAR_RPC_URL": "http://rpc",
        "NEAR_NETWORK_ID": "localnet",
        "OUTLAYER_CONTRACT_ID": "outlayer.test",
        "OPERATOR_ACCOUNT_ID": "worker.outlayer.test",
        "PUBLIC_BASE_URL": "http://127.0.0.1:8080/",
        "ADMIN_TOKEN_FILE": str(token),
        "WASM_DIR": str(tmp_path),
    }


def test_settings_come_from_the_environment(env: dict[str, str]) -> None:
    settings = Settings.from_env({**env, "LEASE_SECONDS": "2.5", "COORDINATOR_SIMULATED": "1"})
    assert settings.lease_seconds == 2.5
    assert settings.simulated
    assert settings.public_base_url == "http://127.0.0.1:8080"
    assert settings.nep413_recipient == "127.0.0.1:8080"
    assert settings.admin_token == "a secret of the administrator"


def test_settings_show_no_secret(env: dict[str, str]) -> None:
    text = repr(Settings.from_env(env))
    assert "secret" not in text


def test_a_missing_or_wrong_setting_is_named(env: dict[str, str]) -> None:
    for name in env:
        with pytest.raises(ConfigError, match=name):
            Settings.from_env({key: value for key, value in env.items() if key != name})
    for name, value in {
        "PORT": "x",
        "LEASE_SECONDS": "-1",
        "MAX_ATTEMPTS": "0",
        "STUCK_CALL_SECONDS": "nan",
    }.items():
        with pytest.raises(ConfigError, match=name):
            Settings.from_env({**env, name: value})


# --- migrations ------------------------------------------------------------------------------------------------


def test_pending_migrations_are_those_that_did_not_run() -> None:
    one, two = Migration(1, "0001_a.sql", "A"), Migration(2, "0002_b.sql", "B")
    assert pending((one, two), {}) == (one, two)
    assert pending((one, two), {1: one.sha256}) == (two,)
    with pytest.raises(MigrationError, match=r"0001_a\.sql differs"):
        pending((one, two), {1: two.sha256})
    with pytest.raises(MigrationError, match="does not know"):
        pending((one,), {1: one.sha256, 2: two.sha256})


def test_the_migrations_are_numbered_without_a_gap() -> None:
    assert [migration.number for migration in load_migrations()] == list(range(1, len(load_migrations()) + 1))
