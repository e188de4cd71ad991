# SPDX-License-Identifier: MIT
"""Logs of VMs that were booted with Debian trixie's firmware, QEMU and stub: every event is the predicted one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from outlayer_attestation.measure import acpi, eventlog, explain, image, replay, testing
from outlayer_attestation.measure.acpi import AcpiTables
from outlayer_attestation.measure.image import DirectImage, UkiImage
from outlayer_attestation.measure.model import unpacked
from outlayer_attestation.measure.predict import Prediction, predict
from outlayer_attestation.measure.registers import extend
from outlayer_attestation.measure.shape import VmShape

VECTOR: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "software-boots.json").read_text())
UKI = UkiImage.model_validate_json(json.dumps(VECTOR["uki"]))
KERNEL = DirectImage.model_validate_json(json.dumps(VECTOR["kernel"]))


def log_of(name: str) -> eventlog.EventLog:
    return eventlog.parse(unpacked(VECTOR["logs"][name], eventlog.MAX_LOG_SIZE))


def shape(option_rom: str | None = None) -> VmShape:
    devices = ({"kind": "network", "name": "net", "option_rom": option_rom},)
    return testing.shape(qemu="10.0.13", memory_mib=1024, devices=devices)


def tables() -> AcpiTables:
    """What this QEMU gives over qtest for the same arguments, TPM included."""
    files = {name: unpacked(text, acpi.MAX_BLOB_SIZE) for name, text in VECTOR["tables"].items()}
    names = acpi.allocated_files(files[acpi.LOADER_FILE])
    return AcpiTables(files[acpi.LOADER_FILE], tuple((name, files[name]) for name in names))


def predicted(boot: UkiImage | DirectImage, vm: VmShape) -> Prediction:
    # the firmware's own code is in no register of a TPM that is compared, so a stand-in serves
    firmware = image.firmware_digests(testing.firmware(), vm.firmware)
    return predict(firmware, boot, vm, tables(), [])


@pytest.mark.parametrize(
    ("name", "boot", "vm"),
    [
        ("uki", UKI, shape()),
        ("kernel", KERNEL, shape()),
        ("option-rom", UKI, shape(VECTOR["option_rom"])),
    ],
)
def test_every_event_of_a_real_boot_is_the_predicted_one(
    name: str, boot: UkiImage | DirectImage, vm: VmShape
) -> None:
    log, prediction = log_of(name), predicted(boot, vm)
    assert explain.compare(prediction.events, log) == []
    for rtmr in range(3):
        events = [event for event in prediction.events if event.rtmr == rtmr and not event.td_only]
        assert replay.replay(log)[rtmr] == extend(event.digest for event in events)


def test_a_card_with_an_option_rom_is_named_where_none_was_predicted() -> None:
    [difference] = explain.compare(predicted(UKI, shape()).events, log_of("option-rom"))
    assert (difference.register, difference.position) == ("rtmr1", 1)
    assert "option ROM" in difference.cause


def test_another_image_is_named_at_its_first_event() -> None:
    differences = explain.compare(predicted(UKI, shape()).events, log_of("kernel"))
    assert [(d.register, d.position) for d in differences] == [("rtmr1", 1), ("rtmr2", 1)]
    assert "image was not measured" in differences[0].cause, "the kernel inside it was started instead"
