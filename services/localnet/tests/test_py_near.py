# SPDX-License-Identifier: MIT
"""py-near works against the node unmodified."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from py_near.account import Account
from py_near.exceptions.exceptions import FunctionCallError
from py_near.models import TransactionResult

from outlayer_localnet.testing import NEAR, Localnet, TestAccount
from outlayer_near.primitives import KeyPair


@pytest.fixture
async def alice(net: Localnet) -> AsyncIterator[Account]:
    created = net.create_account("alice.test")
    account = Account("alice.test", created.key.secret, rpc_addr=net.rpc_url)
    await account.startup()
    yield account
    await account.shutdown()


async def test_it_learns_the_chain_id(alice: Account):
    assert alice.chain_id == "localnet"


async def test_it_transfers(net: Localnet, alice: Account):
    before = net.balance("near")
    result = await alice.send_money("near", NEAR)
    assert isinstance(result, TransactionResult)
    assert net.balance("near") == before + NEAR
    assert result.transaction.hash


async def test_it_calls_functions_and_sees_their_logs(alice: Account, app: TestAccount):
    result = await alice.function_call("app.test", "say", {"hello": "world"})
    assert [log for outcome in result.receipt_outcome for log in outcome.logs] == ['{"hello": "world"}']


async def test_it_reports_a_panic(alice: Account, app: TestAccount):
    result = await alice.function_call("app.test", "fail", {"why": 1})
    failed = [outcome for outcome in result.receipt_outcome if "Failure" in outcome.status]
    assert len(failed) == 1
    assert isinstance(failed[0].error, FunctionCallError)


async def test_it_sends_without_waiting_and_finds_the_result(net: Localnet, alice: Account):
    tx_hash = await alice.send_money("near", 5, nowait=True)
    found = await alice.provider.get_tx(tx_hash, "near")  # it passes the receiver, not the sender
    assert found.transaction.hash == tx_hash


async def test_it_views(net: Localnet, alice: Account, app: TestAccount):
    net.call(app, "app.test", "put", b'{"n":5}')
    assert (await alice.view_function("app.test", "get", {})).result == {"n": 5}
    assert (await alice.fetch_state())["amount"] == str(net.balance("alice.test"))
    assert await alice.get_balance() == net.balance("alice.test")


async def test_it_adds_lists_and_deletes_keys(net: Localnet, alice: Account):
    key = KeyPair.generate().public_key
    await alice.add_public_key(str(key).removeprefix("ed25519:"), "app.test", ["a"], NEAR)
    listed = await alice.get_access_key_list()
    assert {item.public_key for item in listed} >= {str(key)}
    await alice.delete_public_key(str(key))
    assert str(key) not in {item.public_key for item in await alice.get_access_key_list()}


async def test_it_creates_accounts_and_deploys(net: Localnet, alice: Account):
    from localnet_contracts import kitchen_sink

    key = KeyPair.generate()
    await alice.create_account("sub.alice.test", key.public_key.data, 5 * NEAR)
    assert net.account("sub.alice.test")["storage_usage"] == 182
    await alice.deploy_contract(kitchen_sink())
    assert net.view_bytes("alice.test", "echo", b"hi") == b"hi"


async def test_it_relays_meta_transactions(net: Localnet, alice: Account, app: TestAccount):
    from py_near_primitives import TransferAction

    delegated = await alice.create_delegate_action(actions=[TransferAction(7)], receiver_id="near")
    signature = alice.sign_delegate_transaction(delegated)
    relayer = Account("test", net.test_account.key.secret, rpc_addr=net.rpc_url)
    await relayer.startup()
    try:
        before = net.balance("near")
        await relayer.call_delegate_transaction(delegated, signature)
        assert net.balance("near") == before + 7
    finally:
        await relayer.shutdown()
