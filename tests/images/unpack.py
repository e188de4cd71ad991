# SPDX-License-Identifier: MIT
"""Look into artifacts: the tree of a unified kernel image and that of an OCI image."""

from __future__ import annotations

import gzip
import json
import tarfile
from io import BytesIO
from pathlib import Path

from outlayer_attestation.measure.pe import parse_pe, section_data
from tools.imageaudit.cpio import Entry
from tools.imageaudit.difference import files_of


def tree_of(uki: Path) -> dict[str, Entry]:
    """Path -> entry of what is in a unified kernel image."""
    data = uki.read_bytes()
    (section,) = (item for item in parse_pe(data).sections if item.name == ".initrd")
    return {entry.path: entry for entry in files_of(bytes(section_data(data, section)))}


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
