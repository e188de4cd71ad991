# SPDX-License-Identifier: MIT
"""Host tables, format ``outlayer/host-tables/v1``: what one QEMU gave for the arguments of one shape.

They are data, taken once per shape and QEMU version and kept with the pinned measurements, so that a
prediction needs no QEMU. The arguments stand in the document: tables of another shape are refused.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from outlayer_attestation.errors import ShapeError
from outlayer_attestation.measure import acpi, smbios
from outlayer_attestation.measure.acpi import AcpiTables
from outlayer_attestation.measure.model import Document, Version, load_document, packed, unpacked
from outlayer_attestation.measure.shape import VmShape

FORMAT: Final = "outlayer/host-tables/v1"
SMBIOS_FILE: Final = "etc/smbios/smbios-tables"
MAX_FILES: Final = 8

_HINT: Final = "take them anew: outlayer image measure --qemu PATH --save-host-tables FILE"


class HostTables(Document):
    """fw_cfg files of a VM.

    Attributes:
        qemu: version of the binary that gave them.
        arguments: what it was started with.
        files: fw_cfg name -> packed bytes, as QEMU has them.
    """

    format: Literal["outlayer/host-tables/v1"]
    qemu: Version
    arguments: tuple[str, ...]
    files: Annotated[dict[str, str], Field(max_length=MAX_FILES)]

    @model_validator(mode="after")
    def _readable(self) -> Self:
        for name in self.files:
            self.file(name)
        if acpi.LOADER_FILE not in self.files:
            raise ValueError(f"{acpi.LOADER_FILE} is missing")
        return self

    @classmethod
    def from_bytes(cls, data: bytes | str) -> HostTables:
        """Read the JSON document. Raises ``ShapeError``."""
        return load_document(cls, data, "the host tables", ShapeError, _HINT)

    @classmethod
    def make(cls, qemu: str, arguments: list[str], files: dict[str, bytes]) -> HostTables:
        """A document for these files."""
        contents = {name: packed(data) for name, data in files.items()}
        return cls(format=FORMAT, qemu=qemu, arguments=tuple(arguments), files=contents)

    def file(self, name: str) -> bytes:
        """The bytes of one file. Raises ``ValueError`` when they cannot be unpacked."""
        return unpacked(self.files[name], acpi.MAX_BLOB_SIZE)

    def check(self, shape: VmShape) -> None:
        """Raise ``ShapeError`` unless these are the tables of this shape."""
        if self.qemu != shape.qemu:
            raise ShapeError(
                f"the host tables come from QEMU {self.qemu}, the shape {shape.name} runs on {shape.qemu}",
                hint=f"the QEMU version decides the ACPI tables. {_HINT}",
            )
        if list(self.arguments) != shape.dump_arguments():
            raise ShapeError(f"the host tables are not those of the shape {shape.name}", hint=_HINT)

    def acpi_tables(self, shape: VmShape) -> AcpiTables:
        """The ACPI blobs that a TD of this shape gets. Raises ``ShapeError``."""
        self.check(shape)
        tables = AcpiTables.from_files({name: self.file(name) for name in self.files})
        return acpi.with_edge_triggers(tables.tables) if shape.edge_triggers else tables

    def smbios_table(self, shape: VmShape) -> bytes | None:
        """The guest's whole SMBIOS table, when the shape says what it needs for that.

        Raises:
            ShapeError: the tables are of another shape, or QEMU's SMBIOS table is not among them.
        """
        self.check(shape)
        strings = shape.firmware.smbios
        if strings is None or shape.processor_id is None:
            return None
        if SMBIOS_FILE not in self.files:
            raise ShapeError(f"the host tables lack {SMBIOS_FILE}", hint=_HINT)
        table = smbios.with_firmware_structure(
            self.file(SMBIOS_FILE), strings.vendor, strings.version, strings.date
        )
        return smbios.with_processor_id(table, bytes.fromhex(shape.processor_id))
