# SPDX-License-Identifier: MIT
"""Files whose size the host decides: read up to a limit, and refused beyond it."""

from __future__ import annotations

from pathlib import Path

from outlayer_attestation.errors import VmError


def read_bounded(path: Path, limit: int, what: str, size_file: Path | None = None) -> bytes:
    """All bytes of a file, of which there may be up to ``limit``. It is read once: it could change between two reads.

    Args:
        size_file: where the kernel says its size, for the message of the error alone.

    Raises:
        VmError: there are more.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(limit + 1)
        if len(data) > limit:
            # files of the kernel may say 0, or nothing true
            size = max(path.stat().st_size, len(data), _said(size_file))
            raise VmError(
                f"{what} has {size} bytes or more, and may have {limit}", hint=f"give a smaller one ({path})"
            )
    return data


def _said(size_file: Path | None) -> int:
    if size_file is None or not size_file.is_file():
        return 0
    with size_file.open("rb") as file:
        text = file.read(20).strip()
    return int(text) if text.isdigit() else 0


def read_line_bounded(path: Path, limit: int, what: str) -> str:
    """The text of a small file of the kernel, without the line's end. Raises as ``read_bounded``."""
    return read_bounded(path, limit, what).decode("ascii", "replace").strip()
