# SPDX-License-Identifier: MIT
"""Credentials files and NEP-413 messages."""

from __future__ import annotations

import base64
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlayer_near.credentials import Credentials, load_credentials, save_credentials
from outlayer_near.errors import CredentialsError, NearError, SignatureError
from outlayer_near.nep413 import FRESH_SECONDS, SignedMessage, check_signature, sign_message, timed_nonce
from outlayer_near.primitives import KeyPair

KEY = KeyPair(bytes(range(32)))
RECIPIENT = "127.0.0.1:8080"


# -- credentials ---------------------------------------------------------------------------------------


def test_saved_credentials_are_loaded_again_and_are_their_owners_alone(tmp_path):
    path = tmp_path / "localnet" / "alice.json"
    save_credentials(path, Credentials("alice.test", KEY))
    assert load_credentials(path) == Credentials("alice.test", KEY)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [item.name for item in path.parent.iterdir()] == ["alice.json"]


def test_saving_again_replaces_the_file_and_its_mode(tmp_path):
    path = tmp_path / "alice.json"
    path.write_text("old")
    path.chmod(0o644)
    save_credentials(path, Credentials("alice.test", KEY))
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_credentials(path).account_id == "alice.test"


@pytest.mark.parametrize("name", ["private_key", "secret_key"])
def test_files_of_other_tools_are_read(tmp_path, name):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"account_id": "a.test", name: KEY.secret, "seed_phrase_hd_path": "m/44'"}))
    assert load_credentials(path).key_pair == KEY


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"account_id": 5, "private_key": "x"}',
        json.dumps({"account_id": "a.test"}),
        json.dumps({"account_id": "a.test", "private_key": "ed25519:secretsecret0"}),
        json.dumps(
            {
                "account_id": "a.test",
                "private_key": KEY.secret,
                "public_key": str(KeyPair(bytes(32)).public_key),
            }
        ),
    ],
)
def test_an_unusable_file_is_told_without_showing_its_key(tmp_path, content):
    path = tmp_path / "c.json"
    path.write_text(content)
    with pytest.raises(CredentialsError) as caught:
        load_credentials(path)
    shown = f"{caught.value} {caught.value.hint} {caught.value.__cause__}"
    assert KEY.secret not in shown
    assert "secretsecret0" not in shown


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(CredentialsError):
        load_credentials(tmp_path / "none.json")


def test_a_binary_file_is_told(tmp_path):
    path = tmp_path / "c.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CredentialsError):
        load_credentials(path)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=70),
        lambda inner: st.dictionaries(
            st.sampled_from(["account_id", "private_key", "public_key"]), inner, max_size=3
        ),
        max_leaves=5,
    )
)
def test_any_json_is_credentials_or_an_error_of_ours(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("c") / "c.json"
    path.write_text(json.dumps(value))
    with pytest.raises(CredentialsError):
        load_credentials(path)


# -- messages ------------------------------------------------------------------------------------------


def test_a_signed_message_holds_for_its_text_and_recipient_only():
    signed = sign_message("alice.test", KEY, "upload ab", RECIPIENT)
    now = time.time()
    check_signature(signed, "upload ab", RECIPIENT, now)
    for text, recipient in (("upload ac", RECIPIENT), ("upload ab", "other:8080"), ("", RECIPIENT)):
        with pytest.raises(SignatureError, match="does not belong"):
            check_signature(signed, text, recipient, now)


def test_a_message_of_another_key_does_not_hold():
    signed = sign_message("alice.test", KEY, "m", RECIPIENT)
    other = str(KeyPair(bytes(32)).public_key)
    forged = SignedMessage("alice.test", other, signed.nonce, signed.signature)
    with pytest.raises(SignatureError):
        check_signature(forged, "m", RECIPIENT, time.time())


@pytest.mark.parametrize(
    ("shift", "good"),
    [(0, True), (FRESH_SECONDS - 2, True), (FRESH_SECONDS + 2, False), (-FRESH_SECONDS - 2, False)],
)
def test_a_message_holds_for_five_minutes_in_both_directions(shift, good):
    signed = sign_message("alice.test", KEY, "m", RECIPIENT)
    now = time.time() + shift
    if good:
        check_signature(signed, "m", RECIPIENT, now)
    else:
        with pytest.raises(SignatureError, match="signed"):
            check_signature(signed, "m", RECIPIENT, now)


def test_nonces_carry_their_time_and_never_repeat():
    nonces = {timed_nonce(1000.5) for _ in range(100)}
    assert len(nonces) == 100
    assert {int.from_bytes(nonce[:8], "big") for nonce in nonces} == {1_000_500}
    assert {len(nonce) for nonce in nonces} == {32}


@given(st.integers(0, 95), st.integers(0, 7))
def test_a_flipped_bit_in_nonce_or_signature_is_found(position, bit):
    signed = sign_message("alice.test", KEY, "m", RECIPIENT)
    data = bytearray(base64.b64decode(signed.nonce) + base64.b64decode(signed.signature))
    data[position] ^= 1 << bit
    changed = SignedMessage(
        "alice.test",
        signed.public_key,
        base64.b64encode(data[:32]).decode(),
        base64.b64encode(data[32:]).decode(),
    )
    with pytest.raises(SignatureError):
        check_signature(changed, "m", RECIPIENT, time.time())


@given(
    st.text(max_size=100),
    st.text(max_size=50),
    st.text(max_size=100),
    st.sampled_from(["ed25519", "secp256k1"]),
)
def test_any_headers_are_a_refusal_of_ours(public_key, nonce, signature, curve):
    good = sign_message("alice.test", KEY, "m", RECIPIENT)
    for signed in (
        SignedMessage("a", public_key, nonce, signature),
        SignedMessage("a", f"{curve}:{public_key}", good.nonce, good.signature),
        SignedMessage("a", good.public_key, good.nonce, signature),
        SignedMessage("a", good.public_key, nonce, good.signature),
    ):
        with pytest.raises(NearError):
            check_signature(signed, "m", RECIPIENT, time.time())


def test_a_secp256k1_key_is_refused_without_a_crash():
    good = sign_message("alice.test", KEY, "m", RECIPIENT)
    from outlayer_near.primitives import SECP256K1, PublicKey

    public_key = str(PublicKey(SECP256K1, bytes(range(64))))
    with pytest.raises(NearError):
        check_signature(
            SignedMessage("a", public_key, good.nonce, good.signature), "m", RECIPIENT, time.time()
        )
