# SPDX-License-Identifier: MIT
"""Another checkout, user folder, umask, time zone, locale and processor count give the same bytes."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from outlayer_attestation.measure.image import uki_digests
from tests.images.conftest import ROOT, run
from tests.images.unpack import layer_of

ALL = os.environ.get("OUTLAYER_RUN_REPRO") == "1"
NOT_HERE = "one role is enough here: make images-repro builds all twice"
# what a build reads of the checkout
READ = ("images", "tools", "services")
PROGRAM = """
import os, runpy, sys
os.umask(0o077)
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
sys.argv = ["imagebuild", *sys.argv[1:]]
sys.path.insert(0, os.getcwd())
runpy.run_module("tools.imagebuild", run_name="__main__")
"""

pytestmark = [pytest.mark.images, pytest.mark.timeout(2400)]


def elsewhere(tmp_path: Path, *words: str, cache: Path | None = None) -> Path:
    """Run the builder in another checkout under other surroundings; the folder of what it made."""
    checkout, home, out = tmp_path / ("checkout " + "x" * 30), tmp_path / "home", tmp_path / "out"
    for folder in (checkout, home, out):
        folder.mkdir()
    for name in READ:
        shutil.copytree(
            ROOT / name, checkout / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    shared = os.environ.get("OUTLAYER_CACHE") or str(Path.home() / ".cache/outlayer")
    environment = {
        **os.environ,
        "HOME": str(home),
        "USER": "somebody",
        "TZ": "Pacific/Kiritimati",
        "LC_ALL": "C",
        "SOURCE_DATE_EPOCH": "1",
        "PYTHONHASHSEED": "1",
        "OUTLAYER_CACHE": str(cache) if cache else shared,
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words, "--out", str(out), "--allow-current"],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return out


def assert_same(one: Path, two: Path) -> None:
    """Every file below is the same, byte by byte."""
    names = {path.relative_to(one) for path in one.rglob("*") if path.is_file()}
    assert names == {path.relative_to(two) for path in two.rglob("*") if path.is_file()}
    assert [
        str(name) for name in sorted(names) if not filecmp.cmp(one / name, two / name, shallow=False)
    ] == []


def test_the_worker_is_the_same_under_other_surroundings(worker: Path, tmp_path: Path) -> None:
    assert_same(worker, elsewhere(tmp_path, "build", "worker") / "worker")


@pytest.mark.skipif(not ALL, reason=NOT_HERE)
def test_the_coordinator_is_the_same_under_other_surroundings(coordinator: Path, tmp_path: Path) -> None:
    assert_same(coordinator, elsewhere(tmp_path, "build", "coordinator") / "coordinator")


@pytest.mark.skipif(not ALL, reason=NOT_HERE)
def test_the_firmware_is_the_same_under_other_surroundings(firmware: Path, tmp_path: Path) -> None:
    # a cache of its own for what is built; what is downloaded may be shared
    shared = Path(os.environ.get("OUTLAYER_CACHE") or Path.home() / ".cache/outlayer")
    cache = tmp_path / "cache"
    cache.mkdir()
    for name in ("debs", "roots"):
        if (shared / name).is_dir():
            (cache / name).symlink_to(shared / name)
    assert_same(firmware.parent, elsewhere(tmp_path, "firmware", cache=cache) / "firmware")


@pytest.mark.skipif(not ALL, reason=NOT_HERE)
def test_a_development_image_has_other_measurements_and_says_what_it_is(worker: Path, tmp_path: Path) -> None:
    run(
        "-m",
        "tools.imagebuild",
        "build",
        "worker",
        "--development",
        "--out",
        str(tmp_path),
        "--allow-current",
    )
    ours = uki_digests((worker / "worker.efi").read_bytes())
    other = uki_digests((tmp_path / "development/worker/worker.efi").read_bytes())
    assert other.authenticode != ours.authenticode
    assert other.initrd != ours.initrd
    assert other.kernel_authenticode == ours.kernel_authenticode
    assert "outlayer.variant=development" in other.command_line
    configuration, _ = layer_of(tmp_path / "development/worker/worker.oci")
    assert configuration["config"]["Labels"]["org.outlayer.variant"] == "development"
