# SPDX-License-Identifier: MIT
"""What chronyd knows about the clock: in a VM the one that steers it, in a container one that only asks.

Both are authenticated by NTS, so that the network between cannot choose the time. Formats: ``chronyc -c tracking``
of chronyc(1) and the message of ``chronyd -Q`` of chronyd(8), chrony 4.6.
"""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from outlayer_attestation.errors import VmError
from outlayer_attestation.vm.clock import Comparison, Instant

CHRONYC: Final = ("/usr/bin/chronyc", "-c", "-n", "tracking")
CHRONYD: Final = "/usr/sbin/chronyd"
CHRONYC_SECONDS: Final = 10.0
QUERY_SECONDS: Final = 20
_FIELDS: Final = 14
_UNSYNCHRONISED: Final = "Not synchronised"
_DIFFERENCE: Final = re.compile(r"System clock wrong by (-?[0-9]{1,12}\.[0-9]{1,9}) seconds \(ignored\)")
_MAX_OUTPUT: Final = 64 * 1024

Run = Callable[[Sequence[str], float], subprocess.CompletedProcess[str]]


def run_program(words: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a program of the image, without input; its standard error comes with its output."""
    return subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        timeout=seconds,
        check=False,
    )


@dataclass(frozen=True, slots=True)
class Tracking:
    """What the chronyd that steers the clock says.

    Attributes:
        updated: realtime at which a server last confirmed the clock.
        difference: what is still to be corrected, and the uncertainty of that.
    """

    updated: float
    difference: float


def parse_tracking(text: str) -> Tracking | None:
    """Read ``chronyc -c tracking``; None while chronyd is not synchronised. Raises ``VmError``."""
    fields = text.strip().split(",")
    try:
        if len(fields) != _FIELDS:
            raise ValueError("another number of fields")
        updated, offset, delay, dispersion = (float(fields[index]) for index in (3, 4, 10, 11))
        if not all(math.isfinite(value) for value in (updated, offset, delay, dispersion)):
            raise ValueError("no number")
    except ValueError:
        raise VmError(f"chronyc said {text[:200]!r}, which is no tracking report") from None
    if fields[-1] == _UNSYNCHRONISED or updated <= 0:
        return None
    # chrony(8): the true time is within half of the root delay and the root dispersion
    return Tracking(updated, abs(offset) + abs(delay) / 2 + abs(dispersion))


def tracking(run: Run = run_program) -> Tracking | None:
    """Ask the VM's chronyd; None while it does not answer or is not synchronised. Raises ``VmError``."""
    try:
        done = run(CHRONYC, CHRONYC_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_tracking(done.stdout) if done.returncode == 0 else None


def parse_query(text: str) -> float | None:
    """The difference that ``chronyd -Q`` found, in seconds; None when it found none."""
    found = _DIFFERENCE.findall(text[-_MAX_OUTPUT:])
    return abs(float(found[-1])) if found else None


@dataclass(frozen=True, slots=True)
class Answer:
    """What one query gave.

    Attributes:
        comparison: None when no server confirmed a time.
        said: the last lines of chronyd, which name the reason.
    """

    comparison: Comparison | None
    said: str


def query(
    directives: Sequence[str], seconds: int, now: Callable[[], Instant], run: Run = run_program
) -> Answer:
    """Compare the clock with the servers, and never set it. Blocks for some seconds, up to ``seconds``."""
    words = [CHRONYD, "-Q", "-t", str(seconds), *directives]
    try:
        done = run(words, seconds + CHRONYC_SECONDS)
    except subprocess.TimeoutExpired:
        return Answer(None, f"chronyd did not end within {seconds} s")
    except OSError as error:
        return Answer(None, f"{CHRONYD} does not start: {error.strerror}")
    difference = parse_query(done.stdout) if done.returncode == 0 else None
    comparison = None if difference is None else Comparison(now(), difference)
    lines = [re.sub(r"^\S+Z ", "", line) for line in done.stdout.splitlines()]
    reasons = [line for line in lines if "starting" not in line and "exiting" not in line]
    return Answer(comparison, "; ".join(reasons[-3:])[:500])
