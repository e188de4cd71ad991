# SPDX-License-Identifier: MIT
"""Pins of the images: written from a build, and compared with one."""
