# SPDX-License-Identifier: MIT
"""The prediction: all events of a boot, in order, and the five registers they give.

Pure: digests of firmware and image, a shape with its host tables, and what the agent extends, go in.
The order of events is that of a VM that QEMU starts with ``-kernel`` (docs/reference/measurements.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from outlayer_attestation.errors import ImageError, ShapeError
from outlayer_attestation.measure import event_types as types
from outlayer_attestation.measure import hob, linux, smbios, uefi, uki
from outlayer_attestation.measure.acpi import AcpiTables
from outlayer_attestation.measure.image import DirectImage, FirmwareDigests, UkiImage
from outlayer_attestation.measure.registers import Event, registers_of, sha384
from outlayer_attestation.measure.shape import NetworkDevice, VmShape
from outlayer_attestation.measure.tdvf import PageOrder
from outlayer_attestation.measurements import Measurements

_FW_CFG_BOOT_MENU: Final = bytes(2)
_FW_CFG_BOOT_ORDER: Final = b"/rom@genroms/linuxboot_dma.bin\0"
_STUB_MEASURES_SMBIOS: Final = 261
_READY_TO_BOOT_IN_RTMR1: Final = 202411
_NEW_LAYOUT: Final = 202505

SEEN_ON_HARDWARE: Final[Mapping[str, str]] = {
    "fd685522ce791dfef67414614eb07d03fc07a32c5a66f36288b329dab92b724b1564c73d436ffb9ea84488c51ac5a1c5": (
        "dstack 0.6.0"
    ),
}
"""MRTDs that stand in a quote of a real TDX host whose RTMR0, event by event, is what is predicted here."""

NOT_VERIFIED: Final = "not verified on hardware"


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a boot will measure.

    Attributes:
        events: of RTMR0 to RTMR3, each register's in its order.
        mrtd: by page-add order; ``page_add`` is the one of the shape.
        mrtd_unverified: why only TDX hardware can confirm MRTD; "" when it was confirmed.
    """

    events: tuple[Event, ...]
    mrtd: Mapping[PageOrder, str]
    page_add: PageOrder
    mrtd_unverified: str

    @property
    def measurements(self) -> Measurements:
        """The five registers."""
        rtmrs = [value.hex() for value in registers_of(self.events)]
        return Measurements(self.mrtd[self.page_add], *rtmrs)

    def unverified(self) -> dict[str, list[str]]:
        """Register -> what of it only TDX hardware can confirm."""
        notes: dict[str, list[str]] = {"mrtd": [self.mrtd_unverified] if self.mrtd_unverified else []}
        for rtmr in range(4):
            reasons = [event.unverified for event in self.events if event.rtmr == rtmr and event.unverified]
            notes[f"rtmr{rtmr}"] = list(dict.fromkeys(reasons))
        return notes


def predict(
    firmware: FirmwareDigests,
    image: UkiImage | DirectImage,
    shape: VmShape,
    tables: AcpiTables,
    runtime: Iterable[Event],
    smbios_table: bytes | None = None,
) -> Prediction:
    """All that a VM of this shape will measure.

    Args:
        tables: the ACPI blobs of the shape (``HostTables.acpi_tables``).
        runtime: events of RTMR3 (``runtime.runtime_events``).
        smbios_table: the guest's whole SMBIOS table, where the firmware or the stub measures it.

    Raises:
        ShapeError: firmware, image and shape do not belong together.
        ImageError: the image was hashed for another VM.
        FirmwareError: the firmware's release has no known events.
    """
    if firmware.profile != shape.firmware:
        raise ShapeError(
            "the firmware was described with another profile than the shape's",
            hint="make the metadata again with this shape, or use the shape that it was made for",
        )
    confirmed = firmware.mrtd.of(shape.page_add) in SEEN_ON_HARDWARE
    events = [
        *rtmr0_events(firmware, shape, tables, smbios_table, confirmed=confirmed),
        *_stub_smbios_events(image, smbios_table),
        *rtmr1_events(image, shape),
        *rtmr2_events(image, shape),
        *runtime,
    ]
    return Prediction(
        events=tuple(events),
        mrtd={PageOrder.SINGLE_PASS: firmware.mrtd.single_pass, PageOrder.TWO_PASS: firmware.mrtd.two_pass},
        page_add=shape.page_add,
        mrtd_unverified="" if confirmed else "the order in which the host's kernel adds pages",
    )


def rtmr0_events(
    firmware: FirmwareDigests,
    shape: VmShape,
    tables: AcpiTables,
    smbios_table: bytes | None,
    *,
    confirmed: bool,
) -> list[Event]:
    """Events of the firmware in RTMR0, in the layout of its edk2 release.

    Args:
        confirmed: a quote of a real host has this firmware's MRTD and these events.
    """
    by_host = "" if confirmed else "the TD HOB, which the host's QEMU writes"
    by_build = "" if confirmed else "which events this firmware's build writes in a TD"
    new = firmware.profile.edk2 >= _NEW_LAYOUT
    if new:
        by_build = "order and presence of the events of edk2 202505 and later in a TD"
    hob_bytes = hob.td_hob(shape.memory, firmware.memory_sections())

    def event(kind: int, name: str, digest: bytes, cause: str, *, td_only: bool = False) -> Event:
        return Event(0, kind, name, digest, cause, td_only, by_build)

    events = [
        Event(
            0,
            types.HANDOFF_TABLES2,
            "td-hob",
            sha384(hob_bytes),
            "another memory size, or other TDX metadata in the firmware",
            td_only=True,
            unverified=by_host,
        ),
        event(
            types.PLATFORM_FIRMWARE_BLOB2,
            "cfv",
            bytes.fromhex(firmware.cfv),
            "another variable store in the firmware file",
            td_only=True,
        ),
    ]
    if new:
        for name, data in (("BootMenu", _FW_CFG_BOOT_MENU), ("bootorder", _FW_CFG_BOOT_ORDER)):
            cause = "other boot options on QEMU's command line (-boot, bootindex)"
            events.append(
                event(types.PLATFORM_CONFIG_FLAGS, f"fw_cfg {name}", sha384(data), cause, td_only=True)
            )
    for variable in firmware.variables:
        cause = "other Secure Boot keys in the variable store, or a firmware with another Secure Boot setting"
        digest = bytes.fromhex(variable.sha384)
        events.append(event(types.VARIABLE_DRIVER_CONFIG, variable.name, digest, cause))
    events.append(_separator(0, by_build))
    causes = {
        "acpi-loader": "other PCI devices, another vCPU count or another QEMU version",
        "acpi-rsdp": "other PCI devices, another vCPU count or another QEMU version",
        "acpi-tables": "other PCI devices, vCPU count, QEMU version, machine switches or 64-bit PCI window",
    }
    for name, data in tables.measured():
        cause = causes.get(name, "a device with ACPI data of its own")
        events.append(event(types.PLATFORM_CONFIG_FLAGS, name, sha384(data), cause))
    if new:
        events.append(_smbios_event(smbios_table))
    for name, data in uefi.boot_options(firmware.profile.edk2):
        cause = "other boot devices, or a firmware build with other boot options"
        events.append(event(types.VARIABLE_BOOT, name, sha384(data), cause))
    if firmware.profile.edk2 < _READY_TO_BOOT_IN_RTMR1:
        events.append(_separator(0, by_build))
    return events


def _separator(rtmr: int, unverified: str = "") -> Event:
    cause = "the firmware reported an error, or is of a release with another order of events"
    return Event(
        rtmr, types.SEPARATOR, "separator", sha384(uefi.SEPARATOR_DATA), cause, unverified=unverified
    )


def _smbios_event(table: bytes | None) -> Event:
    if table is None:
        raise ShapeError(
            "this firmware measures the SMBIOS table, and none is given",
            hint="take the host tables with SMBIOS: outlayer image measure --qemu PATH",
        )
    return Event(
        0,
        types.HANDOFF_TABLES,
        "smbios",
        sha384(smbios.filtered(table)),
        "another machine type, memory size, -smbios strings or CPU stepping",
        unverified="the CPU's id in SMBIOS type 4",
    )


def _stub_smbios_events(image: UkiImage | DirectImage, table: bytes | None) -> list[Event]:
    if not isinstance(image, UkiImage) or image.stub < _STUB_MEASURES_SMBIOS:
        return []
    if table is None:
        raise ShapeError(
            f"systemd-stub {image.stub} measures SMBIOS structures, and no table is given",
            hint="name firmware.smbios and processor_id in the shape, and take the host tables with SMBIOS",
        )
    cause = "other -smbios strings or another -uuid on QEMU's command line"
    return [
        Event(0, types.EVENT_TAG, name, sha384(data), cause, unverified="systemd-stub inside a TD")
        for name, data in smbios.stub_events(table)
    ]


def rtmr1_events(image: UkiImage | DirectImage, shape: VmShape) -> list[Event]:
    """Events of RTMR1: what the firmware loads and starts."""
    events = [
        Event(
            1,
            types.BOOT_SERVICES_DRIVER,
            f"option-rom {device.name}",
            bytes.fromhex(device.option_rom),
            "another option ROM on a network card, or none (romfile=)",
        )
        for device in shape.devices
        if isinstance(device, NetworkDevice) and device.option_rom is not None
    ]
    what = "another unified kernel image" if isinstance(image, UkiImage) else "another kernel"
    authenticode, unverified = bytes.fromhex(image.authenticode), ""
    if isinstance(image, DirectImage):
        _check_setup_header(image, shape)
        if image.setup_header is None:
            unverified = "that the host's QEMU hands a TD the kernel unchanged"
    events.append(
        Event(1, types.BOOT_SERVICES_APPLICATION, "image", authenticode, what, unverified=unverified)
    )
    events.append(_action(uefi.CALLING_APPLICATION, "the firmware started something else first"))
    if shape.firmware.edk2 >= _READY_TO_BOOT_IN_RTMR1:
        events.append(_separator(1))
    if isinstance(image, UkiImage) and image.stub <= uki.LOAD_IMAGE_UNTIL:
        inner = bytes.fromhex(image.kernel_authenticode)
        cause = "another kernel inside the unified kernel image"
        unverified = "systemd-stub inside a TD"
        events.append(
            Event(1, types.BOOT_SERVICES_APPLICATION, "inner-kernel", inner, cause, unverified=unverified)
        )
    retry = "the memory map changed while the kernel left the firmware, and it tried again"
    events.append(_action(uefi.EXIT_BOOT_SERVICES, retry))
    events.append(_action(uefi.EXIT_BOOT_SERVICES_SUCCESS, retry))
    return events


def _action(text: bytes, cause: str) -> Event:
    return Event(1, types.EFI_ACTION, text.decode(), sha384(text), cause)


def _check_setup_header(image: DirectImage, shape: VmShape) -> None:
    header = image.setup_header
    if shape.patches_setup_header != (header is not None):
        raise ImageError(
            f"QEMU {shape.qemu} {'changes' if header is None else 'does not change'} the kernel's header,"
            " and the digest was made for the other case",
            hint="hash the kernel for this shape, or use a UKI, whose header stays as it is",
        )
    if header is not None and header.below_4g != hob.memory_below_4g(shape.memory):
        raise ImageError(
            f"the kernel was hashed for {header.below_4g} bytes below 4 GiB, the shape has another memory size",
            hint="below 2816 MiB the kernel's digest depends on the memory size: hash it for this shape",
        )


def rtmr2_events(image: UkiImage | DirectImage, shape: VmShape) -> list[Event]:
    """Events of RTMR2: sections of a UKI, the command line and the initrd."""
    events: list[Event] = []
    if isinstance(image, UkiImage):
        note = "systemd-stub inside a TD"
        for section in image.sections:
            name = section.name
            label = sha384(name.encode() + b"\0")
            absent = f"the unified kernel image has a section more or less than {name}"
            events.append(Event(2, types.IPL, f"section-name {name}", label, absent, unverified=note))
            digest, differs = bytes.fromhex(section.sha384), f"another {name} in the unified kernel image"
            events.append(Event(2, types.IPL, f"section {name}", digest, differs, unverified=note))
        load_options = linux.load_options_digest(image.command_line)
    elif image.command_line is None:
        load_options = bytes.fromhex(image.load_options or "")
    else:
        full = linux.command_line_for_boot(
            image.command_line, initrd=image.initrd is not None, edk2=shape.firmware.edk2
        )
        load_options = linux.load_options_digest(full)
    if not image.measures:
        return events
    replaced = "another command line (with -append the host replaces that of a unified kernel image)"
    events.append(Event(2, types.EVENT_TAG, "command-line", load_options, replaced))
    if image.initrd is not None:
        cause = "another initrd, or files that the stub added to it"
        events.append(Event(2, types.EVENT_TAG, "initrd", bytes.fromhex(image.initrd), cause))
    return events
