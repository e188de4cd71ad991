# SPDX-License-Identifier: MIT
"""Build the artifacts of a role: a unified kernel image and an OCI image, from one tree.

The bytes are a function of the locks, images/, the services' sources and the tool code. What could differ from
machine to machine is fixed by the sandbox (paths, user, umask, clock, locale, network) and by mkosi's seed and time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.debroot.cache import cache_home
from tools.debroot.errors import ConfigurationError
from tools.debroot.lockfile import Lock
from tools.debroot.sandbox import SURROUNDINGS, USUAL, Bind, Surroundings, run_inside
from tools.imagebuild.oci import Process, write_layout
from tools.imagebuild.packages import is_copyleft
from tools.imagebuild.sbom import Component, copyleft_sources, debian_components, document, metadata_licenses
from tools.imagebuild.stage import stage_archive, stage_code, stage_definition
from tools.imagebuild.wheels import Wheel

_METADATA = re.compile(r"[^/]+\.dist-info/METADATA")
_ENVIRONMENT = {"SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt", "PATH": "/usr/sbin:/usr/bin"}
# tini reaps children and passes signals on; the agent reads the role from the image and becomes its service
_ENTRYPOINT = ("/usr/bin/tini", "--", "/usr/bin/python3", "-I", "-m", "outlayer_attestation.vm", "run")
PORTS: Mapping[str, tuple[str, ...]] = {"worker": ("8090/tcp",), "coordinator": ("8080/tcp", "8090/tcp")}


@dataclass(frozen=True, slots=True)
class Inputs:
    """All that the bytes of a role depend on, as verified files."""

    role: str
    tool_root: Path
    lock: Lock
    debs: Mapping[str, Path]
    wheels: tuple[tuple[Wheel, Path], ...]
    epoch: int
    pinned: bool = True
    development: bool = False


def require_root() -> None:
    """Errors:
    ConfigurationError: this is another user.
    """
    if os.geteuid() != 0:
        raise ConfigurationError(
            "images are built as root: the files in them belong to several users",
            hint="sudo make images, or run it in a container or VM of your own",
        )


def build(repository: Path, inputs: Inputs, out: Path, surroundings: Surroundings = USUAL) -> None:
    """Write <role>.efi, <role>.oci/, <role>.files.json, <role>.spdx.json and <role>.sources.txt into `out`.

    Errors:
        ConfigurationError: not run as root.
        SandboxUnavailableError, CommandError: see run_inside.
    """
    require_root()
    scratch_home = cache_home() / "scratch"
    scratch_home.mkdir(parents=True, exist_ok=True)
    umask = os.umask(0o022)
    try:
        with tempfile.TemporaryDirectory(prefix="image-", dir=scratch_home) as folder:
            _build(repository, inputs, Path(folder), out, surroundings)
    finally:
        os.umask(umask)


def _build(repository: Path, inputs: Inputs, scratch: Path, out: Path, surroundings: Surroundings) -> None:
    staged = scratch / "build"
    for name in ("build", "made", "work", "var"):
        (scratch / name).mkdir()
    stage_definition(repository, staged / "images")
    stage_archive(inputs.tool_root, inputs.lock, inputs.debs, staged / "repository", surroundings)
    stage_code(
        repository,
        inputs.role,
        [(wheel.filename, path) for wheel, path in inputs.wheels],
        inputs.epoch,
        staged / "code",
        development=inputs.development,
    )
    made = scratch / "made"
    _mkosi(inputs, staged, scratch, made, surroundings)
    layer = made / "layer.tar"
    uncompressed = _sha256(layer)
    run_inside(
        inputs.tool_root,
        ["gzip", "--no-name", "--best", "/out/layer.tar"],
        binds=[Bind(made, "/out", writable=True)],
        what="packing the OCI layer",
        surroundings=surroundings,
    )
    role = inputs.role
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(made / f"{role}.efi", out / f"{role}.efi")
    shutil.copyfile(made / "files.json", out / f"{role}.files.json")
    _write_bill(inputs, made, out)
    layout = out / f"{role}.oci"
    shutil.rmtree(layout, ignore_errors=True)
    labels = {
        "org.opencontainers.image.title": f"outlayer-{role}",
        "org.opencontainers.image.licenses": "MIT AND LicenseRef-see-SBOM",
        "org.outlayer.variant": "development" if inputs.development else "production",
    }
    process = Process(_ENTRYPOINT, _ENVIRONMENT, PORTS[role])
    write_layout(made / "layer.tar.gz", uncompressed, process, labels, inputs.epoch, layout)


def _write_bill(inputs: Inputs, made: Path, out: Path) -> None:
    """<role>.spdx.json and <role>.sources.txt."""
    role = inputs.role
    locked = {package.package: (package.sha256, package.filename) for package in inputs.lock.packages}
    components = debian_components(json.loads((made / "packages.json").read_text()), locked)
    components += [_wheel_component(wheel, path) for wheel, path in inputs.wheels]
    digest = _sha256(out / f"{role}.efi")
    text = json.dumps(document(role, digest[:16], digest, inputs.epoch, components), indent=1)
    (out / f"{role}.spdx.json").write_text(text + "\n")
    sources = copyleft_sources(components)
    (out / f"{role}.sources.txt").write_text("".join(f"{line}\n" for line in sources))


def _wheel_component(wheel: Wheel, path: Path) -> Component:
    with zipfile.ZipFile(path) as archive:
        (name,) = (item for item in archive.namelist() if _METADATA.fullmatch(item))
        metadata = archive.read(name).decode(errors="replace")
    licenses = metadata_licenses(metadata)
    copyleft = is_copyleft("\n".join(licenses))
    return Component(
        "pypi", wheel.name, wheel.version, wheel.sha256, wheel.filename, None, licenses, copyleft
    )


def _mkosi(inputs: Inputs, staged: Path, scratch: Path, made: Path, surroundings: Surroundings) -> None:
    words = ["mkosi", "--directory", "/build/images", "--profile", inputs.role, "--output", inputs.role]
    words += ["--source-date-epoch", str(inputs.epoch), "--extra-tree", "/build/code"]
    words += ["--image-id", f"outlayer-{inputs.role}"]
    for package in inputs.lock.request.packages:
        words += ["--package", package]
    if inputs.development:
        words += ["--kernel-command-line", "loglevel=7 systemd.show_status=yes outlayer.variant=development"]
    if surroundings.etc is not None:
        # for mkosi's own sandbox and for the image while it is made: nothing of it is on the allow-list
        words += ["--sandbox-tree", SURROUNDINGS, "--skeleton-tree", SURROUNDINGS]
    print(f"building the image of {inputs.role}", file=sys.stderr, flush=True)
    run_inside(
        inputs.tool_root,
        [*words, "--force", "build"],
        binds=[
            Bind(staged, "/build"),
            Bind(made, "/out", writable=True),
            Bind(scratch / "work", "/target", writable=True),
            Bind(scratch / "var", "/var/tmp", writable=True),
        ],
        cwd="/build/images",
        what=f"building the image of {inputs.role}",
        surroundings=surroundings,
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
