# SPDX-License-Identifier: MIT
"""Errors of the command line: a message that names what was wrong, and a hint that says what to do."""

from __future__ import annotations

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_UNPROVEN = 2
EXIT_USAGE = 3


class CliError(Exception):
    """Base of all errors that end a command. ``exit_code`` follows DESIGN: 1 failed, 2 unproven, 3 usage."""

    exit_code = EXIT_FAILED

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(CliError):
    """The command cannot be carried out as it was given."""

    exit_code = EXIT_USAGE


class StackError(CliError):
    """A service of the local stack could not be started, reached or stopped."""
