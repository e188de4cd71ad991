# SPDX-License-Identifier: MIT
"""A request is answered from signed indexes only, by apt's own rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.contracts.fakedebian import Deb, Key, Source, build, locked, need, publish, request, serve
from tools.debroot.__main__ import main, read_lock
from tools.debroot.errors import CommandError, DebrootError, LockError, SignatureError
from tools.debroot.lockfile import Lock, Package, Request, parse
from tools.debroot.mirror import Mirrors, parse_uris
from tools.debroot.resolve import check_index, resolve

LIBRARY = Deb("library", "1.0-1")
FIXED = Deb("library", "1.0-1+deb13u1")
TOOL = Deb("tool", "2:3.1-1", depends="library (>= 1.0)")
SUITES = ("trixie", "trixie-security")


class Archive:
    """A main and a security archive in one folder each."""

    def __init__(self, folder: Path, url: str) -> None:
        need("apt-get")
        self.folder = folder
        self.key = Key(folder / "key")
        self.main = folder / "main"
        self.security = folder / "security"
        self.mirrors = Mirrors(f"{url}/main", f"{url}/security")
        self.publish("trixie", LIBRARY, TOOL)
        self.publish("trixie-security")

    def publish(self, suite: str, *debs: Deb, sources: tuple[Source, ...] = ()) -> None:
        archive = self.security if suite.endswith("-security") else self.main
        rows = [(self._package(deb, archive, suite), deb) for deb in debs]
        publish(archive, suite, rows, self.key, sources)

    def _package(self, deb: Deb, archive: Path, suite: str) -> Package:
        return locked(deb, build(deb, self.folder / "trees" / suite, archive), archive, suite)

    def answer(self, asked: Request) -> Lock:
        return resolve(asked, self.mirrors, self.key.keyring)

    def resolve(self, *packages: str, **versions: str) -> Lock:
        return resolve(request(*packages, suites=SUITES, **versions), self.mirrors, self.key.keyring)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with serve(tmp_path) as (url, _):
        yield Archive(tmp_path, url)


def test_a_package_comes_with_what_it_depends_on_and_the_indexes_sha256(archive: Archive) -> None:
    lock = archive.resolve("tool")
    assert [(item.package, item.version, item.suite) for item in lock.packages] == [
        ("library", "1.0-1", "trixie"),
        ("tool", "2:3.1-1", "trixie"),
    ]
    assert set(lock.indexes) == set(SUITES)
    for item in lock.packages:
        data = (archive.main / item.filename).read_bytes()
        assert len(data) == item.size


def test_a_security_update_is_taken_and_named(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OUTLAYER_DEBIAN_MIRROR", archive.mirrors.main)
    monkeypatch.setenv("OUTLAYER_DEBIAN_SECURITY_MIRROR", archive.mirrors.security)
    monkeypatch.setattr("tools.debroot.__main__.default_keyring", lambda: archive.key.keyring)
    path = tmp_path / "lock.json"
    path.write_text(archive.resolve("tool").to_text())
    archive.publish("trixie-security", FIXED)
    assert main(["lock", str(path), "--dry-run"]) == 0
    assert read_lock(path).version_of("library") == "1.0-1"
    assert main(["lock", str(path)]) == 0
    assert "library 1.0-1 -> 1.0-1+deb13u1  [security update]" in capsys.readouterr().out
    assert read_lock(path).version_of("library") == "1.0-1+deb13u1"


def test_when_a_package_moved_on_it_stops_unless_current_ones_are_allowed(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OUTLAYER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OUTLAYER_DEBIAN_MIRROR", archive.mirrors.main)
    monkeypatch.setenv("OUTLAYER_DEBIAN_SECURITY_MIRROR", archive.mirrors.security)
    monkeypatch.setattr("tools.debroot.__main__.default_keyring", lambda: archive.key.keyring)
    path = tmp_path / "lock.json"
    lock = archive.resolve("tool")
    path.write_text(lock.to_text())
    newer = Deb("library", "1.1-1")
    archive.publish("trixie", newer, Deb("tool", "2:3.2-1", depends="library"))
    for item in lock.packages:
        (archive.main / item.filename).unlink()
    assert main(["root", str(path)]) == 4
    assert "library 1.0-1  sha256:" in capsys.readouterr().err
    assert main(["root", str(path), "--allow-current"]) == 0
    said = capsys.readouterr().err
    assert "pinned values were NOT checked" in said
    assert "library 1.0-1 -> 1.1-1" in said
    assert read_lock(path) == lock, "the committed lock stays as it was"


def test_an_index_signed_by_another_key_is_refused(archive: Archive, tmp_path: Path) -> None:
    archive.key = Key(tmp_path / "other")
    trusted = tmp_path / "key" / "keyring.gpg"
    archive.publish("trixie", LIBRARY, TOOL)
    with pytest.raises(DebrootError):
        resolve(request("tool", suites=SUITES), archive.mirrors, trusted)


def test_an_index_changed_after_it_was_signed_is_refused(archive: Archive) -> None:
    index = archive.main / "dists/trixie/main/binary-amd64/Packages"
    index.write_text(index.read_text().replace("Version: 1.0-1\n", "Version: 1.0-9\n"))
    with pytest.raises(DebrootError):
        archive.resolve("tool")


def test_an_index_is_held_against_the_signed_release_file() -> None:
    release = "Date: x\nSHA256:\n 00 5 main/binary-amd64/Packages\n"
    with pytest.raises(SignatureError, match="signed was 00"):
        check_index(release, "main/binary-amd64/Packages", b"text", "trixie")
    with pytest.raises(SignatureError, match="lists no"):
        check_index(release, "contrib/binary-amd64/Packages", b"text", "trixie")


def test_a_package_that_is_not_there_is_an_error_of_apt(archive: Archive) -> None:
    with pytest.raises(CommandError, match="nosuch"):
        archive.resolve("nosuch")


def test_another_compiler_than_the_required_one_is_not_locked(archive: Archive) -> None:
    with pytest.raises(LockError, match=r"must be 3\.0"):
        archive.resolve("tool", tool="3.0")


def test_the_mirror_is_read_out_of_apts_own_answer_and_strangers_are_passed_over() -> None:
    answer = (
        "'https://apt.example.org/dists/nodistro/InRelease' a 0 \n"
        "'http://mirror.example.org/debian/dists/bookworm-updates/InRelease' b 0 \n"
        "'http://mirror.example.org/debian-security/dists/bookworm-security/InRelease' c 0 \n"
        "'http://pg.example.org/apt/dists/bookworm-pgdg/InRelease' d 0 \n"
    )
    main_archive, security = parse_uris(answer)
    assert main_archive == "http://mirror.example.org/debian"
    assert security == "http://mirror.example.org/debian-security"


# --- what the images ask for besides ---


def test_essential_packages_come_only_if_they_are_asked_for(archive: Archive) -> None:
    archive.publish("trixie", LIBRARY, TOOL, Deb("base", "1", essential=True))
    asked = request("tool", suites=SUITES)
    assert [item.package for item in archive.answer(asked).packages] == ["library", "tool"]
    wanted = archive.answer(replace(asked, essential=True)).packages
    assert [item.package for item in wanted] == ["base", "library", "tool"]


def test_a_package_comes_from_the_suite_that_is_named_for_it_and_no_other_does(archive: Archive) -> None:
    newer = (Deb("library", "9.0-1"), Deb("tool", "2:9.1-1", depends="library (>= 1.0)"))
    archive.publish("trixie-backports", *newer)
    suites = ("trixie", "trixie-backports")
    asked = replace(request("tool", suites=suites), suite_of={"tool": "trixie-backports"})
    lock = archive.answer(replace(asked, suite_of={"tool": "trixie-backports", "library": "trixie"}))
    assert [(item.package, item.version, item.suite) for item in lock.packages] == [
        ("library", "1.0-1", "trixie"),
        ("tool", "2:9.1-1", "trixie-backports"),
    ]


def test_a_source_package_is_locked_by_its_tarballs_in_the_newest_version(archive: Archive) -> None:
    def source(version: str) -> Source:
        files = (
            (f"fw_{version}.orig.tar.xz", b"up"),
            (f"fw_{version}.debian.tar.xz", b"deb"),
            (f"fw_{version}.dsc", b"d"),
        )
        return Source("fw", f"{version}-1", files)

    archive.publish("trixie", LIBRARY, sources=(source("1.0"), Source("other", "7", (("o.tar", b"x"),))))
    archive.publish("trixie-security", sources=(source("1.1"),))
    asked = replace(request("library", suites=SUITES), sources=("fw",))
    lock = archive.answer(asked)
    assert [(item.filename.rpartition("/")[2], item.version, item.suite) for item in lock.sources] == [
        ("fw_1.1.debian.tar.xz", "1.1-1", "trixie-security"),
        ("fw_1.1.orig.tar.xz", "1.1-1", "trixie-security"),
    ]
    for item in lock.sources:
        assert (archive.security / item.filename).stat().st_size == item.size
    assert parse(lock.to_text()) == lock


def test_a_source_package_that_is_not_there_is_named(archive: Archive) -> None:
    with pytest.raises(LockError, match="no verified index holds a source package fw"):
        archive.answer(replace(request("library", suites=SUITES), sources=("fw",)))
