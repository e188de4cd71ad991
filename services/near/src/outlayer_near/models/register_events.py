# SPDX-License-Identifier: MIT
"""Data of the register contract's events (standard ``outlayer-register``)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, TypeAdapter

from outlayer_near.models.base import U32, U64, Model
from outlayer_near.models.events import EventKinds
from outlayer_near.models.register import CollateralInfo, MeasurementSet, PolicyVersion, Role

REGISTER_STANDARD = "outlayer-register"


class WorkerKeyRegistered(Model):
    """Registered, or verified again. ``renewed``: the key was there before and lives on."""

    public_key: str
    role: Role = "worker"
    measurement_set: U32
    tcb_status: str
    fmspc: str
    expires_at: U64
    renewed: bool


class WorkerKeyRejected(Model):
    public_key: str
    reason: str
    detail: str


class WorkerKeysRemoved(Model):
    public_keys: tuple[str, ...]
    reason: Literal["owner", "expired", "set_ended", "access_key"]
    """``expired``: the key or its set; ``set_ended``: by this call; ``access_key``: it could not be renewed."""


class SetsEnd(Model):
    """``measurement_set_changed``: these sets end then; the sets themselves are in a view."""

    ids: tuple[U32, ...]
    not_after: U64


class RoleEnd(Model):
    """``measurement_sets_ended``: all sets of a role up to ``last_id`` end then at the latest, but for ``except``."""

    role: Role
    last_id: U32
    spared: tuple[U32, ...] = Field(alias="except")
    not_after: U64


class PolicyProposed(Model):
    """A version that waits, or was cancelled; its sets are in ``get_pending_policy``, later in a view of sets."""

    version: U32
    sha256: str
    sets_count: U32
    grace_seconds: U64 | None = None
    activates_at: U64


class PolicyActivated(PolicyVersion):
    """``left_out``: how many of its sets could not count any more."""

    left_out: U32 = 0


class PolicyRevoked(Model):
    version: U32


class PolicyDelayRaised(Model):
    policy_delay_seconds: U64


class OwnershipTransferred(Model):
    old_owner: str
    new_owner: str


REGISTER_EVENTS: EventKinds = {
    "worker_key_registered": TypeAdapter(tuple[WorkerKeyRegistered, ...]),
    "worker_key_reverified": TypeAdapter(tuple[WorkerKeyRegistered, ...]),
    "worker_key_rejected": TypeAdapter(tuple[WorkerKeyRejected, ...]),
    "worker_keys_removed": TypeAdapter(tuple[WorkerKeysRemoved, ...]),
    "measurement_set_added": TypeAdapter(tuple[MeasurementSet, ...]),
    "measurement_set_changed": TypeAdapter(tuple[SetsEnd, ...]),
    "measurement_sets_ended": TypeAdapter(tuple[RoleEnd, ...]),
    "measurement_sets_pruned": TypeAdapter(tuple[MeasurementSet, ...]),
    "policy_proposed": TypeAdapter(tuple[PolicyProposed, ...]),
    "policy_cancelled": TypeAdapter(tuple[PolicyProposed, ...]),
    "policy_activated": TypeAdapter(tuple[PolicyActivated, ...]),
    "policy_revoked": TypeAdapter(tuple[PolicyRevoked, ...]),
    "policy_delay_raised": TypeAdapter(tuple[PolicyDelayRaised, ...]),
    "collateral_updated": TypeAdapter(tuple[CollateralInfo, ...]),
    "ownership_transferred": TypeAdapter(tuple[OwnershipTransferred, ...]),
}
