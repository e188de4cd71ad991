# SPDX-License-Identifier: MIT
"""Pins, format ``outlayer/image-pin/v1``: what a build of a role has to give, kept in the repository.

A pin names the artifacts by hash, the inputs they came from, and what a VM of one shape measures. Who rebuilds and
gets another value has other inputs, or a build that is not reproducible; the first field that differs says which.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from outlayer_attestation.errors import MetadataError
from outlayer_attestation.measure.image import UkiImage
from outlayer_attestation.measure.metadata import ImageMetadata
from outlayer_attestation.measure.model import Document, Model, Name, Sha256Hex, load_document

FORMAT: Final = "outlayer/image-pin/v1"
_HINT: Final = "pins are written by: make images-pin"

Text = Annotated[str, StringConstraints(max_length=256)]


class FileArtifact(Model):
    """A file by hash; ``size`` in bytes."""

    sha256: Sha256Hex
    size: Annotated[int, Field(ge=0)]


class OciArtifact(Model):
    """An OCI image by the digest of its manifest; ``size`` of its compressed layers in bytes."""

    digest: Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0)]


class ImagePin(Document):
    """A pin.

    Attributes:
        inputs: name -> SHA-256: locks, and ``sources`` for the list of all files that decide the bytes.
        versions: kernel, systemd-stub, edk2 and QEMU that the measurements belong to.
        tree: package -> digest over paths, rights and hashes of its files in the image: a difference names the
            package, and the list of files beside the pin (``<role>.files.json``) is bound by it.
        code_sha256: digest of the role's Python packages, to tell whether an installation runs the same code.
        metadata: components and predicted registers for one VM shape; without a configuration, so RTMR3 is open.
        not_verified_on_hardware: register -> what of it only TDX hardware can confirm.
    """

    format: Literal["outlayer/image-pin/v1"]
    role: Name
    source_date_epoch: Annotated[int, Field(ge=0)]
    uki: FileArtifact
    oci: OciArtifact
    firmware: FileArtifact
    inputs: dict[str, Sha256Hex]
    versions: dict[str, Text]
    tree: dict[str, Sha256Hex]
    code_sha256: Sha256Hex
    metadata: ImageMetadata
    not_verified_on_hardware: dict[str, list[str]]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        image, firmware = self.metadata.image, self.metadata.firmware
        if not isinstance(image, UkiImage) or image.sha256 != self.uki.sha256:
            raise ValueError("the metadata is of another image than the pin names")
        if firmware.sha256 != self.firmware.sha256:
            raise ValueError("the metadata is of another firmware than the pin names")
        return self

    @classmethod
    def from_bytes(cls, data: bytes | str) -> ImagePin:
        """Read the JSON document. Raises ``MetadataError``."""
        return load_document(cls, data, "the image pin", MetadataError, _HINT)


def differences(pinned: ImagePin, found: ImagePin) -> list[str]:
    """Where two pins differ, the cause before the effect: inputs, then artifacts, then measurements."""
    one, two = (_flat(pin.model_dump(mode="json", by_alias=True)) for pin in (pinned, found))
    order = (
        "inputs",
        "versions",
        "source_date_epoch",
        "code_sha256",
        "tree",
        "firmware",
        "uki",
        "oci",
        "metadata",
    )

    def rank(name: str) -> tuple[int, str]:
        top = name.split(".")[0]
        return (order.index(top) if top in order else len(order), name)

    return [
        f"{name}: pinned {one.get(name, 'nothing')}, found {two.get(name, 'nothing')}"
        for name in sorted(one.keys() | two.keys(), key=rank)
        if one.get(name) != two.get(name)
    ]


def _flat(value: object, prefix: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        parts = [(f"{prefix}.{key}".lstrip("."), part) for key, part in value.items()]
    elif isinstance(value, list):
        parts = [(f"{prefix}.{index}", part) for index, part in enumerate(value)]
    else:
        return {prefix: str(value)}
    return {name: text for key, part in parts for name, text in _flat(part, key).items()}
