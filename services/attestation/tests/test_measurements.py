# SPDX-License-Identifier: MIT
"""Measurements, and their prediction for a simulated VM."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlayer_attestation import simulated
from outlayer_attestation.errors import MeasurementError
from outlayer_attestation.measure.runtime import RuntimeEvent
from outlayer_attestation.measurements import Measurements

REGISTER = st.binary(min_size=48, max_size=48).map(bytes.hex)
DIGEST = st.binary(min_size=32, max_size=32)


@given(value=st.builds(Measurements, *[REGISTER] * 5))
def test_measurements_travel_as_json(value: Measurements) -> None:
    assert Measurements.from_json(json.loads(json.dumps(value.to_json()))) == value
    assert [register.hex() for register in value.registers()] == list(value.to_json().values())


@given(value=st.builds(Measurements, *[REGISTER] * 5), other=REGISTER)
def test_differences_name_the_registers(value: Measurements, other: str) -> None:
    changed = Measurements.from_json(value.to_json() | {"rtmr2": other})
    assert set(value.differences(changed)) == ({"rtmr2"} if other != value.rtmr2 else set())


GOOD = dict.fromkeys(("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"), "ab" * 48)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "ab" * 48,
        {},
        {name: value for name, value in GOOD.items() if name != "rtmr3"},
        GOOD | {"rtmr4": "ab" * 48},
        GOOD | {"mrtd": "AB" * 48},
        GOOD | {"mrtd": "ab" * 47},
        GOOD | {"mrtd": "ab" * 48 + "\n"},
        GOOD | {"mrtd": None},
    ],
)
def test_anything_else_is_refused(value: Any) -> None:
    with pytest.raises(MeasurementError):
        Measurements.from_json(value)


@given(code=DIGEST, other=DIGEST)
def test_code_moves_the_kernel_initrd_and_application_registers_and_no_other(
    code: bytes, other: bytes
) -> None:
    first = simulated.predict_simulated_measurements("worker", code)
    second = simulated.predict_simulated_measurements("worker", other)
    assert set(first.differences(second)) == ({"rtmr1", "rtmr2", "rtmr3"} if code != other else set())


def test_the_role_moves_rtmr3_only() -> None:
    worker = simulated.predict_simulated_measurements("worker", bytes(32))
    coordinator = simulated.predict_simulated_measurements("coordinator", bytes(32))
    assert set(worker.differences(coordinator)) == {"rtmr3"}


def test_the_digest_of_an_event_is_that_of_dstack_version_2() -> None:
    text = '{"name":"role","payload":"776f726b6572","type":134217729}'
    assert RuntimeEvent("role", b"worker").digest_v2() == hashlib.sha384(text.encode()).digest()


def package(root: Path, name: str, files: dict[str, str]) -> None:
    for file, text in files.items():
        path = root / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_the_code_digest_follows_names_and_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    variants: list[dict[str, str]] = [
        {"__init__.py": "", "a.py": "1"},
        {"__init__.py": "", "a.py": "2"},
        {"__init__.py": "", "b.py": "1"},
        {"__init__.py": "1", "a.py": ""},
        {"__init__.py": "", "a.py": "1", "data/x.sql": "select 1"},
    ]
    for number, files in enumerate(variants):
        root = tmp_path / str(number)
        package(root, f"measured_{number}", files)
        monkeypatch.syspath_prepend(root)
        digest = simulated.installed_code_digest([f"measured_{number}"])
        package(root, f"measured_{number}", {"__pycache__/a.cpython-311.pyc": "x", "c.pyc": "y"})
        assert simulated.installed_code_digest([f"measured_{number}"]) == digest
        seen.add(digest)
    assert len(seen) == len(variants)


def test_a_package_that_is_not_installed_is_an_error_with_a_hint() -> None:
    with pytest.raises(MeasurementError) as raised:
        simulated.installed_code_digest(["outlayer_does_not_exist"])
    assert "install" in raised.value.hint


def test_predict_writes_the_measurements_of_the_installed_worker(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "worker.json"
    assert simulated.main(["predict", "--role", "worker", "--out", str(file)]) == 0
    assert Measurements.from_file(file) == simulated.predict("worker")
    assert simulated.main(["predict", "--role", "worker"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(file.read_text())


def test_an_unknown_role_is_an_error() -> None:
    with pytest.raises(MeasurementError, match="role"):
        simulated.predict("keeper")
