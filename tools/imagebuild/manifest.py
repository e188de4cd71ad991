# SPDX-License-Identifier: MIT
"""The list of everything in the repository that decides an image's bytes, as sha256sum writes it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tools.imagebuild.locks import TOOLS, lock_path, wheels_path
from tools.imagebuild.stage import INSIDE, PACKAGES, source_files

MANIFEST = "INPUTS"
DEVELOPMENT = "DEVELOPMENT IMAGE\n"
UNPINNED = "NOT PINNED: built from what the archive had, not from what is locked"
# the tool code that decides bytes; the rest of the package fetches, compares or reports
CODE = (*INSIDE, "build.py", "oci.py", "sbom.py", "stage.py")


def manifest(repository: Path, role: str) -> str:
    paths = [repository / TOOLS, repository / lock_path(role), repository / wheels_path(role)]
    paths += [repository / "tools/imagebuild" / name for name in CODE]
    paths += [path for path in source_files(repository / "images") if not path.is_symlink()]
    for name in PACKAGES[role]:
        paths += source_files(repository / "services" / name / "src")
    names = sorted({path.relative_to(repository).as_posix() for path in paths})
    lines = (f"{hashlib.sha256((repository / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    return "".join(lines)


def is_current(out: Path, inputs: str) -> bool:
    """Whether the artifacts there were built from these inputs."""
    recorded = out / MANIFEST
    return recorded.is_file() and recorded.read_text() == inputs


def is_pinned(out: Path) -> bool:
    """Whether the artifacts there were built from what is locked."""
    return not (out / MANIFEST).read_text().startswith(UNPINNED)
