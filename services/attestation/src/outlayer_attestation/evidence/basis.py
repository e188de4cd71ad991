# SPDX-License-Identifier: MIT
"""What a word of the chain counts for: proof to whoever asked the chain, a statement to whoever reads a bundle."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from outlayer_attestation.checks import Check, Outcome, failed, passed, stated

CLOCK_SKEW_SECONDS: Final = 300
"""How far two honest clocks may differ: that of a worker, of a verifier, of the chain's validators."""


@dataclass(frozen=True, slots=True)
class Basis:
    """``asked``: the chain's words in this bundle are answers that the verifier has just got itself."""

    asked: bool

    def holds(self, name: str, ok: bool, reason: str, detail: str = "") -> Check:
        """PASS or STATED when ``ok``, else FAIL: a contradiction disproves whoever states it."""
        if not ok:
            return failed(name, reason, detail)
        return passed(name, detail) if self.asked else stated(name, detail)


def signed_by(signers: Iterable[str], checks: Iterable[Check]) -> list[Check]:
    """These checks, where they pass, as resting on a document that ``signers`` signed."""
    names = ", ".join(signers)
    return [
        replace(check, signed_by=names) if check.outcome is Outcome.PASS and names else check
        for check in checks
    ]
