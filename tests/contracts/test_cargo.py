# SPDX-License-Identifier: MIT
"""The contracts' own Rust tests and lints, where the machine has Rust."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONTRACTS = ROOT / "contracts"
CACHE = Path(os.environ.get("OUTLAYER_CACHE", Path.home() / ".cache" / "outlayer"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


def cargo(*words: str) -> None:
    if shutil.which("cargo") is None:
        pytest.skip("this machine has no cargo, so the contracts' Rust tests cannot be built")
    environment = {**os.environ, "CARGO_TARGET_DIR": str(CACHE / "cargo-target")}
    vectors = ROOT.parent / "shared" / "vectors"
    if vectors.is_dir():
        environment["OUTLAYER_VECTORS"] = str(vectors)
    answer = subprocess.run(
        ["cargo", *words], cwd=CONTRACTS, env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stdout[-6000:] + answer.stderr[-6000:]


def test_rust_unit_tests_pass() -> None:
    cargo("test", "--locked", "--workspace", "--quiet")


def test_clippy_finds_nothing() -> None:
    if shutil.which("cargo-clippy") is None:
        pytest.skip("this machine has no clippy")
    cargo("clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings")


def test_rust_sources_are_formatted() -> None:
    if shutil.which("rustfmt") is None:
        pytest.skip("this machine has no rustfmt")
    cargo("fmt", "--all", "--check")
