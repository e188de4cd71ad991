# SPDX-License-Identifier: MIT
"""The local stack as a whole: up, down, status, logs, clean."""
