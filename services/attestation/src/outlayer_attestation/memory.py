# SPDX-License-Identifier: MIT
"""Memories of pure functions of bytes: bounded in number and in size, and safe in threads.

The key of a memory is all of the function's arguments, compared by value and never by a digest, so an answer
can only be that for the same bytes. A raised error is not remembered. What is larger than the bound is
worked out each time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, Final, ParamSpec, TypeVar

ENTRIES: Final = 32
MAX_SIZE: Final = 64 * 1024
"""Bytes or characters of one entry's arguments together. Intel's chains and CRLs have 2 to 4 KB."""

_P = ParamSpec("_P")
_R = TypeVar("_R")
_memories: list[Callable[[], None]] = []


def remembered(
    *, entries: int = ENTRIES, max_size: int = MAX_SIZE, size: Callable[..., int] | None = None
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Remember a function's last results; ``size`` measures its arguments (default: their lengths)."""
    measure = size or (lambda *arguments: sum(map(len, arguments)))

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        once: Any = lru_cache(entries)(function)
        _memories.append(once.cache_clear)

        @wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            if measure(*args, **kwargs) > max_size:
                return function(*args, **kwargs)
            found: _R = once(*args, **kwargs)
            return found

        return call

    return decorate


def forget() -> None:
    """Empty every memory: what a process that has seen nothing would do."""
    for clear in _memories:
        clear()
