// SPDX-License-Identifier: MIT
//! Events in the NEP-297 form: standard "outlayer-register", version "1.0.0".

use near_sdk::serde::Serialize;
use near_sdk::{env, AccountId, PublicKey};

use measurements::MeasurementSet;

const STANDARD: &str = "outlayer-register";
const VERSION: &str = "1.0.0";

#[derive(Serialize)]
#[serde(crate = "near_sdk::serde", tag = "event", content = "data", rename_all = "snake_case")]
pub enum Event<'a> {
    WorkerKeyRegistered([KeyRegistered<'a>; 1]),
    WorkerKeyRejected([KeyRejected<'a>; 1]),
    WorkerKeysRemoved([KeysRemoved<'a>; 1]),
    MeasurementSetAdded([&'a MeasurementSet; 1]),
    MeasurementSetChanged([&'a MeasurementSet; 1]),
    CollateralUpdated([&'a crate::CollateralInfo; 1]),
    OwnershipTransferred([OwnershipTransferred<'a>; 1]),
}

#[derive(Serialize)]
#[serde(crate = "near_sdk::serde")]
pub struct KeyRegistered<'a> {
    pub public_key: &'a PublicKey,
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
pub struct KeysRemoved<'a> {
    pub public_keys: &'a [PublicKey],
    /// "owner" or "expired".
    pub reason: &'a str,
}

#[derive(Serialize)]
#[serde(crate = "near_sdk::serde")]
pub struct OwnershipTransferred<'a> {
    pub old_owner: &'a AccountId,
    pub new_owner: &'a AccountId,
}

#[derive(Serialize)]
#[serde(crate = "near_sdk::serde")]
struct Envelope<'a> {
    standard: &'a str,
    version: &'a str,
    #[serde(flatten)]
    event: Event<'a>,
}

pub fn emit(event: Event) {
    let envelope = Envelope { standard: STANDARD, version: VERSION, event };
    if let Ok(text) = serde_json::to_string(&envelope) {
        env::log_str(&format!("EVENT_JSON:{text}"));
    }
}
