# SPDX-License-Identifier: MIT
"""Make a root file system from locked packages: unpacked, nothing run, nothing asked of the network.

Maintainer scripts are not run. What a build needs of their work is a list of links, which is data here, so that
the root is a function of the lock alone. Works for any user: files belong to whoever unpacks them.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tools.debroot.cache import folder_once
from tools.debroot.errors import CommandError
from tools.debroot.ledger import Kind, Ledger, Origin
from tools.debroot.lockfile import Lock
from tools.debroot.process import PATH, find

# changes whenever the way a root is made changes, so that an old one is not taken for a new one
ROOT_FORMAT = 1

# what base-files' and the compiler's maintainer scripts would have made, where the target exists
LINKS: Mapping[str, str] = {
    "usr/bin/cc": "gcc",
    "usr/bin/c++": "g++",
    "usr/bin/awk": "mawk",
    "usr/bin/wasm-ld": "wasm-ld-19",
}
MERGED = ("bin", "sbin", "lib", "lib64")
# empty files, for a step with network to mount this machine's own over
MOUNT_FILES = ("etc/resolv.conf", "etc/hosts", "etc/ssl/certs/ca-certificates.crt")
MOUNT_POINTS = ("proc", "dev", "tmp", "run", "build", "vendor", "cargo", "target", "out")


def root_key(lock: Lock) -> str:
    return f"{ROOT_FORMAT}-{lock.digest()[:32]}"


def make_root(lock: Lock, files: Mapping[str, Path], home: Path, ledger: Ledger | None = None) -> Path:
    """The root of a lock, from the cache or new, as `ledger` says. `files` maps SHA-256 to a verified .deb."""
    key, noted = root_key(lock), Ledger() if ledger is None else ledger

    def make(fresh: Path) -> None:
        _fill(fresh / "root", lock, files)
        noted.note(Kind.ROOT, key, Origin.BUILT)

    folder = folder_once(home, key, make)
    noted.note(Kind.ROOT, key, Origin.CACHE)
    return folder / "root"


def _fill(root: Path, lock: Lock, files: Mapping[str, Path]) -> None:
    umask = os.umask(0o022)
    try:
        _unpack_all(root, lock, files)
    finally:
        os.umask(umask)


def _unpack_all(root: Path, lock: Lock, files: Mapping[str, Path]) -> None:
    root.mkdir()
    for name in MERGED:
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in lock.packages:
        _unpack(files[package.sha256], root)
    for name, target in LINKS.items():
        path = root / name
        if not path.exists() and (path.parent / target).exists():
            path.symlink_to(target)
    for name in MOUNT_POINTS:
        (root / name).mkdir(exist_ok=True)
    for name in MOUNT_FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    etc = root / "etc"
    (etc / "passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    (etc / "group").write_text("root:x:0:\n")


def _unpack(deb: Path, root: Path) -> None:
    # keep-directory-symlink: /lib stays the link into /usr also where a package ships /lib as a folder
    tar = ["tar", "--extract", "--file=-", "--directory", root, "--keep-directory-symlink", "--no-same-owner"]
    environment = {"PATH": PATH, "LC_ALL": "C"}
    with subprocess.Popen(
        [find("dpkg-deb"), "--fsys-tarfile", deb], stdout=subprocess.PIPE, env=environment
    ) as source:
        done = subprocess.run(
            [find("tar"), *map(str, tar[1:]), "--preserve-permissions"],
            stdin=source.stdout,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0 or source.returncode != 0:
        raise CommandError(f"{deb.name} could not be unpacked: {done.stderr[-1000:]}")
