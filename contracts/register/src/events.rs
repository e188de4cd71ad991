// SPDX-License-Identifier: MIT
//! Events in the NEP-297 form: standard "outlayer-register", version "1.0.0".

use approval::{CollateralInfo, PendingPolicy, PolicyVersion, SetsEnd};
use measurements::{MeasurementSet, Role, RoleEnd};
use near_sdk::serde::Serialize;
use near_sdk::{AccountId, PublicKey};

#[derive(Serialize)]
#[serde(crate = "near_sdk::serde", tag = "event", content = "data", rename_all = "snake_case")]
pub enum Event<'a> {
    WorkerKeyRegistered([KeyRegistered<'a>; 1]),
    WorkerKeyReverified([KeyRegistered<'a>; 1]),
    WorkerKeyRejected([KeyRejected<'a>; 1]),
    WorkerKeysRemoved([KeysGone<'a>; 1]),
    MeasurementSetAdded([&'a MeasurementSet; 1]),
    MeasurementSetChanged([SetsEnd<'a>; 1]),
    MeasurementSetsEnded([&'a RoleEnd; 1]),
    MeasurementSetsPruned(&'a [MeasurementSet]),
    PolicyProposed([PolicyProposed<'a>; 1]),
    PolicyCancelled([PolicyProposed<'a>; 1]),
    PolicyActivated([PolicyActivated<'a>; 1]),
    PolicyRevoked([PolicyRevoked; 1]),
    PolicyDelayRaised([PolicyDelayRaised; 1]),
    CollateralUpdated([&'a CollateralInfo; 1]),
    OwnershipTransferred([OwnershipTransferred<'a>; 1]),
}

#[derive(Serialize)]
#[serde(crate = "near_sdk::serde")]
pub struct KeyRegistered<'a> {
    pub public_key: &'a PublicKey,
    pub role: Role,
    pub measurement_set: u32,
    pub tcb_status: &'a str,
    pub fmspc: &'a str,
    pub expires_at: u64,
    /// Whether the key was there before and lives on.
    pub renewed: bool,
}

#[derive(Serialize)]
#[serde(crate = "near_sdk::serde")]
pub struct KeyRejected<'a> {
    pub public_key: &'a PublicKey,
    pub reason: &'a str,
    pub detail: &'a str,
}

#[derive(Serialize)]
#[serde(crate = "near_sdk::serde")]
pub struct KeysGone<'a> {
    pub public_keys: &'a [PublicKey],
    /// "owner", "expired" (the key or its set), "set_ended" (just now), or "access_key" (it could not be renewed).
    pub reason: &'a str,
}

/// The sets themselves are in the view `get_pending_policy`, later in `get_measurement_sets`.
#[derive(Serialize)]
#[serde(crate = "near_sdk::serde")]
pub struct PolicyProposed<'a> {
    pub version: u32,
    pub sha256: &'a str,
    pub sets_count: u32,
    pub grace_seconds: Option<u64>,
    pub activates_at: u64,
}

impl<'a> From<&'a PendingPolicy> for PolicyProposed<'a> {
    fn from(pending: &'a PendingPolicy) -> Self {
        PolicyProposed {
            version: pending.version,
            sha256: &pending.sha256,
            sets_count: pending.sets.len() as u32,
            grace_seconds: pending.grace_seconds,
            activates_at: pending.activates_at,
        }
    }
}

#[derive(Serialize)]
#[serde(crate = "near_sdk::serde")]
pub struct PolicyActivated<'a> {
    #[serde(flatten)]
    pub version: &'a PolicyVersion,
    /// How many of its sets could not count any more.
    pub left_out: u32,
}

#[derive(Serialize)]
#[serde(crate = "near_sdk::serde")]
pub struct PolicyRevoked {
    pub version: u32,
}

#[derive(Serialize)]
#[serde(crate = "near_sdk::serde")]
pub struct PolicyDelayRaised {
    pub policy_delay_seconds: u64,
}

#[derive(Serialize)]
#[serde(crate = "near_sdk::serde")]
pub struct OwnershipTransferred<'a> {
    pub old_owner: &'a AccountId,
    pub new_owner: &'a AccountId,
}

/// Say that sets end, if there are any.
pub fn emit_end(ids: &[u32], not_after: u64) {
    if !ids.is_empty() {
        emit(Event::MeasurementSetChanged([SetsEnd { ids, not_after }]));
    }
}

pub fn emit(event: Event) {
    approval::emit("outlayer-register", event);
}
