# SPDX-License-Identifier: MIT
"""Build the TDX firmware (edk2's IntelTdx platform) from Debian's locked source package, without vendor keys.

Upstream's tarball with Debian's patch series, since upstream alone lacks fixes that the build needs. The sources
lie at one fixed path: edk2 puts paths into its modules, so another path gives other bytes.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tools.debroot.cache import cache_home, folder_once
from tools.debroot.ledger import Kind, Ledger, Origin
from tools.debroot.sandbox import USUAL, Bind, Surroundings, run_inside
from tools.imagebuild.errors import ImageBuildError

FILE = "OVMF.fd"
PLATFORM = "OvmfPkg/IntelTdx/IntelTdxX64.dsc"
EDK2 = 202502
"""The stable tag of the source package: decides which events the firmware writes."""

_SCRIPT = f"""\
set -eu
cd /target
tar --extract --file /vendor/upstream --strip-components 1 --no-same-owner
tar --extract --file /vendor/debian --no-same-owner
while read -r patch rest; do
    case "$patch" in ''|'#'*) continue ;; esac
    patch --quiet --strip 1 --forward <"debian/patches/$patch"
done <debian/patches/series
mkdir -p /tmp/bin
ln -sf /usr/bin/gcc /tmp/bin/cc
ln -sf /usr/bin/python3 /tmp/bin/python
export PATH=/tmp/bin:$PATH PYTHON_COMMAND=python3 PYTHONDONTWRITEBYTECODE=1
make --quiet -C BaseTools ARCH=X64 -j "$JOBS" >/tmp/tools.log 2>&1 || {{ tail -40 /tmp/tools.log; exit 1; }}
set +eu
. ./edksetup.sh >/dev/null
set -eu
build -n "$JOBS" -a X64 -t GCC5 -b RELEASE -p {PLATFORM} -D SECURE_BOOT_ENABLE=FALSE >/tmp/build.log 2>&1 || {{
    tail -60 /tmp/build.log
    exit 1
}}
cp Build/IntelTdx/RELEASE_GCC5/FV/{FILE} /out/{FILE}
"""


def build_firmware(
    tool_root: Path,
    sources: Mapping[str, Path],
    out: Path,
    *,
    jobs: int = 2,
    surroundings: Surroundings = USUAL,
    ledger: Ledger | None = None,
) -> Path:
    """Write out/OVMF.fd, built or from the cache.

    Args:
        sources: file name -> verified file of the source package.
        ledger: is told which of the two.

    Errors:
        ImageBuildError: the source package does not have the two tarballs that are expected.
        CommandError: the build failed; its last lines are on stderr.
    """
    key = hashlib.sha256(
        "\n".join([tool_root.parent.name, _SCRIPT, *_digests(sources)]).encode()
    ).hexdigest()[:32]
    noted = Ledger() if ledger is None else ledger

    def make(fresh: Path) -> None:
        compile_firmware(tool_root, sources, fresh, jobs=jobs, surroundings=surroundings)
        noted.note(Kind.FIRMWARE, key, Origin.BUILT)

    made = folder_once(cache_home() / "firmware", key, make)
    noted.note(Kind.FIRMWARE, key, Origin.CACHE)
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(made / FILE, out / FILE)
    return out / FILE


def compile_firmware(
    tool_root: Path,
    sources: Mapping[str, Path],
    out: Path,
    *,
    jobs: int,
    surroundings: Surroundings = USUAL,
) -> None:
    """Build anew into `out`."""
    upstream = _one(sources, ".orig.tar.")
    debian = _one(sources, ".debian.tar.")
    scratch_home = cache_home() / "scratch"
    scratch_home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="firmware-", dir=scratch_home) as folder:
        given, work = Path(folder) / "given", Path(folder) / "work"
        given.mkdir()
        work.mkdir()
        shutil.copyfile(upstream, given / "upstream")
        shutil.copyfile(debian, given / "debian")
        run_inside(
            tool_root,
            ["bash", "-c", _SCRIPT],
            binds=[
                Bind(given, "/vendor"),
                Bind(work, "/target", writable=True),
                Bind(out, "/out", writable=True),
            ],
            environment={"JOBS": str(jobs), "SOURCE_DATE_EPOCH": "0"},
            what="building the firmware",
            surroundings=surroundings,
        )


def _one(sources: Mapping[str, Path], part: str) -> Path:
    found = [path for name, path in sources.items() if part in name]
    if len(found) != 1:
        raise ImageBuildError(f"the source package of edk2 has {len(found)} files like *{part}*, not one")
    return found[0]


def _digests(sources: Mapping[str, Path]) -> list[str]:
    digests = []
    for name, path in sorted(sources.items()):
        with path.open("rb") as handle:
            digests.append(f"{hashlib.file_digest(handle, 'sha256').hexdigest()} {name}")
    return digests
