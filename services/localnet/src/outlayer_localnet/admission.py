# SPDX-License-Identifier: MIT
"""Whether a transaction may enter the chain, and what it pays when it does.

Order and error JSON of nearcore's ``verify_and_charge_transaction``; near.md's rules for gas bought at
``min_gas_purchase_price`` (NEP-642). Amounts are yoctoNEAR.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from outlayer_localnet import fees
from outlayer_localnet.context import BlockContext
from outlayer_localnet.errors import LocalnetError
from outlayer_localnet.keyrules import ACCESS_KEY_NONCE_RANGE, function_call_key_error
from outlayer_localnet.state import Overlay
from outlayer_localnet.validate import actions_error
from outlayer_near.primitives import AccessKey, FullAccess, SignedTransaction, Transaction


class InvalidTxError(LocalnetError):
    """The transaction is refused; ``detail`` is nearcore's ``InvalidTxError`` as JSON."""

    def __init__(self, detail: Any) -> None:
        super().__init__(f"invalid transaction: {detail}")
        self.detail = detail


def _bad_key(detail: Any) -> InvalidTxError:
    return InvalidTxError({"InvalidAccessKeyError": detail})


@dataclass(frozen=True, slots=True)
class Charge:
    """What the signer pays: ``gas_burnt`` now at the block's price, the rest bought at ``gas_price``."""

    gas_burnt: int
    burnt_amount: int
    gas_price: int
    total: int


def transaction_cost(transaction: Transaction, ctx: BlockContext) -> Charge:
    """The charge for a well-formed transaction at the block's gas price."""
    params = ctx.params
    actions, receiver = transaction.actions, transaction.receiver_id
    sir = transaction.signer_id == receiver
    receipt = params.fee("new_action_receipt")
    burnt = receipt.send(sir=sir) + fees.send_fees(params, actions, sir=sir, receiver_id=receiver)
    bought = (
        fees.attached_gas(actions)
        + receipt.execution
        + fees.prepaid_exec_fees(params, actions, receiver)
        + fees.prepaid_send_fees(params, actions)
    )
    price = max(ctx.gas_price, params.min_gas_purchase_price)
    burnt_amount = burnt * ctx.gas_price
    return Charge(burnt, burnt_amount, price, burnt_amount + bought * price + fees.attached_deposit(actions))


def check_transaction(signed: SignedTransaction, size: int, ctx: BlockContext) -> None:
    """Checks that need no state: actions, size in bytes, signature. Raises :class:`InvalidTxError`."""
    limits = ctx.params.limits
    error = actions_error(signed.transaction.actions, limits)
    if error is not None:
        raise InvalidTxError({"ActionsValidation": error})
    if size > limits.max_transaction_size:
        body = {"size": size, "limit": limits.max_transaction_size}
        raise InvalidTxError({"TransactionSizeExceeded": body})
    if not signed.verify():
        raise InvalidTxError("InvalidSignature")


def charge_transaction(state: Overlay, signed: SignedTransaction, ctx: BlockContext) -> Charge:
    """Debit the signer and use up the nonce; raises :class:`InvalidTxError` and then writes nothing."""
    tx = signed.transaction
    account = state.account(tx.signer_id)
    if account is None:
        raise InvalidTxError({"SignerDoesNotExist": {"signer_id": tx.signer_id}})
    key = state.access_key(tx.signer_id, tx.public_key)
    names = {"account_id": tx.signer_id, "public_key": str(tx.public_key)}
    if key is None:
        raise _bad_key({"AccessKeyNotFound": names})
    _check_nonce(tx.nonce, key, ctx.height)
    charge = transaction_cost(tx, ctx)
    if account.amount < charge.total:
        body = {"signer_id": tx.signer_id, "balance": str(account.amount), "cost": str(charge.total)}
        raise InvalidTxError({"NotEnoughBalance": body})
    account.amount -= charge.total
    permission = key.permission
    if not isinstance(permission, FullAccess) and permission.allowance is not None:
        if permission.allowance < charge.total:
            body = names | {"allowance": str(permission.allowance), "cost": str(charge.total)}
            raise _bad_key({"NotEnoughAllowance": body})
        permission = replace(permission, allowance=permission.allowance - charge.total)
    lacking = ctx.lacking_for_storage(account)
    if lacking:
        body = {"signer_id": tx.signer_id, "amount": str(lacking)}
        raise InvalidTxError({"LackBalanceForState": body})
    refusal = function_call_key_error(key, tx.receiver_id, tx.actions)
    if refusal is not None:
        raise _bad_key(refusal)
    state.set_account(tx.signer_id, account)
    state.set_access_key(tx.signer_id, tx.public_key, AccessKey(tx.nonce, permission))
    return charge


def _check_nonce(nonce: int, key: AccessKey, height: int) -> None:
    if nonce <= key.nonce:
        raise InvalidTxError({"InvalidNonce": {"tx_nonce": nonce, "ak_nonce": key.nonce}})
    upper = height * ACCESS_KEY_NONCE_RANGE
    if nonce >= upper:
        raise InvalidTxError({"NonceTooLarge": {"tx_nonce": nonce, "upper_bound": upper}})
