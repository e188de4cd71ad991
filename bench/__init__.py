# SPDX-License-Identifier: MIT
"""Measurements of the local stack, each as a ratio to a baseline that runs in the same minute."""
