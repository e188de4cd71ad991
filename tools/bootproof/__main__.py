# SPDX-License-Identifier: MIT
"""`python -m tools.bootproof ROLE…`: boot images without TDX and compare what they measure with the prediction.

QEMU emulates the CPU (or uses KVM where a self-test shows that it works), a software TPM with SHA-384 stands for the
runtime registers, and a firmware without TDX for the TDX one. What only TDX hardware can show is not shown here.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from outlayer_attestation.errors import AttestationError
from outlayer_attestation.measure.shape import Attachments, DiskDevice, NetworkDevice, VmShape
from outlayer_attestation.vm.roles import STATUS_PORT
from outlayer_cli.embedded import free_port
from outlayer_cli.errors import CliError
from tools.bootproof.given import Given, given_to
from tools.bootproof.machine import kvm_works, software_tpm, started
from tools.bootproof.programs import Programs, programs_of
from tools.bootproof.proof import Proof, check, emulated_tables, predict_emulated
from tools.debroot.__main__ import add_source_options, prepare
from tools.debroot.errors import DebrootError
from tools.debroot.fetch import Sources
from tools.imagebuild.errors import BootError
from tools.imagebuild.locks import TOOLS

REPOSITORY = Path(__file__).resolve().parents[2]
DISK_BYTES = 256 * 1024 * 1024


def shape_of(role: str) -> VmShape:
    """The role's small shape."""
    return VmShape.from_bytes((REPOSITORY / f"images/shapes/{role}-small.json").read_bytes())


def prove(role: str, image: Path, programs: Programs, folder: Path, seconds: float, *, kvm: bool) -> Proof:
    """Boot, wait until healthy, compare.

    Raises:
        BootError: it is not healthy, or measured something else.
    """
    shape = shape_of(role)
    firmware = programs.generic_firmware
    with given_to(role, folder) as given, software_tpm(programs, folder / "dump") as asked:
        tables = emulated_tables(programs.qemu, shape, asked)
        predicted = predict_emulated(
            shape, firmware.read_bytes(), image.read_bytes(), tables, role, given.configuration
        )
        with software_tpm(programs, folder / "vm") as tpm:
            port = free_port()
            attachments = attach(shape, image, firmware, given, folder, port)
            words = shape.emulated_command(attachments, tpm, kvm=kvm, program=str(programs.qemu))
            with started([*words, "-no-reboot"], port, folder / "console") as vm:
                healthy = vm.wait_until_healthy(seconds)
                return check(vm, predicted, healthy)


def attach(shape: VmShape, image: Path, firmware: Path, given: Given, folder: Path, port: int) -> Attachments:
    """Files and ports of this machine for the shape's devices."""
    (folder / "config.json").write_bytes(given.configuration)
    (folder / "secrets.json").write_bytes(given.secrets)
    disks = {
        device.name: folder / f"{device.name}.raw"
        for device in shape.devices
        if isinstance(device, DiskDevice)
    }
    for path in disks.values():
        with path.open("wb") as disk:
            disk.truncate(DISK_BYTES)
    isolated = "on" if given.isolated else "off"
    network = f"user,restrict={isolated},hostfwd=tcp:127.0.0.1:{port}-:{STATUS_PORT}"
    return Attachments(
        firmware=firmware,
        kernel=image,
        configuration=folder / "config.json",
        secrets=folder / "secrets.json",
        disks=disks,
        networks={device.name: network for device in shape.devices if isinstance(device, NetworkDevice)},
        serial=f"file:{folder / 'console'}",
    )


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.bootproof", description=__doc__)
    parser.add_argument("roles", nargs="+")
    parser.add_argument(
        "--images", type=Path, default=REPOSITORY / ".build/images", help="folder of built images"
    )
    parser.add_argument("--seconds", type=float, default=300, help="how long to wait for the health check")
    parser.add_argument("--kvm", choices=["auto", "off"], default="auto")
    add_source_options(parser)
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    options = _arguments(words)
    try:
        sources = Sources.of_this_machine(options.bundle, offline=options.offline)
        tools = prepare(REPOSITORY / TOOLS, sources, allow_current=options.allow_current)
        for role in options.roles:
            image = options.images / role / f"{role}.efi"
            if not image.is_file():
                raise BootError(f"{image} is missing", hint=f"python3 -m tools.imagebuild build {role}")
            with tempfile.TemporaryDirectory(prefix="outlayer-boot-") as name:
                folder = Path(name)
                programs = programs_of(tools.root, folder)
                kvm = options.kvm == "auto" and kvm_works(programs, folder)
                began = time.monotonic()
                proof = prove(role, image, programs, folder, options.seconds, kvm=kvm)
                report(role, proof, time.monotonic() - began, kvm=kvm)
    except (AttestationError, DebrootError, CliError) as error:
        sys.stderr.write(f"error: {error}\n" + (f"  hint: {error.hint}\n" if error.hint else ""))
        return 1
    return 0


def report(role: str, proof: Proof, seconds: float, *, kvm: bool) -> None:
    """Say what was shown, and what was not."""
    events = ", ".join(f"{name} {count}" for name, count in proof.events.items())
    how = "KVM" if kvm else "emulated CPU"
    sys.stdout.write(
        f"{role}: healthy after {proof.seconds:.0f} s ({how}), {seconds:.0f} s in all\n"
        f"  events equal to the prediction: {events}\n"
        f"  PCRs equal to the replay of the log: {proof.registers}\n"
        f"  RTMR3 by the agent's word: {proof.rtmr3}\n"
        "  NOT SHOWN HERE, only TDX hardware can: MRTD, the TD HOB and configuration volume in RTMR0, and that the\n"
        "  firmware, stub and kernel extend RTMRs where they extended a TPM's registers\n"
    )


if __name__ == "__main__":
    sys.exit(main())
