# SPDX-License-Identifier: MIT
"""Change methods of the register contract (outlayer.md §2.1)."""

from __future__ import annotations

from collections.abc import Sequence

from outlayer_near.calls.build import REGISTER_GAS, call
from outlayer_near.models import NewMeasurementSet, PlatformRules, Role
from outlayer_near.primitives import FunctionCall


def new(
    owner_id: str,
    init_worker_account: str,
    outlayer_contract_id: str,
    *,
    root_ca_der: bytes | None = None,
    key_ttl_seconds: int | None = None,
    policy_delay_seconds: int | None = None,
) -> FunctionCall:
    """Make the state of a fresh contract; without a root, quotes chain to Intel's.

    With a policy delay, measurements are approved in two steps only: ``propose_policy``, ``activate_policy``.
    """
    args = {
        "owner_id": owner_id,
        "init_worker_account": init_worker_account,
        "outlayer_contract_id": outlayer_contract_id,
        "root_ca_der_hex": None if root_ca_der is None else root_ca_der.hex(),
        "key_ttl_seconds": key_ttl_seconds,
        "policy_delay_seconds": policy_delay_seconds,
    }
    return call("new", args)


def register_worker_key(public_key: str, quote: bytes, *, deposit: int = 0) -> FunctionCall:
    """Register a key by its first quote, which counts once; a key that is valid is answered as it is.

    The deposit (yoctoNEAR) pays what the registration stores before the storage balance does; its rest goes back.
    """
    args = {"public_key": public_key, "tdx_quote_hex": quote.hex()}
    return call("register_worker_key", args, gas=REGISTER_GAS, deposit=deposit)


def storage_deposit(account_id: str, deposit: int) -> FunctionCall:
    """Add to the storage balance of the registering account, from which its registrations are paid; anyone may."""
    return call("storage_deposit", {"account_id": account_id}, deposit=deposit)


def storage_withdraw(amount: int | None = None) -> FunctionCall:
    """Take back from the storage balance: an amount in yoctoNEAR, or all of it."""
    args = {"amount": None if amount is None else str(amount)}
    return call("storage_withdraw", args, deposit=1)


def reverify_worker_key(public_key: str, quote: bytes) -> FunctionCall:
    """Let a registered key live longer by a quote that commits to its challenge; anyone may bring it."""
    args = {"public_key": public_key, "tdx_quote_hex": quote.hex()}
    return call("reverify_worker_key", args, gas=REGISTER_GAS)


def remove_expired_keys(public_keys: Sequence[str] | None = None) -> FunctionCall:
    """Remove keys that are no longer valid, at most 100: call it until it gives none. Anyone may."""
    keys = None if public_keys is None else list(public_keys)
    return call("remove_expired_keys", {"public_keys": keys}, gas=REGISTER_GAS)


def remove_worker_keys(public_keys: Sequence[str]) -> FunctionCall:
    return call("remove_worker_keys", {"public_keys": list(public_keys)}, gas=REGISTER_GAS)


def update_collateral(collateral: str) -> FunctionCall:
    return call("update_collateral", {"collateral": collateral}, gas=REGISTER_GAS)


def add_measurement_set(
    measurements: dict[str, str],
    *,
    name: str | None = None,
    not_before: int | None = None,
    not_after: int | None = None,
    role: Role | None = None,
    platform: PlatformRules | None = None,
) -> FunctionCall:
    """Times are unix seconds; None means no bound on that side, a worker, and the rules of R12."""
    args = {
        "measurements": measurements,
        "name": name,
        "not_before": not_before,
        "not_after": not_after,
        "role": role,
        "platform": None if platform is None else platform.to_json(),
    }
    return call("add_measurement_set", args)


def expire_measurement_set(set_id: int, not_after: int) -> FunctionCall:
    """Let a set end, and if that is now remove up to 100 of its keys."""
    return call("expire_measurement_set", {"id": set_id, "not_after": not_after}, gas=REGISTER_GAS)


def prune_measurement_sets(limit: int | None = None) -> FunctionCall:
    """Delete sets that ended more than 90 days ago, at most 5 of those that it looks at; anyone may."""
    return call("prune_measurement_sets", {"limit": limit}, gas=REGISTER_GAS)


def propose_policy(
    sha256: str, sets: Sequence[NewMeasurementSet], *, grace_seconds: int | None = None
) -> FunctionCall:
    """Let a policy version wait for its delay: the SHA-256 of the policy file's bytes, and its tuples.

    With grace the other sets of the same roles end that long after activation.
    """
    args = {"sha256": sha256, "sets": [item.to_json() for item in sets], "grace_seconds": grace_seconds}
    return call("propose_policy", args)


def cancel_policy(version: int) -> FunctionCall:
    return call("cancel_policy", {"version": version})


def activate_policy(version: int) -> FunctionCall:
    """Let the pending version count once its delay is over; anyone may."""
    return call("activate_policy", {"version": version}, gas=REGISTER_GAS)


def revoke_policy(version: int) -> FunctionCall:
    """End all sets of a version now, without delay, and remove up to 100 keys that they admitted."""
    return call("revoke_policy", {"version": version}, gas=REGISTER_GAS)


def raise_policy_delay(policy_delay_seconds: int) -> FunctionCall:
    """Make approvals wait longer; a delay never gets shorter."""
    return call("raise_policy_delay", {"policy_delay_seconds": policy_delay_seconds})


def migrate() -> FunctionCall:
    """Bring the state into the form of the deployed code, in steps: until nothing is left; owner, or the account."""
    return call("migrate", {}, gas=REGISTER_GAS)


def transfer_ownership(new_owner: str) -> FunctionCall:
    return call("transfer_ownership", {"new_owner": new_owner})


def add_approved_measurements(
    measurements: dict[str, str], *, clear_others: bool | None = None
) -> FunctionCall:
    """The original's form: a set without bounds in time."""
    args = {"measurements": measurements, "clear_others": clear_others}
    return call("add_approved_measurements", args, gas=REGISTER_GAS)


def remove_approved_measurements(measurements: dict[str, str]) -> FunctionCall:
    return call("remove_approved_measurements", {"measurements": measurements}, gas=REGISTER_GAS)


def clear_all_approved_measurements() -> FunctionCall:
    return call("clear_all_approved_measurements", {}, gas=REGISTER_GAS)
