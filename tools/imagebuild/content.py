# SPDX-License-Identifier: MIT
"""What stays in an image: an allow-list (images/content.json). Everything else of the installed packages goes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

FORMAT = 1
UNITS = PurePosixPath("usr/lib/systemd/system")
_BRACES = re.compile(r"\{([^{}]*)\}")


class ContentError(ValueError):
    """The allow-list is not what it must be, or an image lacks what is in it."""


@dataclass(frozen=True, slots=True)
class Content:
    """Glob patterns over paths without a leading slash, part by part; `{a,b}` are alternatives, `/**` all below.

    Attributes:
        kept: all that stays, but shared libraries: of those, the ones that something kept asks for stay.
        units: names of unit files that stay.
        left_out_of_python: below usr/lib/python3.13, what goes although that folder stays.
        loaded_by_name: libraries that a program loads without saying so in its header.
        accounts: users and groups that stay; nobody has a shell.
        oci_left_out, uki_left_out: paths of the tree that one of the two artifacts does not get.
    """

    kept: tuple[str, ...]
    units: tuple[str, ...]
    left_out_of_python: tuple[str, ...]
    loaded_by_name: tuple[str, ...]
    accounts: tuple[str, ...]
    oci_left_out: tuple[str, ...]
    uki_left_out: tuple[str, ...]

    def keeps(self, path: PurePosixPath) -> bool:
        """Whether a file or link stays, libraries aside."""
        if path.parts[:3] == ("usr", "lib", "python3.13"):
            inner = PurePosixPath(*path.parts[3:])
            if any(matches(inner, pattern) for pattern in _below(self.left_out_of_python)):
                return False
        if path.parts[: len(UNITS.parts)] == UNITS.parts:
            return self._keeps_unit(path.parts[len(UNITS.parts) :])
        return any(matches(path, pattern) for pattern in expanded(self.kept))

    def keeps_empty(self, path: PurePosixPath) -> bool:
        """Whether a folder stays that has nothing in it: one that is named without a pattern."""
        return path.as_posix() in expanded(self.kept)

    def _keeps_unit(self, parts: tuple[str, ...]) -> bool:
        """A unit file, a drop-in of one, or a link to one in another's .wants."""
        if not parts:
            return False
        name = parts[-1] if parts[0].endswith((".wants", ".requires")) else parts[0].removesuffix(".d")
        return any(fnmatchcase(name, unit) for unit in self.units)


def parse_content(text: str) -> Content:
    """Errors:
    ContentError: not the JSON of an allow-list.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ContentError(f"the allow-list is not JSON: {error}") from error
    names = {field.name for field in fields(Content)}
    if not isinstance(document, dict) or set(document) != {"format", *names} or document["format"] != FORMAT:
        raise ContentError(f"the allow-list has the fields format (= {FORMAT}), {', '.join(sorted(names))}")
    for name in names:
        if not isinstance(document[name], list) or not all(isinstance(item, str) for item in document[name]):
            raise ContentError(f"{name} is not a list of patterns")
    return Content(**{name: tuple(document[name]) for name in names})


def expanded(patterns: tuple[str, ...]) -> list[str]:
    """Patterns without braces."""
    found: list[str] = []
    for pattern in patterns:
        match = _BRACES.search(pattern)
        if match is None:
            found.append(pattern)
            continue
        options = match.group(1).split(",")
        found += expanded(
            tuple(pattern[: match.start()] + option + pattern[match.end() :] for option in options)
        )
    return found


def _below(patterns: tuple[str, ...]) -> list[str]:
    return [each for pattern in expanded(patterns) for each in (pattern, f"{pattern}/**")]


def left_out(path: PurePosixPath, patterns: tuple[str, ...]) -> bool:
    """Whether a path, or a folder that it is in, is named."""
    return any(matches(path, pattern) for pattern in _below(patterns))


def matches(path: PurePosixPath, pattern: str) -> bool:
    """Part by part, as a shell matches; a last part `**` stands for anything below."""
    parts = pattern.split("/")
    if parts[-1] == "**":
        head = parts[:-1]
        return len(path.parts) > len(head) and _each(path.parts, head)
    return len(path.parts) == len(parts) and _each(path.parts, parts)


def _each(parts: tuple[str, ...], patterns: list[str]) -> bool:
    return all(fnmatchcase(part, pattern) for part, pattern in zip(parts, patterns, strict=False))
