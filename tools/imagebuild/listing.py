# SPDX-License-Identifier: MIT
"""What is in an image, file by file: owner, rights and content hash, so that a difference can be named.

Runs inside mkosi; a listing is published beside the artifacts.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MADE = "made by the build"
OWN = "outlayer and its wheels"
# of what the build made itself, small texts are listed in full: nowhere else could one look them up
TEXT_BYTES = 4096
_OWN_FOLDER = "usr/lib/outlayer/"


def owner_of(path: str, known: Mapping[str, str]) -> str:
    """The package that a path came with; Python compiles files beside those of a package."""
    if path.startswith(_OWN_FOLDER):
        return OWN
    if path in known:
        return known[path]
    folder, _, name = path.rpartition("/")
    if folder.endswith("/__pycache__"):
        return known.get(f"{folder.removesuffix('__pycache__')}{name.partition('.')[0]}.py", MADE)
    return MADE


def describe(root: Path, path: str) -> dict[str, Any]:
    """Rights and content of one path."""
    full = root / path
    status = full.lstat()
    item: dict[str, Any] = {"mode": f"{status.st_mode:06o}", "user": status.st_uid, "group": status.st_gid}
    if stat.S_ISLNK(status.st_mode):
        item["target"] = str(full.readlink())
    elif stat.S_ISREG(status.st_mode):
        with full.open("rb") as handle:
            item["sha256"] = hashlib.file_digest(handle, "sha256").hexdigest()
        item["size"] = status.st_size
    return item


def small_text(root: Path, path: str) -> str | None:
    """The content of a small text file, if it is one."""
    full = root / path
    if full.is_symlink() or not full.is_file() or full.stat().st_size > TEXT_BYTES:
        return None
    try:
        text = full.read_bytes().decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def listing(root: Path, known: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Path -> owner, mode, user, group, SHA-256 or link target, and a small text of the build; folders, too."""
    found: dict[str, dict[str, Any]] = {}
    for inside, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = (Path(inside) / name).relative_to(root).as_posix()
            found[path] = {"owner": owner_of(path, known), **describe(root, path)}
            text = small_text(root, path) if found[path]["owner"] == MADE else None
            if text is not None:
                found[path]["text"] = text
    return dict(sorted(found.items()))
