# SPDX-License-Identifier: MIT
"""Where downloads and roots are kept between runs, and how a folder appears there: whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

STAMP = ".complete"
CACHE_VARIABLE = "OUTLAYER_CACHE"


def cache_home() -> Path:
    """$OUTLAYER_CACHE, or ~/.cache/outlayer."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else Path.home() / ".cache" / "outlayer"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file while the block runs; a second process waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def folder_once(home: Path, key: str, make: Callable[[Path], None]) -> Path:
    """The folder home/key, made by `make` if it is not there in full.

    `make` gets an empty folder beside it, which takes the final name only when `make` is through, so that a run
    that is killed leaves nothing that looks finished.
    """
    final = home / key
    with locked(home / f".{key}.lock"):
        if (final / STAMP).is_file():
            return final
        home.mkdir(parents=True, exist_ok=True)
        remove_tree(final)
        for left_over in home.glob(f".{key}.new-*"):
            remove_tree(left_over)
        fresh = Path(tempfile.mkdtemp(prefix=f".{key}.new-", dir=home))
        try:
            fresh.chmod(0o755)
            make(fresh)
            (fresh / STAMP).write_text(key + "\n")
            fresh.rename(final)
        except BaseException:
            remove_tree(fresh)
            raise
    return final


def remove_tree(folder: Path) -> None:
    """Remove a folder, also where its own modes forbid it."""
    if not folder.exists():
        return
    for inside, names, _ in os.walk(folder):
        for name in names:
            path = Path(inside) / name
            if not path.is_symlink() and not os.access(path, os.W_OK | os.X_OK):
                path.chmod(0o700)
    shutil.rmtree(folder)
