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


class RpcError(NearError):
    """A node refused a request. ``name`` is the cause's name (``UNKNOWN_ACCOUNT``, ``INVALID_TRANSACTION``…)."""

    def __init__(self, message: str, *, name: str = "", data: object = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.name = name
        self.data = data


class RpcUnavailableError(NearError):
    """No node answered in time, or what answered is not a NEAR node."""


class ViewError(NearError):
    """A view call ended with an error of the contract or of the virtual machine."""


class NoSuchMethodError(ViewError):
    """The contract has no method of that name: it is older than this program, or another contract."""


class TransactionFailedError(NearError):
    """A transaction was executed and failed; ``outcome`` holds all receipts."""

    def __init__(self, message: str, *, outcome: object = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.outcome = outcome


class TransactionRefusedError(NearError):
    """A transaction was not taken into a block; ``kind`` is the ``InvalidTxError`` variant.

    ``chain_nonce`` is the nonce that the chain holds for the key, told with ``InvalidNonce`` only.
    """

    def __init__(self, message: str, *, kind: str = "", chain_nonce: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.kind = kind
        self.chain_nonce = chain_nonce


class CredentialsError(NearError):
    """A credentials file cannot be read or does not hold a usable key."""


class SignatureError(NearError):
    """A signed message does not hold: wrong key, wrong text, too old, or the key may not sign for the account."""


class EventError(NearError):
    """A block or an event log does not have the form that its standard gives it."""


class ModelError(CodecError):
    """JSON that does not have the form of the model asked for."""
