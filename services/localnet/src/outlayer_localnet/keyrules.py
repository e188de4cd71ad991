# SPDX-License-Identifier: MIT
"""What an access key may do (nearcore ``verifier.rs``; the same for transactions and delegate actions)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from outlayer_near.primitives import AccessKey, Action, FullAccess, FunctionCall

ACCESS_KEY_NONCE_RANGE: Final = 10**6
"""Nonces a key may use per block of height; a key added at height h starts at (h - 1) times this."""


def function_call_key_error(key: AccessKey, receiver_id: str, actions: Sequence[Action]) -> Any:
    """JSON of nearcore's ``InvalidAccessKeyError`` if the key may not do this, else None."""
    permission = key.permission
    if isinstance(permission, FullAccess):
        return None
    if len(actions) != 1 or not isinstance(actions[0], FunctionCall):
        return "RequiresFullAccess"
    call = actions[0]
    if call.deposit > 0:
        return "DepositWithFunctionCall"
    if receiver_id != permission.receiver_id:
        return {"ReceiverMismatch": {"tx_receiver": receiver_id, "ak_receiver": permission.receiver_id}}
    if permission.method_names and call.method_name not in permission.method_names:
        return {"MethodNameMismatch": {"method_name": call.method_name}}
    return None
