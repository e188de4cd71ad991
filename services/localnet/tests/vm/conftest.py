# SPDX-License-Identifier: MIT
"""Makes the generators beside the tests importable, and keeps compiled code out of the user's cache."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory):
    """A folder for compiled contracts."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="session")
def params():
    """Protocol version 86."""
    from outlayer_localnet.params import load

    return load(86)
