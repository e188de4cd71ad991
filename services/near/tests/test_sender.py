# SPDX-License-Identifier: MIT
"""Sending: nonces, pipelining, what is signed anew and what never is."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlayer_near import sender as sender_module
from outlayer_near.errors import (
    NearError,
    RpcError,
    RpcUnavailableError,
    TransactionFailedError,
    TransactionRefusedError,
)
from outlayer_near.primitives import FunctionCall, KeyPair, SignedTransaction, Transfer, b58encode
from outlayer_near.rpc import NearRpc
from outlayer_near.sender import Sender, TxOutcome, failure_text, refusal

KEY = KeyPair(bytes(range(32)))
ACCOUNT = "alice.test"


@dataclass
class FakeChain:
    """A chain of one account as its node shows it.

    ``says_at_once``: broadcast_tx_async judges (as the localnet does); else it takes anything and an invalid
    transaction is never heard of again (as neard does).
    """

    refusal: Any
    nonce: int = 100
    says_at_once: bool = True
    block_hashes: list[bytes] = field(default_factory=lambda: [bytes(32)])
    polls_until_done: int = 1
    failure: Any = None
    forgets: int = 0
    ran: dict[str, SignedTransaction] = field(default_factory=dict)
    polls: dict[str, int] = field(default_factory=dict)
    seen: list[SignedTransaction] = field(default_factory=list)

    def install(self, node) -> None:
        node.methods.update(
            {
                "query": lambda _: {"nonce": self.nonce, "permission": "FullAccess"},
                "block": lambda _: {"header": {"hash": b58encode(self.block_hashes[-1]), "height": 5}},
                "broadcast_tx_async": lambda params: self.take(params[0], judge=self.says_at_once),
                "send_tx": lambda params: self.take(params["signed_tx_base64"], judge=True),
                "tx": lambda params: self.status(params["tx_hash"]),
            }
        )

    def take(self, encoded: str, *, judge: bool) -> Any:
        signed = SignedTransaction.from_bytes(base64.b64decode(encoded))
        assert signed.verify()
        self.seen.append(signed)
        tx_hash = b58encode(signed.hash())
        problem = self._problem(signed, tx_hash)
        if problem is None:
            if self.forgets:
                self.forgets -= 1
            elif tx_hash not in self.ran:
                self.nonce = signed.transaction.nonce
                self.ran[tx_hash] = signed
        elif judge:
            data = {"TxExecutionError": {"InvalidTxError": problem}}
            raise self.refusal("INVALID_TRANSACTION", data)
        return tx_hash

    def _problem(self, signed: SignedTransaction, tx_hash: str) -> Any:
        if tx_hash in self.ran:
            return None
        if signed.transaction.block_hash != self.block_hashes[-1]:
            return "Expired"
        if signed.transaction.nonce <= self.nonce:
            return {"InvalidNonce": {"tx_nonce": signed.transaction.nonce, "ak_nonce": self.nonce}}
        return None

    def status(self, tx_hash: str) -> Any:
        if tx_hash not in self.ran:
            raise self.refusal("UNKNOWN_TRANSACTION", f"Transaction {tx_hash} doesn't exist")
        self.polls[tx_hash] = self.polls.get(tx_hash, 0) + 1
        if self.polls[tx_hash] < self.polls_until_done:
            return {"final_execution_status": "NONE"}
        return outcome_json(tx_hash, self.failure)


def outcome_json(tx_hash: str, failure: Any = None) -> dict[str, Any]:
    status = {"SuccessValue": base64.b64encode(b'{"ok":true}').decode()}
    if failure is not None:
        status = {"Failure": failure}
    outcome = {"logs": ["first"], "gas_burnt": 10, "status": {"SuccessReceiptId": "r"}}
    return {
        "final_execution_status": "FINAL",
        "status": status,
        "transaction": {"hash": tx_hash, "signer_id": ACCOUNT},
        "transaction_outcome": {"id": tx_hash, "outcome": outcome},
        "receipts_outcome": [{"id": "r", "outcome": {**outcome, "logs": ["second"], "gas_burnt": 32}}],
    }


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(sender_module, "_SEND_AGAIN_SECONDS", 0.03)
    monkeypatch.setattr(sender_module, "_LONGEST_POLL_SECONDS", 0.02)
    monkeypatch.setattr(sender_module, "_FIRST_PAUSE_SECONDS", 0.002)
    monkeypatch.setattr(sender_module, "_MOST_GAP", 1)


@pytest.fixture
def chain(node, refusal):
    fake = FakeChain(refusal)
    fake.install(node)
    return fake


@pytest.fixture
async def sender(node, chain):
    async with NearRpc(node.url, timeout=5) as rpc:
        yield Sender(rpc, ACCOUNT, KEY)


async def test_a_call_gives_value_logs_and_gas_of_all_receipts(sender, chain):
    outcome = await sender.call("app.test", "set", {"text": "ä"}, gas=5, deposit=7)
    assert outcome.json() == {"ok": True}
    assert outcome.logs == ("first", "second")
    assert outcome.gas_burnt == 42
    (signed,) = chain.ran.values()
    assert signed.transaction.actions == (FunctionCall("set", '{"text":"ä"}'.encode(), 5, 7),)
    assert signed.transaction.nonce == 101
    assert outcome.tx_hash == b58encode(signed.hash())


@pytest.mark.parametrize("status", [{"Failure": {"ActionError": {}}}, "Unknown", "NotStarted", None])
def test_logs_of_a_receipt_that_did_not_succeed_are_left_out(status):
    answer = outcome_json("hash")
    failed = {"logs": ["lie"], "gas_burnt": 1, "status": status}
    answer["receipts_outcome"].insert(0, {"id": "f", "outcome": failed})
    assert TxOutcome.from_rpc(answer).logs == ("first", "second")


async def test_many_tasks_send_with_one_key_and_no_nonce_is_used_twice(sender, chain):
    chain.polls_until_done = 4
    outcomes = await asyncio.gather(*(sender.send("bob.test", [Transfer(n)]) for n in range(20)))
    assert len({outcome.tx_hash for outcome in outcomes}) == 20
    assert sorted(item.transaction.nonce for item in chain.seen) == list(range(101, 121))


async def test_transactions_do_not_wait_for_each_other(sender, chain):
    chain.polls_until_done = 10**9
    slow = [asyncio.create_task(sender.send("bob.test", [Transfer(n)])) for n in range(3)]
    while len(chain.ran) < 3:  # noqa: ASYNC110 - a chain does not signal
        await asyncio.sleep(0.002)
    assert not any(task.done() for task in slow)
    chain.polls_until_done = 0
    await asyncio.gather(*slow)


@pytest.mark.parametrize("says_at_once", [True, False])
async def test_a_nonce_taken_by_another_process_is_passed_over(sender, chain, says_at_once):
    chain.says_at_once = says_at_once
    await sender.send("bob.test", [Transfer(1)])
    chain.nonce = 5000
    await sender.send("bob.test", [Transfer(2)])
    assert [item.transaction.nonce for item in chain.ran.values()] == [101, 5001]
    await sender.send("bob.test", [Transfer(3)])
    assert chain.nonce == 5002


async def test_a_refused_nonce_never_displaces_transactions_on_their_way(sender, chain):
    """The chain still shows an old nonce while several transactions wait; a new one must not reuse theirs."""
    chain.polls_until_done = 3
    await asyncio.gather(*(sender.send("bob.test", [Transfer(n)]) for n in range(3)))
    chain.block_hashes.append(b"\x01" * 32)
    chain.nonce = 50  # an older view of the key
    await sender.send("bob.test", [Transfer(9)])
    nonces = [item.transaction.nonce for item in chain.ran.values()]
    assert nonces == sorted(set(nonces))
    assert nonces[-1] > 103


@pytest.mark.parametrize("says_at_once", [True, False])
async def test_an_expired_block_hash_is_renewed(sender, chain, says_at_once):
    chain.says_at_once = says_at_once
    await sender.send("bob.test", [Transfer(1)])
    chain.block_hashes.append(b"\x07" * 32)
    await sender.send("bob.test", [Transfer(2)])
    assert len(chain.ran) == 2


async def test_after_silence_only_the_same_bytes_are_sent_again(sender, chain, node):
    """The node took the transaction, but its answer was lost: no second transaction may be made of it."""
    real = node.methods["broadcast_tx_async"]
    silent = iter([True, True])

    def lossy(params):
        result = real(params)
        if next(silent, False):
            node.faults.append("drop")
            raise KeyError("the answer is lost")  # becomes HTTP 500 without JSON
        return result

    node.methods["broadcast_tx_async"] = lossy
    await sender.send("bob.test", [Transfer(1)])
    assert len({item.to_bytes() for item in chain.seen}) == 1
    assert len(chain.ran) == 1


async def test_a_transaction_that_the_node_lost_is_given_to_it_again(sender, chain):
    chain.forgets = 2
    outcome = await sender.send("bob.test", [Transfer(1)])
    assert outcome.succeeded
    assert len({item.to_bytes() for item in chain.seen}) == 1
    assert len(chain.seen) >= 3


async def test_a_node_that_falls_silent_while_it_runs_is_waited_for(sender, chain, node):
    chain.polls_until_done = 3
    signed = await sender.submit("bob.test", [Transfer(1)])
    node.faults.extend(["drop", 503, "garbage"])
    assert (await sender.wait(signed)).succeeded


async def test_waiting_has_an_end(sender, chain):
    chain.polls_until_done = 10**9
    with pytest.raises(RpcUnavailableError, match="did not end"):
        await sender.send("bob.test", [Transfer(1)], timeout=0.1)


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        ({"NotEnoughBalance": {"signer_id": ACCOUNT, "balance": "1", "cost": "2"}}, "NotEnoughBalance"),
        ({"InvalidAccessKeyError": {"ReceiverMismatch": {"tx_receiver": "a"}}}, "ReceiverMismatch"),
        ({"InvalidAccessKeyError": "RequiresFullAccess"}, "RequiresFullAccess"),
        ({"SignerDoesNotExist": {"signer_id": ACCOUNT}}, "SignerDoesNotExist"),
    ],
)
async def test_a_refusal_that_signing_anew_cannot_cure_is_told_at_once(
    sender, chain, node, refusal, problem, kind
):
    def refuse(_):
        raise refusal("INVALID_TRANSACTION", {"TxExecutionError": {"InvalidTxError": problem}})

    node.methods["broadcast_tx_async"] = refuse
    with pytest.raises(TransactionRefusedError) as caught:
        await sender.send("bob.test", [Transfer(1)])
    assert caught.value.kind == kind
    assert caught.value.hint
    assert node.count("broadcast_tx_async") == 1


async def test_nonces_that_stay_wrong_end_in_a_refusal(sender, chain, node, refusal):
    def refuse(_):
        data = {"TxExecutionError": {"InvalidTxError": {"InvalidNonce": {"tx_nonce": 1, "ak_nonce": 2}}}}
        raise refusal("INVALID_TRANSACTION", data)

    node.methods["broadcast_tx_async"] = refuse
    with pytest.raises(TransactionRefusedError) as caught:
        await sender.send("bob.test", [Transfer(1)])
    assert caught.value.kind == "InvalidNonce"


async def test_an_invalid_transaction_inside_a_block_is_a_refusal_not_a_failure(sender, chain):
    chain.failure = {"InvalidTxError": {"NotEnoughBalance": {"signer_id": ACCOUNT}}}
    with pytest.raises(TransactionRefusedError) as caught:
        await sender.send("bob.test", [Transfer(1)])
    assert caught.value.kind == "NotEnoughBalance"


async def test_a_key_that_the_account_lacks_is_told(sender, node):
    node.methods["query"] = lambda _: {"error": "access key does not exist"}
    with pytest.raises(TransactionRefusedError) as caught:
        await sender.send("bob.test", [Transfer(1)])
    assert caught.value.kind == "AccessKeyNotFound"
    assert KEY.secret not in str(caught.value)


async def test_a_contract_that_panics_is_told_with_its_words(sender, chain):
    words = "Smart contract panicked: Contract is paused"
    chain.failure = {
        "ActionError": {"index": 0, "kind": {"FunctionCallError": {"ExecutionError": words}}},
    }
    with pytest.raises(TransactionFailedError, match="Contract is paused") as caught:
        await sender.send("bob.test", [Transfer(1)])
    assert isinstance(caught.value.outcome, TxOutcome)
    assert caught.value.outcome.gas_burnt == 42


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        ({"ActionError": {"index": 0, "kind": "CreateAccountNotAllowed"}}, "CreateAccountNotAllowed"),
        (
            {
                "ActionError": {
                    "index": 0,
                    "kind": {"FunctionCallError": {"MethodResolveError": "MethodNotFound"}},
                }
            },
            "MethodNotFound",
        ),
        (
            {
                "ActionError": {
                    "index": 1,
                    "kind": {"LackBalanceForState": {"account_id": "a", "amount": "5"}},
                }
            },
            'LackBalanceForState: {"account_id": "a", "amount": "5"}',
        ),
        ({"InvalidTxError": "Expired"}, "Expired"),
    ],
)
def test_failures_are_told_by_their_innermost_text(failure, text):
    assert failure_text(failure) == text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["kind", "index", "ActionError", "x", "status"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(json_values)
def test_any_failure_has_a_text(failure):
    assert isinstance(failure_text(failure), str)


@given(json_values)
def test_any_refusal_is_an_error_of_ours(data):
    problem = refusal(RpcError("no", name="INVALID_TRANSACTION", data=data))
    assert isinstance(problem, TransactionRefusedError)
    assert isinstance(problem.kind, str)


@given(
    st.dictionaries(
        st.sampled_from(["status", "transaction", "transaction_outcome", "receipts_outcome"]), json_values
    )
)
def test_any_status_answer_is_an_outcome_or_an_error_of_ours(answer):
    try:
        TxOutcome.from_rpc(answer)
    except NearError:
        return


@given(st.sampled_from(["Started", "NotStarted", None, {}, {"SuccessReceiptId": "x"}]))
def test_a_transaction_that_still_runs_is_not_an_outcome(status):
    with pytest.raises(RpcError) as caught:
        TxOutcome.from_rpc({**outcome_json("h"), "status": status})
    assert caught.value.name == "NOT_FINISHED"
