# SPDX-License-Identifier: MIT
"""Mutants of the contracts' deciding code: each is one small change that the unit tests or the localnet must see."""
