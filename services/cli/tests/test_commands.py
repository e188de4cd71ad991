# SPDX-License-Identifier: MIT
"""The list of commands: complete, true to the commands themselves, and cheap to show."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from importlib import import_module

import pytest
import typer

from outlayer_cli import commands
from outlayer_cli.commands import COMMANDS, LazyCommand, load_group
from outlayer_cli.errors import EXIT_USAGE
from outlayer_cli.main import command_line, run

# what single commands need, and start-up must not pay for
HEAVY = {
    "asyncpg", "cryptography", "fastapi", "httpx", "outlayer_attestation", "outlayer_coordinator",
    "outlayer_localnet", "outlayer_near", "outlayer_worker", "psutil", "py_near", "rich", "structlog", "wasmtime",
}  # fmt: skip
PROGRAM = """
import contextlib, io, json, sys
from outlayer_cli.main import run
with contextlib.redirect_stdout(io.StringIO()):
    codes = [run(words) for words in json.loads(sys.argv[1])]
print(json.dumps([codes, sorted({name.split(".")[0] for name in sys.modules}),
    sorted(name for name in sys.modules if name.startswith("outlayer_cli.commands."))]))
"""


def modules_after(*command_lines: list[str]) -> tuple[set[str], set[str]]:
    """Packages, and modules of commands, that a fresh interpreter has imported after these command lines."""
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(command_lines)], capture_output=True, text=True, check=True
    )
    codes, packages, modules = json.loads(process.stdout)
    assert codes == [0] * len(command_lines)
    return set(packages), {name.rpartition(".")[2] for name in modules}


def all_modules() -> set[str]:
    return {info.name for info in pkgutil.iter_modules(commands.__path__)}


def parts() -> set[str]:
    """Modules that have no commands of their own, but some of another module's."""
    found = {
        name for name in all_modules() if not hasattr(import_module(f"{commands.__name__}.{name}"), "app")
    }
    assert all("A part of ``" in str(sys.modules[f"{commands.__name__}.{name}"].__doc__) for name in found)
    return found


def test_the_list_of_commands_imports_none_of_them() -> None:
    packages, modules = modules_after(["--help"])
    assert "typer" in packages
    assert packages & HEAVY == set()
    assert modules == set()


def test_help_of_a_command_imports_its_module_and_nothing_that_only_running_it_needs() -> None:
    packages, modules = modules_after(*([name, "--help"] for name in COMMANDS))
    assert packages & HEAVY == set()
    assert modules - parts() == {listed.module for listed in COMMANDS.values()}


def test_a_command_imports_its_own_module_alone() -> None:
    assert modules_after(["keys", "create", "--help"])[1] == {"keys"}


def test_every_module_of_commands_is_listed_with_all_its_commands_in_their_order() -> None:
    modules = dict.fromkeys(listed.module for listed in COMMANDS.values())
    assert set(modules) == all_modules() - parts()
    for module in modules:
        listed = [name for name, entry in COMMANDS.items() if entry.module == module]
        assert listed == list(load_group(module).commands)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_line_in_the_list_is_what_the_command_says_of_itself(name: str) -> None:
    itself = load_group(COMMANDS[name].module).commands[name]
    for limit in (20, 60, 1000):
        assert LazyCommand(name, COMMANDS[name]).get_short_help_str(limit) == itself.get_short_help_str(limit)


def test_every_command_can_be_chosen() -> None:
    group = command_line()
    parent = typer.Context(group, info_name="outlayer")
    for name, stand_in in group.commands.items():
        context = stand_in.make_context(name, [], parent, resilient_parsing=True)
        assert context.command is not stand_in
        assert context.command.name == name
        assert context.command_path == f"outlayer {name}"


def test_a_misspelt_command_is_refused_with_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["statu"]) == EXIT_USAGE
    assert "Did you mean 'status'?" in capsys.readouterr().err
