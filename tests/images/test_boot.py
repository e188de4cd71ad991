# SPDX-License-Identifier: MIT
"""Images boot to a healthy service, and measure what was predicted (make images-boot)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.images.conftest import ROOT, run, run_page
from tools.bootproof.hostile import HOSTILE
from tools.imagebuild.manifest import is_pinned

pytestmark = [pytest.mark.images, pytest.mark.timeout(1800)]

ALL = os.environ.get("OUTLAYER_RUN_HOSTILE") == "1"
# two boots of a minute or two are enough here: no time at all, and a false one
HERE = ("time-dropped", "time-impostor")
NOT_HERE = "make images-hostile boots all of them"


def test_the_worker_boots_to_healthy_and_every_event_is_the_predicted_one(worker: Path) -> None:
    if not is_pinned(worker):
        said = run("-m", "tools.bootproof", "worker", "--allow-current").stdout
    else:
        said = run_page("run-an-image", ROOT)
    assert "worker: healthy after" in said
    assert "rtmr3 3" in said
    assert "NOT SHOWN HERE, only TDX hardware can" in said


def test_the_coordinator_boots_to_healthy_and_every_event_is_the_predicted_one(coordinator: Path) -> None:
    del coordinator
    said = run("-m", "tools.bootproof", "coordinator", "--allow-current").stdout
    assert "coordinator: healthy after" in said


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.skipif(not ALL and name not in HERE, reason=NOT_HERE))
        for name in HOSTILE
    ],
)
def test_on_a_hostile_host_an_image_runs_as_measured_or_stops_and_says_why(
    artifacts: dict[str, Path], name: str
) -> None:
    del artifacts
    hostile = HOSTILE[name]
    said = run("-m", "tools.bootproof", hostile.role, "--hostile", name, "--allow-current").stdout
    outcome = "stops: " if hostile.stops else "runs as measured"
    assert f"a host that {hostile.what}: the {hostile.role}'s VM {outcome}" in said
