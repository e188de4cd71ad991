# SPDX-License-Identifier: MIT
"""What a hostile host can do to a VM, as boots: it runs as measured, or stops and says why, and never serves.

The rows are those of docs/reference/vm-configuration.md that a boot without TDX can show.
"""

from __future__ import annotations

import http.client
import re
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from outlayer_attestation.measure.runtime import MAX_CONFIGURATION
from outlayer_cli.embedded import free_port
from tools.bootproof.boot import DISK_BYTES, booted, shape_of
from tools.bootproof.given import HOST, Given, TimeSource, given_to
from tools.bootproof.machine import POLL_SECONDS, RunningVm
from tools.bootproof.programs import Programs
from tools.bootproof.timeserver import Authority, time_server, unpack_chronyd
from tools.imagebuild.errors import BootError

WAIT_SECONDS: Final = 30
"""How long the VM waits for its time servers, where they are not to answer."""
_EVIL: Final = "EVIL-CREDENTIAL-RAN"
_UNIT: Final = f"[Service]%0aExecStart=/usr/bin/python3 -c print('{_EVIL}')%0aStandardOutput=journal+console"


def _same(given: Given) -> Given:
    return given


@dataclass(frozen=True, slots=True)
class Hostile:
    """One thing that a host does.

    Attributes:
        what: in words.
        stops: what the console says before the VM stops; None where it runs as measured.
        change: what it makes of what the VM is given.
        arguments: it starts QEMU with these, too.
        isolated: it lets nothing out of the VM.
        impostor: the time server that answers is under another authority.
        disk: what is on the data disk, as offset -> bytes.
        fails: what the console says when the service does not start, while the VM goes on to answer for its status.
        absent: words that the console must not show.
        role: whose image it is done to.
    """

    what: str
    stops: str | None
    change: Callable[[Given], Given] = _same
    arguments: tuple[str, ...] = ()
    isolated: bool = False
    impostor: bool = False
    disk: Mapping[int, bytes] = field(default_factory=dict)
    fails: str | None = None
    absent: str = _EVIL
    role: str = "worker"


def _configuration(change: Callable[[bytes], bytes]) -> Callable[[Given], Given]:
    return lambda given: replace(given, configuration=change(given.configuration))


def _secrets(change: Callable[[bytes], bytes]) -> Callable[[Given], Given]:
    return lambda given: replace(given, secrets=change(given.secrets))


_NOT_CONFIRMED: Final = rf"clock was not confirmed within {WAIT_SECONDS} s"
_NO_DISK: Final = "Failed to mount var-lib-outlayer.mount|Dependency failed for var-lib-outlayer.mount"
HOSTILE: Final[dict[str, Hostile]] = {
    "time-dropped": Hostile("drops all traffic of the VM", _NOT_CONFIRMED, isolated=True),
    "time-impostor": Hostile(
        "answers as the time server, under another authority", _NOT_CONFIRMED, impostor=True
    ),
    "clock-years-late": Hostile(
        "starts the VM with a clock of before the image", None, arguments=("-rtc", "base=2019-06-01")
    ),
    "clock-of-the-future": Hostile(
        # of more than 15 years ahead systemd would make the date of the image
        "starts the VM with a clock of after the image's life", "the clock says 2035",
        arguments=("-rtc", "base=2035-06-01"),
    ),
    "clock-an-hour-late": Hostile("starts the VM with a clock that is an hour late", None),
    "configuration-none": Hostile(
        "gives an empty configuration", "configuration is not JSON", _configuration(lambda _: b"")
    ),
    "configuration-large": Hostile(
        "gives a configuration of 300 MB",
        rf"config of the host has 300000000 bytes or more, and may have {MAX_CONFIGURATION}",
        _configuration(lambda _: bytes(300_000_000)),
    ),
    "configuration-key-twice": Hostile(
        "gives a configuration with a key twice", "twice",
        _configuration(lambda data: data.replace(b'"role"', b'"role": "coordinator", "role"')),
    ),
    "configuration-of-another-role": Hostile(
        "gives a worker's image another role", "takes no setting|needs the settings",
        _configuration(lambda data: data.replace(b'"role": "worker"', b'"role": "coordinator"')),
    ),
    "secrets-large": Hostile(
        "gives secrets of 300 MB", "secrets of the host has 300000000 bytes or more",
        _secrets(lambda _: bytes(300_000_000)),
    ),
    "secrets-unknown": Hostile(
        "gives a secret that the role does not have", "has no secret evil",
        _secrets(lambda data: data.replace(b"{", b'{"evil": "x", ', 1)),
    ),
    "credentials": Hostile(
        "hands credentials, units and a command line to systemd by SMBIOS and fw_cfg", None,
        arguments=(
            "-smbios", f"type=11,value=io.systemd.credential:systemd.extra-unit.evil.service={_UNIT}",
            "-smbios", "type=11,value=io.systemd.stub.kernel-cmdline-extra=systemd.wants=evil.service init=/bin/evil",
            "-smbios", "type=11,value=io.systemd.credential:passwd.hashed-password.root=",
            "-fw_cfg", f"name=opt/io.systemd.credentials/sysctl.extra,string=kernel.hostname={_EVIL}",
        ),
    ),
    "disk-foreign": Hostile(
        "gives the coordinator a disk with something else on it", None,
        disk={4086: b"SWAPSPACE2", 1024: struct.pack("<III", 1, 65535, 0)},
        fails=_NO_DISK, role="coordinator",
    ),
    "disk-corrupt": Hostile(
        "gives the coordinator a disk whose file system is damaged", None,
        # of a superblock of ext4: magic, then features (journal, extents)
        disk={1024 + 0x38: b"\x53\xef", 1024 + 0x5C: struct.pack("<II", 0x4, 0x40)},
        fails=_NO_DISK, role="coordinator",
    ),
}  # fmt: skip


@contextmanager
def _time_source(hostile: Hostile, image: bytes, folder: Path) -> Iterator[TimeSource]:
    authority, port = Authority.make(), free_port()
    answering = Authority.make() if hostile.impostor else authority
    refused = hostile.isolated or hostile.impostor
    with time_server(unpack_chronyd(image, folder), folder / "time", answering, port=port, names=[HOST]):
        yield TimeSource(port, authority.pem, *([WAIT_SECONDS] if refused else []))


def _arguments(name: str, hostile: Hostile) -> tuple[str, ...]:
    if name != "clock-an-hour-late":
        return hostile.arguments
    late = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() - 3600))
    return ("-rtc", f"base={late}")


def endure(name: str, image: Path, programs: Programs, folder: Path, seconds: float, *, kvm: bool) -> str:
    """Boot on a host that does this; what happened, in words.

    Args:
        image: of the row's role.
        folder: a folder for files, which is made.

    Raises:
        BootError: the VM served where it had to stop, or the other way round.
    """
    hostile = HOSTILE[name]
    data = image.read_bytes()
    folder.mkdir(parents=True)
    with _time_source(hostile, data, folder) as source, given_to(hostile.role, folder, source) as good:
        given = hostile.change(good)
        _write_disk(folder, hostile.disk)
        with booted(
            shape_of(hostile.role), image, programs, given, folder,
            kvm=kvm, isolated=hostile.isolated, more=_arguments(name, hostile),
        ) as vm:  # fmt: skip
            if hostile.fails is not None:
                said = f"runs as measured, its service does not start: {_wait_until_failed(vm, hostile.fails, seconds)}"
            elif hostile.stops is None:
                vm.wait_until_healthy(seconds)
                _require_time(vm)
                said = "runs as measured"
            else:
                said = f"stops: {_wait_until_stopped(vm, hostile.stops, seconds)}"
            if hostile.absent in vm.said():
                raise BootError(f"{name}: the console shows {hostile.absent}\n{vm.console_end()}")
    return said


def _write_disk(folder: Path, content: Mapping[int, bytes]) -> None:
    if not content:
        return
    with (folder / "data.raw").open("wb") as disk:
        disk.truncate(DISK_BYTES)
        for offset, data in content.items():
            disk.seek(offset)
            disk.write(data)


def _wait_until_failed(vm: RunningVm, pattern: str, seconds: float) -> str:
    """The words of the console that say why the service does not start; the VM answers for its status."""
    deadline = time.monotonic() + seconds
    while (found := re.search(pattern, vm.said())) is None:
        if vm.process.poll() is not None or time.monotonic() > deadline:
            raise BootError(f"the VM did not say {pattern!r}\n{vm.console_end()}")
        time.sleep(POLL_SECONDS)
    while (answer := vm.get("/health")) is None:
        if vm.process.poll() is not None or time.monotonic() > deadline:
            raise BootError(f"the VM does not answer for its status\n{vm.console_end()}")
        time.sleep(POLL_SECONDS)
    if answer.status == http.client.OK:
        raise BootError(f"the VM serves\n{vm.console_end()}")
    return found[0]


def _require_time(vm: RunningVm) -> None:
    clock = vm.require("/status").json()["clock"]
    if not clock["confirmed"] or abs(clock["compared_at"] - time.time()) > 3600 / 2:
        raise BootError(f"the clock of the VM is not that of its time server: {clock}")


def _wait_until_stopped(vm: RunningVm, pattern: str, seconds: float) -> str:
    """The words of the console that say why the VM stopped; it must never have been healthy."""
    deadline = time.monotonic() + seconds
    while vm.process.poll() is None:
        answer = vm.get("/health")
        if answer is not None and answer.status == http.client.OK:
            raise BootError(f"the VM serves\n{vm.console_end()}")
        if time.monotonic() > deadline:
            raise BootError(f"the VM did not stop within {seconds:.0f} s\n{vm.console_end()}")
        time.sleep(POLL_SECONDS)
    found = re.search(pattern, vm.said())
    if found is None:
        raise BootError(f"the VM stopped without saying {pattern!r}\n{vm.console_end(150)}")
    return found[0]
