# SPDX-License-Identifier: MIT
"""Built images for tests: made once per machine and input, by the command that a person would run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
IMAGES = ROOT / ".build/images"


def run(*words: str, timeout: float = 2400) -> subprocess.CompletedProcess[str]:
    """A command of the repository; its output shows when it fails."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done


def run_page(name: str, cwd: Path) -> str:
    """Run the shell blocks of a how-to, in order; returns what they said."""
    page = (ROOT / f"docs/how-to/{name}.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert blocks
    environment = {**os.environ, "PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}"}
    words = ["bash", "-c", "set -e\n" + "\n".join(blocks)]
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def builder() -> None:
    """Images are built as root and in namespaces; elsewhere these tests say so."""
    from tools.debroot.errors import SandboxUnavailableError
    from tools.debroot.sandbox import require_namespaces

    if os.geteuid() != 0:
        pytest.skip("images are built as root: sudo make images-check")
    try:
        require_namespaces()
    except SandboxUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def firmware(builder: None) -> Path:
    """The TDX firmware."""
    run("-m", "tools.imagebuild", "firmware", "--allow-current")
    return IMAGES / "firmware/OVMF.fd"


@pytest.fixture(scope="session")
def worker(builder: None) -> Path:
    """Folder of the worker's artifacts."""
    run("-m", "tools.imagebuild", "build", "worker", "--allow-current")
    return IMAGES / "worker"


@pytest.fixture(scope="session")
def coordinator(builder: None) -> Path:
    """Folder of the coordinator's artifacts."""
    run("-m", "tools.imagebuild", "build", "coordinator", "--allow-current")
    return IMAGES / "coordinator"


@pytest.fixture(scope="session")
def artifacts(worker: Path, coordinator: Path) -> dict[str, Path]:
    """Role -> folder of its artifacts."""
    return {"worker": worker, "coordinator": coordinator}
