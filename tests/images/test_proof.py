# SPDX-License-Identifier: MIT
"""The boot proof itself: a wrong event, register or agent is found; a VM that stops is shown with its console."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from outlayer_attestation.measure import testing
from outlayer_attestation.measure.event_types import SEPARATOR
from outlayer_attestation.measure.predict import Prediction, predict
from outlayer_attestation.measure.registers import Event, extend
from outlayer_attestation.measure.runtime import role_events, runtime_events
from outlayer_attestation.measure.shape import TPM_ARGUMENTS, Attachments, VmShape
from outlayer_attestation.vm.configuration import VmConfiguration, parse_secrets
from outlayer_attestation.vm.roles import ROLES
from tests.images.conftest import ROOT
from tools.bootproof.given import TimeSource, given_to
from tools.bootproof.machine import Answer, RunningVm, software_tpm, started
from tools.bootproof.programs import Programs, programs_of
from tools.bootproof.proof import check
from tools.bootproof.timeserver import Authority
from tools.imagebuild.errors import BootError, ImageBuildError

CONFIG = b"{}"


class FakeVm(RunningVm):
    """A VM that answers from memory."""

    pages: dict[str, bytes]

    def get(self, page: str) -> Answer | None:
        body = self.pages.get(page)
        return None if body is None else Answer(200, body)


def predicted() -> Prediction:
    shape = testing.shape()
    from outlayer_attestation.measure.image import firmware_digests, uki_digests

    return predict(
        firmware_digests(testing.firmware(), shape.firmware),
        uki_digests(testing.uki()),
        shape,
        testing.host_tables(shape).acpi_tables(shape),
        runtime_events(role_events("worker", CONFIG), 2),
    )


def pcr_of(event: Event) -> int:
    """RTMR0 is PCR 1 and 7 (a TPM has a separator in each, a TD one in all), RTMR1 PCR 4, RTMR2 PCR 11."""
    return {0: 7 if event.type == SEPARATOR else 1, 1: 4, 2: 11}[event.rtmr]


def tpm_log(events: list[Event]) -> bytes:
    """A TPM's log of these events, in SHA-384 alone."""
    spec = b"Spec ID Event03\0" + struct.pack("<IBBBBIHHB", 0, 0, 2, 0, 2, 1, 0xC, 48, 0)
    log = struct.pack("<II20sI", 0, 3, bytes(20), len(spec)) + spec
    for event in events:
        log += struct.pack("<IIIH", pcr_of(event), event.type, 1, 0xC) + event.digest + struct.pack("<I", 0)
    return log


def vm_of(prediction: Prediction, *, log: bytes | None = None, **other: Any) -> FakeVm:
    events = recorded(prediction)
    pcrs = {number: extend([e.digest for e in events if pcr_of(e) == number]) for number in range(24)}
    status = {"rtmr3": prediction.measurements.rtmr3, "events": [{}, {}, {}], **other}
    vm = FakeVm.__new__(FakeVm)
    object.__setattr__(
        vm,
        "pages",
        {
            "/event-log": tpm_log(events) if log is None else log,
            "/pcrs": json.dumps({str(number): value.hex() for number, value in pcrs.items()}).encode(),
            "/status": json.dumps(status).encode(),
        },
    )
    object.__setattr__(vm, "console", Path("/nowhere"))
    return vm


def recorded(prediction: Prediction) -> list[Event]:
    return [event for event in prediction.events if event.rtmr < 3 and not event.td_only]


def test_another_event_is_named_with_its_cause() -> None:
    from dataclasses import replace

    prediction = predicted()
    events = recorded(prediction)
    place = next(index for index, event in enumerate(events) if event.name == "section .cmdline")
    events[place] = replace(events[place], digest=bytes(48))
    with pytest.raises(BootError, match=r"another \.cmdline in the unified kernel image"):
        check(vm_of(prediction, log=tpm_log(events)), prediction, 1.0)


def test_a_boot_as_predicted_is_counted_event_by_event() -> None:
    prediction = predicted()
    proof = check(vm_of(prediction), prediction, 1.5)
    assert proof.events == {
        "rtmr0": sum(event.rtmr == 0 for event in recorded(prediction)),
        "rtmr1": sum(event.rtmr == 1 for event in recorded(prediction)),
        "rtmr2": sum(event.rtmr == 2 for event in recorded(prediction)),
        "rtmr3": 3,
    }
    # all but that of IMA, whether the log has an entry or not
    assert (proof.registers, proof.seconds) == (15, 1.5)


def test_an_agent_that_says_another_rtmr3_is_found() -> None:
    prediction = predicted()
    with pytest.raises(BootError, match="the agent says RTMR3 0000"):
        check(vm_of(prediction, rtmr3="0" * 96), prediction, 1.0)


def test_a_register_that_is_not_the_replay_of_the_log_is_found() -> None:
    prediction = predicted()
    vm = vm_of(prediction)
    pcrs = json.loads(vm.pages["/pcrs"])
    vm.pages["/pcrs"] = json.dumps({**pcrs, "11": "0" * 96}).encode()
    with pytest.raises(BootError, match=r"does not give the values of the PCRs \[11\]"):
        check(vm, prediction, 1.0)


@pytest.mark.parametrize("number", [0, 8, 12, 15])
def test_a_register_that_something_extended_without_an_entry_is_found(number: int) -> None:
    prediction = predicted()
    vm = vm_of(prediction)
    pcrs = json.loads(vm.pages["/pcrs"])
    vm.pages["/pcrs"] = json.dumps({**pcrs, str(number): "1" * 96}).encode()
    with pytest.raises(BootError, match=rf"of the PCRs \[{number}\]"):
        check(vm, prediction, 1.0)


def test_a_page_that_is_missing_is_an_error_with_the_console(tmp_path: Path) -> None:
    vm = FakeVm.__new__(FakeVm)
    object.__setattr__(vm, "pages", {})
    object.__setattr__(vm, "console", tmp_path / "console")
    (tmp_path / "console").write_text("kernel panic\n")
    with pytest.raises(BootError, match="kernel panic"):
        vm.require("/status")


def test_a_vm_that_stops_is_shown_with_its_console(tmp_path: Path) -> None:
    program = f"open({str(tmp_path / 'console')!r}, 'w').write('outlayer: the clock says\\n')"
    with started([sys.executable, "-c", program], 1, tmp_path / "console") as vm:
        vm.process.wait()
        with pytest.raises(BootError, match="the clock says"):
            vm.wait_until_healthy(5)


def test_what_qemu_itself_said_is_shown_when_it_does_not_start(tmp_path: Path) -> None:
    program = "import sys; sys.exit('qemu: no such device')"
    with started([sys.executable, "-c", program], 1, tmp_path / "console") as vm:
        vm.process.wait()
        with pytest.raises(BootError, match=r"stopped \(exit 1\)(.|\n)*qemu: no such device"):
            vm.wait_until_healthy(5)


def test_what_a_software_tpm_said_is_shown_when_it_does_not_start(tmp_path: Path) -> None:
    broken = tmp_path / "swtpm"
    broken.write_text("#!/bin/sh\necho no state >&2\nexit 1\n")
    broken.chmod(0o755)
    tpm = software_tpm(Programs(broken, broken, broken), tmp_path / "vm")
    with pytest.raises(BootError, match="swtpm does not start: no state"):
        tpm.__enter__()


@pytest.mark.parametrize("role", sorted(ROLES))
def test_what_a_vm_is_given_is_what_the_agent_accepts(role: str, tmp_path: Path) -> None:
    source = TimeSource(4460, Authority.make().pem)
    with given_to(role, tmp_path, source) as given:
        configuration = VmConfiguration.from_bytes(given.configuration)
        assert configuration.of(role).name == role
        parse_secrets(given.secrets, ROLES[role])


def shape() -> VmShape:
    return VmShape.from_bytes((ROOT / "images/shapes/coordinator-small.json").read_bytes())


def attachments() -> Attachments:
    return Attachments(
        firmware=Path("F"), kernel=Path("K"), configuration=Path("c"), secrets=Path("s,x"),
        disks={"data": Path("d")}, networks={"net": "user"},
    )  # fmt: skip


def test_the_emulated_vm_has_the_devices_of_the_trust_domain_and_a_tpm() -> None:
    real = shape().command(attachments())
    emulated = shape().emulated_command(attachments(), Path("t"), kvm=False)
    common = real[real.index("-m") :]
    assert emulated[emulated.index("-m") :] == common
    assert "confidential-guest-support" not in " ".join(emulated)
    assert all(word in emulated for word in TPM_ARGUMENTS)
    assert "name=opt/outlayer/secrets,file=s,,x" in emulated


def test_programs_of_the_root_run_with_its_own_loader_libraries_and_data(tmp_path: Path) -> None:
    root = tmp_path / "a root"
    loader = root / "lib64/ld-linux-x86-64.so.2"
    loader.parent.mkdir(parents=True)
    loader.write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n')
    loader.chmod(0o755)
    programs = programs_of(root, tmp_path)
    done = subprocess.run([programs.qemu, "-m", "1 G"], capture_output=True, text=True, check=True)
    words = done.stdout.splitlines()
    assert words[0] == "--library-path"
    assert all(path.startswith(f"{root}/usr/lib") for path in words[1].split(":"))
    assert words[2] == f"{root}/usr/bin/qemu-system-x86_64"
    assert f"{root}/usr/share/seabios" in words
    assert words[-2:] == ["-m", "1 G"]


def test_the_notice_of_an_image_that_is_not_pinned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tools.imagebuild.manifest import MANIFEST, UNPINNED
    from tools.imagepins.__main__ import run as run_pins
    from tools.imagepins.collect import Built

    folder = tmp_path / "worker"
    folder.mkdir()
    (folder / MANIFEST).write_text(f"{UNPINNED}\nx\n")
    built = Built(tmp_path, tmp_path, tmp_path)
    assert run_pins("check", "worker", built)
    assert "Its pinned values were NOT checked" in capsys.readouterr().err
    with pytest.raises(ImageBuildError, match="nothing to pin"):
        run_pins("write", "worker", built)
