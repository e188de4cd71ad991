// SPDX-License-Identifier: MIT
//! Prices are those that the original states; everything else is seen on the localnet.

use crate::{Metrics, Prices, ResourceLimits};

#[test]
fn a_request_with_default_limits_costs_what_the_original_says() {
    assert_eq!(Prices::default().estimate(&ResourceLimits::default()), 7_000_100_000_000_000_000_000);
}

#[test]
fn a_run_costs_instructions_time_and_compilation() {
    let used = Metrics { instructions: 5_999_999, time_ms: 12, compile_time_ms: Some(3) };
    assert_eq!(Prices::default().actual(&used), 10_u128.pow(21) + 5 * 10_u128.pow(14) + 15 * 10_u128.pow(17));
}
