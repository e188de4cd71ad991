# SPDX-License-Identifier: MIT
"""Small stand-ins for tests: a TDVF, a kernel, a UKI and event logs with the real layouts and no real code."""

from __future__ import annotations

import base64
import hashlib
import struct
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from outlayer_attestation.measure import acpi, event_types, tdvf, uefi
from outlayer_attestation.measure.hosttables import SMBIOS_FILE, HostTables
from outlayer_attestation.measure.registers import Event
from outlayer_attestation.measure.runtime import RuntimeEvent
from outlayer_attestation.measure.shape import FORMAT, VmShape

PAGE = 4096
VOLUME_SIZE = 2 * PAGE
DEFAULT_SECTIONS = {
    ".osrel": b"ID=test\n",
    ".cmdline": b"console=ttyS0 panic=-1",
    ".initrd": b"070701 an initrd",
    ".uname": b"7.3.4",
}


def variable_volume(variables: Mapping[str, bytes] | None = None, size: int = VOLUME_SIZE) -> bytes:
    """An NVRAM firmware volume with these Secure Boot variables."""
    records = bytearray()
    for name, data in (variables or {}).items():
        guid = uefi.GLOBAL_GUID if name in ("PK", "KEK") else uefi.IMAGE_SECURITY_GUID
        encoded = name.encode("utf-16-le") + b"\0\0"
        records += struct.pack("<HBBIQ16xIII", 0x55AA, 0x3F, 0, 0x27, 0, 0, len(encoded), len(data))
        records += uuid.UUID(guid).bytes_le + encoded + data
        records += b"\xff" * (-len(records) % 4)
    header = bytes(16) + uuid.UUID("fff12b8d-7696-4c8b-a985-2747075b4f50").bytes_le
    header += struct.pack("<Q4sIHHHBB", size, b"_FVH", 0x4FEFF, 72, 0, 0, 0, 2) + bytes(16)
    store = uuid.UUID("aaf32c78-947b-439a-a180-2e144ec37792").bytes_le
    store += struct.pack("<IBB6x", size - 72, 0x5A, 0xFE)
    return (header + store + records).ljust(size, b"\xff")


def firmware(code: bytes = b"code", variables: Mapping[str, bytes] | None = None) -> bytes:
    """A TDVF with a configuration volume, 16 KiB of measured code and OVMF's metadata."""
    code_size, offset = 4 * PAGE, 2048
    sections = (
        (VOLUME_SIZE, code_size, 0xFFFFC000, code_size, tdvf.SectionType.BFV, tdvf.ATTRIBUTE_EXTEND),
        (0, VOLUME_SIZE, 0xFFFFA000, VOLUME_SIZE, tdvf.SectionType.CFV, 0),
        (0, 0, 0x810000, 0x10000, tdvf.SectionType.TEMP_MEM, 0),
        (0, 0, 0x80B000, 0x2000, tdvf.SectionType.TEMP_MEM, 0),
        (0, 0, 0x809000, 0x2000, tdvf.SectionType.TD_HOB, 0),
        (0, 0, 0x800000, 0x6000, tdvf.SectionType.TEMP_MEM, 0),
    )
    descriptor = struct.pack("<4sIII", b"TDVF", 16 + 32 * len(sections), 1, len(sections))
    descriptor += b"".join(struct.pack("<IIQQII", *section) for section in sections)
    metadata = struct.pack("<IH", offset, 22) + uuid.UUID("e47a6535-984a-4798-865e-4685a7bf8ec2").bytes_le
    other = b"data" + struct.pack("<H", 22) + uuid.UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e").bytes_le
    footer = struct.pack("<H", 18 + len(metadata) + len(other))
    footer += uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
    tail = metadata + other + footer + bytes(32)
    volume = code.ljust(code_size - offset, b"\x90")[: code_size - offset]
    volume += descriptor.ljust(offset - len(tail), b"\0") + tail
    return variable_volume(variables) + volume


def pe_file(sections: Mapping[str, bytes], *, headers_size: int = 0x1000, certificates: bytes = b"") -> bytes:
    """A PE32+ file with these sections and a certificate table at its end."""
    optional = struct.pack("<H58xI", 0x20B, headers_size) + bytes(4) + bytes(40)
    optional += struct.pack("<I", 16) + bytes(32) + struct.pack("<II", 0, len(certificates)) + bytes(88)
    table, body, position = b"", b"", headers_size
    for name, data in sections.items():
        padded = data.ljust(-(-len(data) // 512) * 512, b"\0")
        fields = (len(data), 0x10000 + position, len(padded), position)
        table += name.encode().ljust(8, b"\0") + struct.pack("<IIII16x", *fields)
        body += padded
        position += len(padded)
    coff = struct.pack("<HH12xHH", 0x8664, len(sections), len(optional), 0x22E)
    head = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40) + b"PE\0\0" + coff + optional + table
    return head.ljust(headers_size, b"\0") + body + certificates


def kernel(version: str = "7.3.4-cloud-amd64 (debian)", code: bytes = b"kernel") -> bytes:
    """A bzImage: a PE file with Linux's boot header."""
    image = bytearray(pe_file({".text": code}))
    image[0x202:0x206] = b"HdrS"
    image[0x20E:0x210] = (0x400).to_bytes(2, "little")
    image[0x22C:0x230] = (0x7FFFFFFF).to_bytes(4, "little")
    text = version.encode() + b"\0"
    image[0x600 : 0x600 + len(text)] = text
    return bytes(image)


def uki(sections: Mapping[str, bytes] | None = None, *, stub: int = 257, linux: bytes | None = None) -> bytes:
    """A UKI of these sections, by default a bootable set, around a stub of this version."""
    held = {".text": b"stub", ".sbat": b"sbat,1\n"}
    held[".sdmagic"] = f"#### LoaderInfo: systemd-stub {stub}.1 ####".encode()
    return pe_file(
        held | (DEFAULT_SECTIONS if sections is None else dict(sections)) | {".linux": linux or kernel()}
    )


def acpi_tables(seed: bytes = b"") -> acpi.AcpiTables:
    """Tables with the structure of QEMU's, and a loader that fits them."""

    def table(signature: bytes, body: bytes) -> bytes:
        return signature + struct.pack("<I", 36 + len(body)) + bytes(28) + body

    facs = b"FACS" + struct.pack("<I", 64) + bytes(56)
    interrupt = b"\x89\x06\x00\x09\x01\x05\x00\x00\x00"
    override = struct.pack("<BBBBIH", 2, 10, 0, 5, 5, 0xD)
    parts = [facs, table(b"DSDT", interrupt + seed), table(b"FACP", bytes(208))]
    parts += [table(b"APIC", bytes(8) + override), table(b"MCFG", bytes(24)), table(b"WAET", bytes(4))]
    parts.append(table(b"RSDT", bytes(16)))
    return acpi.rebuild(b"".join(parts).ljust(acpi.TABLES_SIZE, b"\0"))


def smbios_table() -> bytes:
    """QEMU's SMBIOS structures of types 1, 4 and 127."""
    system = struct.pack("<BBH", 1, 27, 0x100) + bytes([1, 2, 3, 4]) + bytes(16) + bytes([6, 0, 0])
    processor = struct.pack("<BBH", 4, 42, 0x400) + bytes(38)
    return system + b"QEMU\0PC\0pc-q35-10.0\0serial\0\0" + processor + b"\0\0" + bytes.fromhex("7f04007f0000")


def shape(**changes: object) -> VmShape:
    """A small shape; ``changes`` replace its fields."""
    fields: dict[str, object] = {
        "format": FORMAT,
        "name": "small",
        "vcpus": 2,
        "memory_mib": 2048,
        "qemu": "11.1.3",
        "page_add": tdvf.PageOrder.SINGLE_PASS,
        "firmware": {"edk2": 202502},
        "devices": ({"kind": "vsock"}, {"kind": "network", "name": "net"}),
    }
    return VmShape.model_validate(fields | changes)


def host_tables(of: VmShape) -> HostTables:
    """Tables that differ for each shape, as a QEMU's would (not the ones that it would give)."""
    seed = repr(of.dump_arguments()).encode()
    tables = acpi_tables(seed)
    files = {acpi.LOADER_FILE: tables.loader, **dict(tables.files), SMBIOS_FILE: smbios_table()}
    return HostTables.make(of.qemu, of.dump_arguments(), files)


def _spec_id(algorithms: Mapping[int, int]) -> bytes:
    body = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(algorithms))
    body += b"".join(struct.pack("<HH", *pair) for pair in algorithms.items()) + b"\0"
    return struct.pack("<II20xI", 0, 3, len(body)) + body


def record(index: int, event_type: int, digest: bytes, data: bytes = b"") -> bytes:
    """One crypto-agile record with a SHA-384 digest."""
    return struct.pack("<IIIH", index, event_type, 1, 0xC) + digest + struct.pack("<I", len(data)) + data


def cc_log(events: Iterable[Event], *, padding: bytes = b"\xff" * 64) -> bytes:
    """The CCEL of a boot with these events, RTMR3 left out as in a real one."""
    records = (
        record(event.rtmr + 1, event.type, event.digest, event.name.encode())
        for event in events
        if event.rtmr < 3
    )
    return _spec_id({0xC: 48}) + b"".join(records) + padding


def dstack_log(events: Iterable[Event], runtime: Iterable[RuntimeEvent]) -> list[dict[str, Any]]:
    """dstack's list for a boot with these events and, in RTMR3, these."""
    items = [
        {
            "imr": event.rtmr,
            "event_type": event.type,
            "digest": event.digest.hex(),
            "event": "",
            "event_payload": "",
        }
        for event in events
        if event.rtmr < 3
    ]
    return items + [
        {
            "imr": 3,
            "event_type": event_types.RUNTIME_EVENT,
            "digest": "",
            "event": event.name,
            "event_payload": event.payload.hex(),
        }
        for event in runtime
    ]


def cbor(value: Any) -> bytes:
    """CBOR in its shortest form: unsigned numbers, bytes, text, lists and maps with text keys."""

    def head(major: int, count: int) -> bytes:
        if count < 24:
            return bytes([major << 5 | count])
        for size, code in ((1, 24), (2, 25), (4, 26), (8, 27)):
            if count < 1 << (8 * size):
                return bytes([major << 5 | code]) + count.to_bytes(size, "big")
        raise ValueError(count)

    if isinstance(value, int):
        return head(0, value)
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return head(4, len(value)) + b"".join(map(cbor, value))
    return head(5, len(value)) + b"".join(cbor(key) + cbor(item) for key, item in value.items())


def dstack_measurement(*, image: Mapping[str, bytes] | None = None, **changes: Any) -> bytes:
    """A ``measurement.tdx.cbor``; ``image`` replaces digests of the image, ``changes`` whole fields."""
    value: dict[str, Any] = {
        "version": 3,
        "image": {
            "cmdline_sha384": b"c" * 48,
            "kernel_authenticode": b"k" * 48,
            "initrd_sha384": b"i" * 48,
            **(image or {}),
        },
        "tdvf": {
            "ovmf": "pre202505",
            "mrtd": {"single_pass": b"1" * 48, "two_pass": b"2" * 48},
            "td_hob": bytes([0x80, 0x10, 9, 4, 0, 6, 9, 2, 0xB, 2, 0x10, 0x10]),
        },
    }
    return cbor(value | changes)


def dstack_config(measurement: bytes | None = None, **changes: Any) -> dict[str, Any]:
    """A ``vm_config`` of 4 vCPUs and 4 GiB on QEMU 9.2.1 whose image publishes this measurement."""
    raw = dstack_measurement() if measurement is None else measurement
    checksums = f"{hashlib.sha256(raw).hexdigest()}  measurement.tdx.cbor\n".encode()
    published = {
        "measurement": base64.b64encode(raw).decode(),
        "checksum_file": base64.b64encode(checksums).decode(),
    }
    return {
        "os_image_hash": hashlib.sha256(checksums).hexdigest(),
        "cpu_count": 4,
        "memory_size": 4 * 1024**3,
        "qemu_version": "9.2.1",
        "tdx_measurement": published,
    } | changes
