# SPDX-License-Identifier: MIT
"""Boot an image without TDX and prove that its firmware, stub and kernel measure what was predicted."""
