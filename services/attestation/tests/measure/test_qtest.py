# SPDX-License-Identifier: MIT
"""The dialogue with QEMU's test protocol: against a stand-in that keeps its memory, and a real QEMU if there."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from outlayer_attestation.errors import ShapeError
from outlayer_attestation.measure import acpi, qtest, testing
from outlayer_attestation.measure.hosttables import SMBIOS_FILE
from outlayer_attestation.measure.shape import BAR_ADDRESS, Attachments


class FakeQemu:
    """Memory, PCI configuration registers and fw_cfg behind the text protocol."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.memory: dict[int, int] = {}
        self.pci: dict[int, int] = {}
        self.address = 0
        names = sorted(files)
        self.items = {0x20 + index: files[name] for index, name in enumerate(names)}
        directory = len(names).to_bytes(4, "big")
        for selector, name in zip(self.items, names, strict=True):
            entry = len(files[name]).to_bytes(4, "big") + selector.to_bytes(2, "big") + bytes(2)
            directory += entry + name.encode().ljust(56, b"\0")
        self.items[0x19] = directory

    def answer(self, line: str) -> str:
        word, *rest = line.split()
        if word == "write":
            for offset, byte in enumerate(bytes.fromhex(rest[2][2:])):
                self.memory[int(rest[0], 16) + offset] = byte
            return "OK"
        if word == "read":
            return "OK 0x" + self.load(int(rest[0], 16), int(rest[1], 16)).hex()
        port, value = (int(part, 16) for part in rest)
        if port == 0xCF8:
            self.address = value
        elif 0xCFC <= port <= 0xCFF:
            self.pci[(self.address & 0xFFFFFF) + port - 0xCFC] = value
        elif port == 0x518:
            self.dma(int.from_bytes(value.to_bytes(4, "little"), "big"))
        return "OK"

    def load(self, address: int, size: int) -> bytes:
        return bytes(self.memory.get(address + offset, 0) for offset in range(size))

    def dma(self, descriptor: int) -> None:
        control, size = (int.from_bytes(self.load(descriptor + at, 4), "big") for at in (0, 4))
        target = int.from_bytes(self.load(descriptor + 8, 8), "big")
        data = self.items.get(control >> 16, b"").ljust(size, b"\0")[:size]
        for offset, byte in enumerate(data):
            self.memory[target + offset] = byte
        for offset in range(4):
            self.memory[descriptor + offset] = 0


@contextmanager
def serving(fake: FakeQemu | str) -> Iterator[qtest.QtestClient]:
    """A client of the stand-in; text instead of one is its answer to everything."""
    ours, theirs = socket.socketpair()

    def run() -> None:
        with theirs, theirs.makefile("r", encoding="latin-1") as lines:
            for line in lines:
                reply = fake if isinstance(fake, str) else "IRQ raise 1\n" + fake.answer(line)
                theirs.sendall(f"{reply}\n".encode())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        ours.settimeout(5)
        yield qtest.QtestClient(ours)
    finally:
        ours.close()
        thread.join()


def files() -> dict[str, bytes]:
    tables = testing.acpi_tables()
    small = dict(tables.files) | {acpi.TABLES_FILE: tables.tables[:2048]}
    return {acpi.LOADER_FILE: tables.loader, **small, SMBIOS_FILE: testing.smbios_table(), "other": b"x"}


def test_the_files_that_the_loader_allocates_are_read() -> None:
    given = files()
    with serving(FakeQemu(given)) as client:
        found = qtest.read_tables(client, 1)
    assert found == {name: data for name, data in given.items() if name != "other"}


def test_the_registers_are_set_as_the_firmware_does() -> None:
    fake = FakeQemu(files())
    with serving(fake) as client:
        qtest.set_firmware_registers(client, 3)
    assert fake.pci == {
        0x64: 0,
        0x60: 0xE0000001,
        0x1F << 11 | 0x40: 0x600,
        0x1F << 11 | 0x44: 0x80,
        3 << 11 | 0x20: BAR_ADDRESS & 0xFFFFFFFF,
        3 << 11 | 0x24: BAR_ADDRESS >> 32,
        3 << 11 | 0x04: 2,
    }


@pytest.mark.parametrize("reply", ["ERR", "OK 0x00", "OK nonsense", "FAIL Unknown command"])
def test_another_answer_is_an_error_with_a_hint(reply: str) -> None:
    with serving(reply) as client, pytest.raises(ShapeError) as raised:
        qtest.read_tables(client, None)
    assert raised.value.hint


def test_a_missing_table_is_an_error() -> None:
    given = files()
    del given[acpi.RSDP_FILE]
    with serving(FakeQemu(given)) as client, pytest.raises(ShapeError, match="rsdp"):
        qtest.read_tables(client, None)


def program(folder: Path, text: str) -> Path:
    path = folder / "qemu"
    path.write_text(f"#!{sys.executable}\n{textwrap.dedent(text)}")
    path.chmod(0o755)
    return path


def test_a_qemu_of_another_version_is_refused(tmp_path: Path) -> None:
    qemu = program(tmp_path, "print('QEMU emulator version 9.9.9 (Other)')")
    with pytest.raises(ShapeError, match=r"9\.9\.9") as raised:
        qtest.dump_host_tables(qemu, testing.shape())
    assert "version" in raised.value.hint


def test_what_qemu_says_when_it_refuses_is_shown(tmp_path: Path) -> None:
    qemu = program(
        tmp_path,
        """
        import sys
        if "--version" in sys.argv:
            print("QEMU emulator version 11.1.3")
        else:
            sys.exit("qemu: unknown device")
        """,
    )
    with pytest.raises(ShapeError, match="unknown device"):
        qtest.dump_host_tables(qemu, testing.shape())


def test_a_program_that_is_not_there_is_an_error_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ShapeError) as raised:
        qtest.dump_host_tables(tmp_path / "none", testing.shape())
    assert raised.value.hint


# --- a real QEMU, where there is one -------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_qemu() -> tuple[Path, str]:
    """A QEMU of the versions that run TDs: ``$OUTLAYER_QEMU``, or the one on PATH."""
    found = os.environ.get("OUTLAYER_QEMU") or shutil.which("qemu-system-x86_64")
    if found is None:
        pytest.skip("qemu-system-x86_64 is not installed")
    version = qtest.qemu_version(Path(found))
    if not 8 <= int(version.split(".")[0]) < 12:
        pytest.skip(f"QEMU {version} is not one of 8 to 11")
    return Path(found), version


def acpi_only(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name != SMBIOS_FILE}


def test_a_real_qemu_gives_tables_that_the_loader_follows_from(real_qemu: tuple[Path, str]) -> None:
    program_path, version = real_qemu
    devices = ({"kind": "vsock"}, {"kind": "disk", "name": "d"}, {"kind": "passthrough", "name": "gpu"})
    shape = testing.shape(qemu=version, devices=devices)
    tables = qtest.dump_host_tables(program_path, shape).acpi_tables(shape)
    assert acpi.rebuild(tables.tables) == tables
    other = testing.shape(qemu=version, devices=devices, vcpus=3)
    assert qtest.dump_host_tables(program_path, other).acpi_tables(other).loader != tables.loader


def test_the_devices_that_the_vm_gets_have_the_tables_of_those_that_stand_for_them(
    real_qemu: tuple[Path, str], tmp_path: Path
) -> None:
    """The command of the VM itself, without what needs TDX and KVM, gives the same tables as the dump."""
    program_path, version = real_qemu
    devices = (
        {"kind": "disk", "name": "data"},
        {"kind": "network", "name": "net"},
        {"kind": "rng"},
        {"kind": "share", "name": "host"},
    )
    shape = testing.shape(qemu=version, devices=devices, pci_hole64_size=2**42, bridge_hotplug=False)
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1024 * 1024))
    attachments = Attachments(
        firmware=Path("unused"),
        kernel=Path("unused"),
        disks={"data": disk},
        networks={"net": "user"},
        shares={"host": tmp_path},
        serial="null",
    )
    command = shape.command(attachments)[1:]
    kept: list[str] = []
    for option, value in zip(command[::2], command[1::2], strict=False):
        if option in ("-accel", "-bios", "-kernel") or "tdx-guest" in value:
            continue
        kept += [option, "qemu64,phys-bits=46" if option == "-cpu" else value]
    text = " ".join(kept).replace(",kernel-irqchip=split,confidential-guest-support=tdx", "")
    theirs = qtest.dump_files(program_path, text.split(" "), shape.bar_slot())
    ours = qtest.dump_files(program_path, shape.dump_arguments(), shape.bar_slot())
    assert acpi_only(theirs) == acpi_only(ours)


FIVE = ({"kind": "rng"},) * 5


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("virtee-canonical-defaults", {"vcpus": 4, "devices": ()}),
        (
            "virtee-q35-with-hpet",
            {
                "vcpus": 8,
                "memory_mib": 4096,
                "hpet": True,
                "serial": False,
                "pci_hole64_size": 2**42,
                "devices": FIVE[:3],
            },
        ),
        ("dstack-tdx-lite", {"pic": True, "devices": FIVE}),
        ("dstack-v0.5.5-1c2g", {"vcpus": 1, "pic": True, "devices": FIVE}),
        (
            "dstack-quote-report-gpu",
            {
                "vcpus": 16,
                "memory_mib": 65536,
                "bridge_hotplug": False,
                "pci_hole64_size": 2**44,
                "devices": (*FIVE, {"kind": "passthrough", "name": "gpu"}),
            },
        ),
    ],
)
def test_a_shape_gives_the_tables_of_arguments_that_were_checked_against_quotes(
    real_qemu: tuple[Path, str], name: str, fields: dict[str, Any]
) -> None:
    vectors = Path(__file__).resolve().parents[5] / "shared" / "vectors" / "tdx" / "acpi-qtest"
    if not vectors.is_dir():
        pytest.skip("the shared vectors are not beside the repository (../shared/vectors)")
    program_path, version = real_qemu
    [vector] = [v for v in json.loads((vectors / "rtmr0.json").read_bytes()) if v["name"] == name]
    arguments = list(vector["qemu_args"])
    firmware = arguments.index("-bios")
    del arguments[firmware : firmware + 2]
    bar = 1 if vector["emulated_bar"] else None
    theirs = qtest.dump_files(program_path, [*arguments, "-display", "none"], bar)
    shape = testing.shape(qemu=version, **fields)
    ours = qtest.dump_files(program_path, shape.dump_arguments(), shape.bar_slot())
    assert acpi_only(ours) == acpi_only(theirs)
