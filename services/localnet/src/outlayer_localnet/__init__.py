# SPDX-License-Identifier: MIT
"""A NEAR node for one machine that runs the real contract code."""
