# SPDX-License-Identifier: MIT
"""The one door to the NEAR chain: views, signed calls, event stream, borsh types."""
