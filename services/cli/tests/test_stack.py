# SPDX-License-Identifier: MIT
"""What ``up`` stops before it starts anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from outlayer_cli import control, stack
from outlayer_cli.layout import Layout


async def test_workers_of_other_code_and_services_that_are_no_part_are_stopped_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = {
        "worker-1": "new",
        "worker-2": "old",
        "worker-3": "new",
        "coordinator": "old",
        "postgres": "",
        "former": "new",
    }
    stopped: list[str] = []

    async def request(_: Path, message: dict[str, Any], **__: Any) -> dict[str, Any]:
        if message["command"] == "stop":
            stopped.append(message["name"])
        return {"services": [{"name": name, "fingerprint": code} for name, code in running.items()]}

    monkeypatch.setattr(control, "request", request)
    plan = stack._Plan(Layout(tmp_path), {}, 2, "", "", own_database=True, own_redis=True, code="new")
    await stack._stop_outdated(plan)
    assert stopped == ["worker-2", "worker-3", "former"]
