# SPDX-License-Identifier: MIT
"""Executors and compiled code for the tests."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from outlayer_worker.executor.code import CodeStore
from outlayer_worker.executor.engine import settings_digest
from outlayer_worker.executor.model import MIB, Limits, RunResult
from outlayer_worker.executor.pool import ExecutorPool, RunRequest


def _load(name: str) -> ModuleType:
    """A helper module of this folder, under a name that no other package's tests use."""
    full = f"outlayer_worker_tests_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module
        spec.loader.exec_module(module)
    return sys.modules[full]


@pytest.fixture(scope="session")
def guests() -> ModuleType:
    return _load("guests")


@dataclass
class Bench:
    """Compiles and runs guests."""

    store: CodeStore
    pool: ExecutorPool

    async def run(
        self,
        wasm: bytes,
        data: bytes = b"",
        *,
        env: dict[str, str] | None = None,
        instructions: int = 10**9,
        memory: int = 64 * MIB,
        seconds: float = 20.0,
        output: int = MIB,
    ) -> RunResult:
        code = await self.store.compiled(hashlib.sha256(wasm).hexdigest(), wasm)
        limits = Limits(instructions, memory, seconds, output)
        return await self.pool.run(code, RunRequest(data, env or {}, limits))


@pytest.fixture(scope="session")
def code_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("code")


@pytest.fixture
async def bench(code_folder: Path) -> AsyncIterator[Bench]:
    pool = ExecutorPool(2)
    await pool.start()
    try:
        yield Bench(CodeStore(code_folder, b"k" * 32, settings_digest()), pool)
    finally:
        await pool.close()
