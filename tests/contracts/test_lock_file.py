# SPDX-License-Identifier: MIT
"""The lock file: what is read is what was written, and nothing else is taken for a lock."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contracts.fakedebian import lock_of, request
from tools.debroot.errors import LockError
from tools.debroot.lockfile import Lock, Package, difference, has_upstream_version, ordered, parse
from tools.debroot.versions import compare

# a busy machine is no property of the code
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
BUSY = settings.get_profile("busy")
NAMES = st.from_regex(r"[a-z0-9][a-z0-9+.-]{1,8}", fullmatch=True)
VERSIONS = st.from_regex(r"(?:[0-9]:)?[0-9][0-9a-z.+~]{0,6}(?:-[0-9a-z.+~]{1,4})?", fullmatch=True)
PACKAGES = st.builds(
    Package,
    package=NAMES,
    version=VERSIONS,
    architecture=st.sampled_from(["amd64", "all"]),
    filename=st.integers(0, 9999).map("pool/main/p/p{}.deb".format),
    size=st.integers(1, 1 << 31),
    sha256=st.binary(min_size=32, max_size=32).map(bytes.hex),
    suite=st.sampled_from(["trixie", "trixie-security"]),
)


@st.composite
def locks(draw: Any) -> Lock:
    packages = draw(st.lists(PACKAGES, max_size=4, unique_by=lambda package: package.key))
    return Lock(
        request("rustc", suites=("trixie", "trixie-security")),
        {"trixie": "2026-01-02T03:04:05Z"},
        ordered(packages),
    )


@BUSY
@given(locks())
def test_a_written_lock_reads_back_as_itself(lock: Lock) -> None:
    assert parse(lock.to_text()) == lock


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@BUSY
@given(st.one_of(st.text(max_size=60), JSON.map(json.dumps)))
def test_outside_text_is_a_lock_or_a_lock_error(text: str) -> None:
    with pytest.raises(LockError):
        parse(text)


@settings(BUSY, max_examples=200)
@given(locks().filter(lambda lock: bool(lock.packages)), st.data())
def test_a_lock_with_any_value_replaced_reads_as_other_or_not_at_all(lock: Lock, data: Any) -> None:
    document = json.loads(lock.to_text())
    place = data.draw(st.sampled_from([document, document["request"], document["packages"][0]]))
    name = data.draw(st.sampled_from(sorted(place)))
    place[name] = data.draw(JSON)
    try:
        read = parse(json.dumps(document))
    except LockError:
        return
    # accepted only if the file says exactly that
    assert json.loads(read.to_text()) == document


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("filename", "../../etc/shadow.deb"),
        ("filename", "pool/main/../../x.deb"),
        ("filename", "/pool/main/x.deb"),
        ("filename", "pool/main/x.deb\n"),
        ("sha256", "A" * 64),
        ("sha256", "a" * 63),
        ("size", 0),
        ("size", True),
        ("size", 1.5),
        ("architecture", "arm64"),
        ("suite", "sid"),
        ("package", "-rf"),
        ("version", "1 2"),
    ],
)
def test_a_package_with_a_value_of_the_wrong_form_is_refused(field: str, value: object) -> None:
    package = Package("rustc", "1.85.1-1", "amd64", "pool/main/r/rustc.deb", 5, "a" * 64, "trixie")
    document = json.loads(lock_of(package).to_text())
    document["packages"][0][field] = value
    with pytest.raises(LockError):
        parse(json.dumps(document))


def test_another_compiler_than_the_required_one_is_refused() -> None:
    package = Package("rustc", "1.86.0+dfsg1-1", "amd64", "pool/main/r/rustc.deb", 5, "a" * 64, "trixie")
    lock = Lock(request("rustc", rustc="1.85.1"), {}, (package,))
    with pytest.raises(LockError, match=r"must be 1\.85\.1"):
        parse(lock.to_text())


@pytest.mark.parametrize(
    ("version", "wanted", "same"),
    [
        ("1.85.1+dfsg1-1", "1.85.1", True),
        ("1:1.85.1-1", "1.85.1", True),
        ("120-4", "120", True),
        ("1.85.10-1", "1.85.1", False),
        ("1.85.1-1", "1.85", False),
        ("1.85.1.2-1", "1.85.1", False),
    ],
)
def test_the_upstream_version_is_told_from_its_neighbours(version: str, wanted: str, same: bool) -> None:
    assert has_upstream_version(version, wanted) is same


def test_the_difference_names_what_changed_and_which_changes_are_security_updates() -> None:
    old = Package("openssl", "3.5.1-1", "amd64", "pool/o.deb", 5, "a" * 64, "trixie")
    fixed = replace(old, version="3.5.1-1+deb13u1", sha256="b" * 64, suite="trixie-security")
    same = Package("zlib1g", "1.3-1", "amd64", "pool/z.deb", 5, "c" * 64, "trixie")
    gone = Package("gone", "1", "amd64", "pool/g.deb", 5, "d" * 64, "trixie")
    new = Package("new", "1", "amd64", "pool/n.deb", 5, "e" * 64, "trixie-security")
    suites = ("trixie", "trixie-security")
    changes = difference(lock_of(old, same, gone, suites=suites), lock_of(fixed, same, new, suites=suites))
    assert [(change.package, change.kind, change.security) for change in changes] == [
        ("gone", "removed", False),
        ("new", "added", False),
        ("openssl", "upgraded", True),
    ]
    assert str(changes[2]).endswith("openssl 3.5.1-1 -> 3.5.1-1+deb13u1  [security update]")


def test_other_bytes_under_the_same_version_stand_out() -> None:
    old = Package("a1", "1", "amd64", "pool/a.deb", 5, "a" * 64, "trixie")
    (change,) = difference(lock_of(old), lock_of(replace(old, sha256="b" * 64)))
    assert change.kind == "SAME VERSION, OTHER BYTES"


@settings(BUSY, max_examples=60)
@given(VERSIONS, VERSIONS)
def test_versions_are_ordered_as_dpkg_orders_them(left: str, right: str) -> None:
    if shutil.which("dpkg") is None:
        pytest.skip("this machine has no dpkg")
    words = ["dpkg", "--compare-versions", left, "lt", right]
    older = subprocess.run(words, check=False, capture_output=True).returncode == 0
    assert (compare(left, right) < 0) is older


@BUSY
@given(VERSIONS, VERSIONS)
def test_the_order_of_versions_is_antisymmetric(left: str, right: str) -> None:
    assert compare(left, right) == -compare(right, left)
    assert compare(left, left) == 0
