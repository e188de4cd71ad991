# SPDX-License-Identifier: MIT
"""What goes into an executor and what comes out of it. Standard library only: executors import this."""

from __future__ import annotations

import enum
from dataclasses import dataclass

MIB = 1024 * 1024
STDERR_LIMIT = MIB
ERROR_TEXT_LIMIT = 512


class Category(enum.StrEnum):
    """Why a guest has no result. The values are the ``error_category`` of a completion."""

    GUEST_EXIT = "guest_exit"
    GUEST_TRAP = "guest_trap"
    INSTRUCTIONS = "out_of_instructions"
    MEMORY = "out_of_memory"
    OUTPUT = "output_limit"
    TIMEOUT = "timeout"
    INVALID_WASM = "invalid_wasm"
    MISSING_IMPORT = "missing_import"
    COMPILE_LIMIT = "compile_limit"
    CRASHED = "executor_crashed"


class Kind(enum.StrEnum):
    """The two things a guest can be, told apart by the header of its bytes."""

    MODULE = "module"
    COMPONENT = "component"


def kind_of(wasm: bytes) -> Kind | None:
    """Module or component by the 8-byte preamble (WebAssembly core §5.5.16, component-model Binary.md).

    None when the bytes are neither; nothing else of them is looked at.
    """
    if wasm[:8] == b"\0asm\x01\0\0\0":
        return Kind.MODULE
    if wasm[:8] == b"\0asm\x0d\0\x01\0":
        return Kind.COMPONENT
    return None


@dataclass(frozen=True)
class Limits:
    """What one run may use. ``instructions`` are wasmtime fuel units, about one per WASM instruction."""

    instructions: int
    memory_bytes: int
    seconds: float
    output_bytes: int


@dataclass(frozen=True)
class RunResult:
    """What one run did.

    ``instructions`` are exact, but for a guest that ran out of time: what it spent is not known, so its
    budget counts.
    """

    output: bytes
    stderr: bytes
    instructions: int
    time_ms: int
    category: Category | None = None
    message: str = ""

    @property
    def success(self) -> bool:
        return self.category is None


def bounded_text(text: str, limit: int = ERROR_TEXT_LIMIT) -> str:
    """At most ``limit`` bytes of UTF-8, cut between characters, control characters made spaces."""
    clean = "".join(char if char.isprintable() else " " for char in text).strip()
    return clean.encode("utf-8", "replace")[:limit].decode("utf-8", "ignore")
