# SPDX-License-Identifier: MIT
"""The one layer of an OCI image: a tar file of a tree, the same bytes for the same tree."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path, PurePosixPath

from tools.imagebuild.content import left_out


def write_layer(root: Path, target: Path, without: tuple[str, ...], epoch: int) -> None:
    """Write a PAX tar: sorted names, no names of users, one time for all."""
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(_paths(root), key=lambda path: path.parts):
            if left_out(path, without):
                continue
            item = archive.gettarinfo(root / path, str(path))
            item.uname = item.gname = ""
            item.mtime = epoch
            if item.isreg():
                with (root / path).open("rb") as content:
                    archive.addfile(item, content)
            else:
                archive.addfile(item)


def _paths(root: Path) -> list[PurePosixPath]:
    found = []
    for inside, folders, files in os.walk(root):
        for name in [*folders, *files]:
            found.append(PurePosixPath((Path(inside) / name).relative_to(root).as_posix()))
    return found
