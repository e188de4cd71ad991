# SPDX-License-Identifier: MIT
"""Running mutants, one at a time: compile, unit tests, and if those see nothing, the contract on the localnet."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.contractmutants.mutant import Fate, Mutant, MutantError, Plan, Target, read_list
from tools.debroot.cache import cache_home
from tools.debroot.errors import CommandError
from tools.debroot.sandbox import Bind, run_inside
from tools.wasmbuild.build import ENVIRONMENT, RUSTFLAGS, VENDORED, WASM_OPT, vendor
from tools.wasmbuild.recipe import Artifact, Recipe

# a mutant may loop; what runs longer than this is noticed
UNIT_TEST_SECONDS = 180
FIRST_BUILD_SECONDS = 3_600
LOCALNET_SECONDS = 600


def list_mutants(tool: Path, contracts: Path, target: Target) -> list[Mutant]:
    """Every mutant of a target's files. Raises ``MutantError`` where the tool fails."""
    files = [word for file in target.files for word in ("--file", file)]
    command = [str(tool), "mutants", "--list", "--json", "--package", target.package, *files]
    done = subprocess.run(command, cwd=contracts, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MutantError(f"cargo-mutants could not list {target.package}: {done.stderr.strip()[-800:]}")
    return read_list(done.stdout)


def digest(repository: Path, plan: Plan) -> str:
    """Of all that decides what becomes of the mutants: the contracts' sources and their tests."""
    total = hashlib.sha256(plan.version.encode())
    for path in sorted((repository / "contracts").rglob("*")):
        if path.suffix in {".rs", ".toml", ".py", ".lock"} and "target" not in path.parts:
            total.update(f"{path.relative_to(repository)}\0".encode() + path.read_bytes())
    return total.hexdigest()


@dataclass(frozen=True)
class Workshop:
    """A twin of the checkout whose contracts may be changed. Other folders are links, so only they are copied."""

    repository: Path
    folder: Path
    root: Path
    recipe: Recipe

    @property
    def twin(self) -> Path:
        return self.folder / "checkout"

    @property
    def contracts(self) -> Path:
        return self.twin / "contracts"

    def prepare(self) -> None:
        """Make the twin anew."""
        shutil.rmtree(self.twin, ignore_errors=True)
        self.twin.mkdir(parents=True)
        for item in self.repository.iterdir():
            if item.name not in {"contracts", ".build", ".git"}:
                (self.twin / item.name).symlink_to(item)
        skipped = shutil.ignore_patterns("target", "__pycache__")
        shutil.copytree(self.repository / "contracts", self.contracts, ignore=skipped)

    @contextmanager
    def changed(self, mutant: Mutant) -> Iterator[None]:
        """The twin with one change."""
        path = self.contracts / mutant.file
        text = path.read_text()
        path.write_text(mutant.apply(text))
        try:
            yield
        finally:
            path.write_text(text)

    def cargo_test(self, package: str, *words: str, seconds: int = UNIT_TEST_SECONDS) -> bool:
        """Whether the package's unit tests pass in time; with ``--no-run``, whether they compile."""
        environment = {**os.environ, "CARGO_TARGET_DIR": str(cache_home() / "cargo-target-mutants")}
        command = ["cargo", "test", "--locked", "--quiet", "--package", package, *words]
        return _succeeds(command, self.contracts, environment, seconds)

    def localnet(self, target: Target) -> bool:
        """Whether the target's contracts, built from the twin, pass its tests on the localnet."""
        for package in target.contracts:
            self._build(next(item for item in self.recipe.artifacts if item.package == package))
        words = ["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *target.tests]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        return _succeeds([sys.executable, *words], self.twin, environment, LOCALNET_SECONDS)

    def _build(self, item: Artifact) -> None:
        """As ``make contracts`` does, but dependencies are compiled once."""
        scratch = self.folder / "scratch"
        home, target, made = (scratch / name for name in ("cargo", "target", "made"))
        for path in (home, target, made):
            path.mkdir(parents=True, exist_ok=True)
        (home / "config.toml").write_text(VENDORED)
        crates = vendor(self.root, self.twin, "contracts", scratch) / "crates"
        command = ["cargo", "build", "--quiet", "--release", "--frozen"]
        run_inside(
            self.root,
            [*command, "--target", item.target, "--package", item.package],
            binds=[
                Bind(self.twin, "/build"),
                Bind(crates, "/vendor"),
                Bind(home, "/cargo", writable=True),
                Bind(target, "/target", writable=True),
            ],
            environment={**ENVIRONMENT, "RUSTFLAGS": f"{RUSTFLAGS} -Clinker={item.linker}"},
            cwd="/build/contracts",
            what=f"building {item.package}",
        )
        run_inside(
            self.root,
            [
                "wasm-opt",
                f"/target/{item.target}/release/{item.binary}",
                *WASM_OPT,
                "-o",
                f"/out/{item.file}",
            ],
            binds=[Bind(target, "/target"), Bind(made, "/out", writable=True)],
            what=f"optimising {item.file}",
        )
        shutil.copyfile(made / item.file, self.contracts / "artifacts" / item.file)


def _succeeds(command: list[str], cwd: Path, environment: Mapping[str, str], seconds: int) -> bool:
    try:
        done = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, check=False, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def require_sound(workshop: Workshop, target: Target) -> None:
    """Without a change every test passes; else nothing could be told. Raises ``MutantError``."""
    if not workshop.cargo_test(target.package, seconds=FIRST_BUILD_SECONDS):
        raise MutantError(f"the unit tests of {target.package} fail without any mutant")
    if target.tests and not workshop.localnet(target):
        raise MutantError(
            f"{' '.join(target.tests)} fail without any mutant", hint=f"run them in {workshop.twin}"
        )


def fate_of(workshop: Workshop, target: Target, mutant: Mutant) -> Fate:
    with workshop.changed(mutant):
        if not workshop.cargo_test(mutant.package, "--no-run"):
            return Fate.UNVIABLE
        if not workshop.cargo_test(mutant.package):
            return Fate.UNIT_TESTS
        if not target.tests:
            return Fate.SURVIVED
        try:
            return Fate.SURVIVED if workshop.localnet(target) else Fate.LOCALNET
        except CommandError:
            # compiles for this machine's tests, and not for the contract
            return Fate.UNVIABLE


class Ledger:
    """What became of which mutant, kept from run to run as long as sources and tests are the same."""

    def __init__(self, path: Path, sources: str) -> None:
        self.path, self.sources = path, sources
        self.fates: dict[str, Fate] = {}
        if path.exists():
            kept = json.loads(path.read_text())
            if kept["sources"] == sources:
                self.fates = {name: Fate(fate) for name, fate in kept["fates"].items()}

    def add(self, name: str, fate: Fate) -> None:
        self.fates[name] = fate
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps({"sources": self.sources, "fates": self.fates}, indent=1))
        fresh.replace(self.path)


def run_target(
    workshop: Workshop, target: Target, mutants: list[Mutant], ledger: Ledger, say: Callable[[str], None]
) -> None:
    """Every mutant that the ledger does not know yet."""
    open_ = [mutant for mutant in mutants if mutant.name not in ledger.fates]
    if not open_:
        return
    require_sound(workshop, target)
    for number, mutant in enumerate(open_, 1):
        fate = fate_of(workshop, target, mutant)
        ledger.add(mutant.name, fate)
        say(f"{target.package} {number}/{len(open_)}: {mutant.name}: {fate}")
