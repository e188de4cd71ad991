# SPDX-License-Identifier: MIT
"""Native transactions: what they cost, what they do, how they are refused."""

from __future__ import annotations

import base64

import pytest

from outlayer_localnet.testing import NEAR, TGAS, Localnet, RpcFailedError, TestAccount
from outlayer_near.primitives import (
    AccessKey,
    AddKey,
    CreateAccount,
    DeleteAccount,
    DeleteKey,
    DeployContract,
    FunctionCall,
    KeyPair,
    SignedTransaction,
    Stake,
    Transfer,
)

TRANSFER_GAS = 108_059_500_000 + 115_123_062_500
GAS_PRICE = 10**8


def refusal(error: pytest.ExceptionInfo[RpcFailedError]) -> object:
    assert error.value.cause == "INVALID_TRANSACTION"
    return error.value.error["data"]["TxExecutionError"]["InvalidTxError"]


def kind(result) -> object:
    return result.failure["ActionError"]["kind"]


def test_a_transfer_burns_the_gas_that_nearcore_burns(net: Localnet):
    alice = net.create_account("alice.test", 10 * NEAR)
    bob = net.create_account("bob.test", 10 * NEAR)
    result = net.send(alice, bob.account_id, [Transfer(NEAR)])
    sent, received, refund = (item["outcome"] for item in result.outcomes)
    assert sent["gas_burnt"] == received["gas_burnt"] == refund["gas_burnt"] == TRANSFER_GAS
    assert sent["tokens_burnt"] == received["tokens_burnt"] == str(TRANSFER_GAS * GAS_PRICE)
    assert refund["tokens_burnt"] == "0"
    assert refund["executor_id"] == "alice.test"
    assert net.balance("bob.test") == 11 * NEAR
    assert net.balance("alice.test") == 9 * NEAR - 2 * TRANSFER_GAS * GAS_PRICE


def test_consecutive_receipts_run_in_consecutive_blocks(net: Localnet):
    before = net.height
    result = net.send(net.test_account, "near", [Transfer(1)])
    heights = [net.block(item["block_hash"])["header"]["height"] for item in result.outcomes]
    assert heights == [before + 1, before + 2, before + 3]


def test_a_transaction_to_oneself_runs_in_the_block_that_includes_it(net: Localnet):
    result = net.send(net.test_account, "test", [Transfer(1)])
    sent, local, _ = (item["block_hash"] for item in result.outcomes)
    assert sent == local


def test_an_account_with_one_full_access_key_uses_182_bytes(net: Localnet):
    net.create_account("alice.test", NEAR)
    assert net.account("alice.test")["storage_usage"] == 182


def test_creating_an_account_costs_seven_millinear_in_all(net: Localnet):
    start = net.balance("test")
    result = net.send(net.test_account, "new.test", [CreateAccount(), Transfer(NEAR)])
    spent = start - net.balance("test") - NEAR
    created = result.outcomes[1]["outcome"]
    other_gas = result.outcomes[0]["outcome"]["gas_burnt"] + created["gas_burnt"] - 7_200_000_000_000
    assert spent == 7 * 10**21 + other_gas * GAS_PRICE
    assert spent == result.tokens_burnt


@pytest.mark.parametrize(
    ("signer", "target", "error"),
    [
        ("test", "brand-new", "CreateAccountOnlyByRegistrar"),
        ("test", "sub.near", "CreateAccountNotAllowed"),
        ("test", "deep.sub.test", "CreateAccountNotAllowed"),
        ("test", "near", "AccountAlreadyExists"),
        ("test", "ab" * 32, "OnlyImplicitAccountCreationAllowed"),
        ("test", "0x" + "ab" * 20, "OnlyImplicitAccountCreationAllowed"),
    ],
)
def test_accounts_are_created_only_by_whom_may(net: Localnet, signer, target, error):
    result = net.send(net.test_account, target, [CreateAccount(), Transfer(1)])
    assert list(kind(result)) == [error]


def test_the_registrar_creates_short_top_level_accounts(net: Localnet):
    registrar = TestAccount("registrar", net.test_account.key)
    assert net.create_account("short", NEAR, creator=registrar).account_id == "short"


def test_a_transfer_to_an_implicit_id_creates_the_account_with_its_key(net: Localnet):
    key = KeyPair.generate()
    account_id = key.public_key.data.hex()
    assert net.send(net.test_account, account_id, [Transfer(NEAR)]).failure is None
    assert net.account(account_id)["storage_usage"] == 182
    owner = TestAccount(account_id, key)
    assert net.send(owner, "test", [Transfer(NEAR // 2)]).failure is None


def test_an_implicit_account_is_not_created_by_a_batch(net: Localnet):
    account_id = KeyPair.generate().public_key.data.hex()
    result = net.send(net.test_account, account_id, [Transfer(1), Transfer(1)])
    assert kind(result) == {"AccountDoesNotExist": {"account_id": account_id}}


def test_a_transfer_to_nobody_comes_back(net: Localnet):
    start = net.balance("test")
    result = net.send(net.test_account, "nobody.test", [Transfer(5 * NEAR)])
    assert kind(result) == {"AccountDoesNotExist": {"account_id": "nobody.test"}}
    assert start - net.balance("test") == result.tokens_burnt


def test_a_failing_action_undoes_the_ones_before_it(net: Localnet):
    start = net.balance("test")
    actions = [CreateAccount(), Transfer(NEAR), DeleteKey(net.test_account.key.public_key)]
    result = net.send(net.test_account, "atomic.test", actions)
    assert result.failure["ActionError"]["index"] == 2
    assert list(kind(result)) == ["DeleteKeyDoesNotExist"]
    with pytest.raises(RpcFailedError, match="UNKNOWN_ACCOUNT"):
        net.account("atomic.test")
    assert start - net.balance("test") == result.tokens_burnt


def test_a_deleted_accounts_balance_goes_to_the_beneficiary(net: Localnet):
    alice = net.create_account("alice.test", 10 * NEAR)
    before = net.balance("near")
    result = net.send(alice, "alice.test", [DeleteAccount("near")])
    assert result.failure is None
    with pytest.raises(RpcFailedError, match="UNKNOWN_ACCOUNT"):
        net.account("alice.test")
    key = net.query("view_access_key", account_id="alice.test", public_key=str(alice.key.public_key))
    assert "does not exist while viewing" in key["error"]
    assert 9 * NEAR < net.balance("near") - before < 10 * NEAR


def test_only_the_account_itself_may_change_its_keys_and_code(net: Localnet):
    net.create_account("alice.test", NEAR)
    for action in (AddKey(KeyPair.generate().public_key, AccessKey()), DeployContract(b"x")):
        result = net.send(net.test_account, "alice.test", [action])
        names = {"account_id": "alice.test", "actor_id": "test"}
        assert kind(result) == {"ActorNoPermission": names}


def test_code_needs_a_balance_for_its_storage(net: Localnet):
    alice = net.create_account("alice.test", NEAR)
    result = net.send(alice, "alice.test", [DeployContract(bytes(200_000))])
    assert result.failure["ActionError"]["index"] is None
    assert list(kind(result)) == ["LackBalanceForState"]
    assert net.account("alice.test")["code_hash"] == "1" * 32


def test_small_accounts_need_no_balance_for_storage(net: Localnet):
    net.send(net.test_account, "zero.test", [CreateAccount()])
    assert net.account("zero.test")["amount"] == "0"


def test_redeploying_counts_the_code_once(net: Localnet):
    alice = net.create_account("alice.test")
    net.send(alice, "alice.test", [DeployContract(bytes(1000))])
    net.send(alice, "alice.test", [DeployContract(bytes(300))])
    assert net.account("alice.test")["storage_usage"] == 182 + 300


def test_stake_is_locked_and_bounded_by_the_balance(net: Localnet):
    alice = net.create_account("alice.test", 10 * NEAR)
    key = alice.key.public_key
    assert net.send(alice, "alice.test", [Stake(4 * NEAR, key)]).failure is None
    view = net.account("alice.test")
    assert view["locked"] == str(4 * NEAR)
    assert list(kind(net.send(alice, "alice.test", [Stake(40 * NEAR, key)]))) == ["TriesToStake"]
    assert list(kind(net.send(alice, "alice.test", [DeleteAccount("test")]))) == ["DeleteAccountStaking"]


# -- admission -------------------------------------------------------------------------------------


def test_a_used_nonce_is_refused(net: Localnet):
    alice = net.create_account("alice.test")
    nonce = net.next_nonce(alice)
    net.send_bytes(net.sign(alice, "test", [Transfer(1)], nonce=nonce))
    with pytest.raises(RpcFailedError) as error:
        net.send_bytes(net.sign(alice, "test", [Transfer(2)], nonce=nonce))
    assert refusal(error) == {"InvalidNonce": {"tx_nonce": nonce, "ak_nonce": nonce}}


def test_a_nonce_too_far_ahead_is_refused(net: Localnet):
    upper = (net.height + 1) * 10**6
    with pytest.raises(RpcFailedError) as error:
        net.send_bytes(net.sign(net.test_account, "near", [Transfer(1)], nonce=upper))
    assert refusal(error) == {"NonceTooLarge": {"tx_nonce": upper, "upper_bound": upper}}


def test_a_new_keys_nonce_begins_with_the_height(net: Localnet):
    net.create_account("alice.test")
    [item] = net.query("view_access_key_list", account_id="alice.test")["keys"]
    result_height = net.height - 1  # a refund follows the receipt that added the key
    assert item["access_key"]["nonce"] == (result_height - 1) * 10**6


def test_an_unknown_block_hash_is_refused(net: Localnet):
    with pytest.raises(RpcFailedError) as error:
        net.send_bytes(net.sign(net.test_account, "near", [Transfer(1)], block_hash=bytes(32)))
    assert refusal(error) == "Expired"


def test_a_wrong_signature_is_refused(net: Localnet):
    signed = bytearray(net.sign(net.test_account, "near", [Transfer(1)]))
    signed[-1] ^= 1
    with pytest.raises(RpcFailedError) as error:
        net.send_bytes(bytes(signed))
    assert refusal(error) == "InvalidSignature"


def test_a_signer_that_does_not_exist_is_refused(net: Localnet):
    ghost = TestAccount("ghost.test", KeyPair.generate())
    with pytest.raises(RpcFailedError) as error:
        net.send_bytes(net.sign(ghost, "near", [Transfer(1)], nonce=1))
    assert refusal(error) == {"SignerDoesNotExist": {"signer_id": "ghost.test"}}


def test_a_key_that_is_not_the_accounts_is_refused(net: Localnet):
    other = TestAccount("test", KeyPair.generate())
    with pytest.raises(RpcFailedError) as error:
        net.send_bytes(net.sign(other, "near", [Transfer(1)], nonce=1))
    names = {"account_id": "test", "public_key": str(other.key.public_key)}
    assert refusal(error) == {"InvalidAccessKeyError": {"AccessKeyNotFound": names}}


def test_a_balance_that_does_not_cover_the_cost_is_refused(net: Localnet):
    alice = net.create_account("alice.test", NEAR)
    with pytest.raises(RpcFailedError) as error:
        net.send(alice, "test", [Transfer(NEAR)])
    body = refusal(error)["NotEnoughBalance"]
    # bought at 1e9, above the price of 1e8 at which the part that is burnt at once is charged
    assert body["cost"] == str(NEAR + TRANSFER_GAS * (10**8 + 10**9))
    assert body["signer_id"] == "alice.test"


def test_gas_is_bought_at_ten_times_the_minimum_price_and_mostly_given_back(net: Localnet):
    alice = net.create_account("alice.test", NEAR // 5)
    with pytest.raises(RpcFailedError) as error:
        net.call(alice, "test", "noop", gas=300 * TGAS)  # needs 0.3 NEAR up front
    assert "NotEnoughBalance" in refusal(error)


@pytest.mark.parametrize(
    ("actions", "error"),
    [
        ([DeleteAccount("test"), Transfer(1)], "DeleteActionMustBeFinal"),
        ([FunctionCall("f", b"", 0)], "FunctionCallZeroAttachedGas"),
        (
            [FunctionCall("f", b"", 10**15 + 1)],
            {"TotalPrepaidGasExceeded": {"total_prepaid_gas": 10**15 + 1, "limit": 10**15}},
        ),
        (
            [FunctionCall("f" * 257, b"", 1)],
            {"FunctionCallMethodNameLengthExceeded": {"length": 257, "limit": 256}},
        ),
        (
            [Transfer(1)] * 101,
            {"TotalNumberOfActionsExceeded": {"total_number_of_actions": 101, "limit": 100}},
        ),
    ],
)
def test_malformed_actions_are_refused(net: Localnet, actions, error):
    with pytest.raises(RpcFailedError) as caught:
        net.send(net.test_account, "near", actions)
    assert refusal(caught) == {"ActionsValidation": error}


def test_a_transaction_above_the_size_limit_is_refused(net: Localnet):
    with pytest.raises(RpcFailedError) as error:
        net.send(net.test_account, "test", [DeployContract(bytes(1_572_864))])
    assert list(refusal(error)) == ["TransactionSizeExceeded"]


def test_sending_the_same_transaction_again_answers_its_outcome(net: Localnet):
    signed = net.sign(net.test_account, "near", [Transfer(1)])
    first = net.send_bytes(signed)
    assert net.send_bytes(signed).raw == first.raw
    again = net.rpc("broadcast_tx_async", [base64.b64encode(signed).decode()])
    assert again == first.hash


def test_transactions_of_one_key_run_in_order_of_nonce_even_if_they_arrive_out_of_order(net: Localnet):
    alice = net.create_account("alice.test")
    nonce = net.next_nonce(alice)
    parsed = [
        SignedTransaction.from_bytes(net.sign(alice, "test", [Transfer(1)], nonce=nonce + i))
        for i in (2, 0, 1)
    ]
    with net.chain.lock:  # the node cannot take them before all are queued
        for signed in parsed:
            net.chain.submit(signed, len(signed.to_bytes()))
    net.node.wake_threadsafe()
    for signed in parsed:
        status = net.rpc("tx", {"tx_hash": _b58(signed.hash()), "sender_account_id": "x"})
        assert status["status"] == {"SuccessValue": ""}


def _b58(data: bytes) -> str:
    from outlayer_near.primitives import b58encode

    return b58encode(data)


def test_of_two_queued_transactions_with_one_nonce_the_second_is_refused(net: Localnet):
    nonce = net.next_nonce(net.test_account)
    first, second = (
        SignedTransaction.from_bytes(net.sign(net.test_account, "near", [Transfer(n)], nonce=nonce))
        for n in (1, 2)
    )
    with net.chain.lock:
        for signed in (first, second):
            net.chain.submit(signed, len(signed.to_bytes()))
    net.node.wake_threadsafe()
    assert net.tx(_b58(first.hash()), wait_until="FINAL").failure is None
    with pytest.raises(RpcFailedError) as error:
        net.tx(_b58(second.hash()))
    assert refusal(error) == {"InvalidNonce": {"tx_nonce": nonce, "ak_nonce": nonce}}


def test_a_fault_of_the_node_fails_one_call_and_the_chain_goes_on(
    net: Localnet, app: TestAccount, monkeypatch
):
    from outlayer_localnet import actions

    def broken(*args: object) -> object:
        raise RuntimeError("a bug")

    monkeypatch.setattr(actions, "run", broken)
    result = net.call(app, "app.test", "noop", b"", deposit=NEAR)
    assert kind(result)["FunctionCallError"]["ExecutionError"].startswith("The node could not run the call")
    monkeypatch.undo()
    assert net.call(app, "app.test", "echo", b"on").value == b"on"


def test_a_transaction_can_be_found_at_any_moment_after_it_was_sent(net: Localnet, app: TestAccount):
    found = []
    for _ in range(30):
        tx_hash = net.rpc(
            "broadcast_tx_async",
            [base64.b64encode(net.sign(app, "app.test", [FunctionCall("noop", b"", TGAS)])).decode()],
        )
        found.append(net.tx(tx_hash).raw["final_execution_status"])  # never UNKNOWN_TRANSACTION
    assert set(found) <= {"NONE", "INCLUDED_FINAL", "EXECUTED_OPTIMISTIC", "FINAL"}
