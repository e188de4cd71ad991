# SPDX-License-Identifier: MIT
"""Errors of this package: what was expected, what was found, and a hint for the person."""

from __future__ import annotations


class CoordinatorError(Exception):
    """Base class. ``hint`` says what the reader can do about it."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(CoordinatorError):
    """A setting is missing or has a value of the wrong form."""


class MigrationError(CoordinatorError):
    """The database was made by other migrations than the ones this program carries."""


class ChainError(CoordinatorError):
    """The chain could not be asked. What depends on the answer is refused, never assumed."""


class ApiError(CoordinatorError):
    """An answer other than success: ``status`` is the HTTP status, the text goes to the client."""

    def __init__(self, status: int, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
