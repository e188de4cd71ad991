# SPDX-License-Identifier: MIT
"""``python -m tools.contracttable write``: make docs/reference/contracts.md. ``check``: is it current?"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tools.contracttable import quotes
from tools.contracttable.errors import TableError
from tools.contracttable.scenarios import SCENARIOS
from tools.contracttable.stage import key_of
from tools.contracttable.table import make

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "contracts.md"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.contracttable", description=__doc__)
    parser.add_argument("command", choices=["write", "check", "record"])
    command = parser.parse_args().command
    try:
        if command == "record":
            recording = quotes.record({name: str(key_of(name).public_key) for name in quotes.KEYS})
            quotes.RECORDING.write_text(json.dumps(recording.to_json(), indent=1) + "\n")
            print(f"{quotes.RECORDING} is new; now: make contracts-table")
            return 0
        text = make(SCENARIOS)
        if command == "write":
            PAGE.write_text(text)
            return 0
        if not PAGE.exists() or PAGE.read_text() != text:
            raise TableError(f"{PAGE} is not current", hint="make contracts-table")
    except TableError as error:
        print(f"error: {error}\nhint: {error.hint}" if error.hint else f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
