# SPDX-License-Identifier: MIT
"""Which keys no longer count, since when, and when the next one will not. Pure. Times are unix seconds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class HeldKey:
    """A key that a contract holds: it counts until it expires, and while its measurement set is active."""

    public_key: str
    measurement_set: int
    expires_at: int


@dataclass(frozen=True)
class DeadKey:
    """A key that has not counted since ``since``."""

    public_key: str
    since: int


SetEnds = Mapping[int, int | None]
"""When each measurement set ends, by its id; None for one without an end."""


def end_of(key: HeldKey, ends: SetEnds) -> int:
    """When a key stops to count. With a set that the contract does not know any more it never did, to our knowledge."""
    if key.measurement_set not in ends:
        return 0
    end = ends[key.measurement_set]
    return key.expires_at if end is None else min(key.expires_at, end)


def dead_keys(keys: Iterable[HeldKey], ends: SetEnds, now: int) -> list[DeadKey]:
    """The keys that do not count at ``now``, those first that have not for the longest time."""
    found = [DeadKey(key.public_key, end) for key in keys if (end := end_of(key, ends)) <= now]
    return sorted(found, key=lambda key: (key.since, key.public_key))


def next_end(keys: Iterable[HeldKey], ends: SetEnds, now: int) -> int | None:
    """When the next of the keys that count at ``now`` stops to; None without one."""
    return min((end for key in keys if (end := end_of(key, ends)) > now), default=None)
