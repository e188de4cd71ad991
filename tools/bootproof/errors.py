# SPDX-License-Identifier: MIT
"""Errors of this tool."""

from __future__ import annotations


class BootError(Exception):
    """The VM did not boot, or measured something else. ``hint`` says what the reader can do about it."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
