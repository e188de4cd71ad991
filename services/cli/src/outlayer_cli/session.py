# SPDX-License-Identifier: MIT
"""What every command works with: the stack it talks to, the accounts it may sign for, and how it prints."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outlayer_cli import layout
from outlayer_cli.errors import UsageError
from outlayer_cli.layout import Stack

if TYPE_CHECKING:
    from rich.console import Console

SIMULATED_NOTICE = (
    "SIMULATED: the TDX root of trust of this stack is software; nothing here was in a real TEE"
)


@dataclass(frozen=True)
class Session:
    """One run of the command line. ``json_output``: one JSON document on stdout, messages on stderr."""

    state: Path
    json_output: bool
    verbose: bool = False

    @cached_property
    def stack(self) -> Stack:
        return Stack.load(self.state)

    @cached_property
    def console(self) -> Console:
        from rich.console import Console

        return Console(stderr=self.json_output)

    def say(self, text: str) -> None:
        """Progress for a person; never part of the result."""
        print(text, file=sys.stderr if self.json_output else sys.stdout, flush=True)

    def result(self, value: dict[str, Any], text: str = "") -> None:
        """The result: ``value`` for programs, ``text`` for people."""
        print(json.dumps(value, ensure_ascii=False) if self.json_output else text, flush=True)

    def account_file(self, account_id: str) -> Path:
        """The credentials file of an account: the stack's own, else ``$OUTLAYER_HOME/<network>``."""
        own = Path(self.stack.credentials_dir) / f"{account_id}.json"
        if own.exists():
            return own
        shared = layout.cli_home() / self.stack.network_id / "credentials.json"
        if shared.exists() and json.loads(shared.read_text()).get("account_id") == account_id:
            return shared
        raise UsageError(
            f"there is no key of {account_id} in {own} or {shared}",
            hint="name an account that you hold a key of with --account",
        )
