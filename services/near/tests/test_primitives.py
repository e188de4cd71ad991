# SPDX-License-Identifier: MIT
"""Wire types: a vector checked by hand, nearcore's own encoder as oracle, and hostile bytes."""

from __future__ import annotations

import hashlib

import py_near_primitives as oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outlayer_near import primitives as p
from outlayer_near.errors import CodecError

SEED = bytes(range(32))
KEY = p.KeyPair(SEED)

# -- strategies ------------------------------------------------------------------------------------

u64 = st.integers(0, 2**64 - 1)
u128 = st.integers(0, 2**128 - 1)
account_ids = st.from_regex(r"[a-z0-9]{2,20}([-_.][a-z0-9]{1,9}){0,3}", fullmatch=True)
texts = st.text(max_size=30)
public_keys = st.one_of(
    st.binary(min_size=32, max_size=32).map(lambda b: p.PublicKey(p.ED25519, b)),
    st.binary(min_size=64, max_size=64).map(lambda b: p.PublicKey(p.SECP256K1, b)),
)
signatures = st.one_of(
    st.binary(min_size=64, max_size=64).map(lambda b: p.Signature(p.ED25519, b)),
    st.binary(min_size=65, max_size=65).map(lambda b: p.Signature(p.SECP256K1, b)),
)
permissions = st.one_of(
    st.just(p.FullAccess()),
    st.builds(
        p.FunctionCallPermission,
        texts,
        st.lists(texts, max_size=4).map(tuple),
        st.none() | u128,
    ),
)
access_keys = st.builds(p.AccessKey, u64, permissions)
plain_actions = st.one_of(
    st.just(p.CreateAccount()),
    st.builds(p.DeployContract, st.binary(max_size=60)),
    st.builds(p.FunctionCall, texts, st.binary(max_size=60), u64, u128),
    st.builds(p.Transfer, u128),
    st.builds(p.Stake, u128, public_keys),
    st.builds(p.AddKey, public_keys, access_keys),
    st.builds(p.DeleteKey, public_keys),
    st.builds(p.DeleteAccount, account_ids),
    st.builds(p.DeployGlobalContract, st.binary(max_size=60), st.booleans()),
    st.binary(min_size=32, max_size=32).map(lambda h: p.UseGlobalContract(code_hash=h)),
    account_ids.map(lambda a: p.UseGlobalContract(account_id=a)),
)
delegates = st.builds(
    p.Delegate,
    st.builds(
        p.DelegateAction,
        account_ids,
        account_ids,
        st.lists(plain_actions, max_size=3).map(tuple),
        u64,
        u64,
        public_keys,
    ),
    signatures,
)
actions = plain_actions | delegates
transactions = st.builds(
    p.Transaction,
    account_ids,
    public_keys,
    u64,
    account_ids,
    st.binary(min_size=32, max_size=32),
    st.lists(actions, max_size=4).map(tuple),
)
signed_transactions = st.builds(p.SignedTransaction, transactions, signatures)


def sample_transaction() -> p.Transaction:
    permission = p.FunctionCallPermission("app.near", ("a", "b"), 10**24)
    return p.Transaction(
        signer_id="alice.near",
        public_key=KEY.public_key,
        nonce=7,
        receiver_id="app.near",
        block_hash=bytes(32),
        actions=(
            p.FunctionCall("set", b'{"a":1}', 30 * 10**12, 1),
            p.Transfer(5),
            p.AddKey(KEY.public_key, p.AccessKey(0, permission)),
            p.DeployContract(b"\0asm"),
        ),
    )


# -- known values ----------------------------------------------------------------------------------


def test_known_transaction_has_its_known_hash_and_size():
    transaction = sample_transaction()
    assert p.b58encode(transaction.hash()) == "6CQVBBS4KsX94mD9zACHyWBWNFCkw7Ad4EKVnys7dCEv"
    signed = transaction.sign(KEY)
    assert len(signed.to_bytes()) == 323
    assert signed.verify()
    assert p.SignedTransaction.from_bytes(signed.to_bytes()) == signed


def test_full_access_key_encodes_to_nine_bytes():
    assert p.AccessKey().to_bytes() == bytes(8) + b"\x01"


def test_nep413_hash_covers_the_tag_and_every_field():
    payload = (
        (2**31 + 413).to_bytes(4, "little")
        + b"\x02\x00\x00\x00hi"
        + bytes(32)
        + b"\x03\x00\x00\x00app"
        + b"\x01\x01\x00\x00\x00u"
    )
    assert p.nep413_hash("hi", bytes(32), "app", "u") == hashlib.sha256(payload).digest()
    without = p.nep413_hash("hi", bytes(32), "app")
    assert without == hashlib.sha256(payload[:-6] + b"\x00").digest()


def test_nep413_nonce_must_be_32_bytes():
    with pytest.raises(CodecError, match="32 bytes"):
        p.nep413_hash("hi", bytes(31), "app")


# -- against nearcore's encoder --------------------------------------------------------------------

oracle_actions = st.one_of(
    st.just((p.CreateAccount(), oracle.CreateAccountAction())),
    st.binary(max_size=60).map(lambda c: (p.DeployContract(c), oracle.DeployContractAction(c))),
    st.tuples(texts, st.binary(max_size=60), u64, u128).map(
        lambda t: (p.FunctionCall(*t), oracle.FunctionCallAction(*t))
    ),
    u128.map(lambda d: (p.Transfer(d), oracle.TransferAction(d))),
    u128.map(lambda d: (p.Stake(d, KEY.public_key), oracle.StakeAction(d, KEY.public_key.data))),
    st.tuples(u64, texts, st.lists(texts, max_size=3), st.none() | u128).map(
        lambda t: (
            p.AddKey(KEY.public_key, p.AccessKey(t[0], p.FunctionCallPermission(t[1], tuple(t[2]), t[3]))),
            oracle.AddKeyAction(
                KEY.public_key.data, oracle.AccessKey(t[0], oracle.FunctionCallPermission(t[1], t[2], t[3]))
            ),
        )
    ),
    u64.map(
        lambda n: (
            p.AddKey(KEY.public_key, p.AccessKey(n, p.FullAccess())),
            oracle.AddKeyAction(
                KEY.public_key.data, oracle.AccessKey(n, oracle.AccessKeyPermissionFieldless.FullAccess)
            ),
        )
    ),
    st.just((p.DeleteKey(KEY.public_key), oracle.DeleteKeyAction(KEY.public_key.data))),
    account_ids.map(lambda a: (p.DeleteAccount(a), oracle.DeleteAccountAction(a))),
)


@settings(max_examples=60)
@given(
    account_ids, account_ids, u64, st.binary(min_size=32, max_size=32), st.lists(oracle_actions, max_size=5)
)
def test_signed_transaction_equals_nearcores_bytes(signer, receiver, nonce, block_hash, pairs):
    ours = p.Transaction(
        signer, KEY.public_key, nonce, receiver, block_hash, tuple(mine for mine, _ in pairs)
    )
    theirs = oracle.Transaction(
        signer, KEY.public_key.data, nonce, receiver, block_hash, [their for _, their in pairs]
    )
    signed = bytes(theirs.to_vec(SEED + KEY.public_key.data))
    assert ours.sign(KEY).to_bytes() == signed
    decoded = p.SignedTransaction.from_bytes(signed)
    assert decoded.transaction == ours
    assert decoded.verify()


@settings(max_examples=60)
@given(account_ids, account_ids, u64, u64, st.lists(oracle_actions, max_size=4))
def test_delegate_hash_equals_nearcores(sender, receiver, nonce, max_height, pairs):
    ours = p.DelegateAction(
        sender, receiver, tuple(mine for mine, _ in pairs), nonce, max_height, KEY.public_key
    )
    theirs = oracle.DelegateAction(
        sender, receiver, [their for _, their in pairs], nonce, max_height, KEY.public_key.data
    )
    assert p.delegate_hash(ours) == bytes(theirs.get_nep461_hash())
    assert ours.to_bytes() == bytes(theirs.serialize())


# -- round trips and hostile input -----------------------------------------------------------------


@settings(max_examples=60)
@given(signed_transactions)
def test_transactions_survive_a_round_trip(signed):
    assert p.SignedTransaction.from_bytes(signed.to_bytes()) == signed
    assert p.Transaction.from_bytes(signed.transaction.to_bytes()) == signed.transaction


@given(actions)
def test_actions_survive_a_round_trip(action):
    assert p.decode_action(p.encode_action(action)) == action


@given(access_keys)
def test_access_keys_survive_a_round_trip(key):
    assert p.AccessKey.from_bytes(key.to_bytes()) == key


@given(public_keys)
def test_public_keys_survive_text_and_borsh(key):
    assert p.PublicKey.parse(str(key)) == key
    assert p.PublicKey.from_bytes(key.to_bytes()) == key


@given(signatures)
def test_signatures_survive_text(signature):
    assert p.Signature.parse(str(signature)) == signature


def _decode_everything(data: bytes) -> None:
    for decode in (
        p.SignedTransaction.from_bytes,
        p.Transaction.from_bytes,
        p.decode_action,
        p.AccessKey.from_bytes,
        p.PublicKey.from_bytes,
    ):
        try:
            value = decode(data)
        except CodecError:
            continue
        again = p.encode_action(value) if decode is p.decode_action else value.to_bytes()
        assert again == data  # one value has one encoding


@given(st.binary(max_size=300))
def test_arbitrary_bytes_decode_canonically_or_raise_a_codec_error(data):
    _decode_everything(data)


@settings(max_examples=60)
@given(signed_transactions, st.data())
def test_damaged_transactions_decode_canonically_or_raise_a_codec_error(signed, data):
    raw = bytearray(signed.to_bytes())
    index = data.draw(st.integers(0, len(raw) - 1))
    raw[index] = data.draw(st.integers(0, 255))
    _decode_everything(bytes(raw))
    _decode_everything(bytes(raw[:index]))


@given(st.text(max_size=120))
def test_arbitrary_text_as_key_or_hash_raises_only_codec_errors(text):
    for parse in (
        p.PublicKey.parse,
        p.Signature.parse,
        p.KeyPair.from_secret,
        p.b58decode,
        p.decode_hash,
        lambda t: p.KeyPair.from_secret("ed25519:" + t),
    ):
        try:
            parse(text)
        except CodecError as error:
            assert error.message


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\x0b", "unsupported action tag 11"),
        (b"\xff", "unsupported action tag 255"),
        (b"\x00\x00", "trailing"),
        (b"\x09\x00\x00\x00\x00\x02", "expected 0 or 1"),
        (b"\x0a\x02" + bytes(32), "expected 0 or 1"),
        (b"\x06\x02" + bytes(64), "public key type 2"),
        (b"\x05\x00" + bytes(32) + bytes(8) + b"\x02", "permission 2"),
        (b"\x05\x00" + bytes(32) + bytes(8) + b"\x00\x02", "expected 0 or 1"),
        (b"\x07\x02\x00\x00\x00A.", "not a valid account id"),
        (b"\x02\x01\x00\x00\x00\xff" + bytes(28), "not UTF-8"),
        (b"\x01\xff\xff\xff\xff", "input ends"),
    ],
)
def test_malformed_actions_are_refused_with_the_reason(raw, reason):
    with pytest.raises(CodecError, match=reason):
        p.decode_action(raw)


def test_a_delegate_inside_a_delegate_is_refused():
    inner = p.DelegateAction("a1", "b1", (), 1, 1, KEY.public_key)
    nested = p.Delegate(inner, KEY.sign(b""))
    outer = p.DelegateAction("a1", "b1", (nested,), 1, 1, KEY.public_key)
    with pytest.raises(CodecError, match="another"):
        outer.to_bytes()
    one = p.encode_u32(1)
    raw = b"\x08" + inner.to_bytes().replace(p.encode_u32(0), one + p.encode_action(nested), 1)
    with pytest.raises(CodecError):
        p.decode_action(raw)


def test_a_huge_vector_length_is_refused_without_allocating():
    raw = sample_transaction().to_bytes()
    head = raw[: 4 + 10 + 33 + 8 + 4 + 8 + 32]
    with pytest.raises(CodecError, match="cannot fit"):
        p.Transaction.from_bytes(head + b"\xff\xff\xff\xff")


def test_a_versioned_transaction_is_named_as_such():
    with pytest.raises(CodecError, match="version 0"):
        p.SignedTransaction.from_bytes(b"\x01" + sample_transaction().sign(KEY).to_bytes())


@pytest.mark.parametrize("value", [-1, 2**128])
def test_amounts_outside_their_range_are_refused(value):
    with pytest.raises(CodecError, match="128"):
        p.encode_action(p.Transfer(value))


# -- keys ------------------------------------------------------------------------------------------


def test_secret_keys_load_from_64_bytes_and_from_the_seed_alone():
    long = p.KeyPair.from_secret(KEY.secret)
    short = p.KeyPair.from_secret("ed25519:" + p.b58encode(SEED))
    assert long == short == KEY
    assert long.public_key == KEY.public_key


def test_a_secret_whose_halves_disagree_is_refused():
    with pytest.raises(CodecError, match="does not belong"):
        p.KeyPair.from_secret("ed25519:" + p.b58encode(SEED + bytes(32)))


def test_a_key_pair_does_not_show_its_secret():
    text = f"{KEY!r} {KEY}"
    assert KEY.secret.removeprefix("ed25519:") not in text
    with pytest.raises(CodecError) as caught:
        p.KeyPair.from_secret(KEY.secret + "0")
    assert KEY.secret.removeprefix("ed25519:") not in str(caught.value)


def test_an_unprefixed_public_key_is_ed25519():
    assert p.PublicKey.parse(str(KEY.public_key).removeprefix("ed25519:")) == KEY.public_key


@given(st.binary(max_size=80), st.integers(0, 511))
def test_a_signature_covers_every_bit_of_message_and_signature(message, bit):
    signature = KEY.sign(message)
    assert KEY.public_key.verify(message, signature)
    flipped = bytearray(signature.data)
    flipped[bit // 8] ^= 1 << bit % 8
    assert not KEY.public_key.verify(message, p.Signature(p.ED25519, bytes(flipped)))
    assert not KEY.public_key.verify(message + b"x", signature)


def test_secp256k1_signatures_verify_and_high_s_is_refused():
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature

    private = ec.derive_private_key(12345, ec.SECP256K1())
    numbers = private.public_key().public_numbers()
    key = p.PublicKey(p.SECP256K1, numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big"))
    digest = hashlib.sha256(b"message").digest()
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    r, s = decode_dss_signature(private.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256()))))
    low, high = min(s, order - s), max(s, order - s)

    def signature(value: int) -> p.Signature:
        return p.Signature(p.SECP256K1, r.to_bytes(32, "big") + value.to_bytes(32, "big") + b"\0")

    assert key.verify(digest, signature(low))
    assert not key.verify(digest, signature(high))
    assert not key.verify(hashlib.sha256(b"other").digest(), signature(low))
    assert not key.verify(digest, KEY.sign(digest))


# -- account ids and base58 ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "account_id",
    ["aa", "a-a", "a-aa", "100", "0o", "com", "near", "bowen", "b-o_w_e-n", "b.owen", "bro.wen", "a.ha",
     "a.b-a.ra", "system", "over.9000", "google.com", "illia.cheapaccounts.near", "0o0ooo00oo00o",
     "alex-skidanov", "10-4.8-2", "b-o_w_e-n", "no_lols", "0123456789" * 6 + "0123", "near.a"],
)  # fmt: skip
def test_valid_account_ids_are_accepted(account_id):
    assert p.is_valid_account_id(account_id)


@pytest.mark.parametrize(
    "account_id",
    ["", "a", "A", "Abc", "-near", "near-", "-near-", "near.", ".near", "near@", "@near", "неар", "_____",
     "0__0", "0_-_0", "0_-_0", "..", "a..near", "nEar", "_bowen", "hello world", "aa\n", "٣٣", "a.-b",
     "0123456789" * 6 + "01234", "abcdefghijklmnopqrstuvwxyz.abcdefghijklmnopqrstuvwxyz.abcdefghijklmn"],
)  # fmt: skip
def test_invalid_account_ids_are_refused(account_id):
    assert not p.is_valid_account_id(account_id)


@given(st.binary(max_size=80))
def test_base58_survives_a_round_trip(data):
    assert p.b58decode(p.b58encode(data)) == data


@pytest.mark.parametrize("text", ["0", "O", "I", "l", "ab c", " ab", "ab\n", "é"])
def test_base58_refuses_foreign_characters(text):
    with pytest.raises(CodecError, match="base58"):
        p.b58decode(text)


def test_a_hash_must_be_exactly_32_bytes():
    with pytest.raises(CodecError, match="expected 32"):
        p.decode_hash(p.b58encode(bytes(31)))
