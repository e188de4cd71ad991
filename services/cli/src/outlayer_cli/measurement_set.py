# SPDX-License-Identifier: MIT
"""Measurements that a stack on this machine registers for its workers.

They are those of the pinned image, with the configuration of this stack in RTMR3, as long as the installed code is the
image's. A developer who changed a line runs other code than the image; then they are derived from that code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from outlayer_attestation.measure.pin import ImagePin
from outlayer_attestation.measure.registers import extend
from outlayer_attestation.measure.runtime import role_events
from outlayer_attestation.measurements import Measurements
from outlayer_attestation.simulated import (
    ROLE_PACKAGES,
    installed_code_digest,
    predict_simulated_measurements,
)
from outlayer_attestation.vm.configuration import VmConfiguration

ROLE = "worker"
SHAPE = "worker-small"
# asked for by the document's format; programs on this machine use the machine's own
_NAMESERVERS = ("9.9.9.9", "149.112.112.112")
_TIME_SERVERS = ("time.cloudflare.com", "nts.netnod.se")


@dataclass(frozen=True)
class WorkerMeasurements:
    """The registers, and where they come from, in words."""

    values: Measurements
    origin: str


def configuration_document(settings: Mapping[str, str]) -> bytes:
    """The document that a VM with these settings would be given. Raises ``VmError``."""
    return VmConfiguration.make(ROLE, settings, nameservers=_NAMESERVERS, time_servers=_TIME_SERVERS)


def worker_measurements(repository: Path, configuration: bytes) -> WorkerMeasurements:
    """The measurements of this installation's workers.

    Raises:
        MetadataError: there is a pin that cannot be read.
    """
    code = installed_code_digest(ROLE_PACKAGES[ROLE])
    path = repository / "images/pins" / f"{SHAPE}.json"
    if not path.is_file():
        return WorkerMeasurements(_of_code(code), "derived from the installed code: no image is pinned here")
    pin = ImagePin.from_bytes(path.read_bytes())
    if pin.code_sha256 != code.hex():
        return WorkerMeasurements(
            _of_code(code), "derived from the installed code, which is not that of the pinned image"
        )
    return WorkerMeasurements(
        of_pin(pin, configuration), f"those pinned for the image {SHAPE}, with this stack's configuration"
    )


def of_pin(pin: ImagePin, configuration: bytes) -> Measurements:
    """A pin's registers, with RTMR3 of this configuration document."""
    digests = [event.digest_v2() for event in role_events(pin.role, configuration)]
    return Measurements.from_json({**pin.metadata.measurements.model_dump(), "rtmr3": extend(digests).hex()})


def _of_code(code: bytes) -> Measurements:
    return predict_simulated_measurements(ROLE, code)
