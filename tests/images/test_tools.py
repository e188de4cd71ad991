# SPDX-License-Identifier: MIT
"""Parts of the image builder: what they keep, refuse and write, on trees and bytes made for the test."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import tarfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.debroot.errors import CorruptInputError, InputsMovedError, LockError
from tools.debroot.fetch import Sources
from tools.debroot.ledger import Entry, Kind, Ledger, Origin, parse_ledger, summary, totals
from tools.imagebuild.content import Content, ContentError, matches, parse_content
from tools.imagebuild.elf import ElfError, closure, needed
from tools.imagebuild.errors import WheelError
from tools.imagebuild.layer import write_layer
from tools.imagebuild.listing import MADE, TEXT_BYTES, listing, small_text
from tools.imagebuild.oci import Process, write_layout
from tools.imagebuild.prune import prune, set_account_days, set_times
from tools.imagebuild.stage import stage_code
from tools.imagebuild.wheels import Wheel, fetch_wheels, parse_wheels, wheels_text

ROOT = Path(__file__).resolve().parents[2]
CONTENT = parse_content((ROOT / "images/content.json").read_text())


# --- the allow-list ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "pattern", "expected"),
    [
        ("usr/bin/python3", "usr/bin/*", True),
        ("usr/bin/x/y", "usr/bin/*", False),
        ("usr/bin/x/y", "usr/bin/**", True),
        ("usr/bin", "usr/bin/**", False),
        ("usr/sbin/nft", "usr/bin/nft", False),
    ],
)
def test_patterns_match_part_by_part(path: str, pattern: str, expected: bool) -> None:
    assert matches(PurePosixPath(path), pattern) is expected


@pytest.mark.parametrize(
    "path",
    [
        "usr/bin/bash", "usr/bin/dash", "usr/bin/sh", "usr/bin/su", "usr/bin/apt", "usr/bin/dpkg", "usr/bin/perl",
        "usr/sbin/agetty", "usr/sbin/sshd", "usr/bin/login", "usr/bin/passwd", "usr/bin/env", "usr/bin/cat",
        "usr/lib/systemd/system/emergency.service", "usr/lib/systemd/system/rescue.service",
        "usr/lib/systemd/system/debug-shell.service", "usr/lib/systemd/system/getty@.service",
        "usr/lib/systemd/system/serial-getty@.service", "usr/lib/systemd/systemd-sulogin-shell",
        "usr/lib/systemd/system-generators/systemd-debug-generator", "boot/vmlinuz", "var/lib/dpkg/status",
        "usr/lib/python3.13/ensurepip/__init__.py", "usr/share/locale/de/LC_MESSAGES/x.mo",
    ],
)  # fmt: skip
def test_what_an_attacker_would_use_is_not_kept(path: str) -> None:
    assert not CONTENT.keeps(PurePosixPath(path))


@given(st.text(max_size=200))
def test_any_text_is_an_allow_list_or_a_content_error(text: str) -> None:
    with pytest.raises(ContentError):
        parse_content(text)


# --- ELF -----------------------------------------------------------------------------------------------------


def elf(libraries: list[str], interpreter: str = "") -> bytes:
    """An ELF file with nothing but its dynamic section."""
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in libraries)
    offsets = [1 + sum(len(name) + 1 for name in libraries[:index]) for index in range(len(libraries))]
    base, headers = 64, 3 if interpreter else 2
    at = base + 56 * headers
    dynamic = b"".join(struct.pack("<QQ", 1, offset) for offset in offsets)
    dynamic += struct.pack("<QQ", 5, at) + struct.pack("<QQ", 0, 0)
    text = interpreter.encode() + b"\0"
    total = at + len(strings) + len(dynamic) + len(text)

    def header(kind: int, start: int, length: int) -> bytes:
        return struct.pack("<IIQQQQQQ", kind, 4, start, start, start, length, length, 8)

    parts = [header(1, 0, total), header(2, at + len(strings), len(dynamic))]
    if interpreter:
        parts.append(header(3, at + len(strings) + len(dynamic), len(text)))
    start = (
        b"\x7fELF\x02\x01\x01"
        + bytes(9)
        + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, base, 0, 0, 64, 56, headers, 0, 0, 0)
    )
    return start + b"".join(parts) + strings + dynamic + text


def test_an_elf_file_names_its_libraries_and_interpreter() -> None:
    data = elf(["libc.so.6", "libz.so.1"], "/lib64/ld-linux-x86-64.so.2")
    assert sorted(needed(data)) == ["ld-linux-x86-64.so.2", "libc.so.6", "libz.so.1"]
    assert needed(b"#!/bin/sh\n") == []


@given(st.binary(max_size=400))
def test_any_bytes_after_the_magic_are_read_or_an_elf_error(data: bytes) -> None:
    try:
        assert all(isinstance(name, str) for name in needed(b"\x7fELF\x02\x01" + data))
    except ElfError:
        return


@given(st.data())
def test_one_changed_byte_of_an_elf_file_never_ends_in_another_error(data: st.DataObject) -> None:
    content = bytearray(elf(["libc.so.6", "liba.so"], "/ld.so"))
    content[data.draw(st.integers(6, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        needed(bytes(content))
    except ElfError:
        return


@given(st.dictionaries(st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdef"), max_size=4)))
def test_the_closure_holds_what_it_needs(libraries: dict[str, list[str]]) -> None:
    found = closure(["a"], libraries)
    assert "a" in found
    assert all(set(libraries.get(name, [])) <= found for name in found)


# --- pruning -------------------------------------------------------------------------------------------------


def content(**more: Any) -> Content:
    fields: dict[str, Any] = {
        "kept": ("usr/bin/tool", "etc/{passwd,shadow,group,gshadow}"),
        "units": (), "left_out_of_python": (), "loaded_by_name": (),
        "accounts": ("root",), "oci_left_out": (), "uki_left_out": (),
    }  # fmt: skip
    return Content(**{**fields, **more})


def tree(root: Path) -> Path:
    libraries = root / "usr/lib/x86_64-linux-gnu"
    for folder in (libraries, root / "usr/bin", root / "etc", root / "usr/lib64"):
        folder.mkdir(parents=True)
    for name in ("passwd", "shadow", "group", "gshadow"):
        (root / "etc" / name).write_text("root:x:0:0:root:/root:/bin/bash\nmail:x:8:8::/:/bin/sh\n")
    (root / "usr/bin/tool").write_bytes(elf(["liba.so.1"]))
    (root / "usr/bin/bash").write_bytes(elf(["libtinfo.so.6"]))
    (libraries / "liba.so.1.2").write_bytes(elf(["libb.so.1"]))
    (libraries / "liba.so.1").symlink_to("liba.so.1.2")
    (libraries / "libb.so.1").write_bytes(elf([]))
    (libraries / "libtinfo.so.6").write_bytes(elf([]))
    return root


def names(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()}


def test_libraries_stay_that_something_kept_needs_also_through_a_link(tmp_path: Path) -> None:
    prune(tree(tmp_path), content())
    libraries = {name for name in names(tmp_path) if "x86_64" in name}
    prefix = "usr/lib/x86_64-linux-gnu"
    assert libraries == {f"{prefix}/liba.so.1", f"{prefix}/liba.so.1.2", f"{prefix}/libb.so.1"}
    assert not (tmp_path / "usr/bin/bash").exists()


def test_a_library_that_is_nowhere_stops_the_build_and_says_who_needs_it(tmp_path: Path) -> None:
    root = tree(tmp_path)
    (root / "usr/bin/tool").write_bytes(elf(["libgone.so.9"]))
    with pytest.raises(ContentError, match=r"libgone\.so\.9.*usr/bin/tool"):
        prune(root, content())


def test_accounts_lose_their_shells_and_the_unknown_ones_go(tmp_path: Path) -> None:
    prune(tree(tmp_path), content())
    assert (tmp_path / "etc/passwd").read_text() == "root:x:0:0:root:/root:/usr/sbin/nologin\n"


def test_no_file_keeps_the_set_user_bit(tmp_path: Path) -> None:
    root = tree(tmp_path)
    (root / "usr/bin/tool").chmod(0o4755)
    prune(root, content())
    assert (root / "usr/bin/tool").stat().st_mode & 0o7777 == 0o755


def shadow(root: Path, *lines: str) -> Path:
    (root / "etc").mkdir(parents=True)
    (root / "etc/shadow").write_text("".join(f"{line}\n" for line in lines))
    return root


@pytest.mark.parametrize("day", ["20783", "20781", "0", ""])
def test_every_account_gets_the_day_of_the_image_and_keeps_the_rest(tmp_path: Path, day: str) -> None:
    root = shadow(tmp_path, "root:*:20785:0:99999:7:::", f"outlayer-worker:!*:{day}:::::1:")
    (root / "etc/shadow").chmod(0o640)
    set_account_days(root, 1795573351)
    path = root / "etc/shadow"
    assert path.read_text() == "root:*:20782:0:99999:7:::\noutlayer-worker:!*:20782:::::1:\n"
    assert path.stat().st_mode & 0o777 == 0o640


def test_all_of_a_tree_gets_one_time_folders_and_links_too(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/file").touch()
    (tmp_path / "a/link").symlink_to("nowhere")
    # older than the time as well as newer: the machine's clock may be anything
    os.utime(tmp_path / "a/file", (1, 1))
    set_times(tmp_path, 1000)
    assert {path.lstat().st_mtime for path in (tmp_path, *tmp_path.rglob("*"))} == {1000}


# --- listings ------------------------------------------------------------------------------------------------


def test_a_small_text_of_the_build_is_listed_in_full_and_no_package_s(tmp_path: Path) -> None:
    (tmp_path / "made").write_text("one\n")
    (tmp_path / "of-package").write_text("two\n")
    found = listing(tmp_path, {"of-package": "package"})
    assert found["made"]["owner"] == MADE
    assert found["made"]["text"] == "one\n"
    assert "text" not in found["of-package"]


@pytest.mark.parametrize("data", [b"\xff", b"a\0b", b"a" * (TEXT_BYTES + 1)])
def test_what_is_no_small_text_is_listed_by_its_hash_alone(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    assert small_text(tmp_path, "file") is None


# --- where things came from ----------------------------------------------------------------------------------

ENTRIES = st.lists(
    st.builds(Entry, st.sampled_from(Kind), st.text(max_size=5), st.sampled_from(Origin), st.integers(0, 9))
)


@given(ENTRIES)
def test_a_ledger_is_read_back_and_counts_each_item_once(entries: list[Entry]) -> None:
    ledger = Ledger()
    ledger.merge(entries)
    assert parse_ledger(ledger.to_text()) == ledger.entries()
    counted = sum(count for origins in totals(entries).values() for count, _ in origins.values())
    assert counted == len(entries)
    assert len(ledger.entries()) == len({(entry.kind, entry.key) for entry in entries})


@given(st.text(max_size=100) | st.just("[" * 100_000) | st.just('[["image", "a", "nowhere", 1]]'))
def test_any_text_is_a_ledger_or_a_lock_error(text: str) -> None:
    try:
        parse_ledger(text)
    except LockError:
        return


def test_what_was_downloaded_by_the_first_of_two_steps_was_not_taken_from_a_cache() -> None:
    ledger = Ledger()
    ledger.note(Kind.PACKAGE, "a", Origin.DOWNLOADED, 2_000_000)
    ledger.note(Kind.ROOT, "r", Origin.BUILT)
    ledger.merge([Entry(Kind.PACKAGE, "a", Origin.CACHE, 2_000_000), Entry(Kind.ROOT, "r", Origin.CACHE)])
    assert summary(ledger.entries()) == [
        "Debian packages and sources: 1 downloaded (2.0 MB); each checked by its SHA-256",
        "tool root: built here",
    ]


def test_what_is_kept_without_a_hash_is_said_to_be_kept() -> None:
    lines = summary([Entry(Kind.FIRMWARE, "f", Origin.CACHE), Entry(Kind.IMAGE, "worker", Origin.BUILT)])
    assert lines == ["firmware: taken from the cache, as it was made here before", "image: built here"]


# --- layers --------------------------------------------------------------------------------------------------


def test_a_layer_has_the_same_bytes_whatever_time_and_order(tmp_path: Path) -> None:
    made = []
    for number, order in enumerate((["a", "b"], ["b", "a"])):
        root = tmp_path / str(number)
        root.mkdir()
        for name in order:
            (root / name).write_text(name)
            os.utime(root / name, (number, number))
        write_layer(root, tmp_path / f"{number}.tar", (), 1000)
        made.append((tmp_path / f"{number}.tar").read_bytes())
    assert made[0] == made[1]
    with tarfile.open(fileobj=io.BytesIO(made[0])) as archive:
        assert [(item.name, item.mtime, item.uname) for item in archive] == [("a", 1000, ""), ("b", 1000, "")]


def test_what_is_left_out_of_a_layer_is_left_out_with_all_below(tmp_path: Path) -> None:
    (tmp_path / "root/usr/lib/modules/1").mkdir(parents=True)
    (tmp_path / "root/usr/lib/modules/1/x.ko").touch()
    (tmp_path / "root/usr/lib/keep").touch()
    write_layer(tmp_path / "root", tmp_path / "l.tar", ("usr/lib/modules",), 0)
    with tarfile.open(tmp_path / "l.tar") as archive:
        assert archive.getnames() == ["usr", "usr/lib", "usr/lib/keep"]


def test_a_layout_is_named_by_its_content(tmp_path: Path) -> None:
    layer = tmp_path / "layer.tar.gz"
    layer.write_bytes(b"layer")
    process = Process(("/bin/x",), {"B": "2", "A": "1"}, ("8090/tcp",))
    digests = [
        write_layout(layer, "0" * 64, process, {"k": "v"}, 7, tmp_path / name) for name in ("one", "two")
    ]
    assert digests[0] == digests[1]
    index = json.loads((tmp_path / "one/index.json").read_bytes())
    assert index["manifests"][0]["digest"] == digests[0]
    for blob in (tmp_path / "one/blobs/sha256").iterdir():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name


# --- wheels --------------------------------------------------------------------------------------------------


def wheel_file(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


@pytest.mark.parametrize("name", ["../x.py", "/etc/x", "a/../../x"])
def test_a_wheel_with_a_path_outside_is_refused(tmp_path: Path, name: str) -> None:
    wheel = wheel_file(tmp_path / "w.whl", {name: ""})
    with pytest.raises(WheelError, match="outside of its folder"):
        stage_code(ROOT, "worker", [("w", wheel)], 0, tmp_path / "code")


def test_two_wheels_with_one_file_are_refused(tmp_path: Path) -> None:
    wheels = [(str(n), wheel_file(tmp_path / f"{n}.whl", {"same/x.py": str(n)})) for n in range(2)]
    with pytest.raises(WheelError, match="is in another wheel"):
        stage_code(ROOT, "worker", wheels, 0, tmp_path / "code")


def test_scripts_of_a_wheel_stay_out_and_its_library_comes_in(tmp_path: Path) -> None:
    files = {"w-1.data/scripts/run": "#!python", "w-1.data/purelib/w/a.py": "1", "w/b.py": "2"}
    stage_code(ROOT, "worker", [("w", wheel_file(tmp_path / "w.whl", files))], 5, tmp_path / "code")
    site = tmp_path / "code/usr/lib/outlayer/site-packages"
    assert (site / "w/a.py").read_text() == "1"
    assert (site / "w/b.py").exists()
    assert not list(site.rglob("run"))
    document = json.loads((tmp_path / "code/usr/lib/outlayer/image.json").read_text())
    assert document == {
        "format": "outlayer/image/v1", "role": "worker", "variant": "production", "source_date_epoch": 5,
    }  # fmt: skip


def test_a_development_image_is_another_image(tmp_path: Path) -> None:
    stage_code(ROOT, "worker", [], 5, tmp_path / "code", development=True)
    assert '"development"' in (tmp_path / "code/usr/lib/outlayer/image.json").read_text()


@given(st.text(max_size=300) | st.just(wheels_text([Wheel("a", "1", "a-1-py3-none-any.whl", 1, "0" * 64)])))
def test_outside_text_is_a_lock_of_wheels_or_a_wheel_error(text: str) -> None:
    try:
        assert wheels_text(parse_wheels(text)) == text
    except WheelError as error:
        assert error.hint


def locked_wheel(tmp_path: Path) -> tuple[Wheel, Path]:
    path = wheel_file(tmp_path / "w.whl", {"w.py": ""})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel("w", "1", "w-1-py3-none-any.whl", path.stat().st_size, digest), path


def test_a_wheel_comes_from_the_bundle_and_a_changed_byte_stops_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTLAYER_CACHE", str(tmp_path / "cache"))
    wheel, path = locked_wheel(tmp_path)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    copy = path.rename(bundle / wheel.local_name)
    sources = Sources((bundle,), tmp_path / "cache", None)
    assert fetch_wheels([wheel], sources) == {wheel.sha256: copy}
    assert [entry.origin for entry in sources.ledger.entries()] == [Origin.BUNDLE]
    copy.write_bytes(copy.read_bytes() + b"x")
    with pytest.raises(CorruptInputError, match=wheel.filename):
        fetch_wheels([wheel], sources)


def test_a_wheel_that_is_nowhere_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTLAYER_CACHE", str(tmp_path / "cache"))
    wheel, _ = locked_wheel(tmp_path)
    with pytest.raises(InputsMovedError, match=wheel.filename) as caught:
        fetch_wheels([wheel], Sources((), tmp_path / "cache", None))
    assert "--bundle" in caught.value.hint


@pytest.mark.parametrize("role", ["worker", "coordinator"])
def test_the_locks_of_wheels_are_as_they_are_written(role: str) -> None:
    text = (ROOT / f"images/locks/{role}.wheels.json").read_text()
    assert wheels_text(parse_wheels(text)) == text
    assert "://" not in text
