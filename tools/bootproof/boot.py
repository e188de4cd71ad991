# SPDX-License-Identifier: MIT
"""Boot an image with an emulated CPU, a software TPM and a time server of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from outlayer_attestation.measure.shape import Attachments, DiskDevice, NetworkDevice, VmShape
from outlayer_attestation.vm.roles import STATUS_PORT
from outlayer_cli.embedded import free_port
from tools.bootproof.given import HOST, Given, TimeSource, given_to
from tools.bootproof.machine import RunningVm, software_tpm, started
from tools.bootproof.programs import Programs
from tools.bootproof.proof import Proof, check, emulated_tables, predict_emulated
from tools.bootproof.timeserver import Authority, time_server, unpack_chronyd

REPOSITORY: Final = Path(__file__).resolve().parents[2]
DISK_BYTES: Final = 256 * 1024 * 1024


def shape_of(role: str) -> VmShape:
    """The role's small shape."""
    return VmShape.from_bytes((REPOSITORY / f"images/shapes/{role}-small.json").read_bytes())


def prove(role: str, image: Path, programs: Programs, folder: Path, seconds: float, *, kvm: bool) -> Proof:
    """Boot, wait until healthy, compare.

    Raises:
        BootError: it is not healthy, or measured something else.
    """
    shape = shape_of(role)
    data, firmware = image.read_bytes(), programs.generic_firmware
    with told_the_time(data, folder) as source, given_to(role, folder, source) as given:
        with software_tpm(programs, folder / "dump") as asked:
            tables = emulated_tables(programs.qemu, shape, asked)
        predicted = predict_emulated(shape, firmware.read_bytes(), data, tables, role, given.configuration)
        with booted(shape, image, programs, given, folder, kvm=kvm) as vm:
            return check(vm, predicted, vm.wait_until_healthy(seconds))


@contextmanager
def told_the_time(image: bytes, folder: Path) -> Iterator[TimeSource]:
    """A time server under an authority of its own, for the length of the block."""
    authority, port = Authority.make(), free_port()
    chronyd = unpack_chronyd(image, folder)
    with time_server(chronyd, folder / "time", authority, port=port, names=[HOST]):
        yield TimeSource(port, authority.pem)


@contextmanager
def booted(
    shape: VmShape,
    image: Path,
    programs: Programs,
    given: Given,
    folder: Path,
    *,
    kvm: bool,
    isolated: bool = False,
    more: Sequence[str] = (),
) -> Iterator[RunningVm]:
    """The VM, for the length of the block.

    Args:
        isolated: the host lets nothing out of the VM.
        more: arguments of QEMU besides the shape's.
    """
    with software_tpm(programs, folder / "vm") as tpm:
        port = free_port()
        attachments = attach(shape, image, programs.generic_firmware, given, folder, port, isolated=isolated)
        words = shape.emulated_command(attachments, tpm, kvm=kvm, program=str(programs.qemu))
        with started([*words, "-no-reboot", *more], port, folder / "console") as vm:
            yield vm


def attach(
    shape: VmShape, image: Path, firmware: Path, given: Given, folder: Path, port: int, *, isolated: bool
) -> Attachments:
    """Files and ports of this machine for the shape's devices."""
    (folder / "config.json").write_bytes(given.configuration)
    (folder / "secrets.json").write_bytes(given.secrets)
    disks = {
        device.name: folder / f"{device.name}.raw"
        for device in shape.devices
        if isinstance(device, DiskDevice)
    }
    for path in disks.values():
        if not path.exists():
            with path.open("wb") as disk:
                disk.truncate(DISK_BYTES)
    restrict = "on" if isolated else "off"
    network = f"user,restrict={restrict},hostfwd=tcp:127.0.0.1:{port}-:{STATUS_PORT}"
    return Attachments(
        firmware=firmware,
        kernel=image,
        configuration=folder / "config.json",
        secrets=folder / "secrets.json",
        disks=disks,
        networks={device.name: network for device in shape.devices if isinstance(device, NetworkDevice)},
        serial=f"file:{folder / 'console'}",
    )
