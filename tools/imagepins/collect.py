# SPDX-License-Identifier: MIT
"""Make the pin of a role from its build: hashes, versions and predicted measurements."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from outlayer_attestation.measure.image import firmware_digests, uki_digests
from outlayer_attestation.measure.metadata import ImageMetadata
from outlayer_attestation.measure.pin import FileArtifact, ImagePin, OciArtifact
from outlayer_attestation.measure.qtest import dump_host_tables
from outlayer_attestation.measure.shape import VmShape
from outlayer_attestation.simulated import code_digest
from tools.debroot.__main__ import read_lock
from tools.debroot.lockfile import Lock
from tools.imagebuild.locks import TOOLS, epoch_of, lock_path, wheels_path
from tools.imagebuild.manifest import MANIFEST
from tools.imagebuild.stage import PACKAGES
from tools.imagepins.files import root_of


@dataclass(frozen=True, slots=True)
class Built:
    """Where the artifacts are, and the QEMU that gives the shape's tables."""

    images: Path
    firmware: Path
    qemu: Path


def shapes_of(repository: Path, role: str) -> dict[str, Path]:
    """Shape name -> file: the shapes of a role are those named after it."""
    return {path.stem: path for path in sorted((repository / "images/shapes").glob(f"{role}-*.json"))}


def pin_path(repository: Path, shape: str) -> Path:
    """Where a pin is kept: one file per shape, which belongs to one role."""
    return repository / "images/pins" / f"{shape}.json"


def files_path(repository: Path, role: str) -> Path:
    """Where the list of a role's files is kept: all its shapes boot the same image."""
    return repository / "images/pins" / f"{role}.files.json"


def collect(repository: Path, role: str, shape_file: Path, built: Built) -> ImagePin:
    """The pin of what was built.

    Raises:
        AttestationError: an artifact cannot be measured, or the QEMU is not the shape's.
    """
    shape = VmShape.from_bytes(shape_file.read_bytes())
    folder = built.images / role
    uki = folder / f"{role}.efi"
    image = uki.read_bytes()
    firmware = built.firmware.read_bytes()
    metadata = ImageMetadata.make(
        shape,
        firmware_digests(firmware, shape.firmware),
        uki_digests(image),
        dump_host_tables(built.qemu, shape),
        None,
    )
    lock = read_lock(repository / lock_path(role))
    tools = read_lock(repository / TOOLS)
    return ImagePin(
        format="outlayer/image-pin/v1",
        role=role,
        source_date_epoch=epoch_of(lock),
        uki=_artifact(image),
        oci=oci_artifact(folder / f"{role}.oci"),
        firmware=_artifact(firmware),
        inputs=_inputs(repository, role, folder),
        versions=versions_of(lock, tools),
        tree=root_of(json.loads((folder / f"{role}.files.json").read_bytes())),
        code_sha256=code_digest(_packages(repository, role)).hex(),
        metadata=metadata,
        not_verified_on_hardware=metadata.predict().unverified(),
    )


def _packages(repository: Path, role: str) -> dict[str, Path]:
    names = {name: f"outlayer_{name}" for name in PACKAGES[role]}
    return {package: repository / f"services/{name}/src/{package}" for name, package in names.items()}


def _artifact(data: bytes) -> FileArtifact:
    return FileArtifact(sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def oci_artifact(layout: Path) -> OciArtifact:
    """Digest of the one manifest of an OCI layout, and the size of its layers."""
    (described,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    digest = str(described["digest"])
    manifest = json.loads((layout / "blobs" / digest.replace(":", "/")).read_bytes())
    return OciArtifact(digest=digest, size=sum(layer["size"] for layer in manifest["layers"]))


def _inputs(repository: Path, role: str, folder: Path) -> dict[str, str]:
    files = {name: repository / name for name in (TOOLS, lock_path(role), wheels_path(role))}
    found = {str(name): hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    found["sources"] = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    return found


def versions_of(lock: Lock, tools: Lock) -> dict[str, str]:
    """Versions that the measurements depend on, from the locks."""
    packages = {package.package: package.version for package in lock.packages}
    of_tools = {package.package: package.version for package in tools.packages}
    sources = {source.source: source.version for source in tools.sources}
    (linux,) = (version for name, version in packages.items() if name.startswith("linux-binary-"))
    return {
        "linux": linux,
        "systemd-stub": packages["systemd-boot-efi"],
        "edk2": sources["edk2"],
        "qemu": of_tools["qemu-system-x86"],
    }
