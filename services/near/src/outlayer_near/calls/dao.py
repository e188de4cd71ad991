# SPDX-License-Identifier: MIT
"""Change methods of the keystore DAO (outlayer.md §3)."""

from __future__ import annotations

from collections.abc import Sequence

from outlayer_near.calls.build import REGISTER_GAS, REQUEST_GAS, call
from outlayer_near.models import CallRegister, CkdRequest, ProposalAction
from outlayer_near.primitives import FunctionCall


def new(
    owner_id: str,
    init_account_id: str,
    dao_members: Sequence[str],
    mpc_contract_id: str,
    *,
    register_contract_id: str | None = None,
    root_ca_der: bytes | None = None,
    proposal_ttl_seconds: int | None = None,
    keystore_ttl_seconds: int | None = None,
) -> FunctionCall:
    """Make the state of a fresh contract; without a root, quotes chain to Intel's."""
    args = {
        "owner_id": owner_id,
        "init_account_id": init_account_id,
        "dao_members": list(dao_members),
        "mpc_contract_id": mpc_contract_id,
        "register_contract_id": register_contract_id,
        "root_ca_der_hex": None if root_ca_der is None else root_ca_der.hex(),
        "proposal_ttl_seconds": proposal_ttl_seconds,
        "keystore_ttl_seconds": keystore_ttl_seconds,
    }
    return call("new", args)


# -- keystores -------------------------------------------------------------------------------------------


def submit_keystore_registration(
    public_key: str, quote: bytes, *, app_id: str | None = None, deposit: int = 0
) -> FunctionCall:
    """Have a keystore's quote verified and its admission put to the vote; see ``read_submission``.

    ``deposit`` is as for ``propose``.
    """
    args = {"public_key": public_key, "tdx_quote_hex": quote.hex(), "app_id": app_id}
    return call("submit_keystore_registration", args, gas=REGISTER_GAS, deposit=deposit)


def reverify_keystore(public_key: str, quote: bytes) -> FunctionCall:
    """Let an approved key live longer by a quote that commits to its challenge; anyone may bring it."""
    args = {"public_key": public_key, "tdx_quote_hex": quote.hex()}
    return call("reverify_keystore", args, gas=REGISTER_GAS)


def remove_expired_keystores(public_keys: Sequence[str] | None = None) -> FunctionCall:
    """Delete the keys of keystores that no longer count, at most 100; anyone may, until none is left."""
    keys = None if public_keys is None else list(public_keys)
    return call("remove_expired_keystores", {"public_keys": keys}, gas=REGISTER_GAS)


def request_key(request: CkdRequest) -> FunctionCall:
    """Ask the MPC network; signed by an admitted keystore's key on the DAO's own account."""
    return call("request_key", {"request": request.to_json()}, gas=REQUEST_GAS)


# -- proposals -------------------------------------------------------------------------------------------


def propose(action: ProposalAction, *, deposit: int = 0) -> FunctionCall:
    """Make a proposal, which is not a vote; members only.

    ``deposit`` in yoctoNEAR pays for its storage and comes back when it is decided; without one the DAO's account
    carries it, up to 64 KiB for each proposer.
    """
    return call("propose", {"action": action.to_json()}, gas=REGISTER_GAS, deposit=deposit)


def propose_revoke_keystore_keys(public_keys: Sequence[str], *, deposit: int = 0) -> FunctionCall:
    args = {"public_keys": list(public_keys)}
    return call("propose_revoke_keystore_keys", args, gas=REGISTER_GAS, deposit=deposit)


def vote(proposal_id: int, approve: bool) -> FunctionCall:
    """A member's vote; the one that reaches the threshold executes the proposal."""
    return call("vote", {"proposal_id": proposal_id, "approve": approve}, gas=REGISTER_GAS)


def finalize_proposal(proposal_id: int) -> FunctionCall:
    """Decide a proposal whose votes suffice since the members changed; anyone may."""
    return call("finalize_proposal", {"proposal_id": proposal_id}, gas=REGISTER_GAS)


def prune_proposals(limit: int | None = None) -> FunctionCall:
    """Remove proposals that expired, and those that were decided long ago; anyone may. Answers with ``Pruned``."""
    return call("prune_proposals", {"limit": limit}, gas=REGISTER_GAS)


def prune_measurement_sets(limit: int | None = None) -> FunctionCall:
    """Delete sets that ended more than 90 days ago; anyone may. Looks at ``limit`` sets, answers with their ids."""
    return call("prune_measurement_sets", {"limit": limit}, gas=REGISTER_GAS)


def register_call(action: FunctionCall) -> CallRegister:
    """What to propose so that the DAO makes a call of ``calls.register``."""
    return CallRegister(method=action.method_name, args=action.args.decode())


# -- owner, until the hand-over --------------------------------------------------------------------------


def add_approved_measurements(
    measurements: dict[str, str], *, clear_others: bool | None = None
) -> FunctionCall:
    """A keystore's set without bounds in time."""
    return call("add_approved_measurements", {"measurements": measurements, "clear_others": clear_others})


def remove_approved_measurements(measurements: dict[str, str]) -> FunctionCall:
    return call("remove_approved_measurements", {"measurements": measurements})


def clear_all_approved_measurements() -> FunctionCall:
    return call("clear_all_approved_measurements", {})


def add_dao_member(account_id: str) -> FunctionCall:
    return call("add_dao_member", {"member": account_id})


def remove_dao_member(account_id: str) -> FunctionCall:
    return call("remove_dao_member", {"member": account_id})


def update_collateral(collateral: str) -> FunctionCall:
    """Newer collateral; the owner may bring it after the hand-over too."""
    return call("update_collateral", {"collateral": collateral}, gas=REGISTER_GAS)


def migrate() -> FunctionCall:
    """Write the state in its newest form, for the DAO's account itself and the owner; again until nothing is left."""
    return call("migrate", {}, gas=REGISTER_GAS)


def hand_over() -> FunctionCall:
    """Give up the owner's rights for good: measurements and members change by vote only."""
    return call("hand_over", {})
