# SPDX-License-Identifier: MIT
"""Every command in the docs runs, in the order in which a reader meets it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, Cli

pytestmark = pytest.mark.e2e

# these build and boot images: tests/images runs them
OF_IMAGES = {"reproduce-an-image", "run-an-image"}
PAGES = sorted(
    path
    for kind in ("tutorial", "how-to")
    for path in (ROOT / "docs" / kind).glob("*.md")
    if path.stem not in OF_IMAGES
)
# what starts, stops or tests everything is run by other tests, or is what runs this one
NOT_HERE = {"make up", "make down", "make test"}
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(page: Path) -> str:
    """The shell blocks of a page as one script that stops at the first failure."""
    lines = [line for block in BLOCK.findall(page.read_text()) for line in block.splitlines()]
    return "set -e\n" + "\n".join(line for line in lines if line.strip() not in NOT_HERE) + "\n"


def test_the_readme_names_only_targets_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text() + "".join(p.read_text() for p in (ROOT / "make").glob("*.mk"))
    named = set(re.findall(r"(?:^|`)make ([a-z][a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_documents_link_to_files_that_exist() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_the_page_run(cli: Cli, page: Path, tmp_path: Path) -> None:
    for name in ("examples", ".venv"):
        (tmp_path / name).symlink_to(ROOT / name)
    script = commands(page)
    if script.strip() == "set -e":
        pytest.skip(f"{page.name} holds no shell command")
    shell = shutil.which("bash")
    assert shell
    answer = subprocess.run(
        [shell, "-c", script], cwd=tmp_path, env=cli.env, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, f"{script}\n{answer.stdout}\n{answer.stderr}"
