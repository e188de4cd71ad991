# SPDX-License-Identifier: MIT
"""Public API, jobs, payments and the attestation archive."""
