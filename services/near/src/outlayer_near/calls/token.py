# SPDX-License-Identifier: MIT
"""Change methods of a token (NEP-141, NEP-145), as far as payments need them. Amounts in its smallest unit."""

from __future__ import annotations

from outlayer_near.calls.build import ONE_YOCTO, REQUEST_GAS, call
from outlayer_near.calls.main import transfer_message
from outlayer_near.models import DepositMessage, TopUpMessage
from outlayer_near.primitives import FunctionCall


def ft_transfer(receiver_id: str, amount: int, memo: str | None = None) -> FunctionCall:
    args = {"receiver_id": receiver_id, "amount": str(amount), "memo": memo}
    return call("ft_transfer", args, deposit=ONE_YOCTO)


def ft_transfer_call(
    receiver_id: str, amount: int, msg: TopUpMessage | DepositMessage, memo: str | None = None
) -> FunctionCall:
    """Pay the main contract: top a payment key up, or deposit for ``attached_usd``. What it refuses comes back."""
    args = {
        "receiver_id": receiver_id,
        "amount": str(amount),
        "memo": memo,
        "msg": transfer_message(msg),
    }
    return call("ft_transfer_call", args, gas=REQUEST_GAS, deposit=ONE_YOCTO)


def storage_deposit(account_id: str | None = None, *, deposit: int) -> FunctionCall:
    """Register an account, by default the caller's; only registered accounts can hold the token."""
    args = {"account_id": account_id, "registration_only": True}
    return call("storage_deposit", args, deposit=deposit)
