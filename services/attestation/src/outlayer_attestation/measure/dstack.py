# SPDX-License-Identifier: MIT
"""dstack OS images and applications, predicted from what dstack publishes about them.

An OS image of dstack 0.6 and later declares the digests of its parts in ``measurement.tdx.cbor``; its
``os_image_hash`` is the SHA-256 of the checksum file that names it. With the VM's configuration and the
host's ACPI tables that gives MRTD and RTMR0 to RTMR2; RTMR3 follows from app-compose and the instance.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from outlayer_attestation.errors import MetadataError, ShapeError
from outlayer_attestation.measure import cbor, uefi
from outlayer_attestation.measure.hob import BELOW_4G
from outlayer_attestation.measure.image import (
    DirectImage,
    FirmwareDigests,
    MetadataSection,
    MrtdValues,
    NamedDigest,
    SetupHeader,
)
from outlayer_attestation.measure.model import MAX_DOCUMENT_SIZE
from outlayer_attestation.measure.registers import sha384
from outlayer_attestation.measure.runtime import RuntimeEvent
from outlayer_attestation.measure.shape import FORMAT as SHAPE_FORMAT
from outlayer_attestation.measure.shape import (
    MIB,
    Device,
    DiskDevice,
    FirmwareProfile,
    NetworkDevice,
    PassthroughDevice,
    ShareDevice,
    VmShape,
    VsockDevice,
)
from outlayer_attestation.measure.tdvf import PAGE, PageOrder, SectionType

PRISTINE_CFV: Final = (
    "344bc51c980ba621aaa00da3ed7436f7d6e549197dfe699515dfa2c6583d95e6412af21c097d473155875ffd561d6790"
)
"""SHA-384 of the configuration volume of a 4 MiB OVMF without enrolled keys, which dstack uses."""
OVMF_VARIANTS: Final = {"pre202505": 202502}
"""dstack's name for a layout of events -> the edk2 release that has it."""
MEASUREMENT_VERSION: Final = 3
MEASUREMENT_FILE: Final = "measurement.tdx.cbor"

_HINT: Final = "give the vm_config that dstack's agent returns (/GetQuote), of an image of 0.6 or later"


@dataclass(frozen=True, slots=True)
class DstackVm:
    """A dstack VM: its image's digests and its shape."""

    firmware: FirmwareDigests
    image: DirectImage
    shape: VmShape
    os_image_hash: str


def parse_vm(data: bytes | str) -> DstackVm:
    """Read a ``vm_config`` (or a GetQuote reply that carries one) with a published measurement in it.

    Raises:
        MetadataError: it is no such document, or its parts contradict each other.
    """
    config = _configuration(data)
    published = config.get("tdx_measurement")
    if not isinstance(published, dict):
        raise MetadataError("the vm_config has no tdx_measurement", hint=_HINT)
    measurement, checksums = (_base64(published, name) for name in ("measurement", "checksum_file"))
    os_image_hash = hashlib.sha256(checksums).hexdigest()
    if config.get("os_image_hash") != os_image_hash:
        raise MetadataError(
            f"os_image_hash is not the SHA-256 of the checksum file, {os_image_hash}", hint=_HINT
        )
    line = f"{hashlib.sha256(measurement).hexdigest()}  {MEASUREMENT_FILE}"
    if line not in checksums.decode("latin-1").splitlines():
        raise MetadataError("the checksum file does not list this measurement", hint=_HINT)
    shape = vm_shape(config)
    firmware, image = parse_measurement(measurement, shape)
    return DstackVm(firmware, image, shape, os_image_hash)


def _configuration(data: bytes | str) -> dict[str, Any]:
    if len(data) > MAX_DOCUMENT_SIZE:
        raise MetadataError(f"the vm_config has {len(data)} bytes", hint=_HINT)
    try:
        value = json.loads(data)
        if isinstance(value, dict) and "vm_config" in value:
            value = value["vm_config"]
            value = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as error:
        raise MetadataError("the vm_config is not JSON", hint=_HINT) from error
    if not isinstance(value, dict):
        raise MetadataError("the vm_config is not a JSON object", hint=_HINT)
    return value


def _base64(published: Mapping[str, Any], name: str) -> bytes:
    text = published.get(name)
    if not isinstance(text, str) or len(text) > 2 * cbor.MAX_SIZE:
        raise MetadataError(f"tdx_measurement has no {name}", hint=_HINT)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MetadataError(f"tdx_measurement.{name} is not base64", hint=_HINT) from error


def vm_shape(config: Mapping[str, Any]) -> VmShape:
    """The VM that dstack's VMM starts for a vm_config: five devices, then each GPU behind a root port.

    Raises:
        MetadataError: the configuration is of a VM that is not predicted.
    """
    qemu = config.get("qemu_version")
    if not isinstance(qemu, str) or re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3}){1,2}", qemu) is None:
        raise MetadataError("the vm_config has no qemu_version", hint=_HINT)
    major = int(qemu.split(".")[0])
    gpus, memory, hole = (_count(config, name) for name in ("num_gpus", "memory_size", "pci_hole64_size"))
    if _count(config, "num_nvswitches") or gpus > 16 or memory % MIB:
        raise MetadataError(
            "VMs with NVSwitches, 17 or more GPUs or odd memory are not predicted", hint=_HINT
        )
    variant = config.get("ovmf_variant", "pre202505")
    if variant not in OVMF_VARIANTS:
        raise MetadataError(f"ovmf_variant {variant!r} is not known", hint=_HINT)
    # which device sits in which slot does not matter to the ACPI tables, only that five are taken
    devices: list[Device] = [
        DiskDevice(kind="disk", name="root", read_only=True),
        DiskDevice(kind="disk", name="data"),
        NetworkDevice(kind="network", name="net"),
        VsockDevice(kind="vsock"),
        ShareDevice(kind="share", name="host-shared"),
    ]
    devices += [PassthroughDevice(kind="passthrough", name=f"gpu{n}") for n in range(gpus)]
    # dstack's field qemu_single_pass_add_pages, where present and true, really selects two passes
    two_pass = config.get("qemu_single_pass_add_pages")
    order = PageOrder.TWO_PASS if (major < 9 if two_pass is None else two_pass) else PageOrder.SINGLE_PASS
    try:
        return VmShape(
            format=SHAPE_FORMAT,
            name="dstack",
            vcpus=_count(config, "cpu_count"),
            memory_mib=memory // MIB,
            qemu=qemu,
            page_add=order,
            firmware=FirmwareProfile(edk2=OVMF_VARIANTS[variant]),
            edge_triggers=qemu.startswith("8.2."),
            pic=bool(config.get("pic", major < 9)),
            bridge_hotplug=not config.get("hotplug_off", False),
            pci_hole64_size=hole or None,
            devices=tuple(devices),
        )
    except ValidationError as error:
        raise MetadataError(
            f"the vm_config is not of a VM that can be predicted: {error.errors()[0]['msg']}", hint=_HINT
        ) from error


def _count(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name, 0)
    if type(value) is not int or not 0 <= value <= 2**52:
        raise MetadataError(f"{name} of the vm_config is {value!r}, not a number", hint=_HINT)
    return value


def parse_measurement(data: bytes, shape: VmShape) -> tuple[FirmwareDigests, DirectImage]:
    """Read ``measurement.tdx.cbor``, version 3, of an image that runs in this shape.

    Raises:
        MetadataError: it is no such file.
    """
    value = _map(cbor.loads(data), {"version", "image", "tdvf"})
    if value["version"] != MEASUREMENT_VERSION:
        raise MetadataError(f"dstack measurement version {value['version']!r} is not known", hint=_HINT)
    image = _map(value["image"], {"cmdline_sha384", "kernel_authenticode", "initrd_sha384"})
    tdvf = _map(value["tdvf"], {"ovmf", "mrtd", "td_hob"})
    mrtd = _map(tdvf["mrtd"], {"single_pass", "two_pass"})
    if OVMF_VARIANTS.get(str(tdvf["ovmf"])) != shape.firmware.edk2:
        raise MetadataError(f"the image has an OVMF of layout {tdvf['ovmf']!r}", hint=_HINT)
    variables = uefi.secure_boot_variables((), uefi.SecureBoot.ABSENT)
    firmware = FirmwareDigests(
        sha256=None,
        profile=shape.firmware,
        mrtd=MrtdValues(single_pass=_digest(mrtd["single_pass"]), two_pass=_digest(mrtd["two_pass"])),
        sections=_sections(tdvf["td_hob"]),
        cfv=PRISTINE_CFV,
        variables=tuple(NamedDigest(name=name, sha384=sha384(raw).hex()) for name, raw in variables),
    )
    header = None
    if shape.patches_setup_header:
        # dstack publishes the digest of the changed kernel of VMs with 2 GiB below 4 GiB
        header = SetupHeader(below_4g=BELOW_4G, initrd_size=None)
    return firmware, DirectImage(
        kind="direct",
        authenticode=_digest(image["kernel_authenticode"]),
        measures=True,
        command_line=None,
        load_options=_digest(image["cmdline_sha384"]),
        initrd=_digest(image["initrd_sha384"]),
        setup_header=header,
    )


def _map(value: Any, keys: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != keys:
        raise MetadataError(f"dstack's measurement lacks one of {sorted(keys)}, or has more", hint=_HINT)
    return value


def _digest(value: Any) -> str:
    if not isinstance(value, bytes) or len(value) != 48:
        raise MetadataError("a digest of dstack's measurement has not 48 bytes", hint=_HINT)
    return value.hex()


def _sections(packed: Any) -> tuple[MetadataSection, ...]:
    """TD_HOB and TEMP_MEM from the packed form: LEB128 numbers, in pages: base, the TD HOB's offset,
    their number, then offset and size of each."""
    numbers = _leb128(packed)
    if len(numbers) < 3 or len(numbers) != 3 + 2 * numbers[2]:
        raise MetadataError("td_hob of dstack's measurement cannot be read", hint=_HINT)
    base, hob = numbers[0], numbers[1]
    found = []
    for offset, pages in zip(numbers[3::2], numbers[4::2], strict=True):
        kind = SectionType.TD_HOB if offset == hob else SectionType.TEMP_MEM
        found.append((int(kind), (base + offset) * PAGE, pages * PAGE))
    if [kind for kind, _, _ in found].count(SectionType.TD_HOB) != 1:
        raise MetadataError("td_hob of dstack's measurement names no TD HOB", hint=_HINT)
    return tuple(MetadataSection(type=kind, address=start, size=size) for kind, start, size in found)


def _leb128(packed: Any) -> list[int]:
    if not isinstance(packed, bytes) or len(packed) > 256:
        raise MetadataError("td_hob of dstack's measurement is not bytes", hint=_HINT)
    numbers, value, shift = [], 0, 0
    for byte in packed:
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            numbers.append(value)
            value = shift = 0
        if shift > 28:
            raise MetadataError("td_hob of dstack's measurement has a number over 2^28", hint=_HINT)
    if shift:
        raise MetadataError("td_hob of dstack's measurement is cut off", hint=_HINT)
    return numbers


# --- applications --------------------------------------------------------------------------------------


def compose_hash(app_compose: bytes) -> str:
    """SHA-256 (hex) of the exact bytes of app-compose.json on the host: what the guest measures."""
    return hashlib.sha256(app_compose).hexdigest()


def default_app_id(app_compose: bytes) -> str:
    """The app id (20 bytes, hex) of an application that was not given one on chain."""
    return compose_hash(app_compose)[:40]


def instance_id(seed: bytes, app_id: bytes) -> bytes:
    """The instance id (20 bytes): SHA-256 of the disk's seed (20 bytes) and the app id, cut."""
    if len(seed) != 20 or len(app_id) != 20:
        raise ShapeError(
            "an instance seed and an app id have 20 bytes each", hint="give both as 40 hex digits"
        )
    return hashlib.sha256(seed + app_id).digest()[:20]


def app_events(
    app_compose: bytes,
    *,
    key_provider: bytes,
    app_id: bytes | None = None,
    instance: bytes = b"",
    os_image_hash: bytes | None = None,
    storage: str | None = None,
    more: tuple[RuntimeEvent, ...] = (),
) -> tuple[RuntimeEvent, ...]:
    """The events of a dstack application's boot in RTMR3, in order.

    Args:
        app_compose: the exact bytes on the host.
        key_provider: the JSON that the guest measures, ``{"name": …, "id": …}``.
        app_id: 20 bytes; by default the start of the compose hash.
        instance: the instance id, empty when the app-compose says ``no_instance_id``.
        os_image_hash: payload of that event, for images that have it.
        storage: file system of the data disk ("zfs"), for images that measure it.
        more: events of the application itself, after ``system-ready``.
    """
    digest = bytes.fromhex(compose_hash(app_compose))
    events = [
        RuntimeEvent("system-preparing", b""),
        RuntimeEvent("app-id", digest[:20] if app_id is None else app_id),
        RuntimeEvent("compose-hash", digest),
        RuntimeEvent("instance-id", instance),
        RuntimeEvent("boot-mr-done", b""),
    ]
    if os_image_hash is not None:
        events.append(RuntimeEvent("os-image-hash", os_image_hash))
    events.append(RuntimeEvent("key-provider", key_provider))
    if storage is not None:
        events.append(RuntimeEvent("storage-fs", storage.encode()))
    return (*events, RuntimeEvent("system-ready", b""), *more)


def with_app_compose(events: Iterable[RuntimeEvent], app_compose: bytes) -> tuple[RuntimeEvent, ...]:
    """The events with the payloads that follow from an app-compose filled in where they are empty.

    Raises:
        MetadataError: there is no ``compose-hash`` among them, or it is of another app-compose.
    """
    digest = bytes.fromhex(compose_hash(app_compose))
    filled = []
    for event in events:
        payload = event.payload
        if event.name == "compose-hash":
            payload = payload or digest
            if payload != digest:
                raise MetadataError(
                    f"the runtime events have the compose-hash {payload.hex()},"
                    f" the app-compose {digest.hex()}",
                    hint="the hash is over the exact bytes on the host: tools that reformat the file change it",
                )
        elif event.name == "app-id":
            payload = payload or digest[:20]
        filled.append(RuntimeEvent(event.name, payload))
    if not any(event.name == "compose-hash" for event in filled):
        raise MetadataError("the runtime events have no compose-hash", hint="add it where dstack extends it")
    return tuple(filled)
