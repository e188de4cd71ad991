# SPDX-License-Identifier: MIT
"""A node per test; contracts of the tests in ``localnet_contracts``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from localnet_contracts import kitchen_sink

from outlayer_localnet.testing import Localnet, TestAccount, localnet


@pytest.fixture
def net() -> Iterator[Localnet]:
    with localnet() as node:
        yield node


@pytest.fixture
def app(net: Localnet) -> TestAccount:
    """``app.test`` with the kitchen sink deployed."""
    account = net.create_account("app.test")
    net.deploy(account, kitchen_sink())
    return account
