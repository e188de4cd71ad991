// SPDX-License-Identifier: MIT
//! What callers see, as JSON, and what is kept in state, as borsh.

use measurements::Measurements;
use near_sdk::{near, AccountId, PublicKey};
use quote_verify::Collateral;

#[near(serializers = [borsh])]
pub enum StoredCollateral {
    V1(Collateral, CollateralInfo),
}

/// About stored collateral; `sha256` is of its JSON as `get_collateral` gives it.
#[near(serializers = [json, borsh])]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollateralInfo {
    pub fmspc: String,
    pub sha256: String,
    pub tcb_evaluation_data_number: u32,
    pub issue_date: u64,
    pub next_update: u64,
    pub stored_at: u64,
}

#[near(serializers = [borsh])]
#[derive(Clone)]
pub enum StoredKey {
    V1(WorkerKey),
}

/// A registered key. It is valid until `expires_at`, while its measurement set is active.
#[near(serializers = [json, borsh])]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerKey {
    pub public_key: PublicKey,
    pub measurement_set: u32,
    pub measurements: Measurements,
    pub tcb_status: String,
    pub fmspc: String,
    pub verified_at: u64,
    pub expires_at: u64,
    /// SHA-256 of the quote's signed bytes: header and TD report.
    pub quote_report_sha256: String,
}

/// The answer to a registration.
#[near(serializers = [json])]
#[derive(Clone, Debug, PartialEq, Eq)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum RegisterResult {
    Approved {
        public_key: PublicKey,
        measurement_set: u32,
        tcb_status: String,
        fmspc: String,
        verified_at: u64,
        expires_at: u64,
    },
    Rejected {
        reason: String,
        detail: String,
    },
}

#[near(serializers = [json])]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootCa {
    pub sha256: String,
    pub simulated: bool,
}

#[near(serializers = [json])]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub owner_id: AccountId,
    pub init_worker_account: AccountId,
    pub outlayer_contract_id: AccountId,
    pub key_ttl_seconds: u64,
}
