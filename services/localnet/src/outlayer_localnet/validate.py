# SPDX-License-Identifier: MIT
"""Whether actions are well formed, before anything is charged (nearcore ``verifier.rs``).

The result is the JSON of nearcore's ``ActionsValidationError``, or None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from outlayer_localnet.fees import attached_gas
from outlayer_localnet.params import Limits
from outlayer_near.primitives import (
    ED25519,
    Action,
    AddKey,
    Delegate,
    DeleteAccount,
    DeployContract,
    DeployGlobalContract,
    FunctionCall,
    FunctionCallPermission,
    Stake,
    is_valid_account_id,
)


def actions_error(actions: Sequence[Action], limits: Limits) -> Any:
    """JSON of the first thing wrong with the actions, or None."""
    if len(actions) > limits.max_actions_per_receipt:
        return {
            "TotalNumberOfActionsExceeded": {
                "total_number_of_actions": len(actions),
                "limit": limits.max_actions_per_receipt,
            }
        }
    delegates = 0
    for index, action in enumerate(actions):
        if isinstance(action, DeleteAccount) and index + 1 < len(actions):
            return "DeleteActionMustBeFinal"
        if isinstance(action, Delegate):
            delegates += 1
            if delegates > 1:
                return "DelegateActionMustBeOnlyOne"
        error = _action_error(action, limits)
        if error is not None:
            return error
    gas = attached_gas(actions)
    if gas >= 1 << 64:
        return "IntegerOverflow"
    if gas > limits.max_total_prepaid_gas:
        return {"TotalPrepaidGasExceeded": {"total_prepaid_gas": gas, "limit": limits.max_total_prepaid_gas}}
    return None


def _action_error(action: Action, limits: Limits) -> Any:
    match action:
        case DeployContract(code) | DeployGlobalContract(code):
            if len(code) > limits.max_contract_size:
                return {"ContractSizeExceeded": {"size": len(code), "limit": limits.max_contract_size}}
        case FunctionCall():
            return _function_call_error(action, limits)
        case Stake(_, public_key) if public_key.key_type != ED25519:
            return {"UnsuitableStakingKey": {"public_key": str(public_key)}}
        case AddKey(_, access_key) if isinstance(access_key.permission, FunctionCallPermission):
            return _permission_error(access_key.permission, limits)
        case Delegate(delegate_action):
            return actions_error(delegate_action.actions, limits)
    return None


def _function_call_error(action: FunctionCall, limits: Limits) -> Any:
    name_length, args_length = len(action.method_name.encode()), len(action.args)
    if action.gas == 0:
        return "FunctionCallZeroAttachedGas"
    if name_length > limits.max_length_method_name:
        body = {"length": name_length, "limit": limits.max_length_method_name}
        return {"FunctionCallMethodNameLengthExceeded": body}
    if args_length > limits.max_arguments_length:
        body = {"length": args_length, "limit": limits.max_arguments_length}
        return {"FunctionCallArgumentsLengthExceeded": body}
    return None


def _permission_error(permission: FunctionCallPermission, limits: Limits) -> Any:
    if not is_valid_account_id(permission.receiver_id):
        return {"InvalidAccountId": {"account_id": permission.receiver_id}}
    total = 0
    for name in permission.method_names:
        length = len(name.encode())
        if length > limits.max_length_method_name:
            body = {"length": length, "limit": limits.max_length_method_name}
            return {"AddKeyMethodNameLengthExceeded": body}
        total += length + 1
    if total > limits.max_number_bytes_method_names:
        body = {"total_number_of_bytes": total, "limit": limits.max_number_bytes_method_names}
        return {"AddKeyMethodNamesNumberOfBytesExceeded": body}
    return None
