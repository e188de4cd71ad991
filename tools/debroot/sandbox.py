# SPDX-License-Identifier: MIT
"""Run a program inside a root: own mounts, processes and, unless asked otherwise, no network.

The root itself is mounted read-only, so that one build cannot leave something for the next. What the program sees
is the same wherever it runs: fixed paths, user 0, clean environment, umask 022, UTC.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.debroot.errors import CommandError, SandboxUnavailableError
from tools.debroot.process import PATH, find

ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/sbin:/usr/bin",
    "HOME": "/tmp",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "USER": "root",
    "LOGNAME": "root",
}
# where the inside sees a folder that is laid over /etc, and where its programs may record
SURROUNDINGS = "/run/surroundings"
RECORD = "/run/record"
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


@dataclass(frozen=True, slots=True)
class Bind:
    """A folder or file of this machine, shown inside at `inside` (absolute, a folder or file that the root has)."""

    outside: Path
    inside: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a program could see of the machine that it runs on, and no result may depend on.

    Tests give other ones; everything else takes the default, which changes nothing.

    Attributes:
        hostname: the machine's name.
        etc: a folder laid over /etc of the root. Its `ld.so.preload`, of files in it, reaches every dynamically
            linked program, whatever environment that is started with. Roots made inside find it as
            SURROUNDINGS/etc.
        record: a folder, writable inside as RECORD.
    """

    hostname: str = "builder"
    etc: Path | None = None
    record: Path | None = None


USUAL = Surroundings()


def unshare_words(*, network: bool) -> list[str]:
    """The namespaces of a sandbox for this user; an ordinary user gets a user namespace as well."""
    words = [find("unshare"), "--mount", "--pid", "--fork", "--kill-child", "--ipc", "--uts"]
    if not network:
        words.append("--net")
    if os.geteuid() != 0:
        words += ["--user", "--map-root-user"]
    return words


def require_namespaces() -> None:
    """Errors:
    SandboxUnavailableError: this user may not make namespaces or mount in them here.
    """
    probe = [
        *unshare_words(network=False),
        "--",
        find("sh"),
        "-c",
        "mount -t tmpfs none /mnt && mount -t proc none /proc",
    ]
    done = subprocess.run(probe, env={"PATH": PATH}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SandboxUnavailableError(
            f"this user cannot make the namespaces of a build: {done.stderr.strip()[-300:]}",
            hint="run as root, or allow user namespaces (a container may need --privileged)",
        )


def run_inside(
    root: Path,
    command: Sequence[str],
    *,
    binds: Sequence[Bind] = (),
    environment: Mapping[str, str] | None = None,
    network: bool = False,
    cwd: str = "/",
    what: str = "",
    surroundings: Surroundings = USUAL,
) -> None:
    """Run a program in the root; its output goes to this process's standard error.

    Errors:
        SandboxUnavailableError: no namespaces here.
        CommandError: the program ended with another code than 0.
    """
    require_namespaces()
    script = _script(root, command, binds, {**ENVIRONMENT, **(environment or {})}, cwd, surroundings)
    words = [*unshare_words(network=network), "--", find("sh"), "-euc", script]
    done = subprocess.run(words, env={"PATH": PATH}, stdin=subprocess.DEVNULL, stdout=2, check=False)
    if done.returncode != 0:
        raise CommandError(
            f"{what or shlex.join(command)} failed (exit {done.returncode}); its output is above"
        )


def _script(
    root: Path,
    command: Sequence[str],
    binds: Sequence[Bind],
    environment: Mapping[str, str],
    cwd: str,
    surroundings: Surroundings,
) -> str:
    """The shell text that sets the mounts and enters the root. Every word from outside is quoted."""
    base = shlex.quote(str(root))
    lines = [
        "umask 022",
        # some machines lack the program; no build looks at the name
        f"hostname {shlex.quote(surroundings.hostname)} 2>/dev/null || true",
        f"cd {base}",
        # the bind gives the root a mount of its own, which can then be entered and made read-only
        f"mount --bind {base} {base}",
        f"cd {base}",
        "mount -t tmpfs -o mode=1777 none tmp",
        "mount -t tmpfs -o mode=0755 none run",
        "mount -t proc none proc",
        "mount -t tmpfs -o mode=0755 none dev",
        *(f"touch dev/{name}; mount --bind /dev/{name} dev/{name}" for name in _DEVICES),
        "mkdir dev/shm; mount -t tmpfs -o mode=1777 none dev/shm",
        *_surround(surroundings),
    ]
    for bind in binds:
        inside = shlex.quote(bind.inside.lstrip("/"))
        outside = shlex.quote(str(bind.outside))
        lines.append(f"mount --bind {outside} {inside}")
        if not bind.writable:
            lines.append(_read_only(inside))
    lines.append(_read_only("."))
    variables = " ".join(shlex.quote(f"{name}={value}") for name, value in sorted(environment.items()))
    enter = f"cd {shlex.quote(cwd)} && exec {shlex.join(command)}"
    lines.append(f"exec chroot . /usr/bin/env -i {variables} /bin/sh -c {shlex.quote(enter)}")
    return "\n".join(lines)


def _surround(surroundings: Surroundings) -> list[str]:
    """The mounts of other surroundings, below /run, which every root has and which is new."""
    lines = []
    if surroundings.etc is not None:
        inside = f"{SURROUNDINGS[1:]}/etc"
        lines += [
            f"mkdir -p {inside}",
            f"mount --bind {shlex.quote(str(surroundings.etc))} {inside}",
            f"cp -a etc run/etc; cp -a {inside}/. run/etc/",
            # loaded from below /run: what runs inside may forbid programs in /etc, as mkosi does
            f"[ ! -f run/etc/ld.so.preload ] || sed -i 's|^/|{SURROUNDINGS}/|' run/etc/ld.so.preload",
            "mount --bind run/etc etc",
        ]
    if surroundings.record is not None:
        inside = RECORD[1:]
        lines += [f"mkdir {inside}", f"mount --bind {shlex.quote(str(surroundings.record))} {inside}"]
    return lines


def _read_only(path: str) -> str:
    """Remount read-only. Flags that the mount below has are named again: a user namespace may not drop them."""
    return (
        f"mount -o remount,bind,ro {path} 2>/dev/null || mount -o remount,bind,ro,nosuid,nodev {path} 2>/dev/null"
        f" || mount -o remount,bind,ro,nosuid,nodev,noexec {path}"
    )
