// SPDX-License-Identifier: MIT
//! Promises that wait until the operator resumes them, or for 200 blocks.

use near_sdk::{env, require, Gas, GasWeight};

/// What a yield can be resumed with (protocol limit).
pub const RESUME_LIMIT: usize = 1_024;
const DATA_ID_REGISTER: u64 = 37;

/// Make `method` the end of a yield that becomes this call's result; gives the yield's data id.
pub fn create(method: &str, arguments: &[u8], gas: Gas) -> [u8; 32] {
    let promise = env::promise_yield_create(method, arguments, gas, GasWeight::default(), DATA_ID_REGISTER);
    env::promise_return(promise);
    env::read_register(DATA_ID_REGISTER)
        .and_then(|data| data.try_into().ok())
        .unwrap_or_else(|| env::panic_str("The yield has no data id"))
}

pub fn resume(data_id: &[u8; 32], payload: &[u8]) {
    require!(is_resumed(data_id, payload), "Unable to resume execution promise");
}

#[cfg(not(test))]
fn is_resumed(data_id: &[u8; 32], payload: &[u8]) -> bool {
    env::promise_yield_resume(data_id, payload)
}

/// The test environment of near-sdk knows no yields; there every one waits, but for that of zeros.
#[cfg(test)]
fn is_resumed(data_id: &[u8; 32], _: &[u8]) -> bool {
    *data_id != [0; 32]
}

/// Inside a yield's callback: what it was resumed with, or why there is nothing.
pub fn result() -> Result<Vec<u8>, &'static str> {
    env::promise_result_checked(0, RESUME_LIMIT).map_err(|_| "the yield timed out")
}
