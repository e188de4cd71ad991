# SPDX-License-Identifier: MIT
"""`python -m tools.bootproof ROLE…`: boot images without TDX and compare what they measure with the prediction.

QEMU emulates the CPU (or uses KVM where a self-test shows that it works), a software TPM with SHA-384 stands for the
runtime registers, and a firmware without TDX for the TDX one. What only TDX hardware can show is not shown here.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from outlayer_attestation.errors import AttestationError
from outlayer_cli.errors import CliError
from tools.bootproof.boot import REPOSITORY, prove
from tools.bootproof.hostile import HOSTILE, endure
from tools.bootproof.machine import kvm_works
from tools.bootproof.programs import programs_of
from tools.bootproof.proof import Proof
from tools.debroot.__main__ import add_source_options, prepare
from tools.debroot.errors import DebrootError
from tools.debroot.fetch import Sources
from tools.imagebuild.errors import BootError
from tools.imagebuild.locks import TOOLS


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.bootproof", description=__doc__)
    parser.add_argument("roles", nargs="+")
    parser.add_argument(
        "--images", type=Path, default=REPOSITORY / ".build/images", help="folder of built images"
    )
    parser.add_argument("--seconds", type=float, default=300, help="how long to wait for the health check")
    parser.add_argument("--kvm", choices=["auto", "off"], default="auto")
    parser.add_argument(
        "--hostile",
        action="append",
        choices=sorted(HOSTILE),
        help="boot on a host that does this instead; as often as wanted",
    )
    add_source_options(parser)
    options = parser.parse_args(words)
    for name in options.hostile or ():
        if options.roles != [HOSTILE[name].role]:
            parser.error(f"--hostile {name} is done to a {HOSTILE[name].role}, alone")
    return options


def main(words: Sequence[str] | None = None) -> int:
    options = _arguments(words)
    try:
        sources = Sources.of_this_machine(options.bundle, offline=options.offline)
        tools = prepare(REPOSITORY / TOOLS, sources, allow_current=options.allow_current)
        for role in options.roles:
            image = options.images / role / f"{role}.efi"
            if not image.is_file():
                raise BootError(f"{image} is missing", hint=f"python3 -m tools.imagebuild build {role}")
            with tempfile.TemporaryDirectory(prefix="outlayer-boot-") as name:
                folder = Path(name)
                programs = programs_of(tools.root, folder)
                kvm = options.kvm == "auto" and kvm_works(programs, folder)
                if options.hostile:
                    for hostile in options.hostile:
                        said = endure(hostile, image, programs, folder / hostile, options.seconds, kvm=kvm)
                        sys.stdout.write(f"a host that {HOSTILE[hostile].what}: the {role}'s VM {said}\n")
                    continue
                began = time.monotonic()
                proof = prove(role, image, programs, folder, options.seconds, kvm=kvm)
                report(role, proof, time.monotonic() - began, kvm=kvm)
    except (AttestationError, DebrootError, CliError) as error:
        sys.stderr.write(f"error: {error}\n" + (f"  hint: {error.hint}\n" if error.hint else ""))
        return 1
    return 0


def report(role: str, proof: Proof, seconds: float, *, kvm: bool) -> None:
    """Say what was shown, and what was not."""
    events = ", ".join(f"{name} {count}" for name, count in proof.events.items())
    how = "KVM" if kvm else "emulated CPU"
    sys.stdout.write(
        f"{role}: healthy after {proof.seconds:.0f} s ({how}), {seconds:.0f} s in all\n"
        f"  events equal to the prediction: {events}\n"
        f"  PCRs equal to the replay of the log: {proof.registers}\n"
        f"  RTMR3 by the agent's word: {proof.rtmr3}\n"
        "  NOT SHOWN HERE, only TDX hardware can: MRTD, the TD HOB and configuration volume in RTMR0, and that the\n"
        "  firmware, stub and kernel extend RTMRs where they extended a TPM's registers\n"
    )


if __name__ == "__main__":
    sys.exit(main())
