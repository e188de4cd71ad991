# SPDX-License-Identifier: MIT
"""Images: size, build, prediction and boot, each as a ratio to a baseline in the same run (`make bench-images`)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from outlayer_attestation.measure.image import firmware_digests, uki_digests
from outlayer_attestation.measure.metadata import ImageMetadata, RuntimeEvents
from outlayer_attestation.measure.pin import ImagePin
from outlayer_attestation.measure.runtime import role_events
from tools.bootproof.boot import prove
from tools.bootproof.machine import firmware_alone
from tools.bootproof.programs import Programs, programs_of
from tools.debroot.__main__ import prepare
from tools.debroot.cache import cache_home
from tools.debroot.fetch import Sources, fetch
from tools.imageaudit.inputs import locked
from tools.imagebuild.errors import BootError
from tools.imagebuild.locks import TOOLS
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
    tools = prepare(ROOT / TOOLS, sources)
    inputs = locked(ROOT, [role])
    image = IMAGES / role / f"{role}.efi"
    with tempfile.TemporaryDirectory(prefix="outlayer-bench-") as name:
        folder = Path(name)
        debs = list(fetch(inputs.locks[1], sources).values())
        programs = programs_of(tools.root, folder)
        build = _build(role, debs, folder)
        return {
            "role": role,
            "size": _size(role, image, sum(path.stat().st_size for path in debs)),
            "build": build,
            "firmware": _firmware(folder, build["seconds"]),
            "tool_root_mb": round(_bytes_below(tools.root) / 1e6),
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

    baseline = _timed(unpack)
    seconds, scratch, memory = _watched(["build", role, "--out", str(folder / "out")])
    return {
        "seconds": round(seconds, 1),
        "unpacking_its_debs_s": round(baseline, 1),
        "ratio_to_baseline": round(seconds / baseline, 1),
        "scratch_mb": round(scratch / 1e6),
        "memory_mb": round(memory / 1e6),
    }


def _firmware(folder: Path, build_seconds: float) -> dict[str, Any]:
    """Baseline: the build of the image, in the same run. With a cache of its own, so that it is built."""
    cache = folder / "cache"
    cache.mkdir()
    for name in ("debs", "roots"):
        (cache / name).symlink_to(cache_home() / name)
    words = ["firmware", "--offline", "--out", str(folder / "firmware")]
    seconds, scratch, memory = _watched(words, cache)
    return {
        "seconds": round(seconds, 1),
        "ratio_to_the_image": round(seconds / build_seconds, 1),
        "scratch_mb": round(scratch / 1e6),
        "memory_mb": round(memory / 1e6),
    }


def _watched(words: list[str], cache: Path | None = None) -> tuple[float, int, int]:
    """Run the builder; seconds, and the most that its scratch folder and this machine's memory grew by, in bytes."""
    home = cache or cache_home()
    before = psutil.virtual_memory().used
    began = time.perf_counter()
    process = psutil.Popen(
        [sys.executable, "-m", "tools.imagebuild", *words],
        cwd=ROOT,
        env={**os.environ, "OUTLAYER_CACHE": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    scratch = memory = 0
    while process.poll() is None:
        scratch = max(scratch, _bytes_below(home / "scratch"))
        memory = max(memory, psutil.virtual_memory().used - before)
        time.sleep(0.5)
    if process.returncode != 0:
        raise BootError(f"the build failed: tools.imagebuild {' '.join(words)}")
    return time.perf_counter() - began, scratch, memory


def _bytes_below(folder: Path) -> int:
    """Bytes that files occupy below a folder in which others remove files meanwhile."""
    total = 0
    for inside, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(Path(inside) / name).st_size
    return total


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
    baseline = firmware_alone(programs, folder / "firmware-console", "tcg", BOOT_SECONDS)
    if baseline is None:
        raise BootError("the firmware does not reach its boot manager")
    proof = prove(role, image, programs, folder, BOOT_SECONDS, kvm=False)
    return {
        "healthy_s": round(proof.seconds, 1),
        "firmware_alone_s": round(baseline, 1),
        "ratio_to_baseline": round(proof.seconds / baseline, 1),
    }


def main() -> None:
    """Measure and write bench/results/images.json."""
    from bench.__main__ import write

    found = measure_images()
    size, build, prediction, boot = (found[name] for name in ("size", "build", "prediction", "boot"))
    print(
        f"worker: {size['uki_mb']} MB, {size['uki_ratio_to_its_debs']} of its .debs; OCI {size['oci_mb']} MB"
    )
    print(f"built in {build['seconds']} s, {build['ratio_to_baseline']} of unpacking its .debs")
    print(f"predicted in {prediction['seconds']} s, {prediction['ratio_to_baseline']} of hashing it once")
    print(f"healthy after {boot['healthy_s']} s emulated, {boot['ratio_to_baseline']} of its firmware alone")
    write("images", found)


if __name__ == "__main__":
    main()
