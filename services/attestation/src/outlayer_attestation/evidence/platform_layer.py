# SPDX-License-Identifier: MIT
"""Platform: is the quote of a genuine machine with a current TCB, by what was known then and by what is known now?

Intel may sign several collaterals for one instant, and later ones may take back what earlier ones said. So two
lines: the quote judged with the collateral of the record's time, and with the newest collateral known. A certificate
that any genuine list of the known ones revokes is revoked, whenever the record was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from outlayer_attestation import policy as rules
from outlayer_attestation.appraisal import Appraisal, appraise
from outlayer_attestation.checks import Check, Outcome, decide, failed, passed, unproven
from outlayer_attestation.collateral import Collateral
from outlayer_attestation.endorsements import (
    CollateralFacts,
    collateral_facts,
    revoked_by,
    signatures_valid,
)
from outlayer_attestation.errors import AttestationError, CollateralError
from outlayer_attestation.evidence.bundle import KnownCollateral
from outlayer_attestation.evidence.verdict import Interval, Judged, shown
from outlayer_attestation.measurements import describe


@dataclass(frozen=True, slots=True)
class Dated:
    """A known collateral with its dates."""

    known: KnownCollateral
    facts: CollateralFacts

    def covers(self, moment: int) -> bool:
        """Whether all its parts are valid then."""
        return self.facts.window_start <= moment < self.facts.window_end

    def nearest(self, moment: int) -> int:
        """The moment, or the nearest instant at which all parts are valid."""
        return min(max(moment, self.facts.window_start), self.facts.window_end - 1)

    @property
    def rank(self) -> tuple[int, int, int, int]:
        """Newer is greater: by TCB info's evaluation data number and date of issue, then by QE identity's.

        Each part by its own: an old part beside it must not make new TCB info count less.
        """
        return (self.facts.tcb_info_number, self.facts.tcb_info_issued, *self.rank_of_qe)

    @property
    def rank_of_qe(self) -> tuple[int, int]:
        """The same of the QE identity alone."""
        return (self.facts.qe_identity_number, self.facts.qe_identity_issued)


def dated(collaterals: Sequence[KnownCollateral]) -> list[Dated]:
    """Those whose dates can be read and are in order."""
    found = []
    for known in collaterals:
        try:
            facts = collateral_facts(known.collateral)
        except CollateralError:
            continue
        if facts.window_start < facts.window_end:
            found.append(Dated(known, facts))
    return found


@dataclass(frozen=True, slots=True)
class Line:
    """One appraisal of the quote by one collateral."""

    collateral: Collateral
    appraisal: Appraisal
    judged: Judged


class Appraisals:
    """The quote, judged with the collateral of the record's time, with the newest, and with that of now."""

    def __init__(
        self,
        quote: bytes,
        collaterals: Sequence[KnownCollateral],
        root: bytes,
        interval: Interval,
        now: int,
        *,
        time_proven: bool = True,
    ) -> None:
        self._quote = quote
        self._root = root
        self._all = collaterals
        self._dated = dated(collaterals)
        self._interval = interval
        self._now = now
        self._time_known = interval.bounded and time_proven
        self.then = self._line(interval.start, "the collateral of its time")
        self.newest = self._newest()
        self.newest_qe = self._newest_qe()
        self.at_end = None if interval.bounded else self._at_end()

    @property
    def lines(self) -> tuple[Line, ...]:
        """With the collateral of its time and with the newest known; and with that of now, where it is another."""
        if (
            self.at_end is None
            or self.at_end.judged.collateral_sha256 == self.newest.judged.collateral_sha256
        ):
            made = [self.then, self.newest, self.newest_qe]
        else:
            made = [self.then, self.newest, self.newest_qe, self.at_end]
        return tuple(line for line in made if line is not None)

    def _line(self, moment: int, what: str) -> Line:
        valid = [item for item in self._dated if item.covers(moment)]
        if valid:
            best = max(valid, key=lambda item: item.rank)
            why = "the only one valid then" if len(valid) == 1 else f"the newest of {len(valid)} valid then"
            return self._appraise(best, moment, what, why)
        if self._dated:
            near = min(self._dated, key=lambda item: abs(item.nearest(moment) - moment))
            return self._appraise(near, near.nearest(moment), what, f"none is valid at {shown(moment)}")
        return self._appraise_undated(what, moment)

    def _newest(self) -> Line:
        what = "the newest collateral known"
        if not self._dated:
            return self._appraise_undated(what, self._now)
        best = max(self._dated, key=lambda item: item.rank)
        return self._appraise(best, best.nearest(self._now), what, f"of {len(self._all)} known")

    def _newest_qe(self) -> Line | None:
        """By the newest QE identity, where another collateral has it: that has to hold as well."""
        if not self._dated:
            return None
        best = max(self._dated, key=lambda item: item.rank_of_qe)
        newest = max(self._dated, key=lambda item: item.rank)
        if best.rank_of_qe == newest.rank_of_qe:
            return None
        what = "the newest QE identity known"
        return self._appraise(best, best.nearest(self._now), what, f"of {len(self._all)} known")

    def _at_end(self) -> Line | None:
        """For a record that time does not bound above: the platform has to be good up to now."""
        if any(item.covers(self._now) for item in self._dated):
            return self._line(self._now, "the collateral of now")
        return None

    def _appraise(self, item: Dated, moment: int, what: str, why: str) -> Line:
        collateral = item.known.collateral
        appraisal = appraise(self._quote, collateral, root_ca_der=self._root, now=moment)
        judged = Judged(
            what=what,
            source=item.known.source,
            why=why,
            collateral_sha256=appraisal.collateral_sha256,
            evaluation_data_number=item.facts.tcb_evaluation_data_number,
            issued_at=item.facts.issued_at,
            at=moment,
            status=appraisal.status,
            advisory_ids=appraisal.advisory_ids,
        )
        return Line(collateral, appraisal, judged)

    def _appraise_undated(self, what: str, moment: int) -> Line:
        known = self._all[0]
        appraisal = appraise(self._quote, known.collateral, root_ca_der=self._root, now=moment)
        judged = Judged(
            what=what,
            source=known.source,
            why="its dates cannot be read",
            collateral_sha256=appraisal.collateral_sha256,
            evaluation_data_number=None,
            issued_at=None,
            at=moment,
            status=appraisal.status,
            advisory_ids=appraisal.advisory_ids,
        )
        return Line(known.collateral, appraisal, judged)

    # --- checks ---

    def checks(self, policy: rules.Policy | None) -> list[Check]:
        """Those of the quote and its collaterals."""
        return [
            self._window(),
            *self.then.appraisal.checks,
            *self._accepted_then(policy),
            *self._newest_checks(policy),
            *self._end_checks(policy),
            self._genuine(),
            self._revocation(),
        ]

    def _window(self) -> Check:
        name, moment = "collateral_window", self._interval.start
        if not self._dated:
            return failed(name, "collateral_dates", "the collateral is valid at no time")
        used = self.then.judged
        if used.at == moment:
            return passed(name, f"{describe(used.collateral_sha256)} from {used.source}; {used.why}")
        detail = f"the record is of {shown(moment)}; give collateral of that time: --collateral FILE"
        return unproven(name, "collateral_not_of_that_time", detail)

    def _accepted_then(self, policy: rules.Policy | None) -> list[Check]:
        appraisal = self.then.appraisal
        if policy is None:
            return rules.tcb_checks(appraisal)
        document = policy.document
        return [
            *rules.quote_checks(document.quote, appraisal),
            *rules.platform_checks(document.platform, appraisal),
        ]

    def _newest_checks(self, policy: rules.Policy | None) -> list[Check]:
        platform = policy.document.platform if policy else None
        checks = [
            _whole("newest_quote", self.newest.appraisal),
            *_renamed("newest_", rules.tcb_checks(self.newest.appraisal, platform)),
        ]
        if self.newest_qe is not None:
            appraisal = self.newest_qe.appraisal
            checks.append(_whole("newest_qe_quote", appraisal))
            checks += _renamed("newest_qe_", rules.tcb_checks(appraisal, platform))
        if policy is None or policy.document.platform.newest_collateral == "must_hold":
            return checks
        return [self._waived(check) for check in checks]

    def _waived(self, check: Check) -> Check:
        """The policy lets the collateral of the record's time decide; that needs a record of a known time."""
        if check.outcome is Outcome.PASS or check.name.endswith("_quote"):
            return check
        if not self._time_known:
            return unproven(check.name, "time_not_bounded_above", check.detail)
        return passed(check.name, f"{check.detail}; the policy does not ask for it", reason="policy")

    def _end_checks(self, policy: rules.Policy | None) -> list[Check]:
        if self._interval.bounded:
            return []
        name = "collateral_of_now"
        if self.at_end is None:
            latest = max((item.facts.window_end for item in self._dated), default=None)
            detail = f"none of the known collaterals is valid now (the last until {shown(latest)})"
            return [unproven(name, "no_collateral_of_now", f"{detail}; give a newer one: --collateral FILE")]
        appraisal = self.at_end.appraisal
        checks = [_whole(name, appraisal)]
        platform = policy.document.platform if policy else None
        checks += _renamed("now_", rules.tcb_checks(appraisal, platform))
        if platform is not None:
            checks += _renamed("now_", [rules.collateral_age_check(platform, appraisal)])
        return checks

    def _genuine(self) -> Check:
        """One that is not signed under the root has no business in a bundle."""
        name = "collaterals_genuine"
        for known in self._all:
            valid, reason = signatures_valid(known.collateral, self._root)
            if not valid:
                detail = f"{describe(known.collateral.sha256())} from {known.source}: {reason}"
                return failed(name, "collateral_not_genuine", detail)
        return passed(name, f"{len(self._all)} known")

    def _revocation(self) -> Check:
        name, quote = "revocation_known", self.then.appraisal.quote
        if quote is None:
            return unproven(name, "quote_unreadable")
        try:
            found = revoked_by(
                quote,
                [known.collateral for known in self._all],
                self._root,
                # a signer of collateral that nothing is judged by may have been retired since
                endorsed_by=[line.collateral for line in self.lines],
            )
        except AttestationError as error:
            return unproven(name, "unreadable", str(error))
        return decide(name, found is None, "revoked", found or f"by none of {len(self._all)} known")


def _whole(name: str, appraisal: Appraisal) -> Check:
    """One check for an appraisal that stands beside the first."""
    wrong = [check for check in appraisal.checks if check.outcome is not Outcome.PASS]
    if not wrong:
        return passed(name, f"as of {shown(appraisal.now)}")
    detail = "; ".join(f"{check.name} {check.reason}: {check.detail}" for check in wrong)
    return replace(wrong[0], name=name, detail=detail[:600])


def _renamed(prefix: str, checks: Sequence[Check]) -> list[Check]:
    return [replace(check, name=prefix + check.name) for check in checks]
