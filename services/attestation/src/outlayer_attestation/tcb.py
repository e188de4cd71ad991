# SPDX-License-Identifier: MIT
"""How far a platform is behind: which component is short of the nearest better TCB level, and by how much.

For people only. dcap-qvl decides the TCB status; nothing here takes part in a verdict. The comparison is
that of Intel's "TCB level" rule: a level holds when every component of the platform is at least the level's,
where TDX components 1 and 2 (the module's own version) are left to the TDX module's identity when the module
says that it has a major version.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from outlayer_attestation.collateral import Collateral
from outlayer_attestation.endorsements import parsed
from outlayer_attestation.errors import AttestationError
from outlayer_attestation.quote import Quote, TdReport

STATUSES: Final = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "Revoked",
)
"""Statuses of a level, the best first."""

_COMPONENTS: Final = 16
_MAX_SVN: Final = 2**16
_MAX_LEVELS: Final = 1000


@dataclass(frozen=True, slots=True)
class Shortfall:
    """One component that keeps the platform from a better level.

    ``component`` is numbered from 1, as Intel's documents do. ``level_status`` and ``level_date`` (as in
    the TCB info) are those of the nearest better level, the one that needs ``need``.
    """

    component: str
    have: int
    need: int
    level_status: str
    level_date: str

    def __str__(self) -> str:
        level = f"{self.level_status} of {self.level_date[:10]}"
        return f"{self.component} is {self.have}, {level} needs {self.need} ({self.need - self.have} short)"


@dataclass(frozen=True, slots=True)
class _Level:
    status: str
    date: str
    needs: tuple[tuple[str, int, int], ...]
    """Component, what the platform has, what the level needs."""

    @property
    def short(self) -> list[Shortfall]:
        return [
            Shortfall(component, have, need, self.status, self.date)
            for component, have, need in self.needs
            if have < need
        ]

    @property
    def distance(self) -> tuple[int, int, int]:
        """The nearest better level: UpToDate before others, then the fewest and smallest gaps."""
        short = self.short
        return STATUSES.index(self.status), len(short), sum(item.need - item.have for item in short)


def tcb_shortfall(quote: Quote, collateral: Collateral) -> list[Shortfall]:
    """What a quote's platform, TDX module and quoting enclave lack for their nearest better TCB levels.

    Empty when none of them is short, when no better level exists, and when a part cannot be read or is for
    another platform (a check of ``appraise`` says so). Signatures are not asked.
    """
    found: list[Shortfall] = []
    for layer in (_platform_levels, _module_levels, _qe_levels):
        try:
            found += _short_of_better(layer(quote, collateral))
        except (AttestationError, _ShapeError):
            continue
    return found


def shortfall_text(shortfalls: Iterable[Shortfall]) -> str:
    """The same as one line."""
    return "; ".join(map(str, shortfalls))


def _short_of_better(levels: Iterable[_Level]) -> list[Shortfall]:
    known = list(levels)
    matched = next((level for level in known if not level.short), None)
    reached = STATUSES.index(matched.status) if matched else len(STATUSES)
    better = [
        level
        for level in known
        if level.short and level.status != "Revoked" and STATUSES.index(level.status) < reached
    ]
    return min(better, key=lambda level: level.distance).short if better else []


# --- the three layers ---------------------------------------------------------------------------------


class _ShapeError(Exception):
    """Levels of another shape than Intel's."""


def _platform_levels(quote: Quote, collateral: Collateral) -> Iterator[_Level]:
    pck = quote.pck_extension
    if parsed(collateral).fmspc != pck.fmspc.hex():
        return
    for status, date, tcb in _levels(parsed(collateral).tcb_info):
        needs = _components("SGX", pck.cpu_svn, tcb, "sgxtcbcomponents", skipped=0)
        needs.append(("PCESVN", pck.pce_svn, _svn(tcb, "pcesvn")))
        if isinstance(quote.report, TdReport):
            svn = quote.report.tee_tcb_svn
            needs += _components("TDX", svn, tcb, "tdxtcbcomponents", skipped=2 if svn[1] > 0 else 0)
        yield _Level(status, date, tuple(needs))


def _module_levels(quote: Quote, collateral: Collateral) -> Iterator[_Level]:
    if not isinstance(quote.report, TdReport) or quote.report.tee_tcb_svn[1] == 0:
        return
    if parsed(collateral).fmspc != quote.pck_extension.fmspc.hex():
        return
    isv_svn, version = quote.report.tee_tcb_svn[:2]
    name = f"TDX_{version:02X}"
    for identity in _list(parsed(collateral).tcb_info, "tdxModuleIdentities"):
        if _object(identity).get("id") == name:
            for status, date, tcb in _levels(_object(identity)):
                yield _Level(status, date, ((f"TDX module {name}", isv_svn, _svn(tcb, "isvsvn")),))


def _qe_levels(quote: Quote, collateral: Collateral) -> Iterator[_Level]:
    if parsed(collateral).qe_identity.get("id") != ("TD_QE" if isinstance(quote.report, TdReport) else "QE"):
        return
    for status, date, tcb in _levels(parsed(collateral).qe_identity):
        needs = (("quoting enclave", quote.auth.qe_report.isv_svn, _svn(tcb, "isvsvn")),)
        yield _Level(status, date, needs)


def _components(
    kind: str, have: bytes, tcb: Mapping[str, Any], key: str, *, skipped: int
) -> list[tuple[str, int, int]]:
    given = _list(tcb, key)
    if len(given) != _COMPONENTS:
        raise _ShapeError
    found = []
    for index in range(skipped, _COMPONENTS):
        component = _object(given[index])
        found.append((_name(kind, index + 1, component), have[index], _svn(component, "svn")))
    return found


def _name(kind: str, number: int, component: Mapping[str, Any]) -> str:
    """With the category and type that TCB info gives, cut to a length that people read."""
    texts = [component.get(key) for key in ("category", "type")]
    words = ": ".join(text[:60] for text in texts if isinstance(text, str) and text.isprintable())
    return f"{kind} component {number} ({words})" if words else f"{kind} component {number}"


# --- shapes -------------------------------------------------------------------------------------------


def _levels(part: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Status, date and components of each level."""
    for level in _list(part, "tcbLevels")[:_MAX_LEVELS]:
        status, date = _object(level).get("tcbStatus"), _object(level).get("tcbDate")
        if status not in STATUSES or not isinstance(date, str):
            raise _ShapeError
        yield status, date, _object(_object(level).get("tcb"))


def _object(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _ShapeError
    return value


def _list(part: Mapping[str, Any], key: str) -> list[Any]:
    value = part.get(key)
    if not isinstance(value, list):
        raise _ShapeError
    return value


def _svn(part: Mapping[str, Any], key: str) -> int:
    value = part.get(key)
    if type(value) is not int or not 0 <= value < _MAX_SVN:
        raise _ShapeError
    return value
