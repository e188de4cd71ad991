# SPDX-License-Identifier: MIT
"""Packages in an image: versions, sources and licences, from dpkg's status and Debian's copyright files.

Runs inside mkosi, before what dpkg wrote is removed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

_STATUS = "var/lib/dpkg/status"
_SOURCE = re.compile(r"^(?P<name>[a-z0-9][a-z0-9+.-]+)(?: \((?P<version>[^()\s]+)\))?$")
_LICENSE = re.compile(r"^License:[ \t]*(\S[^\n]{0,120})$", re.MULTILINE)
_COMMON = re.compile(r"/usr/share/common-licenses/([A-Za-z0-9.-]+)")
_COPYLEFT = re.compile(
    r"\b[AL]?GPL|GNU (?:Lesser |Library |Affero )?General Public|\bMPL\b|Mozilla Public|\bEUPL|\bCDDL"
)


def parse_status(text: str) -> dict[str, dict[str, str]]:
    """Package -> version, source and source version (deb-control(5): a source of the same name is not named)."""
    found = {}
    for paragraph in text.split("\n\n"):
        fields = dict(
            line.split(": ", 1)
            for line in paragraph.splitlines()
            if ": " in line and not line.startswith(" ")
        )
        name, version = fields.get("Package"), fields.get("Version")
        if name is None or version is None or not fields.get("Status", "").endswith(" installed"):
            continue
        source = _SOURCE.match(fields.get("Source", name))
        found[name] = {
            "version": version,
            "source": source["name"] if source else name,
            "source_version": (source["version"] if source else None) or version,
        }
    return found


def licenses_of(copyright_text: str) -> list[str]:
    """Licence names of a copyright file: its License fields (DEP 5), or the common licences that it refers to."""
    named = _LICENSE.findall(copyright_text) if copyright_text.startswith("Format:") else []
    return sorted({name.strip() for name in named} | set(_COMMON.findall(copyright_text)))


def is_copyleft(copyright_text: str) -> bool:
    """Whether the text speaks of a licence that asks for sources. In doubt it does: the list may be too long."""
    return _COPYLEFT.search(copyright_text) is not None


def read_status(root: Path) -> dict[str, dict[str, str]]:
    """The installed packages, by dpkg's word."""
    return parse_status((root / _STATUS).read_text())


def packages(
    root: Path, status: Mapping[str, Mapping[str, str]], kept: Collection[str]
) -> dict[str, dict[str, Any]]:
    """The packages of which something is kept, with the licences that their copyright files name."""
    found: dict[str, dict[str, Any]] = {}
    for name, fields in sorted(status.items()):
        if name not in kept:
            continue
        path = root / "usr/share/doc" / name / "copyright"
        text = path.read_text(errors="replace") if path.is_file() else ""
        # without a text nobody can say; sources are then offered
        found[name] = {**fields, "licenses": licenses_of(text), "copyleft": not text or is_copyleft(text)}
    return found
