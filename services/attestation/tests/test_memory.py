# SPDX-License-Identifier: MIT
"""Memories: bounded, keyed by every byte, and safe in threads."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from outlayer_attestation.memory import forget, remembered


class Answer:
    """Something that can be referred to weakly."""

    def __init__(self, value: bytes) -> None:
        self.value = value


def test_an_answer_is_kept_for_the_same_bytes_only() -> None:
    asked: list[tuple[bytes, bytes]] = []

    @remembered()
    def join(first: bytes, second: bytes) -> bytes:
        asked.append((first, second))
        return first + second

    for _ in range(2):
        assert join(b"ab", b"c") == b"abc"
        assert join(b"a", b"bc") == b"abc"
        assert join(b"ab", b"C") == b"abC"
    assert asked == [(b"ab", b"c"), (b"a", b"bc"), (b"ab", b"C")]


def test_an_error_is_not_kept() -> None:
    asked: list[bytes] = []

    @remembered()
    def refuse(data: bytes) -> None:
        asked.append(data)
        raise ValueError(data)

    for _ in range(2):
        with pytest.raises(ValueError, match="x"):
            refuse(b"x")
    assert len(asked) == 2


def test_neither_many_nor_large_entries_stay() -> None:
    @remembered(entries=2, max_size=4)
    def wrap(data: bytes) -> Answer:
        return Answer(data)

    made = [weakref.ref(wrap(data)) for data in (b"1", b"2", b"3", b"large")]
    gc.collect()
    assert [reference() is not None for reference in made] == [False, True, True, False]
    assert wrap(b"large").value == b"large"


def test_forgetting_empties_every_memory() -> None:
    asked: list[bytes] = []

    @remembered()
    def note(data: bytes) -> int:
        asked.append(data)
        return len(data)

    assert (note(b"x"), note(b"x")) == (1, 1)
    forget()
    assert note(b"x") == 1
    assert len(asked) == 2


def test_threads_get_the_answers_to_their_own_questions() -> None:
    @remembered(entries=3)
    def double(data: bytes) -> bytes:
        return data * 2

    questions = [bytes([number % 7]) for number in range(2000)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(double, questions)) == [question * 2 for question in questions]
