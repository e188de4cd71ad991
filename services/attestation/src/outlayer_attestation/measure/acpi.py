# SPDX-License-Identifier: MIT
"""The ACPI tables that QEMU hands to the firmware over fw_cfg, as they are measured.

Three blobs: ``etc/table-loader`` (commands of 128 bytes), ``etc/acpi/rsdp`` and ``etc/acpi/tables``. In
the measured bytes pointers are offsets inside the blob and checksums are zero, so loader and RSDP follow
from the tables alone. Source of the formats: QEMU ``hw/acpi/bios-linker-loader.c``, ACPI specification.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from outlayer_attestation.errors import ShapeError

TABLES_FILE: Final = "etc/acpi/tables"
RSDP_FILE: Final = "etc/acpi/rsdp"
LOADER_FILE: Final = "etc/table-loader"
TABLES_SIZE: Final = 0x20000
LOADER_SIZE: Final = 4096
COMMAND_SIZE: Final = 128
RSDP_SIZE: Final = 20
CHECKSUM_OFFSET: Final = 9
MAX_BLOB_SIZE: Final = 4 * 1024 * 1024

_LINKED: Final = (b"APIC", b"HPET", b"MCFG", b"WAET")
"""Tables without pointers of their own, which RSDT names."""
_HINT: Final = "take the tables from QEMU itself: outlayer image measure --qemu PATH"

_INTERRUPT_DESCRIPTOR: Final = 0x89
_LEVEL_HIGH: Final = 0x09
_EDGE_HIGH: Final = 0x0B
_IRQS: Final = 16
_OVERRIDE_FLAGS: Final = 5  # active high, edge


@dataclass(frozen=True, slots=True)
class AcpiTables:
    """The blobs as the firmware reads and measures them.

    Attributes:
        loader: ``etc/table-loader``.
        files: (fw_cfg name, bytes) of every file that the loader allocates, in its order.
    """

    loader: bytes
    files: tuple[tuple[str, bytes], ...]

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> AcpiTables:
        """Of fw_cfg name -> bytes. Raises ``ShapeError`` when a file that the loader allocates is not among them."""
        loader = files[LOADER_FILE]
        names = allocated_files(loader)
        if missing := [name for name in names if name not in files]:
            raise ShapeError(f"the host tables lack {', '.join(missing)}", hint=_HINT)
        return cls(loader, tuple((name, files[name]) for name in names))

    @property
    def rsdp(self) -> bytes:
        """``etc/acpi/rsdp``."""
        return self._file(RSDP_FILE)

    @property
    def tables(self) -> bytes:
        """``etc/acpi/tables``."""
        return self._file(TABLES_FILE)

    def _file(self, wanted: str) -> bytes:
        for name, data in self.files:
            if name == wanted:
                return data
        raise ShapeError(f"the ACPI loader allocates no {wanted}", hint=_HINT)

    def measured(self) -> list[tuple[str, bytes]]:
        """(event name, bytes) in the order in which the firmware measures them."""
        names = {RSDP_FILE: "acpi-rsdp", TABLES_FILE: "acpi-tables"}
        return [("acpi-loader", self.loader)] + [(names.get(n, f"acpi {n}"), data) for n, data in self.files]


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the blob: where it lies and its bytes."""

    signature: bytes
    offset: int
    data: bytes


def split_tables(blob: bytes) -> list[Table]:
    """The tables of ``etc/acpi/tables``, one after the other until the padding.

    Raises:
        ShapeError: the bytes are not such a blob.
    """
    if len(blob) > MAX_BLOB_SIZE:
        raise ShapeError(f"the ACPI tables have {len(blob)} bytes", hint=_HINT)
    found: list[Table] = []
    offset = 0
    while offset + 8 <= len(blob) and blob[offset : offset + 4] != bytes(4):
        signature, length = blob[offset : offset + 4], int.from_bytes(blob[offset + 4 : offset + 8], "little")
        smallest = 64 if signature == b"FACS" else 36
        if length < smallest or offset + length > len(blob):
            raise ShapeError(f"the ACPI table {signature!r} at {offset:#x} claims {length} bytes", hint=_HINT)
        found.append(Table(signature, offset, blob[offset : offset + length]))
        offset += length
    if any(blob[offset:]):
        raise ShapeError(f"data follows the last ACPI table at {offset:#x}", hint=_HINT)
    return found


def rebuild(blob: bytes) -> AcpiTables:
    """Loader and RSDP for a tables blob, as QEMU makes them.

    Raises:
        ShapeError: a table is missing, or one is there whose commands are not known (TPM, NVDIMM, VMGENID).
    """
    tables = split_tables(blob)
    by_signature = {table.signature: table for table in tables}
    needed = (b"FACS", b"DSDT", b"FACP", b"APIC", b"MCFG", b"WAET", b"RSDT")
    unknown = [table.signature for table in tables if table.signature not in (*needed, *_LINKED)]
    if unknown or len(by_signature) != len(tables) or not set(needed) <= set(by_signature):
        names = ", ".join(table.signature.decode("latin-1") for table in tables)
        raise ShapeError(f"no loader is known for these ACPI tables: {names}", hint=_HINT)
    facs, dsdt, facp, rsdt = (by_signature[name] for name in (b"FACS", b"DSDT", b"FACP", b"RSDT"))
    pointed = [table for table in tables if table.signature not in (b"FACS", b"DSDT", b"RSDT")]
    linked = [table for table in tables if table.signature in _LINKED]
    if len(facp.data) < 148 or len(rsdt.data) != 36 + 4 * len(pointed):
        raise ShapeError("FACP or RSDT of the ACPI tables has another length", hint=_HINT)

    fixed = bytearray(blob)
    _put(fixed, facp.offset + 36, facs.offset, 4)
    _put(fixed, facp.offset + 40, dsdt.offset, 4)
    _put(fixed, facp.offset + 140, dsdt.offset, 8)
    for index, table in enumerate(pointed):
        _put(fixed, rsdt.offset + 36 + 4 * index, table.offset, 4)

    commands = [_allocate(RSDP_FILE, 16, 2), _allocate(TABLES_FILE, 64, 1), _checksum(dsdt)]
    commands += [_pointer(facp.offset + offset, size) for offset, size in ((36, 4), (40, 4), (140, 8))]
    commands += [_checksum(facp), *(_checksum(table) for table in linked)]
    commands += [_pointer(rsdt.offset + 36 + 4 * index, 4) for index in range(len(pointed))]
    commands += [_checksum(rsdt), _add_pointer(RSDP_FILE, 16, 4), _add_checksum(RSDP_FILE, 8, 0, RSDP_SIZE)]
    loader = b"".join(commands).ljust(LOADER_SIZE, b"\0")
    rsdp = b"RSD PTR \0BOCHS \0" + struct.pack("<I", rsdt.offset)
    return AcpiTables(loader, ((RSDP_FILE, rsdp), (TABLES_FILE, bytes(fixed))))


def allocated_files(loader: bytes) -> list[str]:
    """Names of the fw_cfg files that a loader allocates, in its order.

    Raises:
        ShapeError: the bytes are not a loader.
    """
    if len(loader) > LOADER_SIZE or len(loader) % COMMAND_SIZE:
        raise ShapeError(f"a table loader has up to {LOADER_SIZE} bytes, this one {len(loader)}", hint=_HINT)
    names = []
    for offset in range(0, len(loader), COMMAND_SIZE):
        command = int.from_bytes(loader[offset : offset + 4], "little")
        if command == 1:
            raw = loader[offset + 4 : offset + 60].rstrip(b"\0")
            names.append(raw.decode("latin-1"))
        elif command > 4:
            raise ShapeError(f"the table loader has an unknown command {command}", hint=_HINT)
    return names


def with_edge_triggers(blob: bytes) -> AcpiTables:
    """The tables that the Canonical and Intel QEMU 8.2 gives to a TD, from those of stock QEMU 8.2.2.

    Interrupt resources of the DSDT become edge triggered, and the MADT gets 16 overrides in place of its 5.

    Raises:
        ShapeError: the bytes are not the tables of such a QEMU.
    """
    parts = []
    for table in split_tables(blob):
        data = table.data
        if table.signature == b"DSDT":
            data = _edge_dsdt(data)
        elif table.signature == b"APIC":
            data = _edge_madt(data)
        parts.append(data)
    joined = b"".join(parts)
    if len(joined) > TABLES_SIZE:
        raise ShapeError("the ACPI tables do not fit into 128 KiB with edge triggers", hint=_HINT)
    return rebuild(joined.ljust(TABLES_SIZE, b"\0"))


def _edge_dsdt(data: bytes) -> bytes:
    changed = bytearray(data)
    for position in range(36, len(data) - 8):
        if data[position] != _INTERRUPT_DESCRIPTOR or data[position + 3] != _LEVEL_HIGH:
            continue
        count = data[position + 4]
        if int.from_bytes(data[position + 1 : position + 3], "little") == 2 + 4 * count and count > 0:
            changed[position + 3] = _EDGE_HIGH
    return bytes(changed)


def _edge_madt(data: bytes) -> bytes:
    overrides = b"".join(
        struct.pack("<BBBBIH", 2, 10, 0, irq, 2 if irq == 0 else irq, _OVERRIDE_FLAGS) for irq in range(_IRQS)
    )
    kept, placed, position = bytearray(data[:44]), False, 44
    while position < len(data):
        length = data[position + 1] if position + 1 < len(data) else 0
        if length < 2 or position + length > len(data):
            raise ShapeError(f"the MADT has an entry of {length} bytes at {position:#x}", hint=_HINT)
        if data[position] != 2:
            kept += data[position : position + length]
        elif not placed:
            kept += overrides
            placed = True
        position += length
    if not placed:
        raise ShapeError("the MADT has no interrupt override to replace", hint=_HINT)
    _put(kept, 4, len(kept), 4)
    return bytes(kept)


def _put(data: bytearray, offset: int, value: int, size: int) -> None:
    data[offset : offset + size] = value.to_bytes(size, "little")


def _command(number: int, payload: bytes) -> bytes:
    return (struct.pack("<I", number) + payload).ljust(COMMAND_SIZE, b"\0")


def _name(file: str) -> bytes:
    return file.encode().ljust(56, b"\0")


def _allocate(file: str, alignment: int, zone: int) -> bytes:
    return _command(1, _name(file) + struct.pack("<IB", alignment, zone))


def _add_pointer(file: str, offset: int, size: int) -> bytes:
    return _command(2, _name(file) + _name(TABLES_FILE) + struct.pack("<IB", offset, size))


def _pointer(offset: int, size: int) -> bytes:
    return _add_pointer(TABLES_FILE, offset, size)


def _add_checksum(file: str, result: int, start: int, length: int) -> bytes:
    return _command(3, _name(file) + struct.pack("<III", result, start, length))


def _checksum(table: Table) -> bytes:
    return _add_checksum(TABLES_FILE, table.offset + CHECKSUM_OFFSET, table.offset, len(table.data))
