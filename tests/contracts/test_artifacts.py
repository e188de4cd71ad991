# SPDX-License-Identifier: MIT
"""The committed WASM files are whole, come from the committed sources, and are what a rebuild gives."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.debroot.__main__ import read_lock
from tools.wasmbuild.compare import first_difference, sections
from tools.wasmbuild.recipe import (
    INPUTS,
    SUMS,
    artifact_sums,
    changed_inputs,
    inputs,
    is_current,
    read_recipe,
)

ROOT = Path(__file__).resolve().parents[2]
RECIPES = [ROOT / "contracts/builder/recipe.json", ROOT / "examples/recipe.json"]
EXIT_REASONS = {
    3: "this machine lacks a program or a mirror for the builder root",
    4: "a locked package is nowhere to be had",
    6: "this user cannot make the namespaces of a build",
    7: "the mirror cannot be reached",
}
each_recipe = pytest.mark.parametrize("path", RECIPES, ids=["contracts", "guests"])


@each_recipe
def test_committed_artifacts_match_their_sums(path: Path) -> None:
    recipe = read_recipe(path)
    folder = ROOT / recipe.output
    assert (folder / SUMS).read_text() == artifact_sums(folder, recipe.artifacts)
    assert {item.name for item in folder.glob("*.wasm")} == {item.file for item in recipe.artifacts}


@each_recipe
def test_committed_artifacts_were_built_from_the_committed_sources(path: Path) -> None:
    recipe = read_recipe(path)
    recorded = (ROOT / recipe.output / INPUTS).read_text()
    assert changed_inputs(recorded, inputs(ROOT, path, recipe)) == [], "run make contracts guests"


def test_the_builders_lock_holds_the_compiler_that_the_contracts_name() -> None:
    lock = read_lock(ROOT / "contracts/builder/lock.json")
    assert lock.version_of("rustc").startswith("1.85.1")
    assert lock.version_of("libstd-rust-dev-wasm32") == lock.version_of("rustc")
    assert set(lock.request.packages) <= {package.package for package in lock.packages}


@each_recipe
def test_no_artifact_names_a_path_of_the_machine_that_built_it(path: Path) -> None:
    recipe = read_recipe(path)
    for item in recipe.artifacts:
        data = (ROOT / recipe.output / item.file).read_bytes()
        for word in (b"/home/", b"/root/", b"/.cargo", b"/.cache", b"/build/", b"/vendor/"):
            assert word not in data, (item.file, word)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with one crate and a finished artifact."""
    (tmp_path / "tools/wasmbuild").mkdir(parents=True)
    shutil.copy(ROOT / "tools/wasmbuild/build.py", tmp_path / "tools/wasmbuild/build.py")
    crate = tmp_path / "crate"
    (crate / "src").mkdir(parents=True)
    (crate / "Cargo.toml").write_text("[package]\n")
    (crate / "Cargo.lock").write_text("version = 4\n")
    (crate / "src/lib.rs").write_text("")
    (tmp_path / "lock.json").write_text("{}")
    item = {"file": "a.wasm", "folder": "crate", "package": "a", "binary": "a.wasm"}
    item |= {"target": "wasm32-unknown-unknown", "linker": "wasm-ld"}
    document = {"lock": "lock.json", "output": "out", "tools": [], "artifacts": [{**item, "optimise": True}]}
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(document))
    recipe = read_recipe(path)
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.wasm").write_bytes(b"\0asm")
    (out / SUMS).write_text(artifact_sums(out, recipe.artifacts))
    (out / INPUTS).write_text(inputs(tmp_path, path, recipe))
    return tmp_path


def current(project: Path) -> bool:
    path = project / "recipe.json"
    return is_current(project, path, read_recipe(path))


def test_nothing_is_built_when_nothing_changed(project: Path) -> None:
    assert current(project)


@pytest.mark.parametrize(
    "name",
    ["crate/src/lib.rs", "crate/Cargo.lock", "crate/Cargo.toml", "lock.json", "tools/wasmbuild/build.py"],
)
def test_a_changed_input_asks_for_a_build_and_is_named(project: Path, name: str) -> None:
    (project / name).write_text((project / name).read_text() + "\n")
    assert not current(project)
    path = project / "recipe.json"
    now = inputs(project, path, read_recipe(path))
    assert changed_inputs((project / "out" / INPUTS).read_text(), now) == [name]


def test_a_new_source_file_asks_for_a_build(project: Path) -> None:
    (project / "crate/src/more.rs").write_text("")
    assert not current(project)


@pytest.mark.parametrize(
    "name", ["crate/target/debug/x.rs", "crate/tests/it.rs", "crate/src/tests.rs", "crate/x.md"]
)
def test_what_no_build_sees_asks_for_none(project: Path, name: str) -> None:
    (project / name).parent.mkdir(parents=True, exist_ok=True)
    (project / name).write_text("anything")
    assert current(project)


def test_a_changed_or_missing_artifact_asks_for_a_build(project: Path) -> None:
    artifact = project / "out/a.wasm"
    artifact.write_bytes(b"\0asn")
    assert not current(project)
    artifact.unlink()
    assert not current(project)


MODULE = b"\0asm\1\0\0\0" + b"\1\4\1\x60\0\0" + b"\3\2\1\0" + b"\x0a\4\1\2\0\x0b" + b"\0\5\4nameX"[:7]


def test_a_difference_is_named_by_section_and_offset() -> None:
    other = bytearray(MODULE)
    other[19] ^= 1
    found = first_difference(MODULE, bytes(other))
    assert found is not None
    assert "offset 19 (0x13), in section code" in found


def test_equal_files_have_no_difference() -> None:
    assert first_difference(MODULE, MODULE) is None


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_two_files_can_be_compared(left: bytes, right: bytes) -> None:
    assert (first_difference(left, right) is None) is (left == right)
    for part in sections(left):
        assert 0 <= part.start < part.end <= len(left)


@pytest.mark.contracts
@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_rebuilt_contracts_equal_committed_bytes() -> None:
    words = [sys.executable, "-m", "tools.wasmbuild", "check", "--allow-current", *map(str, RECIPES)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode in EXIT_REASONS:
        pytest.skip(f"{EXIT_REASONS[done.returncode]}: {done.stderr.strip()[-300:]}")
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
