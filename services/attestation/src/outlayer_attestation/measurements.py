# SPDX-License-Identifier: MIT
"""The five measurements that identify a confidential VM: MRTD and RTMR0 to RTMR3 (48 bytes each)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from outlayer_attestation.errors import MeasurementError

REGISTER_SIZE = 48
"""Bytes of a measurement register (SHA-384)."""

_HEX = re.compile(r"[0-9a-f]{96}")


@dataclass(frozen=True, slots=True)
class Measurements:
    """One tuple of measurements, 96 lower-case hex digits each.

    Always compared as a whole: an allow-list per register would accept a mix of two images.
    """

    mrtd: str
    rtmr0: str
    rtmr1: str
    rtmr2: str
    rtmr3: str

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, str) or _HEX.fullmatch(value) is None:
                raise MeasurementError(
                    f"{field.name} is not 96 lower-case hex digits",
                    hint="a measurement is the 48 bytes of a register in lower-case hex",
                )

    @classmethod
    def from_json(cls, value: object) -> Measurements:
        """Read ``{"mrtd": …, "rtmr0": …, … "rtmr3": …}``; any other or missing key is refused."""
        if not isinstance(value, Mapping):
            raise MeasurementError("measurements are not a JSON object")
        names = [field.name for field in fields(cls)]
        if set(value) != set(names):
            raise MeasurementError(
                f"measurements have the keys {sorted(map(str, value))}, expected {names}",
                hint="all five registers are compared together; name each of them",
            )
        return cls(**{name: value[name] for name in names})

    @classmethod
    def from_file(cls, path: Path) -> Measurements:
        """Read the JSON file that ``outlayer_attestation.simulated predict`` writes."""
        try:
            return cls.from_json(json.loads(path.read_bytes()))
        except OSError as error:
            raise MeasurementError(f"cannot read measurements from {path}: {error.strerror}") from error
        except ValueError as error:
            raise MeasurementError(f"{path} is not JSON: {error}") from error

    def to_json(self) -> dict[str, str]:
        """The JSON object that contracts, policies and evidence carry."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def registers(self) -> tuple[bytes, bytes, bytes, bytes, bytes]:
        """MRTD, RTMR0, RTMR1, RTMR2, RTMR3 as 48 bytes each."""
        return (
            bytes.fromhex(self.mrtd),
            bytes.fromhex(self.rtmr0),
            bytes.fromhex(self.rtmr1),
            bytes.fromhex(self.rtmr2),
            bytes.fromhex(self.rtmr3),
        )

    def differences(self, other: Measurements) -> dict[str, tuple[str, str]]:
        """Registers that differ: name -> (ours, theirs)."""
        ours, theirs = self.to_json(), other.to_json()
        return {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}


def describe(value: Any) -> str:
    """First and last hex digits, for a message that a person reads."""
    text = str(value)
    return text if len(text) <= 20 else f"{text[:10]}…{text[-6:]}"
