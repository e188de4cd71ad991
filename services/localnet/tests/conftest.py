# SPDX-License-Identifier: MIT
"""A node per test; contracts of the tests in ``localnet_contracts``.

The node is imported inside the fixtures: wasmtime's signal handlers must come after pytest's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from outlayer_localnet.testing import Localnet, TestAccount

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def net() -> Iterator[Localnet]:
    from outlayer_localnet.testing import localnet

    with localnet() as node:
        yield node


@pytest.fixture
def app(net: Localnet) -> TestAccount:
    """``app.test`` with the kitchen sink deployed."""
    from localnet_contracts import kitchen_sink

    account = net.create_account("app.test")
    net.deploy(account, kitchen_sink())
    return account
