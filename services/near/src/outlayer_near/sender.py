# SPDX-License-Identifier: MIT
"""Sending signed transactions of one key, in order and without lost nonces.

py-near keeps nonces per process, can race when two tasks sign with one key, and takes a 408 of its default
commit wait for an internal error; so the queue, the nonces and the polling are ours.
"""

from __future__ import annotations

import asyncio
import base64
import json
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
    decode_hash,
)
from outlayer_near.rpc import NearRpc

BLOCK_HASH_SECONDS = 20.0
_FIRST_POLL_SECONDS = 0.005
_LONGEST_POLL_SECONDS = 0.5
_ATTEMPTS = 5
_SEND_AGAIN_SECONDS = 5.0


@dataclass(frozen=True)
class TxOutcome:
    """A transaction that has run to its end. ``raw`` is the node's own answer."""

    tx_hash: str
    signer_id: str
    succeeded: bool
    value: bytes
    failure: Any
    logs: tuple[str, ...]
    gas_burnt: int
    raw: dict[str, Any]

    def json(self) -> Any:
        """The returned value as JSON; None when nothing was returned."""
        return json.loads(self.value) if self.value else None

    @classmethod
    def from_rpc(cls, answer: dict[str, Any]) -> TxOutcome:
        """From a ``tx`` answer. Raises ``RpcError`` when the transaction has not run to its end."""
        status = answer["status"]
        if not isinstance(status, dict) or not ({"SuccessValue", "Failure"} & status.keys()):
            raise RpcError("the transaction has not run to its end", name="NOT_FINISHED", data=status)
        outcomes = [answer["transaction_outcome"], *answer["receipts_outcome"]]
        return cls(
            tx_hash=answer["transaction"]["hash"],
            signer_id=answer["transaction"]["signer_id"],
            succeeded="SuccessValue" in status,
            value=base64.b64decode(status.get("SuccessValue") or ""),
            failure=status.get("Failure"),
            logs=tuple(line for item in outcomes for line in item["outcome"]["logs"]),
            gas_burnt=sum(int(item["outcome"]["gas_burnt"]) for item in outcomes),
            raw=answer,
        )


class Sender:
    """Sends with one key of one account. Safe for concurrent use within one process; one process per key."""

    def __init__(self, rpc: NearRpc, account_id: str, key: KeyPair) -> None:
        self._rpc = rpc
        self.account_id = account_id
        self._key = key
        self._lock = asyncio.Lock()
        self._nonce = 0
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
        signed = await self.submit(receiver_id, actions)
        return await self.wait(signed, timeout=timeout)

    async def submit(self, receiver_id: str, actions: Sequence[Action]) -> SignedTransaction:
        """Sign and hand over; returns once a node has taken it, before it runs."""
        problem: NearError | None = None
        for attempt in range(_ATTEMPTS):
            async with self._lock:
                signed = await self._sign(receiver_id, actions)
                try:
                    await self._rpc.send_transaction_async(signed.to_bytes())
                    return signed
                except RpcError as error:
                    problem = refusal(error)
                    kind = getattr(problem, "kind", "")
                    if kind not in ("InvalidNonce", "Expired", "InvalidChain"):
                        raise problem from error
                except RpcUnavailableError:
                    # the node may have taken it: only the same bytes may be sent again
                    return signed
                self._forget()
            await asyncio.sleep(0.05 * 2**attempt)
        raise problem or RpcUnavailableError("the transaction could not be sent")

    async def wait(self, signed: SignedTransaction, *, timeout: float = 180.0) -> TxOutcome:
        """Poll until a transaction has run to its end, yields included."""
        from outlayer_near.primitives import b58encode

        tx_hash = b58encode(signed.hash())
        deadline = time.monotonic() + timeout
        pause, unknown_since = _FIRST_POLL_SECONDS, time.monotonic()
        while True:
            try:
                answer = await self._rpc.transaction(tx_hash, self.account_id)
                return checked(TxOutcome.from_rpc(answer))
            except RpcError as error:
                if error.name in ("INVALID_TRANSACTION", "PARSE_ERROR"):
                    self._forget()
                    raise refusal(error) from error
                unknown = error.name == "UNKNOWN_TRANSACTION"
                if not unknown and error.name not in ("NOT_FINISHED", "TIMEOUT_ERROR"):
                    raise
            except RpcUnavailableError:
                unknown = False
            if time.monotonic() > deadline:
                raise RpcUnavailableError(
                    f"transaction {tx_hash} did not end in {timeout:.0f} s", hint="ask for its status later"
                )
            if unknown and time.monotonic() - unknown_since > _SEND_AGAIN_SECONDS:
                unknown_since = time.monotonic()
                await self._send_again(signed)
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_POLL_SECONDS)

    async def _send_again(self, signed: SignedTransaction) -> None:
        try:
            await self._rpc.send_transaction_async(signed.to_bytes())
        except RpcError as error:
            self._forget()
            raise refusal(error) from error

    async def _sign(self, receiver_id: str, actions: Sequence[Action]) -> SignedTransaction:
        if self._nonce == 0:
            self._nonce = await self._chain_nonce()
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

    def _forget(self) -> None:
        self._nonce = 0
        self._block_hash = None


def refusal(error: RpcError) -> NearError:
    """An ``INVALID_TRANSACTION`` answer as ``TransactionRefusedError`` with the variant's name."""
    detail: Any = error.data
    for name in ("TxExecutionError", "InvalidTxError"):
        if isinstance(detail, dict) and name in detail:
            detail = detail[name]
    kind = detail if isinstance(detail, str) else next(iter(detail), "") if isinstance(detail, dict) else ""
    if isinstance(detail, dict) and kind == "InvalidAccessKeyError":
        inner = detail[kind]
        kind = inner if isinstance(inner, str) else next(iter(inner), kind)
    if error.name != "INVALID_TRANSACTION":
        return error
    return TransactionRefusedError(f"the transaction was refused: {json.dumps(detail)[:400]}", kind=str(kind))


def checked(outcome: TxOutcome) -> TxOutcome:
    """The outcome itself when it succeeded; raises ``TransactionFailedError`` with the contract's words."""
    if outcome.succeeded:
        return outcome
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
