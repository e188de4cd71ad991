# SPDX-License-Identifier: MIT
"""Shared by the tests of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from outlayer_cli import layout
from outlayer_cli.layout import Stack


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """A description of a stack in a temporary folder; nothing runs."""
    return Stack(
        format=layout.STACK_FORMAT,
        simulated=True,
        network_id="localnet",
        coordinator_url="http://127.0.0.1:1",
        rpc_url="http://127.0.0.1:2",
        feed_url="http://127.0.0.1:2",
        contract_id="outlayer.test",
        operator_id="worker.outlayer.test",
        init_account_id="init.outlayer.test",
        developer_id="alice.test",
        caller_id="bob.test",
        ports={"coordinator": 1},
        credentials_dir=str(tmp_path / "credentials"),
        admin_token_file=str(tmp_path / "credentials" / "admin.token"),
        root_ca_file=str(tmp_path / "tdx" / "root_ca.der"),
        policy_file=str(tmp_path / "policy" / "worker.json"),
        policy_key_file=str(tmp_path / "policy" / "maintainer.pub"),
        workers=2,
    )
