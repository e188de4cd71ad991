// SPDX-License-Identifier: MIT
//! What callers see, as JSON, and what is kept in state, as borsh.

use approval::PendingPolicy;
use measurements::{Measurements, Role, TcbStatus};
use near_sdk::{near, AccountId, NearToken, PublicKey};
use quote_verify::{decode_hex, encode_hex, Fmspc};

#[near(serializers = [borsh])]
#[derive(Clone)]
pub enum StoredKey {
    V1(WorkerKeyV1),
    V2(WorkerKey),
    V3(KeyRecord),
}

/// A key as it is kept: all records take the same room.
#[near(serializers = [borsh])]
#[derive(Clone)]
pub struct KeyRecord {
    pub measurement_set: u32,
    pub measurements: Measurements,
    pub tcb_status: TcbStatus,
    pub fmspc: Fmspc,
    pub verified_at: u64,
    pub expires_at: u64,
    pub quote_report_sha256: [u8; 32],
    pub role: Role,
    pub challenge: [u8; 32],
    /// Where the key is in the index of its set.
    pub place: u64,
    /// The registering account has paid for what the key stores, and gets that back when it is removed.
    pub paid: bool,
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
    pub fn to_key(&self, public_key: &PublicKey) -> WorkerKey {
        match self.clone() {
            StoredKey::V3(record) => record.to_key(public_key),
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

impl KeyRecord {
    pub fn to_key(&self, public_key: &PublicKey) -> WorkerKey {
        WorkerKey {
            public_key: public_key.clone(),
            measurement_set: self.measurement_set,
            measurements: self.measurements.clone(),
            tcb_status: self.tcb_status.as_str().to_string(),
            fmspc: encode_hex(&self.fmspc),
            verified_at: self.verified_at,
            expires_at: self.expires_at,
            quote_report_sha256: encode_hex(&self.quote_report_sha256),
            role: self.role,
            challenge: encode_hex(&self.challenge),
        }
    }

    /// Of a key as an older version kept it, or None if one of its texts is not what it must be.
    pub fn of_key(key: &WorkerKey, place: u64) -> Option<Self> {
        Some(KeyRecord {
            measurement_set: key.measurement_set,
            measurements: key.measurements.clone(),
            tcb_status: TcbStatus::of(&key.tcb_status)?,
            fmspc: array(&key.fmspc)?,
            verified_at: key.verified_at,
            expires_at: key.expires_at,
            quote_report_sha256: array(&key.quote_report_sha256)?,
            role: key.role,
            challenge: array(&key.challenge)?,
            place,
            paid: false,
        })
    }
}

fn array<const N: usize>(text: &str) -> Option<[u8; N]> {
    decode_hex(text)?.try_into().ok()
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

/// What became of the keys that lost their approval: how many were removed now, and how many are left for
/// `remove_expired_keys`.
#[near(serializers = [json])]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeysRemoved {
    pub removed: u32,
    pub remaining: u32,
}

/// What `migrate` has left to do, to be called again.
#[near(serializers = [json])]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationLeft {
    pub measurement_sets: u32,
    pub policies: u32,
    pub keys: u32,
}

/// NEP-145, in yoctoNEAR. All of the balance is available: what registrations store was paid from it, or is owed.
#[near(serializers = [json])]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageBalance {
    pub total: NearToken,
    pub available: NearToken,
    pub owed: NearToken,
}

/// NEP-145: what one registration costs.
#[near(serializers = [json])]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageBalanceBounds {
    pub min: NearToken,
    pub max: Option<NearToken>,
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
