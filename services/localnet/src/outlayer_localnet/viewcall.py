# SPDX-License-Identifier: MIT
"""View calls: a contract method run on state as it was after a block, its writes thrown away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outlayer_localnet import vm_errors
from outlayer_localnet.blocks import Block
from outlayer_localnet.ext import RuntimeExt
from outlayer_localnet.receipts import NO_KEY
from outlayer_localnet.state import Overlay, contract_code, get_account
from outlayer_localnet.vm import VMContext, run
from outlayer_near.primitives import is_valid_account_id

if TYPE_CHECKING:
    from outlayer_localnet.chain import CallResult, Chain

VIEW_GAS = 3 * 10**14


def run_view(chain: Chain, account_id: str, method: str, args: bytes, block: Block) -> CallResult:
    """The method's value and logs; raises ``UnknownAccountError`` if there is no such account."""
    from outlayer_localnet.chain import EPOCH_LENGTH, CallResult, UnknownAccountError

    overlay = Overlay(chain.state_at(block))
    account = get_account(overlay, account_id) if is_valid_account_id(account_id) else None
    if account is None:
        raise UnknownAccountError(account_id)
    code = contract_code(overlay, account_id, account)
    if code is None:
        return CallResult(b"", [], vm_errors.code_does_not_exist(account_id).debug())
    context = VMContext(
        current_account_id=account_id,
        signer_account_id=account_id,
        signer_account_pk=NO_KEY.to_bytes(),
        predecessor_account_id=account_id,
        refund_to_account_id=account_id,
        input=args,
        block_height=block.height,
        block_timestamp=block.timestamp,
        epoch_height=block.height // EPOCH_LENGTH,
        account_balance=account.amount,
        account_locked_balance=account.locked,
        storage_usage=account.storage_usage,
        attached_deposit=0,
        prepaid_gas=VIEW_GAS,
        random_seed=block.random_value,
        view_max_gas=VIEW_GAS,
        chain_id=chain.config.chain_id,
    )
    ext = RuntimeExt(overlay, account_id, block.hash, block.height)
    outcome = run(code, method, context, ext, [], chain.params)
    if outcome.error is not None:
        return CallResult(b"", list(outcome.logs), outcome.error.debug())
    value = outcome.return_data if isinstance(outcome.return_data, bytes) else b""
    return CallResult(value, list(outcome.logs))
