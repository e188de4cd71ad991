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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError

from outlayer_attestation.errors import MetadataError, ShapeError
from outlayer_attestation.measure import cbor, linux, uefi
from outlayer_attestation.measure.authenticode import authenticode
from outlayer_attestation.measure.hob import BELOW_4G, memory_below_4g
from outlayer_attestation.measure.image import (
    DirectImage,
    FirmwareDigests,
    MetadataSection,
    MrtdValues,
    NamedDigest,
    SetupHeader,
    direct_digests,
)
from outlayer_attestation.measure.model import (
    Model,
    Sha256Hex,
    UndecidedVmError,
    Version,
    load_json,
    validated,
)
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
_KEY_HINT: Final = f"a key that is not known could change what is measured. {_HINT}"
_FILES_HINT: Final = (
    "give the image's own files as well, and its digest is computed: --kernel FILE --initrd FILE"
)

Count = Annotated[int, Field(ge=0, le=2**52)]
Base64Text = Annotated[str, Field(max_length=2 * cbor.MAX_SIZE)]


class PublishedMeasurement(Model):
    """``tdx_measurement``: the measurement file of the OS image and the checksum file that names it, in base64."""

    measurement: Base64Text
    checksum_file: Base64Text


class VmConfig(Model):
    """``vm_config`` of dstack's agent, each key that is known to it, and of those only values that are predicted.

    A VM with huge pages, more network cards, further volumes or a TPM has other ACPI tables.
    """

    spec_version: Literal[1] = 1
    os_image_hash: Sha256Hex
    cpu_count: Count
    memory_size: Count
    qemu_version: Version
    qemu_single_pass_add_pages: bool | None = None
    pic: bool | None = None
    pci_hole64_size: Count = 0
    hugepages: Literal[False] = False
    num_gpus: Annotated[int, Field(ge=0, le=16)] = 0
    num_nvswitches: Literal[0] = 0
    num_nics: Literal[1] = 1
    num_verity_volumes: Literal[0] = 0
    swtpm: Literal[False] = False
    hotplug_off: bool = False
    image: str | None = None
    host_share_mode: Literal["", "9p"] = "9p"
    ovmf_variant: Literal["pre202505"] | None = None
    tdx_attestation_variant: Literal["legacy", "lite"] | None = None
    tdx_measurement: PublishedMeasurement | None = None
    gcp_measurement: None = None
    aws_measurement: None = None


class AgentReply(Model):
    """The reply of dstack's agent to GetQuote; log and configuration are JSON, in strings or as they are."""

    quote: str
    event_log: str | list[Any] = ""
    report_data: str = ""
    vm_config: str | dict[str, Any] = ""
    hash_algorithm: str = ""
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class DstackVm:
    """A dstack VM: its image's digests and its shape."""

    firmware: FirmwareDigests
    image: DirectImage
    shape: VmShape
    os_image_hash: str


@dataclass(frozen=True, slots=True)
class KernelFiles:
    """The kernel (a bzImage) and the initrd of an OS image."""

    kernel: bytes
    initrd: bytes | memoryview


def parse_vm(data: bytes | str, files: KernelFiles | None = None) -> DstackVm:
    """Read a ``vm_config`` (or a GetQuote reply that carries one) with a published measurement in it.

    Args:
        files: the image's own files; needed where the published digest is not of the kernel that the guest gets.

    Raises:
        MetadataError: it is no such document, its parts contradict each other, or the files are of another image.
        UndecidedVmError: the kernel's digest does not follow from what is published.
    """
    config = _configuration(data)
    if config.tdx_measurement is None:
        raise MetadataError("the vm_config has no tdx_measurement", hint=_HINT)
    published = config.tdx_measurement
    measurement = _base64(published.measurement, "measurement")
    checksums = _base64(published.checksum_file, "checksum_file")
    os_image_hash = hashlib.sha256(checksums).hexdigest()
    if config.os_image_hash != os_image_hash:
        raise MetadataError(
            f"os_image_hash is not the SHA-256 of the checksum file, {os_image_hash}", hint=_HINT
        )
    if _checksums(checksums).get(MEASUREMENT_FILE) != hashlib.sha256(measurement).hexdigest():
        raise MetadataError("the checksum file does not list this measurement", hint=_HINT)
    shape = _shape(config)
    firmware, image = parse_measurement(measurement, shape, files)
    return DstackVm(firmware, image, shape, os_image_hash)


def _configuration(data: bytes | str) -> VmConfig:
    value = load_json(data, "the vm_config", MetadataError, _HINT)
    if isinstance(value, dict) and "vm_config" in value:
        value = validated(AgentReply, value, "the agent's reply", MetadataError, _KEY_HINT).vm_config
        if isinstance(value, str):
            value = load_json(value, "the vm_config", MetadataError, _HINT)
    return _vm_config(value)


def _vm_config(value: object) -> VmConfig:
    return validated(VmConfig, value, "the vm_config", MetadataError, _KEY_HINT)


def _base64(text: str, name: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MetadataError(f"tdx_measurement.{name} is not base64", hint=_HINT) from error


def _checksums(data: bytes) -> dict[str, str]:
    """Name -> SHA-256 of a checksum file, as ``sha256sum`` writes it."""
    found: dict[str, str] = {}
    for line in data.decode("latin-1").removesuffix("\n").split("\n"):
        digest, _, name = line.partition("  ")
        if name in found:
            raise MetadataError(f"the checksum file lists {name[:60]!r} twice", hint=_HINT)
        found[name] = digest
    return found


def vm_shape(config: Mapping[str, Any]) -> VmShape:
    """The VM that dstack's VMM starts for a vm_config: five devices, then each GPU behind a root port.

    Raises:
        MetadataError: the configuration is of a VM that is not predicted.
    """
    return _shape(_vm_config(dict(config)))


def _shape(config: VmConfig) -> VmShape:
    major = int(config.qemu_version.split(".")[0])
    if config.memory_size % MIB:
        raise MetadataError("VMs whose memory is not whole MiB are not predicted", hint=_HINT)
    # which device sits in which slot does not matter to the ACPI tables, only that five are taken
    devices: list[Device] = [
        DiskDevice(kind="disk", name="root", read_only=True),
        DiskDevice(kind="disk", name="data"),
        NetworkDevice(kind="network", name="net"),
        VsockDevice(kind="vsock"),
        ShareDevice(kind="share", name="host-shared"),
    ]
    devices += [PassthroughDevice(kind="passthrough", name=f"gpu{n}") for n in range(config.num_gpus)]
    # dstack's field qemu_single_pass_add_pages, where present and true, really selects two passes
    given = config.qemu_single_pass_add_pages
    two_pass = major < 9 if given is None else given
    try:
        return VmShape(
            format=SHAPE_FORMAT,
            name="dstack",
            vcpus=config.cpu_count,
            memory_mib=config.memory_size // MIB,
            qemu=config.qemu_version,
            page_add=PageOrder.TWO_PASS if two_pass else PageOrder.SINGLE_PASS,
            firmware=FirmwareProfile(edk2=OVMF_VARIANTS[config.ovmf_variant or "pre202505"]),
            edge_triggers=config.qemu_version.startswith("8.2."),
            pic=major < 9 if config.pic is None else config.pic,
            bridge_hotplug=not config.hotplug_off,
            pci_hole64_size=config.pci_hole64_size or None,
            devices=tuple(devices),
        )
    except ValidationError as error:
        raise MetadataError(
            f"the vm_config is not of a VM that can be predicted: {error.errors()[0]['msg']}", hint=_HINT
        ) from error


def parse_measurement(
    data: bytes, shape: VmShape, files: KernelFiles | None = None
) -> tuple[FirmwareDigests, DirectImage]:
    """Read ``measurement.tdx.cbor``, version 3, of an image that runs in this shape.

    Raises:
        MetadataError: it is no such file, or the kernel and initrd are not those that it names.
        UndecidedVmError: the kernel's digest in this shape does not follow from the published one.
    """
    value = cbor.loads(data)
    version = value.get("version") if isinstance(value, dict) else None
    if version != MEASUREMENT_VERSION:
        raise MetadataError(f"dstack measurement version {version!r:.20} is not known", hint=_HINT)
    value = _map(value, {"version", "image", "tdvf"})
    image = _map(value["image"], {"cmdline_sha384", "kernel_authenticode", "initrd_sha384"})
    tdvf = _map(value["tdvf"], {"ovmf", "mrtd", "td_hob"})
    mrtd = _map(tdvf["mrtd"], {"single_pass", "two_pass"})
    if OVMF_VARIANTS.get(str(tdvf["ovmf"])) != shape.firmware.edk2:
        raise MetadataError(f"the image has an OVMF of layout {tdvf['ovmf']!r}", hint=_HINT)
    variables = uefi.secure_boot_variables((), uefi.SecureBoot.ABSENT)
    try:
        firmware = FirmwareDigests(
            sha256=None,
            profile=shape.firmware,
            mrtd=MrtdValues(single_pass=_digest(mrtd["single_pass"]), two_pass=_digest(mrtd["two_pass"])),
            sections=_sections(tdvf["td_hob"]),
            cfv=PRISTINE_CFV,
            variables=tuple(NamedDigest(name=name, sha384=sha384(raw).hex()) for name, raw in variables),
        )
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]["msg"]
        raise MetadataError(f"td_hob of dstack's measurement: {problem}", hint=_HINT) from error
    return firmware, _direct_image(
        shape,
        kernel=_digest(image["kernel_authenticode"]),
        command_line=_digest(image["cmdline_sha384"]),
        initrd=_digest(image["initrd_sha384"]),
        files=files,
    )


_PUBLISHED_FOR: Final = (
    f"dstack publishes the digest of the kernel as QEMU 9 changes it with {BELOW_4G >> 30} GiB"
)


def _direct_image(
    shape: VmShape, *, kernel: str, command_line: str, initrd: str, files: KernelFiles | None
) -> DirectImage:
    """The image in this shape; ``kernel``, ``command_line`` and ``initrd`` are the published digests (hex)."""
    header = None
    if files is not None:
        _check_files(files, kernel, initrd)
        patch = None
        if shape.patches_setup_header:
            patch = linux.SetupHeaderPatch(shape.memory, len(files.initrd))
            header = SetupHeader(below_4g=memory_below_4g(shape.memory), initrd_size=len(files.initrd))
        kernel = direct_digests(files.kernel, files.initrd, "", patch).authenticode
    elif not shape.patches_setup_header:
        raise UndecidedVmError(
            f"QEMU {shape.qemu} hands the kernel over unchanged, and {_PUBLISHED_FOR} below 4 GiB:"
            " RTMR1 does not follow from it",
            hint=_FILES_HINT,
        )
    elif memory_below_4g(shape.memory) != BELOW_4G:
        raise UndecidedVmError(
            f"the VM has {shape.memory >> 20} MiB below 4 GiB, and {_PUBLISHED_FOR} there:"
            " RTMR1 does not follow from it",
            hint=_FILES_HINT,
        )
    else:
        header = SetupHeader(below_4g=BELOW_4G, initrd_size=None)
    return DirectImage(
        kind="direct",
        authenticode=kernel,
        measures=True,
        command_line=None,
        load_options=command_line,
        initrd=initrd,
        setup_header=header,
    )


def _check_files(files: KernelFiles, kernel: str, initrd: str) -> None:
    """Raise ``MetadataError`` unless these files give the published digests."""
    hint = "give the files of the OS image whose os_image_hash the vm_config names"
    if sha384(files.initrd).hex() != initrd:
        raise MetadataError("the initrd is not the one that the image publishes", hint=hint)
    published = linux.patched_setup_header(files.kernel, linux.SetupHeaderPatch(BELOW_4G, len(files.initrd)))
    if authenticode(published).hex() != kernel:
        raise MetadataError("the kernel is not the one that the image publishes", hint=hint)
    if linux.kernel_version(files.kernel) < linux.MEASURING_SINCE:
        raise MetadataError(
            "the kernel does not measure its command line, which the image publishes", hint=hint
        )


def _map(value: Any, keys: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MetadataError("a part of dstack's measurement is not a map", hint=_HINT)
    unknown, missing = sorted(set(value) - keys), sorted(keys - set(value))
    if unknown:
        raise MetadataError(f"dstack's measurement has the unknown key {unknown[0][:60]!r}", hint=_KEY_HINT)
    if missing:
        raise MetadataError(f"dstack's measurement has no {missing[0]!r}", hint=_HINT)
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


def check_app_compose(app_compose: bytes) -> None:
    """Raise ``MetadataError`` unless it is a JSON object that says one thing only.

    Its keys are not checked: all of its bytes are measured, but with a key twice two readers may see two files.
    """
    hint = "give the exact bytes of app-compose.json on the host"
    if not isinstance(load_json(app_compose, "the app-compose", MetadataError, hint), dict):
        raise MetadataError("the app-compose is not a JSON object", hint=hint)


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
    check_app_compose(app_compose)
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
