# SPDX-License-Identifier: MIT
"""Builds the component: ``python examples/echo-python/build.py --out echo-python.wasm``.

Needs componentize-py (a wheel, no compiler). The result is kept by the hash of what goes into it, under
``$OUTLAYER_CACHE`` or ``~/.cache/outlayer``.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
WIT = HERE.parent / "wit"
WORLD = "app"


def input_digest() -> str:
    """Hex SHA-256 over everything that decides the component's bytes."""
    digest = hashlib.sha256(metadata.version("componentize-py").encode())
    for path in [HERE / "app.py", *sorted(WIT.rglob("*.wit"))]:
        data = path.read_bytes()
        digest.update(f"\n{path.relative_to(HERE.parent)} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def cache_folder() -> Path:
    return Path(os.environ.get("OUTLAYER_CACHE") or Path.home() / ".cache" / "outlayer") / "guests"


def componentize(target: Path) -> None:
    """Run componentize-py on a copy of the sources, so that its by-products stay out of the tree."""
    tool = Path(sys.executable).with_name("componentize-py")
    command = [str(tool) if tool.exists() else "componentize-py", "-d", str(WIT), "-w", WORLD]
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(HERE / "app.py", folder)
        command += ["componentize", "app", "-p", ".", "-o", str(target)]
        # a fixed hash seed: the interpreter's state after start-up is part of the component
        env = {**os.environ, "PYTHONHASHSEED": "0"}
        answer = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise SystemExit(f"componentize-py failed:\n{answer.stdout}{answer.stderr}")


def build(out: Path) -> Path:
    """The component at ``out``, from the cache when its inputs are known."""
    kept = cache_folder() / f"echo-python-{input_digest()}.wasm"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}.partial")
        componentize(partial)
        partial.replace(kept)
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(kept, out)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where the component goes")
    out = build(parser.parse_args().out.resolve())
    print(f"{hashlib.sha256(out.read_bytes()).hexdigest()}  {out}")


if __name__ == "__main__":
    main()
