# SPDX-License-Identifier: MIT
"""Errors of this tool."""

from __future__ import annotations


class TableError(Exception):
    """The table cannot be made; ``hint`` says what to do."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
