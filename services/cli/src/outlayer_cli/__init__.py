# SPDX-License-Identifier: MIT
"""One command for developers, operators and auditors."""
