# SPDX-License-Identifier: MIT
"""No yoctoNEAR appears or vanishes: balances and what was burnt add up after any transactions."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st
from localnet_contracts import kitchen_sink

from outlayer_localnet.admission import InvalidTxError
from outlayer_localnet.chain import Chain
from outlayer_localnet.genesis import GENESIS_BALANCES
from outlayer_localnet.state import Account
from outlayer_near.primitives import (
    AccessKey,
    AddKey,
    CreateAccount,
    DeleteAccount,
    DeployContract,
    FunctionCall,
    KeyPair,
    SignedTransaction,
    Stake,
    Transaction,
    Transfer,
)

KEY = KeyPair(bytes(range(32)))
SUPPLY = sum(GENESIS_BALANCES.values())
NEAR = 10**24
ACCOUNTS = ("test", "near", "app.test", "alice.test", "bob.test", "nobody.test", KEY.public_key.data.hex())

amounts = st.sampled_from([0, 1, NEAR // 1000, NEAR, 60 * NEAR])
methods = st.sampled_from(
    ["noop", "fail", "put", "chain", "chain_failing", "join", "pay_failing", "spread", "make_child", "wait",
     "resume", "wait_and_fail", "wait_and_resume", "loop_forever", "missing"]
)  # fmt: skip
actions = st.one_of(
    st.builds(Transfer, amounts),
    st.builds(
        FunctionCall, methods, st.just(b"x"), st.sampled_from([10**12, 50 * 10**12, 3 * 10**14]), amounts
    ),
    st.just(CreateAccount()),
    st.just(AddKey(KEY.public_key, AccessKey())),
    st.just(DeployContract(bytes(300))),
    st.just(Stake(NEAR, KEY.public_key)),
    st.sampled_from(ACCOUNTS).map(DeleteAccount),
)
steps = st.tuples(
    st.sampled_from(ACCOUNTS), st.sampled_from(ACCOUNTS), st.lists(actions, min_size=1, max_size=3)
)


def total(chain: Chain) -> int:
    accounts = (Account.from_bytes(chain.state.get(key) or b"") for key in chain.state.keys(b"\x00"))
    return sum(account.amount + account.locked for account in accounts)


def yields_are_open(chain: Chain) -> bool:
    """Then the gas of their callbacks is paid and belongs to no account."""
    return chain._oldest_yield() is not None


def send(chain: Chain, signer: str, receiver: str, wanted, nonce: int) -> None:
    transaction = Transaction(signer, KEY.public_key, nonce, receiver, chain.head.hash, tuple(wanted))
    signed: SignedTransaction = transaction.sign(KEY)
    try:
        chain.submit(signed, len(signed.to_bytes()))
    except InvalidTxError:
        return


def settle(chain: Chain) -> None:
    chain.produce_block()
    while chain.has_work:
        chain.produce_block()


def with_accounts() -> Chain:
    chain = Chain.open(None, KEY.public_key)
    for number, name in enumerate(("app.test", "alice.test", "bob.test"), start=1):
        wanted = [CreateAccount(), Transfer(100 * NEAR), AddKey(KEY.public_key, AccessKey())]
        send(chain, "test", name, wanted, number)
        settle(chain)
    chain.fast_forward(10)
    send(chain, "app.test", "app.test", [DeployContract(kitchen_sink())], 8_000_000)
    settle(chain)
    return chain


WAIT = ("test", "app.test", [FunctionCall("wait", b"x", 50 * 10**12, 0)])


@settings(max_examples=25, deadline=None)
@given(st.lists(steps, max_size=12))
@example([WAIT])
def test_balances_and_burnt_tokens_always_add_up(plan):
    chain = with_accounts()
    try:
        burnt = SUPPLY - chain.head.total_supply
        assert total(chain) == chain.head.total_supply
        for number, (signer, receiver, wanted) in enumerate(plan):
            send(chain, signer, receiver, wanted, chain.head.height * 10**6 - 1000 + number)
            before = chain.head.total_supply
            settle(chain)
            assert chain.head.total_supply <= before
            if yields_are_open(chain):
                assert total(chain) < chain.head.total_supply
            else:
                assert total(chain) == chain.head.total_supply
        chain.fast_forward(300)  # open yields time out
        settle(chain)
        assert total(chain) == chain.head.total_supply
        assert SUPPLY - chain.head.total_supply >= burnt
    finally:
        chain.close()


@settings(max_examples=10, deadline=None)
@given(st.lists(steps, max_size=8))
def test_the_same_transactions_at_the_same_times_give_the_same_blocks(plan):
    def play() -> list[bytes]:
        ticks = iter(range(10**18, 2 * 10**18, 10**9))
        chain = Chain.open(None, KEY.public_key, clock=lambda: next(ticks))
        try:
            hashes = []
            for number, (signer, receiver, wanted) in enumerate(plan, start=1):
                send(chain, signer, receiver, wanted, number)
                chain.produce_block()
                hashes.append(chain.head.hash)
            return hashes
        finally:
            chain.close()

    assert play() == play()
