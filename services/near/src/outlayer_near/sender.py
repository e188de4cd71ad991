# SPDX-License-Identifier: MIT
"""Sending signed transactions of one key, in order and without lost nonces.

Written by hand although py-near can send: its nonce cache is one per process and its signer queue leaks and can
race when two tasks sign with one key; ``included`` swallows InvalidNonce; its default waits in one HTTP request
until a yield resumes and reports the node's 408 as an internal error. The tests hold what is sent here against
py-near, which reads and sends on the same chain.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from outlayer_near.errors import (
    NearError,
    RpcError,
    RpcUnavailableError,
    TransactionFailedError,
    TransactionRefusedError,
)
from outlayer_near.primitives import (
    Action,
    FunctionCall,
    KeyPair,
    SignedTransaction,
    Transaction,
    b58encode,
    decode_hash,
)
from outlayer_near.rpc import NearRpc, is_success

BLOCK_HASH_SECONDS = 20.0
_FIRST_POLL_SECONDS = 0.005
_LONGEST_POLL_SECONDS = 0.5
_ATTEMPTS = 5
_FIRST_PAUSE_SECONDS = 0.05
_SEND_AGAIN_SECONDS = 3.0
_MOST_GAP = 4096
# refusals that a new nonce or block hash cures
_OUTDATED = ("InvalidNonce", "NonceTooLarge", "Expired", "InvalidChain")
# answers to a status question that say nothing final
_STILL_OPEN = ("UNKNOWN_TRANSACTION", "NOT_FINISHED", "TIMEOUT_ERROR", "INTERNAL_ERROR")
_HINTS = {
    "SignerDoesNotExist": "see that the account exists on this network",
    "AccessKeyNotFound": "see that the credentials belong to this account and network",
    "NotEnoughBalance": "the account needs more NEAR (the gas is paid in advance and mostly comes back)",
    "NotEnoughAllowance": "the access key's allowance is used up",
    "RequiresFullAccess": "this needs a full-access key",
    "MethodNameMismatch": "this key may not call this method",
    "ReceiverMismatch": "this key may not call this contract",
    "LackBalanceForState": "the account must keep NEAR for its storage",
}


@dataclass(frozen=True)
class TxOutcome:
    """A transaction that has run to its end. ``raw`` is the node's own answer.

    ``gas_burnt`` and ``tokens_burnt`` (yoctoNEAR) are those of all its receipts, failed ones too. ``logs`` are
    those of what succeeded: a receipt that failed changed nothing, but the node keeps its lines.
    """

    tx_hash: str
    signer_id: str
    succeeded: bool
    value: bytes
    failure: Any
    logs: tuple[str, ...]
    gas_burnt: int
    raw: dict[str, Any]
    tokens_burnt: int = 0

    def json(self) -> Any:
        """The returned value as JSON; None when nothing was returned."""
        return json.loads(self.value) if self.value else None

    @classmethod
    def from_rpc(cls, answer: dict[str, Any]) -> TxOutcome:
        """From a ``tx`` answer. Raises ``RpcError`` (``NOT_FINISHED``) when it has not run to its end."""
        status = answer.get("status")
        if not isinstance(status, dict) or not ({"SuccessValue", "Failure"} & status.keys()):
            raise RpcError("the transaction has not run to its end", name="NOT_FINISHED", data=status)
        try:
            outcomes = [answer["transaction_outcome"], *answer["receipts_outcome"]]
            return cls(
                tx_hash=answer["transaction"]["hash"],
                signer_id=answer["transaction"]["signer_id"],
                succeeded="SuccessValue" in status,
                value=base64.b64decode(status.get("SuccessValue") or "", validate=True),
                failure=status.get("Failure"),
                logs=tuple(
                    line
                    for item in outcomes
                    if is_success(item["outcome"]["status"])
                    for line in item["outcome"]["logs"]
                ),
                gas_burnt=sum(int(item["outcome"]["gas_burnt"]) for item in outcomes),
                raw=answer,
                tokens_burnt=sum(int(item["outcome"].get("tokens_burnt", 0)) for item in outcomes),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise RpcUnavailableError(f"a transaction's status has an unknown form ({error!r})") from error


class Sender:
    """Sends with one key of one account. Safe for concurrent use within one process; one process per key.

    Transactions leave in the order of their nonces and are not waited for before the next one leaves. A nonce
    is never used twice, not even after a refusal, so transactions on their way are never displaced; gaps do no
    harm. Only a transaction that can no longer enter a block is signed anew.
    """

    def __init__(self, rpc: NearRpc, account_id: str, key: KeyPair) -> None:
        self._rpc = rpc
        self.account_id = account_id
        self._key = key
        self._lock = asyncio.Lock()
        self._nonce: int | None = None
        self._block_hash: tuple[bytes, float] | None = None

    @property
    def public_key(self) -> str:
        return str(self._key.public_key)

    async def call(
        self,
        contract: str,
        method: str,
        args: dict[str, Any],
        *,
        gas: int,
        deposit: int = 0,
        timeout: float = 180.0,
    ) -> TxOutcome:
        """Call one contract method with JSON arguments and wait for the end."""
        data = json.dumps(args, separators=(",", ":"), ensure_ascii=False).encode()
        return await self.send(contract, [FunctionCall(method, data, gas, deposit)], timeout=timeout)

    async def send(self, receiver_id: str, actions: Sequence[Action], *, timeout: float = 180.0) -> TxOutcome:
        """Send and wait for the end. Raises ``TransactionRefusedError`` or ``TransactionFailedError``."""
        for _ in range(_ATTEMPTS - 1):
            signed = await self.submit(receiver_id, actions)
            try:
                return await self.wait(signed, timeout=timeout)
            except TransactionRefusedError as error:
                if error.kind not in _OUTDATED:
                    raise
        return await self.wait(await self.submit(receiver_id, actions), timeout=timeout)

    async def submit(self, receiver_id: str, actions: Sequence[Action]) -> SignedTransaction:
        """Sign and hand over; returns once a node has taken it, before it runs."""
        for attempt in range(_ATTEMPTS):
            async with self._lock:
                signed = await self._sign(receiver_id, actions)
                try:
                    await self._hand_over(signed)
                    return signed
                except TransactionRefusedError as error:
                    if error.kind not in _OUTDATED or attempt == _ATTEMPTS - 1:
                        raise
            await asyncio.sleep(_FIRST_PAUSE_SECONDS * 2**attempt)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def wait(self, signed: SignedTransaction, *, timeout: float = 180.0) -> TxOutcome:
        """Poll until a transaction has run to its end, yields included.

        A node that has never heard of it is given the same bytes again. Raises ``TransactionRefusedError`` when
        it cannot enter a block any more, ``TransactionFailedError`` when it ran and failed, and
        ``RpcUnavailableError`` when nothing is known by ``timeout`` seconds.
        """
        tx_hash = b58encode(signed.hash())
        deadline = time.monotonic() + timeout
        pause, asked_again = _FIRST_POLL_SECONDS, time.monotonic()
        while True:
            outcome, known = await self._look_up(tx_hash)
            if outcome is not None:
                return checked(outcome)
            now = time.monotonic()
            if now > deadline:
                raise RpcUnavailableError(
                    f"transaction {tx_hash} did not end in {timeout:.0f} s", hint="ask for its status later"
                )
            if not known and now - asked_again > _SEND_AGAIN_SECONDS:
                asked_again = now
                await self._send_again(signed, tx_hash)
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_POLL_SECONDS)

    async def _look_up(self, tx_hash: str) -> tuple[TxOutcome | None, bool]:
        """The outcome, None while there is none; and whether a node knows the transaction."""
        try:
            return TxOutcome.from_rpc(await self._rpc.transaction(tx_hash, self.account_id)), True
        except RpcUnavailableError:
            return None, True
        except RpcError as error:
            if error.name in _STILL_OPEN:
                return None, error.name != "UNKNOWN_TRANSACTION"
            problem = refusal(error)
            self._learn(problem)
            raise problem from error

    async def _hand_over(self, signed: SignedTransaction) -> None:
        """Give a transaction to a node. Silence is no refusal: it may have it, so only the same bytes go again."""
        data, silent = signed.to_bytes(), False
        for attempt in range(_ATTEMPTS):
            try:
                await self._rpc.send_transaction_async(data)
                return
            except RpcUnavailableError:
                silent = True
                if attempt < _ATTEMPTS - 1:
                    await asyncio.sleep(_FIRST_PAUSE_SECONDS * 2**attempt)
            except RpcError as error:
                problem = refusal(error)
                # an outdated nonce may be that of this transaction's own first copy: ``wait`` finds out
                if silent and isinstance(problem, TransactionRefusedError) and problem.kind in _OUTDATED:
                    return
                self._learn(problem)
                raise problem from error

    async def _send_again(self, signed: SignedTransaction, tx_hash: str) -> None:
        """Give the same bytes to a node that does not know them, and have them judged."""
        try:
            await self._rpc.send_transaction(signed.to_bytes())
        except RpcUnavailableError:
            return
        except RpcError as error:
            problem = refusal(error)
            if not isinstance(problem, TransactionRefusedError):
                return
            outcome, known = await self._look_up(tx_hash)
            if outcome is None and not known:
                self._learn(problem)
                raise problem from error

    def _learn(self, problem: NearError) -> None:
        """Take from a refusal what the next signature needs."""
        if not isinstance(problem, TransactionRefusedError):
            return
        if problem.kind == "InvalidNonce" and self._nonce is not None:
            self._nonce = max(self._nonce, problem.chain_nonce + _gap())
        elif problem.kind in ("NonceTooLarge", "AccessKeyNotFound"):
            self._nonce = None  # another chain than before, or another life of the key
        elif problem.kind in ("Expired", "InvalidChain"):
            self._block_hash = None

    async def _sign(self, receiver_id: str, actions: Sequence[Action]) -> SignedTransaction:
        if self._nonce is None:
            self._nonce = await self._chain_nonce() + _gap()
        self._nonce += 1
        transaction = Transaction(
            signer_id=self.account_id,
            public_key=self._key.public_key,
            nonce=self._nonce,
            receiver_id=receiver_id,
            block_hash=await self._recent_block_hash(),
            actions=tuple(actions),
        )
        return transaction.sign(self._key)

    async def _chain_nonce(self) -> int:
        key = await self._rpc.view_access_key(self.account_id, self.public_key)
        if key is None:
            raise TransactionRefusedError(
                f"{self.account_id} does not have the key {self.public_key}", kind="AccessKeyNotFound"
            )
        return int(key["nonce"])

    async def _recent_block_hash(self) -> bytes:
        if self._block_hash is None or time.monotonic() - self._block_hash[1] > BLOCK_HASH_SECONDS:
            block = await self._rpc.block()
            self._block_hash = (decode_hash(block["header"]["hash"]), time.monotonic())
        return self._block_hash[0]


def _gap() -> int:
    """Nonces left out when the chain's nonce is taken over.

    Two processes that take it over at one time and do the same thing would otherwise sign the same bytes: one
    transaction, which both take for their own. A chain allows a million nonces for each block.
    """
    return secrets.randbelow(_MOST_GAP)


def refusal(error: RpcError) -> NearError:
    """An ``INVALID_TRANSACTION`` answer as ``TransactionRefusedError``; any other error as it is."""
    if error.name != "INVALID_TRANSACTION":
        return error
    return _refused(error.data)


def _refused(detail: Any) -> TransactionRefusedError:
    for name in ("TxExecutionError", "InvalidTxError", "InvalidAccessKeyError"):
        if isinstance(detail, dict) and name in detail:
            detail = detail[name]
    kind, facts = _variant(detail)
    return TransactionRefusedError(
        f"the transaction was refused: {json.dumps(detail)[:400]}",
        kind=kind,
        chain_nonce=_int(facts.get("ak_nonce")),
        hint=_HINTS.get(kind, ""),
    )


def _variant(value: Any) -> tuple[str, dict[str, Any]]:
    """Name and fields of an externally tagged enum value."""
    if isinstance(value, dict) and value:
        name, facts = next(iter(value.items()))
        return str(name), facts if isinstance(facts, dict) else {}
    return (value if isinstance(value, str) else ""), {}


def _int(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def checked(outcome: TxOutcome) -> TxOutcome:
    """The outcome itself when it succeeded; raises ``TransactionFailedError`` with the contract's words."""
    if outcome.succeeded:
        return outcome
    if isinstance(outcome.failure, dict) and "InvalidTxError" in outcome.failure:
        raise _refused(outcome.failure)  # a block may hold an invalid transaction; nothing of it has run
    raise TransactionFailedError(
        f"transaction {outcome.tx_hash} failed: {failure_text(outcome.failure)}", outcome=outcome
    )


def failure_text(failure: Any) -> str:
    """The innermost text of a ``Failure``: what the contract said, or the error's own name."""
    value = failure
    while isinstance(value, dict) and value:
        if "kind" in value:
            value = value["kind"]
            continue
        name, value = next(iter(value.items()))
        if not isinstance(value, dict):
            return str(value) if isinstance(value, str) else f"{name}: {json.dumps(value)}"
        if len(value) != 1 and "kind" not in value:
            return f"{name}: {json.dumps(value)[:400]}"
    return str(value)
