# SPDX-License-Identifier: MIT
"""One chunk: transactions become receipts, receipts become state, outcomes and more receipts.

Semantics of nearcore at protocol version 86: admission and charging, promises, yield and resume,
refunds with gas bought at ``min_gas_purchase_price`` (NEP-642), contract rewards, storage staking.
Deterministic: the same state, block context and inputs give the same result.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from outlayer_localnet import fees
from outlayer_localnet.actions import ActionFailure, ActionResult, Scope, execute_action
from outlayer_localnet.admission import InvalidTxError, charge_transaction
from outlayer_localnet.context import BlockContext
from outlayer_localnet.ext import RESUME_INITIATED
from outlayer_localnet.receipts import (
    ActionReceipt,
    DataReceipt,
    DistributionReceipt,
    Receipt,
    action_hash,
    balance_refund,
    decode_receipt,
    derive_id,
    encode_receipt,
    gas_refund,
)
from outlayer_localnet.state import (
    YIELD_INDICES_KEY,
    Overlay,
    Readable,
    global_code_key,
    pending_count_key,
    postponed_id_key,
    postponed_key,
    received_data_key,
    yield_receipt_key,
    yield_status_key,
    yield_timeout_key,
)
from outlayer_localnet.validate import actions_error
from outlayer_near.primitives import (
    Reader,
    SignedTransaction,
    b58encode,
    encode_string,
    encode_u64,
)


@dataclass(slots=True)
class Outcome:
    """What a transaction or receipt did. ``status`` is nearcore's ExecutionStatusView as JSON."""

    id: bytes
    executor_id: str
    status: dict[str, Any]
    gas_burnt: int
    tokens_burnt: int
    logs: list[str] = field(default_factory=list)
    receipt_ids: list[bytes] = field(default_factory=list)
    profile: list[dict[str, str]] | None = None  # None for transactions
    tx_hash: bytes = b""


@dataclass(slots=True)
class ChunkResult:
    """What applying a chunk produced, in order of execution."""

    outcomes: list[tuple[Outcome, Receipt | None]] = field(default_factory=list)
    accepted: list[SignedTransaction] = field(default_factory=list)
    rejected: list[tuple[bytes, InvalidTxError]] = field(default_factory=list)
    new_receipts: list[Receipt] = field(default_factory=list)
    outgoing: list[Receipt] = field(default_factory=list)
    delayed: list[Receipt] = field(default_factory=list)
    local: list[Receipt] = field(default_factory=list)
    gas_used: int = 0
    balance_burnt: int = 0
    causes: list[tuple[dict[str, str], dict[bytes, bytes | None]]] = field(default_factory=list)


class Runtime:
    """Applies one chunk to an overlay of committed state."""

    def __init__(self, base: Readable, ctx: BlockContext, gas_limit: int | None = None) -> None:
        self.block = Overlay(base)
        self.ctx = ctx
        self.result = ChunkResult()
        self._gas_limit = gas_limit or ctx.params.gas_limit
        self._local: deque[Receipt] = deque()
        self._instant: deque[Receipt] = deque()

    def apply(
        self,
        transactions: Iterable[SignedTransaction],
        delayed: Iterable[Receipt],
        incoming: Iterable[Receipt],
    ) -> ChunkResult:
        """Transactions, then local, delayed and incoming receipts, then yield timeouts."""
        for signed in transactions:
            self._transaction(signed)
        self.result.local = list(self._local)
        for receipt in (*self._local, *delayed, *incoming):
            if self.result.gas_used >= self._gas_limit:
                self.result.delayed.append(receipt)
                continue
            self._receipt(receipt)
            while self._instant:
                self._receipt(self._instant.popleft())
        self._yield_timeouts()
        return self.result

    # -- transactions ------------------------------------------------------------------------------

    def _transaction(self, signed: SignedTransaction) -> None:
        overlay = Overlay(self.block)
        tx_hash = signed.hash()
        try:
            charge = charge_transaction(overlay, signed, self.ctx)
        except InvalidTxError as error:
            self.result.rejected.append((tx_hash, error))
            return
        self._record_cause({"type": "transaction_processing", "tx_hash": b58encode(tx_hash)}, overlay)
        overlay.commit()
        tx = signed.transaction
        receipt = Receipt(
            predecessor_id=tx.signer_id,
            receiver_id=tx.receiver_id,
            body=ActionReceipt(tx.signer_id, tx.public_key, charge.gas_price, tx.actions),
            receipt_id=derive_id(tx_hash, self.ctx.height, 0),
            tx_hash=tx_hash,
        )
        outcome = Outcome(
            id=tx_hash,
            executor_id=tx.signer_id,
            status={"SuccessReceiptId": b58encode(receipt.receipt_id)},
            gas_burnt=charge.gas_burnt,
            tokens_burnt=charge.burnt_amount,
            receipt_ids=[receipt.receipt_id],
            tx_hash=tx_hash,
        )
        self.result.accepted.append(signed)
        self.result.outcomes.append((outcome, None))
        self.result.new_receipts.append(receipt)
        self.result.gas_used += charge.gas_burnt
        self.result.balance_burnt += charge.burnt_amount
        if tx.signer_id == tx.receiver_id:
            self._local.append(receipt)
        else:
            self.result.outgoing.append(receipt)

    # -- receipts ----------------------------------------------------------------------------------

    def _receipt(self, receipt: Receipt) -> None:
        body = receipt.body
        if isinstance(body, DistributionReceipt):
            self._distribute(receipt, body)
        elif isinstance(body, DataReceipt):
            if body.is_promise_resume:
                self._resume(receipt, body)
            else:
                self._data(receipt, body)
        elif body.is_promise_yield:
            overlay = Overlay(self.block)
            key = yield_receipt_key(receipt.receiver_id, body.input_data_ids[0])
            overlay.set(key, encode_receipt(receipt))
            self._record_cause(_cause("postponed_receipt", receipt), overlay)
            overlay.commit()
        else:
            self._action(receipt, body)

    def _distribute(self, receipt: Receipt, body: DistributionReceipt) -> None:
        import hashlib

        overlay = Overlay(self.block)
        code_hash = hashlib.sha256(body.code).digest() if body.account_id is None else None
        overlay.set(global_code_key(code_hash, body.account_id), body.code)
        self._record_cause(_cause("receipt_processing", receipt), overlay)
        overlay.commit()

    def _data(self, receipt: Receipt, body: DataReceipt) -> None:
        account = receipt.receiver_id
        overlay = Overlay(self.block)
        overlay.set(received_data_key(account, body.data_id), _pack_data(body.data))
        waiting_key = postponed_id_key(account, body.data_id)
        waiting = overlay.get(waiting_key)
        ready: Receipt | None = None
        if waiting is not None:
            overlay.remove(waiting_key)
            count_key = pending_count_key(account, waiting)
            count = int.from_bytes(overlay.get(count_key) or b"", "little") - 1
            if count > 0:
                overlay.set(count_key, count.to_bytes(4, "little"))
            else:
                overlay.remove(count_key)
                stored = overlay.get(postponed_key(account, waiting))
                overlay.remove(postponed_key(account, waiting))
                ready = decode_receipt(stored) if stored is not None else None
        self._record_cause(_cause("receipt_processing", receipt), overlay)
        overlay.commit()
        if ready is not None:
            self._execute(ready)

    def _resume(self, receipt: Receipt, body: DataReceipt) -> None:
        account = receipt.receiver_id
        key = yield_receipt_key(account, body.data_id)
        stored = self.block.get(key)
        if stored is None:
            return  # already executed: later resumptions of the same yield are dropped
        overlay = Overlay(self.block)
        overlay.remove(key)
        overlay.remove(yield_status_key(account, body.data_id))
        overlay.set(received_data_key(account, body.data_id), _pack_data(body.data))
        self._record_cause(_cause("receipt_processing", receipt), overlay)
        overlay.commit()
        self._execute(decode_receipt(stored))

    def _action(self, receipt: Receipt, body: ActionReceipt) -> None:
        account = receipt.receiver_id
        missing = [
            data_id
            for data_id in body.input_data_ids
            if self.block.get(received_data_key(account, data_id)) is None
        ]
        if not missing:
            self._execute(receipt)
            return
        overlay = Overlay(self.block)
        for data_id in missing:
            overlay.set(postponed_id_key(account, data_id), receipt.receipt_id)
        overlay.set(pending_count_key(account, receipt.receipt_id), len(missing).to_bytes(4, "little"))
        overlay.set(postponed_key(account, receipt.receipt_id), encode_receipt(receipt))
        self._record_cause(_cause("postponed_receipt", receipt), overlay)
        overlay.commit()

    def _execute(self, receipt: Receipt) -> None:
        body = receipt.body
        if not isinstance(body, ActionReceipt):
            raise TypeError("only action receipts execute")
        account_id = receipt.receiver_id
        promise_results = self._take_inputs(account_id, body)
        params = self.ctx.params
        overlay = Overlay(self.block)
        base_gas = params.fee("new_action_receipt").execution
        total = ActionResult(gas_burnt=base_gas, gas_used=base_gas)
        scope = Scope(
            ctx=self.ctx,
            overlay=overlay,
            receipt=receipt,
            body=body,
            account=overlay.account(account_id),
            actor_id=receipt.predecessor_id,
            promise_results=promise_results,
        )
        for index, action in enumerate(body.actions):
            step = execute_action(
                scope,
                action,
                action_hash=action_hash(receipt.receipt_id, self.ctx.height, index),
                is_last=index + 1 == len(body.actions),
            )
            if step.error is None:
                step.error = self._new_receipts_error(step.new_receipts)
            total.merge(step)
            if total.error is not None:
                total.error.index = index
                break
        if total.error is None and scope.account is not None:
            lacking = self.ctx.lacking_for_storage(scope.account)
            if lacking:
                kind = {"LackBalanceForState": {"account_id": account_id, "amount": str(lacking)}}
                total.fail(ActionFailure(kind))
            else:
                overlay.set_account(account_id, scope.account)
        burnt = self._refunds(receipt, body, total, created=scope.created)
        if total.error is None:
            self._queue_yield_timeouts(overlay, account_id, total.new_receipts)
            self._record_cause(_cause("receipt_processing", receipt), overlay)
            overlay.commit()
        rewarded = self._reward(receipt, body, total)
        self._finish(receipt, body, total, burnt, rewarded)

    def _take_inputs(self, account_id: str, body: ActionReceipt) -> list[bytes | None]:
        results: list[bytes | None] = []
        for data_id in body.input_data_ids:
            key = received_data_key(account_id, data_id)
            results.append(_unpack_data(self.block.get(key)))
            self.block.remove(key)
        return results

    def _new_receipts_error(self, receipts: list[Receipt]) -> ActionFailure | None:
        for receipt in receipts:
            if isinstance(receipt.body, ActionReceipt):
                error = actions_error(receipt.body.actions, self.ctx.params.limits)
                if error is not None:
                    return ActionFailure({"NewReceiptValidationError": {"ActionsValidation": error}})
        return None

    # -- money -------------------------------------------------------------------------------------

    def _refunds(self, receipt: Receipt, body: ActionReceipt, total: ActionResult, *, created: bool) -> int:
        """Add refund receipts; returns the tokens burnt by this receipt (reward included)."""
        params = self.ctx.params
        deposit = fees.attached_deposit(body.actions)
        if receipt.is_refund:
            # nobody paid for a refund's gas; if it cannot be delivered its tokens are lost
            return deposit if total.error is not None else 0
        prepaid = (
            fees.attached_gas(body.actions)
            + fees.prepaid_send_fees(params, body.actions)
            + fees.prepaid_exec_fees(params, body.actions, receipt.receiver_id)
            + params.fee("new_action_receipt").execution
        )
        failed = total.error is not None
        spent = total.gas_burnt if failed else total.gas_used
        burn_price = min(body.gas_price, self.ctx.gas_price)
        charge = 0
        if created and not failed:
            paid = burn_price * params.fee("create_account").execution
            charge = max(0, params.account_creation_charge - paid)
        refund = (prepaid - spent) * body.gas_price
        refund += (body.gas_price - burn_price) * total.gas_burnt - charge
        if failed and deposit:
            total.new_receipts.append(balance_refund(body.refund_to or receipt.predecessor_id, deposit))
        if refund > 0:
            total.new_receipts.append(gas_refund(body.signer_id, refund, body.signer_public_key))
        return total.gas_burnt * burn_price + charge + total.extra_burnt

    def _reward(self, receipt: Receipt, body: ActionReceipt, total: ActionResult) -> int:
        numerator, denominator = self.ctx.params.burnt_gas_reward
        price = min(body.gas_price, self.ctx.gas_price)
        reward = total.function_call_burnt * numerator // denominator * price
        if not reward:
            return 0
        account = self.block.account(receipt.receiver_id)
        if account is None:
            return 0
        account.amount += reward
        overlay = Overlay(self.block)
        overlay.set_account(receipt.receiver_id, account)
        self._record_cause(_cause("action_receipt_gas_reward", receipt), overlay)
        overlay.commit()
        return reward

    # -- results -----------------------------------------------------------------------------------

    def _finish(
        self, receipt: Receipt, body: ActionReceipt, total: ActionResult, burnt: int, rewarded: int
    ) -> None:
        self._send_results(receipt, body, total)
        listed: list[bytes] = []
        for index, made in enumerate(total.new_receipts):
            made.receipt_id = derive_id(receipt.receipt_id, self.ctx.height, index)
            made.tx_hash = receipt.tx_hash
            if made.is_action:
                listed.append(made.receipt_id)
            self.result.new_receipts.append(made)
            (self._instant if made.is_instant else self.result.outgoing).append(made)
        outcome = Outcome(
            id=receipt.receipt_id,
            executor_id=receipt.receiver_id,
            status=self._status(receipt, total),
            gas_burnt=total.gas_burnt,
            tokens_burnt=0 if receipt.is_refund else burnt,
            logs=total.logs,
            receipt_ids=listed,
            profile=profile_json(total.profile),
            tx_hash=receipt.tx_hash,
        )
        self.result.outcomes.append((outcome, receipt))
        self.result.gas_used += total.gas_burnt
        self.result.balance_burnt += burnt - rewarded

    def _send_results(self, receipt: Receipt, body: ActionReceipt, total: ActionResult) -> None:
        if not body.output_data_receivers:
            return
        if total.error is None and isinstance(total.return_data, int):
            target = total.new_receipts[total.return_data].body
            if isinstance(target, ActionReceipt):
                target.output_data_receivers.extend(body.output_data_receivers)
            return
        value: bytes | None = None
        if total.error is None:
            value = total.return_data if isinstance(total.return_data, bytes) else b""
        total.new_receipts.extend(
            Receipt(receipt.receiver_id, receiver, DataReceipt(data_id, value))
            for data_id, receiver in body.output_data_receivers
        )

    def _status(self, receipt: Receipt, total: ActionResult) -> dict[str, Any]:
        if total.error is not None:
            return {"Failure": {"ActionError": total.error.to_json()}}
        if isinstance(total.return_data, int):
            next_id = derive_id(receipt.receipt_id, self.ctx.height, total.return_data)
            return {"SuccessReceiptId": b58encode(next_id)}
        return {"SuccessValue": base64.b64encode(total.return_data or b"").decode()}

    # -- yields ------------------------------------------------------------------------------------

    def _queue_yield_timeouts(self, overlay: Overlay, account_id: str, made: list[Receipt]) -> None:
        for receipt in made:
            body = receipt.body
            if isinstance(body, ActionReceipt) and body.is_promise_yield:
                first, following = yield_indices(overlay)
                entry = encode_string(account_id) + body.input_data_ids[0]
                expires = self.ctx.height + self.ctx.params.limits.yield_timeout_length_in_blocks
                overlay.set(yield_timeout_key(following), entry + encode_u64(expires))
                overlay.set(YIELD_INDICES_KEY, encode_u64(first) + encode_u64(following + 1))

    def _yield_timeouts(self) -> None:
        overlay = Overlay(self.block)
        first, following = yield_indices(overlay)
        begin = first
        while first < following:
            entry = yield_timeout(overlay, first)
            if entry is None or entry.expires_at > self.ctx.height:
                break
            overlay.remove(yield_timeout_key(first))
            waiting = overlay.get(yield_receipt_key(entry.account_id, entry.data_id))
            status = overlay.get(yield_status_key(entry.account_id, entry.data_id))
            if waiting is not None and status != RESUME_INITIATED:
                self.result.outgoing.append(
                    Receipt(
                        predecessor_id=entry.account_id,
                        receiver_id=entry.account_id,
                        body=DataReceipt(entry.data_id, None, is_promise_resume=True),
                        receipt_id=derive_id(entry.data_id, self.ctx.height, first - begin),
                        tx_hash=decode_receipt(waiting).tx_hash,
                    )
                )
                self.result.new_receipts.append(self.result.outgoing[-1])
                overlay.set(yield_status_key(entry.account_id, entry.data_id), RESUME_INITIATED)
            first += 1
        if first == begin:
            return
        overlay.set(YIELD_INDICES_KEY, encode_u64(first) + encode_u64(following))
        self._record_cause({"type": "update_delayed_receipts"}, overlay)
        overlay.commit()

    def _record_cause(self, cause: dict[str, str], overlay: Overlay) -> None:
        if overlay.changes:
            self.result.causes.append((cause, dict(overlay.changes)))


@dataclass(frozen=True, slots=True)
class YieldTimeout:
    """An entry of the timeout queue; the yield lapses at the end of block ``expires_at``."""

    account_id: str
    data_id: bytes
    expires_at: int


def yield_indices(state: Readable) -> tuple[int, int]:
    """First entry of the yield timeout queue, and the index after its last."""
    data = state.get(YIELD_INDICES_KEY)
    if data is None:
        return 0, 0
    reader = Reader(data)
    return reader.u64(), reader.u64()


def yield_timeout(state: Readable, index: int) -> YieldTimeout | None:
    """One entry of the yield timeout queue."""
    data = state.get(yield_timeout_key(index))
    if data is None:
        return None
    reader = Reader(data)
    return YieldTimeout(reader.string(), reader.take(32), reader.u64())


def profile_json(profile: dict[tuple[str, str], int]) -> list[dict[str, str]]:
    """The gas profile as outcomes show it: sorted by category and cost, without zeros."""
    return [
        {"cost_category": category, "cost": cost, "gas_used": str(gas)}
        for (category, cost), gas in sorted(profile.items())
        if gas
    ]


def _cause(kind: str, receipt: Receipt) -> dict[str, str]:
    return {"type": kind, "receipt_hash": b58encode(receipt.receipt_id)}


def _pack_data(data: bytes | None) -> bytes:
    return b"\x00" if data is None else b"\x01" + data


def _unpack_data(data: bytes | None) -> bytes | None:
    return None if data is None or data[:1] == b"\x00" else data[1:]
