# SPDX-License-Identifier: MIT
"""One whole stack for all end-to-end tests: its own state and ports, started by the command a user types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
ARTIFACTS = ROOT / "examples" / "artifacts"


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Cli:
    """``outlayer`` on one stack."""

    state: Path
    home: Path

    @property
    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            "OUTLAYER_STATE": str(self.state),
            "OUTLAYER_HOME": str(self.home),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }

    def run(self, *words: str, prefix: tuple[str, ...] = (), timeout: float = 280) -> Outcome:
        command = [*prefix, str(Path(sys.executable).parent / "outlayer"), *words]
        answer = subprocess.run(
            command, env=self.env, capture_output=True, text=True, check=False, timeout=timeout
        )
        return Outcome(answer.returncode, answer.stdout, answer.stderr)

    def ok(self, *words: str) -> Outcome:
        outcome = self.run(*words)
        assert outcome.code == 0, f"{words} ended with {outcome.code}\n{outcome.out}\n{outcome.err}"
        return outcome

    def json(self, *words: str) -> Any:
        return self.ok("--json", *words).json()

    def stack(self) -> Any:
        return json.loads((self.state / "stack.json").read_text())

    def service_pid(self, name: str) -> int:
        rows = self.json("status")["services"]
        return int(next(row["pid"] for row in rows if row["name"] == name))


@pytest.fixture(scope="session")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    folder = tmp_path_factory.mktemp("stack")
    tool = Cli(folder / "state", folder / "home")
    outcome = tool.run("up", "--ports", "auto")
    try:
        assert outcome.code == 0, f"{outcome.out}\n{outcome.err}"
        (folder / "up.txt").write_text(outcome.out)
        yield tool
    finally:
        tool.run("down")


@pytest.fixture(scope="session")
def up_output(cli: Cli) -> str:
    """What the first ``outlayer up`` printed."""
    return (cli.state.parent / "up.txt").read_text()
