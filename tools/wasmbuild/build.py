# SPDX-License-Identifier: MIT
"""Build artifacts so that the same inputs give the same bytes for anyone, anywhere.

What could differ is fixed: the compiler by the locked root; paths by mounting sources at /build and crates at
/vendor; crates by Cargo.lock (and by vendoring, where the registry they came from leaves no trace); time zone,
locale, umask, user and environment by the sandbox. The network is there only while crates are fetched.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tools.debroot.cache import cache_home, folder_once
from tools.debroot.sandbox import Bind, run_inside
from tools.wasmbuild.recipe import Artifact, Recipe, source_files

RUSTFLAGS = "--remap-path-prefix=/build=/source --remap-path-prefix=/vendor=/crates"
# what NEAR's runtime takes in every protocol version of the last years, and what rustc 1.85 emits
WASM_OPT = (
    *("--mvp-features", "--enable-sign-ext", "--enable-mutable-globals"),
    *("-Oz", "--strip-debug", "--strip-producers"),
)
VENDORED = """\
[source.crates-io]
replace-with = "vendored"
[source.vendored]
directory = "/vendor"
[net]
offline = true
"""
ENVIRONMENT: Mapping[str, str] = {
    "CARGO_HOME": "/cargo",
    "CARGO_TARGET_DIR": "/target",
    "CARGO_INCREMENTAL": "0",
    "CARGO_TERM_COLOR": "never",
    "SOURCE_DATE_EPOCH": "0",
}
_PASSED = re.compile(r"(?i:https?|no|all)_proxy|CARGO_(?:REGISTRIES|SOURCE|HTTP|NET)_[A-Z0-9_]+")
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def build(repository: Path, recipe: Recipe, root: Path, out: Path) -> None:
    """Build every artifact of the recipe into `out`.

    Errors:
        SandboxUnavailableError, CommandError: see run_inside.
    """
    scratch_home = cache_home() / "scratch"
    scratch_home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=scratch_home) as folder:
        scratch = Path(folder)
        sources = scratch / "build"
        for name in recipe.folders():
            copy_sources(repository, name, sources)
        tools = scratch / "tools"
        tools.mkdir()
        for name in recipe.tools:
            _native(name, root, sources, scratch, tools)
        for item in recipe.artifacts:
            _artifact(item, root, sources, scratch, tools)
            shutil.copyfile(scratch / "made" / item.file, out / item.file)


def copy_sources(repository: Path, folder: str, target: Path) -> None:
    """Copy what a build sees, with fixed modes and times. Folders keep their last name: /build/echo-rust."""
    top = repository / folder
    for path in source_files(repository, folder):
        copy = target / top.name / path.relative_to(top)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        copy.chmod(0o644)
        os.utime(copy, (0, 0))
    for inside, _, _ in os.walk(target):
        Path(inside).chmod(0o755)


def vendor(root: Path, sources: Path, name: str, scratch: Path) -> Path:
    """The crates of a Cargo.lock, from the cache or the registry; cargo checks each against the lock's SHA-256."""
    lock = (sources / name / "Cargo.lock").read_bytes()
    key = hashlib.sha256(b"1" + lock).hexdigest()[:32]
    return folder_once(
        cache_home() / "vendor", key, lambda fresh: _vendor(fresh, root, sources, name, scratch)
    )


def _vendor(fresh: Path, root: Path, sources: Path, name: str, scratch: Path) -> None:
    home = scratch / f"registry-{name}"
    home.mkdir()
    machine_home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
    for file in ("config.toml", "config"):
        if (machine_home / file).is_file():
            shutil.copyfile(machine_home / file, home / "config.toml")
            break
    passed = {key: value for key, value in os.environ.items() if _PASSED.fullmatch(key)}
    certificates = Path(
        passed.pop("CARGO_HTTP_CAINFO", "") or os.environ.get("SSL_CERT_FILE") or _CERTIFICATES
    )
    binds = [
        Bind(sources, "/build"),
        Bind(fresh, "/vendor", writable=True),
        Bind(home, "/cargo", writable=True),
    ]
    for outside, inside in (
        (Path("/etc/resolv.conf"), "/etc/resolv.conf"),
        (Path("/etc/hosts"), "/etc/hosts"),
        (certificates, _CERTIFICATES),
    ):
        if outside.is_file():
            binds.append(Bind(outside.resolve(), inside))
    command = ["cargo", "vendor", "--quiet", "--locked", "--versioned-dirs", "/vendor/crates"]
    run_inside(
        root,
        command,
        binds=binds,
        environment={**ENVIRONMENT, **passed},
        network=True,
        cwd=f"/build/{name}",
        what=f"fetching the crates of {name}",
    )
    (fresh / "crates").mkdir(exist_ok=True)


def _cargo(
    name: str, arguments: list[str], root: Path, sources: Path, scratch: Path, tools: Path, linker: str | None
) -> Path:
    """Run one offline cargo build; returns the target folder, which builds of the same folder share."""
    crates = vendor(root, sources, name, scratch) / "crates"
    home = scratch / "cargo"
    target = scratch / f"target-{name}"
    for path in (home, target):
        path.mkdir(exist_ok=True)
    (home / "config.toml").write_text(VENDORED)
    flags = RUSTFLAGS if linker is None else f"{RUSTFLAGS} -Clinker={linker}"
    print(f"building {name}: {' '.join(arguments)}", file=sys.stderr, flush=True)
    run_inside(
        root,
        ["cargo", "build", "--quiet", "--release", "--frozen", *arguments],
        binds=[
            Bind(sources, "/build"),
            Bind(crates, "/vendor"),
            Bind(home, "/cargo", writable=True),
            Bind(target, "/target", writable=True),
            Bind(tools, "/out"),
        ],
        environment={**ENVIRONMENT, "RUSTFLAGS": flags},
        cwd=f"/build/{name}",
        what=f"building {name}",
    )
    return target


def _native(folder: str, root: Path, sources: Path, scratch: Path, tools: Path) -> None:
    target = _cargo(Path(folder).name, [], root, sources, scratch, tools, None)
    for path in sorted((target / "release").iterdir()):
        if path.is_file() and os.access(path, os.X_OK) and not path.suffix:
            shutil.copy(path, tools / path.name)


def _artifact(item: Artifact, root: Path, sources: Path, scratch: Path, tools: Path) -> None:
    name = Path(item.folder).name
    arguments = ["--target", item.target, "--package", item.package]
    target = _cargo(name, arguments, root, sources, scratch, tools, item.linker)
    built = target / item.target / "release" / item.binary
    made = scratch / "made"
    made.mkdir(exist_ok=True)
    if not item.optimise:
        shutil.copyfile(built, made / item.file)
        return
    run_inside(
        root,
        ["wasm-opt", f"/target/{item.target}/release/{item.binary}", *WASM_OPT, "-o", f"/out/{item.file}"],
        binds=[Bind(target, "/target"), Bind(made, "/out", writable=True)],
        what=f"optimising {item.file}",
    )
