# SPDX-License-Identifier: MIT
"""The commands of ``outlayer``, one module per group."""
