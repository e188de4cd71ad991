# SPDX-License-Identifier: MIT
"""Words for recorded events, and the first event in which a recorded boot is not the predicted one."""

from __future__ import annotations

import itertools
import string
import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from outlayer_attestation.measure import event_types as types
from outlayer_attestation.measure import uefi
from outlayer_attestation.measure.eventlog import EventLog, LogKind, Recorded
from outlayer_attestation.measure.registers import RTMR_NAMES, Event, sha384

_PRINTABLE: Final = frozenset(string.printable) - frozenset("\t\n\r\x0b\x0c")
_LONGEST: Final = 120
_TAGS: Final = {0x8F3B22ED: "command line", 0x8F3B22EC: "initrd"}


@dataclass(frozen=True, slots=True)
class Difference:
    """The first wrong event of a register.

    Attributes:
        register: ``rtmr0`` to ``rtmr3``.
        position: from 1, counting the events of this register.
        predicted, recorded: None when the log goes on, or ends, where the other does not.
        cause: what would cause it.
    """

    register: str
    position: int
    predicted: Event | None
    recorded: Recorded | None
    cause: str

    def text(self) -> str:
        """One sentence or two for a person."""
        name = self.predicted.name if self.predicted is not None else "none"
        seen = describe(self.recorded) if self.recorded is not None else "nothing: the log ends"
        return (
            f"{self.register.upper()} event {self.position}: expected {name}, the log has {seen}."
            f" Likely cause: {self.cause}."
        )

    def to_json(self) -> dict[str, object]:
        """As a JSON object."""
        recorded = self.recorded
        return {
            "register": self.register,
            "position": self.position,
            "predicted": None if self.predicted is None else self.predicted.to_json(),
            "recorded": None
            if recorded is None
            else {
                "record": recorded.number,
                "type": f"{recorded.type:#x}",
                "digest": recorded.digest.hex(),
                "description": describe(recorded),
            },
            "cause": self.cause,
        }


def _known_digests() -> dict[bytes, str]:
    """Digests of constants, for logs that leave the event data out (dstack's)."""
    known = {sha384(uefi.SEPARATOR_DATA): "separator"}
    for action in (
        uefi.CALLING_APPLICATION,
        uefi.EXIT_BOOT_SERVICES,
        uefi.EXIT_BOOT_SERVICES_SUCCESS,
        uefi.EXIT_BOOT_SERVICES_FAILURE,
    ):
        known[sha384(action)] = f"action {action.decode()}"
    for name, data in uefi.secure_boot_variables((), uefi.SecureBoot.ABSENT):
        known[sha384(data)] = f"variable {name}, absent"
    for release in (202502, 202505):
        for name, data in uefi.boot_options(release):
            known[sha384(data)] = f"variable {name}"
    return known


_KNOWN: Final = _known_digests()


def describe(event: Recorded) -> str:
    """What an event says of itself. Its data is not proven: only the digest counts."""
    kind, data = types.name_of(event.type), event.data
    if not data and event.digest in _KNOWN:
        return _KNOWN[event.digest]
    if event.type == types.RUNTIME_EVENT:
        payload = _text(data) if _is_text(data) else data.hex()
        return f"runtime event {_clean(event.name)}" + (f" = {payload[:_LONGEST]}" if data else "")
    if event.name:
        return f"{kind} {_clean(event.name)}"
    match event.type:
        case types.SEPARATOR:
            return "separator" if data == uefi.SEPARATOR_DATA else f"separator {data[:8].hex()}"
        case types.HANDOFF_TABLES2 if b"TdxTable" in data or not data:
            return "TD HOB: the memory map that the host's QEMU wrote"
        case types.HANDOFF_TABLES:
            return "SMBIOS table"
        case types.PLATFORM_FIRMWARE_BLOB2:
            return f"firmware volume {_text(data[1 : 1 + data[0]]) if data else ''}".rstrip()
        case types.VARIABLE_DRIVER_CONFIG | types.VARIABLE_BOOT | types.VARIABLE_BOOT2:
            return f"variable {_variable_name(data)}"
        case types.VARIABLE_AUTHORITY:
            return f"certificate of {_variable_name(data)} that an image was verified with"
        case types.BOOT_SERVICES_APPLICATION:
            return "EFI application loaded"
        case types.BOOT_SERVICES_DRIVER | types.RUNTIME_SERVICES_DRIVER:
            return "EFI driver loaded (an option ROM, or from disk)"
        case types.GPT_EVENT:
            return "partition table"
        case types.EVENT_TAG:
            return _tagged(data) if data else "tagged event (command line or initrd)"
        case types.PLATFORM_CONFIG_FLAGS if data.startswith(b"QEMU FW CFG\0"):
            return f"fw_cfg {_text(data[12:])}"
        case types.PLATFORM_CONFIG_FLAGS if data == b"ACPI DATA":
            return "ACPI data that the host's QEMU gave"
        case types.EFI_ACTION:
            return f"action {_text(data)}"
        case types.IPL:
            return _boot_loader(data, event.digest)
        case _:
            return f"{kind} {_text(data)}".rstrip()


def _clean(text: str) -> str:
    shown = "".join(c if c in _PRINTABLE else "·" for c in text.rstrip("\0"))
    return shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + "…"


def _text(data: bytes) -> str:
    return _clean(data[:512].decode("latin-1"))


def _is_text(data: bytes) -> bool:
    return all(chr(byte) in _PRINTABLE for byte in data)


def _variable_name(data: bytes) -> str:
    if len(data) < 32:
        return "without a name in the log"
    guid = uuid.UUID(bytes_le=data[:16])
    (length,) = struct.unpack_from("<Q", data, 16)
    if length > 256 or 32 + 2 * length > len(data):
        return f"of {guid}"
    return _clean(data[32 : 32 + 2 * length].decode("utf-16-le", errors="replace"))


def _boot_loader(data: bytes, digest: bytes) -> str:
    """systemd-stub records two events per section, both with the section's name as their data."""
    wide = data.decode("utf-16-le", errors="replace").rstrip("\0") if len(data) % 2 == 0 else ""
    if wide.startswith(".") and wide.isascii():
        part = "name" if digest == sha384(wide.encode() + b"\0") else "content"
        return f"boot loader: {part} of section {_clean(wide)}"
    return f"boot loader: {_clean(wide) if wide.isascii() and wide.isprintable() and wide else _text(data)}"


def _tagged(data: bytes) -> str:
    if len(data) < 8:
        return f"tagged event {_text(data)}"
    tag, size = struct.unpack_from("<II", data)
    body = data[8 : 8 + size] if size <= len(data) - 8 else data
    if tag in _TAGS:
        return f"{_TAGS[tag]} ({_text(body)})"
    wide = len(body) >= 4 and len(body) % 2 == 0 and not any(body[1::2])
    return f"tagged event {_clean(body.decode('utf-16-le', errors='replace')) if wide else _text(body)}"


def compare(predicted: Sequence[Event], log: EventLog) -> list[Difference]:
    """The first wrong event of each register that differs; none when the log is the predicted boot.

    Events that a TPM's log cannot have are left out, and so is RTMR3 where the log does not record it
    (a TD's CCEL does not: the agent extends RTMR3 by itself).
    """
    found = []
    for rtmr, register in enumerate(RTMR_NAMES):
        if rtmr == 3 and log.kind is not LogKind.DSTACK:
            continue
        wanted = [
            event
            for event in predicted
            if event.rtmr == rtmr and not (event.td_only and log.kind is LogKind.TPM)
        ]
        seen = [event for event in log.events if event.rtmr == rtmr]
        difference = _first_difference(register, wanted, seen)
        if difference is not None:
            found.append(difference)
    return found


def _first_difference(register: str, wanted: list[Event], seen: list[Recorded]) -> Difference | None:
    for position, (event, record) in enumerate(itertools.zip_longest(wanted, seen), 1):
        if event is not None and record is not None and event.digest == record.digest:
            continue
        cause = _cause(event, record, wanted[position:], seen[position:])
        return Difference(register, position, event, record, cause)
    return None


def _cause(
    event: Event | None, record: Recorded | None, later: list[Event], following: list[Recorded]
) -> str:
    if record is None:
        return "the boot stopped here, the log is cut off, or this component does not measure"
    if record.digest == sha384(uefi.EXIT_BOOT_SERVICES_FAILURE):
        return "the memory map changed while the kernel left the firmware, and it tried again; boot once more"
    if event is None:
        return "something more was measured than the image and the shape account for"
    if any(other.digest == record.digest for other in later):
        return f"{event.name} was not measured: {event.cause}"
    if any(other.digest == event.digest for other in following):
        return f"an event more than predicted: {describe(record)}"
    return event.cause


def compare_registers(names: Sequence[str]) -> dict[str, str]:
    """What may be the cause when a register differs and there is no event log."""
    causes = {
        "mrtd": "another firmware file, or a host that adds pages in the other order",
        "rtmr0": "another VM shape, QEMU version or variable store; the CPU stepping with newer firmware",
        "rtmr1": "another kernel or unified kernel image, or an option ROM",
        "rtmr2": "another command line or initrd",
        "rtmr3": "another role, configuration document or application",
    }
    return {name: causes[name] for name in names}
