# SPDX-License-Identifier: MIT
"""UEFI variables as the firmware measures them: the variable store, Secure Boot variables, boot options.

Layouts: UEFI Platform Initialization Specification, volume 3 (firmware volumes); edk2
``MdeModulePkg/Include/Guid/VariableFormat.h`` (variable store); UEFI Specification, "Load Options";
TCG PC Client Platform Firmware Profile, ``UEFI_VARIABLE_DATA``.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from outlayer_attestation.errors import FirmwareError
from outlayer_attestation.measure.reader import Reader

GLOBAL_GUID: Final = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
IMAGE_SECURITY_GUID: Final = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"

SEPARATOR_DATA: Final = bytes(4)
CALLING_APPLICATION: Final = b"Calling EFI Application from Boot Option"
EXIT_BOOT_SERVICES: Final = b"Exit Boot Services Invocation"
EXIT_BOOT_SERVICES_SUCCESS: Final = b"Exit Boot Services Returned with Success"
EXIT_BOOT_SERVICES_FAILURE: Final = b"Exit Boot Services Returned with Failure"

MAX_VARIABLES: Final = 1024
_NVRAM_FV: Final = "fff12b8d-7696-4c8b-a985-2747075b4f50"
_AUTHENTICATED_STORE: Final = "aaf32c78-947b-439a-a180-2e144ec37792"
_VARIABLE_MAGIC: Final = 0x55AA
_STATE_ADDED: Final = 0x3F
_STATE_IN_DELETION: Final = 0x3E
_HINT: Final = "the configuration volume is the OVMF variable store (OVMF_VARS), as virt-fw-vars writes it"

_FIRMWARE_VOLUME: Final = "7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1"
_UI_APP: Final = "462caa21-7614-4503-836e-8ab6f4662331"
_BOOT_MANAGER_MENU_APP: Final = "eec25bdc-67f2-4d95-b1d5-f81b2039d11d"
_ACTIVE: Final = 0x01
_HIDDEN: Final = 0x08
_APPLICATION: Final = 0x100


class SecureBoot(StrEnum):
    """What the firmware's build says in the variable SecureBoot."""

    ABSENT = "absent"
    """Built without Secure Boot: the variable does not exist."""
    OFF = "off"
    """Built with it, not enforced: one byte 00."""
    ON = "on"
    """Enforced: one byte 01."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of the store that is in force."""

    name: str
    guid: str
    data: bytes


def parse_variables(volume: bytes) -> tuple[Variable, ...]:
    """The variables of a configuration volume, in the order in which they lie in it.

    Raises:
        FirmwareError: it is not an NVRAM firmware volume with an authenticated variable store.
    """
    reader = Reader(volume, "configuration volume", FirmwareError, hint=_HINT)
    reader.take(16, "zero vector")
    file_system = reader.guid("file system")
    length, signature = reader.u64("length"), reader.take(4, "signature")
    if signature != b"_FVH" or file_system != _NVRAM_FV or length > len(volume):
        raise reader.fail("is no NVRAM firmware volume")
    reader.u32("attributes")
    reader.offset = reader.u16("header length")
    store = reader.offset
    kind, size = reader.guid("store kind"), reader.u32("store size")
    if kind != _AUTHENTICATED_STORE:
        raise reader.fail(f"variable store of kind {kind}, expected an authenticated one")
    if size > len(volume) - store:
        raise reader.fail(f"the variable store claims {size} bytes")
    reader.take(8, "store state")
    reader.end = store + size
    return _records(reader)


def _records(reader: Reader) -> tuple[Variable, ...]:
    found: dict[tuple[str, str], tuple[int, Variable]] = {}
    for _ in range(MAX_VARIABLES):
        reader.offset = (reader.offset + 3) & ~3
        if reader.remaining < 60 or reader.u16("variable magic") != _VARIABLE_MAGIC:
            return tuple(variable for _, variable in found.values())
        state = reader.u8("state")
        reader.take(1 + 4 + 8 + 16 + 4, "variable header")
        name_size, data_size = reader.u32("name size"), reader.u32("data size")
        guid = reader.guid("vendor")
        raw_name, data = reader.take(name_size, "variable name"), reader.take(data_size, "variable data")
        if state not in (_STATE_ADDED, _STATE_IN_DELETION):
            continue
        name = _text(reader, raw_name)
        known = found.get((guid, name))
        if known is not None and known[0] == state == _STATE_ADDED:
            raise reader.fail(f"the variable {name} is there twice")
        if known is None or state == _STATE_ADDED:
            found[guid, name] = (state, Variable(name, guid, data))
    raise reader.fail(f"more than {MAX_VARIABLES} variables")


def _text(reader: Reader, raw: bytes) -> str:
    try:
        return raw.decode("utf-16-le").removesuffix("\0")
    except UnicodeDecodeError as error:
        raise reader.fail("the name of a variable is not UTF-16") from error


def variable_data(name: str, guid: str, data: bytes) -> bytes:
    """``UEFI_VARIABLE_DATA``: GUID, u64 characters, u64 bytes, UTF-16 name without NUL, data."""
    encoded = name.encode("utf-16-le")
    header = uuid.UUID(guid).bytes_le + struct.pack("<QQ", len(encoded) // 2, len(data))
    return header + encoded + data


def secure_boot_variables(
    variables: tuple[Variable, ...], secure_boot: SecureBoot
) -> list[tuple[str, bytes]]:
    """(name, measured bytes) of SecureBoot, PK, KEK, db, dbx and, if it is there, dbt, in this order.

    Raises:
        FirmwareError: Secure Boot is said to be enforced, and no platform key is enrolled.
    """
    held = {(variable.guid, variable.name): variable.data for variable in variables}
    if secure_boot is SecureBoot.ON and not held.get((GLOBAL_GUID, "PK")):
        raise FirmwareError(
            "Secure Boot cannot be on: the firmware's variable store has no PK",
            hint='set secure_boot to "absent" or "off" in the shape, or enroll keys with virt-fw-vars',
        )
    state = {SecureBoot.ABSENT: b"", SecureBoot.OFF: b"\0", SecureBoot.ON: b"\1"}[secure_boot]
    measured = [("SecureBoot", variable_data("SecureBoot", GLOBAL_GUID, state))]
    for name, guid in (
        ("PK", GLOBAL_GUID),
        ("KEK", GLOBAL_GUID),
        ("db", IMAGE_SECURITY_GUID),
        ("dbx", IMAGE_SECURITY_GUID),
        ("dbt", IMAGE_SECURITY_GUID),
    ):
        data = held.get((guid, name))
        if data is not None or name != "dbt":
            measured.append((name, variable_data(name, guid, data or b"")))
    return measured


def _firmware_option(description: str, file_guid: str, attributes: int) -> bytes:
    """A Boot#### variable that starts an application of the firmware itself."""
    path = (
        b"\x04\x07\x14\x00"
        + uuid.UUID(_FIRMWARE_VOLUME).bytes_le
        + b"\x04\x06\x14\x00"
        + uuid.UUID(file_guid).bytes_le
        + b"\x7f\xff\x04\x00"
    )
    text = description.encode("utf-16-le") + b"\0\0"
    return struct.pack("<IH", attributes, len(path)) + text + path


def boot_options(edk2: int) -> list[tuple[str, bytes]]:
    """(name, raw data) of BootOrder and the Boot#### that a VM started with ``-kernel`` has.

    Args:
        edk2: the stable tag as a number, 202502.

    Raises:
        FirmwareError: a tag whose boot options are not known.
    """
    if edk2 < 202505:
        options = [_firmware_option("UiApp", _UI_APP, _APPLICATION | _HIDDEN | _ACTIVE)]
    elif 202605 <= edk2 < 202608:
        raise FirmwareError(
            f"the boot options of edk2-stable{edk2} are not known",
            hint="edk2-stable202605 to 202607 keep the menu applications elsewhere; use another release",
        )
    else:
        options = [
            _firmware_option("BootManagerMenuApp", _BOOT_MANAGER_MENU_APP, _APPLICATION | _HIDDEN | _ACTIVE),
            _firmware_option("EFI Firmware Setup", _UI_APP, _APPLICATION | _ACTIVE),
        ]
    order = b"".join(struct.pack("<H", number) for number in range(len(options)))
    return [("BootOrder", order), *((f"Boot{n:04X}", data) for n, data in enumerate(options))]
