# SPDX-License-Identifier: MIT
"""Runs guests: separate processes with limits, compiled code kept in an authenticated cache."""
