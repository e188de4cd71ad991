# SPDX-License-Identifier: MIT
"""Locked packages are found in bundle, cache, mirror and snapshot, in that order; only the right bytes count."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.fakedebian import Deb, Quiet, build, lock_of, locked, serve
from tools.debroot.errors import CorruptInputError, FetchError, InputsMovedError
from tools.debroot.fetch import Sources, bundle, fetch
from tools.debroot.lockfile import Lock, SourceFile
from tools.debroot.mirror import Mirrors

HELLO = Deb("hello", "1.0-1", (("usr/bin/hello", "#!/bin/sh\necho hello\n"),))
EPOCH = Deb("epoch", "2:1.0+x~1-1", (("usr/share/epoch", "2\n"),))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "mirror"


@pytest.fixture
def lock(tmp_path: Path, archive: Path) -> Lock:
    return lock_of(*(locked(deb, build(deb, tmp_path / "trees", archive), archive) for deb in (HELLO, EPOCH)))


def sources(
    tmp_path: Path, mirror: Path | str | None, *bundles: Path, snapshot: str | None = None
) -> Sources:
    url = mirror.as_uri() if isinstance(mirror, Path) else mirror
    mirrors = Mirrors(url, url, snapshot) if url else None
    return Sources(bundles, tmp_path / "cache", mirrors)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_packages_come_from_the_mirror_and_then_from_the_cache(
    tmp_path: Path, archive: Path, lock: Lock
) -> None:
    first = fetch(lock, sources(tmp_path, archive))
    assert set(first) == {package.sha256 for package in lock.packages}
    assert fetch(lock, sources(tmp_path, None)) == first


def test_a_bundle_holds_every_input_and_needs_no_mirror(tmp_path: Path, archive: Path, lock: Lock) -> None:
    size = bundle(lock, sources(tmp_path, archive), tmp_path / "bundle")
    assert size == sum(package.size for package in lock.packages)
    moved = Sources((tmp_path / "bundle",), tmp_path / "empty", None)
    assert {path.parent for path in fetch(lock, moved).values()} == {tmp_path / "bundle"}


def test_one_flipped_byte_on_the_mirror_stops_it_and_nothing_is_kept(
    tmp_path: Path, archive: Path, lock: Lock
) -> None:
    flip(archive / lock.packages[0].filename)
    with pytest.raises(CorruptInputError, match=lock.packages[0].filename.rpartition("/")[2][:5]):
        fetch(lock, sources(tmp_path, archive))
    assert not (tmp_path / "cache" / f"{lock.packages[0].sha256}.deb").exists()
    assert not list((tmp_path / "cache").glob(".download-*"))


@pytest.mark.parametrize("place", ["cache", "bundle"])
def test_one_flipped_byte_in_cache_or_bundle_stops_it(
    tmp_path: Path, archive: Path, lock: Lock, place: str
) -> None:
    bundle(lock, sources(tmp_path, archive), tmp_path / "bundle")
    flip(tmp_path / place / f"{lock.packages[0].sha256}.deb")
    bundles = [tmp_path / "bundle"] if place == "bundle" else []
    with pytest.raises(CorruptInputError, match="should be"):
        fetch(lock, sources(tmp_path, archive, *bundles))


def test_what_moved_on_is_named_with_what_to_do(tmp_path: Path, archive: Path, lock: Lock) -> None:
    gone = next(package for package in lock.packages if package.package == "hello")
    (archive / gone.filename).unlink()
    with pytest.raises(InputsMovedError, match="1 locked packages") as caught:
        fetch(lock, sources(tmp_path, archive))
    assert f"hello 1.0-1  sha256:{gone.sha256}" in str(caught.value)
    assert caught.value.exit_code == 4
    assert "--allow-current" in str(caught.value.hint)
    # what is still there was kept
    assert len(list((tmp_path / "cache").glob("*.deb"))) == 1


def test_the_snapshot_service_has_what_the_mirror_dropped(tmp_path: Path, archive: Path, lock: Lock) -> None:
    snapshot = tmp_path / "snapshot" / "debian" / "20260102T030405Z"
    snapshot.parent.mkdir(parents=True)
    archive.rename(snapshot)
    archive.mkdir()
    template = (tmp_path / "snapshot").as_uri() + "/{archive}/{timestamp}"
    found = fetch(lock, sources(tmp_path, archive, snapshot=template))
    assert len(found) == len(lock.packages)


@pytest.fixture
def server(archive: Path, lock: Lock) -> Iterator[tuple[str, type[Quiet]]]:
    with serve(archive) as running:
        yield running


def test_packages_come_over_http_with_their_odd_names(tmp_path: Path, lock: Lock, server: Any) -> None:
    assert len(fetch(lock, sources(tmp_path, server[0]))) == len(lock.packages)


def test_a_broken_mirror_is_not_taken_for_a_package_that_moved(
    tmp_path: Path, lock: Lock, server: Any
) -> None:
    url, handler = server
    handler.failure = 503
    with pytest.raises(FetchError, match="could not be fetched"):
        fetch(lock, sources(tmp_path, url))
    handler.failure = 404
    with pytest.raises(InputsMovedError):
        fetch(lock, sources(tmp_path, url))


def test_tarballs_of_a_source_package_are_fetched_bundled_and_checked(
    tmp_path: Path, archive: Path, lock: Lock
) -> None:
    data = b"sources"
    file = SourceFile(
        "fw", "1-1", "pool/main/f/fw/fw_1.orig.tar.xz", len(data), hashlib.sha256(data).hexdigest(), "trixie"
    )
    path = archive / file.filename
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    with_source = replace(lock, sources=(file,))
    found = fetch(with_source, sources(tmp_path, archive))
    assert found[file.sha256].read_bytes() == data
    assert bundle(with_source, sources(tmp_path, None), tmp_path / "bundle") > 0
    assert (
        fetch(with_source, Sources((tmp_path / "bundle",), tmp_path / "empty", None)).keys() == found.keys()
    )
    flip(tmp_path / "bundle" / file.local_name)
    with pytest.raises(CorruptInputError):
        fetch(with_source, Sources((tmp_path / "bundle",), tmp_path / "empty", None))
