# SPDX-License-Identifier: MIT
"""Another machine and another day, for a build: clock, kernel, host name and the order in which folders are read.

The clock is libfaketime's, the rest is `elsewhere.c`. Both are preloaded by /etc/ld.so.preload, since a program that
mkosi starts gets an empty environment. The clock of this machine is never set.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from tools.debroot.__main__ import available_packages, prepare, read_lock
from tools.debroot.fetch import Sources
from tools.debroot.process import find
from tools.debroot.sandbox import RECORD, Bind, Surroundings, run_inside
from tools.imagebuild.locks import FAKETIME, TOOLS

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "elsewhere.c"
_LIBRARY = "usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
_FOLDER = "etc/elsewhere"
KERNEL = "4.4.302-other"
HOST = "another-machine"
PROGRAMS = "programs"


@dataclass(frozen=True, slots=True)
class Seen:
    """What one program of a build saw when it started.

    Attributes:
        where: `tools` for the root that builds, `mkosi` for mkosi's own sandbox, `image` for the tree that is made.
        day: its date, UTC.
        program: path of its file.
    """

    where: str
    day: date
    kernel: str
    host: str
    program: str


def another_machine(repository: Path, day: date, folder: Path) -> Surroundings:
    """Surroundings on that day, kept in `folder`; a build begins at noon.

    Errors:
        DebrootError: libfaketime or the root with the compiler is not to be had.
    """
    sources = Sources.of_this_machine()
    etc, record, given = (folder / name for name in ("etc", "record", "given"))
    for each in (etc / "elsewhere", record, given):
        each.mkdir(parents=True)
    record.chmod(0o777)
    packages = available_packages(read_lock(repository / FAKETIME), sources, allow_current=True)
    (package,) = (item for item in packages.lock.packages if item.package == "libfaketime")
    subprocess.run([find("dpkg-deb"), "-x", packages.files[package.sha256], folder / "package"], check=True)
    (folder / "package" / _LIBRARY).rename(etc / "elsewhere/libfaketime.so")
    (given / SOURCE.name).write_bytes(SOURCE.read_bytes())
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    shift = int((noon - datetime.now(UTC)).total_seconds())
    words = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", "/out/elsewhere.so"]
    words += [f'-DKERNEL="{KERNEL}"', f"/vendor/{SOURCE.name}"]
    run_inside(
        prepare(repository / TOOLS, sources, allow_current=True).root,
        words,
        binds=[Bind(given, "/vendor"), Bind(etc / "elsewhere", "/out", writable=True)],
        what="compiling what is preloaded",
    )
    (etc / "faketimerc").write_text(f"{shift:+d}\n")
    libraries = [f"/{_FOLDER}/{name}" for name in ("elsewhere.so", "libfaketime.so")]
    (etc / "ld.so.preload").write_text("".join(f"{library}\n" for library in libraries))
    return Surroundings(HOST, etc, record)


def seen(surroundings: Surroundings) -> list[Seen]:
    """What the programs of the builds recorded, in the order in which they started."""
    assert surroundings.record is not None, f"nothing is recorded without {RECORD}"
    lines = (surroundings.record / PROGRAMS).read_text().splitlines()
    fields = [line.split(" ", 4) for line in lines]
    return [
        Seen(where, datetime.fromtimestamp(int(clock), UTC).date(), kernel, host, program)
        for where, clock, kernel, host, program in fields
    ]
