# SPDX-License-Identifier: MIT
"""Errors of this package: what was expected, what was found, and a hint for the person."""

from __future__ import annotations


class AttestationError(Exception):
    """Base class. ``hint`` says what the reader can do about it."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class QuoteError(AttestationError):
    """Bytes that are not a quote of a known layout."""


class CollateralError(AttestationError):
    """Collateral that cannot be read at all. Collateral that can be read but is wrong is a failed check."""


class MeasurementError(AttestationError):
    """A measurement that is not 96 lower-case hex digits, or a set that is not complete."""


class RecordError(AttestationError):
    """A task record with a missing, unknown or malformed field."""


class MerkleError(AttestationError):
    """A tree or proof that cannot be built or read."""


class PolicyError(AttestationError):
    """A policy file that is not exactly of its format, or not signed by enough maintainers."""


class EvidenceError(AttestationError):
    """An evidence bundle that is not of a known format."""


class PlatformError(AttestationError):
    """The software TDX platform cannot start or cannot read its state."""


class GuestAgentError(AttestationError):
    """The dstack guest agent does not answer, or answers with something else than a quote."""


class FirmwareError(AttestationError):
    """A firmware file whose TDX metadata, firmware volume or variable store cannot be read."""


class ImageError(AttestationError):
    """A kernel, unified kernel image or other PE file that cannot be read or would not boot as described."""


class EventLogError(AttestationError):
    """Bytes that are not an event log of a known format."""


class ShapeError(AttestationError):
    """A VM shape that cannot be rendered, or host tables that are not those of the shape."""


class MetadataError(AttestationError):
    """Published image metadata that is not of a known format, or contradicts itself."""


class VmError(AttestationError):
    """A VM that must not serve: its configuration, secrets, clock or registers are not as they have to be."""
