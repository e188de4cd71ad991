# SPDX-License-Identifier: MIT
"""Unified kernel images: which sections systemd-stub measures, and the initrd it puts together.

Source of the rules: systemd ``src/fundamental/uki.h`` (sections and their order), ``src/boot/stub.c`` and
``src/boot/cpio.c`` (the assembled initrd), versions 256 to 262.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Final

from outlayer_attestation.errors import ImageError
from outlayer_attestation.measure.linux import MAX_COMMAND_LINE
from outlayer_attestation.measure.pe import PeSection, parse_pe, section_data

KNOWN_STUBS: Final = range(256, 263)
"""Versions of systemd-stub whose events are known."""
LOAD_IMAGE_UNTIL: Final = 257
"""Last version that starts the kernel through LoadImage, which the firmware measures."""

SECTIONS: Final = (
    ".linux",
    ".osrel",
    ".cmdline",
    ".initrd",
    ".ucode",
    ".splash",
    ".dtb",
    ".uname",
    ".sbat",
    ".pcrsig",
    ".pcrpkey",
    ".profile",
    ".dtbauto",
    ".hwids",
    ".efifw",
)
"""All sections that a stub knows, in the order in which it measures them."""
NOT_MEASURED: Final = ".pcrsig"
_SINCE: Final = {".profile": 257, ".dtbauto": 257, ".hwids": 257, ".efifw": 258}

_EXTRA_FILES: Final = (
    (".pcrsig", "tpm2-pcr-signature.json"),
    (".pcrpkey", "tpm2-pcr-public-key.pem"),
    (".osrel", "os-release"),
    (".profile", "profile"),
)
"""Sections that the stub packs into archives of their own under /.extra, in this order."""

_MAGIC: Final = re.compile(rb"#### LoaderInfo: systemd-stub ([0-9]{3})[^0-9]")
_HINT: Final = "build the UKI with ukify and a systemd-stub of version 256 to 262"


def uki_sections(uki: bytes | memoryview) -> dict[str, PeSection]:
    """The sections of a UKI that a stub knows, in measuring order.

    Raises:
        ImageError: it is no PE file, has no ``.linux``, or has a section twice (several profiles).
    """
    found: dict[str, PeSection] = {}
    for section in parse_pe(uki).sections:
        if section.name not in SECTIONS:
            continue
        if section.name in found:
            raise ImageError(
                f"the UKI has several sections {section.name}",
                hint="images with several profiles are not predicted: build one UKI per profile",
            )
        found[section.name] = section
    if ".linux" not in found:
        raise ImageError("the image has no .linux section, so it is no UKI", hint=_HINT)
    return {name: found[name] for name in SECTIONS if name in found}


def is_uki(image: bytes | memoryview) -> bool:
    """Whether a PE file is a UKI (and not a plain kernel).

    Raises:
        ImageError: it is no PE file.
    """
    return any(section.name == ".linux" for section in parse_pe(image).sections)


def stub_version(uki: bytes | memoryview) -> int:
    """Major version of the systemd-stub in a UKI, from its ``.sdmagic`` section.

    Raises:
        ImageError: there is none, or one whose measurements are not known.
    """
    for section in parse_pe(uki).sections:
        if section.name == ".sdmagic":
            found = _MAGIC.search(bytes(section_data(uki, section)[:256]))
            if found is not None:
                version = int(found[1])
                if version not in KNOWN_STUBS:
                    raise ImageError(f"systemd-stub {version} is not known", hint=_HINT)
                return version
    raise ImageError("the UKI does not name its systemd-stub (.sdmagic)", hint=_HINT)


def measured_sections(uki: bytes | memoryview, stub: int) -> list[tuple[str, memoryview]]:
    """(name, data) of each section that this stub measures into PCR 11, in its order."""
    return [
        (name, section_data(uki, section))
        for name, section in uki_sections(uki).items()
        if name != NOT_MEASURED and _SINCE.get(name, 0) <= stub
    ]


def stub_command_line(section: bytes) -> str:
    """The command line that the stub hands to the kernel, from the ``.cmdline`` section.

    Spaces and control characters at both ends go; control characters inside become spaces.

    Raises:
        ImageError: it is not UTF-8 text.
    """
    if len(section) > MAX_COMMAND_LINE:
        raise ImageError("the .cmdline section is too long", hint=_HINT)
    try:
        text = section.rstrip(b"\0").decode()
    except UnicodeDecodeError as error:
        raise ImageError("the .cmdline section is not UTF-8 text", hint=_HINT) from error
    if "\0" in text:
        raise ImageError("the .cmdline section contains NUL", hint=_HINT)
    blanks = "".join(map(chr, range(1, 33)))
    return "".join(" " if character < " " else character for character in text.strip(blanks))


def assembled_initrd(uki: bytes | memoryview, stub: int) -> Iterator[bytes | memoryview]:
    """The parts of the initrd that the kernel gets and measures; their concatenation is what is hashed."""
    sections = uki_sections(uki)
    parts: list[bytes | memoryview] = [
        section_data(uki, sections[name]) for name in (".ucode", ".initrd") if name in sections
    ]
    for name, file in _EXTRA_FILES:
        if name in sections and _SINCE.get(name, 0) <= stub:
            parts.append(_extra_archive(file, bytes(section_data(uki, sections[name]))))
    for part in parts:
        yield part
        yield bytes(-len(part) % 4)


def assembled_initrd_digest(uki: bytes | memoryview, stub: int) -> bytes:
    """SHA-384 of the assembled initrd (48 bytes)."""
    hasher = hashlib.sha384()
    for part in assembled_initrd(uki, stub):
        hasher.update(part)
    return hasher.digest()


def _extra_archive(file: str, content: bytes) -> bytes:
    """A newc archive with ``.extra/`` and one file in it, as the stub writes it."""
    folder = _cpio_entry(".extra", 1, 0o040555, b"")
    entry = _cpio_entry(f".extra/{file}", 2, 0o100444, content)
    trailer = b"070701" + b"00000000" * 4 + b"00000001" + b"00000000" * 6 + b"0000000B" + b"00000000"
    return folder + entry + _padded(trailer + b"TRAILER!!!\0")


def _cpio_entry(name: str, inode: int, mode: int, content: bytes) -> bytes:
    encoded = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08x" % field for field in fields)
    return _padded(header + encoded) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
