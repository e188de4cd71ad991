# SPDX-License-Identifier: MIT
"""How far a transaction has come: its outcomes in tree order, its final status, and what to wait for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from outlayer_localnet import views
from outlayer_localnet.chain import Chain
from outlayer_localnet.runtime import Outcome
from outlayer_near.primitives import SignedTransaction, decode_hash

NONE: Final = "NONE"
INCLUDED: Final = "INCLUDED"
EXECUTED_OPTIMISTIC: Final = "EXECUTED_OPTIMISTIC"

# every block is final at once here, so each level and its "final" twin are reached together
_RANK: Final = {
    NONE: 0,
    INCLUDED: 1,
    "INCLUDED_FINAL": 1,
    EXECUTED_OPTIMISTIC: 2,
    "EXECUTED": 3,
    "FINAL": 3,
}
WAIT_LEVELS: Final = tuple(_RANK)


@dataclass(slots=True)
class TxStatus:
    """A transaction with the outcomes there are; ``waiting`` lists receipts without one."""

    signed: SignedTransaction
    height: int | None
    outcome: tuple[Outcome, int] | None
    receipts: list[tuple[Outcome, int]]
    waiting: list[bytes]
    waiting_refunds: list[bytes]

    @property
    def rank(self) -> int:
        """0 known, 1 included, 2 executed but for refunds, 3 executed."""
        if self.outcome is None:
            return 0
        if self.waiting:
            return 1
        return 2 if self.waiting_refunds else 3

    def reached(self, wait_until: str) -> bool:
        """Whether the level asked for is reached."""
        return self.rank >= _RANK[wait_until]

    @property
    def level(self) -> str:
        """``final_execution_status`` as neard names it."""
        return ("NONE", "INCLUDED_FINAL", "EXECUTED_OPTIMISTIC", "FINAL")[self.rank]


def load_status(chain: Chain, tx_hash: bytes) -> TxStatus | None:
    """What is known of a transaction; None if it was never seen."""
    found = chain.transaction(tx_hash)
    if found is None:
        return None
    signed, height = found
    status = TxStatus(signed, height, chain.outcome(tx_hash), [], [], [])
    if status.outcome is None:
        return status
    for receipt_id in _tree(chain, status.outcome[0], status):
        executed = chain.outcome(receipt_id)
        if executed is not None:
            status.receipts.append(executed)
    return status


def _tree(chain: Chain, root: Outcome, status: TxStatus) -> Iterator[bytes]:
    """Receipt ids below a transaction, parents before children; notes those without an outcome."""
    stack = list(reversed(root.receipt_ids))
    while stack:
        receipt_id = stack.pop()
        executed = chain.outcome(receipt_id)
        if executed is not None:
            yield receipt_id
            stack.extend(reversed(executed[0].receipt_ids))
            continue
        receipt = chain.receipt(receipt_id)
        if receipt is None or type(receipt.body).__name__ == "DistributionReceipt":
            continue
        (status.waiting_refunds if receipt.is_refund else status.waiting).append(receipt_id)


def final_status(status: TxStatus) -> Any:
    """``FinalExecutionStatus``: follow SuccessReceiptId links to a value or failure."""
    if status.outcome is None:
        return "NotStarted"
    by_id = {outcome.id: outcome for outcome, _ in status.receipts}
    current = status.outcome[0]
    while True:
        if "SuccessReceiptId" not in current.status:
            return current.status
        following = by_id.get(decode_hash(current.status["SuccessReceiptId"]))
        if following is None:
            return "Started"
        current = following


def to_json(chain: Chain, status: TxStatus, *, with_receipts: bool = False) -> dict[str, Any]:
    """FinalExecutionOutcomeView flattened with ``final_execution_status``."""
    if status.outcome is None:
        return {"final_execution_status": status.level}

    def shown(executed: tuple[Outcome, int]) -> Any:
        outcome, height = executed
        return views.outcome(outcome, chain.block(height).hash)

    body: dict[str, Any] = {
        "final_execution_status": status.level,
        "status": final_status(status),
        "transaction": views.transaction(status.signed),
        "transaction_outcome": shown(status.outcome),
        "receipts_outcome": [shown(executed) for executed in status.receipts],
    }
    if with_receipts:
        ids = [outcome.id for outcome, _ in status.receipts] + status.waiting + status.waiting_refunds
        found = (chain.receipt(receipt_id) for receipt_id in ids)
        body["receipts"] = [views.receipt(receipt) for receipt in found if receipt is not None]
    return body
