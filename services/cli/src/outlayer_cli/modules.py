# SPDX-License-Identifier: MIT
"""Running our own command-line modules, with an environment that holds only what is meant for them."""

from __future__ import annotations

import os
import subprocess
import sys

from outlayer_cli.errors import StackError

_KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "OUTLAYER_CACHE", "XDG_CACHE_HOME")


def clean_environment(**extra: str) -> dict[str, str]:
    """What a service gets from the caller's environment, and what is set for it."""
    kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    return kept | {"PYTHONUNBUFFERED": "1"} | extra


def run_module(module: str, *words: str, env: dict[str, str] | None = None) -> str:
    """Run a module to its end; gives what it printed. Raises ``StackError`` with what it said on stderr."""
    command = [sys.executable, "-m", module, *words]
    answer = subprocess.run(
        command, env=env or clean_environment(), capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        raise StackError(f"{module} {' '.join(words[:1])} failed: {answer.stderr.strip()[-1500:]}")
    return answer.stdout
