# SPDX-License-Identifier: MIT
"""Claims jobs, runs WASI guests in wasmtime, attests the results."""
