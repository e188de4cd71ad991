# SPDX-License-Identifier: MIT
"""The chain anchor of records: recent, final, never taken back, and never the host's word alone."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlayer_near.errors import RpcUnavailableError
from outlayer_near.primitives import b58encode
from outlayer_near.rpc import Header
from outlayer_worker.anchor import (
    FRESH_SECONDS,
    MAX_AGE_SECONDS,
    MAX_AHEAD_SECONDS,
    AnchorReader,
    check_clock,
    newer,
)
from outlayer_worker.errors import AnchorError

NOW = 1_800_000_000.0


def block(height: int, at: float, *, chain: int = 0) -> Header:
    """The block of a height; blocks of another ``chain`` have other hashes."""
    digest = bytes([chain]) + height.to_bytes(31, "big")
    return Header(height, b58encode(digest), round(at * 1e9))


@dataclass
class Node:
    """A node that answers with ``answers`` in turn, the last one for ever; both clocks stand still."""

    answers: list[Header | Exception]
    wall: float = NOW
    ticks: float = 100.0
    asked: int = 0
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.open.set()

    async def read(self) -> Header:
        self.asked += 1
        self.begun.set()
        await self.open.wait()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def reader(self) -> AnchorReader:
        return AnchorReader(self.read, clock=lambda: self.wall, monotonic=lambda: self.ticks)

    def wait(self, seconds: float) -> None:
        self.wall += seconds
        self.ticks += seconds


async def test_a_fresh_block_serves_without_another_question() -> None:
    node = Node([block(7, NOW - 1), block(8, NOW)])
    reader = node.reader()
    assert (await reader.current()).height == 7
    node.wait(FRESH_SECONDS - 0.01)
    assert (await reader.current()).height == 7
    assert node.asked == 1
    node.wait(0.02)
    assert (await reader.current()).height == 8
    assert node.asked == 2


async def test_many_jobs_wait_for_one_question() -> None:
    node = Node([block(7, NOW - 1)])
    reader = node.reader()
    found = await asyncio.gather(*(reader.current() for _ in range(20)))
    assert {item.height for item in found} == {7}
    assert node.asked == 1


async def test_a_job_that_is_given_up_does_not_take_the_answer_from_the_others() -> None:
    node = Node([block(7, NOW - 1)])
    node.open.clear()
    reader = node.reader()
    jobs = [asyncio.create_task(reader.current()) for _ in range(2)]
    await asyncio.sleep(0)
    jobs[0].cancel()
    await asyncio.wait(jobs[:1])
    node.open.set()
    assert (await jobs[1]).height == 7
    assert jobs[0].cancelled()
    assert node.asked == 1


async def test_what_was_read_during_the_run_is_there_when_it_ends() -> None:
    node = Node([block(7, NOW - 1)])
    reader = node.reader()
    reader.prefetch()
    await node.begun.wait()
    await asyncio.sleep(0)
    node.open.clear()
    async with asyncio.timeout(5):
        assert (await reader.current()).height == 7
    reader.prefetch()
    await asyncio.sleep(0)
    assert node.asked == 1


async def test_an_answer_that_came_late_is_as_old_as_its_question() -> None:
    node = Node([block(7, NOW - 1), block(8, NOW)])
    node.open.clear()
    reader = node.reader()
    waiting = asyncio.create_task(reader.current())
    await node.begun.wait()
    node.wait(FRESH_SECONDS + 1)
    node.open.set()
    assert (await waiting).height == 7
    assert (await reader.current()).height == 8


@pytest.mark.parametrize(
    ("age", "fits"),
    [
        (MAX_AGE_SECONDS, True),
        (MAX_AGE_SECONDS + 1, False),
        (0, True),
        (-MAX_AHEAD_SECONDS, True),
        (-MAX_AHEAD_SECONDS - 1, False),
        (12 * 3600, False),
        (-12 * 3600, False),
    ],
)
async def test_a_block_that_does_not_fit_the_clock_is_refused(age: float, fits: bool) -> None:
    reader = Node([block(7, NOW - age)]).reader()
    if fits:
        assert (await reader.current()).height == 7
        return
    with pytest.raises(AnchorError, match=f"{abs(age):.0f} s") as refused:
        await reader.current()
    assert refused.value.hint


async def test_a_clock_set_while_a_block_is_fresh_makes_the_worker_refuse() -> None:
    node = Node([block(7, NOW - 1)])
    reader = node.reader()
    await reader.current()
    node.wall -= 12 * 3600
    with pytest.raises(AnchorError, match="ahead"):
        await reader.current()
    node.wall += 24 * 3600
    with pytest.raises(AnchorError, match="old"):
        await reader.current()


async def test_after_a_refusal_the_node_is_asked_again_at_once() -> None:
    node = Node([block(7, NOW - 100), block(150, NOW - 1)])
    reader = node.reader()
    with pytest.raises(AnchorError):
        await reader.current()
    assert (await reader.current()).height == 150


async def test_a_machine_that_slept_does_not_serve_the_block_of_before() -> None:
    node = Node([block(7, NOW - 1), block(9000, NOW + 3600)])
    reader = node.reader()
    await reader.current()
    node.wall += 3601  # the monotonic clock stood still
    with pytest.raises(AnchorError):
        await reader.current()
    assert (await reader.current()).height == 9000


async def test_a_node_that_lags_does_not_take_the_anchor_back() -> None:
    node = Node([block(9, NOW - 1), block(7, NOW - 3), block(10, NOW)])
    reader = node.reader()
    heights = []
    for _ in range(3):
        heights.append((await reader.current()).height)
        node.wait(FRESH_SECONDS)
    assert heights == [9, 9, 10]
    assert node.asked == 3


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(block(7, NOW - 1, chain=1), id="another hash at the same height"),
        pytest.param(block(7, NOW - 2), id="another time at the same height"),
        pytest.param(block(8, NOW - 1.5), id="a later block of an earlier time"),
        pytest.param(block(6, NOW), id="an earlier block of a later time"),
        pytest.param(Header(8, block(7, 0).hash, round(NOW * 1e9)), id="the same hash at another height"),
    ],
)
async def test_a_block_that_contradicts_the_one_before_is_refused(second: Header) -> None:
    node = Node([block(7, NOW - 1), second, block(8, NOW)])
    reader = node.reader()
    await reader.current()
    node.wait(FRESH_SECONDS)
    with pytest.raises(AnchorError, match="contradict") as refused:
        await reader.current()
    assert refused.value.hint
    assert (await reader.current()).height == 8, "an honest answer mends it"


async def test_a_made_up_block_stops_the_worker_no_longer_than_it_fits_the_clock() -> None:
    node = Node([block(2**63, NOW), block(8, NOW + MAX_AGE_SECONDS)])
    reader = node.reader()
    assert (await reader.current()).height == 2**63
    node.wait(MAX_AGE_SECONDS - 1)
    with pytest.raises(AnchorError, match="contradict"):
        await reader.current()
    node.wait(2)
    assert (await reader.current()).height == 8


async def test_a_block_of_the_future_is_not_kept() -> None:
    node = Node([block(2**63, NOW + 3600), block(8, NOW)])
    reader = node.reader()
    with pytest.raises(AnchorError, match="ahead"):
        await reader.current()
    assert (await reader.current()).height == 8


async def test_a_node_that_is_down_is_told_to_each_and_asked_by_the_next() -> None:
    node = Node([RpcUnavailableError("down"), block(7, NOW - 1)])
    reader = node.reader()
    results = await asyncio.gather(*(reader.current() for _ in range(3)), return_exceptions=True)
    assert [type(item) for item in results] == [RpcUnavailableError] * 3
    assert node.asked == 1
    assert (await reader.current()).height == 7


async def test_a_node_that_is_down_for_a_while_does_not_spoil_a_fresh_block() -> None:
    node = Node([block(7, NOW - 1), RpcUnavailableError("down")])
    reader = node.reader()
    await reader.current()
    node.wait(FRESH_SECONDS / 2)
    assert (await reader.current()).height == 7
    node.wait(FRESH_SECONDS)
    with pytest.raises(RpcUnavailableError):
        await reader.current()


async def test_a_restarted_worker_begins_with_what_it_reads() -> None:
    node = Node([block(9, NOW - 1), block(8, NOW - 2)])
    assert (await node.reader().current()).height == 9
    assert (await node.reader().current()).height == 8


async def test_closing_stops_a_question_under_way() -> None:
    node = Node([block(7, NOW)])
    node.open.clear()
    reader = node.reader()
    await reader.close()
    waiting = asyncio.create_task(reader.current())
    await node.begun.wait()
    await reader.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


headers = st.builds(
    Header,
    height=st.integers(0, 5),
    hash=st.sampled_from([block(number, 0).hash for number in range(6)]),
    timestamp_ns=st.integers(0, 5),
)


@given(st.lists(headers, max_size=8))
def test_whatever_a_node_tells_the_anchor_never_goes_back(told: list[Header]) -> None:
    known: Header | None = None
    for found in told:
        try:
            best = newer(known, found)
        except AnchorError:
            continue
        assert best in (known, found)
        if known is not None:
            assert best == known or (best.height > known.height and best.timestamp_ns > known.timestamp_ns)
        known = best


@given(st.integers(0, 2**64 - 1), st.floats(0, 2**40))
def test_any_time_fits_the_clock_or_is_refused(timestamp_ns: int, now: float) -> None:
    age = now - timestamp_ns / 1e9
    try:
        check_clock(Header(1, block(1, 0).hash, timestamp_ns), now)
    except AnchorError:
        assert not -MAX_AHEAD_SECONDS <= age <= MAX_AGE_SECONDS
    else:
        assert -MAX_AHEAD_SECONDS <= age <= MAX_AGE_SECONDS
