# SPDX-License-Identifier: MIT
"""Errors of this package: one base class, each with a hint for the person who reads it."""

from __future__ import annotations


class LocalnetError(Exception):
    """Base of every error this package raises on purpose; ``hint`` says what to do about it."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class StoreError(LocalnetError):
    """The state directory cannot be read or written, or belongs to another chain."""


class ServeError(LocalnetError):
    """The node cannot listen where it was told to."""


class ChainError(LocalnetError):
    """A request to the chain that it cannot carry out, such as restoring an unknown snapshot."""
