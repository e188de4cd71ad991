# SPDX-License-Identifier: MIT
"""One contract, built twice under surroundings that differ in all that must not matter (make contracts-repro)."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.wasmbuild.recipe import read_recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "contracts/builder/recipe.json"
PROGRAM = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tools.debroot.__main__ import prepare
from tools.debroot.fetch import Sources
from tools.wasmbuild.build import build
from tools.wasmbuild.recipe import Artifact, Recipe
repository, out, artifact = Path(sys.argv[1]), Path(sys.argv[2]), Artifact(**json.loads(sys.argv[3]))
lock = "contracts/builder/lock.json"
os.umask(int(sys.argv[4], 8))
os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: int(sys.argv[5])]))
root = prepare(repository / lock, Sources.of_this_machine()).root
build(repository, Recipe(lock, "contracts/artifacts", (), (artifact,)), root, out)
"""

pytestmark = [
    pytest.mark.contracts,
    pytest.mark.slow,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(
        os.environ.get("OUTLAYER_RUN_REPRO") != "1", reason="two more builds: make contracts-repro runs this"
    ),
]


def test_user_home_umask_time_zone_path_and_processors_do_not_matter(tmp_path: Path) -> None:
    artifact = next(item for item in read_recipe(RECIPE).artifacts if item.package == "caller")
    made = []
    for number, (umask, processors, zone) in enumerate((("022", "1", "UTC"), ("077", "64", "Asia/Tokyo"))):
        home = tmp_path / f"home {number}"
        checkout = tmp_path / ("x" * (3 + 20 * number))
        out = tmp_path / f"out{number}"
        for folder in (home, out):
            folder.mkdir()
        words = ["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(checkout)]
        subprocess.run(words, check=True, capture_output=True)
        environment = {
            **os.environ,
            "HOME": str(home),
            "OUTLAYER_CACHE": str(home / "cache"),
            "TZ": zone,
            "LC_ALL": "C" if number else "C.UTF-8",
            "USER": f"user{number}",
            "RUSTFLAGS": "-Copt-level=1" if number else "",
            "CARGO_HOME": str(home / "cargo"),
        }
        program = [sys.executable, "-c", PROGRAM, str(checkout), str(out)]
        program += [json.dumps(dataclasses.asdict(artifact)), umask, processors]
        subprocess.run(program, check=True, env=environment, cwd=home)
        made.append((out / artifact.file).read_bytes())
    assert made[0] == made[1]
    assert made[0] == (ROOT / "contracts/artifacts" / artifact.file).read_bytes()
