# SPDX-License-Identifier: MIT
"""Named checks: the form of every verdict. A check that did not run is UNPROVEN, never left out.

Three words say what a check that holds rests on, here and in everything that prints one:

- *proven*: checked here, against bytes or against a chain that this program asked itself;
- *signed*: somebody who is named signed it, and the signature was checked here;
- *stated*: the bundle, or an endpoint, says so; nothing here contradicts it, and nothing here shows it.

What is only stated is never PASS.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """PASS holds, FAIL disproven, UNPROVEN not decided, STATED nothing but somebody's word."""

    PASS = "PASS"  # noqa: S105
    FAIL = "FAIL"
    UNPROVEN = "UNPROVEN"
    STATED = "STATED"


class Word(StrEnum):
    """What a check that holds rests on, the strongest first."""

    PROVEN = "proven"
    SIGNED = "signed"
    STATED = "stated"


@dataclass(frozen=True, slots=True)
class Check:
    """One question and its answer. ``reason`` is a stable code for programs, ``detail`` is for people.

    ``signed_by`` names who signed what a PASS rests on; empty when it was proven here.
    """

    name: str
    outcome: Outcome
    reason: str = "ok"
    detail: str = ""
    signed_by: str = ""

    @property
    def word(self) -> Word | None:
        """What the check rests on; None unless it holds."""
        if self.outcome is Outcome.STATED:
            return Word.STATED
        if self.outcome is not Outcome.PASS:
            return None
        return Word.SIGNED if self.signed_by else Word.PROVEN

    def to_json(self) -> dict[str, str | None]:
        """As a JSON object; ``word`` is null unless the check holds."""
        return {
            "name": self.name,
            "outcome": self.outcome.value,
            "word": self.word.value if self.word else None,
            "reason": self.reason,
            "detail": self.detail,
            **({"signed_by": self.signed_by} if self.signed_by else {}),
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


def stated(name: str, detail: str = "") -> Check:
    """Something that the bundle or an endpoint says, and that nothing here contradicts."""
    return Check(name, Outcome.STATED, "stated", detail)


def decide(name: str, ok: bool, reason: str, detail: str = "") -> Check:
    """PASS when ``ok``, else FAIL with this reason."""
    return Check(name, Outcome.PASS, "ok", detail) if ok else Check(name, Outcome.FAIL, reason, detail)


def overall(checks: Iterable[Check]) -> Outcome:
    """FAIL when any fails, UNPROVEN when any is undecided; PASS when the others hold and one does more than state.

    What is merely stated neither decides nor is hidden: the words of the verdict name it.
    """
    outcomes = {check.outcome for check in checks}
    if Outcome.FAIL in outcomes:
        return Outcome.FAIL
    return Outcome.UNPROVEN if Outcome.UNPROVEN in outcomes or Outcome.PASS not in outcomes else Outcome.PASS
