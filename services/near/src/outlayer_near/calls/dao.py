# SPDX-License-Identifier: MIT
"""Change methods of the keystore DAO (outlayer.md §3)."""

from __future__ import annotations

from outlayer_near.calls.build import REGISTER_GAS, REQUEST_GAS, call
from outlayer_near.models import CkdRequest
from outlayer_near.primitives import FunctionCall


def submit_keystore_registration(public_key: str, quote: bytes, *, app_id: str | None = None) -> FunctionCall:
    """Have a keystore's quote verified and its admission put to the vote."""
    args = {"public_key": public_key, "tdx_quote_hex": quote.hex(), "app_id": app_id}
    return call("submit_keystore_registration", args, gas=REGISTER_GAS)


def vote(proposal_id: int, approve: bool) -> FunctionCall:  # noqa: FBT001, RUF100 - as the method has it
    """A member's vote; the one that reaches the threshold executes the proposal."""
    return call("vote", {"proposal_id": proposal_id, "approve": approve}, gas=REQUEST_GAS)


def request_key(request: CkdRequest) -> FunctionCall:
    """Ask the MPC network, as an admitted keystore does with its key on the DAO's account."""
    return call("request_key", {"request": request.to_json()}, gas=REQUEST_GAS)
