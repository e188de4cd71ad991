# SPDX-License-Identifier: MIT
"""For auditors: pack all inputs of the images, rebuild an image from a clean clone, and name what differs."""
