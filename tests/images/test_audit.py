# SPDX-License-Identifier: MIT
"""Audit: archives are read or refused, differences name file and package, inputs are packed and found again."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlayer_attestation.errors import ImageError
from outlayer_attestation.measure import testing
from outlayer_attestation.measure.pin import ImagePin
from tests.images.conftest import ROOT, run, run_page
from tools.debroot.errors import CorruptInputError, InputsMovedError
from tools.debroot.fetch import Sources
from tools.debroot.mirror import Mirrors
from tools.imageaudit.__main__ import report, to_json
from tools.imageaudit.cpio import CpioError, Entry, parse
from tools.imageaudit.difference import (
    compare_images,
    compare_listings,
    compare_trees,
    files_of,
    parse_listing,
)
from tools.imageaudit.inputs import locked, pack
from tools.imageaudit.reproduce import Outcome, compare_with
from tools.imagebuild.__main__ import gather
from tools.imagebuild.errors import AuditError
from tools.imagebuild.listing import MADE, OWN, owner_of
from tools.imagebuild.manifest import is_pinned
from tools.imagebuild.packages import is_copyleft, licenses_of, parse_status
from tools.imagebuild.sbom import Component, copyleft_sources, document, metadata_licenses


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
    assert run_page("reproduce-an-image", tmp_path).count("worker: REPRODUCED") == 2


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


def outcome(*, wrong: list[str], other: list[Any] | None = None) -> Outcome:
    pin = ImagePin.from_bytes((ROOT / "images/pins/worker-small.json").read_bytes())
    return Outcome({"worker-small": pin}, {"worker-small": wrong}, other)


def test_the_report_of_a_difference_names_packages_and_what_to_do() -> None:
    found = outcome(wrong=["tree.systemd: pinned a, found b", "uki.sha256: pinned c, found d"])
    lines = report("worker", found)
    assert not found.same
    assert "worker: NOT what images/pins/worker-small.json says" in lines
    assert "  files differ of: systemd" in lines
    assert "  uki.sha256: pinned c, found d" in lines
    assert any("--against" in line for line in lines)
    assert to_json(found)["different_from_pins"]["worker-small"][0].startswith("tree.systemd")


def test_the_report_of_the_same_build_names_the_artifacts() -> None:
    found = outcome(wrong=[], other=[])
    assert found.same
    text = "\n".join(report("worker", found))
    assert "REPRODUCED, bit for bit" in text
    assert "the same as the image given" in text
    assert to_json(found)["same"] is True


def test_the_same_build_that_differs_from_the_image_given_is_not_the_same(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(uki({"a": b"1"}))
    (tmp_path / "two").write_bytes(uki({"a": b"2"}))
    found = outcome(wrong=[], other=compare_images(tmp_path / "one", tmp_path / "two", {}))
    assert not found.same
    assert "differs from the image given" in "\n".join(report("worker", found))


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
