# SPDX-License-Identifier: MIT
"""The answer about one bundle: eight layers of named checks, and the words that it rests on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from outlayer_attestation.checks import Check, Outcome, Word, overall
from outlayer_attestation.measurements import Measurements
from outlayer_attestation.policy import time_text


class Layer(StrEnum):
    """The links of the trust chain, in order."""

    SOURCE = "Source"
    PROVENANCE = "Provenance"
    MEASUREMENT = "Measurement"
    APPROVAL = "Approval"
    PLATFORM = "Platform"
    IDENTITY = "Identity"
    BINDING = "Binding"
    PAYLOAD = "Payload"


ASKED: Final = (Layer.APPROVAL, Layer.PLATFORM, Layer.IDENTITY, Layer.BINDING, Layer.PAYLOAD)
NOT_ASKED: Final = (Layer.SOURCE, Layer.PROVENANCE, Layer.MEASUREMENT)


@dataclass(frozen=True, slots=True)
class LayerVerdict:
    """One layer: its checks in order. ``asked`` is False for the layers that only an audit judges."""

    layer: Layer
    checks: tuple[Check, ...]
    asked: bool = True

    @property
    def outcome(self) -> Outcome:
        """Of this layer alone."""
        return overall(self.checks)

    @property
    def words(self) -> tuple[Word, ...]:
        """What its checks rest on, the strongest first."""
        found = {check.word for check in self.checks}
        return tuple(word for word in Word if word in found)


def not_asked() -> tuple[LayerVerdict, ...]:
    """The layers that only an audit judges."""
    return tuple(LayerVerdict(layer, (), asked=False) for layer in NOT_ASKED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One appraisal of the quote: by which collateral, as of when, with which result.

    ``why`` says how this collateral was chosen. Times are unix seconds.
    """

    what: str
    source: str
    why: str
    collateral_sha256: str
    evaluation_data_number: int | None
    issued_at: int | None
    at: int
    status: str | None
    advisory_ids: tuple[str, ...]

    @property
    def text(self) -> str:
        """As a line for people."""
        status = self.status or "the quote does not verify"
        advisories = f" {', '.join(self.advisory_ids)}" if self.advisory_ids else ""
        number = "?" if self.evaluation_data_number is None else self.evaluation_data_number
        issued = "?" if self.issued_at is None else shown(self.issued_at)
        return (
            f"judged with {self.what}: {status}{advisories}, as of {shown(self.at)}"
            f" (issued {issued}, evaluation data {number}, from {self.source}; {self.why})"
        )

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "what": self.what,
            "status": self.status,
            "advisory_ids": list(self.advisory_ids),
            "at": self.at,
            "collateral_sha256": self.collateral_sha256,
            "evaluation_data_number": self.evaluation_data_number,
            "issued_at": self.issued_at,
            "source": self.source,
            "why": self.why,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """When the record was made, by the chain: not before ``start``, not after ``end`` (unix seconds).

    ``bounded`` False: nothing bounds it above, and ``end`` is the verifier's own time.
    """

    start: int
    end: int
    bounded: bool

    @property
    def text(self) -> str:
        """As a line for people."""
        if self.bounded:
            return f"made between {shown(self.start)} and {shown(self.end)}"
        return f"made not before {shown(self.start)}; time not bounded above"

    def to_json(self) -> dict[str, Any]:
        """For programs; ``not_after`` is null when time is not bounded above."""
        return {"not_before": self.start, "not_after": self.end if self.bounded else None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer about one bundle. ``exit_code``: 0 proven, 1 failed, 2 unproven."""

    layers: tuple[LayerVerdict, ...]
    simulated: bool
    now: int
    judged_at: int | None
    tcb_status: str | None
    advisory_ids: tuple[str, ...]
    measurements: Measurements | None
    policy_sha256: str | None
    collateral_sha256: str | None
    root_ca_sha256: str
    verifier: str
    interval: Interval | None = None
    judged: tuple[Judged, ...] = ()

    @property
    def checks(self) -> tuple[Check, ...]:
        """All checks of the layers that were asked, in order."""
        return tuple(check for layer in self.layers if layer.asked for check in layer.checks)

    @property
    def outcome(self) -> Outcome:
        """PASS only if every asked layer passes; what is merely stated decides nothing (see ``words``)."""
        outcomes = {layer.outcome for layer in self.layers if layer.asked}
        if Outcome.FAIL in outcomes:
            return Outcome.FAIL
        return Outcome.PASS if outcomes == {Outcome.PASS} else Outcome.UNPROVEN

    @property
    def exit_code(self) -> int:
        """For a command line."""
        return {Outcome.PASS: 0, Outcome.FAIL: 1}.get(self.outcome, 2)

    def layer(self, layer: Layer) -> LayerVerdict:
        """The verdict of one layer."""
        return next(verdict for verdict in self.layers if verdict.layer is layer)

    def named(self, *outcomes: Outcome) -> tuple[str, ...]:
        """ "Layer/check" of all with one of these outcomes, in order."""
        return tuple(
            f"{verdict.layer.value}/{check.name}"
            for verdict in self.layers
            if verdict.asked
            for check in verdict.checks
            if check.outcome in outcomes
        )

    def failing(self) -> tuple[str, ...]:
        """ "Layer/check" of all that failed or could not be decided, in order."""
        return self.named(Outcome.FAIL, Outcome.UNPROVEN)

    def stated(self) -> tuple[str, ...]:
        """ "Layer/check" of all that somebody merely says, in order."""
        return self.named(Outcome.STATED)

    def signers(self) -> tuple[str, ...]:
        """Who signed what the verdict rests on."""
        return tuple(dict.fromkeys(check.signed_by for check in self.checks if check.signed_by))

    def to_json(self) -> dict[str, Any]:
        """For programs; ``checks`` is flat, each with its layer."""
        return {
            "verdict": self.outcome.value,
            "simulated": self.simulated,
            "layers": {
                verdict.layer.value: verdict.outcome.value if verdict.asked else "not asked: outlayer audit"
                for verdict in self.layers
            },
            "checks": [
                {"layer": verdict.layer.value, **check.to_json()}
                for verdict in self.layers
                if verdict.asked
                for check in verdict.checks
            ],
            "rests_on": {"signed": list(self.signers()), "stated": list(self.stated())},
            "time": self.interval.to_json() if self.interval else None,
            "judged": [item.to_json() for item in self.judged],
            "tcb_status": self.tcb_status,
            "advisory_ids": list(self.advisory_ids),
            "measurements": self.measurements.to_json() if self.measurements else None,
            "policy_sha256": self.policy_sha256,
            "collateral_sha256": self.collateral_sha256,
            "root_ca_sha256": self.root_ca_sha256,
            "judged_at": self.judged_at,
            "now": self.now,
            "verifier": self.verifier,
        }


def shown(moment: int | None) -> str:
    """A time for people."""
    if moment is None:
        return "open"
    try:
        return time_text(moment)
    except (ValueError, OverflowError, OSError):
        return str(moment)
