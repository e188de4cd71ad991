# SPDX-License-Identifier: MIT
"""Build the committed WASM files (contracts, guests) in the locked Debian root, and prove a rebuild equal."""
