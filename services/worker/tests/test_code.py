# SPDX-License-Identifier: MIT
"""Compiled code is kept, shared, bounded, and never loaded when somebody changed it."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outlayer_worker.errors import JobError
from outlayer_worker.executor import code as code_module
from outlayer_worker.executor import memory_file
from outlayer_worker.executor.code import CodeStore, CompileLimits
from outlayer_worker.executor.engine import settings_digest
from outlayer_worker.executor.model import MIB, Category, Kind

KEY = b"k" * 32


def store(folder: Path, key: bytes = KEY, **more: object) -> CodeStore:
    return CodeStore(folder, key, settings_digest(), **more)  # type: ignore[arg-type]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def only_file(folder: Path) -> Path:
    (path,) = folder.glob("*.code")
    return path


async def test_code_is_found_again_after_a_restart(tmp_path: Path, guests: ModuleType) -> None:
    first = await store(tmp_path).compiled(sha(guests.ECHO), guests.ECHO)
    again = await store(tmp_path).stored(sha(guests.ECHO))
    assert again is not None
    assert memory_file.contents(again.fd) == memory_file.contents(first.fd)
    assert again.kind is Kind.MODULE
    assert only_file(tmp_path).stat().st_mode & 0o077 == 0


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_changed_file_is_refused_whatever_the_bit(
    tmp_path: Path, guests: ModuleType, position: float, bit: int
) -> None:
    async def attempt() -> None:
        keeper = store(tmp_path)
        await asyncio.to_thread(keeper._write, sha(guests.ECHO), Kind.MODULE, b"machine code" * 20)
        path = only_file(tmp_path)
        data = bytearray(path.read_bytes())
        data[int(position * len(data))] ^= 1 << bit
        path.write_bytes(data)
        assert await keeper.stored(sha(guests.ECHO)) is None
        assert not path.exists()

    asyncio.run(attempt())


@pytest.mark.parametrize("data", [b"", b"short", bytes(32), bytes(33)])
async def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, guests: ModuleType, data: bytes) -> None:
    keeper = store(tmp_path)
    keeper._path(sha(guests.ECHO)).write_bytes(data)
    assert await keeper.stored(sha(guests.ECHO)) is None


async def test_code_of_another_worker_another_guest_or_another_engine_is_refused(
    tmp_path: Path, guests: ModuleType
) -> None:
    keeper = store(tmp_path)
    await keeper.compiled(sha(guests.ECHO), guests.ECHO)
    data = only_file(tmp_path).read_bytes()

    other_key = store(tmp_path, b"x" * 32)
    assert await other_key.stored(sha(guests.ECHO)) is None

    keeper._path(sha(guests.LOOP)).write_bytes(data)
    assert await keeper.stored(sha(guests.LOOP)) is None

    other_engine = CodeStore(tmp_path, KEY, "ff" * 32)
    other_engine._path(sha(guests.ECHO)).write_bytes(data)
    assert await other_engine.stored(sha(guests.ECHO)) is None


async def test_bytes_with_another_hash_are_not_compiled(tmp_path: Path, guests: ModuleType) -> None:
    with pytest.raises(JobError, match="SHA-256"):
        await store(tmp_path).compiled(sha(b"something else"), guests.ECHO)
    assert not list(tmp_path.iterdir())


async def test_callers_for_the_same_code_share_one_compiler(
    tmp_path: Path, guests: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = 0
    real = code_module.compile_wasm

    async def counted(wasm: bytes, limits: CompileLimits) -> tuple[Kind, bytes]:
        nonlocal started
        started += 1
        return await real(wasm, limits)

    monkeypatch.setattr(code_module, "compile_wasm", counted)
    keeper = store(tmp_path)
    found = await asyncio.gather(*(keeper.compiled(sha(guests.ECHO), guests.ECHO) for _ in range(5)))
    assert started == 1
    assert len({item.fd for item in found}) == 1


async def test_a_compilation_beyond_its_time_is_stopped(tmp_path: Path, guests: ModuleType) -> None:
    keeper = store(tmp_path, limits=CompileLimits(seconds=0.01))
    with pytest.raises(JobError, match="within") as caught:
        await keeper.compiled(sha(guests.ECHO), guests.ECHO)
    assert caught.value.category == Category.COMPILE_LIMIT


async def test_a_compilation_beyond_its_memory_is_stopped(tmp_path: Path, guests: ModuleType) -> None:
    keeper = store(tmp_path, limits=CompileLimits(memory_bytes=8 * MIB))
    with pytest.raises(JobError) as caught:
        await keeper.compiled(sha(guests.ECHO), guests.ECHO)
    assert caught.value.category == Category.COMPILE_LIMIT


async def test_the_least_recently_used_file_goes_first(tmp_path: Path, guests: ModuleType) -> None:
    keeper = store(tmp_path)
    for index in range(3):
        await asyncio.to_thread(keeper._write, f"{index:064x}", Kind.MODULE, bytes(1000))
        os.utime(keeper._path(f"{index:064x}"), (1000 + index, 1000 + index))
    assert await keeper.stored(f"{0:064x}") is not None, "reading makes it the newest"
    small = store(tmp_path, max_bytes=3500)
    await asyncio.to_thread(small._write, f"{9:064x}", Kind.MODULE, bytes(1000))
    left = {path.name[:64] for path in tmp_path.glob("*.code")}
    assert left == {f"{0:064x}", f"{2:064x}", f"{9:064x}"}
