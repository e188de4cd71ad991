// SPDX-License-Identifier: MIT
//! What a run costs: pure functions of prices, limits and measured use. All sums saturate.

use crate::types::{Pricing, ResourceLimits, ResourceMetrics};

const INSTRUCTIONS_PER_UNIT: u64 = 1_000_000;
const MS_PER_SECOND: u128 = 1_000;

/// The most that the limits allow, in yoctoNEAR; a compile-only request costs the base fee.
pub fn estimate(pricing: &Pricing, limits: Option<&ResourceLimits>) -> u128 {
    let Some(limits) = limits else {
        return pricing.base_fee;
    };
    let units = u128::from(limits.max_instructions / INSTRUCTIONS_PER_UNIT);
    let milliseconds = u128::from(limits.max_execution_seconds).saturating_mul(MS_PER_SECOND);
    pricing
        .base_fee
        .saturating_add(units.saturating_mul(pricing.per_million_instructions_fee))
        .saturating_add(milliseconds.saturating_mul(pricing.per_ms_fee))
}

/// What a run used, in yoctoNEAR, before the payment caps it.
pub fn actual(pricing: &Pricing, used: &ResourceMetrics) -> u128 {
    let units = u128::from(used.instructions / INSTRUCTIONS_PER_UNIT);
    let compile_ms = u128::from(used.compile_time_ms.unwrap_or(0));
    pricing
        .base_fee
        .saturating_add(units.saturating_mul(pricing.per_million_instructions_fee))
        .saturating_add(u128::from(used.time_ms).saturating_mul(pricing.per_ms_fee))
        .saturating_add(compile_ms.saturating_mul(pricing.per_compile_ms_fee))
}

/// Charged and refunded parts of a payment: they always add up to it (R8).
pub fn split(payment: u128, cost: u128) -> (u128, u128) {
    let charged = cost.min(payment);
    (charged, payment - charged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(instructions: u64, time_ms: u64, compile_time_ms: Option<u64>) -> ResourceMetrics {
        ResourceMetrics { instructions, time_ms, compile_time_ms }
    }

    #[test]
    fn estimate_follows_the_formula() {
        let limits =
            ResourceLimits { max_instructions: 10_999_999, max_memory_mb: 1, max_execution_seconds: 2 };
        let pricing = Pricing::default();
        let expected =
            pricing.base_fee + 10 * pricing.per_million_instructions_fee + 2_000 * pricing.per_ms_fee;
        assert_eq!(estimate(&pricing, Some(&limits)), expected);
        assert_eq!(estimate(&pricing, None), pricing.base_fee);
    }

    #[test]
    fn actual_counts_compilation_too() {
        let pricing = Pricing::default();
        let without = actual(&pricing, &used(1_000_000, 5, None));
        assert_eq!(actual(&pricing, &used(1_000_000, 5, Some(7))) - without, 7 * pricing.per_compile_ms_fee);
        assert_eq!(actual(&pricing, &used(0, 0, None)), pricing.base_fee);
    }

    #[test]
    fn r8_charged_and_refunded_add_up_to_the_payment() {
        let pricing = Pricing::default();
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..10_000 {
            let mut next = || {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                seed
            };
            let metrics =
                used(next() >> (next() % 64), next() >> (next() % 64), Some(next() >> (next() % 64)));
            let payment = u128::from(next()) << (next() % 64);
            let (charged, refunded) = split(payment, actual(&pricing, &metrics));
            assert_eq!(charged + refunded, payment);
            assert!(charged <= actual(&pricing, &metrics));
        }
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let limits = ResourceLimits {
            max_instructions: u64::MAX,
            max_memory_mb: u32::MAX,
            max_execution_seconds: u64::MAX,
        };
        let pricing = Pricing { per_ms_fee: u128::MAX, ..Pricing::default() };
        assert_eq!(estimate(&pricing, Some(&limits)), u128::MAX);
        assert_eq!(actual(&pricing, &used(u64::MAX, u64::MAX, Some(u64::MAX))), u128::MAX);
    }
}
