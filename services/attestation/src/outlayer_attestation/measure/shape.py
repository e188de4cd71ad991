# SPDX-License-Identifier: MIT
"""VM shapes, format ``outlayer/vm-shape/v1``: all of a host that the measurements depend on.

One description renders the QEMU command line that starts the VM, the arguments under which QEMU is asked
for its ACPI tables, and the inputs of the prediction, so that the three cannot differ. What a host may
choose freely (paths, a vsock CID, a tap device) is no part of the shape: it comes as ``Attachments``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from outlayer_attestation.errors import ShapeError
from outlayer_attestation.measure.model import Document, Model, Name, Sha384Hex, Version, load_document
from outlayer_attestation.measure.tdvf import PageOrder
from outlayer_attestation.measure.uefi import SecureBoot

FORMAT: Final = "outlayer/vm-shape/v1"
MIB: Final = 1024 * 1024
CONFIGURATION_FILE: Final = "opt/outlayer/config"
"""fw_cfg file with the configuration document."""
SECRETS_FILE: Final = "opt/outlayer/secrets"
"""fw_cfg file with secrets that the host may see: never measured."""
TPM_ARGUMENTS: Final = ("-tpmdev", "emulator,id=tpm,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm")
"""A software TPM at the chardev ``tpm``. It has ACPI tables of its own."""
BAR_ADDRESS: Final = 0x3800_0000_0000
"""Where OVMF puts the first 64-bit BAR with 46 physical address bits."""
FIRST_SLOT: Final = 1
LAST_SLOT: Final = 0x1E  # 0x1f holds the ICH9 of q35

_HINT: Final = "see docs/reference/measurements.md for the fields of a VM shape"

AsciiText = Annotated[str, StringConstraints(pattern=r"^[ -~]{1,64}$")]


class FirmwareSmbios(Model):
    """Strings of the firmware's SMBIOS type 0, as its build sets them."""

    vendor: AsciiText
    version: AsciiText
    date: AsciiText


class FirmwareProfile(Model):
    """What decides which events a firmware writes, and cannot be read from its file.

    Attributes:
        edk2: the stable tag it is built from, 202502 for edk2-stable202502.
        secure_boot: what its build says in the variable SecureBoot.
        smbios: needed from 202505 on, when the firmware measures the SMBIOS table.
    """

    edk2: Annotated[int, Field(ge=202205, le=209912)]
    secure_boot: SecureBoot = SecureBoot.ABSENT
    smbios: FirmwareSmbios | None = None


class VsockDevice(Model):
    """Talks to the host: quotes, and the agent's health."""

    kind: Literal["vsock"]


class DiskDevice(Model):
    """A virtio block device."""

    kind: Literal["disk"]
    name: Name
    read_only: bool = False


class NetworkDevice(Model):
    """A virtio network card.

    ``option_rom``: Authenticode SHA-384 of the EFI driver in the card's option ROM, which the firmware
    measures into RTMR1; without one the card gets none (``romfile=``).
    """

    kind: Literal["network"]
    name: Name
    option_rom: Sha384Hex | None = None


class RngDevice(Model):
    """A virtio entropy source."""

    kind: Literal["rng"]


class ShareDevice(Model):
    """A folder of the host over 9p, as dstack has it."""

    kind: Literal["share"]
    name: Name


class PassthroughDevice(Model):
    """A PCI device of the host (VFIO), behind a root port of its own."""

    kind: Literal["passthrough"]
    name: Name


Device = Annotated[
    VsockDevice | DiskDevice | NetworkDevice | RngDevice | ShareDevice | PassthroughDevice,
    Field(discriminator="kind"),
]


class VmShape(Document):
    """A VM shape.

    Attributes:
        qemu: version of the QEMU that runs it; its binary decides the ACPI tables.
        machine: ``q35``, or a versioned one: SMBIOS strings carry it.
        page_add: how the host adds pages: decides MRTD.
        edge_triggers: the Canonical and Intel QEMU 8.2, which gives a TD other ACPI tables.
        pci_hole64_size: bytes of the 64-bit PCI window; QEMU's default when absent.
        bridge_hotplug: ACPI hotplug on PCI bridges; off with passed-through devices in dstack.
        serial: a serial port at 0x3f8.
        processor_id: CPUID leaf 1, EAX and EDX, of the host's CPU (16 hex digits); needed from edk2 202505.
        devices: on the root bus, in slots from 1 on.
    """

    format: Literal["outlayer/vm-shape/v1"]
    name: Name
    vcpus: Annotated[int, Field(ge=1, le=255)]
    memory_mib: Annotated[int, Field(ge=512, le=16 * MIB)]
    qemu: Version
    machine: Annotated[str, StringConstraints(pattern=r"^(pc-)?q35(-[0-9]{1,2}\.[0-9]{1,2})?$")] = "q35"
    page_add: PageOrder
    firmware: FirmwareProfile
    edge_triggers: bool = False
    hpet: bool = False
    smm: bool = False
    pic: bool = False
    serial: bool = True
    bridge_hotplug: bool = True
    pci_hole64_size: Annotated[int, Field(ge=0, le=2**46)] | None = None
    processor_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")] | None = None
    devices: Annotated[tuple[Device, ...], Field(max_length=LAST_SLOT - FIRST_SLOT + 1)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.edge_triggers and self.qemu_version[:2] != (8, 2):
            raise ValueError("edge_triggers belong to the patched QEMU 8.2 alone")
        names = [device.name for device in self.devices if hasattr(device, "name")]
        if len(names) != len(set(names)):
            raise ValueError("two devices have the same name")
        if sum(isinstance(device, VsockDevice) for device in self.devices) > 1:
            raise ValueError("a VM has one vsock device")
        if self.devices and all(isinstance(device, PassthroughDevice) for device in self.devices):
            raise ValueError("passed-through devices alone are not predicted: add one on the root bus")
        if self.firmware.edk2 >= 202505 and (self.firmware.smbios is None or self.processor_id is None):
            raise ValueError("from edk2 202505 on firmware.smbios and processor_id are measured: name them")
        return self

    @classmethod
    def from_bytes(cls, data: bytes | str) -> VmShape:
        """Read the JSON of a shape. Raises ``ShapeError``."""
        return load_document(cls, data, "the VM shape", ShapeError, _HINT)

    @property
    def memory(self) -> int:
        """RAM in bytes."""
        return self.memory_mib * MIB

    @property
    def qemu_version(self) -> tuple[int, ...]:
        """The version in numbers."""
        return tuple(int(part) for part in self.qemu.split("."))

    @property
    def patches_setup_header(self) -> bool:
        """Whether a bzImage given with ``-kernel`` reaches the guest with a header that QEMU changed.

        QEMU 10.2 and later leave it alone for TDs; edk2 202502 and later take the unchanged file that
        QEMU 10.0 and later also offer (``etc/boot/kernel``).
        """
        unchanged = self.firmware.edk2 >= 202502 and self.qemu_version >= (10, 0)
        return self.qemu_version < (10, 2) and not unchanged

    # --- rendering ---

    def common_arguments(self) -> list[str]:
        """The arguments that the VM and the dump of its tables share."""
        arguments = ["-m", f"{self.memory_mib}M", "-smp", str(self.vcpus), "-nodefaults", "-no-user-config"]
        arguments += ["-display", "none"]
        if self.pci_hole64_size is not None:
            arguments += ["-global", f"q35-pcihost.pci-hole64-size={self.pci_hole64_size:#x}"]
        if not self.bridge_hotplug:
            arguments += ["-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"]
        return arguments

    def machine_argument(self) -> str:
        """The machine and its switches, each named, whatever QEMU's default is."""
        switches = {"hpet": self.hpet, "smm": self.smm, "pic": self.pic}
        return ",".join([self.machine] + [f"{name}={'on' if on else 'off'}" for name, on in switches.items()])

    def slots(self) -> list[tuple[Device, str]]:
        """Each device with its place on the bus, as QEMU arguments."""
        return [
            (device, f"bus=pcie.0,addr={FIRST_SLOT + index:#x}") for index, device in enumerate(self.devices)
        ]

    def dump_arguments(self) -> list[str]:
        """Arguments of a QEMU that gives the same ACPI tables without TDX, KVM, or the host's devices.

        Only the occupancy of the slots matters on the root bus, so one kind of device stands for all.
        """
        backend = f"memory-backend-ram,id=ram,size={self.memory_mib}M,reserve=off"
        arguments = ["-machine", f"{self.machine_argument()},memory-backend=ram", "-object", backend]
        arguments += ["-cpu", "qemu64,phys-bits=46", *self.common_arguments()]
        if self.serial:
            arguments += ["-serial", "null"]
        for index, (device, place) in enumerate(self.slots()):
            if isinstance(device, PassthroughDevice):
                port = f"port{index}"
                arguments += ["-device", f"pcie-root-port,id={port},chassis={index},{place}"]
                arguments += ["-device", f"virtio-rng-pci,bus={port}"]
            else:
                arguments += ["-device", f"virtio-rng-pci,{place}"]
        return arguments

    def bar_slot(self) -> int | None:
        """Slot of the first device on the root bus; its 64-bit BAR opens the window that the tables name."""
        for index, device in enumerate(self.devices):
            if not isinstance(device, PassthroughDevice):
                return FIRST_SLOT + index
        return None

    def command(self, attachments: Attachments, program: str = "qemu-system-x86_64") -> list[str]:
        """The command line that starts the VM as a TD.

        Raises:
            ShapeError: the attachments are not exactly those of the devices.
        """
        attachments.check(self)
        machine = f"{self.machine_argument()},kernel-irqchip=split,confidential-guest-support=tdx"
        guest = {"qom-type": "tdx-guest", "id": "tdx", "quote-generation-socket": attachments.quote_socket}
        if attachments.quote_socket is None:
            del guest["quote-generation-socket"]
        host = ["-accel", "kvm", "-cpu", "host", "-machine", f"{machine},memory-backend=ram"]
        host += ["-object", json.dumps(guest, separators=(",", ":"))]
        return [program, *host, *self._guest_arguments(attachments)]

    def emulated_command(
        self, attachments: Attachments, tpm_socket: Path, *, kvm: bool, program: str = "qemu-system-x86_64"
    ) -> list[str]:
        """The same VM without TDX, its CPU emulated, with a software TPM that records what TDX would.

        Raises:
            ShapeError: the attachments are not exactly those of the devices.
        """
        attachments.check(self)
        accelerator = ["-accel", "kvm"] if kvm else ["-accel", "tcg,thread=multi"]
        cpu = f"max,phys-bits=46,host-phys-bits={'on' if kvm else 'off'},host-phys-bits-limit=46"
        host = [*accelerator, "-cpu", cpu, "-machine", f"{self.machine_argument()},memory-backend=ram"]
        tpm = ["-chardev", f"socket,id=tpm,path={_escaped(tpm_socket)}", *TPM_ARGUMENTS]
        return [program, *host, *tpm, *self._guest_arguments(attachments)]

    def _guest_arguments(self, attachments: Attachments) -> list[str]:
        command = ["-object", f"memory-backend-ram,id=ram,size={self.memory_mib}M", *self.common_arguments()]
        if self.serial:
            command += ["-serial", attachments.serial]
        for index, (device, place) in enumerate(self.slots()):
            command += _device_arguments(device, place, index, attachments)
        command += ["-bios", str(attachments.firmware), "-kernel", str(attachments.kernel)]
        if attachments.initrd is not None:
            command += ["-initrd", str(attachments.initrd)]
        if attachments.command_line is not None:
            command += ["-append", attachments.command_line]
        for name, path in (
            (CONFIGURATION_FILE, attachments.configuration),
            (SECRETS_FILE, attachments.secrets),
        ):
            if path is not None:
                command += ["-fw_cfg", f"name={name},file={_escaped(path)}"]
        return command


@dataclass(frozen=True)
class Attachments:
    """What a host adds to a shape to run it. None of it may change a measurement of the shape.

    Attributes:
        kernel: a UKI, or a bzImage with ``initrd`` and ``command_line`` (those two are the image's).
        disks, networks, shares, passthrough: device name -> path, netdev backend ("tap,ifname=…"),
            folder, PCI address.
        quote_socket: QEMU's SocketAddress of the quote service.
    """

    firmware: Path
    kernel: Path
    initrd: Path | None = None
    command_line: str | None = None
    configuration: Path | None = None
    secrets: Path | None = None
    disks: Mapping[str, Path] = field(default_factory=dict)
    networks: Mapping[str, str] = field(default_factory=dict)
    shares: Mapping[str, Path] = field(default_factory=dict)
    passthrough: Mapping[str, str] = field(default_factory=dict)
    vsock_cid: int | None = None
    quote_socket: Mapping[str, str] | None = None
    serial: str = "stdio"

    def check(self, shape: VmShape) -> None:
        """Raise ``ShapeError`` unless each device has what it needs and nothing is left over."""
        wanted = {
            "disks": ({d.name for d in shape.devices if isinstance(d, DiskDevice)}, set(self.disks)),
            "networks": ({d.name for d in shape.devices if isinstance(d, NetworkDevice)}, set(self.networks)),
            "shares": ({d.name for d in shape.devices if isinstance(d, ShareDevice)}, set(self.shares)),
            "passthrough": (
                {d.name for d in shape.devices if isinstance(d, PassthroughDevice)},
                set(self.passthrough),
            ),
        }
        for what, (needed, given) in wanted.items():
            if needed != given:
                raise ShapeError(
                    f"the shape {shape.name} has the {what} {sorted(needed)}, given are {sorted(given)}",
                    hint="attach each device of the shape and no other: the device list is measured",
                )
        vsock = any(isinstance(device, VsockDevice) for device in shape.devices)
        if vsock != (self.vsock_cid is not None):
            raise ShapeError(
                f"the shape {shape.name} has {'a' if vsock else 'no'} vsock device",
                hint="a vsock device needs a CID of its own, from 3 on",
            )


def _escaped(path: Path) -> str:
    """A value inside a QEMU option: commas are doubled."""
    return str(path).replace(",", ",,")


def _device_arguments(device: Device, place: str, index: int, attachments: Attachments) -> list[str]:
    match device:
        case VsockDevice():
            return ["-device", f"vhost-vsock-pci,guest-cid={attachments.vsock_cid},{place}"]
        case DiskDevice(name=name):
            path, mode = _escaped(attachments.disks[name]), "on" if device.read_only else "off"
            drive = f"if=none,id={name},format=raw,readonly={mode},file={path}"
            return ["-drive", drive, "-device", f"virtio-blk-pci,drive={name},{place}"]
        case NetworkDevice(name=name):
            rom = "" if device.option_rom is not None else ",romfile="
            card = f"virtio-net-pci,netdev={name},{place}{rom}"
            return ["-netdev", f"{attachments.networks[name]},id={name}", "-device", card]
        case RngDevice():
            return ["-device", f"virtio-rng-pci,{place}"]
        case ShareDevice(name=name):
            folder = _escaped(attachments.shares[name])
            share = f"local,id={name},path={folder},security_model=none,readonly=on"
            return ["-fsdev", share, "-device", f"virtio-9p-pci,fsdev={name},mount_tag={name},{place}"]
        case PassthroughDevice(name=name):
            port = f"port{index}"
            return [
                "-device",
                f"pcie-root-port,id={port},chassis={index},{place}",
                "-device",
                f"vfio-pci,host={attachments.passthrough[name]},bus={port}",
            ]
