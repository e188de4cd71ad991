// SPDX-License-Identifier: MIT
//! Random valid modules out of a seed, within what contracts may use.

use arbitrary::Unstructured;
use wasm_smith::{Config, Module};

/// A module whose only export is the function `go`, without parameters and results.
const EXPORTS: &[u8] = &[
    0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00, // magic, version
    0x01, 0x04, 0x01, 0x60, 0x00, 0x00, // one type: no parameters, no results
    0x03, 0x02, 0x01, 0x00, // one function of it
    0x07, 0x06, 0x01, 0x02, b'g', b'o', 0x00, 0x00, // exported as "go"
    0x0a, 0x04, 0x01, 0x02, 0x00, 0x0b, // with an empty body
];

/// The module that these bytes lead to.
pub fn module(seed: &[u8]) -> arbitrary::Result<Vec<u8>> {
    let config = Config {
        exports: Some(EXPORTS.to_vec()),
        max_imports: 0,
        max_funcs: 12,
        min_funcs: 1,
        max_instructions: 200,
        max_globals: 8,
        max_memories: 1,
        min_memories: 1,
        max_memory32_bytes: 64 << 20,
        max_tables: 1,
        max_table_elements: 1_000,
        max_elements: 20,
        max_data_segments: 5,
        exceptions_enabled: false,
        extended_const_enabled: false,
        gc_enabled: false,
        memory64_enabled: false,
        multi_value_enabled: false,
        reference_types_enabled: false,
        relaxed_simd_enabled: false,
        simd_enabled: false,
        tail_call_enabled: false,
        threads_enabled: false,
        ..Config::default()
    };
    Ok(Module::new(config, &mut Unstructured::new(seed))?.to_bytes())
}
