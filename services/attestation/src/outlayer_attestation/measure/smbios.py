# SPDX-License-Identifier: MIT
"""The SMBIOS table as edk2 202505 and later measures it: copied, with fields of one machine cleared.

Source of the rule: edk2 ``SmbiosMeasurementDxe``. Structures: DMTF DSP0134. Type 4's processor id stays,
so this event, and with it RTMR0, depends on the stepping of the host's CPU.
"""

from __future__ import annotations

from typing import Final

from outlayer_attestation.errors import ShapeError

MAX_TABLE_SIZE: Final = 1024 * 1024
END_OF_TABLE: Final = bytes.fromhex("7f04fffe0000")

_STRINGS: Final = {
    1: (0x07,),
    2: (0x07, 0x0A),
    3: (0x07, 0x08),
    4: (0x20, 0x21, 0x22),
    17: (0x18, 0x19, 0x1A),
}
"""Fields that name a string: the string becomes spaces, the field 0."""
_NUMBERS: Final = {
    1: ((0x08, 16), (0x18, 1)),
    4: ((0x11, 1), (0x16, 2), (0x23, 1), (0x24, 1), (0x25, 1), (0x2A, 2), (0x2C, 2), (0x2E, 2)),
}
"""Fields (offset, size) that become 0."""
_CLEARED: Final = (11, 15, 18, 31, 33)
"""Types of which nothing but the header is measured; so are all of 128 and above."""
_HINT: Final = "give the whole table, as /sys/firmware/dmi/tables/DMI has it"


def _structures(table: bytes) -> list[tuple[int, int, int]]:
    """(start, end of the formatted area, end with strings) of each structure, type 127 included."""
    if len(table) > MAX_TABLE_SIZE:
        raise ShapeError(f"the SMBIOS table has {len(table)} bytes", hint=_HINT)
    found = []
    position = 0
    while position + 4 <= len(table):
        kind, length = table[position], table[position + 1]
        strings = position + length
        terminator = table.find(b"\0\0", strings)
        if length < 4 or strings > len(table) or terminator < 0:
            raise ShapeError(f"the SMBIOS structure at {position:#x} does not end", hint=_HINT)
        found.append((position, strings, terminator + 2))
        position = terminator + 2
        if kind == 127:
            break
    if not found or table[found[-1][0]] != 127 or position != len(table):
        raise ShapeError("the SMBIOS table does not end with its end-of-table structure", hint=_HINT)
    return found


def filtered(table: bytes) -> bytes:
    """The bytes that the firmware hashes.

    Raises:
        ShapeError: the bytes are not an SMBIOS table.
    """
    result = bytearray(table)
    for start, strings, end in _structures(table):
        kind, length = table[start], strings - start
        if kind in _CLEARED or (kind >= 128):
            result[start + 4 : end] = bytes(end - start - 4)
            continue
        for offset in _STRINGS.get(kind, ()):
            if offset < length and table[start + offset]:
                _blank(result, table, strings, table[start + offset])
                result[start + offset] = 0
        for offset, size in _NUMBERS.get(kind, ()):
            if offset + size <= length:
                result[start + offset : start + offset + size] = bytes(size)
    return bytes(result)


def _blank(result: bytearray, table: bytes, strings: int, number: int) -> None:
    """Turn the string with this number (from 1) into spaces."""
    position = strings
    for _ in range(number - 1):
        if table[position] == 0:
            return
        position = table.index(0, position) + 1
    end = table.index(0, position)
    result[position:end] = b" " * (end - position)


def with_firmware_structure(qemu_table: bytes, vendor: str, version: str, date: str) -> bytes:
    """OVMF's whole table: QEMU's structures, OVMF's own type 0, and the end.

    Args:
        qemu_table: fw_cfg's ``etc/smbios/smbios-tables``.
        vendor: and the others: the strings of the firmware's build (PcdFirmwareVendor, …).
    """
    structures = _structures(qemu_table)
    kept = qemu_table[: structures[-1][0]]
    formatted = bytes.fromhex("001a00000102 00e803000800000000000000001c0000ffff0000")
    strings = b"".join(text.encode("ascii") + b"\0" for text in (vendor, version, date))
    return kept + formatted + strings + b"\0" + END_OF_TABLE


def with_processor_id(table: bytes, processor_id: bytes) -> bytes:
    """The table with another processor id (CPUID leaf 1, EAX and EDX, 8 bytes) in each type 4.

    A QEMU that emulates a CPU to dump the table does not know the CPU of the host it is meant for.
    """
    if len(processor_id) != 8:
        raise ShapeError(
            f"a processor id has 8 bytes, not {len(processor_id)}", hint="EAX and EDX of CPUID 1"
        )
    result = bytearray(table)
    for start, strings, _ in _structures(table):
        if table[start] == 4 and strings - start >= 16:
            result[start + 8 : start + 16] = processor_id
    return bytes(result)


def stub_events(table: bytes) -> list[tuple[str, bytes]]:
    """(name, measured bytes) of the structures that systemd-stub 261 and later measure: types 1, 2 and 11.

    Of type 1 the wake-up type is zeroed; its UUID is not, so the host decides this event.
    """
    found = []
    for wanted in (1, 2, 11):
        for start, strings, end in _structures(table):
            if table[start] != wanted:
                continue
            data = bytearray(table[start:end])
            if wanted == 1 and strings - start > 0x18:
                data[0x18] = 0
            found.append((f"smbios:type{wanted}", bytes(data)))
            break
    return found
