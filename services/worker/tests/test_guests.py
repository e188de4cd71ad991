# SPDX-License-Identifier: MIT
"""The example guests, as developers build them: Rust module and component, Python component, one that misbehaves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from outlayer_worker.executor.model import MIB, Category

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).resolve().parents[3]
ARTIFACTS = ROOT / "examples" / "artifacts"


def artifact(name: str) -> bytes:
    path = ARTIFACTS / name
    if not path.exists():
        pytest.skip(f"{path.relative_to(ROOT)} is not built")
    return path.read_bytes()


@pytest.mark.parametrize("name", ["echo.wasm", "echo-p2.wasm"])
@pytest.mark.parametrize("data", [b'{"hello":"world"}', b"", bytes(range(256)) * 400])
async def test_echo_in_rust_runs(bench: Any, name: str, data: bytes) -> None:
    result = await bench.run(artifact(name), data)
    assert result.success, result
    assert result.output == data


@pytest.mark.parametrize(
    ("command", "category", "limits"),
    [
        ({"do": "loop"}, Category.INSTRUCTIONS, {"instructions": 50_000_000}),
        ({"do": "loop"}, Category.TIMEOUT, {"instructions": 10**15, "seconds": 0.5}),
        ({"do": "alloc"}, Category.MEMORY, {"instructions": 10**12}),
        ({"do": "flood"}, Category.OUTPUT, {"instructions": 10**12}),
        ({"do": "trap"}, Category.GUEST_TRAP, {}),
        ({"do": "exit", "code": 5}, Category.GUEST_EXIT, {}),
        ({"do": "sleep", "ms": 60_000}, Category.TIMEOUT, {"seconds": 0.5}),
    ],
)
async def test_a_misbehaving_guest_is_stopped_with_the_right_reason(
    bench: Any, command: dict[str, Any], category: Category, limits: dict[str, Any]
) -> None:
    result = await bench.run(artifact("misbehave.wasm"), json.dumps(command).encode(), **limits)
    assert result.category is category, result
    assert result.output == b""
    assert (await bench.run(artifact("echo.wasm"), b"next")).output == b"next"


async def test_a_short_sleep_is_allowed(bench: Any) -> None:
    command = b'{"do":"sleep","ms":200}'
    result = await bench.run(artifact("misbehave.wasm"), command)
    assert result.success, result
    assert 200 <= result.time_ms < 3000


@pytest.mark.slow
async def test_echo_in_python_is_built_and_runs(bench: Any, tmp_path: Path) -> None:
    """componentize-py takes some 15 s the first time; the component is kept under the user's cache."""
    out = tmp_path / "echo-python.wasm"
    build = [sys.executable, str(ROOT / "examples" / "echo-python" / "build.py"), "--out", str(out)]
    answer = subprocess.run(build, capture_output=True, text=True, check=False)  # noqa: ASYNC221
    assert answer.returncode == 0, answer.stderr
    for data in (b'{"hello":"python"}', bytes(range(256)) * 100):
        result = await bench.run(out.read_bytes(), data, memory=128 * MIB)
        assert result.success, result
        assert result.output == data
    small = await bench.run(out.read_bytes(), b"", memory=4 * MIB)
    assert small.category is Category.MEMORY
