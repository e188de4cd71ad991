# SPDX-License-Identifier: MIT
"""What is built from what: the recipe file, the list of inputs, the sums of the outputs. No program is run here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tools.debroot.errors import LockError

INPUTS = "INPUTS"
SUMS = "SHA256SUMS"
# the code that decides the bytes besides the sources and the lock
BUILD_CODE = "tools/wasmbuild/build.py"
_SKIPPED_FOLDERS = {"target", "artifacts", "builder", "tests", "benches", "__pycache__"}
_SKIPPED_FILES = {"tests.rs"}
_KEPT_SUFFIXES = {".rs", ".toml", ".lock", ".der", ".json", ".wit", ".bin"}


@dataclass(frozen=True, slots=True)
class Artifact:
    """One output. `binary` is the file that cargo leaves; `optimise` runs wasm-opt on it (core modules only)."""

    file: str
    folder: str
    package: str
    binary: str
    target: str
    linker: str
    optimise: bool


@dataclass(frozen=True, slots=True)
class Recipe:
    """A set of artifacts that belong together. `tools` are folders of native programs that the builds need."""

    lock: str
    output: str
    tools: tuple[str, ...]
    artifacts: tuple[Artifact, ...]

    def folders(self) -> tuple[str, ...]:
        """The cargo workspaces, tools first, each once."""
        return tuple(dict.fromkeys([*self.tools, *(item.folder for item in self.artifacts)]))


def read_recipe(path: Path) -> Recipe:
    """Errors:
    LockError: not a recipe.
    """
    try:
        document = json.loads(path.read_text())
        return Recipe(
            lock=document["lock"],
            output=document["output"],
            tools=tuple(document["tools"]),
            artifacts=tuple(Artifact(**item) for item in document["artifacts"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LockError(f"{path} is not a recipe: {error!r}") from error


def source_files(repository: Path, folder: str) -> list[Path]:
    """The files of a cargo workspace that a build sees, in a fixed order; tests and build outputs are left out."""
    top = repository / folder
    found = []
    for path in top.rglob("*"):
        relative = path.relative_to(top)
        if set(relative.parts[:-1]) & _SKIPPED_FOLDERS or path.name in _SKIPPED_FILES:
            continue
        if path.is_file() and path.suffix in _KEPT_SUFFIXES:
            found.append(path)
    return sorted(found, key=lambda path: PurePosixPath(path.relative_to(top)).parts)


def inputs(repository: Path, recipe_path: Path, recipe: Recipe) -> str:
    """The manifest of all that decides the bytes, as sha256sum writes it: readable, and diffable line by line."""
    paths = [recipe_path, repository / recipe.lock, repository / BUILD_CODE]
    for folder in recipe.folders():
        paths += source_files(repository, folder)
    names = {path.relative_to(repository).as_posix(): path for path in paths}
    return sums_of(names)


def sums_of(files: Mapping[str, Path]) -> str:
    lines = (
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}\n" for name, path in sorted(files.items())
    )
    return "".join(lines)


def changed_inputs(recorded: str, current: str) -> list[str]:
    """The names whose line differs between two manifests."""
    differing = set(recorded.splitlines()) ^ set(current.splitlines())
    return sorted({line.partition("  ")[2] for line in differing})


def artifact_sums(folder: Path, artifacts: Iterable[Artifact]) -> str:
    return sums_of({item.file: folder / item.file for item in artifacts})


def is_current(repository: Path, recipe_path: Path, recipe: Recipe) -> bool:
    """Whether the committed artifacts are whole and were built from the sources that are here now."""
    folder = repository / recipe.output
    if not all((folder / item.file).is_file() for item in recipe.artifacts):
        return False
    if not (folder / INPUTS).is_file() or not (folder / SUMS).is_file():
        return False
    return (folder / INPUTS).read_text() == inputs(repository, recipe_path, recipe) and (
        folder / SUMS
    ).read_text() == artifact_sums(folder, recipe.artifacts)
