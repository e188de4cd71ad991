// SPDX-License-Identifier: MIT
//! What callers send and see, as JSON, and what is kept in state, as borsh.

use near_sdk::json_types::{Base64VecU8, U128};
use near_sdk::{near, require, AccountId};
use serde_json::value::RawValue;

use crate::projects::Offer;
use crate::requests::OutputKind;

pub const MAX_INSTRUCTIONS: u64 = 500_000_000_000;
pub const MAX_EXECUTION_SECONDS: u64 = 180;
pub const MAX_COMPILATION_SECONDS: u64 = 300;
pub const DEFAULT_MAX_INSTRUCTIONS: u64 = 1_000_000_000;
pub const DEFAULT_MAX_MEMORY_MB: u32 = 128;
pub const DEFAULT_MAX_EXECUTION_SECONDS: u64 = 60;
/// What the owner's setting is at first.
pub const DEFAULT_MOST_MEMORY_MB: u32 = 1_024;
const MAX_SOURCE_LENGTH: usize = 2_048;
/// The one default build target, here and off chain (R11).
pub const DEFAULT_BUILD_TARGET: &str = "wasm32-wasip1";

/// 64 hex digits in lower case, the one spelling of a SHA-256 that names code.
pub fn is_sha256_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Code by repository and commit, or by address and SHA-256.
#[near(serializers = [json, borsh])]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CodeSource {
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
}

impl CodeSource {
    /// What names a version of a project: the hash of its code, or repository and commit.
    pub fn version_key(&self) -> String {
        match self {
            CodeSource::GitHub { repo, commit, .. } => format!("{repo}@{commit}"),
            CodeSource::WasmUrl { hash, .. } => hash.clone(),
        }
    }

    /// Panics unless every event that names this source fits a log.
    pub fn check_length(&self) {
        require!(
            self.text_len() <= MAX_SOURCE_LENGTH,
            format!(
                "A code source has at most {MAX_SOURCE_LENGTH} bytes of text, this one {}",
                self.text_len()
            )
        );
    }

    /// Bytes of text that a version keeps in state, for its storage price.
    pub fn text_len(&self) -> usize {
        let (a, b, target) = match self {
            CodeSource::GitHub { repo, commit, build_target } => (repo, commit, build_target),
            CodeSource::WasmUrl { url, hash, build_target } => (url, hash, build_target),
        };
        a.len() + b.len() + target.as_ref().map_or(0, String::len)
    }

    pub fn with_default_target(self) -> Self {
        let fill = |target: Option<String>| target.or_else(|| Some(DEFAULT_BUILD_TARGET.to_string()));
        match self {
            CodeSource::GitHub { repo, commit, build_target } => {
                CodeSource::GitHub { repo, commit, build_target: fill(build_target) }
            }
            CodeSource::WasmUrl { url, hash, build_target } => {
                CodeSource::WasmUrl { url, hash, build_target: fill(build_target) }
            }
        }
    }
}

/// What a caller asks to run.
#[near(serializers = [json, borsh])]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecutionSource {
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

#[near(serializers = [json])]
#[derive(Clone, Debug, Default)]
#[serde(default)]
pub struct RequestParams {
    pub force_rebuild: bool,
    pub store_on_fastfs: bool,
    pub compile_only: bool,
    pub project_uuid: Option<String>,
    pub attached_usd: Option<U128>,
}

#[near(serializers = [json, borsh])]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResponseFormat {
    Bytes,
    #[default]
    Text,
    Json,
}

/// Limits as a caller gives them; absent and null members take the defaults (R10).
#[near(serializers = [json])]
#[derive(Clone, Debug, Default)]
#[serde(default)]
pub struct PartialLimits {
    pub max_instructions: Option<u64>,
    pub max_memory_mb: Option<u32>,
    pub max_execution_seconds: Option<u64>,
}

/// Limits with nothing left open.
#[near(serializers = [json, borsh])]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceLimits {
    pub max_instructions: u64,
    pub max_memory_mb: u32,
    pub max_execution_seconds: u64,
}

impl From<PartialLimits> for ResourceLimits {
    fn from(given: PartialLimits) -> Self {
        ResourceLimits {
            max_instructions: given.max_instructions.unwrap_or(DEFAULT_MAX_INSTRUCTIONS),
            max_memory_mb: given.max_memory_mb.unwrap_or(DEFAULT_MAX_MEMORY_MB),
            max_execution_seconds: given.max_execution_seconds.unwrap_or(DEFAULT_MAX_EXECUTION_SECONDS),
        }
    }
}

#[near(serializers = [json, borsh])]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretsReference {
    pub profile: String,
    pub account_id: AccountId,
}

/// A worker's output. JSON is carried as the worker wrote it: its bytes are what the attestation hashes.
#[near(serializers = [json])]
#[derive(Clone, Debug)]
pub enum ExecutionOutput {
    Bytes(Vec<u8>),
    Text(String),
    Json(Box<RawValue>),
}

impl ExecutionOutput {
    /// What the caller's promise receives: bytes as base64 text, text as a JSON string, JSON as it is.
    pub fn into_return_value(self) -> (OutputKind, Vec<u8>) {
        match self {
            ExecutionOutput::Bytes(bytes) => (OutputKind::Bytes, base64_json(bytes)),
            ExecutionOutput::Text(text) => (OutputKind::Text, text_json(&text)),
            ExecutionOutput::Json(value) => {
                (OutputKind::Json, String::from(Box::<str>::from(value)).into_bytes())
            }
        }
    }

    /// The way back, for views; None for what no output becomes.
    pub fn of_return_value(kind: OutputKind, value: Vec<u8>) -> Option<Self> {
        match kind {
            OutputKind::Bytes => {
                let bytes: Base64VecU8 = serde_json::from_slice(&value).ok()?;
                Some(ExecutionOutput::Bytes(bytes.0))
            }
            OutputKind::Text => serde_json::from_slice(&value).ok().map(ExecutionOutput::Text),
            OutputKind::Json => serde_json::from_slice(&value).ok().map(ExecutionOutput::Json),
        }
    }
}

pub fn base64_json(bytes: Vec<u8>) -> Vec<u8> {
    serde_json::to_vec(&Base64VecU8(bytes)).unwrap_or_else(|_| b"null".to_vec())
}

pub fn text_json(text: &str) -> Vec<u8> {
    serde_json::to_vec(text).unwrap_or_else(|_| b"null".to_vec())
}

/// An output as `get_request` shows it: every kind as an array of bytes.
#[near(serializers = [json])]
pub enum OutputBytes {
    Bytes(Vec<u8>),
    Text(Vec<u8>),
    Json(Vec<u8>),
}

impl From<ExecutionOutput> for OutputBytes {
    fn from(output: ExecutionOutput) -> Self {
        match output {
            ExecutionOutput::Bytes(bytes) => OutputBytes::Bytes(bytes),
            ExecutionOutput::Text(text) => OutputBytes::Text(text.into_bytes()),
            ExecutionOutput::Json(value) => OutputBytes::Json(value.get().as_bytes().to_vec()),
        }
    }
}

#[near(serializers = [json, borsh])]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceMetrics {
    pub instructions: u64,
    pub time_ms: u64,
    #[serde(default)]
    pub compile_time_ms: Option<u64>,
}

#[near(serializers = [json])]
#[derive(Clone, Debug)]
pub struct ExecutionResponse {
    pub success: bool,
    #[serde(default)]
    pub output: Option<ExecutionOutput>,
    #[serde(default)]
    pub error: Option<String>,
    pub resources_used: ResourceMetrics,
    #[serde(default)]
    pub compilation_note: Option<String>,
    #[serde(default)]
    pub refund_usd: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record_sha256: Option<String>,
}

/// A request that waits, as the original shows it: amounts are numbers.
#[near(serializers = [json])]
pub struct ExecutionRequestView {
    pub request_id: u64,
    pub data_id: Vec<u8>,
    pub sender_id: AccountId,
    pub execution_source: ExecutionSource,
    pub resolved_source: CodeSource,
    pub resource_limits: ResourceLimits,
    pub payment: u128,
    pub timestamp: u64,
    pub secrets_ref: Option<SecretsReference>,
    pub response_format: ResponseFormat,
    pub input_data: Option<String>,
    pub payer_account_id: AccountId,
    pub attached_usd: u128,
    pub project_owner: Option<AccountId>,
    pub pending_output: Option<OutputBytes>,
    pub output_submitted: bool,
}

#[near(serializers = [json])]
pub struct NearBooks {
    pub held_payments: U128,
    pub fees: U128,
}

/// What bounds inputs and outputs, and what long ones cost; prices are yoctoNEAR for each byte.
#[near(serializers = [json])]
pub struct SizeLimits {
    pub max_input_bytes: u64,
    pub max_output_bytes: u64,
    pub free_output_bytes: u64,
    /// of text and JSON
    pub output_byte_price: U128,
    /// of the base64 of an output in the form `Bytes`
    pub bytes_output_byte_price: U128,
    pub input_byte_price: U128,
}

#[near(serializers = [borsh])]
#[derive(Clone, Debug)]
pub struct Project {
    pub uuid: String,
    pub owner: AccountId,
    pub name: String,
    /// Its slot.
    pub active_version: String,
    /// of states before version 3; the others are in a list
    pub version_keys: Vec<String>,
    pub created_at: u64,
    pub storage_deposit: u128,
    pub offer: Offer,
}

#[near(serializers = [json])]
pub struct ProjectView {
    pub project_id: String,
    pub uuid: String,
    pub owner: AccountId,
    pub name: String,
    pub active_version: String,
    pub created_at: u64,
    pub storage_deposit: U128,
}

#[near(serializers = [borsh])]
#[derive(Clone, Debug)]
pub struct VersionInfo {
    pub source: CodeSource,
    pub added_at: u64,
    pub storage_deposit: u128,
}

/// `wasm_hash` is the version key; the name is part of the ABI.
#[near(serializers = [json])]
pub struct VersionView {
    pub wasm_hash: String,
    pub source: CodeSource,
    pub added_at: u64,
    pub is_active: bool,
}

/// NEAR fees in yoctoNEAR, USD fees in micro-USD.
#[near(serializers = [borsh])]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pricing {
    pub base_fee: u128,
    pub per_million_instructions_fee: u128,
    pub per_ms_fee: u128,
    pub per_compile_ms_fee: u128,
    pub base_fee_usd: u128,
    pub per_million_instructions_fee_usd: u128,
    pub per_sec_fee_usd: u128,
    pub per_compile_ms_fee_usd: u128,
}

impl Default for Pricing {
    fn default() -> Self {
        Pricing {
            base_fee: 1_000_000_000_000_000_000_000,
            per_million_instructions_fee: 100_000_000_000_000,
            per_ms_fee: 100_000_000_000_000_000,
            per_compile_ms_fee: 100_000_000_000_000_000,
            base_fee_usd: 1_000,
            per_million_instructions_fee_usd: 1,
            per_sec_fee_usd: 1,
            per_compile_ms_fee_usd: 10,
        }
    }
}

#[near(serializers = [json])]
pub struct PricingView {
    pub base_fee: U128,
    pub per_million_instructions_fee: U128,
    pub per_ms_fee: U128,
    pub per_compile_ms_fee: U128,
    pub base_fee_usd: U128,
    pub per_million_instructions_fee_usd: U128,
    pub per_sec_fee_usd: U128,
    pub per_compile_ms_fee_usd: U128,
}

impl From<&Pricing> for PricingView {
    fn from(pricing: &Pricing) -> Self {
        PricingView {
            base_fee: U128(pricing.base_fee),
            per_million_instructions_fee: U128(pricing.per_million_instructions_fee),
            per_ms_fee: U128(pricing.per_ms_fee),
            per_compile_ms_fee: U128(pricing.per_compile_ms_fee),
            base_fee_usd: U128(pricing.base_fee_usd),
            per_million_instructions_fee_usd: U128(pricing.per_million_instructions_fee_usd),
            per_sec_fee_usd: U128(pricing.per_sec_fee_usd),
            per_compile_ms_fee_usd: U128(pricing.per_compile_ms_fee_usd),
        }
    }
}
