# SPDX-License-Identifier: MIT
"""Makes the helper modules beside these tests importable, and a chain with the main contract."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from main_world import World

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def chain() -> Iterator[World]:
    """The main contract with a stablecoin and users, once for the tests of a module."""
    from main_world import deployed

    with deployed() as world:
        yield world


@pytest.fixture
def world(chain: World) -> World:
    """As it was deployed."""
    chain.chain.restore("deployed")
    return chain
