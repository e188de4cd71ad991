# SPDX-License-Identifier: MIT
"""Errors of this package: one base class, each with a hint for the person who reads it."""

from __future__ import annotations


class NearError(Exception):
    """Base of every error this package raises on purpose.

    ``hint`` says what to do about it; it is empty when nothing useful can be said.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class CodecError(NearError):
    """Bytes or text that are not a valid encoding of the value asked for."""
