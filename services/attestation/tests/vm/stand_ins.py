# SPDX-License-Identifier: MIT
"""What stands for the kernel and the host of a VM in tests: folders, a register, quotes and a clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from outlayer_attestation.measure.registers import extend
from outlayer_attestation.measure.shape import CONFIGURATION_FILE, SECRETS_FILE
from outlayer_attestation.vm.clock import Comparison, Instant
from outlayer_attestation.vm.places import Places
from outlayer_attestation.vm.rtmr import Register

from .documents import SECRETS, document

EPOCH = 1_790_000_000
NOW = EPOCH + 1000.0


class FakeRegister:
    """The kernel's file: a write of 48 bytes extends what a read gives."""

    def __init__(self) -> None:
        self.digests: list[bytes] = []

    def read(self, register: Register) -> bytes:
        return extend(self.digests)

    def extend(self, register: Register, digest: bytes) -> None:
        assert len(digest) == 48
        self.digests.append(digest)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let every register be this one."""
        monkeypatch.setattr(Register, "read", lambda register: self.read(register))
        monkeypatch.setattr(Register, "extend", lambda register, digest: self.extend(register, digest))


def make_places(
    root: Path, role: str = "worker", *, tdx: bool = False, variant: str = "production"
) -> Places:
    places = Places(root)
    image = {"format": "outlayer/image/v1", "role": role, "variant": variant, "source_date_epoch": EPOCH}
    for path, text in {
        root / "usr/lib/outlayer/image.json": json.dumps(image),
        root / "proc/cpuinfo": f"processor : 0\nflags\t\t: fpu {'tdx_guest' if tdx else ''} nx\n",
        places.host_file(CONFIGURATION_FILE): json.dumps(document(role)),
        places.host_file(SECRETS_FILE): json.dumps(SECRETS[role]),
        places.authorities: "the public authorities\n",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "run").mkdir()
    return places


class FakeConfigfs:
    """configfs-tsm as a folder: fills a new entry as the kernel does, and takes it away as rmdir does."""

    def __init__(
        self, reports: Path, *, provider: str = "tdx_guest", generation: str = "1", quote: bytes = b"Q"
    ) -> None:
        reports.mkdir(parents=True)
        self.reports = reports
        self.files = {"provider": provider.encode(), "generation": generation.encode(), "outblob": quote}
        self.asked: list[bytes] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        mkdir, rmdir = Path.mkdir, Path.rmdir

        def make(path: Path, *arguments: Any, **more: Any) -> None:
            mkdir(path, *arguments, **more)
            if path.parent == self.reports:
                for name, data in self.files.items():
                    (path / name).write_bytes(data)

        def remove(path: Path) -> None:
            if path.parent == self.reports:
                self.asked.append((path / "inblob").read_bytes() if (path / "inblob").exists() else b"")
                for file in path.iterdir():
                    file.unlink()
            rmdir(path)

        monkeypatch.setattr(Path, "mkdir", make)
        monkeypatch.setattr(Path, "rmdir", remove)


class FakeClock:
    """A clock that is watched by a test."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def look(self) -> float:
        return 1.0

    def objection(self) -> str | None:
        return self.reason

    def confirmed(self) -> Comparison | None:
        return Comparison(Instant(NOW, 10.0), 0.25)
