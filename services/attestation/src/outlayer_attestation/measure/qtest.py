# SPDX-License-Identifier: MIT
"""Asks a stock QEMU for the tables of a shape, over its test protocol, without running a CPU.

No TDX, KVM, root or firmware code is needed. The few registers that OVMF sets before it reads the tables
are set here, because QEMU makes the tables when they are read and from the state of these registers.
Protocol: QEMU ``docs/devel/testing/qtest``; devices: QEMU ``docs/specs/fw_cfg``, Intel ICH9 and MCH manuals.
"""

from __future__ import annotations

import re
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from outlayer_attestation.errors import ShapeError
from outlayer_attestation.measure import acpi
from outlayer_attestation.measure.hosttables import SMBIOS_FILE, HostTables
from outlayer_attestation.measure.shape import BAR_ADDRESS, VmShape

TIMEOUT_SECONDS: Final = 30.0

_FW_CFG_DIRECTORY: Final = 0x19
_DMA_DESCRIPTOR: Final = 0x10_0000
_DMA_BUFFER: Final = 0x20_0000
_MAX_LINE: Final = 64 * 1024 * 1024
_MAX_ENTRIES: Final = 4096
_READ: Final = 2
_SELECT: Final = 8


class QtestClient:
    """One connection to ``-qtest``; each command waits for its answer."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray()

    def command(self, text: str) -> str:
        """Send one command and give what follows ``OK``. Raises ``ShapeError`` on anything else."""
        try:
            self._connection.sendall(f"{text}\n".encode())
            line = self._line()
            while line.startswith("IRQ"):
                line = self._line()
        except OSError as error:
            raise ShapeError(
                f"QEMU does not answer over qtest: {error}", hint="see its own message"
            ) from error
        if line != "OK" and not line.startswith("OK "):
            raise ShapeError(
                f"QEMU answered {text.split()[0]} with {line[:80]!r}", hint="is it QEMU 8 to 11?"
            )
        return line[3:]

    def _line(self) -> str:
        while (end := self._buffer.find(b"\n")) < 0:
            received = self._connection.recv(1 << 20)
            if not received or len(self._buffer) > _MAX_LINE:
                raise ConnectionError("the connection ended")
            self._buffer += received
        line = self._buffer[:end].decode("latin-1").rstrip("\r")
        del self._buffer[: end + 1]
        return line

    def write(self, address: int, data: bytes) -> None:
        """Write guest memory."""
        self.command(f"write {address:#x} {len(data):#x} 0x{data.hex()}")

    def read(self, address: int, size: int) -> bytes:
        """Read guest memory."""
        answer = self.command(f"read {address:#x} {size:#x}")
        data = bytes.fromhex(answer.removeprefix("0x")) if re.fullmatch(r"0x[0-9a-f]*", answer) else b""
        if len(data) != size:
            raise ShapeError(f"QEMU gave {len(data)} bytes of {size}", hint="is it QEMU 8 to 11?")
        return data

    def pci_write(self, slot: int, register: int, value: int, *, byte: bool = False) -> None:
        """Write a configuration register of function 0 of a device on the root bus."""
        self.command(f"outl 0xcf8 {0x80000000 | slot << 11 | register & ~3:#x}")
        self.command(f"{'outb' if byte else 'outl'} {0xCFC + (register & 3):#x} {value:#x}")

    def fw_cfg(self, selector: int, size: int) -> bytes:
        """Read a fw_cfg item by DMA."""
        control = selector << 16 | _SELECT | _READ
        descriptor = control.to_bytes(4, "big") + size.to_bytes(4, "big") + _DMA_BUFFER.to_bytes(8, "big")
        self.write(_DMA_DESCRIPTOR, descriptor)
        self.command("outl 0x514 0x0")
        address = int.from_bytes(_DMA_DESCRIPTOR.to_bytes(4, "little"), "big")
        self.command(f"outl 0x518 {address:#x}")
        if any(self.read(_DMA_DESCRIPTOR, 4)):
            raise ShapeError("QEMU's fw_cfg DMA failed", hint="is it QEMU 8 to 11, machine q35?")
        return self.read(_DMA_BUFFER, size)

    def fw_cfg_directory(self) -> dict[str, tuple[int, int]]:
        """File name -> (selector, size)."""
        count = int.from_bytes(self.fw_cfg(_FW_CFG_DIRECTORY, 4), "big")
        if count > _MAX_ENTRIES:
            raise ShapeError(f"QEMU's fw_cfg has {count} files", hint="is it QEMU 8 to 11?")
        listing = self.fw_cfg(_FW_CFG_DIRECTORY, 4 + 64 * count)[4:]
        found = {}
        for entry in (listing[offset : offset + 64] for offset in range(0, len(listing), 64)):
            name = entry[8:].rstrip(b"\0").decode("latin-1")
            found[name] = (int.from_bytes(entry[4:6], "big"), int.from_bytes(entry[:4], "big"))
        return found


def set_firmware_registers(client: QtestClient, bar_slot: int | None) -> None:
    """What OVMF has done when it reads the tables: PCIEXBAR, PMBASE with ACPI on, one 64-bit BAR."""
    client.pci_write(0, 0x64, 0)
    client.pci_write(0, 0x60, 0xE000_0001)
    client.pci_write(0x1F, 0x40, 0x600)
    client.pci_write(0x1F, 0x44, 0x80, byte=True)
    if bar_slot is not None:
        client.pci_write(bar_slot, 0x20, BAR_ADDRESS & 0xFFFFFFFF)
        client.pci_write(bar_slot, 0x24, BAR_ADDRESS >> 32)
        client.pci_write(bar_slot, 0x04, 2)


def read_tables(client: QtestClient, bar_slot: int | None) -> dict[str, bytes]:
    """fw_cfg name -> bytes of the table loader, the files that it allocates, and the SMBIOS table."""
    set_firmware_registers(client, bar_slot)
    directory = client.fw_cfg_directory()

    def item(name: str) -> bytes:
        selector, size = directory.get(name, (0, 0))
        if not 0 < size <= acpi.MAX_BLOB_SIZE:
            raise ShapeError(f"QEMU's fw_cfg has no {name}", hint="is it a q35 machine with ACPI?")
        return client.fw_cfg(selector, size)

    loader = item(acpi.LOADER_FILE)
    files = {acpi.LOADER_FILE: loader}
    for name in (*acpi.allocated_files(loader), SMBIOS_FILE):
        files[name] = item(name)
    return files


def qemu_version(program: Path) -> str:
    """The version that a QEMU says it has. Raises ``ShapeError``."""
    text = _run([str(program), "--version"])
    found = re.search(r"version ([0-9]+\.[0-9]+\.[0-9]+)", text)
    if found is None:
        raise ShapeError(f"{program} does not say its version", hint="name qemu-system-x86_64")
    return found[1]


def _run(command: list[str]) -> str:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise ShapeError(
            f"{command[0]} cannot be run: {error}", hint="Debian: apt install qemu-system-x86"
        ) from error


def dump_host_tables(program: Path, shape: VmShape) -> HostTables:
    """The tables that this QEMU gives to a VM of this shape.

    Raises:
        ShapeError: the QEMU cannot be run, is of another version than the shape's, or refuses the shape.
    """
    version = qemu_version(program)
    if version != shape.qemu:
        raise ShapeError(
            f"{program} is QEMU {version}, the shape {shape.name} runs on {shape.qemu}",
            hint="the version decides the tables: use that QEMU, or change the shape and its measurements",
        )
    arguments = shape.dump_arguments()
    return HostTables.make(version, arguments, dump_files(program, arguments, shape.bar_slot()))


def dump_files(program: Path, arguments: list[str], bar_slot: int | None) -> dict[str, bytes]:
    """The same for any arguments: fw_cfg name -> bytes. Raises ``ShapeError``."""
    with tempfile.TemporaryDirectory(prefix="outlayer-qtest-") as folder:
        path = Path(folder) / "socket"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(path))
            listener.listen(1)
            return _dialogue(listener, program, arguments, path, bar_slot)


def _dialogue(
    listener: socket.socket, program: Path, arguments: list[str], path: Path, bar_slot: int | None
) -> dict[str, bytes]:
    test = ["-accel", "tcg", "-S", "-qtest", f"unix:{path}", "-qtest-log", "/dev/null"]
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(
            [str(program), *arguments, *test],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=messages,
        )
        try:
            listener.settimeout(0.1)
            connection = _accept(listener, process)
            if connection is None:
                messages.seek(0)
                said = messages.read(2000).decode(errors="replace").strip()
                raise ShapeError(
                    f"QEMU does not start: {said}", hint="does this QEMU know the shape's devices?"
                )
            with connection:
                connection.settimeout(TIMEOUT_SECONDS)
                return read_tables(QtestClient(connection), bar_slot)
        finally:
            process.kill()
            process.wait()


def _accept(listener: socket.socket, process: subprocess.Popen[bytes]) -> socket.socket | None:
    for _ in range(int(TIMEOUT_SECONDS * 10)):
        try:
            return listener.accept()[0]
        except TimeoutError:
            if process.poll() is not None:
                return None
    return None
