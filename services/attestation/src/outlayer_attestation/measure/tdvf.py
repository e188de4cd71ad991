# SPDX-License-Identifier: MIT
"""MRTD of a firmware file (TDVF): its TDX metadata, and the hash over the pages that the host adds.

Layouts: Intel TDX Virtual Firmware Design Guide, "TDVF descriptor"; edk2 ``OvmfPkg/ResetVector`` for the
table of GUIDed entries. Hash: Intel TDX module specification, TDH.MEM.PAGE.ADD and TDH.MR.EXTEND.
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from itertools import pairwise
from typing import Final

from outlayer_attestation.errors import FirmwareError
from outlayer_attestation.measure.reader import Reader

PAGE: Final = 4096
CHUNK: Final = 256
MAX_FIRMWARE_SIZE: Final = 64 * 1024 * 1024
MAX_SECTIONS: Final = 64
MAX_MEASURED_SIZE: Final = 64 * 1024 * 1024
"""Bytes of memory whose content one firmware may have measured; OVMF has 4 MiB."""
MAX_ADDED_SIZE: Final = 512 * 1024 * 1024
"""Bytes of memory that the host may add before the TD is finalised; OVMF has about 5 MiB."""

ATTRIBUTE_EXTEND: Final = 1
ATTRIBUTE_AUG: Final = 2

_TABLE_FOOTER: Final = uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
_METADATA_OFFSET: Final = uuid.UUID("e47a6535-984a-4798-865e-4685a7bf8ec2").bytes_le
_RESET_VECTOR_SIZE: Final = 32
_ENTRY_OVERHEAD: Final = 18  # u16 length and GUID
_HINT: Final = "give an OVMF or td-shim file with TDX support (the one that QEMU gets with -bios)"


class SectionType(IntEnum):
    """Kinds of memory that the metadata describes; 4 to 7 appear in td-shim only."""

    BFV = 0
    CFV = 1
    TD_HOB = 2
    TEMP_MEM = 3
    PERM_MEM = 4
    PAYLOAD = 5
    PAYLOAD_PARAM = 6
    TD_INFO = 7


class PageOrder(StrEnum):
    """How the host's kernel and QEMU add the pages of one section; a property of the host, not the image."""

    SINGLE_PASS = "single-pass"  # noqa: S105
    """Each page: added, then extended. Upstream KVM with QEMU 9 and later."""
    TWO_PASS = "two-pass"  # noqa: S105
    """First all pages are added, then all extended. Canonical and Intel stacks with QEMU 8.2."""


@dataclass(frozen=True, slots=True)
class Section:
    """One line of the metadata. Sizes and addresses in bytes; addresses are guest physical."""

    data_offset: int
    raw_size: int
    memory_address: int
    memory_size: int
    type: SectionType
    attributes: int

    @property
    def measured(self) -> bool:
        """Whether the content is in MRTD, not only the pages' addresses."""
        return bool(self.attributes & ATTRIBUTE_EXTEND)

    @property
    def added(self) -> bool:
        """Whether the host adds the pages before the TD is finalised."""
        return not self.attributes & ATTRIBUTE_AUG


def parse_sections(firmware: bytes) -> tuple[Section, ...]:
    """The sections of a firmware file, in table order.

    Raises:
        FirmwareError: there is no valid TDX metadata in the file.
    """
    if len(firmware) > MAX_FIRMWARE_SIZE:
        raise FirmwareError(
            f"the firmware has {len(firmware)} bytes, more than {MAX_FIRMWARE_SIZE}", hint=_HINT
        )
    descriptor = len(firmware) - _metadata_distance(firmware)
    reader = Reader(firmware, "TDX metadata", FirmwareError, hint=_HINT, offset=descriptor)
    if descriptor < 0 or reader.take(4, "signature") != b"TDVF":
        raise FirmwareError("the TDX metadata has no TDVF signature", hint=_HINT)
    reader.u32("length")
    version, count = reader.u32("version"), reader.u32("number of sections")
    if version != 1 or not 0 < count <= MAX_SECTIONS:
        raise reader.fail(f"version {version} with {count} sections; version 1 is known")
    sections = tuple(_section(reader) for _ in range(count))
    check_sections(sections, len(firmware))
    return sections


def _metadata_distance(firmware: bytes) -> int:
    """Bytes from the descriptor to the end of the file, as the table of GUIDed entries says."""
    end = len(firmware) - _RESET_VECTOR_SIZE
    if end < _ENTRY_OVERHEAD or firmware[end - 16 : end] != _TABLE_FOOTER:
        raise FirmwareError("the file does not end with a table of GUIDed entries", hint=_HINT)
    position = end - _ENTRY_OVERHEAD
    start = end - int.from_bytes(firmware[position : position + 2], "little")
    while start >= 0 and position - _ENTRY_OVERHEAD >= start:
        length = int.from_bytes(firmware[position - 18 : position - 16], "little")
        if not _ENTRY_OVERHEAD <= length <= position - start:
            break
        if firmware[position - 16 : position] == _METADATA_OFFSET:
            if length != _ENTRY_OVERHEAD + 4:
                break
            return int.from_bytes(firmware[position - length : position - 18], "little")
        position -= length
    raise FirmwareError("the firmware's table of GUIDed entries names no TDX metadata", hint=_HINT)


def _section(reader: Reader) -> Section:
    data_offset, raw_size = reader.u32("data offset"), reader.u32("raw size")
    address, size = reader.u64("memory address"), reader.u64("memory size")
    kind, attributes = reader.u32("type"), reader.u32("attributes")
    if kind not in SectionType.__members__.values():
        raise reader.fail(f"section type {kind} is not known")
    return Section(data_offset, raw_size, address, size, SectionType(kind), attributes)


def check_sections(sections: tuple[Section, ...], firmware_size: int) -> None:
    """The rules of the design guide; they also bound the work that hashing can take."""

    def require(condition: bool, section: Section, problem: str) -> None:
        if not condition:
            raise FirmwareError(
                f"TDX metadata: section {section.type.name} at {section.memory_address:#x} {problem}",
                hint=_HINT,
            )

    for section in sections:
        aligned = section.memory_address % PAGE == 0 and section.memory_size % PAGE == 0
        require(aligned, section, "is not aligned to 4 KiB")
        require(section.attributes <= 3, section, f"has unknown attributes {section.attributes:#x}")
        require(section.memory_address + section.memory_size <= 2**52, section, "is outside memory")
        require(section.raw_size <= section.memory_size, section, "has more data than memory")
        inside = section.data_offset + section.raw_size <= firmware_size
        require(inside, section, "has data outside the file")
        if section.type in (SectionType.TD_HOB, SectionType.TEMP_MEM):
            require(section.raw_size == 0, section, "has data")
        if section.type is SectionType.BFV:
            require(section.measured and section.added, section, "is not measured")
    hobs = [section for section in sections if section.type is SectionType.TD_HOB]
    if len(hobs) != 1:
        raise FirmwareError(f"TDX metadata has {len(hobs)} TD_HOB sections, not one", hint=_HINT)
    ordered = sorted(sections, key=lambda section: section.memory_address)
    for before, after in pairwise(ordered):
        clear = before.memory_address + before.memory_size <= after.memory_address
        require(clear, after, f"overlaps {before.type.name}")
    measured = sum(section.memory_size for section in sections if section.added and section.measured)
    added = sum(section.memory_size for section in sections if section.added)
    if measured > MAX_MEASURED_SIZE or added > MAX_ADDED_SIZE:
        raise FirmwareError(
            f"TDX metadata adds {added} bytes and measures {measured}: no real firmware does",
            hint=_HINT,
        )


def mrtd(firmware: bytes, order: PageOrder) -> bytes:
    """MRTD (48 bytes) of a TD that starts with this firmware, on a host with this page-add order.

    Raises:
        FirmwareError: there is no valid TDX metadata in the file.
    """
    hasher = hashlib.sha384()
    view = memoryview(firmware)
    for section in parse_sections(firmware):
        if not section.added:
            continue
        end = section.memory_address + section.memory_size
        pages = range(section.memory_address, end, PAGE)
        if order is PageOrder.SINGLE_PASS and section.measured:
            for page in pages:
                hasher.update(_page_add(page))
                hasher.update(_page_extend(view, section, page))
            continue
        for page in pages:
            hasher.update(_page_add(page))
        if section.measured:
            for page in pages:
                hasher.update(_page_extend(view, section, page))
    return hasher.digest()


def _page_add(address: int) -> bytes:
    """The 128 bytes that TDH.MEM.PAGE.ADD contributes."""
    return struct.pack("<12s4xQ104x", b"MEM.PAGE.ADD", address)


def _page_extend(firmware: memoryview, section: Section, page: int) -> bytes:
    """The 16 records of 128 + 256 bytes that TDH.MR.EXTEND contributes for one page."""
    start = page - section.memory_address
    size = max(0, min(PAGE, section.raw_size - start))
    content = bytes(firmware[section.data_offset + start : section.data_offset + start + size])
    content = content.ljust(PAGE, b"\0")
    return b"".join(
        struct.pack("<9s7xQ104x", b"MR.EXTEND", page + offset) + content[offset : offset + CHUNK]
        for offset in range(0, PAGE, CHUNK)
    )


def configuration_volume(firmware: bytes) -> bytes:
    """The CFV: the firmware volume with the variable store (measured into RTMR0, not into MRTD).

    Raises:
        FirmwareError: the firmware has no CFV, or several.
    """
    volumes = [section for section in parse_sections(firmware) if section.type is SectionType.CFV]
    if len(volumes) != 1:
        raise FirmwareError(
            f"the firmware has {len(volumes)} configuration volumes, not one",
            hint="td-shim has none; only OVMF's boot is predicted",
        )
    start = volumes[0].data_offset
    return firmware[start : start + volumes[0].raw_size]
