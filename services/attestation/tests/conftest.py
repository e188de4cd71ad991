# SPDX-License-Identifier: MIT
"""Fixtures: the shared vectors (skipped with a reason when absent) and one software platform."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from outlayer_attestation import testing
from outlayer_attestation.platform.machine import SoftwarePlatform

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def vectors() -> Path:
    folder = REPOSITORY.parent / "shared" / "vectors"
    if not folder.is_dir():
        pytest.skip("the shared vectors are not beside the repository (../shared/vectors)")
    return folder


@pytest.fixture(scope="session")
def machine() -> SoftwarePlatform:
    return testing.platform()


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """A test that runs a command's main() leaves no logger behind that writes to its captured stderr."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)
