# SPDX-License-Identifier: MIT
"""Keystore DAO: proposals, votes, keystores, keys from the MPC network (outlayer.md §3, near.md §8.2).

Times are unix seconds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from outlayer_near.errors import ModelError
from outlayer_near.models.base import U32, U64, WHAT_TO_DO, Model, first_problem
from outlayer_near.models.events import EventKinds
from outlayer_near.models.register import CollateralInfo, MeasurementSet, NewMeasurementSet
from outlayer_near.models.register_events import RoleEnd, SetsEnd

DAO_STANDARD = "outlayer-keystore-dao"
ProposalStatus = Literal["Pending", "Approved", "Rejected", "Executed", "Failed", "Expired"]
"""``Approved``: passed, what it does is under way. ``Failed``: passed, but what it does was not possible."""
G1Text = Annotated[str, StringConstraints(pattern=r"\Abls12381g1:[1-9A-HJ-NP-Za-km-z]+\z")]
"""A point of BLS12-381 G1: ``bls12381g1:`` and base58 of the 48 compressed bytes."""

# -- what a proposal does --------------------------------------------------------------------------------


class ApproveKeystore(Model):
    """Made by ``submit_keystore_registration`` only: what the keystore's quote showed."""

    kind: Literal["approve_keystore"] = "approve_keystore"
    public_key: str
    measurements: dict[str, str]
    measurement_set: U32
    tcb_status: str
    fmspc: str
    quote_report_sha256: str
    app_id: str | None = None


class AddMeasurementSet(Model):
    kind: Literal["add_measurement_set"] = "add_measurement_set"
    set: NewMeasurementSet


class ExpireMeasurementSet(Model):
    """At or before now means at once."""

    kind: Literal["expire_measurement_set"] = "expire_measurement_set"
    id: U32
    not_after: U64


class UpdateCollateral(Model):
    """The JSON; its digest, as ``sha256:…``, of a decided proposal and in lists and events."""

    kind: Literal["update_collateral"] = "update_collateral"
    collateral: str


class RevokeKeystoreKeys(Model):
    kind: Literal["revoke_keystore_keys"] = "revoke_keystore_keys"
    public_keys: tuple[str, ...]


class AddMember(Model):
    kind: Literal["add_member"] = "add_member"
    account_id: str


class RemoveMember(Model):
    kind: Literal["remove_member"] = "remove_member"
    account_id: str


class CallRegister(Model):
    """A call of the register contract, which the DAO's account owns. ``args`` is a JSON object as text."""

    kind: Literal["call_register"] = "call_register"
    method: str
    args: str


ProposalAction: TypeAlias = (
    ApproveKeystore
    | AddMeasurementSet
    | ExpireMeasurementSet
    | UpdateCollateral
    | RevokeKeystoreKeys
    | AddMember
    | RemoveMember
    | CallRegister
)
_AnyAction: TypeAlias = Annotated[ProposalAction, Field(discriminator="kind")]

# -- what the contract shows -----------------------------------------------------------------------------


class Vote(Model):
    member: str
    approve: bool


class KeystoreProposal(Model):
    """``votes_for`` and ``votes_against`` count accounts that are members now (R13).

    ``public_key`` and ``measurements`` are those of a keystore to approve, None for other kinds.
    """

    id: U64
    action: _AnyAction
    public_key: str | None = None
    measurements: dict[str, str] | None = None
    submitter: str
    created_at: U64
    expires_at: U64
    votes_for: U32
    votes_against: U32
    status: ProposalStatus
    failure: str | None = None
    votes: tuple[Vote, ...] = ()


class Keystore(Model):
    """An approved keystore; its key counts until ``expires_at``, while its measurement set is active.

    ``challenge``: what the next quote for it must commit to, 64 hex digits.
    """

    public_key: str
    measurement_set: U32
    proposal_id: U64
    approved_at: U64
    expires_at: U64
    challenge: str


class DaoConfig(Model):
    owner_id: str
    init_account_id: str
    mpc_contract_id: str
    approval_threshold: U32
    dao_members_count: U32
    next_proposal_id: U64
    approved_keystores_count: U32
    approved_measurements_count: U32
    has_collateral: bool
    handed_over: bool
    register_contract_id: str | None = None
    proposal_ttl_seconds: U64
    keystore_ttl_seconds: U64
    proposals_count: U64 | None = None
    """How many there are now; None from contracts before state version 2."""


class Pruned(Model):
    """What ``prune_proposals`` removed, by number, and whether another call would remove more."""

    expired: tuple[U64, ...]
    forgotten: tuple[U64, ...]
    more: bool


class Refused(Model):
    """Why a keystore's quote led to no proposal."""

    status: Literal["rejected"]
    reason: str
    detail: str


_submission: TypeAdapter[int | Refused] = TypeAdapter(U64 | Refused)


def read_submission(value: Any) -> int | Refused:
    """Answer of ``submit_keystore_registration``: the proposal's number, or why there is none."""
    try:
        return _submission.validate_python(value, strict=True)
    except ValidationError as error:
        raise ModelError(first_problem("submission", error), hint=WHAT_TO_DO) from None


class CkdRequest(Model):
    """What the MPC signer is asked for; domain 2 is BLS12-381.

    ``app_public_key`` is a text, or one of the signer's tagged forms of it.
    """

    derivation_path: str
    app_public_key: G1Text | dict[str, Any]
    domain_id: U64 = 2


class CkdResponse(Model):
    """The signer's answer, encrypted to ``app_public_key``."""

    big_y: G1Text
    big_c: G1Text


# -- events ----------------------------------------------------------------------------------------------


class ProposalCreated(Model):
    id: U64
    action: _AnyAction
    submitter: str
    expires_at: U64


class KeystoreRejected(Model):
    public_key: str
    reason: str
    detail: str


class VoteCast(Model):
    """The counts are of today's members, with this vote."""

    proposal_id: U64
    member: str
    approve: bool
    votes_for: U32
    votes_against: U32
    threshold: U32


class ProposalDecided(Model):
    proposal_id: U64
    status: ProposalStatus
    failure: str | None = None


class ProposalsPruned(Model):
    """``expired``: not decided in time. ``forgotten``: decided long ago."""

    expired: tuple[U64, ...]
    forgotten: tuple[U64, ...]


class KeystoreKeysRevoked(Model):
    """``remaining``: how many more ``remove_expired_keystores`` has to delete for this reason."""

    public_keys: tuple[str, ...]
    reason: Literal["vote", "expired", "set_ended", "access_key_failed"]
    remaining: U32 = 0


class KeyRequested(Model):
    public_key: str
    derivation_path: str
    domain_id: U64


class MembershipChanged(Model):
    added: str | None = None
    removed: str | None = None
    members_count: U32
    threshold: U32


class HandedOver(Model):
    owner_id: str


DAO_EVENTS: EventKinds = {
    "proposal_created": TypeAdapter(tuple[ProposalCreated, ...]),
    "keystore_rejected": TypeAdapter(tuple[KeystoreRejected, ...]),
    "vote_cast": TypeAdapter(tuple[VoteCast, ...]),
    "proposal_decided": TypeAdapter(tuple[ProposalDecided, ...]),
    "proposals_pruned": TypeAdapter(tuple[ProposalsPruned, ...]),
    "keystore_approved": TypeAdapter(tuple[Keystore, ...]),
    "keystore_reverified": TypeAdapter(tuple[Keystore, ...]),
    "keystore_keys_revoked": TypeAdapter(tuple[KeystoreKeysRevoked, ...]),
    "key_requested": TypeAdapter(tuple[KeyRequested, ...]),
    "measurement_set_added": TypeAdapter(tuple[MeasurementSet, ...]),
    "measurement_set_changed": TypeAdapter(tuple[SetsEnd, ...]),
    "measurement_sets_ended": TypeAdapter(tuple[RoleEnd, ...]),
    "measurement_sets_pruned": TypeAdapter(tuple[MeasurementSet, ...]),
    "collateral_updated": TypeAdapter(tuple[CollateralInfo, ...]),
    "membership_changed": TypeAdapter(tuple[MembershipChanged, ...]),
    "handed_over": TypeAdapter(tuple[HandedOver, ...]),
}
