// SPDX-License-Identifier: MIT
//! What a run costs: pure functions of prices, limits and measured use. All sums saturate.

use crate::requests::OutputKind;
use crate::storage::price;
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

/// Outputs of at most so many bytes cost nothing beside the run: the base fee covers them.
pub const FREE_OUTPUT_BYTES: usize = 1_024;
/// YoctoNEAR for each further byte of text or JSON: twice the gas that it costs the operator at the lowest gas price.
pub const OUTPUT_BYTE_PRICE: u128 = 25_000_000_000_000_000;
/// The same for an output in the form `Bytes`, an array of numbers that takes longer to read (of its base64, that is).
pub const BYTES_OUTPUT_BYTE_PRICE: u128 = 130_000_000_000_000_000;
/// YoctoNEAR for each byte of an input that only the state holds, which the operator's call removes; likewise.
pub const INPUT_BYTE_PRICE: u128 = 4_000_000_000_000_000;

/// What an output adds to the cost of a run, in yoctoNEAR, by its bytes in the form in which it is returned.
pub fn of_output(kind: OutputKind, bytes: usize) -> u128 {
    let price = match kind {
        OutputKind::Bytes => BYTES_OUTPUT_BYTE_PRICE,
        OutputKind::Text | OutputKind::Json => OUTPUT_BYTE_PRICE,
    };
    bytes.saturating_sub(FREE_OUTPUT_BYTES) as u128 * price
}

/// What an input that only the state holds adds, in yoctoNEAR.
pub fn of_input(stored_bytes: usize) -> u128 {
    stored_bytes as u128 * INPUT_BYTE_PRICE
}

/// What a request must hold while it waits: enough for its run and its input, and for the bytes that it occupies.
pub fn waiting(compute: u128, stored_input_bytes: usize, occupied_bytes: usize) -> u128 {
    compute.saturating_add(of_input(stored_input_bytes)).max(price(occupied_bytes))
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
        // whole millions count
        let ran = actual(&pricing, &used(5_999_999, 0, None));
        assert_eq!(ran, pricing.base_fee + 5 * pricing.per_million_instructions_fee);
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
    fn sizes_are_priced_above_what_is_free() {
        for kind in [OutputKind::Text, OutputKind::Json, OutputKind::Bytes] {
            assert_eq!((of_output(kind, 0), of_output(kind, FREE_OUTPUT_BYTES)), (0, 0));
        }
        assert_eq!(of_output(OutputKind::Text, FREE_OUTPUT_BYTES + 3), 3 * OUTPUT_BYTE_PRICE);
        assert_eq!(of_output(OutputKind::Json, FREE_OUTPUT_BYTES + 3), 3 * OUTPUT_BYTE_PRICE);
        assert_eq!(of_output(OutputKind::Bytes, FREE_OUTPUT_BYTES + 3), 3 * BYTES_OUTPUT_BYTE_PRICE);
        assert_eq!((of_input(0), of_input(7)), (0, 7 * INPUT_BYTE_PRICE));
    }

    #[test]
    fn a_request_holds_enough_for_its_run_and_for_what_it_occupies() {
        assert_eq!(waiting(5, 0, 0), 5);
        assert_eq!(waiting(5, 10, 0), 5 + 10 * INPUT_BYTE_PRICE);
        assert_eq!(waiting(5, 10, 300), price(300));
        assert_eq!(waiting(u128::MAX, 10, 300), u128::MAX);
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
