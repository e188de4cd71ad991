# SPDX-License-Identifier: MIT
"""When a clock counts: what chronyd says, how old that may be, jumps in between; with clocks made by the test."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlayer_attestation.errors import VmError
from outlayer_attestation.vm import chrony
from outlayer_attestation.vm.chrony import Answer, Tracking, parse_query, parse_tracking
from outlayer_attestation.vm.clock import (
    BOUND_SECONDS,
    DRIFT,
    LOST_SECONDS,
    Comparison,
    Instant,
    check_clock,
    objection,
)
from outlayer_attestation.vm.watch import (
    COMPARED_SECONDS,
    RETRY_SECONDS,
    ComparedClock,
    SteeredClock,
    confirm,
    require_confirmed,
)

START = Instant(1_795_000_000.0, 50.0)
GOOD = "0A000202,10.0.2.2,2,1795862449.1,-0.000003,0.1,0.2,-14.0,0.0,0.1,0.0004,0.002,64.2,Normal"


class Clocks:
    """Clocks that a test moves."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> Instant:
        return self.now

    def pass_by(self, seconds: float, *, jump: float = 0.0) -> None:
        """Let time pass; ``jump`` is what somebody adds to the realtime clock."""
        self.now = Instant(self.now.realtime + seconds + jump, self.now.boottime + seconds)


# --- the rule ------------------------------------------------------------------------------------------------------


def test_a_clock_that_no_server_confirmed_does_not_count() -> None:
    assert "has confirmed the clock yet" in (objection(None, START) or "")


@pytest.mark.parametrize(("difference", "counts"), [(0.0, True), (BOUND_SECONDS, True), (30.01, False)])
def test_a_difference_beyond_the_bound_does_not_count(difference: float, counts: bool) -> None:
    found = objection(Comparison(START, difference), START)
    assert (found is None) == counts
    if found:
        assert "differs by 30.0 s" in found


@pytest.mark.parametrize(("age", "counts"), [(LOST_SECONDS, True), (LOST_SECONDS + 1, False), (-1.0, False)])
def test_a_comparison_that_is_too_old_or_of_the_future_does_not_count(age: float, counts: bool) -> None:
    clocks = Clocks()
    clocks.pass_by(age)
    assert (objection(Comparison(START, 0.0), clocks.now) is None) == counts


@pytest.mark.parametrize(
    ("jump", "counts"), [(29.9, True), (-29.9, True), (30.1, False), (-30.1, False), (-86400.0, False)]
)
def test_a_jump_beyond_the_bound_does_not_count(jump: float, counts: bool) -> None:
    clocks = Clocks()
    clocks.pass_by(5.0, jump=jump)
    found = objection(Comparison(START, 0.0), clocks.now)
    assert (found is None) == counts
    if found:
        assert f"jumped by {jump:.1f} s" in found


def test_what_chronyd_slews_is_no_jump() -> None:
    clocks = Clocks()
    clocks.pass_by(LOST_SECONDS, jump=BOUND_SECONDS + DRIFT * LOST_SECONDS - 0.01)
    assert objection(Comparison(START, 0.0), clocks.now) is None


def test_numbers_that_are_none_do_not_count() -> None:
    for value in (float("nan"), float("inf")):
        assert objection(Comparison(START, value), START)
        assert objection(Comparison(START, 0.0), Instant(value, START.boottime))
        assert objection(Comparison(START, 0.0), Instant(START.realtime, value))


TIMES = st.floats(-1e12, 1e12)


@given(TIMES, st.floats(0, 100), st.floats(0, 2 * LOST_SECONDS), st.floats(-100, 100))
def test_a_clock_that_counts_is_within_twice_the_bound_and_the_drift_of_the_servers(
    start: float, difference: float, elapsed: float, jump: float
) -> None:
    then = Instant(start, 0.0)
    now = Instant(start + elapsed + jump, elapsed)
    if objection(Comparison(then, difference), now) is None:
        assert difference + abs(jump) <= 2 * BOUND_SECONDS + DRIFT * LOST_SECONDS + 1e-3


@pytest.mark.parametrize("now", [1e20, -1e20, float("nan"), float("inf")])
def test_a_clock_out_of_all_bounds_is_refused_in_words(now: float) -> None:
    with pytest.raises(VmError, match="the clock says"):
        check_clock(now, 1_790_000_000)


# --- what chronyd says ---------------------------------------------------------------------------------------------


def test_a_tracking_report_gives_time_of_update_and_largest_error() -> None:
    report = parse_tracking(GOOD + "\n")
    assert report is not None
    assert report.updated == 1795862449.1
    assert report.difference == pytest.approx(0.000003 + 0.0002 + 0.002)


@pytest.mark.parametrize(
    "text",
    [
        "00000000,,0,0.000000000,0.000000000,0.0,0.0,0.0,0.0,0.0,1.0,1.0,0.0,Not synchronised",
        GOOD.replace("Normal", "Not synchronised"),
        GOOD.replace("1795862449.1", "0.0"),
    ],
)
def test_a_chronyd_that_is_not_synchronised_confirms_nothing(text: str) -> None:
    assert parse_tracking(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "506 Cannot talk to daemon",
        GOOD + ",more",
        GOOD.replace("0.002", "x"),
        GOOD.replace("0.002", "nan"),
    ],
)
def test_a_report_of_another_form_is_an_error(text: str) -> None:
    with pytest.raises(VmError, match="no tracking report"):
        parse_tracking(text)


@given(st.text(max_size=200))
def test_any_text_is_a_report_or_an_error(text: str) -> None:
    try:
        report = parse_tracking(text)
    except VmError:
        return
    assert report is None or report.difference >= 0


class Program:
    """Stands for chronyc or chronyd."""

    def __init__(self, code: int = 0, output: str = "", error: Exception | None = None) -> None:
        self.code, self.output, self.error = code, output, error
        self.words: list[str] = []

    def __call__(self, words: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
        self.words = list(words)
        if self.error:
            raise self.error
        return subprocess.CompletedProcess(words, self.code, self.output, None)


@pytest.mark.parametrize(
    "program",
    [Program(1, "506 Cannot talk to daemon"), Program(error=FileNotFoundError()),
     Program(error=subprocess.TimeoutExpired("chronyc", 10.0))],
)  # fmt: skip
def test_a_chronyd_that_does_not_answer_confirms_nothing(program: Program) -> None:
    assert chrony.tracking(program) is None


SAID = (
    "2026-11-28T10:50:25Z chronyd version 4.6.1 starting (+CMDMON)\n"
    "2026-11-28T10:51:22Z System clock wrong by {} seconds (ignored)\n"
    "2026-11-28T10:51:22Z chronyd exiting\n"
)


@pytest.mark.parametrize(("text", "difference"), [("99.999997", 99.999997), ("-0.000002", 0.000002)])
def test_a_query_gives_the_difference_whatever_its_sign(text: str, difference: float) -> None:
    program = Program(0, SAID.format(text))
    answer = chrony.query(["server a.example nts iburst"], 20, lambda: START, program)
    assert answer.comparison == Comparison(START, difference)
    assert program.words == ["/usr/sbin/chronyd", "-Q", "-t", "20", "server a.example nts iburst"]


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (Program(1, "2026-11-28T10:50:31Z TLS handshake failed\n2026-11-28T10:50:36Z Timeout reached\n"),
         "TLS handshake failed; Timeout reached"),
        (Program(1, SAID.format("0.0")), "System clock wrong by 0.0 seconds (ignored)"),
        (Program(0, "nothing\n"), "nothing"),
        (Program(error=FileNotFoundError(2, "No such file")), "/usr/sbin/chronyd does not start: No such file"),
        (Program(error=subprocess.TimeoutExpired("chronyd", 30.0)), "chronyd did not end within 20 s"),
    ],
)  # fmt: skip
def test_a_query_without_an_answer_says_why(program: Program, said: str) -> None:
    assert chrony.query([], 20, lambda: START, program) == Answer(None, said)


@given(st.text(max_size=200))
def test_any_output_of_a_query_is_a_difference_or_none(text: str) -> None:
    found = parse_query(text)
    assert found is None or found >= 0


# --- a VM's clock --------------------------------------------------------------------------------------------------


class Chronyd:
    """The chronyd of a VM, as a test wants it."""

    def __init__(self) -> None:
        self.report: Tracking | None = None

    def __call__(self) -> Tracking | None:
        return self.report


def steered() -> tuple[SteeredClock, Chronyd, Clocks]:
    chronyd, clocks = Chronyd(), Clocks()
    return SteeredClock(chronyd, clocks), chronyd, clocks


def test_a_vms_clock_counts_from_the_first_confirmation_on() -> None:
    clock, chronyd, clocks = steered()
    clock.look()
    assert clock.objection()
    chronyd.report = Tracking(clocks.now.realtime, 0.01)
    clock.look()
    assert clock.objection() is None
    assert clock.confirmed() == Comparison(START, 0.01)


def test_a_vm_whose_servers_stay_silent_stops_to_count_and_counts_again_after_an_answer() -> None:
    clock, chronyd, clocks = steered()
    chronyd.report = Tracking(clocks.now.realtime, 0.01)
    clock.look()
    clocks.pass_by(LOST_SECONDS + 1)
    clock.look()
    assert "none has answered since" in (clock.objection() or "")
    chronyd.report = Tracking(clocks.now.realtime, 0.01)
    clock.look()
    assert clock.objection() is None


def test_a_jump_stops_quotes_at_once_and_a_later_answer_of_a_server_lets_them_go_on() -> None:
    clock, chronyd, clocks = steered()
    chronyd.report = Tracking(clocks.now.realtime, 0.01)
    clock.look()
    clocks.pass_by(1.0, jump=3600.0)
    assert "jumped by 3600.0 s" in (clock.objection() or "")
    clock.look()
    assert "jumped by 3600.0 s" in (clock.objection() or "")
    clocks.pass_by(60.0, jump=-3600.0)
    chronyd.report = Tracking(clocks.now.realtime, 0.02)
    clock.look()
    assert clock.objection() is None


def test_a_difference_that_chronyd_still_has_to_slew_away_stops_quotes_until_it_is_small() -> None:
    clock, chronyd, clocks = steered()
    chronyd.report = Tracking(clocks.now.realtime, 600.0)
    clock.look()
    assert "differs by 600.0 s" in (clock.objection() or "")
    clocks.pass_by(60.0)
    chronyd.report = Tracking(START.realtime, 20.0)
    clock.look()
    assert clock.objection() is None


def test_an_agent_that_starts_again_does_not_take_an_old_confirmation_for_a_new_one() -> None:
    clock, chronyd, clocks = steered()
    chronyd.report = Tracking(clocks.now.realtime - LOST_SECONDS - 1, 0.01)
    clocks.pass_by(LOST_SECONDS)
    chronyd.report = Tracking(clocks.now.realtime - LOST_SECONDS - 1, 0.01)
    clock.look()
    assert "none has answered since" in (clock.objection() or "")


# --- a container's clock -------------------------------------------------------------------------------------------


class Servers:
    """Time servers that a test makes right, wrong or silent."""

    def __init__(self, clocks: Clocks) -> None:
        self.clocks = clocks
        self.difference: float | None = 0.01
        self.asked = 0

    def __call__(self) -> Answer:
        self.asked += 1
        if self.difference is None:
            return Answer(None, "Timeout reached")
        return Answer(Comparison(self.clocks.now, self.difference), "")


def compared() -> tuple[ComparedClock, Servers, Clocks]:
    clocks = Clocks()
    servers = Servers(clocks)
    return ComparedClock(servers, clocks), servers, clocks


def test_a_containers_clock_is_compared_again_after_a_stated_time() -> None:
    clock, servers, clocks = compared()
    clock.look()
    clocks.pass_by(COMPARED_SECONDS - 1)
    clock.look()
    assert servers.asked == 1
    clocks.pass_by(1)
    clock.look()
    assert servers.asked == 2
    assert clock.objection() is None


def test_a_containers_clock_that_is_wrong_is_compared_sooner_and_never_counts() -> None:
    clock, servers, clocks = compared()
    servers.difference = 100.0
    clock.look()
    assert "differs by 100.0 s" in (clock.objection() or "")
    clocks.pass_by(RETRY_SECONDS)
    servers.difference = 0.0
    clock.look()
    assert servers.asked == 2
    assert clock.objection() is None


def test_the_reason_of_a_container_without_an_answer_is_chronyds() -> None:
    clock, servers, _ = compared()
    servers.difference = None
    clock.look()
    assert "(Timeout reached)" in (clock.objection() or "")


def test_a_jump_of_a_container_is_found_between_comparisons() -> None:
    clock, servers, clocks = compared()
    clock.look()
    clocks.pass_by(5.0, jump=-7200.0)
    clock.look()
    assert servers.asked == 1
    assert "jumped by -7200.0 s" in (clock.objection() or "")


async def test_waiting_ends_with_the_confirmation() -> None:
    clock, servers, clocks = compared()
    servers.difference = None

    async def sleep(seconds: float) -> None:
        clocks.pass_by(RETRY_SECONDS)
        servers.difference = 0.01 if servers.asked >= 2 else None

    await confirm(clock, 180.0, monotonic=lambda: clocks.now.boottime, sleep=sleep)
    assert servers.asked == 3


async def test_waiting_has_a_limit_and_the_refusal_says_why() -> None:
    clock, servers, clocks = compared()
    servers.difference = None

    async def sleep(seconds: float) -> None:
        clocks.pass_by(seconds)

    with pytest.raises(
        VmError, match=r"not confirmed within 20 s: no time server .*Timeout reached"
    ) as caught:
        await confirm(clock, 20.0, monotonic=lambda: clocks.now.boottime, sleep=sleep)
    assert "NTS" in caught.value.hint
    assert clocks.now.boottime - START.boottime == 20.0


async def test_a_container_whose_clock_stops_to_count_ends() -> None:
    clock, servers, _ = compared()
    servers.difference = 31.0
    with pytest.raises(VmError, match=r"the service is stopped: the clock differs by 31\.0 s"):
        await asyncio.wait_for(require_confirmed(clock), 10)


async def test_a_report_that_cannot_be_read_is_no_confirmation() -> None:
    def broken() -> Tracking | None:
        raise VmError("chronyc said nonsense")

    clocks = Clocks()

    async def sleep(seconds: float) -> None:
        clocks.pass_by(10.0)

    with pytest.raises(VmError, match="not confirmed within 5 s"):
        await confirm(SteeredClock(broken, clocks), 5.0, monotonic=lambda: clocks.now.boottime, sleep=sleep)
