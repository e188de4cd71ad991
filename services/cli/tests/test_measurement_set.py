# SPDX-License-Identifier: MIT
"""Which measurements a stack registers: those of the pinned image, while the installed code is the image's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from outlayer_attestation.errors import MetadataError, VmError
from outlayer_attestation.measure.pin import ImagePin, differences
from outlayer_attestation.measure.registers import extend
from outlayer_attestation.measure.runtime import role_events
from outlayer_attestation.simulated import ROLE_PACKAGES, installed_code_digest, predict
from outlayer_cli.measurement_set import SHAPE, configuration_document, of_pin, worker_measurements

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = {
    "COORDINATOR_URL": "http://127.0.0.1:8080",
    "INIT_ACCOUNT_ID": "worker.test",
    "NEAR_NETWORK_ID": "localnet",
    "NEAR_RPC_URL": "http://127.0.0.1:3030",
    "OPERATOR_ACCOUNT_ID": "worker.test",
    "OUTLAYER_CONTRACT_ID": "outlayer.test",
}


@pytest.fixture
def pin() -> ImagePin:
    path = ROOT / f"images/pins/{SHAPE}.json"
    if not path.is_file():
        pytest.skip("this installation has no pins")
    return ImagePin.from_bytes(path.read_bytes())


def repository(folder: Path, pin: ImagePin) -> Path:
    (folder / "images/pins").mkdir(parents=True)
    (folder / f"images/pins/{SHAPE}.json").write_text(pin.to_text())
    return folder


def current(pin: ImagePin) -> ImagePin:
    """The pin as if the installed code were the image's."""
    return pin.model_copy(update={"code_sha256": installed_code_digest(ROLE_PACKAGES["worker"]).hex()})


def test_the_pinned_registers_count_while_the_code_is_the_images(tmp_path: Path, pin: ImagePin) -> None:
    configuration = configuration_document(SETTINGS)
    found = worker_measurements(repository(tmp_path, current(pin)), configuration)
    pinned = pin.metadata.measurements
    assert (found.values.mrtd, found.values.rtmr0) == (pinned.mrtd, pinned.rtmr0)
    assert (found.values.rtmr1, found.values.rtmr2) == (pinned.rtmr1, pinned.rtmr2)
    events = [event.digest_v2() for event in role_events("worker", configuration)]
    assert found.values.rtmr3 == extend(events).hex()
    assert "pinned for the image worker-small" in found.origin


def test_changed_code_is_measured_itself_and_said(tmp_path: Path, pin: ImagePin) -> None:
    other = pin.model_copy(update={"code_sha256": "0" * 64})
    found = worker_measurements(repository(tmp_path, other), configuration_document(SETTINGS))
    assert found.values == predict("worker")
    assert "not that of the pinned image" in found.origin


def test_without_pins_the_installed_code_is_measured(tmp_path: Path) -> None:
    found = worker_measurements(tmp_path, configuration_document(SETTINGS))
    assert found.values == predict("worker")
    assert "no image is pinned" in found.origin


def test_a_pin_that_cannot_be_read_is_an_error_and_no_fallback(tmp_path: Path) -> None:
    (tmp_path / "images/pins").mkdir(parents=True)
    (tmp_path / f"images/pins/{SHAPE}.json").write_text("{}")
    with pytest.raises(MetadataError, match="the image pin"):
        worker_measurements(tmp_path, configuration_document(SETTINGS))


def test_another_configuration_moves_rtmr3_alone(pin: ImagePin) -> None:
    one = of_pin(pin, configuration_document(SETTINGS)).to_json()
    two = of_pin(pin, configuration_document({**SETTINGS, "EXECUTORS": "3"})).to_json()
    assert {name for name in one if one[name] != two[name]} == {"rtmr3"}


def test_the_configuration_of_a_stack_is_one_that_a_vm_accepts() -> None:
    assert json.loads(configuration_document(SETTINGS))["settings"] == SETTINGS
    with pytest.raises(VmError, match="takes no setting NOT_KNOWN"):
        configuration_document({**SETTINGS, "NOT_KNOWN": "1"})


def test_a_pin_names_the_first_cause_first(pin: ImagePin) -> None:
    inputs = {**pin.inputs, "images/locks/worker.json": "0" * 64}
    tree = {**pin.tree, "systemd": "1" * 64}
    other = pin.model_copy(update={"inputs": inputs, "tree": tree, "source_date_epoch": 1})
    names = [line.split(":")[0] for line in differences(pin, other)]
    assert names == ["inputs.images/locks/worker.json", "source_date_epoch", "tree.systemd"]


def test_a_pin_reads_back_as_itself(pin: ImagePin) -> None:
    assert ImagePin.from_bytes(pin.to_text()) == pin
    pin.metadata.predict()


def test_a_pin_that_names_another_image_than_it_describes_is_refused(pin: ImagePin) -> None:
    text = pin.to_text().replace(
        f'"uki": {{\n    "sha256": "{pin.uki.sha256}"', f'"uki": {{\n    "sha256": "{"0" * 64}"', 1
    )
    assert text != pin.to_text()
    with pytest.raises(MetadataError, match="of another image than the pin names"):
        ImagePin.from_bytes(text)
