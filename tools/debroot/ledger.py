# SPDX-License-Identifier: MIT
"""Where everything that a build used came from, item by item, so that a rebuild can say what it rests on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from tools.debroot.errors import LockError


class Origin(StrEnum):
    """Files that are named by SHA-256 are checked by it, whatever their origin; other kept things are not."""

    BUILT = "built here"
    CACHE = "taken from the cache"
    BUNDLE = "taken from the bundle"
    DOWNLOADED = "downloaded"


class Kind(StrEnum):
    """What a build takes or makes."""

    PACKAGE = "Debian packages and sources"
    WHEEL = "Python wheels"
    ROOT = "tool root"
    FIRMWARE = "firmware"
    IMAGE = "image"


HASHED = frozenset({Kind.PACKAGE, Kind.WHEEL})


@dataclass(frozen=True, slots=True)
class Entry:
    """One item; `key` names its content, `size` in bytes, 0 for a folder."""

    kind: Kind
    key: str
    origin: Origin
    size: int = 0


@dataclass(slots=True)
class Ledger:
    """Entries by kind and key. The first origin of an item counts: later it is in the cache because of that."""

    _entries: dict[tuple[Kind, str], Entry] = field(default_factory=dict)

    def note(self, kind: Kind, key: str, origin: Origin, size: int = 0) -> None:
        self._entries.setdefault((kind, key), Entry(kind, key, origin, size))

    def merge(self, other: Iterable[Entry]) -> None:
        """What happened after."""
        for entry in other:
            self.note(entry.kind, entry.key, entry.origin, entry.size)

    def entries(self) -> list[Entry]:
        return list(self._entries.values())

    def to_text(self) -> str:
        """JSON: a list of [kind, key, origin, size]."""
        rows = [[entry.kind.value, entry.key, entry.origin.value, entry.size] for entry in self.entries()]
        return json.dumps(rows) + "\n"


def parse_ledger(text: str) -> list[Entry]:
    """What `Ledger.to_text` wrote.

    Errors:
        LockError: something else.
    """
    try:
        rows = json.loads(text)
        return [Entry(Kind(kind), str(key), Origin(origin), int(size)) for kind, key, origin, size in rows]
    except (ValueError, TypeError, RecursionError) as error:
        raise LockError(f"this is no record of where things came from: {error}") from error


def totals(entries: Iterable[Entry]) -> dict[Kind, dict[Origin, tuple[int, int]]]:
    """Kind -> origin -> number of items and their bytes, both in the order of their definition."""
    found: dict[Kind, dict[Origin, tuple[int, int]]] = {}
    order = (list(Kind), list(Origin))
    for entry in sorted(entries, key=lambda item: (order[0].index(item.kind), order[1].index(item.origin))):
        count, size = found.setdefault(entry.kind, {}).get(entry.origin, (0, 0))
        found[entry.kind][entry.origin] = (count + 1, size + entry.size)
    return found


def summary(entries: Iterable[Entry]) -> list[str]:
    """A line for each kind."""
    lines = []
    for kind, origins in totals(entries).items():
        if kind in HASHED:
            parts = [f"{count} {origin} ({size / 1e6:.1f} MB)" for origin, (count, size) in origins.items()]
            lines.append(f"{kind}: {', '.join(parts)}; each checked by its SHA-256")
        else:
            kept = ", as it was made here before" if Origin.CACHE in origins else ""
            lines.append(f"{kind}: {', '.join(origins)}{kept}")
    return lines
