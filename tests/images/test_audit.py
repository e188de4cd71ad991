# SPDX-License-Identifier: MIT
"""Audit: archives are read or refused, differences name file and package, inputs are packed and found again."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outlayer_attestation.errors import ImageError
from outlayer_attestation.measure import testing
from outlayer_attestation.measure.pin import ImagePin
from tests.images.conftest import ROOT, run, run_page
from tools.debroot.cache import cache_home
from tools.debroot.errors import CorruptInputError, InputsMovedError
from tools.debroot.fetch import Sources
from tools.debroot.ledger import Kind, Ledger, Origin
from tools.debroot.mirror import Mirrors
from tools.imageaudit.__main__ import report, to_json
from tools.imageaudit.cpio import CpioError, Entry, parse
from tools.imageaudit.difference import (
    Difference,
    compare_artifacts,
    compare_images,
    compare_listings,
    compare_trees,
    files_of,
    files_of_layer,
    parse_listing,
)
from tools.imageaudit.inputs import locked, pack
from tools.imageaudit.reproduce import Outcome, compare_with, fresh_cache
from tools.imagebuild.__main__ import gather
from tools.imagebuild.errors import AuditError, ImageBuildError
from tools.imagebuild.layer import write_layer
from tools.imagebuild.listing import MADE, OWN, owner_of
from tools.imagebuild.manifest import is_pinned
from tools.imagebuild.oci import Process, write_layout
from tools.imagebuild.packages import is_copyleft, licenses_of, parse_status
from tools.imagebuild.sbom import Component, copyleft_sources, document, metadata_licenses
from tools.imagebuild.stage import PACKAGES
from tools.imagepins.files import files_text, parse_files, pinned_files, root_of


def cpio(files: dict[str, bytes], mode: int = 0o100644) -> bytes:
    """An archive in the newc form."""
    made = b""
    for number, (name, content) in enumerate([*files.items(), ("TRAILER!!!", b"")]):
        fields = [number, mode, 0, 0, 1, 7, len(content), 0, 0, 0, 0, len(name) + 1, 0]
        made += b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        made += bytes(-len(made) % 4) + content
        made += bytes(-len(made) % 4)
    return made


FILES = st.dictionaries(st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8})?", fullmatch=True), st.binary(max_size=50))


@given(FILES)
def test_an_archive_gives_back_its_files(files: dict[str, bytes]) -> None:
    assert {entry.path: entry.content for entry in parse(cpio(files))} == files


@given(st.binary(max_size=300))
def test_any_bytes_are_an_archive_or_a_cpio_error(data: bytes) -> None:
    with pytest.raises(CpioError):
        parse(data)


@given(FILES, st.data())
def test_an_archive_that_is_cut_off_is_refused(files: dict[str, bytes], data: st.DataObject) -> None:
    whole = cpio(files)
    last = whole.rindex(b"TRAILER")
    with pytest.raises(CpioError):
        parse(whole[: data.draw(st.integers(0, last - 1))])


# --- differences ---------------------------------------------------------------------------------------------


def uki(files: dict[str, bytes], **sections: bytes) -> bytes:
    named = {f".{name}": data for name, data in sections.items()}
    return testing.uki({**testing.DEFAULT_SECTIONS, **named, ".initrd": cpio(files)})


def compared(tmp_path: Path, one: bytes, two: bytes) -> list[str]:
    (tmp_path / "one.efi").write_bytes(one)
    (tmp_path / "two.efi").write_bytes(two)
    owners = {"usr/lib/liba.so": "liba1", "etc/motd": "base-files"}
    return [found.text() for found in compare_images(tmp_path / "one.efi", tmp_path / "two.efi", owners)]


def test_the_same_images_have_no_difference(tmp_path: Path) -> None:
    assert compared(tmp_path, uki({"a": b"1"}), uki({"a": b"1"})) == []


def test_a_changed_text_names_file_package_and_line(tmp_path: Path) -> None:
    (text,) = compared(tmp_path, uki({"etc/motd": b"one\ntwo\n"}), uki({"etc/motd": b"one\nTWO\n"}))
    assert text.startswith("etc/motd (base-files): 8 bytes there, 8 here; the first that differs is byte 4")
    assert "-two" in text
    assert "+TWO" in text


def test_a_changed_binary_names_file_package_and_byte(tmp_path: Path) -> None:
    one, two = (bytes(100) + value + bytes(100) for value in (b"\1", b"\2"))
    (text,) = compared(tmp_path, uki({"usr/lib/liba.so": one}), uki({"usr/lib/liba.so": two}))
    assert text.startswith(
        "usr/lib/liba.so (liba1): 201 bytes there, 201 here; the first that differs is byte 100"
    )


def test_files_more_or_less_are_named(tmp_path: Path) -> None:
    found = compared(tmp_path, uki({"a": b"", "etc/motd": b""}), uki({"a": b"", "b": b""}))
    assert found == [
        f"b ({MADE}): is only in what was built here",
        "etc/motd (base-files): is missing in what was built here",
    ]


def test_other_rights_and_times_are_named() -> None:
    one, two = Entry("a", 0o100644, 0, 0, 7, b""), Entry("a", 0o100755, 0, 5, 8, b"")
    (found,) = compare_trees([one], [two], {})
    assert found.what == "mode 100644 there, 100755 here; group 0 there, 5 here; mtime 7 there, 8 here"


def test_another_order_alone_is_named() -> None:
    one, two = Entry("a", 0, 0, 0, 0, b""), Entry("b", 0, 0, 0, 0, b"")
    (found,) = compare_trees([one, two], [two, one], {})
    assert "another order" in found.what


def test_another_command_line_is_a_section(tmp_path: Path) -> None:
    (text,) = compared(tmp_path, uki({}, cmdline=b"console=ttyS0"), uki({}, cmdline=b"console=ttyS1"))
    assert text.startswith("section .cmdline")
    assert "+console=ttyS1" in text


def test_listings_compare_without_the_images() -> None:
    item = {"owner": "liba1", "mode": "100644", "sha256": "0" * 64}
    found = compare_listings({"a": item, "b": item}, {"a": {**item, "sha256": "1" * 64}, "c": item})
    assert [text.text().splitlines()[0] for text in found] == [
        "a (liba1): sha256 differ",
        "b (liba1): is missing in what was built here",
        "c (liba1): is only in what was built here",
    ]


def item(content: str = "", **more: Any) -> dict[str, Any]:
    """One line of a listing."""
    data = content.encode()
    found = {"owner": MADE, "mode": "100644", "user": 0, "group": 0, "size": len(data)}
    return {**found, "sha256": hashlib.sha256(data).hexdigest(), **more}


def test_listings_show_both_values_of_a_text_that_the_build_made() -> None:
    lines = ["root:*:20782:0:99999:7:::\n", "outlayer-worker:!*:20782::::::\n"]
    one, two = "".join(lines), "".join(lines).replace("worker:!*:20782", "worker:!*:20785")
    listings = ({"etc/shadow": item(text, text=text, group=42)} for text in (one, two))
    (found,) = compare_listings(*listings)
    assert found.what == "sha256 differ"
    assert "-outlayer-worker:!*:20782::::::" in found.detail
    assert "+outlayer-worker:!*:20785::::::" in found.detail


def test_a_changed_file_with_other_rights_is_named_for_both() -> None:
    (found,) = compare_trees([Entry("a", 0o100644, 0, 0, 7, b"x")], [Entry("a", 0o100600, 0, 0, 7, b"y")], {})
    assert "the first that differs is byte 0; mode 100644 there, 100600 here" in found.what
    assert found.detail


def test_artifacts_that_differ_are_named_with_the_first_byte(tmp_path: Path) -> None:
    for name, data in (("one", b"a" * 40 + b"\0\1"), ("two", b"a" * 40 + b"\0\2")):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub/OVMF.fd").write_bytes(data)
    (tmp_path / "two/more").touch()
    found = compare_artifacts(tmp_path / "one", tmp_path / "two")
    assert [difference.path for difference in found] == ["more", "sub/OVMF.fd"]
    assert found[1].what == "42 bytes there, 42 here; the first that differs is byte 41"
    assert compare_artifacts(tmp_path / "one", tmp_path / "one") == []


@pytest.mark.parametrize(
    "index",
    [None, b"", b"{", b"[]", b'{"manifests": []}', b'{"manifests": [1]}', b'{"manifests": [{"digest": 1}]}'],
)
def test_a_layer_that_cannot_be_read_is_a_clear_error(tmp_path: Path, index: bytes | None) -> None:
    if index is not None:
        (tmp_path / "index.json").write_bytes(index)
    with pytest.raises(AuditError, match="cannot be read"):
        files_of_layer(tmp_path)


def layout(folder: Path, files: dict[str, bytes], mode: int = 0o644) -> Path:
    """An OCI layout with these files in its layer."""
    tree = folder.parent / f"{folder.name}.tree"
    for name, data in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(data)
        (tree / name).chmod(mode)
    layer = folder.parent / f"{folder.name}.tar.gz"
    write_layer(tree, layer, (), 7)
    data = gzip.compress(layer.read_bytes(), mtime=0)
    layer.write_bytes(data)
    write_layout(layer, "0" * 64, Process((), {}, ()), {}, 7, folder)
    return folder


def test_the_files_of_a_layer_are_compared_as_those_of_an_image(tmp_path: Path) -> None:
    one = layout(tmp_path / "one", {"etc/motd": b"one\n"})
    two = layout(tmp_path / "two", {"etc/motd": b"two\n"}, mode=0o600)
    (found,) = compare_trees(files_of_layer(one), files_of_layer(two), {"etc/motd": "base-files"})
    assert found.text().startswith(
        "etc/motd (base-files): 4 bytes there, 4 here; the first that differs is byte 0"
    )
    assert "mode 100644 there, 100600 here" in found.what
    assert found.detail[-2:] == ("-one", "+two")


@settings(deadline=None)  # it writes files
@given(st.data())
def test_one_changed_byte_of_a_layer_is_a_difference_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = layout(tmp_path_factory.mktemp("oci") / "one", {"etc/motd": b"one\n"})
    (blob,) = (path for path in folder.rglob("*") if path.is_file() and path.read_bytes()[:2] == b"\x1f\x8b")
    content = bytearray(blob.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    blob.write_bytes(bytes(content))
    try:
        files_of_layer(folder)
    except AuditError as error:
        assert error.hint


# --- the list of files beside a pin --------------------------------------------------------------------------

NAMES = st.from_regex(r"[a-zA-Z0-9._ +@é-]{1,8}(/[a-z.]{1,8}){0,2}", fullmatch=True)
ITEMS = st.one_of(
    st.builds(lambda text: item(text, text=text), st.text(st.characters(codec="utf-8"), max_size=30)),
    st.builds(lambda text, owner: item(text, owner=owner, user=7), st.text("ab", max_size=5), st.text(max_size=5)),
    st.builds(lambda target: {"owner": "p", "mode": "120777", "user": 0, "group": 0, "target": target},
              st.text(min_size=1, max_size=9)),
    st.just({"owner": "p", "mode": "040755", "user": 0, "group": 42}),
)  # fmt: skip


@given(st.dictionaries(NAMES, ITEMS, max_size=6))
def test_a_list_of_files_gives_back_its_listing_one_line_for_each(files: dict[str, dict[str, Any]]) -> None:
    text = files_text("worker", files)
    assert parse_files(text, "worker") == dict(sorted(files.items()))
    assert root_of(parse_files(text, "worker")) == root_of(files)


@given(st.text(max_size=200) | st.just("[" * 100_000))
def test_any_text_is_a_list_of_files_or_a_clear_error(text: str) -> None:
    with pytest.raises(ImageBuildError):
        parse_files(text, "worker")


@given(st.data())
def test_one_changed_character_of_a_list_is_refused_or_seen(data: st.DataObject) -> None:
    files = {
        "etc/shadow": item("a:1\n", text="a:1\n"),
        "etc": {"owner": "p", "mode": "040755", "user": 0, "group": 0},
    }
    text = files_text("worker", files)
    at = data.draw(st.integers(0, len(text) - 1))
    changed = text[:at] + data.draw(st.characters(codec="ascii")) + text[at + 1 :]
    try:
        found = parse_files(changed, "worker")
    except ImageBuildError as error:
        assert error.hint
        return
    # what the pin's digests do not cover, they need not: the text has its hash
    assert found == files or root_of(found) != root_of(files)


def pinned(tmp_path: Path, files: dict[str, dict[str, Any]]) -> tuple[Path, ImagePin]:
    pin = ImagePin.from_bytes((ROOT / "images/pins/worker-small.json").read_bytes())
    (tmp_path / "worker.files.json").write_text(files_text("worker", files))
    return tmp_path / "worker.files.json", pin.model_copy(update={"tree": root_of(files)})


def test_a_list_that_the_pin_does_not_bind_is_refused(tmp_path: Path) -> None:
    path, pin = pinned(tmp_path, {"etc/shadow": item("a")})
    assert pinned_files(path, pin) == {"etc/shadow": item("a")}
    path.write_text(files_text("worker", {"etc/shadow": item("b")}))
    with pytest.raises(ImageBuildError, match="not the list of files that the pin binds"):
        pinned_files(path, pin)


def test_a_list_of_another_role_or_none_is_refused(tmp_path: Path) -> None:
    path, pin = pinned(tmp_path, {})
    with pytest.raises(ImageBuildError, match="is of 'coordinator', not of worker"):
        parse_files(files_text("coordinator", {}), "worker")
    path.unlink()
    with pytest.raises(ImageBuildError, match="is missing beside the pins"):
        pinned_files(path, pin)


@pytest.mark.parametrize("role", sorted(PACKAGES))
def test_the_committed_list_is_small_and_the_one_that_its_pin_binds(role: str) -> None:
    path = ROOT / f"images/pins/{role}.files.json"
    pin = ImagePin.from_bytes((ROOT / f"images/pins/{role}-small.json").read_bytes())
    files = pinned_files(path, pin)
    assert path.stat().st_size < 600_000
    assert files_text(role, files) == path.read_text()
    day = str(pin.source_date_epoch // 86400)
    assert {line.split(":")[2] for line in files["etc/shadow"]["text"].splitlines()} == {day}


@pytest.mark.parametrize(
    ("path", "owner"),
    [
        ("usr/lib/outlayer/site-packages/x.py", OWN),
        ("usr/lib/python3.13/json/__init__.py", "libpython3.13-minimal"),
        ("usr/lib/python3.13/json/__pycache__/__init__.cpython-313.pyc", "libpython3.13-minimal"),
        ("etc/hostname", MADE),
    ],
)
def test_compiled_python_belongs_to_the_package_of_its_source(path: str, owner: str) -> None:
    assert owner_of(path, {"usr/lib/python3.13/json/__init__.py": "libpython3.13-minimal"}) == owner


# --- bill of materials ---------------------------------------------------------------------------------------

STATUS = """\
Package: liba1
Status: install ok installed
Source: a-src (1.0-1)
Version: 1.0-1+b2

Package: b
Status: install ok installed
Version: 2

Package: gone
Status: deinstall ok config-files
Version: 3
"""


def test_a_package_is_traced_to_its_source() -> None:
    found = parse_status(STATUS)
    assert found == {
        "liba1": {"version": "1.0-1+b2", "source": "a-src", "source_version": "1.0-1"},
        "b": {"version": "2", "source": "b", "source_version": "2"},
    }


@given(st.text(max_size=300))
def test_any_text_is_read_as_status_and_copyright(text: str) -> None:
    assert isinstance(parse_status(text), dict)
    assert isinstance(licenses_of(text), list)
    assert isinstance(is_copyleft(text), bool)


@pytest.mark.parametrize(
    ("text", "copyleft"),
    [
        ("License: GPL-2+", True),
        ("see /usr/share/common-licenses/LGPL-2.1", True),
        ("under the GNU Lesser General Public License", True),
        ("License: MPL-2.0", True),
        ("License: Expat", False),
        ("License: BSD-3-clause", False),
        ("License: Apache-2.0", False),
    ],
)
def test_copyleft_is_seen(text: str, copyleft: bool) -> None:
    assert is_copyleft(text) is copyleft


def test_licences_of_a_wheel_are_read_from_its_metadata() -> None:
    assert metadata_licenses("Name: x\nLicense-Expression: MIT OR Apache-2.0\n\nLicense: no") == (
        "MIT OR Apache-2.0",
    )
    old = "Name: x\nLicense: BSD\nClassifier: License :: OSI Approved :: BSD License\n"
    assert metadata_licenses(old) == ("BSD", "BSD License")


def component(name: str, *, copyleft: bool = True) -> Component:
    return Component("deb", name, "1:2~x+y", "a" * 64, f"{name}.deb", ("src", "1:2~x"), ("GPL-2",), copyleft)


def test_sources_under_copyleft_are_listed_once_with_their_packages() -> None:
    lines = copyleft_sources([component("b"), component("a"), component("c", copyleft=False)])
    assert lines == ["src 1:2~x  a b"]


def test_the_bill_is_the_same_for_the_same_image_and_another_for_another() -> None:
    one, again, other = (document("worker", "v", digest * 64, 5, [component("a")]) for digest in "aab")
    assert one == again
    assert one["documentNamespace"] != other["documentNamespace"]
    package = one["packages"][1]
    assert package["externalRefs"][0]["referenceLocator"] == (
        "pkg:deb/debian/a@1%3A2~x%2By?arch=amd64&distro=debian-13"
    )
    identifiers = {item["SPDXID"] for item in one["packages"]} | {"SPDXRef-DOCUMENT"}
    assert all(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", name) for name in identifiers)
    assert all(
        {relation["spdxElementId"], relation["relatedSpdxElement"]} <= identifiers
        for relation in one["relationships"]
    )


# --- inputs --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(worker: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every input of the worker, by hash."""
    if not is_pinned(worker):
        pytest.skip("the archive no longer has what is locked: there is nothing to pack")
    target = tmp_path_factory.mktemp("inputs")
    count, size = pack(locked(ROOT, ["worker"]), Sources.of_this_machine(offline=True), target)
    assert count == len(list(target.iterdir()))
    assert size == sum(path.stat().st_size for path in target.iterdir())
    return target


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine that downloaded nothing yet; the unpacked tool root may stay, its name says what it is."""
    shared = Path(os.environ.get("OUTLAYER_CACHE") or Path.home() / ".cache/outlayer")
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "roots").symlink_to(shared / "roots")
    monkeypatch.setenv("OUTLAYER_CACHE", str(cache))
    return cache


@pytest.mark.images
@pytest.mark.timeout(1200)
def test_with_a_mirror_that_lacks_everything_the_bundle_is_enough(
    bundle: Path, empty_cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "mirror").mkdir()
    mirror = (tmp_path / "mirror").as_uri()
    sources = Sources((bundle,), empty_cache / "debs", Mirrors(mirror, mirror, None))
    inputs = gather(ROOT, "worker", sources, allow_current=False)
    assert inputs.pinned
    assert all(path.parent == bundle for path in inputs.debs.values())


@pytest.mark.images
@pytest.mark.timeout(1200)
def test_without_the_bundle_a_package_that_the_mirror_lacks_stops_it_by_name(
    bundle: Path, empty_cache: Path, tmp_path: Path
) -> None:
    del bundle
    (tmp_path / "mirror").mkdir()
    mirror = (tmp_path / "mirror").as_uri()
    sources = Sources((), empty_cache / "debs", Mirrors(mirror, mirror, None))
    with pytest.raises(InputsMovedError, match="mkosi") as caught:
        gather(ROOT, "worker", sources, allow_current=False)
    assert "--bundle" in caught.value.hint


@pytest.mark.images
@pytest.mark.timeout(1200)
def test_one_flipped_byte_in_a_package_stops_the_build(
    bundle: Path, empty_cache: Path, tmp_path: Path
) -> None:
    from tools.debroot.__main__ import read_lock

    package = next(
        item for item in read_lock(ROOT / "images/locks/worker.json").packages if item.package == "systemd"
    )
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy, copy_function=os.link)
    file = copy / package.local_name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.unlink()
    file.write_bytes(bytes(data))
    with pytest.raises(CorruptInputError, match="systemd"):
        gather(ROOT, "worker", Sources((copy,), empty_cache / "debs", None), allow_current=False)


# --- the command ---------------------------------------------------------------------------------------------


@pytest.mark.images
@pytest.mark.timeout(2400)
def test_every_command_of_the_page_on_reproducing_runs(bundle: Path, tmp_path: Path) -> None:
    del bundle
    if subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, check=False).returncode:
        pytest.skip("this is no checkout of git, so there is no commit to clone")
    said = run_page("reproduce-an-image", tmp_path)
    assert said.count("worker: REPRODUCED") == 2
    # the second rebuild is the one that takes nothing from a cache
    fresh = said.rpartition("worker: Debian packages")[2]
    assert "taken from the cache" not in fresh
    assert "downloaded" not in fresh
    assert fresh.count("taken from the bundle") == 2
    for made in ("tool root", "firmware", "image"):
        assert f"worker: {made}: built here\n" in fresh


def test_a_fresh_rebuild_without_a_network_or_a_bundle_has_no_inputs() -> None:
    if subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, check=False).returncode:
        pytest.skip("this is no checkout of git, so there is no commit to clone")
    words = [sys.executable, "-m", "tools.imageaudit", "reproduce", "worker", "--offline", "--fresh"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "MB are in no bundle and not in the cache" in done.stderr
    assert "--bundle DIR" in done.stderr


def test_a_role_that_does_not_exist_is_named() -> None:
    words = [sys.executable, "-m", "tools.imageaudit", "reproduce", "keeper"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "there is no role keeper" in done.stderr
    assert done.stdout == ""


def test_inputs_that_are_missing_are_counted_once_and_not_if_a_bundle_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTLAYER_CACHE", str(tmp_path / "cache"))
    inputs = locked(ROOT, ["worker", "coordinator"])
    everything = inputs.missing([])
    assert everything == sum(inputs.sizes().values())
    name, size = next(iter(inputs.sizes().items()))
    (tmp_path / name).touch()
    assert inputs.missing([tmp_path]) == everything - size


def outcome(
    *, wrong: list[str], files: list[Difference] | None = None, other: list[Difference] | None = None
) -> Outcome:
    pin = ImagePin.from_bytes((ROOT / "images/pins/worker-small.json").read_bytes())
    ledger = Ledger()
    ledger.note(Kind.FIRMWARE, "f", Origin.CACHE)
    return Outcome({"worker-small": pin}, {"worker-small": wrong}, files, other, ledger)


def test_the_report_of_a_difference_names_packages_and_what_to_do() -> None:
    found = outcome(wrong=["tree.systemd: pinned a, found b", "uki.sha256: pinned c, found d"])
    lines = report("worker", found)
    assert not found.same
    assert "worker: NOT what images/pins/worker-small.json says" in lines
    assert "  files differ of: systemd" in lines
    assert "  uki.sha256: pinned c, found d" in lines
    assert any("--against" in line for line in lines)
    assert to_json(found)["different_from_pins"]["worker-small"][0].startswith("tree.systemd")


def test_the_report_names_the_files_that_differ_from_the_pinned_list() -> None:
    difference = Difference("etc/shadow", MADE, "sha256 differ", ("-a:1", "+a:2"))
    found = outcome(wrong=["tree.made by the build: pinned a, found b"], files=[difference])
    lines = report("worker", found)
    assert "  files that differ (there: pinned, here: built): 1" in lines
    assert f"  etc/shadow ({MADE}): sha256 differ\n      -a:1\n      +a:2" in lines
    assert to_json(found)["different_from_pinned_files"][0]["path"] == "etc/shadow"


def test_files_that_differ_alone_make_a_build_another() -> None:
    assert not outcome(wrong=[], files=[Difference("a", "b", "c")]).same
    assert outcome(wrong=[], files=[]).same


def test_the_report_says_what_was_taken_from_a_cache() -> None:
    found = outcome(wrong=[])
    assert report("worker", found)[0] == (
        "worker: firmware: taken from the cache, as it was made here before"
    )
    assert to_json(found)["origins"] == {"firmware": {"taken from the cache": {"items": 1, "bytes": 0}}}


def test_a_fresh_cache_has_programs_and_no_inputs_and_is_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTLAYER_CACHE", str(tmp_path))
    (tmp_path / "debs").mkdir()
    with fresh_cache():
        fresh = cache_home()
        assert fresh.parent == tmp_path / "scratch"
        assert [path.name for path in fresh.iterdir()] == ["uv"]
    assert cache_home() == tmp_path
    assert not fresh.exists()
    with pytest.raises(ZeroDivisionError), fresh_cache():
        fresh = cache_home()
        _ = 1 / 0
    assert not fresh.exists()
    assert cache_home() == tmp_path


def test_the_report_of_the_same_build_names_the_artifacts() -> None:
    found = outcome(wrong=[], other=[])
    assert found.same
    text = "\n".join(report("worker", found))
    assert "files that differ" not in text
    assert "REPRODUCED, bit for bit" in text
    assert "the same as the image given" in text
    assert to_json(found)["same"] is True


def test_the_same_build_that_differs_from_the_image_given_is_not_the_same(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(uki({"a": b"1"}))
    (tmp_path / "two").write_bytes(uki({"a": b"2"}))
    found = outcome(wrong=[], other=compare_images(tmp_path / "one", tmp_path / "two", {}))
    assert not found.same
    assert "differs from the image given" in "\n".join(report("worker", found))


def test_a_listing_with_a_text_that_is_none_is_compared_without_it() -> None:
    files = ({"a": {"owner": "x", "sha256": digest, "text": [1]}} for digest in ("0", "1"))
    (found,) = compare_listings(*files)
    assert found.detail == ("sha256: 0 there, 1 here",)


@pytest.mark.parametrize("data", [b"", b"no cpio", b"\x28\xb5\x2f\xfd broken"])
def test_an_initrd_that_cannot_be_read_is_a_clear_error(data: bytes) -> None:
    with pytest.raises(AuditError, match="initrd"):
        files_of(data)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"a": 1}', b'{"a": {}}', b"[" * 100_000])
def test_a_listing_that_is_none_is_a_clear_error(data: bytes) -> None:
    with pytest.raises(AuditError, match="the listing"):
        parse_listing(data)


@pytest.mark.parametrize("name", ["missing.efi", "."])
def test_an_image_to_compare_with_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "worker.files.json").write_text("{}")
    with pytest.raises(AuditError, match="is missing"):
        compare_with(tmp_path / name, tmp_path, "worker")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--against", "README.md"], "does not start with MZ"),
        (["--against", "nowhere.efi"], "nowhere.efi is missing"),
        (["--bundle", "nowhere"], "the input bundle nowhere is no folder"),
    ],
)
def test_wrong_input_is_named_before_anything_is_built(words: list[str], said: str) -> None:
    command = [sys.executable, "-m", "tools.imageaudit", "reproduce", "worker", "--offline", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "built in" not in done.stderr


def test_a_file_that_is_no_image_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "worker.files.json").write_text("{}")
    (tmp_path / "worker.efi").write_bytes(uki({}))
    (tmp_path / "other").write_bytes(b"no PE file")
    with pytest.raises(ImageError):
        compare_with(tmp_path / "other", tmp_path, "worker")


@pytest.mark.images
def test_what_was_built_is_the_same_as_itself_and_its_bill_is_complete(worker: Path) -> None:
    assert compare_with(worker, worker, "worker") == []
    assert compare_with(worker / "worker.files.json", worker, "worker") == []
    bill: dict[str, Any] = json.loads((worker / "worker.spdx.json").read_text())
    files: dict[str, Any] = json.loads((worker / "worker.files.json").read_text())
    names = {package["name"] for package in bill["packages"]}
    assert {item["owner"] for item in files.values()} - {MADE, OWN} <= names
    assert {"wasmtime", "aiohttp", "pydantic"} <= names
    sources = (worker / "worker.sources.txt").read_text()
    for source in ("linux ", "systemd ", "glibc ", "nftables ", "chrony "):
        assert f"\n{source}" in f"\n{sources}", source


@pytest.mark.images
def test_what_is_current_is_not_built_again(worker: Path) -> None:
    if not is_pinned(worker):
        pytest.skip("what was not built from the locks is built again")
    done = run("-m", "tools.imagebuild", "build", "worker")
    assert done.stdout.strip() == "worker: nothing changed"
