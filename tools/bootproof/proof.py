# SPDX-License-Identifier: MIT
"""Compare what a boot recorded with what was predicted from files, event by event."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from outlayer_attestation.measure import eventlog, explain
from outlayer_attestation.measure.acpi import AcpiTables
from outlayer_attestation.measure.explain import Difference
from outlayer_attestation.measure.image import firmware_digests, uki_digests
from outlayer_attestation.measure.predict import Prediction, predict
from outlayer_attestation.measure.qtest import dump_files
from outlayer_attestation.measure.replay import replay_pcrs
from outlayer_attestation.measure.runtime import role_events, runtime_events
from outlayer_attestation.measure.shape import TPM_ARGUMENTS, FirmwareProfile, VmShape
from outlayer_attestation.measure.uefi import SecureBoot
from tools.bootproof.machine import RunningVm
from tools.imagebuild.errors import BootError

GENERIC_FIRMWARE: Final = FirmwareProfile(edk2=202502, secure_boot=SecureBoot.ABSENT)
"""The generic OVMF of the tool root, which is built without Secure Boot, as ours is."""
# IMA extends this one by itself, and the firmware's log does not say so
_OF_THE_KERNEL: Final = 10
_PCRS: Final = 16


@dataclass(frozen=True, slots=True)
class Proof:
    """What one boot showed.

    Attributes:
        events: number of events that equal the prediction, per register.
        registers: PCRs whose value is the replay of the log; zero, where it has no entry.
        seconds: until the service inside was healthy.
        rtmr3: value that the agent says, equal to the prediction's.
    """

    events: dict[str, int]
    registers: int
    seconds: float
    rtmr3: str


def emulated_tables(program: Path, shape: VmShape, folder: Path) -> AcpiTables:
    """The ACPI tables of the shape with a TPM, which only an emulated boot has. Needs a software TPM at `folder`."""
    chardev = ["-chardev", f"socket,id=tpm,path={folder}"]
    files = dump_files(program, [*shape.dump_arguments(), *chardev, *TPM_ARGUMENTS], shape.bar_slot())
    return AcpiTables.from_files(files)


def predict_emulated(
    shape: VmShape, firmware: bytes, image: bytes, tables: AcpiTables, role: str, configuration: bytes
) -> Prediction:
    """What the boot of this image will measure with the generic firmware."""
    shape = shape.model_copy(update={"firmware": GENERIC_FIRMWARE})
    return predict(
        firmware_digests(firmware, GENERIC_FIRMWARE),
        uki_digests(image),
        shape,
        tables,
        runtime_events(role_events(role, configuration), 2),
    )


def check(vm: RunningVm, prediction: Prediction, seconds: float) -> Proof:
    """Read what the VM recorded and compare.

    Raises:
        BootError: an event differs, a register does not replay, or RTMR3 is another.
    """
    log = eventlog.parse(vm.require("/event-log").body, eventlog.LogKind.TPM)
    differences = explain.compare(prediction.events, log)
    if differences:
        raise BootError("the boot measured something else than predicted:\n" + _texts(differences))
    replayed = replay_pcrs(log)
    values = {int(number): bytes.fromhex(value) for number, value in vm.require("/pcrs").json().items()}
    # a register without an entry in the log has to be as it was at the start
    expected = {
        number: replayed.get(number, bytes(48)) for number in range(_PCRS) if number != _OF_THE_KERNEL
    }
    wrong = [number for number, value in expected.items() if values.get(number) != value]
    if wrong:
        raise BootError(f"the event log does not give the values of the PCRs {wrong}")
    rtmr3 = prediction.measurements.rtmr3
    status = vm.require("/status").json()
    if status["rtmr3"] != rtmr3:
        raise BootError(f"the agent says RTMR3 {status['rtmr3']}, predicted is {rtmr3}")
    counted = {f"rtmr{n}": sum(event.rtmr == n for event in log.events) for n in range(3)}
    return Proof({**counted, "rtmr3": len(status["events"])}, len(expected), seconds, rtmr3)


def _texts(differences: list[Difference]) -> str:
    return "\n".join(f"  {difference.text()}" for difference in differences)
