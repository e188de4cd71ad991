# SPDX-License-Identifier: MIT
"""Keystore DAO: proposals, votes, keys from the MPC network (outlayer.md §3, near.md §8.2)."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import StringConstraints

from outlayer_near.models.base import U32, U64, Model

Measurements: TypeAlias = dict[str, str]
ProposalStatus = Literal["Pending", "Approved", "Rejected", "Executed", "Expired"]
G1Text = Annotated[str, StringConstraints(pattern=r"\Abls12381g1:[1-9A-HJ-NP-Za-km-z]+\z")]
"""A point of BLS12-381 G1: ``bls12381g1:`` and base58 of the 48 compressed bytes."""


class CkdRequest(Model):
    """What the MPC signer is asked for; domain 2 is BLS12-381."""

    derivation_path: str
    app_public_key: G1Text
    domain_id: U64 = 2


class CkdResponse(Model):
    """The signer's answer, encrypted to ``app_public_key``."""

    big_y: G1Text
    big_c: G1Text


class DaoConfig(Model):
    owner_id: str
    init_account_id: str
    mpc_contract_id: str
    approval_threshold: U32
    dao_members_count: U64
    next_proposal_id: U64
    approved_keystores_count: U64
    approved_measurements_count: U64
    has_collateral: bool


class KeystoreProposal(Model):
    """``votes_for`` and ``votes_against`` count accounts that are members now (R13)."""

    id: U64
    public_key: str
    measurements: Measurements
    submitter: str
    created_at: U64
    votes_for: U32
    votes_against: U32
    status: ProposalStatus
