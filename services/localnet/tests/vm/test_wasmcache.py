# SPDX-License-Identifier: MIT
"""Compiled contracts on disk: only whole files of this user count."""

from __future__ import annotations

import os

import pytest
import wasmtime

from outlayer_localnet.wasmcache import DiskCache, MemoryCache, default_dir

KEY = bytes(32)
CODE = bytes(wasmtime.wat2wasm('(module (func (export "go")))'))


class Prepared:
    """Counts how often a module had to be prepared."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> bytes:
        self.times += 1
        return CODE


@pytest.fixture
def prepared(tmp_path):
    """A cache that holds one module, and its counter."""
    counter = Prepared()
    DiskCache(tmp_path).compiled(KEY, counter)
    assert counter.times == 1
    return counter


def the_file(folder):
    (path,) = folder.iterdir()
    return path


def test_compiled_module_is_found_again(prepared, tmp_path):
    module = DiskCache(tmp_path).compiled(KEY, prepared)
    assert prepared.times == 1
    assert [e.name for e in module.exports] == ["go"]


def test_file_is_private(prepared, tmp_path):
    assert the_file(tmp_path).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("position", [0, 40, -1])
def test_changed_file_is_compiled_anew(prepared, tmp_path, position):
    path = the_file(tmp_path)
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    DiskCache(tmp_path).compiled(KEY, prepared)
    assert prepared.times == 2


def test_cut_file_is_compiled_anew(prepared, tmp_path):
    path = the_file(tmp_path)
    path.write_bytes(path.read_bytes()[:20])
    DiskCache(tmp_path).compiled(KEY, prepared)
    assert prepared.times == 2


def test_file_that_others_may_write_is_not_run(prepared, tmp_path):
    the_file(tmp_path).chmod(0o666)
    DiskCache(tmp_path).compiled(KEY, prepared)
    assert prepared.times == 2


def test_symbolic_link_is_not_followed(prepared, tmp_path):
    path = the_file(tmp_path)
    target = tmp_path / "elsewhere"
    path.rename(target)
    path.symlink_to(target)
    DiskCache(tmp_path).compiled(KEY, prepared)
    assert prepared.times == 2


def test_folder_that_cannot_be_made_does_not_stop_a_call(tmp_path):
    (tmp_path / "file").write_text("")
    counter = Prepared()
    DiskCache(tmp_path / "file" / "cache").compiled(KEY, counter)
    assert counter.times == 1


def test_cache_lives_under_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_dir() == tmp_path / "outlayer" / "localnet"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    assert default_dir() == tmp_path / ".cache" / "outlayer" / "localnet"


def test_memory_cache_keeps_what_was_used_last():
    cache = MemoryCache[int](limit=2)
    cache.put(b"a", 1)
    cache.put(b"b", 2)
    assert cache.get(b"a") == 1
    cache.put(b"c", 3)
    assert [cache.get(key) for key in (b"a", b"b", b"c")] == [1, None, 3]
