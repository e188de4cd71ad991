// SPDX-License-Identifier: MIT
//! The program that rustc itself ships for `wasm32-wasip2`, as rustc's own sources build it.

fn main() {
    wasm_component_ld::main()
}
