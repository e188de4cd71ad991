# SPDX-License-Identifier: MIT
"""Function-call access keys: what they may do, and how their allowance is spent and restored."""

from __future__ import annotations

import pytest

from outlayer_localnet.testing import NEAR, TGAS, Localnet, RpcFailedError, TestAccount
from outlayer_near.primitives import (
    AccessKey,
    AddKey,
    DeleteKey,
    FunctionCall,
    FunctionCallPermission,
    KeyPair,
    PublicKey,
    Transfer,
)


def limited_key(
    net: Localnet,
    account: TestAccount,
    *methods: str,
    allowance: int | None = NEAR,
    receiver: str = "app.test",
) -> TestAccount:
    key = KeyPair.generate()
    permission = FunctionCallPermission(receiver, methods, allowance)
    added = net.send(account, account.account_id, [AddKey(key.public_key, AccessKey(0, permission))])
    assert added.failure is None
    return TestAccount(account.account_id, key)


def key_error(error: pytest.ExceptionInfo[RpcFailedError]) -> object:
    return error.value.error["data"]["TxExecutionError"]["InvalidTxError"]["InvalidAccessKeyError"]


def allowance(net: Localnet, account: TestAccount) -> int:
    view = net.query("view_access_key", account_id=account.account_id, public_key=str(account.key.public_key))
    return int(view["permission"]["FunctionCall"]["allowance"])


def test_the_allowance_is_debited_in_full_and_gets_the_gas_refund_back(net: Localnet, app: TestAccount):
    alice = limited_key(net, net.create_account("alice.test"))
    before = net.balance("alice.test")
    result = net.call(alice, "app.test", "noop", b"", gas=100 * TGAS)
    burnt = result.tokens_burnt
    assert 0 < burnt < NEAR // 100
    assert allowance(net, alice) == NEAR - burnt
    assert net.balance("alice.test") == before - burnt


def test_an_allowance_below_the_gas_price_of_the_call_is_refused(net: Localnet, app: TestAccount):
    alice = limited_key(net, net.create_account("alice.test"), allowance=NEAR // 100)
    with pytest.raises(RpcFailedError) as error:
        net.call(alice, "app.test", "noop", b"", gas=100 * TGAS)
    body = key_error(error)["NotEnoughAllowance"]
    assert body["allowance"] == str(NEAR // 100)
    assert int(body["cost"]) > 10**9 * 100 * TGAS


@pytest.mark.parametrize(
    ("receiver", "actions", "error"),
    [
        ("app.test", [Transfer(1)], "RequiresFullAccess"),
        (
            "app.test",
            [FunctionCall("noop", b"", TGAS), FunctionCall("noop", b"", TGAS)],
            "RequiresFullAccess",
        ),
        ("app.test", [FunctionCall("noop", b"", TGAS, 1)], "DepositWithFunctionCall"),
        (
            "near",
            [FunctionCall("noop", b"", TGAS)],
            {"ReceiverMismatch": {"tx_receiver": "near", "ak_receiver": "app.test"}},
        ),
        (
            "app.test",
            [FunctionCall("fail", b"", TGAS)],
            {"MethodNameMismatch": {"method_name": "fail"}},
        ),
    ],
)
def test_a_limited_key_may_do_nothing_else(net: Localnet, receiver, actions, error):
    alice = limited_key(net, net.create_account("alice.test"), "noop", "echo")
    with pytest.raises(RpcFailedError) as caught:
        net.send(alice, receiver, actions)
    assert key_error(caught) == error


def test_a_key_without_method_names_may_call_any_method(net: Localnet, app: TestAccount):
    alice = limited_key(net, net.create_account("alice.test"), allowance=None)
    assert net.call(alice, "app.test", "echo", b"hi").value == b"hi"


def test_keys_cannot_be_added_twice_or_deleted_when_absent(net: Localnet):
    alice = net.create_account("alice.test")
    own = alice.key.public_key
    twice = net.send(alice, "alice.test", [AddKey(own, AccessKey())])
    names = {"account_id": "alice.test", "public_key": str(own)}
    assert twice.failure["ActionError"]["kind"] == {"AddKeyAlreadyExists": names}
    missing = net.send(alice, "alice.test", [DeleteKey(PublicKey(0, bytes(32)))])
    assert list(missing.failure["ActionError"]["kind"]) == ["DeleteKeyDoesNotExist"]


def test_a_keys_storage_is_counted_and_given_back(net: Localnet):
    alice = net.create_account("alice.test")
    extra = limited_key(net, alice, "ab", "c", allowance=None)
    # nonce 8, tag 1, no allowance 1, receiver 4+8, names 4 + (4+2) + (4+1); key 33; record 40
    used = 8 + 1 + 1 + 12 + 4 + 6 + 5 + 33 + 40
    assert net.account("alice.test")["storage_usage"] == 182 + used
    net.send(alice, "alice.test", [DeleteKey(extra.key.public_key)])
    assert net.account("alice.test")["storage_usage"] == 182


def test_keys_are_listed_in_the_order_of_their_bytes(net: Localnet):
    alice = net.create_account("alice.test")
    for _ in range(4):
        limited_key(net, alice)
    listed = [
        item["public_key"] for item in net.query("view_access_key_list", account_id="alice.test")["keys"]
    ]
    assert len(listed) == 5
    assert listed == sorted(listed, key=lambda text: PublicKey.parse(text).to_bytes())


def test_a_deleted_key_can_no_longer_sign(net: Localnet, app: TestAccount):
    account = net.create_account("alice.test")
    alice = limited_key(net, account)
    signed = net.sign(alice, "app.test", [FunctionCall("noop", b"", TGAS)])
    net.send(account, "alice.test", [DeleteKey(alice.key.public_key)])
    with pytest.raises(RpcFailedError) as error:
        net.send_bytes(signed)
    assert list(key_error(error)) == ["AccessKeyNotFound"]
