# SPDX-License-Identifier: MIT
"""The Python wheels of a role: locked by file and SHA-256, found in a bundle, the cache, or by pip.

The lock comes from the workspace's hashed requirements, so that an image holds the versions that the tests ran
with. It names no index: where wheels come from is this machine's own pip configuration.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tools.debroot.cache import cache_home
from tools.debroot.errors import CommandError, ConfigurationError, CorruptInputError, InputsMovedError
from tools.debroot.fetch import INPUTS_VARIABLE, Sources, sha256_of
from tools.debroot.ledger import Kind, Origin
from tools.debroot.process import run
from tools.imagebuild.errors import WheelError
from tools.imagebuild.stage import PACKAGES

FORMAT = 1
PYTHON = "3.13"
GLIBC = 41  # of Debian trixie: 2.41
MAX_SIZE = 1 << 30
_FILENAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]*\.whl", re.ASCII)
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*", re.ASCII)
_VERSION = re.compile(r"[0-9][A-Za-z0-9.+!]*", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", re.MULTILINE)
_HINT = "make images-lock writes it"
# what reaches an index through a proxy, with a certificate or by a setting of this machine
_PASSED = re.compile(r"(?i:https?|no|all)_proxy|(?:PIP|UV)_[A-Z_]+|SSL_CERT_(?:FILE|DIR)|REQUESTS_CA_BUNDLE")


@dataclass(frozen=True, slots=True)
class Wheel:
    """One wheel: name normalised (PEP 503), size in bytes."""

    name: str
    version: str
    filename: str
    size: int
    sha256: str

    @property
    def local_name(self) -> str:
        """The name in a cache or an input bundle: by content alone."""
        return f"{self.sha256}.whl"


def parse_wheels(text: str) -> tuple[Wheel, ...]:
    """Read a lock of wheels.

    Errors:
        WheelError: not one; it names the field.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WheelError(f"the lock of wheels is not JSON: {error}", hint=_HINT) from error
    if (
        not isinstance(document, dict)
        or set(document) != {"format", "wheels"}
        or document["format"] != FORMAT
    ):
        raise WheelError(f"a lock of wheels has the fields format (= {FORMAT}) and wheels", hint=_HINT)
    if not isinstance(document["wheels"], list):
        raise WheelError("wheels is not a list", hint=_HINT)
    wheels = tuple(_wheel(item) for item in document["wheels"])
    names = [wheel.name for wheel in wheels]
    if names != sorted(set(names)):
        raise WheelError("the wheels are not sorted by name, or one is there twice", hint=_HINT)
    return wheels


def _wheel(item: object) -> Wheel:
    fields = {"name", "version", "filename", "size", "sha256"}
    if not isinstance(item, dict) or set(item) != fields:
        raise WheelError(f"a wheel has the fields {', '.join(sorted(fields))}", hint=_HINT)
    forms = (("name", _NAME), ("version", _VERSION), ("filename", _FILENAME), ("sha256", _SHA256))
    for field, form in forms:
        if not isinstance(item[field], str) or not form.fullmatch(item[field]):
            raise WheelError(f"{field} of a wheel has the wrong form: {item[field]!r}", hint=_HINT)
    size = item["size"]
    if not isinstance(size, int) or isinstance(size, bool) or not 0 < size < MAX_SIZE:
        raise WheelError(f"{item['name']}: size {size!r} is not a number of bytes", hint=_HINT)
    return Wheel(**item)


def wheels_text(wheels: Iterable[Wheel]) -> str:
    """The lock file, sorted by name."""
    ordered = sorted(wheels, key=lambda wheel: wheel.name)
    return json.dumps({"format": FORMAT, "wheels": [asdict(wheel) for wheel in ordered]}, indent=1) + "\n"


def fetch_wheels(wheels: Sequence[Wheel], sources: Sources) -> dict[str, Path]:
    """A verified local file for each wheel, by SHA-256.

    Errors:
        InputsMovedError: a wheel is in no bundle, not in the cache, and pip does not find it.
        CorruptInputError: a file has other bytes than its name says.
    """
    cache = cache_home() / "wheels"
    cache.mkdir(parents=True, exist_ok=True)
    found: dict[str, Path] = {}
    missing = []
    for wheel in wheels:
        folder = next(
            (folder for folder in (*sources.bundles, cache) if (folder / wheel.local_name).is_file()), None
        )
        if folder is None:
            missing.append(wheel)
            continue
        found[wheel.sha256] = _checked(folder / wheel.local_name, wheel)
        origin = Origin.CACHE if folder == cache else Origin.BUNDLE
        sources.ledger.note(Kind.WHEEL, wheel.sha256, origin, wheel.size)
    if missing and sources.mirrors is not None:
        _download(missing, cache)
    still = [wheel for wheel in missing if not (cache / wheel.local_name).is_file()]
    if still:
        lines = "".join(f"\n  {wheel.filename}  sha256:{wheel.sha256}" for wheel in still)
        asked = "pip" if sources.mirrors is not None else "offline: pip was not asked"
        raise InputsMovedError(
            f"{len(still)} locked wheels are in none of: input bundles, cache ({asked}){lines}",
            hint=f"give the inputs by hash (--bundle DIR or {INPUTS_VARIABLE}), or refresh the lock on purpose",
        )
    for wheel in missing:
        sources.ledger.note(Kind.WHEEL, wheel.sha256, Origin.DOWNLOADED, wheel.size)
    return found | {wheel.sha256: cache / wheel.local_name for wheel in missing}


def _checked(path: Path, wheel: Wheel) -> Path:
    digest = sha256_of(path)
    if digest != wheel.sha256:
        raise CorruptInputError(
            f"{path} should be {wheel.filename} with SHA-256 {wheel.sha256}, and has {digest}",
            hint="the file was changed or damaged; remove it, and find out how it came to be so",
        )
    return path


def _download(wheels: Sequence[Wheel], cache: Path) -> None:
    """Ask pip for exactly these files. What it does not give is missing afterwards, and said why on stderr."""
    lines = "".join(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n" for wheel in wheels)
    with tempfile.TemporaryDirectory(prefix=".wheels-", dir=cache) as folder:
        try:
            _pip_download(lines, Path(folder))
        except CommandError as error:
            print(f"fetch: {error}", file=sys.stderr)
        for path in Path(folder).glob("*.whl"):
            path.rename(cache / f"{sha256_of(path)}.whl")


def platforms() -> list[str]:
    """What runs on Debian trixie, newest first; pip expands none of the newer names by itself."""
    numbered = [f"manylinux_2_{minor}_x86_64" for minor in range(GLIBC, 4, -1)]
    return [*numbered, "manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]


def _pip_download(requirements: str, folder: Path) -> None:
    listing = folder / "requirements.txt"
    listing.write_text(requirements)
    words = [*_pip(), "download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    # what is kept is kept by us, under its hash
    words += ["--no-cache-dir"]
    words += ["--disable-pip-version-check", "--python-version", PYTHON, "--implementation", "cp"]
    words += [word for abi in ("cp313", "abi3", "none") for word in ("--abi", abi)]
    words += [word for platform in platforms() for word in ("--platform", platform)]
    words += ["--dest", str(folder), "--requirement", str(listing)]
    run(words, environment=_network(), what="fetching wheels")


def _network() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if _PASSED.fullmatch(name)}


def _pip() -> list[str]:
    """A pip: that of this Python, or of the workspace's tool environment."""
    candidates = [Path(sys.executable), *sorted((cache_home() / "uv").glob("*/bin/python"))]
    for python in candidates:
        try:
            run([python, "-m", "pip", "--version"])
        except (CommandError, ConfigurationError):
            continue
        return [str(python), "-m", "pip"]
    raise ConfigurationError("no pip was found to fetch wheels with", hint="make install brings one")


def resolve_wheels(repository: Path, role: str, uv: Path) -> tuple[Wheel, ...]:
    """The wheels that the role's packages need, in the versions of requirements/dev.txt.

    Errors:
        CommandError: a version is not to be had, or has no wheel for the images' Python.
    """
    own = [word for name in PACKAGES[role] for word in ("--no-emit-package", f"outlayer-{name}")]
    with tempfile.TemporaryDirectory(prefix="wheels-") as folder:
        listing = Path(folder) / "resolved.txt"
        words: list[str | Path] = [uv, "pip", "compile", "--quiet", "--python-version", PYTHON]
        words += ["--python-platform", f"x86_64-manylinux_2_{GLIBC - 1}", "--generate-hashes", "--no-header"]
        words += ["--no-annotate", "--constraint", "requirements/dev.txt", *own, "--output-file", listing]
        words.append(f"services/{role}/pyproject.toml")
        run(words, environment=_network(), cwd=repository, what="resolving the wheels")
        text = listing.read_text()
        target = Path(folder) / "wheels"
        target.mkdir()
        _pip_download(text, target)
        wheels = [_described(path, dict(_PINNED.findall(text))) for path in target.glob("*.whl")]
        cache = cache_home() / "wheels"
        cache.mkdir(parents=True, exist_ok=True)
        for wheel in wheels:
            shutil.copyfile(target / wheel.filename, cache / wheel.local_name)
    return tuple(sorted(wheels, key=lambda wheel: wheel.name))


def _described(path: Path, pinned: dict[str, str]) -> Wheel:
    name = re.sub(r"[-_.]+", "-", path.name.partition("-")[0]).lower()
    return Wheel(name, pinned[name], path.name, path.stat().st_size, sha256_of(path))
