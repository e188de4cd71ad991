# SPDX-License-Identifier: MIT
"""Rules that hold for every file of the repository."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LICENSED = {".py", ".rs", ".sh", ".mk", ".sql", ".wit"}
# taken apart so that this file does not find itself
REGISTRY = re.compile(r"//[a-z.-]*(?:debian|pypi|pythonhosted|npmjs|golang|crates)\.(?:org|io)")
THIRD_PARTY = ("examples/wit/deps/",)


def tracked() -> list[Path]:
    answer = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        pytest.skip("not a git checkout, so the list of files is not known")
    return [ROOT / name for name in answer.stdout.split("\0") if name and (ROOT / name).exists()]


def text_of(path: Path) -> str:
    try:
        return path.read_text()
    except UnicodeDecodeError:
        return ""


def test_each_source_file_names_its_licence_first() -> None:
    missing = []
    for path in tracked():
        name = str(path.relative_to(ROOT))
        if path.suffix not in LICENSED or name.startswith(THIRD_PARTY):
            continue
        head = "\n".join(text_of(path).splitlines()[:2])
        if "SPDX-License-Identifier: MIT" not in head:
            missing.append(name)
    assert not missing


def test_no_file_names_the_host_of_a_package_registry() -> None:
    found = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if path.name != "Cargo.lock" and REGISTRY.search(text_of(path))
    ]
    assert not found


def test_python_locks_hold_hashes_and_no_address() -> None:
    locks = sorted((ROOT / "requirements").glob("*.txt"))
    assert locks
    for lock in locks:
        text = lock.read_text()
        assert "://" not in text
        pinned = re.findall(r"^[a-z0-9-]+==", text, re.MULTILINE)
        assert pinned
        assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}", text)) >= len(pinned)


def test_large_files_are_only_built_artifacts() -> None:
    for path in tracked():
        if path.stat().st_size > 1_500_000:
            assert "artifacts" in path.parts, path
