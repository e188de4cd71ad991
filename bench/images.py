# SPDX-License-Identifier: MIT
"""Images: size, build, prediction and boot, each as a ratio to a baseline in the same run (`make bench-images`)."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from outlayer_attestation.measure.image import firmware_digests, uki_digests
from outlayer_attestation.measure.metadata import ImageMetadata, RuntimeEvents
from outlayer_attestation.measure.pin import ImagePin
from outlayer_attestation.measure.runtime import role_events
from tools.bootproof.__main__ import prove
from tools.bootproof.programs import Programs, programs_of
from tools.debroot.__main__ import prepare
from tools.debroot.fetch import Sources, fetch
from tools.imageaudit.inputs import locked
from tools.imagepins.collect import oci_artifact

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / ".build/images"
BOOT_SECONDS = 600.0


def _timed(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure_images(role: str = "worker") -> dict[str, Any]:
    """All numbers of one role, which has to be built."""
    sources = Sources.of_this_machine(offline=True)
    tools = prepare(ROOT / "images/locks/tools.json", sources)
    inputs = locked(ROOT, [role])
    image = IMAGES / role / f"{role}.efi"
    with tempfile.TemporaryDirectory(prefix="outlayer-bench-") as name:
        folder = Path(name)
        debs = list(fetch(inputs.locks[1], sources).values())
        programs = programs_of(tools.root, folder)
        return {
            "role": role,
            "size": _size(role, image, sum(path.stat().st_size for path in debs)),
            "build": _build(role, debs, folder),
            "prediction": _prediction(role, image),
            "boot": _boot(role, image, programs, folder),
        }


def _size(role: str, image: Path, debs: int) -> dict[str, Any]:
    size = image.stat().st_size
    return {
        "uki_mb": round(size / 1e6, 1),
        "oci_mb": round(oci_artifact(IMAGES / role / f"{role}.oci").size / 1e6, 1),
        "debs_mb": round(debs / 1e6, 1),
        "uki_ratio_to_its_debs": round(size / debs, 2),
    }


def _build(role: str, debs: list[Path], folder: Path) -> dict[str, Any]:
    """Baseline: unpacking the role's .debs once."""

    def unpack() -> None:
        for number, path in enumerate(debs):
            subprocess.run(["dpkg-deb", "-x", str(path), str(folder / f"deb{number}")], check=True)

    def build() -> None:
        words = [sys.executable, "-m", "tools.imagebuild", "build", role, "--out", str(folder / "out")]
        subprocess.run(words, cwd=ROOT, check=True, capture_output=True)

    baseline, seconds = _timed(unpack), _timed(build)
    return {
        "seconds": round(seconds, 1),
        "unpacking_its_debs_s": round(baseline, 1),
        "ratio_to_baseline": round(seconds / baseline, 1),
    }


def _prediction(role: str, image: Path) -> dict[str, Any]:
    """Baseline: one SHA-384 over the image."""
    pin = ImagePin.from_bytes((ROOT / f"images/pins/{role}-small.json").read_bytes())
    shape, tables = pin.metadata.shape, pin.metadata.host_tables
    runtime = RuntimeEvents.make(role_events(role, b"{}"), 2)
    firmware = (IMAGES / "firmware/OVMF.fd").read_bytes()
    data = image.read_bytes()

    def predict() -> None:
        digests = firmware_digests(firmware, shape.firmware)
        ImageMetadata.make(shape, digests, uki_digests(data), tables, runtime).predict()

    seconds = min(_timed(predict) for _ in range(3))
    baseline = min(_timed(lambda: hashlib.sha384(data).digest()) for _ in range(3))
    return {
        "seconds": round(seconds, 3),
        "sha384_once_s": round(baseline, 3),
        "ratio_to_baseline": round(seconds / baseline, 2),
    }


def _boot(role: str, image: Path, programs: Programs, folder: Path) -> dict[str, Any]:
    """Until the service is healthy, with an emulated CPU. Baseline: the same firmware alone, to its boot manager."""
    console = folder / "firmware-console"
    words = [str(programs.qemu), "-accel", "tcg", "-cpu", "max", "-machine", "q35,smm=off", "-m", "512M"]
    words += ["-nodefaults", "-no-user-config", "-display", "none", "-serial", f"file:{console}"]
    words += ["-bios", str(programs.generic_firmware), "-no-reboot"]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    began = time.perf_counter()
    try:
        while not (console.exists() and b"BdsDxe" in console.read_bytes()):
            if time.perf_counter() - began > BOOT_SECONDS:
                raise TimeoutError("the firmware does not reach its boot manager")
            time.sleep(0.05)
        baseline = time.perf_counter() - began
    finally:
        process.kill()
        process.wait()
    proof = prove(role, image, programs, folder, BOOT_SECONDS, kvm=False)
    return {
        "healthy_s": round(proof.seconds, 1),
        "firmware_alone_s": round(baseline, 1),
        "ratio_to_baseline": round(proof.seconds / baseline, 1),
    }


def main() -> None:
    """Measure and write bench/results/images.json."""
    from bench.__main__ import _write

    found = measure_images()
    size, build, prediction, boot = (found[name] for name in ("size", "build", "prediction", "boot"))
    print(
        f"worker: {size['uki_mb']} MB, {size['uki_ratio_to_its_debs']} of its .debs; OCI {size['oci_mb']} MB"
    )
    print(f"built in {build['seconds']} s, {build['ratio_to_baseline']} of unpacking its .debs")
    print(f"predicted in {prediction['seconds']} s, {prediction['ratio_to_baseline']} of hashing it once")
    print(f"healthy after {boot['healthy_s']} s emulated, {boot['ratio_to_baseline']} of its firmware alone")
    _write("images", found)


if __name__ == "__main__":
    main()
