# SPDX-License-Identifier: MIT
"""Meta-transactions (NEP-366) and global contracts (NEP-591)."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from localnet_contracts import kitchen_sink

from outlayer_localnet.testing import NEAR, TGAS, Localnet, TestAccount
from outlayer_near.primitives import (
    AccessKey,
    Action,
    AddKey,
    Delegate,
    DelegateAction,
    DeployGlobalContract,
    FunctionCall,
    FunctionCallPermission,
    KeyPair,
    Transfer,
    UseGlobalContract,
    b58encode,
    delegate_hash,
)


def delegate(net: Localnet, sender: TestAccount, receiver: str, *actions: Action, **changes) -> Delegate:
    inner = DelegateAction(
        sender_id=sender.account_id,
        receiver_id=receiver,
        actions=actions,
        nonce=net.next_nonce(sender),
        max_block_height=net.height + 100,
        public_key=sender.key.public_key,
    )
    inner = replace(inner, **changes)
    return Delegate(inner, sender.key.sign(delegate_hash(inner)))


def kind(result) -> object:
    return result.failure["ActionError"]["kind"]


@pytest.fixture
def alice(net: Localnet) -> TestAccount:
    return net.create_account("alice.test", 5 * NEAR)


def test_the_relayer_pays_and_the_sender_is_the_predecessor(
    net: Localnet, app: TestAccount, alice: TestAccount
):
    before = net.balance("alice.test")
    signed = delegate(net, alice, "app.test", FunctionCall("who", b"", 20 * TGAS))
    result = net.send(net.test_account, "alice.test", [signed])
    assert result.failure is None
    inner = result.raw["receipts_outcome"][1]["outcome"]
    assert inner["executor_id"] == "app.test"
    assert inner["status"] == {"SuccessValue": "YWxpY2UudGVzdA=="}  # alice.test
    assert net.balance("alice.test") == before


def test_a_delegated_deposit_that_fails_goes_to_the_sender(
    net: Localnet, app: TestAccount, alice: TestAccount
):
    before = net.balance("alice.test")
    signed = delegate(net, alice, "app.test", FunctionCall("fail", b"no", 20 * TGAS, NEAR))
    net.send(net.test_account, "alice.test", [signed])
    assert net.balance("alice.test") == before + NEAR


def test_a_delegate_action_cannot_be_replayed(net: Localnet, alice: TestAccount):
    signed = delegate(net, alice, "near", Transfer(1))
    assert net.send(net.test_account, "alice.test", [signed]).failure is None
    nonce = signed.delegate_action.nonce
    again = net.send(net.test_account, "alice.test", [signed])
    assert kind(again) == {"DelegateActionInvalidNonce": {"delegate_nonce": nonce, "ak_nonce": nonce}}


def test_a_delegate_action_expires(net: Localnet, alice: TestAccount):
    signed = delegate(net, alice, "near", Transfer(1), max_block_height=net.height)
    assert kind(net.send(net.test_account, "alice.test", [signed])) == "DelegateActionExpired"


def test_a_delegate_action_must_go_to_its_sender(net: Localnet, alice: TestAccount):
    signed = delegate(net, alice, "near", Transfer(1))
    result = net.send(net.test_account, "near", [signed])
    names = {"sender_id": "alice.test", "receiver_id": "near"}
    assert kind(result) == {"DelegateActionSenderDoesNotMatchTxReceiver": names}


def test_a_forged_delegate_action_is_refused(net: Localnet, alice: TestAccount):
    signed = delegate(net, alice, "near", Transfer(1))
    forged = Delegate(replace(signed.delegate_action, receiver_id="test"), signed.signature)
    assert kind(net.send(net.test_account, "alice.test", [forged])) == "DelegateActionInvalidSignature"


def test_a_delegate_action_obeys_the_keys_limits(net: Localnet, alice: TestAccount):
    key = KeyPair.generate()
    permission = FunctionCallPermission("app.test", ("who",))
    net.send(alice, "alice.test", [AddKey(key.public_key, AccessKey(0, permission))])
    limited = TestAccount("alice.test", key)
    signed = delegate(net, limited, "near", Transfer(1))
    result = net.send(net.test_account, "alice.test", [signed])
    assert kind(result) == {"DelegateActionAccessKeyError": "RequiresFullAccess"}
    stranger = TestAccount("alice.test", KeyPair.generate())
    unknown = DelegateAction("alice.test", "near", (Transfer(1),), 1, net.height + 9, stranger.key.public_key)
    signed = Delegate(unknown, stranger.key.sign(delegate_hash(unknown)))
    result = net.send(net.test_account, "alice.test", [signed])
    assert "AccessKeyNotFound" in kind(result)["DelegateActionAccessKeyError"]


def test_a_global_contract_is_burnt_for_and_used_by_hash(net: Localnet, alice: TestAccount):
    code = kitchen_sink()
    publisher = net.create_account("publisher.test", 50 * NEAR)
    before = net.balance("publisher.test")
    result = net.send(publisher, "publisher.test", [DeployGlobalContract(code)])
    assert result.failure is None
    burnt = len(code) * 10**20
    assert before - net.balance("publisher.test") == result.tokens_burnt
    assert result.tokens_burnt > burnt
    code_hash = hashlib.sha256(code).digest()
    assert net.send(alice, "alice.test", [UseGlobalContract(code_hash=code_hash)]).failure is None
    view = net.account("alice.test")
    assert view["global_contract_hash"] == b58encode(code_hash)
    assert view["storage_usage"] == 182 + 32
    assert net.view_bytes("alice.test", "echo", b"global") == b"global"
    shown = net.query("view_global_contract_code", code_hash=b58encode(code_hash))
    assert shown["hash"] == b58encode(code_hash)


def test_a_global_contract_by_account_follows_its_publisher(net: Localnet, alice: TestAccount):
    publisher = net.create_account("publisher.test", 50 * NEAR)
    use = UseGlobalContract(account_id="publisher.test")
    missing = net.send(alice, "alice.test", [use])
    assert kind(missing) == {"GlobalContractDoesNotExist": {"identifier": {"AccountId": "publisher.test"}}}
    net.send(publisher, "publisher.test", [DeployGlobalContract(kitchen_sink(), by_account=True)])
    net.produce_block()
    assert net.send(alice, "alice.test", [use]).failure is None
    assert net.account("alice.test")["global_contract_account_id"] == "publisher.test"
    assert net.call(alice, "alice.test", "echo", b"x").value == b"x"


def test_publishing_needs_the_tokens_it_burns(net: Localnet):
    poor = net.create_account("poor.test", NEAR // 50)
    result = net.send(poor, "poor.test", [DeployGlobalContract(bytes(2000))])
    assert list(kind(result)) == ["LackBalanceForState"]
