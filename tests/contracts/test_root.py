# SPDX-License-Identifier: MIT
"""A root holds what the locked packages hold, is made once, and is never half there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.contracts.fakedebian import Deb, build, lock_of, locked
from tools.debroot.cache import STAMP, folder_once
from tools.debroot.errors import CommandError, DebrootError
from tools.debroot.lockfile import Lock
from tools.debroot.root import make_root, root_key
from tools.debroot.sandbox import Bind, require_namespaces, run_inside

COMPILER = Deb("gcc", "14", (("usr/bin/gcc", "the compiler\n"), ("usr/lib/lib.txt", "one\n")))
BASE = Deb("base", "1", (("lib/merged.txt", "ships /lib as a folder\n"),))


def make(tmp_path: Path) -> tuple[Lock, dict[str, Path]]:
    archive = tmp_path / "archive"
    files, packages = {}, []
    for deb in (COMPILER, BASE):
        path = build(deb, tmp_path / "trees", archive)
        package = locked(deb, path, archive)
        files[package.sha256] = path
        packages.append(package)
    return lock_of(*packages), files


def tree(root: Path) -> dict[str, tuple[int, str]]:
    found = {}
    for path in sorted(root.rglob("*")):
        content = str(path.readlink()) if path.is_symlink() else path.read_text() if path.is_file() else ""
        found[str(path.relative_to(root))] = (path.lstat().st_mode, content)
    return found


def test_a_root_holds_the_packages_files_in_a_merged_usr(tmp_path: Path) -> None:
    lock, files = make(tmp_path)
    root = make_root(lock, files, tmp_path / "roots")
    assert (root / "usr/lib/merged.txt").read_text() == "ships /lib as a folder\n"
    assert (root / "lib").is_symlink()
    assert (root / "usr/bin/cc").read_text() == "the compiler\n"
    assert not (root / "usr/bin/wasm-ld").is_symlink(), "no link to what is not there"


def test_two_roots_of_one_lock_are_the_same(tmp_path: Path) -> None:
    lock, files = make(tmp_path)
    before = os.umask(0o077)
    try:
        strict = tree(make_root(lock, files, tmp_path / "one"))
    finally:
        os.umask(before)
    assert strict == tree(make_root(lock, files, tmp_path / "two"))


def test_a_root_is_made_once(tmp_path: Path) -> None:
    lock, files = make(tmp_path)
    root = make_root(lock, files, tmp_path / "roots")
    assert make_root(lock, {}, tmp_path / "roots") == root


def test_another_package_gives_another_root(tmp_path: Path) -> None:
    lock, _ = make(tmp_path)
    fewer = Lock(lock.request, lock.indexes, lock.packages[:1])
    assert root_key(lock) != root_key(fewer)


def test_a_root_that_was_not_finished_is_made_again(tmp_path: Path) -> None:
    lock, files = make(tmp_path)
    root = make_root(lock, files, tmp_path / "roots")
    (root.parent / STAMP).unlink()
    (root / "usr/bin/gcc").write_text("damaged")
    assert make_root(lock, files, tmp_path / "roots") == root
    assert (root / "usr/bin/gcc").read_text() == "the compiler\n"


def test_a_damaged_package_leaves_no_root(tmp_path: Path) -> None:
    lock, files = make(tmp_path)
    damaged = tmp_path / "damaged.deb"
    damaged.write_bytes(b"!<arch>\nnot really")
    with pytest.raises(CommandError, match="could not be unpacked"):
        make_root(lock, dict.fromkeys(files, damaged), tmp_path / "roots")
    assert not [path for path in (tmp_path / "roots").iterdir() if path.is_dir()]


def test_a_failed_filling_takes_nothing_with_it(tmp_path: Path) -> None:
    def fail(fresh: Path) -> None:
        (fresh / "half").touch()
        raise DebrootError("stopped in the middle")

    with pytest.raises(DebrootError):
        folder_once(tmp_path, "key", fail)
    assert folder_once(tmp_path, "key", lambda fresh: (fresh / "whole").touch()) == tmp_path / "key"
    assert not (tmp_path / "key" / "half").exists()


@pytest.fixture
def shell_root(tmp_path: Path) -> Path:
    """A root with this machine's own programs, to look at the sandbox from inside."""
    try:
        require_namespaces()
    except DebrootError as error:
        pytest.skip(f"no sandbox here: {error}")
    root = tmp_path / "root"
    for name in ("usr", "proc", "dev", "tmp", "run", "build", "out", "etc"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    return root


def test_a_program_inside_sees_fixed_surroundings_and_no_network(
    shell_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "of the caller")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    out = tmp_path / "out"
    out.mkdir()
    look = (
        "{ id -u; umask; pwd; env | grep -v ^_= | sort; ls /sys 2>&1 | head -1; cat /proc/net/dev | wc -l;"
        " touch /etc/x 2>&1 | tail -c 22; touch /build/x 2>&1 | tail -c 22; } > /out/seen"
    )
    run_inside(
        shell_root,
        ["/bin/sh", "-c", look],
        binds=[
            Bind(Path("/usr"), "/usr"),
            Bind(tmp_path / "root/etc", "/build"),
            Bind(out, "/out", writable=True),
        ],
        environment={"A": "two words"},
        cwd="/build",
    )
    seen = (out / "seen").read_text().splitlines()
    assert seen[:3] == ["0", "0022", "/build"]
    assert "A=two words" in seen
    assert "TZ=UTC" in seen
    assert not [line for line in seen if "SECRET" in line]
    # two header lines and the loopback, which is down
    assert "3" in seen
    assert seen.count("Read-only file system") == 2


def test_a_program_that_fails_inside_is_an_error(shell_root: Path) -> None:
    with pytest.raises(CommandError, match="exit 7"):
        run_inside(shell_root, ["/bin/sh", "-c", "exit 7"], binds=[Bind(Path("/usr"), "/usr")])
