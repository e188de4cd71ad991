# SPDX-License-Identifier: MIT
"""What a running contract can reach: its storage, and the receipts it is making.

This is nearcore's ``RuntimeExt`` and ``ReceiptManager``: the VM calls it, nothing here charges gas.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from outlayer_localnet.receipts import ActionReceipt, DataReceipt, Receipt, derive_id
from outlayer_localnet.state import (
    Overlay,
    data_prefix,
    get_account,
    yield_id_key,
    yield_receipt_key,
    yield_status_key,
)
from outlayer_near.primitives import Action, FunctionCall

YIELDED = b"\x00"
RESUME_INITIATED = b"\x01"


@dataclass(slots=True)
class _Outgoing:
    receiver_id: str
    actions: list[Action] = field(default_factory=list)
    input_data_ids: list[bytes] = field(default_factory=list)
    output_data_receivers: list[tuple[bytes, str]] = field(default_factory=list)
    is_promise_yield: bool = False
    refund_to: str | None = None


class RuntimeExt:
    """Storage and receipts of one function call; its writes go to the receipt's overlay."""

    def __init__(self, overlay: Overlay, account_id: str, action_hash: bytes, height: int) -> None:
        self._overlay = overlay
        self._account_id = account_id
        self._prefix = data_prefix(account_id)
        self._action_hash = action_hash
        self._height = height
        self._data_count = 0
        self._trie_nodes = 0
        self._receipts: list[_Outgoing] = []
        self._resumed: list[DataReceipt] = []
        self._weights: list[tuple[int, int, int]] = []

    # -- storage -----------------------------------------------------------------------------------

    def storage_get(self, key: bytes) -> bytes | None:
        """Value under the contract's key."""
        return self._overlay.get(self._prefix + key)

    def storage_has(self, key: bytes) -> bool:
        """Whether the contract's key has a value."""
        return self._overlay.get(self._prefix + key) is not None

    def storage_set(self, key: bytes, value: bytes) -> bytes | None:
        """Write; returns the value that was there."""
        full = self._prefix + key
        self._trie_nodes += self._overlay.path_nodes(full)
        old = self._overlay.get(full)
        self._overlay.set(full, value)
        return old

    def storage_remove(self, key: bytes) -> bytes | None:
        """Remove; returns the value that was there."""
        full = self._prefix + key
        self._trie_nodes += self._overlay.path_nodes(full)
        old = self._overlay.get(full)
        if old is not None:
            self._overlay.remove(full)
        return old

    def trie_nodes(self) -> int:
        """Trie nodes read by writes and removals since the call began."""
        return self._trie_nodes

    # -- receipts ----------------------------------------------------------------------------------

    def generate_data_id(self) -> bytes:
        """A new id for a promise's result, unique on the chain."""
        data_id = derive_id(self._action_hash, self._height, self._data_count)
        self._data_count += 1
        return data_id

    def create_action_receipt(self, deps: list[int], receiver: str) -> int:
        """A new receipt that waits for the results of ``deps``; returns its index."""
        receipt = _Outgoing(receiver)
        for dep in deps:
            data_id = self.generate_data_id()
            self._receipts[dep].output_data_receivers.append((data_id, receiver))
            receipt.input_data_ids.append(data_id)
        self._receipts.append(receipt)
        return len(self._receipts) - 1

    def create_promise_yield_receipt(self, receiver: str) -> tuple[int, bytes]:
        """A receipt that waits until its data id is resumed or times out."""
        data_id = self.generate_data_id()
        self._receipts.append(_Outgoing(receiver, input_data_ids=[data_id], is_promise_yield=True))
        self._overlay.set(yield_status_key(self._account_id, data_id), YIELDED)
        return len(self._receipts) - 1, data_id

    def create_promise_yield_receipt_with_id(
        self, receiver: str, yield_id: bytes
    ) -> tuple[int, bytes] | None:
        """The same under an id the contract chose; None if a yield with it is still waiting."""
        key = yield_id_key(self._account_id, yield_id)
        known = self._overlay.get(key)
        if known is not None and self._is_pending(known):
            return None
        index, data_id = self.create_promise_yield_receipt(receiver)
        self._overlay.set(key, data_id)
        return index, data_id

    def submit_promise_resume_data_with_yield_id(self, yield_id: bytes, data: bytes) -> bool:
        """Resume a yield of this account by the id the contract chose."""
        data_id = self._overlay.get(yield_id_key(self._account_id, yield_id))
        return data_id is not None and self.submit_promise_resume_data(data_id, data)

    def _is_pending(self, data_id: bytes) -> bool:
        if self._overlay.get(yield_receipt_key(self._account_id, data_id)) is not None:
            return True
        return self._overlay.get(yield_status_key(self._account_id, data_id)) is not None

    def submit_promise_resume_data(self, data_id: bytes, data: bytes) -> bool:
        """Resume a yield of this account; False if there is none waiting."""
        if not self._is_pending(data_id):
            return False
        self._overlay.set(yield_status_key(self._account_id, data_id), RESUME_INITIATED)
        self._resumed.append(DataReceipt(data_id, data, is_promise_resume=True))
        return True

    def get_receipt_receiver(self, index: int) -> str:
        """Receiver of a receipt made by this call."""
        return self._receipts[index].receiver_id

    def append_action(self, index: int, action: Action, gas_weight: int = 0) -> None:
        """Add an action to a receipt; ``gas_weight`` is its share of the gas left at the end."""
        actions = self._receipts[index].actions
        actions.append(action)
        if gas_weight:
            self._weights.append((index, len(actions) - 1, gas_weight))

    def set_refund_to(self, index: int, account_id: str) -> None:
        """Whom a receipt's deposits go back to if it fails."""
        self._receipts[index].refund_to = account_id

    def distribute_gas(self, unused: int) -> int:
        """Share unused gas over the weighted calls; returns what was given away (all, or nothing).

        Each gets the floor of its share, the last also the remainder.
        """
        total = sum(weight for _, _, weight in self._weights)
        if total == 0:
            return 0
        left = unused
        for index, action_index, weight in self._weights:
            share = unused * weight // total
            left -= share
            self._give(index, action_index, share)
        last_index, last_action, _ = self._weights[-1]
        self._give(last_index, last_action, left)
        return unused

    def _give(self, index: int, action_index: int, gas: int) -> None:
        action = self._receipts[index].actions[action_index]
        if isinstance(action, FunctionCall):
            self._receipts[index].actions[action_index] = replace(action, gas=action.gas + gas)

    def finish(self, parent: ActionReceipt) -> list[Receipt]:
        """The receipts made by a call that succeeded; resumptions come last."""
        made = [
            Receipt(
                self._account_id,
                out.receiver_id,
                ActionReceipt(
                    signer_id=parent.signer_id,
                    signer_public_key=parent.signer_public_key,
                    gas_price=parent.gas_price,
                    actions=tuple(out.actions),
                    output_data_receivers=out.output_data_receivers,
                    input_data_ids=out.input_data_ids,
                    is_promise_yield=out.is_promise_yield,
                    refund_to=out.refund_to,
                ),
            )
            for out in self._receipts
        ]
        made += [Receipt(self._account_id, self._account_id, data) for data in self._resumed]
        return made

    # -- accounts ----------------------------------------------------------------------------------

    def validator_stake(self, account_id: str) -> int | None:
        """Stake of a validator in yoctoNEAR; None if it is not one."""
        account = get_account(self._overlay, account_id)
        return account.locked if account is not None and account.locked else None

    def validator_total_stake(self) -> int:
        """Stake of all validators; a one-node chain has no stake at work."""
        return 0

    def code_of_current(self) -> tuple[int, bytes]:
        """Which code runs: (0) none, (1, hash) its own, (2, hash) or (3, account id) a global one."""
        account = get_account(self._overlay, self._account_id)
        if account is None:
            return 0, b""
        if account.code_hash is not None:
            return 1, account.code_hash
        if account.global_hash is not None:
            return 2, account.global_hash
        if account.global_account is not None:
            return 3, account.global_account.encode()
        return 0, b""
