# SPDX-License-Identifier: MIT
"""PE files: headers and sections, read strictly. Layout: Microsoft PE Format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from outlayer_attestation.errors import ImageError
from outlayer_attestation.measure.reader import Reader

MAX_IMAGE_SIZE: Final = 4 * 1024**3
MAX_SECTIONS: Final = 96
"""What the Windows loader takes; systemd and edk2 take no more."""

_PE32: Final = 0x10B
_PE32_PLUS: Final = 0x20B
_CERTIFICATES: Final = 4
_HINT: Final = "give an EFI application: a kernel (bzImage with EFI stub), a UKI, or an option ROM's driver"


@dataclass(frozen=True, slots=True)
class PeSection:
    """A section header. Sizes and offsets in bytes."""

    name: str
    virtual_size: int
    virtual_address: int
    raw_size: int
    raw_offset: int


@dataclass(frozen=True, slots=True)
class PeImage:
    """Where the parts of a PE file lie.

    Attributes:
        headers_size: SizeOfHeaders.
        checksum_offset: of the 4-byte CheckSum field, in the file.
        certificate_entry: offset of the 8-byte data directory entry of the certificate table, or None.
        certificate_size: bytes of the certificate table at the end of the file.
        size: of the whole file.
    """

    headers_size: int
    checksum_offset: int
    certificate_entry: int | None
    certificate_size: int
    size: int
    sections: tuple[PeSection, ...]


def parse_pe(data: bytes | memoryview) -> PeImage:
    """Read the headers of a PE file.

    Raises:
        ImageError: it is no PE file, or its parts overlap or lie outside of it.
    """
    if len(data) > MAX_IMAGE_SIZE:
        raise ImageError(f"the image has {len(data)} bytes", hint=_HINT)
    reader = Reader(data, "PE file", ImageError, hint=_HINT)
    if reader.take(2, "DOS signature") != b"MZ":
        raise reader.fail("does not start with MZ")
    reader.offset = 0x3C
    reader.offset = reader.u32("offset of the PE header")
    if reader.take(4, "PE signature") != b"PE\0\0":
        raise reader.fail("has no PE signature")
    reader.u16("machine")
    count = reader.u16("number of sections")
    reader.take(12, "COFF header")
    optional_size = reader.u16("size of the optional header")
    reader.u16("characteristics")
    optional = reader.offset
    magic = reader.u16("optional header magic")
    if magic not in (_PE32, _PE32_PLUS) or not 0 < count <= MAX_SECTIONS:
        raise reader.fail(f"optional header {magic:#x} with {count} sections is not supported")
    reader.offset = optional + 60
    headers_size = reader.u32("size of headers")
    directories = optional + (112 if magic == _PE32_PLUS else 96)
    reader.offset = directories - 4
    directory_count = reader.u32("number of data directories")
    entry, certificate_size = None, 0
    if directory_count > _CERTIFICATES:
        entry = directories + 8 * _CERTIFICATES
        reader.offset = entry + 4
        certificate_size = reader.u32("size of the certificate table")
    table = optional + optional_size
    if entry is not None and entry + 8 > table:
        raise reader.fail("the data directories lie outside the optional header")
    reader.offset = table
    sections = tuple(_section(reader) for _ in range(count))
    image = PeImage(headers_size, optional + 64, entry, certificate_size, len(data), sections)
    _check(reader, image, reader.offset)
    return image


def _section(reader: Reader) -> PeSection:
    raw_name = reader.take(8, "section name").rstrip(b"\0")
    virtual_size, address = reader.u32("virtual size"), reader.u32("virtual address")
    raw_size, raw_offset = reader.u32("size of raw data"), reader.u32("pointer to raw data")
    reader.take(16, "section header")
    return PeSection(raw_name.decode("latin-1"), virtual_size, address, raw_size, raw_offset)


def _check(reader: Reader, image: PeImage, table_end: int) -> None:
    if not table_end <= image.headers_size <= image.size:
        raise reader.fail(f"SizeOfHeaders {image.headers_size:#x} does not cover the headers")
    end = image.headers_size
    for section in sorted(image.sections, key=lambda section: section.raw_offset):
        if section.raw_size == 0:
            continue
        if section.raw_offset < end or section.raw_offset + section.raw_size > image.size:
            raise reader.fail(f"section {section.name!r} overlaps another part or leaves the file")
        end = section.raw_offset + section.raw_size
    hashed = image.headers_size + sum(section.raw_size for section in image.sections)
    if hashed + image.certificate_size > image.size:
        raise reader.fail("the certificate table is larger than what follows the sections")


def section_data(data: bytes | memoryview, section: PeSection) -> memoryview:
    """What of a section a stub sees in memory: VirtualSize bytes.

    Raises:
        ImageError: the section has less data than memory (no tool makes a UKI like that).
    """
    if section.virtual_size > section.raw_size:
        raise ImageError(
            f"PE section {section.name!r} has {section.raw_size} bytes of data for"
            f" {section.virtual_size} bytes of memory",
            hint="build the UKI with ukify",
        )
    return memoryview(data)[section.raw_offset : section.raw_offset + section.virtual_size]
