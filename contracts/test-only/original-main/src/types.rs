// SPDX-License-Identifier: MIT
//! JSON as callers send and see it, and what the state keeps.

use near_sdk::json_types::{Base64VecU8, U128};
use near_sdk::{near, AccountId};
use serde_json::{json, Value};

pub const MAX_INSTRUCTIONS: u64 = 500_000_000_000;
pub const MAX_EXECUTION_SECONDS: u64 = 180;
pub const MAX_COMPILATION_SECONDS: u64 = 300;

/// `Project` stands for code only in a request.
#[near(serializers = [json, borsh])]
#[derive(Clone, PartialEq)]
pub enum Source {
    GitHub {
        repo: String,
        commit: String,
        #[serde(default)]
        build_target: Option<String>,
    },
    WasmUrl {
        url: String,
        hash: String,
        #[serde(default)]
        build_target: Option<String>,
    },
    Project {
        project_id: String,
        #[serde(default)]
        version_key: Option<String>,
    },
}

impl Source {
    pub fn version_key(&self) -> String {
        match self {
            Source::GitHub { repo, commit, .. } => format!("{repo}@{commit}"),
            Source::WasmUrl { hash, .. } => hash.clone(),
            Source::Project { project_id, .. } => project_id.clone(),
        }
    }

    pub fn text_len(&self) -> usize {
        let (one, two, three) = match self {
            Source::GitHub { repo, commit, build_target } => (repo, Some(commit), build_target.as_ref()),
            Source::WasmUrl { url, hash, build_target } => (url, Some(hash), build_target.as_ref()),
            Source::Project { project_id, version_key } => (project_id, version_key.as_ref(), None),
        };
        one.len() + two.map_or(0, String::len) + three.map_or(0, String::len)
    }
}

#[near(serializers = [json])]
#[derive(Default)]
#[serde(default)]
pub struct Params {
    pub force_rebuild: bool,
    pub store_on_fastfs: bool,
    pub compile_only: bool,
    pub project_uuid: Option<String>,
    pub attached_usd: Option<U128>,
}

#[near(serializers = [json, borsh])]
#[derive(Clone, Copy, Default)]
pub enum ResponseFormat {
    Bytes,
    #[default]
    Text,
    Json,
}

/// Absent members stay absent in the event, too; only prices take the defaults.
#[near(serializers = [json, borsh])]
#[derive(Clone, Default)]
#[serde(default)]
pub struct ResourceLimits {
    pub max_instructions: Option<u64>,
    pub max_memory_mb: Option<u32>,
    pub max_execution_seconds: Option<u64>,
}

#[near(serializers = [json, borsh])]
#[derive(Clone)]
pub struct SecretsRef {
    pub profile: String,
    pub account_id: AccountId,
}

#[near(serializers = [json])]
#[derive(Clone)]
pub enum Output {
    Bytes(Vec<u8>),
    Text(String),
    Json(Value),
}

impl Output {
    pub fn stored(&self) -> StoredOutput {
        match self {
            Output::Bytes(bytes) => StoredOutput::Bytes(bytes.clone()),
            Output::Text(text) => StoredOutput::Text(text.clone().into_bytes()),
            Output::Json(value) => StoredOutput::Json(value.to_string().into_bytes()),
        }
    }

    /// What the caller's promise receives.
    pub fn value(&self) -> Value {
        match self {
            Output::Bytes(bytes) => json!(Base64VecU8(bytes.clone())),
            Output::Text(text) => json!(text),
            Output::Json(value) => value.clone(),
        }
    }
}

/// In state, and as `get_request` shows it: every kind as an array of bytes.
#[near(serializers = [json, borsh])]
#[derive(Clone)]
pub enum StoredOutput {
    Bytes(Vec<u8>),
    Text(Vec<u8>),
    Json(Vec<u8>),
}

impl StoredOutput {
    pub fn output(&self) -> Output {
        match self {
            StoredOutput::Bytes(bytes) => Output::Bytes(bytes.clone()),
            StoredOutput::Text(text) => Output::Text(String::from_utf8_lossy(text).into_owned()),
            StoredOutput::Json(text) => Output::Json(serde_json::from_slice(text).unwrap_or(Value::Null)),
        }
    }
}

#[near(serializers = [json])]
#[derive(Clone, Default)]
pub struct Metrics {
    pub instructions: u64,
    pub time_ms: u64,
    #[serde(default)]
    pub compile_time_ms: Option<u64>,
}

#[near(serializers = [json])]
#[derive(Clone)]
pub struct Response {
    pub success: bool,
    #[serde(default)]
    pub output: Option<Output>,
    #[serde(default)]
    pub error: Option<String>,
    pub resources_used: Metrics,
    #[serde(default)]
    pub compilation_note: Option<String>,
    #[serde(default)]
    pub refund_usd: Option<u64>,
}

/// One request, in state and as `get_request` shows it: amounts are numbers.
#[near(serializers = [json, borsh])]
#[derive(Clone)]
pub struct Request {
    pub request_id: u64,
    pub data_id: [u8; 32],
    pub sender_id: AccountId,
    pub execution_source: Source,
    pub resolved_source: Source,
    pub resource_limits: ResourceLimits,
    pub payment: u128,
    pub timestamp: u64,
    pub secrets_ref: Option<SecretsRef>,
    pub response_format: ResponseFormat,
    pub input_data: Option<String>,
    pub payer_account_id: AccountId,
    pub attached_usd: u128,
    pub pending_output: Option<StoredOutput>,
    pub output_submitted: bool,
}

#[near(serializers = [json, borsh])]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SystemSecret {
    PaymentKey,
}

/// The order of the variants is part of the storage key.
#[near(serializers = [json, borsh])]
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Accessor {
    Repo {
        repo: String,
        #[serde(default)]
        branch: Option<String>,
    },
    WasmHash {
        hash: String,
    },
    Project {
        project_id: String,
    },
    System(SystemSecret),
}

#[near(serializers = [borsh])]
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretKey {
    pub accessor: Accessor,
    pub profile: String,
    pub owner: AccountId,
}

/// `access` is kept as JSON text: the contract does not judge it.
#[near(serializers = [borsh])]
#[derive(Clone)]
pub struct Secret {
    pub encrypted_secrets: String,
    pub access: String,
    pub created_at: u64,
    pub updated_at: u64,
    pub storage_deposit: u128,
}

#[near(serializers = [borsh])]
#[derive(Clone)]
pub struct Project {
    pub uuid: String,
    pub owner: AccountId,
    pub name: String,
    pub active_version: String,
    pub created_at: u64,
    pub storage_deposit: u128,
}

#[near(serializers = [borsh])]
#[derive(Clone)]
pub struct Version {
    pub source: Source,
    pub added_at: u64,
    pub storage_deposit: u128,
}

/// NEAR fees in yoctoNEAR, USD fees in micro-USD.
#[near(serializers = [json, borsh])]
#[derive(Clone)]
pub struct Prices {
    pub base_fee: U128,
    pub per_million_instructions_fee: U128,
    pub per_ms_fee: U128,
    pub per_compile_ms_fee: U128,
    pub base_fee_usd: U128,
    pub per_million_instructions_fee_usd: U128,
    pub per_sec_fee_usd: U128,
    pub per_compile_ms_fee_usd: U128,
}

impl Default for Prices {
    fn default() -> Self {
        Prices {
            base_fee: U128(10_u128.pow(21)),
            per_million_instructions_fee: U128(10_u128.pow(14)),
            per_ms_fee: U128(10_u128.pow(17)),
            per_compile_ms_fee: U128(10_u128.pow(17)),
            base_fee_usd: U128(1_000),
            per_million_instructions_fee_usd: U128(1),
            per_sec_fee_usd: U128(1),
            per_compile_ms_fee_usd: U128(10),
        }
    }
}

impl Prices {
    pub fn estimate(&self, limits: &ResourceLimits) -> u128 {
        let millions = u128::from(limits.max_instructions.unwrap_or(1_000_000_000) / 1_000_000);
        let seconds = u128::from(limits.max_execution_seconds.unwrap_or(60));
        self.base_fee.0 + millions * self.per_million_instructions_fee.0 + seconds * 1_000 * self.per_ms_fee.0
    }

    pub fn actual(&self, used: &Metrics) -> u128 {
        self.base_fee.0
            + u128::from(used.instructions / 1_000_000) * self.per_million_instructions_fee.0
            + u128::from(used.time_ms) * self.per_ms_fee.0
            + u128::from(used.compile_time_ms.unwrap_or(0)) * self.per_compile_ms_fee.0
    }
}
