# SPDX-License-Identifier: MIT
"""Look into artifacts: the tree of a unified kernel image and that of an OCI image."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from outlayer_attestation.measure.pe import parse_pe, section_data

_HEADER = 110


def cpio_of(uki: Path) -> bytes:
    """The cpio archive in the initrd of a unified kernel image."""
    data = uki.read_bytes()
    (section,) = (item for item in parse_pe(data).sections if item.name == ".initrd")
    zstd = shutil.which("zstd")
    if zstd is None:
        pytest.skip("this machine has no zstd")
    return subprocess.run(
        [zstd, "-dc"], input=bytes(section_data(data, section)), capture_output=True, check=True
    ).stdout


def entries(archive: bytes) -> dict[str, tuple[int, int, int, bytes]]:
    """Path -> mode, user, group, content of a cpio archive in the newc form."""
    found, at = {}, 0
    while True:
        assert archive[at : at + 6] == b"070701", at
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, user, group, size, name_size = fields[1], fields[2], fields[3], fields[6], fields[11]
        name = archive[at + _HEADER : at + _HEADER + name_size - 1].decode()
        if name == "TRAILER!!!":
            return found
        start = (at + _HEADER + name_size + 3) & ~3
        found[name.removeprefix("./").rstrip("/")] = (mode, user, group, archive[start : start + size])
        at = (start + size + 3) & ~3


def layer_of(layout: Path) -> tuple[dict[str, object], tarfile.TarFile]:
    """Configuration and the one layer of an OCI layout; every blob has the hash that it is named by."""
    from hashlib import sha256

    def blob(digest: str) -> bytes:
        data = (layout / "blobs" / digest.replace(":", "/")).read_bytes()
        assert f"sha256:{sha256(data).hexdigest()}" == digest
        return data

    (described,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    manifest = json.loads(blob(described["digest"]))
    configuration = json.loads(blob(manifest["config"]["digest"]))
    (layer,) = manifest["layers"]
    tar = gzip.decompress(blob(layer["digest"]))
    assert configuration["rootfs"]["diff_ids"] == [f"sha256:{sha256(tar).hexdigest()}"]
    return configuration, tarfile.open(fileobj=BytesIO(tar))
