# SPDX-License-Identifier: MIT
"""``outlayer up`` with the stand-in of the original's main contract in the place of ours.

Run as ``python -m tests.interop.stack_on_original FOLDER up …``. FOLDER becomes a checkout's twin: links to this one,
but for the artifact of the main contract. Nothing else of the stack knows.
"""

from __future__ import annotations

import sys
from pathlib import Path

from outlayer_cli import layout, main

ROOT = Path(__file__).resolve().parents[2]
MAIN, STAND_IN = "outlayer.wasm", "original-main.wasm"


def make_twin(folder: Path) -> Path:
    """Links to everything in the checkout, with the stand-in under the main contract's name."""
    artifacts = folder / "contracts" / "artifacts"
    artifacts.mkdir(parents=True)
    for item in ROOT.iterdir():
        if item.name != "contracts":
            (folder / item.name).symlink_to(item)
    for item in (ROOT / "contracts" / "artifacts").iterdir():
        found = item.with_name(STAND_IN) if item.name == MAIN else item
        (artifacts / item.name).symlink_to(found)
    return folder


def run(folder: Path, words: list[str]) -> int:
    twin = folder if folder.exists() else make_twin(folder)
    layout.repository_root = lambda: twin
    return main.run(words)


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), sys.argv[2:]))
