# SPDX-License-Identifier: MIT
"""QEMU and swtpm of the locked tool root, runnable from outside of it.

They need the network of this machine (a forwarded port) and a socket, so they do not run in the build sandbox;
instead the root's own loader starts them with the root's own libraries.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

_LOADER = "lib64/ld-linux-x86-64.so.2"
_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/swtpm", "usr/lib")
_QEMU_DATA = ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu")
_SCRIPT = """\
#!/bin/sh
# {name} of its own root
exec {words} "$@"
"""


@dataclass(frozen=True, slots=True)
class Programs:
    """Paths of programs; the firmware is one that runs without TDX."""

    qemu: Path
    swtpm: Path
    generic_firmware: Path


def programs_of(root: Path, folder: Path) -> Programs:
    """Write a start script per program into `folder`."""
    data = [word for path in _QEMU_DATA for word in ("-L", str(root / path))]
    return Programs(
        qemu=_script(root, folder, "qemu-system-x86_64", data),
        swtpm=_script(root, folder, "swtpm", []),
        generic_firmware=root / "usr/share/ovmf/OVMF.fd",
    )


def chronyd_of(root: Path, folder: Path) -> Path:
    """A start script for the chronyd of an unpacked image, in `folder`."""
    return _script(root, folder, "chronyd", [], "usr/sbin", "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")


def _script(
    root: Path, folder: Path, name: str, more: list[str], place: str = "usr/bin", loader: str = _LOADER
) -> Path:
    libraries = ":".join(str(root / path) for path in _LIBRARIES)
    words = [str(root / loader), "--library-path", libraries, str(root / place / name), *more]
    path = folder / name
    path.write_text(_SCRIPT.format(name=name, words=shlex.join(words)))
    path.chmod(0o755)
    return path
