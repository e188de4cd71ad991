# SPDX-License-Identifier: MIT
"""Which fields of a V1 record could be read otherwise under the same hash.

V1 joins its fields without lengths and leaves absent ones out. Numbers are eight bytes with a zero byte at their end
(``MAX_NUMBER``), and texts hold no control characters (``reading`` refuses others), so a number stands where it
stands and parts the texts into runs. Within a run, a text may end anywhere, and a hash is 64 hex digits or absent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from outlayer_attestation.record import V1_CUTOFF, TaskRecordV1

MAX_NUMBER: Final = 2**56 - 1
TASK_TYPES: Final = ("execute", "compile")
_DIGEST: Final = re.compile(r"[0-9a-fA-F]{64}")
_BEFORE_OUTPUT: Final = ("repo_url", "commit_hash", "build_target", "wasm_hash", "input_hash")
_CALLER: Final = ("caller_account_id", "project_id", "secrets_ref")
_OPTIONAL_DIGESTS: Final = ("wasm_hash", "input_hash")


@dataclass(frozen=True, slots=True)
class _Slot:
    """One field of a run with its text; an absent field has none. ``digest``: 64 hex digits and nothing else."""

    name: str
    text: str
    digest: bool
    optional: bool

    def ends(self, run: str, start: int) -> range | tuple[int, ...]:
        """Where this field may end when it starts there."""
        if not self.digest:
            return range(start, len(run) + 1)
        here = (start,) if self.optional else ()
        return (*here, start + 64) if _DIGEST.fullmatch(run[start : start + 64]) else here


def ambiguous_fields(record: TaskRecordV1) -> tuple[str, ...]:
    """Names of the fields whose value another record has under the same hash, in hashing order."""
    found: tuple[str, ...] = () if record.task_type in TASK_TYPES else ("task_type", "task_id")
    for run in _runs(record):
        found += _ambiguous(run)
    return found


def _runs(record: TaskRecordV1) -> list[list[_Slot]]:
    """The texts between two numbers. (``attached_usd`` is alone behind the time: nothing can move there.)"""
    code = [_slot(record, name, digest=name in _OPTIONAL_DIGESTS) for name in _BEFORE_OUTPUT]
    code.append(_Slot("output_hash", record.output_hash, digest=True, optional=False))
    if record.timestamp < V1_CUTOFF:
        return [code]
    caller = [_slot(record, name, digest=False) for name in _CALLER]
    return [[*code, *caller]] if record.block_height is None else [code, caller]


def _slot(record: TaskRecordV1, name: str, *, digest: bool) -> _Slot:
    text = getattr(record, name) or ""
    # a published hash of another form is a text like any other
    return _Slot(name, text, digest and (not text or _DIGEST.fullmatch(text) is not None), optional=True)


def _ambiguous(slots: list[_Slot]) -> tuple[str, ...]:
    run = "".join(slot.text for slot in slots)
    from_left = _reachable(slots, run)
    to_right = _leading_to_the_end(slots, run)
    found = []
    for index, slot in enumerate(slots):
        readings = (
            run[start:end]
            for start in from_left[index]
            for end in slot.ends(run, start)
            if end in to_right[index + 1]
        )
        if any(reading != slot.text for reading in readings):
            found.append(slot.name)
    return tuple(found)


def _reachable(slots: list[_Slot], run: str) -> list[list[int]]:
    """For each slot, in order, every place where it may start."""
    places = [[0]]
    for slot in slots:
        after = {end for start in _fewest(slot, places[-1]) for end in slot.ends(run, start)}
        places.append(sorted(after))
    return places


def _fewest(slot: _Slot, starts: list[int]) -> list[int]:
    """A text that may end anywhere reaches from its first start all that it reaches from the others."""
    return starts if slot.digest else starts[:1]


def _leading_to_the_end(slots: list[_Slot], run: str) -> list[frozenset[int]]:
    """For each slot, in order, the starts from which it and the later ones can take all the rest of the run."""
    places: list[frozenset[int]] = [frozenset({len(run)})]
    for slot in reversed(slots):
        after = places[0]
        if slot.digest:
            good = {
                start for start in range(len(run) + 1) if any(end in after for end in slot.ends(run, start))
            }
        else:
            good = set(range(max(after, default=-1) + 1))
        places.insert(0, frozenset(good))
    return places
