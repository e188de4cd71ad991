# SPDX-License-Identifier: MIT
"""Errors of the keeper, each with a hint for the person who reads it."""

from __future__ import annotations


class KeeperError(Exception):
    """Base of all errors of this package."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ConfigError(KeeperError):
    """A setting is missing or wrong."""


class NoProgressError(KeeperError):
    """A contract took a call and its views say afterwards what they said before."""


class BudgetSpentError(KeeperError):
    """What may be spent in a day is spent; ``seconds`` until some of it comes free again."""

    def __init__(self, message: str, seconds: float, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.seconds = seconds
