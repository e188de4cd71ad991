// SPDX-License-Identifier: MIT
//! Events in the NEP-297 form.

use near_sdk::env;
use near_sdk::serde::Serialize;

const VERSION: &str = "1.0.0";

#[derive(Serialize)]
#[serde(crate = "near_sdk::serde")]
struct Envelope<'a, E> {
    standard: &'a str,
    version: &'a str,
    #[serde(flatten)]
    event: E,
}

/// Data of `measurement_set_changed`: these sets end then. Ids only, since all logs of a call share 16 KB and taking
/// approval away must never fail for want of room.
#[derive(Serialize)]
#[serde(crate = "near_sdk::serde")]
pub struct SetsEnd<'a> {
    pub ids: &'a [u32],
    pub not_after: u64,
}

/// Log an event, which is an enum with `event` as tag and `data` as content.
pub fn emit<E: Serialize>(standard: &str, event: E) {
    match serde_json::to_string(&Envelope { standard, version: VERSION, event }) {
        Ok(text) => env::log_str(&format!("EVENT_JSON:{text}")),
        Err(_) => env::panic_str("The event cannot be written as JSON"),
    }
}
