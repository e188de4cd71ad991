# SPDX-License-Identifier: MIT
"""Linux kernels: the bzImage header, QEMU's changes to it, and what the kernel's EFI stub measures.

Source of the layout: Linux ``Documentation/arch/x86/boot.rst``; of the changes: QEMU ``hw/i386/x86-common.c``;
of the events: Linux ``drivers/firmware/efi/libstub/efi-stub-helper.c`` (since 6.9).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from outlayer_attestation.errors import ImageError
from outlayer_attestation.measure.hob import memory_below_4g
from outlayer_attestation.measure.registers import sha384

MEASURING_SINCE: Final = (6, 9)
"""First kernel whose EFI stub measures the command line and the initrd."""
MAX_COMMAND_LINE: Final = 64 * 1024

_HEADER_MAGIC: Final = 0x202
_VERSION_POINTER: Final = 0x20E
_LOADER_TYPE: Final = 0x210
_LOAD_FLAGS: Final = 0x211
_INITRD_ADDRESS: Final = 0x218
_INITRD_SIZE: Final = 0x21C
_HEAP_END: Final = 0x224
_COMMAND_LINE_POINTER: Final = 0x228
_INITRD_MAX: Final = 0x22C
_ACPI_DATA_SIZE: Final = 0x28000
_HINT: Final = "give a bzImage (vmlinuz) of x86-64 with the EFI stub"


@dataclass(frozen=True, slots=True)
class SetupHeaderPatch:
    """What QEMU up to 10.1 writes into the header of a bzImage before the guest hashes it.

    Attributes:
        memory: RAM of the VM in bytes (counts below 2816 MiB only).
        initrd_size: in bytes; 0 without an initrd.
    """

    memory: int
    initrd_size: int


def kernel_version(kernel: bytes | memoryview) -> tuple[int, int]:
    """(major, minor) of a bzImage, from the version string that its header points to.

    Raises:
        ImageError: it is no bzImage, or its version cannot be read.
    """
    if len(kernel) < 0x260 or bytes(kernel[_HEADER_MAGIC : _HEADER_MAGIC + 4]) != b"HdrS":
        raise ImageError("the kernel has no Linux boot header", hint=_HINT)
    pointer = int.from_bytes(kernel[_VERSION_POINTER : _VERSION_POINTER + 2], "little")
    text = bytes(kernel[0x200 + pointer : 0x200 + pointer + 64])
    found = re.match(rb"([0-9]{1,3})\.([0-9]{1,3})[ .\-+]", text)
    if pointer == 0 or found is None:
        raise ImageError("the version of the kernel cannot be read", hint=_HINT)
    return int(found[1]), int(found[2])


def patched_setup_header(kernel: bytes, patch: SetupHeaderPatch) -> bytes:
    """The kernel as QEMU up to 10.1 hands it to the guest.

    Raises:
        ImageError: it is no bzImage, or its initrd does not fit below its limit.
    """
    kernel_version(kernel)
    changed = bytearray(kernel)

    def put(offset: int, value: int) -> None:
        changed[offset : offset + 4] = value.to_bytes(4, "little")

    changed[_LOADER_TYPE] = 0xB0
    changed[_LOAD_FLAGS] |= 0x80
    changed[_HEAP_END : _HEAP_END + 2] = (0xFE00).to_bytes(2, "little")
    put(_COMMAND_LINE_POINTER, 0x20000)
    if patch.initrd_size:
        limit = int.from_bytes(kernel[_INITRD_MAX : _INITRD_MAX + 4], "little")
        highest = min(limit, memory_below_4g(patch.memory) - _ACPI_DATA_SIZE - 1)
        if patch.initrd_size >= highest:
            raise ImageError(
                f"the initrd ({patch.initrd_size} bytes) does not fit below {highest:#x}",
                hint="give the VM more memory",
            )
        put(_INITRD_ADDRESS, (highest - patch.initrd_size) & ~0xFFF)
        put(_INITRD_SIZE, patch.initrd_size)
    return bytes(changed)


def command_line_for_boot(command_line: str, *, initrd: bool, edk2: int) -> str:
    """The command line that OVMF gives to a kernel it got by ``-kernel``: it adds where the initrd is."""
    if not initrd:
        return command_line
    if edk2 >= 202508:
        return f"initrd=initrd {command_line}"
    return f"{command_line} initrd=initrd"


def load_options_digest(command_line: str) -> bytes:
    """Digest of the LoadOptions event: the command line in UTF-16 with a final NUL.

    Raises:
        ImageError: the command line is too long or has characters that no command line can have.
    """
    if len(command_line) > MAX_COMMAND_LINE or "\0" in command_line:
        raise ImageError("the command line is too long or contains NUL", hint="check the .cmdline file")
    try:
        return sha384(command_line.encode("utf-16-le") + b"\0\0")
    except UnicodeEncodeError as error:
        raise ImageError("the command line is not Unicode text", hint="check the .cmdline file") from error
