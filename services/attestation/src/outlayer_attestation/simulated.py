# SPDX-License-Identifier: MIT
"""Predicted measurements of a *simulated* VM: a pure function of role and installed code.

There is no image and no firmware on a machine without TDX, so the registers are computed from what
would run: change one line of a role's code and RTMR1, RTMR2 and RTMR3 change, like with a real image.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from outlayer_attestation.errors import MeasurementError
from outlayer_attestation.measure.registers import extend
from outlayer_attestation.measure.runtime import RuntimeEvent
from outlayer_attestation.measurements import Measurements

ROLE_PACKAGES: dict[str, tuple[str, ...]] = {
    "worker": ("outlayer_attestation", "outlayer_near", "outlayer_worker"),
    "coordinator": ("outlayer_attestation", "outlayer_coordinator", "outlayer_near"),
}
"""Packages whose source is "the image" of a role."""

_TAG = b"outlayer/simulated-measurement/v1"
_SKIPPED_SUFFIXES = {".pyc", ".pyo"}


def predict(role: str) -> Measurements:
    """Measurements of the installed code of a role ("worker", "coordinator")."""
    if role not in ROLE_PACKAGES:
        raise MeasurementError(
            f"unknown role {role!r}", hint=f"known roles: {', '.join(sorted(ROLE_PACKAGES))}"
        )
    return predict_simulated_measurements(role, installed_code_digest(ROLE_PACKAGES[role]))


def predict_simulated_measurements(role: str, code_digest: bytes) -> Measurements:
    """Pure prediction from a role and a digest of its code.

    MRTD and RTMR0 (firmware and VM shape) are constants of the simulator. RTMR1 and RTMR2 (kernel
    image and initrd) follow the code. RTMR3 extends the events role, config and ready with digests
    of dstack's version 2: SHA-384 of the canonical JSON of {"name", "payload" (hex), "type"}.
    """
    if len(code_digest) != 32:
        raise MeasurementError("a code digest is 32 bytes (SHA-256)")
    events = [("role", role.encode()), ("config", code_digest), ("ready", b"")]
    return Measurements(
        mrtd=_digest("firmware").hex(),
        rtmr0=extend([_digest("shape")]).hex(),
        rtmr1=extend([_digest("kernel", code_digest)]).hex(),
        rtmr2=extend([_digest("command line"), _digest("initrd", code_digest)]).hex(),
        rtmr3=extend([RuntimeEvent(name, payload).digest_v2() for name, payload in events]).hex(),
    )


def _digest(part: str, *data: bytes) -> bytes:
    return hashlib.sha384(b"\0".join([_TAG, part.encode(), *data])).digest()


def installed_code_digest(packages: Iterable[str]) -> bytes:
    """``code_digest`` of packages as they are installed here."""
    return code_digest({package: _package_folder(package) for package in packages})


def code_digest(folders: Mapping[str, Path]) -> bytes:
    """SHA-256 over the files of packages (name -> folder): names and contents, each length-prefixed, in order."""
    hasher = hashlib.sha256(b"outlayer/code/v1")
    for package, root in sorted(folders.items()):
        for path in _source_files(root):
            for part in (f"{package}/{path.relative_to(root).as_posix()}".encode(), path.read_bytes()):
                hasher.update(len(part).to_bytes(8, "big") + part)
    return hasher.digest()


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise MeasurementError(
            f"{package} is not installed", hint="install it first, for example with make install"
        )
    return Path(spec.origin).parent


def _source_files(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.suffix not in _SKIPPED_SUFFIXES and "__pycache__" not in path.parts:
            yield path


def main(arguments: list[str] | None = None) -> int:
    """``predict --role ROLE [--out FILE]``: write the measurements as JSON."""
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m outlayer_attestation.simulated", description=main.__doc__
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("predict", help="measurements of the installed code of a role")
    command.add_argument("--role", required=True, choices=sorted(ROLE_PACKAGES))
    command.add_argument("--out", type=Path, help="file to write; standard output when absent")
    options = parser.parse_args(arguments)
    try:
        text = json.dumps(predict(options.role).to_json(), indent=2) + "\n"
        if options.out is None:
            sys.stdout.write(text)
        else:
            options.out.write_text(text)
    except MeasurementError as error:
        sys.stderr.write(f"error: {error}\n{error.hint}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
