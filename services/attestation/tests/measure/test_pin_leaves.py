# SPDX-License-Identifier: MIT
"""Every leaf of a pin: a change is refused, or changes what is predicted, or is on the documented list."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from outlayer_attestation.errors import AttestationError
from outlayer_attestation.measure.pin import ImagePin

REPOSITORY = Path(__file__).resolve().parents[4]
PINS = sorted((REPOSITORY / "images/pins").glob("*-small.json"))

Way = tuple[str | int, ...]


def leaves(value: Any, way: Way = ()) -> Iterator[tuple[Way, Any]]:
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        yield way, value
    for key, item in items:
        yield from leaves(item, (*way, key))


def another(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        return value + 1
    last = value[-1:]
    return value[:-1] + (format(int(last, 16) ^ 1, "x") if re.fullmatch("[0-9a-f]", last) else "x")


def documented() -> list[str]:
    text = (REPOSITORY / "docs/reference/measurements.md").read_text()
    section = text.split("## What no check covers in a pin")[1].split("\n## ")[0]
    return re.findall(r"^\| `([^`]+)` \|", section, flags=re.MULTILINE)


def covering(way: Way, names: list[str]) -> str | None:
    dotted = ".".join(key for key in map(str, way) if not key.isdigit())
    return next((name for name in names if dotted == name or dotted.startswith(f"{name}.")), None)


def passes(document: Any, before: Any) -> bool:
    try:
        return ImagePin.from_bytes(json.dumps(document).encode()).metadata.predict().measurements == before
    except AttestationError:
        return False


def test_every_leaf_of_a_pin_decides_or_is_documented() -> None:
    names = documented()
    assert PINS
    assert set().union(*(free_leaves(path, names) for path in PINS)) == set(names)


def free_leaves(path: Path, names: list[str]) -> set[str]:
    """The documented members of which a leaf changes nothing; any other such leaf is a fault."""
    whole = json.loads(path.read_bytes())
    before = ImagePin.from_bytes(path.read_bytes()).metadata.predict().measurements
    used: set[str] = set()
    for way, value in leaves(whole):
        changed = copy.deepcopy(whole)
        place: Any = changed
        for key in way[:-1]:
            place = place[key]
        place[way[-1]] = another(value)
        if passes(changed, before):
            found = covering(way, names)
            assert found is not None, f"no check covers {'.'.join(map(str, way))}, and no page says so"
            used.add(found)
    return used
