# SPDX-License-Identifier: MIT
"""Quotes and collateral of a simulated platform, recorded once, so that they are the same for ever.

ECDSA signatures are random, and the gas of a verification hangs on their encoding. ``quotes.json`` holds public
values alone; the platform's keys are gone. ``python -m tools.contracttable record`` makes another recording.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from outlayer_attestation.measurements import Measurements
from outlayer_attestation.platform.machine import SoftwarePlatform
from outlayer_attestation.record import registration_report_data
from outlayer_attestation.simulated import predict_simulated_measurements

RECORDING: Final = Path(__file__).with_name("quotes.json")
START: Final = 1_800_000_000
"""Unix seconds at which the recorded collateral is young, and scenarios begin (2027-01-15)."""

KEYS: Final = ("worker", "other-worker", "keystore", "other-keystore")
REGISTER: Final = "register.test"
REVERIFICATION: Final = "worker again"
_SIGNED_BYTES: Final = 632


@dataclass(frozen=True)
class Recording:
    """``quotes``: by the name of the key that each registers."""

    root_ca_der: bytes
    collateral: str
    newer_collateral: str
    measurements: dict[str, str]
    other_measurements: dict[str, str]
    quotes: dict[str, bytes]

    def to_json(self) -> dict[str, Any]:
        return {
            "note": "SIMULATED: vouches for nothing",
            "root_ca_der": self.root_ca_der.hex(),
            "collateral": self.collateral,
            "newer_collateral": self.newer_collateral,
            "measurements": self.measurements,
            "other_measurements": self.other_measurements,
            "quotes": {name: quote.hex() for name, quote in self.quotes.items()},
        }


def load() -> Recording:
    value = json.loads(RECORDING.read_text())
    return Recording(
        root_ca_der=bytes.fromhex(value["root_ca_der"]),
        collateral=value["collateral"],
        newer_collateral=value["newer_collateral"],
        measurements=value["measurements"],
        other_measurements=value["other_measurements"],
        quotes={name: bytes.fromhex(quote) for name, quote in value["quotes"].items()},
    )


def record(public_keys: dict[str, str]) -> Recording:
    """Quotes of a new platform for these keys."""
    start = datetime.fromtimestamp(START, UTC)
    platform = SoftwarePlatform.generate(start - timedelta(days=30))
    first, second = (predict_simulated_measurements("worker", bytes([number]) * 32) for number in (1, 2))
    quotes = {
        name: platform.quote(_measured(name, first, second), registration_report_data(key))
        for name, key in public_keys.items()
    }
    # of a key that an older contract registered, the first challenge is the hash of that quote's signed bytes
    challenge = hashlib.sha256(quotes["worker"][:_SIGNED_BYTES]).digest()
    again = reverification_report_data(REGISTER, public_keys["worker"], challenge)
    quotes[REVERIFICATION] = platform.quote(first, again)
    return Recording(
        root_ca_der=platform.root_der,
        collateral=platform.collateral(start).to_text(),
        newer_collateral=platform.collateral(start + timedelta(minutes=30)).to_text(),
        measurements=first.to_json(),
        other_measurements=second.to_json(),
        quotes=quotes,
    )


def reverification_report_data(contract_id: str, public_key: str, challenge: bytes) -> bytes:
    """What a later quote for a registered key commits to (contracts/crates/approval)."""
    fields = (contract_id.encode(), registration_report_data(public_key)[:32], challenge)
    parts = (len(field).to_bytes(4, "big") + field for field in fields)
    return hashlib.sha512(b"outlayer/reverification/v1\0" + b"".join(parts)).digest()


def _measured(name: str, first: Measurements, second: Measurements) -> Measurements:
    return second if "keystore" in name else first
