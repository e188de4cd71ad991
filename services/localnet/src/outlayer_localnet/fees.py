# SPDX-License-Identifier: MIT
"""What actions cost: gas to send, gas to execute, tokens attached (nearcore ``runtime/src/config.rs``).

Pure functions of actions and a fee table. All results are gas units unless they say yoctoNEAR.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from outlayer_localnet.params import Params
from outlayer_near.primitives import (
    Action,
    AddKey,
    CreateAccount,
    Delegate,
    DeleteAccount,
    DeleteKey,
    DeployContract,
    DeployGlobalContract,
    FullAccess,
    FunctionCall,
    Stake,
    Transfer,
    UseGlobalContract,
)

_NEAR_IMPLICIT = re.compile(r"[0-9a-f]{64}")
_ETH_IMPLICIT = re.compile(r"0x[0-9a-f]{40}")
_DETERMINISTIC = re.compile(r"0s[0-9a-f]{40}")


def is_near_implicit(account_id: str) -> bool:
    """Whether the id is the hex of an ed25519 key."""
    return _NEAR_IMPLICIT.fullmatch(account_id) is not None


def is_eth_implicit(account_id: str) -> bool:
    """Whether the id is an Ethereum address."""
    return _ETH_IMPLICIT.fullmatch(account_id) is not None


def is_implicit(account_id: str) -> bool:
    """Whether the id cannot be created by a CreateAccount action."""
    return (
        is_near_implicit(account_id)
        or is_eth_implicit(account_id)
        or _DETERMINISTIC.fullmatch(account_id) is not None
    )


def _parts(action: Action, receiver_id: str) -> list[tuple[str, int]]:
    """The costs an action consists of: (name, how many units)."""
    match action:
        case CreateAccount():
            return [("create_account", 1)]
        case DeployContract(code):
            return [("deploy_contract_base", 1), ("deploy_contract_byte", len(code))]
        case FunctionCall(method_name, args):
            size = len(method_name.encode()) + len(args)
            return [("function_call_base", 1), ("function_call_byte", size)]
        case Transfer():
            return _transfer_parts(receiver_id)
        case Stake():
            return [("stake", 1)]
        case AddKey(_, access_key):
            permission = access_key.permission
            if isinstance(permission, FullAccess):
                return [("add_full_access_key", 1)]
            size = sum(len(name.encode()) + 1 for name in permission.method_names)
            return [("add_function_call_key_base", 1), ("add_function_call_key_byte", size)]
        case DeleteKey():
            return [("delete_key", 1)]
        case DeleteAccount():
            return [("delete_account", 1)]
        case Delegate():
            return [("delegate", 1)]
        case DeployGlobalContract(code):
            return [("deploy_global_contract_base", 1), ("deploy_global_contract_byte", len(code))]
        case UseGlobalContract(_, account_id):
            size = 32 if account_id is None else len(account_id)
            return [("use_global_contract_base", 1), ("use_global_contract_byte", size)]


def _transfer_parts(receiver_id: str) -> list[tuple[str, int]]:
    # a transfer to an implicit id may create the account, so it always pays for that
    parts = [("transfer", 1)]
    if is_near_implicit(receiver_id):
        parts += [("create_account", 1), ("add_full_access_key", 1)]
    elif is_eth_implicit(receiver_id):
        parts.append(("create_account", 1))
    return parts


def send_fee(table: Params, action: Action, *, sir: bool, receiver_id: str) -> int:
    """Gas burnt to send one action; a Delegate includes sending its inner actions."""
    total = 0
    for name, units in _parts(action, receiver_id):
        fee = table.fee(name)
        total += units * (fee.send_sir if sir else fee.send_not_sir)
    if isinstance(action, Delegate):
        inner = action.delegate_action
        total += send_fees(table, inner.actions, sir=sir, receiver_id=inner.receiver_id)
    return total


def send_fees(table: Params, actions: Sequence[Action], *, sir: bool, receiver_id: str) -> int:
    """Gas burnt to send the actions, without the receipt that carries them."""
    return sum(send_fee(table, action, sir=sir, receiver_id=receiver_id) for action in actions)


def exec_fee(table: Params, action: Action, receiver_id: str) -> int:
    """Gas burnt to execute one action, without what a function call itself burns."""
    return sum(units * table.fee(name).execution for name, units in _parts(action, receiver_id))


def prepaid_exec_fees(table: Params, actions: Sequence[Action], receiver_id: str) -> int:
    """Execution gas bought in advance; for a Delegate also that of the receipt it will emit."""
    total = 0
    for action in actions:
        total += exec_fee(table, action, receiver_id)
        if isinstance(action, Delegate):
            inner = action.delegate_action
            total += prepaid_exec_fees(table, inner.actions, inner.receiver_id)
            total += table.fee("new_action_receipt").execution
    return total


def prepaid_send_fees(table: Params, actions: Sequence[Action]) -> int:
    """Send gas bought in advance for the receipts that Delegate actions will emit."""
    total = 0
    for action in actions:
        if isinstance(action, Delegate):
            inner = action.delegate_action
            sir = inner.sender_id == inner.receiver_id
            receipt = table.fee("new_action_receipt")
            total += receipt.send_sir if sir else receipt.send_not_sir
            total += send_fees(table, inner.actions, sir=sir, receiver_id=inner.receiver_id)
    return total


def attached_gas(actions: Sequence[Action]) -> int:
    """Gas attached to function calls, those inside a Delegate included."""
    total = 0
    for action in actions:
        if isinstance(action, FunctionCall):
            total += action.gas
        elif isinstance(action, Delegate):
            total += attached_gas(action.delegate_action.actions)
    return total


def attached_deposit(actions: Sequence[Action]) -> int:
    """yoctoNEAR that the actions carry, those inside a Delegate included."""
    total = 0
    for action in actions:
        if isinstance(action, FunctionCall | Transfer):
            total += action.deposit
        elif isinstance(action, Delegate):
            total += attached_deposit(action.delegate_action.actions)
    return total
