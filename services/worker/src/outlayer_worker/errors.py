# SPDX-License-Identifier: MIT
"""Errors of the worker. Each carries a message for the log and, where it helps, a hint for the person."""

from __future__ import annotations


class WorkerError(Exception):
    """Base of all errors of this package."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ConfigError(WorkerError):
    """A setting is missing or wrong."""


class ProtocolError(WorkerError):
    """A frame between worker and executor, or a reply of the coordinator, is not what it should be."""


class ExecutorStartError(WorkerError):
    """An executor process did not come up."""


class JobError(WorkerError):
    """A job cannot give a result; the category travels with its completion."""

    def __init__(self, category: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.category = category


class RequestRefusedError(JobError):
    """The chain does not hold the request that the coordinator handed out (R1): nothing is run."""

    def __init__(self, message: str) -> None:
        super().__init__("request_refused", message)


class CoordinatorError(WorkerError):
    """The coordinator could not be reached or answered with an error; worth another try."""


class CoordinatorRefusedError(WorkerError):
    """The coordinator refused a request for good (a 4xx other than a session matter)."""


class SessionLostError(WorkerError):
    """The TEE session is unknown, expired or revoked: a new one is needed."""


class RegistrationError(WorkerError):
    """The register contract did not approve the worker's key."""


class KeyRemovedError(WorkerError):
    """The register contract took the worker's key away for good."""


class AnchorError(WorkerError):
    """The chain shows no block that a record could be anchored to; worth another try."""


class SubmissionError(WorkerError):
    """A result could not be delivered on chain; worth another try.

    ``ran``: the transaction was executed and failed, so the try has cost gas.
    """

    def __init__(self, message: str, *, ran: bool = False, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.ran = ran


class OutputRefusedError(WorkerError):
    """The chain refused this output itself, so that another try cannot help.

    ``too_large``: it is longer than a callback delivers, or than the request pays for.
    """

    def __init__(self, message: str, *, too_large: bool = False, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.too_large = too_large


class NotSettledError(JobError):
    """A request could not be answered on chain, and trying goes on no longer."""

    def __init__(self, message: str) -> None:
        super().__init__("not_settled", message)
