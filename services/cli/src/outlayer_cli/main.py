# SPDX-License-Identifier: MIT
"""``outlayer``: one command for developers, operators and auditors.

Exit codes: 0 done or proven, 1 failed, 2 unproven, 3 the command was not understood.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from outlayer_cli import layout
from outlayer_cli.commands import COMMANDS, LazyCommand, new_app
from outlayer_cli.errors import EXIT_FAILED, EXIT_USAGE, CliError
from outlayer_cli.session import Session

app = new_app(name="outlayer", help=__doc__, no_args_is_help=True)


@app.callback()
def options(
    context: typer.Context,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show every check.")] = False,
    stack_name: Annotated[str, typer.Option("--stack", help="Which local stack.")] = "local",
    state: Annotated[Path | None, typer.Option(help="The folder of the stack's state.")] = None,
) -> None:
    context.obj = Session(
        state=state or layout.default_state(stack_name), json_output=json_output, verbose=verbose
    )


def command_line() -> TyperGroup:
    """``outlayer`` with every command in its list and none of their modules imported."""
    group = typer.main.get_group(app)
    for name, listed in COMMANDS.items():
        group.add_command(LazyCommand(name, listed))
    return group


def _report(error: CliError, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"error": str(error), "hint": error.hint}), file=sys.stderr)
        return
    from outlayer_cli.replies import shown_lines

    # a remote party's words may be in it
    print(f"error: {shown_lines(error)}", file=sys.stderr)
    if error.hint:
        print(f"hint: {shown_lines(error.hint)}", file=sys.stderr)


def translate(error: Exception) -> CliError | None:
    """An error of one of our packages as one of the command line, with its hint; None for any other."""
    if isinstance(error, CliError):
        return error
    from outlayer_attestation.errors import AttestationError
    from outlayer_near.errors import NearError

    if isinstance(error, (NearError, AttestationError)):
        return CliError(str(error), hint=error.hint)
    import httpx

    if isinstance(error, httpx.TransportError):
        request = (
            error.request.url.copy_with(query=None) if getattr(error, "_request", None) else "the service"
        )
        return CliError(f"{request} does not answer: {error}", hint="see: outlayer status")
    return None


def run(arguments: list[str]) -> int:
    """Run one command line and give its exit code."""
    as_json = "--json" in arguments
    try:
        code = command_line().main(arguments, prog_name="outlayer", standalone_mode=False)
    except TyperException as error:
        _report(CliError(error.format_message(), hint="see: outlayer --help"), as_json=as_json)
        return EXIT_USAGE
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_FAILED
    except Exception as error:
        known = translate(error)
        if known is None or os.environ.get("OUTLAYER_DEBUG") == "1":
            raise
        _report(known, as_json=as_json)
        return known.exit_code
    return code if isinstance(code, int) else 0


def main() -> None:
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
