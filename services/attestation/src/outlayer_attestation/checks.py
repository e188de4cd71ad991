# SPDX-License-Identifier: MIT
"""Named checks: the form of every verdict. A check that did not run is UNPROVEN, never left out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """PASS proven, FAIL disproven, UNPROVEN not decided."""

    PASS = "PASS"  # noqa: S105
    FAIL = "FAIL"
    UNPROVEN = "UNPROVEN"


@dataclass(frozen=True, slots=True)
class Check:
    """One question and its answer. ``reason`` is a stable code for programs, ``detail`` is for people."""

    name: str
    outcome: Outcome
    reason: str = "ok"
    detail: str = ""

    def to_json(self) -> dict[str, str]:
        """As a JSON object."""
        return {
            "name": self.name,
            "outcome": self.outcome.value,
            "reason": self.reason,
            "detail": self.detail,
        }


def passed(name: str, detail: str = "", *, reason: str = "ok") -> Check:
    """A proven check."""
    return Check(name, Outcome.PASS, reason, detail)


def failed(name: str, reason: str, detail: str = "") -> Check:
    """A disproven check."""
    return Check(name, Outcome.FAIL, reason, detail)


def unproven(name: str, reason: str, detail: str = "") -> Check:
    """A question that could not be decided."""
    return Check(name, Outcome.UNPROVEN, reason, detail)


def decide(name: str, ok: bool, reason: str, detail: str = "") -> Check:
    """PASS when ``ok``, else FAIL with this reason."""
    return Check(name, Outcome.PASS, "ok", detail) if ok else Check(name, Outcome.FAIL, reason, detail)


def overall(checks: Iterable[Check]) -> Outcome:
    """PASS only when there is a check and all pass; FAIL when any fails; else UNPROVEN."""
    outcomes = {check.outcome for check in checks}
    if Outcome.FAIL in outcomes:
        return Outcome.FAIL
    return Outcome.PASS if outcomes == {Outcome.PASS} else Outcome.UNPROVEN
