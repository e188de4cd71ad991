# SPDX-License-Identifier: MIT
"""Another day, machine, checkout and processor count give the same bytes, in images and firmware.

What differs is in `elsewhere` here, and there in `elsewhere.py`. Each program of a build records what it saw, so
that a build that the other day did not reach cannot pass.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from outlayer_attestation.measure.image import uki_digests
from tests.images.conftest import ROOT, run
from tests.images.elsewhere import HOST, KERNEL, Seen, another_machine, seen
from tests.images.unpack import layer_of
from tools.debroot.__main__ import prepare
from tools.debroot.fetch import Sources
from tools.debroot.sandbox import Surroundings, run_inside
from tools.imageaudit.difference import compare_artifacts, compare_builds
from tools.imagebuild.locks import TOOLS

ALL = os.environ.get("OUTLAYER_RUN_REPRO") == "1"
NOT_HERE = "one role on one other day is enough here: make images-repro builds all on each"
LEAP_DAY = date(2028, 2, 29)
ANOTHER_YEAR = date(2024, 12, 31)  # before the time that the files of an image carry
# the day after whichever day it is: what two people who build one commit differ by
DAYS = {
    "leap-day": LEAP_DAY,
    "another-year": ANOTHER_YEAR,
    "tomorrow": datetime.now(UTC).date() + timedelta(days=1),
}
EVERY_DAY = pytest.mark.parametrize("day", DAYS.values(), ids=DAYS.keys())
# what a build reads of the checkout
READ = ("images", "tools", "services")
PROGRAM = """
import json, os, sys
from pathlib import Path
os.umask(0o077)
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
sys.path.insert(0, os.getcwd())
from tools.debroot.sandbox import Surroundings
from tools.imagebuild.__main__ import main
hostname, etc, record = json.loads(sys.argv[1])
sys.exit(main(sys.argv[2:], Surroundings(hostname, Path(etc), Path(record))))
"""
# programs that write dates or names where nothing stops them: each has to have run on the other machine
RECORDED = {
    "tools": {"python3.13", "apt-ftparchive", "gzip"},
    "mkosi": {"apt-get", "dpkg", "dpkg-deb", "tar", "systemd-sysusers", "systemd-firstboot", "cpio", "zstd"},
    "image": {"dpkg", "perl", "bash", "dash", "useradd", "systemd-sysusers", "systemd-tmpfiles", "python3.13", "date"},
}  # fmt: skip

pytestmark = [pytest.mark.images, pytest.mark.timeout(2400)]


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What a build elsewhere wrote, and what its programs saw."""

    out: Path
    programs: list[Seen]

    def require_day(self, day: date) -> None:
        """Every program ran on that day, or past its midnight, under the other names."""
        assert {item.day for item in self.programs} <= {day, day + timedelta(days=1)}
        assert {(item.kernel, item.host) for item in self.programs} == {(KERNEL, HOST)}

    def names(self, where: str) -> set[str]:
        return {Path(item.program).name for item in self.programs if item.where == where}


def scattered_copy(source: Path, target: Path, chance: random.Random) -> None:
    """A copy made in another order, so with other numbers and places in its folders, and with other times."""
    paths = [path for path in source.rglob("*") if "__pycache__" not in path.parts]
    chance.shuffle(paths)
    for path in paths:
        copy = target / path.relative_to(source)
        if path.is_dir() and not path.is_symlink():
            copy.mkdir(parents=True, exist_ok=True)
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy, follow_symlinks=False)
        when = chance.randrange(0, 2**31)
        os.utime(copy, (when, when), follow_symlinks=False)


def elsewhere(tmp_path: Path, day: date, *words: str, cache: Path | None = None) -> Elsewhere:
    """Run the builder in another checkout, on another machine, on that day."""
    checkout, home, out = tmp_path / ("checkout " + "x" * 30), tmp_path / "home", tmp_path / "out"
    for folder in (checkout, home, out):
        folder.mkdir()
    for name in READ:
        scattered_copy(ROOT / name, checkout / name, random.Random(day.toordinal()))
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
    around = another_machine(ROOT, day, tmp_path / "machine")
    given = json.dumps([around.hostname, str(around.etc), str(around.record)])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, given, *words, "--out", str(out), "--allow-current"],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "cannot be preloaded" not in done.stderr, done.stderr[-4000:]
    return Elsewhere(out, seen(around))


def assert_the_role_is_the_same(role: str, built: Path, tmp_path: Path, day: date) -> None:
    found = elsewhere(tmp_path, day, "build", role)
    found.require_day(day)
    for where, names in RECORDED.items():
        assert names - found.names(where) == set(), where
    assert [difference.text() for difference in compare_builds(built, found.out / role, role)] == []


def test_programs_see_the_other_day_and_machine_whatever_their_environment(
    builder: None, tmp_path: Path
) -> None:
    del builder
    around = another_machine(ROOT, LEAP_DAY, tmp_path)
    root = prepare(ROOT / TOOLS, Sources.of_this_machine(), allow_current=True).root
    look = "date +%F >/run/record/date; uname -nr >/run/record/names; env -i ls -U /etc >/run/record/forward"
    run_inside(root, ["sh", "-c", look], surroundings=around)
    plain = Surroundings(record=around.record)
    run_inside(
        root, ["sh", "-c", "date +%F >/run/record/today; ls -U /etc >/run/record/back"], surroundings=plain
    )
    told = {path.name: path.read_text().splitlines() for path in (tmp_path / "record").iterdir()}
    assert told["date"] == ["2028-02-29"]
    assert told["names"] == [f"{HOST} {KERNEL}"]
    assert told["today"] != told["date"]
    ours = {"elsewhere", "ld.so.preload", "faketimerc"}
    assert len(told["back"]) > 10
    assert [name for name in told["forward"] if name not in ours] != told["back"]
    assert set(told["forward"]) - ours == set(told["back"])
    programs = seen(around)
    assert {item.day for item in programs} == {LEAP_DAY}
    assert {"dash", "date", "uname", "env", "ls"} <= {Path(item.program).name for item in programs}


def test_the_worker_is_the_same_elsewhere_on_a_leap_day(worker: Path, tmp_path: Path) -> None:
    assert_the_role_is_the_same("worker", worker, tmp_path, LEAP_DAY)


@pytest.mark.skipif(not ALL, reason=NOT_HERE)
@pytest.mark.parametrize("day", [DAYS["another-year"], DAYS["tomorrow"]], ids=["another-year", "tomorrow"])
def test_the_worker_is_the_same_elsewhere(worker: Path, tmp_path: Path, day: date) -> None:
    assert_the_role_is_the_same("worker", worker, tmp_path, day)


@pytest.mark.skipif(not ALL, reason=NOT_HERE)
@EVERY_DAY
def test_the_coordinator_is_the_same_elsewhere(coordinator: Path, tmp_path: Path, day: date) -> None:
    assert_the_role_is_the_same("coordinator", coordinator, tmp_path, day)


@pytest.mark.skipif(not ALL, reason=NOT_HERE)
@EVERY_DAY
def test_the_firmware_is_the_same_elsewhere(firmware: Path, tmp_path: Path, day: date) -> None:
    # a cache of its own for what is built; what is downloaded may be shared
    shared = Path(os.environ.get("OUTLAYER_CACHE") or Path.home() / ".cache/outlayer")
    cache = tmp_path / "cache"
    cache.mkdir()
    for name in ("debs", "roots"):
        if (shared / name).is_dir():
            (cache / name).symlink_to(shared / name)
    found = elsewhere(tmp_path, day, "firmware", cache=cache)
    found.require_day(day)
    assert {"make", "x86_64-linux-gnu-gcc-14", "python3.13", "nasm", "patch"} <= found.names("tools")
    assert [
        difference.text() for difference in compare_artifacts(firmware.parent, found.out / "firmware")
    ] == []


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
