# SPDX-License-Identifier: MIT
"""An OCI image layout (image-spec 1.1) from one gzip layer: the same bytes for the same layer."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True, slots=True)
class Process:
    """What runs in the container: argv, environment, exposed ports as "8090/tcp"."""

    entrypoint: tuple[str, ...]
    environment: Mapping[str, str]
    ports: tuple[str, ...]


def write_layout(
    layer: Path,
    uncompressed_sha256: str,
    process: Process,
    labels: Mapping[str, str],
    epoch: int,
    target: Path,
) -> str:
    """Write the layout into a new folder; returns the manifest's digest, "sha256:…", by which the image is pulled."""
    blobs = target / "blobs/sha256"
    blobs.mkdir(parents=True)
    created = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    digest, size = _file_digest(layer)
    shutil.copyfile(layer, blobs / digest)
    config = {
        "created": created,
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Entrypoint": list(process.entrypoint),
            "Env": [f"{name}={value}" for name, value in sorted(process.environment.items())],
            "ExposedPorts": {port: {} for port in process.ports},
            "Labels": dict(sorted(labels.items())),
            "WorkingDir": "/",
            "StopSignal": "SIGTERM",
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{uncompressed_sha256}"]},
        "history": [{"created": created, "created_by": "outlayer images"}],
    }
    layers = [_descriptor(_LAYER, digest, size)]
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _write(blobs, config, _CONFIG),
        "layers": layers,
        "annotations": dict(sorted(labels.items())),
    }
    described = _write(blobs, manifest, _MANIFEST)
    index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [described]}
    (target / "index.json").write_bytes(_canonical(index))
    (target / "oci-layout").write_bytes(_canonical({"imageLayoutVersion": "1.0.0"}))
    return str(described["digest"])


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _write(blobs: Path, value: object, media_type: str) -> dict[str, object]:
    data = _canonical(value)
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return _descriptor(media_type, digest, len(data))


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, object]:
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": size}


def _file_digest(path: Path) -> tuple[str, int]:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest(), path.stat().st_size
