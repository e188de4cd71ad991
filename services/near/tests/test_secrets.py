# SPDX-License-Identifier: MIT
"""Access conditions, accessors and payment keys: the exact JSON of the ABI, and nothing else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlayer_near.errors import ModelError
from outlayer_near.models import (
    MAX_CONDITION_DEPTH,
    PAYMENT_KEY,
    AccountPattern,
    AllowAll,
    DaoMember,
    DepositMessage,
    Done,
    Failed,
    FtBalance,
    Logic,
    NearBalance,
    NftOwned,
    Not,
    PaymentKeyRecord,
    ProjectSecret,
    RepoSecret,
    SecretKey,
    SecretProfile,
    Success,
    SystemSecret,
    TopUpMessage,
    UserSecret,
    WasmHashSecret,
    Whitelist,
    read_accessor,
    read_condition,
    secret_list_bytes,
    secret_storage_bytes,
)

text = st.text(max_size=8)
u128 = st.integers(0, 2**128 - 1)
comparisons = st.sampled_from(["Gte", "Lte", "Gt", "Lt", "Eq", "Ne"])
accessors = st.one_of(
    st.builds(RepoSecret, repo=text, branch=st.none() | text),
    st.builds(WasmHashSecret, hash=text),
    st.builds(ProjectSecret, project_id=text),
    st.just(SystemSecret()),
)
simple_conditions = st.one_of(
    st.just(AllowAll()),
    st.builds(Whitelist, accounts=st.lists(text, max_size=3).map(tuple)),
    st.builds(AccountPattern, pattern=text),
    st.builds(NearBalance, operator=comparisons, value=u128),
    st.builds(FtBalance, contract=text, operator=comparisons, value=u128),
    st.builds(NftOwned, contract=text, token_id=st.none() | text),
    st.builds(DaoMember, dao_contract=text, role=text),
)
conditions = st.recursive(
    simple_conditions,
    lambda inner: (
        st.builds(Not, condition=inner)
        | st.builds(
            Logic, operator=st.sampled_from(["And", "Or"]), conditions=st.lists(inner, max_size=3).map(tuple)
        )
    ),
    max_leaves=6,
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Logic", "Not", "Whitelist", "operator", "conditions", "condition", "x"]), inner
        )
    ),
    max_leaves=8,
)


@given(conditions)
def test_every_condition_comes_back_from_its_json(condition):
    assert read_condition(json.loads(json.dumps(condition.to_json()))) == condition


@given(accessors)
def test_every_accessor_comes_back_from_its_json(accessor):
    assert read_accessor(json.loads(json.dumps(accessor.to_json()))) == accessor


@given(accessors, conditions, text, u128)
def test_what_the_views_show_comes_back_from_its_json(accessor, access, profile, deposit):
    common = {
        "created_at": 1,
        "updated_at": 2,
        "storage_deposit": deposit,
        "accessor": accessor,
        "access": access,
    }
    for value in (
        SecretProfile(encrypted_secrets="AQ==", **common),
        UserSecret(profile=profile, **common),
        SecretKey(accessor=accessor, profile=profile, owner="a.test"),
    ):
        assert type(value).parse(value.model_dump_json()) == value
        assert type(value).read(value.to_json()) == value


@given(anything)
def test_any_other_json_is_refused_with_a_hint_or_is_a_condition(value):
    try:
        condition = read_condition(value)
    except ModelError as error:
        assert error.hint
    else:
        assert read_condition(condition.to_json()) == condition


# outlayer.md §1.2 and A.5, word for word
EXAMPLES = [
    "AllowAll",
    {"Whitelist": {"accounts": ["a.near"]}},
    {"AccountPattern": {"pattern": ".*\\.near"}},
    {"NearBalance": {"operator": "Gte", "value": "1000000000000000000000000"}},
    {"FtBalance": {"contract": "usdc.near", "operator": "Gt", "value": "5"}},
    {"NftOwned": {"contract": "nft.near", "token_id": None}},
    {"DaoMember": {"dao_contract": "x.sputnik-dao.near", "role": "council"}},
    {
        "Logic": {
            "operator": "And",
            "conditions": [
                {"NearBalance": {"operator": "Gte", "value": "1000000000000000000000000"}},
                {"Not": {"condition": {"Whitelist": {"accounts": ["bad.near"]}}}},
            ],
        }
    },
    {"Not": {"condition": "AllowAll"}},
]


@pytest.mark.parametrize(
    "example", EXAMPLES, ids=lambda value: value if isinstance(value, str) else next(iter(value))
)
def test_the_nine_conditions_have_the_json_of_the_abi(example):
    assert read_condition(example).to_json() == example


def test_an_nft_of_any_kind_needs_no_token_id():
    assert read_condition({"NftOwned": {"contract": "nft.near"}}) == NftOwned(contract="nft.near")


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        "allowall",
        {"AllowAll": None},
        {"AllowAll": {}, "Whitelist": {"accounts": []}},
        {"Whitelist": {"accounts": "a.near"}},
        {"Whitelist": {"accounts": [], "more": 1}},
        {"NearBalance": {"operator": "gte", "value": "1"}},
        {"NearBalance": {"operator": "Gte", "value": "-1"}},
        {"Logic": {"operator": "Xor", "conditions": []}},
        {"Logic": {"operator": "And", "conditions": {"a": 1}}},
        {"Not": "Whitelist"},
        {"Not": {"condition": {"Logic": {}}}},
    ],
)
def test_what_is_no_condition_is_refused_by_name(wrong):
    with pytest.raises(ModelError, match="access condition") as refused:
        read_condition(wrong)
    assert "AllowAll" in refused.value.hint


def nested(levels: int):
    value = "AllowAll"
    for level in range(levels - 1):
        inner = {"Not": {"condition": value}}
        value = inner if level % 2 else {"Logic": {"operator": "Or", "conditions": ["AllowAll", value]}}
    return value


@pytest.mark.parametrize("levels", [MAX_CONDITION_DEPTH + 1, 2_000])
def test_conditions_deeper_than_the_limit_are_refused_before_they_are_read(levels):
    read_condition(nested(MAX_CONDITION_DEPTH))
    with pytest.raises(ModelError, match=f"at most {MAX_CONDITION_DEPTH} levels"):
        read_condition(nested(levels))


def test_accessors_have_the_json_of_the_abi():
    for accessor, expected in (
        (RepoSecret(repo="github.com/a/b"), {"Repo": {"repo": "github.com/a/b", "branch": None}}),
        (WasmHashSecret(hash="ab" * 32), {"WasmHash": {"hash": "ab" * 32}}),
        (ProjectSecret(project_id="a.near/b"), {"Project": {"project_id": "a.near/b"}}),
        (PAYMENT_KEY, {"System": "PaymentKey"}),
    ):
        assert accessor.to_json() == expected
        assert read_accessor(expected) == accessor
    for wrong in (
        {"System": "Other"},
        {"System": {}},
        "System",
        {"Repo": {}},
        {"Project": {"project_id": 1}},
    ):
        with pytest.raises(ModelError, match="accessor"):
            read_accessor(wrong)


def test_the_storage_key_is_borsh_with_the_frozen_order_of_variants():
    def key(accessor) -> str:
        return SecretKey(accessor=accessor, profile="p", owner="o").to_bytes().hex()

    tail = "0100000070" + "010000006f"
    assert key(RepoSecret(repo="r")) == "00" + "0100000072" + "00" + tail
    assert key(RepoSecret(repo="r", branch="b")) == "00" + "0100000072" + "010100000062" + tail
    assert key(WasmHashSecret(hash="h")) == "01" + "0100000068" + tail
    assert key(ProjectSecret(project_id="i")) == "02" + "0100000069" + tail
    assert key(PAYMENT_KEY) == "03" + "00" + tail


def test_storage_is_priced_by_the_bytes_of_key_ciphertext_and_condition():
    key = SecretKey(accessor=WasmHashSecret(hash="ab"), profile="1", owner="bob.near")
    assert len(key.to_bytes()) == (1 + 6) + 5 + 12
    record = 40 + (1 + 24) + (4 + 4) + 2 + 32
    item = 40 + (1 + 12 + 4) + 12
    place = 40 + (1 + 12 + 16) + 4
    assert secret_storage_bytes(key, "AQID", AllowAll()) == record + item + place
    wide = Whitelist(accounts=("a.near", "b.near"))
    assert secret_storage_bytes(key, "AQID", wide) == record + 4 + 2 * 10 + item + place
    assert secret_list_bytes("bob.near") == 40 + 1 + 12 + 8


def test_a_payment_keys_price_holds_what_a_task_of_the_longest_account_occupies():
    account, nonce, data_id = 4 + 64, 4, 32
    task = 40 + (1 + account + nonce) + (8 + 1 + 1 + data_id + 8)
    answer = 40 + (1 + data_id) + (account + nonce + 1 + 1)
    key = SecretKey(accessor=PAYMENT_KEY, profile="1", owner="bob.near")
    other = SecretKey(accessor=WasmHashSecret(hash=""), profile="1", owner="bob.near")
    # the accessor's text stands in the record's key and in the list
    more = secret_storage_bytes(key, "AQID", AllowAll()) - secret_storage_bytes(other, "AQID", AllowAll())
    assert more == task + answer - 2 * 3


# -- payment keys and what the operator answers ----------------------------------------------------------


def test_a_payment_key_record_has_its_form_and_does_not_show_the_key():
    value = {"key": "ab" * 32, "initial_balance": "1000000", "project_ids": ["a.near/b"]}
    record = PaymentKeyRecord.read(value)
    assert record.to_json() == value
    assert "ab" * 32 not in repr(record)
    assert PaymentKeyRecord.read({**value, "max_per_call": "5"}).to_json()["max_per_call"] == "5"


@pytest.mark.parametrize("key", ["AB" * 32, "ab" * 31, "ab" * 33, "", "zz" * 32, "ab" * 32 + "\n", None])
def test_a_payment_key_is_64_lower_case_hex_digits_and_a_wrong_one_is_not_shown(key):
    with pytest.raises(ModelError, match=r"PaymentKeyRecord\.key") as refused:
        PaymentKeyRecord.read({"key": key, "initial_balance": "0", "project_ids": []})
    assert not key or key not in str(refused.value)


@given(st.integers(0, 2**32 - 1), st.none() | text)
def test_transfer_messages_come_back_from_their_json(nonce, owner):
    message = TopUpMessage(nonce=nonce, owner=owner)
    assert TopUpMessage.read(json.loads(json.dumps(message.to_json()))) == message
    assert message.to_json()["action"] == "top_up_payment_key"
    assert DepositMessage().to_json() == {"action": "deposit_balance"}
    with pytest.raises(ModelError):
        DepositMessage.read(message.to_json())


def test_results_of_system_tasks_have_the_json_of_the_abi():
    assert Success(new_encrypted_data="AQ==").to_json() == {"Success": {"new_encrypted_data": "AQ=="}}
    assert Done().to_json() == "Success"
    assert Failed(message="no").to_json() == {"Error": {"message": "no"}}
