// SPDX-License-Identifier: MIT
//! What callers see, as JSON, and what is kept in state, as borsh.

use approval::PendingPolicy;
use measurements::{Measurements, Role};
use near_sdk::{near, AccountId, PublicKey};

#[near(serializers = [borsh])]
#[derive(Clone)]
pub enum StoredKey {
    V1(WorkerKeyV1),
    V2(WorkerKey),
}

/// A key as it was kept before roles.
#[near(serializers = [borsh])]
#[derive(Clone)]
pub struct WorkerKeyV1 {
    public_key: PublicKey,
    measurement_set: u32,
    measurements: Measurements,
    tcb_status: String,
    fmspc: String,
    verified_at: u64,
    expires_at: u64,
    quote_report_sha256: String,
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
    pub role: Role,
    /// What the next quote for this key must commit to (`reverify_worker_key`), 64 hex digits.
    pub challenge: String,
}

impl StoredKey {
    pub fn to_key(&self) -> WorkerKey {
        match self.clone() {
            StoredKey::V2(key) => key,
            // all were workers'; the first challenge is what is known of the quote that registered the key
            StoredKey::V1(old) => WorkerKey {
                public_key: old.public_key,
                measurement_set: old.measurement_set,
                measurements: old.measurements,
                tcb_status: old.tcb_status,
                fmspc: old.fmspc,
                verified_at: old.verified_at,
                expires_at: old.expires_at,
                challenge: old.quote_report_sha256.clone(),
                quote_report_sha256: old.quote_report_sha256,
                role: Role::Worker,
            },
        }
    }
}

/// The answer to a registration or a re-verification.
#[near(serializers = [json])]
#[derive(Clone, Debug, PartialEq, Eq)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum RegisterResult {
    Approved {
        public_key: PublicKey,
        role: Role,
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
pub struct PendingPolicyView {
    #[serde(flatten)]
    pub policy: PendingPolicy,
    pub seconds_until_activation: u64,
}

#[near(serializers = [json])]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub owner_id: AccountId,
    pub init_worker_account: AccountId,
    pub outlayer_contract_id: AccountId,
    pub key_ttl_seconds: u64,
    pub policy_delay_seconds: u64,
}
