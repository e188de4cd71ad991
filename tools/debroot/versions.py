# SPDX-License-Identifier: MIT
"""The order of Debian versions (deb-version(7)): epoch, upstream version, revision."""

from __future__ import annotations

import re

_PARTS = re.compile(r"([^0-9]*)([0-9]*)")


def compare(left: str, right: str) -> int:
    """Negative, zero or positive, as `left` is older than, equal to or newer than `right`."""
    a, b = _key(left), _key(right)
    return (a > b) - (a < b)


def _key(version: str) -> tuple[int, list[tuple[list[int], int]], list[tuple[list[int], int]]]:
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, dash, revision = rest.rpartition("-")
    if not dash:
        upstream, revision = rest, ""
    return int(epoch or "0"), _fragments(upstream), _fragments(revision)


def _fragments(text: str) -> list[tuple[list[int], int]]:
    """Turns of non-digits (by weight) and digits (by value), ended so that the end sorts after `~` only."""
    return [
        ([*(_weight(letter) for letter in letters), 0], int(digits or "0"))
        for letters, digits in _PARTS.findall(text or "0")
        if letters or digits
    ] + [([0], 0)]


def _weight(letter: str) -> int:
    if letter == "~":
        return -1
    return ord(letter) if letter.isalpha() else ord(letter) + 256
