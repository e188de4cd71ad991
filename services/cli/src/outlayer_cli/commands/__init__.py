# SPDX-License-Identifier: MIT
"""The commands of ``outlayer``: what each is called, which module has it, and its line in ``--help``.

A module is imported when one of its commands is chosen, and not before: start-up stays short however much
the other commands need. Each module has an ``app``: one with a name is a group of commands, one without
gives its commands to ``outlayer`` itself.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup


class Listed(NamedTuple):
    """A command before its module is imported; ``help`` is the first sentence of the command's own."""

    module: str
    help: str


COMMANDS = {
    "up": Listed("stack", "Start everything on this machine, or what is missing of it."),
    "down": Listed("stack", "Stop the stack; its state stays."),
    "status": Listed("stack", "Show what runs."),
    "logs": Listed("stack", "Show the last lines of the services' logs."),
    "clean": Listed("stack", "Stop the stack and remove its state: chain, database, keys, logs."),
    "call": Listed("calls", "Call an app over HTTPS and print its answer."),
    "result": Listed("calls", "What came of a call."),
    "request": Listed("calls", "Request an execution on chain and print the value."),
    "project": Listed("project", "Projects: code with a name, on chain."),
    "keys": Listed("keys", "Payment keys for calls over HTTPS."),
    "verify": Listed("verify", "Prove a result, layer by layer."),
    "image": Listed("image", "VM images and what they measure."),
}


def new_app(**settings: Any) -> typer.Typer:
    """An application with the looks that all of ``outlayer`` has."""
    return typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, **settings
    )


def load_group(module: str) -> TyperGroup:
    """Import a module of commands; gives a group that holds what its ``app`` adds to ``outlayer``."""
    whole = new_app()
    whole.add_typer(import_module(f"{__name__}.{module}").app)
    group = typer.main.get_command(whole)
    assert isinstance(group, TyperGroup)  # noqa: S101  (an application that others were added to is one)
    return group


class LazyCommand(TyperCommand):
    """Stands for a command in the list; the command itself takes over when it is chosen."""

    def __init__(self, name: str, listed: Listed) -> None:
        super().__init__(name, help=listed.help)
        self.module = listed.module

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        chosen = load_group(self.module).commands[str(self.name)]
        return chosen.make_context(info_name, args, parent, **extra)
