# SPDX-License-Identifier: MIT
"""Sizes of the contracts and gas of their methods, measured, as the page docs/reference/contracts.md."""
