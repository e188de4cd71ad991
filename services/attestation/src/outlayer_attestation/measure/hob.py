# SPDX-License-Identifier: MIT
"""The TD HOB: the memory map that the host's QEMU writes for the firmware, and that the firmware measures.

Source of the rule: QEMU ``hw/i386/tdvf-hob.c``, UEFI Platform Initialization Specification, volume 3
("HOB Code Definitions"). The number of vCPUs does not matter.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from outlayer_attestation.errors import FirmwareError, ShapeError
from outlayer_attestation.measure.tdvf import Section, SectionType

PCI_HOLE_THRESHOLD: Final = 0xB000_0000
"""QEMU's q35 keeps RAM of this size or more from lying in one piece below 4 GiB."""
BELOW_4G: Final = 0x8000_0000
"""What of it then lies below."""
ABOVE_4G: Final = 0x1_0000_0000

_RESOURCE_SYSTEM_MEMORY: Final = 0
_RESOURCE_UNACCEPTED: Final = 7
_ATTRIBUTES: Final = 7  # present, initialised, tested


def memory_below_4g(memory: int) -> int:
    """Bytes of RAM that q35 places below 4 GiB."""
    return memory if memory < PCI_HOLE_THRESHOLD else BELOW_4G


def memory_ranges(memory: int, sections: Iterable[Section]) -> list[tuple[int, int, int]]:
    """(resource type, start, end) in ascending order: TD_HOB and TEMP_MEM are accepted, the rest is not."""
    accepted = sorted(
        (section.memory_address, section.memory_address + section.memory_size)
        for section in sections
        if section.type in (SectionType.TD_HOB, SectionType.TEMP_MEM)
    )
    below = memory_below_4g(memory)
    ranges: list[tuple[int, int, int]] = []
    position = 0
    for start, end in accepted:
        if end > below:
            raise ShapeError(
                f"the firmware needs memory up to {end:#x}, the VM has {below:#x} there",
                hint="give the VM at least 1 GiB",
            )
        if start > position:
            ranges.append((_RESOURCE_UNACCEPTED, position, start))
        ranges.append((_RESOURCE_SYSTEM_MEMORY, start, end))
        position = end
    if below > position:
        ranges.append((_RESOURCE_UNACCEPTED, position, below))
    if memory > below:
        ranges.append((_RESOURCE_UNACCEPTED, ABOVE_4G, ABOVE_4G + memory - below))
    return ranges


def td_hob(memory: int, sections: Iterable[Section]) -> bytes:
    """The bytes of the TD HOB that the firmware measures: all but the END HOB.

    Args:
        memory: RAM of the VM in bytes.
        sections: the firmware's TDX metadata.
    """
    listed = list(sections)
    bases = [section.memory_address for section in listed if section.type is SectionType.TD_HOB]
    if len(bases) != 1:
        raise FirmwareError(
            f"TDX metadata has {len(bases)} TD_HOB sections, not one", hint="give an OVMF file with TDX"
        )
    resources = b"".join(
        struct.pack("<HHI16xIIQQ", 3, 48, 0, kind, _ATTRIBUTES, start, end - start)
        for kind, start, end in memory_ranges(memory, listed)
    )
    end_of_list = bases[0] + 56 + len(resources) + 8
    return struct.pack("<HHIII32xQ", 1, 56, 0, 9, 0, end_of_list) + resources
