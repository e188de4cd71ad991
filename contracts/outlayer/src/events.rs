// SPDX-License-Identifier: MIT
//! Events in the NEP-297 form. Names, members and order are part of the ABI.

use near_sdk::json_types::U128;
use near_sdk::serde::Serialize;
use near_sdk::{env, AccountId};

use crate::types::{CodeSource, ResourceLimits, ResourceMetrics, ResponseFormat, SecretsReference};

/// `request_data` of `execution_requested`: a JSON text inside the event.
#[derive(Serialize)]
#[serde(crate = "near_sdk::serde")]
pub struct RequestData<'a> {
    pub request_id: u64,
    pub sender_id: &'a AccountId,
    pub predecessor_id: &'a AccountId,
    pub code_source: &'a CodeSource,
    pub resource_limits: &'a ResourceLimits,
    pub input_data: &'a str,
    pub input_data_in_state: bool,
    pub secrets_ref: &'a Option<SecretsReference>,
    pub response_format: ResponseFormat,
    pub payment: String,
    pub attached_usd: String,
    pub timestamp: u64,
    pub compile_only: bool,
    pub force_rebuild: bool,
    pub store_on_fastfs: bool,
    pub project_uuid: Option<&'a str>,
    pub project_id: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(crate = "near_sdk::serde")]
pub struct Requested {
    pub request_data: String,
    pub data_id: [u8; 32],
    pub timestamp: u64,
}

#[derive(Serialize)]
#[serde(crate = "near_sdk::serde")]
pub struct Completed<'a> {
    pub sender_id: &'a AccountId,
    pub code_source: &'a CodeSource,
    pub resources_used: &'a ResourceMetrics,
    pub success: bool,
    pub error_message: Option<&'a str>,
    pub payment_charged: String,
    pub payment_refunded: String,
    pub compilation_note: Option<&'a str>,
    pub timestamp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record_sha256: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(crate = "near_sdk::serde")]
pub enum SystemEvent<'a> {
    TopUpPaymentKey {
        data_id: [u8; 32],
        owner: &'a AccountId,
        nonce: u32,
        amount: U128,
        encrypted_data: &'a str,
    },
    DeletePaymentKey {
        data_id: [u8; 32],
        owner: &'a AccountId,
        nonce: u32,
    },
    ProjectStorageCleanup {
        project_id: &'a str,
        project_uuid: &'a str,
        timestamp: u64,
    },
}

#[derive(Serialize)]
#[serde(crate = "near_sdk::serde")]
struct Event<'a, T> {
    standard: &'a str,
    version: &'a str,
    event: &'a str,
    data: [T; 1],
}

/// All logs of a call share 16,384 bytes; the rest is for short lines beside the event.
const MOST_EVENT_BYTES: usize = 15_360;

/// The log line of one event under the contract's standard and version.
pub fn render<T: Serialize>(standard: &str, version: &str, event: &str, data: T) -> String {
    let event = Event { standard, version, event, data: [data] };
    let text = serde_json::to_string(&event)
        .unwrap_or_else(|_| env::panic_str("An event could not be written as JSON"));
    format!("EVENT_JSON:{text}")
}

/// The bytes of a text between the quotes of a JSON string.
pub fn escaped_len(text: &str) -> usize {
    let size = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0x00..=0x1f => 6,
        _ => 1,
    };
    text.bytes().map(size).sum()
}

/// Whether a line can be logged beside the short ones.
pub fn fits(line: &str) -> bool {
    line.len() <= MOST_EVENT_BYTES
}
