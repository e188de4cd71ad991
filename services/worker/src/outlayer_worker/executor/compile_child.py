# SPDX-License-Identifier: MIT
"""Compiles one guest and ends.

Reads the WASM from one inherited memory file, writes machine code to another, and says on stdout how it went.
"""

from __future__ import annotations

import json
import os
import sys

import wasmtime
from wasmtime import component as wit

from outlayer_worker.errors import JobError
from outlayer_worker.executor import sandbox
from outlayer_worker.executor.engine import QUICK_ABOVE_BYTES, make_engine
from outlayer_worker.executor.guest import check_imports
from outlayer_worker.executor.model import Category, Kind, bounded_text, kind_of


def compile_guest(wasm: bytes) -> tuple[Kind, bytes]:
    """Machine code for a guest that executors can run. Raises ``JobError`` when it is none."""
    kind = kind_of(wasm)
    if kind is None:
        raise JobError(Category.INVALID_WASM, "the bytes are neither a WASM module nor a component")
    engine = make_engine(quick=len(wasm) > QUICK_ABOVE_BYTES)
    try:
        compiled = wasmtime.Module(engine, wasm) if kind is Kind.MODULE else wit.Component(engine, wasm)
        check_imports(compiled, engine)
        return kind, bytes(compiled.serialize())
    except wasmtime.WasmtimeError as error:
        raise JobError(Category.INVALID_WASM, bounded_text(f"the guest does not compile: {error}")) from error


def main(arguments: list[str]) -> None:
    source, target, parent, data_bytes, cpu_seconds = (int(item) for item in arguments)
    sandbox.enter(parent=parent, data_bytes=data_bytes, cpu_seconds=cpu_seconds)
    os.nice(5)
    with os.fdopen(source, "rb") as file:
        file.seek(0)
        wasm = file.read()
    try:
        kind, code = compile_guest(wasm)
    except JobError as error:
        report = {"category": error.category, "message": error.message}
    else:
        with os.fdopen(target, "wb") as file:
            file.write(code)
        report = {"kind": kind}
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1:])
