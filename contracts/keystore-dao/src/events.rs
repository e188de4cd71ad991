// SPDX-License-Identifier: MIT
//! Events in the NEP-297 form: standard "outlayer-keystore-dao", version "1.0.0".

use approval::{CollateralInfo, SetsEnd};
use measurements::{MeasurementSet, RoleEnd};
use near_sdk::serde::Serialize;
use near_sdk::{AccountId, PublicKey};

use crate::{Action, Keystore, Status};

#[derive(Serialize)]
#[serde(crate = "near_sdk::serde", tag = "event", content = "data", rename_all = "snake_case")]
pub enum Event<'a> {
    ProposalCreated([ProposalCreated<'a>; 1]),
    KeystoreRejected([KeystoreRejected<'a>; 1]),
    VoteCast([VoteCast<'a>; 1]),
    ProposalDecided([ProposalDecided<'a>; 1]),
    ProposalsPruned([ProposalsPruned<'a>; 1]),
    KeystoreApproved([&'a Keystore; 1]),
    KeystoreReverified([&'a Keystore; 1]),
    KeystoreKeysRevoked([KeysRevoked<'a>; 1]),
    KeyRequested([KeyRequested<'a>; 1]),
    MeasurementSetAdded([&'a MeasurementSet; 1]),
    MeasurementSetChanged([SetsEnd<'a>; 1]),
    MeasurementSetsEnded([&'a RoleEnd; 1]),
    MeasurementSetsPruned(&'a [MeasurementSet]),
    CollateralUpdated([&'a CollateralInfo; 1]),
    MembershipChanged([MembershipChanged<'a>; 1]),
    HandedOver([HandedOver<'a>; 1]),
}

#[derive(Serialize)]
#[serde(crate = "near_sdk::serde")]
pub struct ProposalCreated<'a> {
    pub id: u64,
    /// With long texts cut to their digests.
    pub action: &'a Action,
    pub submitter: &'a AccountId,
    pub expires_at: u64,
}

#[derive(Serialize)]
#[serde(crate = "near_sdk::serde")]
pub struct KeystoreRejected<'a> {
    pub public_key: &'a PublicKey,
    pub reason: &'a str,
    pub detail: &'a str,
}

#[derive(Serialize)]
#[serde(crate = "near_sdk::serde")]
pub struct VoteCast<'a> {
    pub proposal_id: u64,
    pub member: &'a AccountId,
    pub approve: bool,
    /// Of today's members, with this vote.
    pub votes_for: u32,
    pub votes_against: u32,
    pub threshold: u32,
}

#[derive(Serialize)]
#[serde(crate = "near_sdk::serde")]
pub struct ProposalDecided<'a> {
    pub proposal_id: u64,
    pub status: Status,
    pub failure: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(crate = "near_sdk::serde")]
pub struct ProposalsPruned<'a> {
    /// Not decided in time.
    pub expired: &'a [u64],
    /// Decided long ago.
    pub forgotten: &'a [u64],
}

#[derive(Serialize)]
#[serde(crate = "near_sdk::serde")]
pub struct KeysRevoked<'a> {
    pub public_keys: &'a [PublicKey],
    /// "vote", "expired", "set_ended" or "access_key_failed".
    pub reason: &'a str,
    /// How many more are to be deleted for this reason, with `remove_expired_keystores`.
    pub remaining: u32,
}

#[derive(Serialize)]
#[serde(crate = "near_sdk::serde")]
pub struct KeyRequested<'a> {
    pub public_key: &'a PublicKey,
    pub derivation_path: &'a str,
    pub domain_id: u64,
}

#[derive(Serialize)]
#[serde(crate = "near_sdk::serde")]
pub struct MembershipChanged<'a> {
    pub added: Option<&'a AccountId>,
    pub removed: Option<&'a AccountId>,
    pub members_count: u32,
    pub threshold: u32,
}

#[derive(Serialize)]
#[serde(crate = "near_sdk::serde")]
pub struct HandedOver<'a> {
    pub owner_id: &'a AccountId,
}

pub fn emit(event: Event) {
    approval::emit("outlayer-keystore-dao", event);
}
