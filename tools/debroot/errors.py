# SPDX-License-Identifier: MIT
"""What can go wrong, with the exit code and the hint a person needs."""

from __future__ import annotations

from typing import ClassVar


class DebrootError(Exception):
    """Base of all errors here. `hint` says what to do next."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class LockError(DebrootError):
    """The lock file is not what it must be."""


class ConfigurationError(DebrootError):
    """The machine lacks a setting or a program."""

    exit_code = 3


class InputsMovedError(DebrootError):
    """A locked package is nowhere to be had any more."""

    exit_code = 4


class CorruptInputError(DebrootError):
    """Bytes that should have a known SHA-256 have another."""

    exit_code = 5


class SandboxUnavailableError(DebrootError):
    """This machine does not let this user make the namespaces that a build needs."""

    exit_code = 6


class FetchError(DebrootError):
    """The network failed, which says nothing about the package."""

    exit_code = 7


class SignatureError(DebrootError):
    """An index is not signed by a key of the archive, or its files differ from what was signed."""

    exit_code = 8


class CommandError(DebrootError):
    """A program ended with an error."""
