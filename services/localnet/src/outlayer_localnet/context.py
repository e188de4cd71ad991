# SPDX-License-Identifier: MIT
"""What every transaction and receipt of one block sees."""

from __future__ import annotations

from dataclasses import dataclass

from outlayer_localnet.params import Params
from outlayer_localnet.state import Account


@dataclass(frozen=True, slots=True)
class BlockContext:
    """A block while it is made: heights in blocks, ``timestamp`` in ns, ``gas_price`` in yoctoNEAR."""

    params: Params
    height: int
    timestamp: int
    gas_price: int
    random_value: bytes
    epoch_height: int
    chain_id: str

    def lacking_for_storage(self, account: Account) -> int:
        """yoctoNEAR the account misses for the storage it uses; 0 if it has enough or uses little."""
        if account.storage_usage <= self.params.zero_balance_account_bytes:
            return 0
        required = account.storage_usage * self.params.storage_amount_per_byte
        return max(0, required - account.amount - account.locked)
