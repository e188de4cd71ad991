# SPDX-License-Identifier: MIT
"""How long the prediction of an image of the largest size takes, as a ratio to hashing its bytes once."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any, Final

from outlayer_attestation.measure import image, testing
from outlayer_attestation.measure.metadata import ImageMetadata, RuntimeEvents
from outlayer_attestation.measure.runtime import role_events

IMAGE_SIZE: Final = 120 * 1024 * 1024
"""The limit of a worker image."""
_ROUNDS: Final = 3


def _best(work: Callable[[], object]) -> float:
    times = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def measure_prediction() -> dict[str, Any]:
    """Seconds for the whole prediction, and for one SHA-384 of the image in the same run."""
    uki = testing.uki({**testing.DEFAULT_SECTIONS, ".initrd": bytes(IMAGE_SIZE)})
    firmware, shape = testing.firmware(), testing.shape()
    tables = testing.host_tables(shape)
    runtime = RuntimeEvents.make(role_events("worker", b"{}"), 2)

    def predict() -> None:
        digests = image.firmware_digests(firmware, shape.firmware)
        ImageMetadata.make(shape, digests, image.uki_digests(uki), tables, runtime).predict()

    prediction, baseline = _best(predict), _best(lambda: hashlib.sha384(uki).digest())
    return {
        "image_mib": IMAGE_SIZE // 1024**2,
        "prediction_s": round(prediction, 3),
        "sha384_once_s": round(baseline, 3),
        "ratio_to_baseline": round(prediction / baseline, 2),
    }
