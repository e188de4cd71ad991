# SPDX-License-Identifier: MIT
"""Run programs with a clean environment and errors that say what failed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.debroot.errors import CommandError, ConfigurationError

# where Debian keeps its programs; a user's PATH may lack the sbin ones
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_HINTS = {
    "apt-get": "apt install apt (the lock is resolved by apt itself)",
    "dpkg-deb": "apt install dpkg",
    "gpgv": "apt install gpgv",
    "tar": "apt install tar",
    "unshare": "apt install util-linux",
}


def find(program: str) -> str:
    """The full path of a program.

    Errors:
        ConfigurationError: it is not installed.
    """
    path = shutil.which(program, path=PATH)
    if path is None:
        raise ConfigurationError(
            f"this machine has no {program}", hint=_HINTS.get(program, f"install {program}")
        )
    return path


def run(
    words: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    what: str = "",
) -> str:
    """Standard output of a program.

    Errors:
        CommandError: it ended with another code than 0; the message holds the end of what it said.
    """
    first = str(words[0])
    command = [first if "/" in first else find(first), *(str(word) for word in words[1:])]
    clean = {"PATH": PATH, "LC_ALL": "C", "HOME": os.environ.get("HOME", "/"), **(environment or {})}
    done = subprocess.run(command, env=clean, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stdout[-1000:] + "\n" + done.stderr[-2000:]).strip()
        raise CommandError(f"{what or words[0]} failed (exit {done.returncode}):\n{said}")
    return done.stdout
