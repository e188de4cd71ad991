# SPDX-License-Identifier: MIT
"""The one wasmtime configuration that compiles and runs guests.

Fuel is counted on WASM instructions before code generation: a run costs the same whatever the code quality.
"""

from __future__ import annotations

import hashlib
import json
from importlib import metadata
from typing import Any

import wasmtime

# Larger code gets the fast register allocator: a Python component (18 MB) takes 6 to 8 s instead of 18 s.
QUICK_ABOVE_BYTES = 2 * 1024 * 1024

_SETTINGS: dict[str, Any] = {
    "consume_fuel": True,
    "epoch_interruption": True,
    "wasm_threads": False,
    "shared_memory": False,
    "wasm_memory64": False,
    "wasm_gc": False,
    "wasm_function_references": False,
    "wasm_stack_switching": False,
    "wasm_relaxed_simd_deterministic": True,
    "cranelift_nan_canonicalization": True,
    "native_unwind_info": False,
    "max_wasm_stack": 1024 * 1024,
}


def settings_digest() -> str:
    """Hex SHA-256 over wasmtime's version and the settings: part of the name of a cached artifact."""
    text = json.dumps([metadata.version("wasmtime"), _SETTINGS], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def make_engine(*, quick: bool = False) -> wasmtime.Engine:
    """An engine; ``quick`` changes only how long code generation takes, not what may be loaded."""
    config = wasmtime.Config()
    for name, value in _SETTINGS.items():
        setattr(config, name, value)
    if quick:
        config.cranelift_opt_level = "none"
        config.cranelift_flag_set("regalloc_algorithm", "single_pass")
    return wasmtime.Engine(config)
