# SPDX-License-Identifier: MIT
"""Event logs: parsed strictly, replayed, put into words, and compared with a prediction."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outlayer_attestation.errors import EventLogError
from outlayer_attestation.measure import event_types as types
from outlayer_attestation.measure import eventlog, explain, replay, testing, uefi
from outlayer_attestation.measure.eventlog import EventLog, LogKind, Recorded
from outlayer_attestation.measure.registers import Event, extend, registers_of, sha384
from outlayer_attestation.measure.runtime import RuntimeEvent

DIGEST = st.binary(min_size=48, max_size=48)
EVENTS = st.lists(
    st.builds(
        Event,
        rtmr=st.integers(0, 2),
        type=st.sampled_from([types.SEPARATOR, types.IPL, types.EFI_ACTION, types.EVENT_TAG]),
        name=st.text("abc", max_size=5),
        digest=DIGEST,
        cause=st.just("something"),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(events=EVENTS, padding=st.sampled_from([b"", b"\xff" * 32, bytes(32)]))
def test_a_log_replays_to_the_registers_of_its_events(events: list[Event], padding: bytes) -> None:
    log = eventlog.parse(testing.cc_log(events, padding=padding), LogKind.CC)
    assert [event.digest for event in log.events] == [event.digest for event in events]
    assert replay.replay(log) == registers_of(events)
    assert explain.compare(events, log) == []


@settings(max_examples=60, deadline=None)
@given(events=EVENTS, data=st.data())
def test_a_damaged_log_is_read_or_refused_and_never_anything_else(
    events: list[Event], data: st.DataObject
) -> None:
    damaged = bytearray(testing.cc_log(events))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        log = eventlog.parse(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))
        replay.replay(log)
        for event in log.events:
            assert explain.describe(event).isprintable()
        explain.compare(events, log)
    except EventLogError as error:
        assert error.hint


@settings(max_examples=80, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_no_log(data: bytes) -> None:
    for parse in (eventlog.parse, eventlog.parse_dstack):
        try:
            parse(data)
        except EventLogError as error:
            assert error.hint


@pytest.mark.parametrize(
    "value",
    [
        {},
        [1],
        [{}],
        [{"imr": 4, "event_type": 1, "digest": "00" * 48}],
        [{"imr": True, "event_type": 1, "digest": "00" * 48}],
        [{"imr": 0, "event_type": -1, "digest": "00" * 48}],
        [{"imr": 0, "event_type": 1, "digest": ""}],
        [{"imr": 0, "event_type": 1, "digest": "00"}],
        [{"imr": 0, "event_type": 1, "digest": "zz"}],
        [{"imr": 0, "event_type": 1, "digest": "00" * 48, "event": 1}],
        [{"imr": 3, "event_type": 0x08000001, "digest": "00" * 48, "event": "app-id"}],
        [{"imr": 3, "event_type": 0x08000001, "digest": "", "event": "\ud800"}],
    ],
)
def test_lists_that_are_no_dstack_log_are_refused(value: Any) -> None:
    with pytest.raises(EventLogError):
        eventlog.parse_dstack(json.dumps(value))


@pytest.mark.parametrize("version", [1, 2])
def test_the_digests_of_runtime_events_are_recomputed(version: int) -> None:
    event = RuntimeEvent("app-id", b"\x01\x02")
    given_digest = event.digest(version).hex()
    item = {"imr": 3, "event_type": 0x08000001, "event": "app-id", "event_payload": "0102"}
    log = eventlog.parse_dstack(json.dumps([item | {"digest": given_digest}]))
    assert log.events[0].digest == event.digest(version)
    assert eventlog.parse_dstack(json.dumps([item | {"digest": ""}])).events[0].digest == event.digest_v1()


def spec_id(algorithms: list[tuple[int, int]]) -> bytes:
    body = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(algorithms))
    body += b"".join(struct.pack("<HH", *pair) for pair in algorithms) + b"\0"
    return struct.pack("<II20xI", 0, 3, len(body)) + body


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "index"),
        (struct.pack("<II", 0, 4) + bytes(24), "EV_NO_ACTION"),
        (spec_id([]), "algorithms"),
        (spec_id([(0xC, 47)]), "47 bytes"),
        (spec_id([(0xC, 48), (0xC, 48)]), "not known"),
        (spec_id([(0xB, 32)]), "SHA-384"),
        (spec_id([(0xC, 48)]) + struct.pack("<III", 1, 4, 2), "2 digests"),
        (spec_id([(0xC, 48)]) + struct.pack("<IIIH", 1, 4, 1, 0xB), "algorithm"),
        (spec_id([(0xC, 48)]) + struct.pack("<III", 77, 4, 0), "index 77"),
        (spec_id([(0xC, 48)]) + struct.pack("<IIII", 1, 4, 0, 0), "no SHA-384"),
        (testing.cc_log([]) + bytes(9 * 1024**2), "more than"),
    ],
)
def test_a_log_that_breaks_a_rule_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(EventLogError, match=problem) as raised:
        eventlog.parse(data)
    assert raised.value.hint


def test_a_record_that_claims_gigabytes_is_refused_at_once() -> None:
    record = testing.record(1, 4, bytes(48))[:-4] + b"\xff\xff\xff\x7f"
    with pytest.raises(EventLogError, match="event data"):
        eventlog.parse(testing.cc_log([], padding=b"") + record)


def test_no_more_than_a_bounded_number_of_records_is_read() -> None:
    many = testing.record(1, 4, bytes(48)) * (eventlog.MAX_RECORDS + 1)
    with pytest.raises(EventLogError, match="records"):
        eventlog.parse(testing.cc_log([], padding=b"") + many)


def test_a_td_log_has_no_other_index_than_1_to_4() -> None:
    with pytest.raises(EventLogError, match="index 0"):
        eventlog.parse(testing.cc_log([], padding=b"") + testing.record(0, 4, bytes(48)), LogKind.CC)


def test_the_separators_of_a_tpm_log_become_those_of_a_td() -> None:
    digest = sha384(uefi.SEPARATOR_DATA)
    records = b"".join(testing.record(pcr, types.SEPARATOR, digest, bytes(4)) for pcr in range(8))
    log = eventlog.parse(testing.cc_log([], padding=b"") + records)
    assert log.kind is LogKind.TPM
    assert [event.rtmr for event in log.events] == [1, 0]
    assert set(replay.replay_pcrs(log).values()) == {extend([digest])}


def test_the_locality_that_a_tpm_started_at_is_in_pcr_0() -> None:
    note = testing.record(0, types.NO_ACTION, bytes(48), b"StartupLocality\0\x03")
    event = testing.record(0, types.S_CRTM_VERSION, b"\1" * 48)
    log = eventlog.parse(testing.cc_log([], padding=b"") + note + event, LogKind.TPM)
    assert replay.replay_pcrs(log)[0] == sha384(bytes(47) + b"\x03" + b"\1" * 48)


def test_a_td_log_has_no_pcrs() -> None:
    with pytest.raises(EventLogError):
        replay.replay_pcrs(eventlog.parse(testing.cc_log([])))


# --- explanations --------------------------------------------------------------------------------------


def event(name: str, *, rtmr: int = 1, td_only: bool = False) -> Event:
    return Event(rtmr, types.IPL, name, sha384(name.encode()), f"another {name}", td_only)


def recorded(*names: str, kind: LogKind = LogKind.CC, rtmr: int = 1) -> EventLog:
    events = (
        Recorded(number, rtmr, types.IPL, sha384(name.encode()), name.encode())
        for number, name in enumerate(names)
    )
    return EventLog(kind, tuple(events))


PREDICTED = [event("a"), event("b"), event("c")]


@pytest.mark.parametrize(
    ("names", "position", "cause"),
    [
        (["a", "x", "c"], 2, "another b"),
        (["a", "c"], 2, "b was not measured: another b"),
        (["a", "x", "b", "c"], 2, "an event more than predicted"),
        (["a", "b"], 3, "the log is cut off"),
        (["a", "b", "c", "d"], 4, "something more was measured"),
        ([], 1, "the log is cut off"),
    ],
)
def test_the_first_wrong_event_is_named_with_its_cause(names: list[str], position: int, cause: str) -> None:
    [difference] = explain.compare(PREDICTED, recorded(*names))
    assert (difference.register, difference.position) == ("rtmr1", position)
    assert cause in difference.cause
    assert cause in difference.text()
    assert json.dumps(difference.to_json())


def test_each_register_has_its_own_first_wrong_event() -> None:
    predicted = [event("a", rtmr=0), event("b", rtmr=1)]
    assert [d.register for d in explain.compare(predicted, recorded())] == ["rtmr0", "rtmr1"]


def test_events_that_a_tpm_cannot_have_are_left_out() -> None:
    predicted = [event("td", rtmr=1, td_only=True), *PREDICTED]
    assert explain.compare(predicted, recorded("a", "b", "c", kind=LogKind.TPM)) == []
    assert explain.compare(predicted, recorded("a", "b", "c")) != []


def test_rtmr3_is_compared_where_the_log_records_it() -> None:
    predicted = [event("role", rtmr=3)]
    assert explain.compare(predicted, recorded()) == []
    [difference] = explain.compare(predicted, recorded(kind=LogKind.DSTACK))
    assert difference.register == "rtmr3"


@settings(max_examples=80, deadline=None)
@given(
    event_type=st.sampled_from(sorted(types.NAMES)) | st.integers(0, 2**32 - 1),
    data=st.binary(max_size=80),
    name=st.text(max_size=10),
)
def test_any_event_has_printable_words(event_type: int, data: bytes, name: str) -> None:
    words = explain.describe(Recorded(0, 0, event_type, bytes(48), data, name))
    assert words
    assert words.isprintable()
    assert len(words) < 400


@pytest.mark.parametrize(
    ("event_type", "data", "words"),
    [
        (types.SEPARATOR, bytes(4), "separator"),
        (
            types.VARIABLE_BOOT,
            uefi.variable_data("BootOrder", uefi.GLOBAL_GUID, b"\0\0"),
            "variable BootOrder",
        ),
        (types.EFI_ACTION, uefi.EXIT_BOOT_SERVICES, "Exit Boot Services Invocation"),
        (types.IPL, ".linux\0".encode("utf-16-le"), "boot loader: content of section .linux"),
        (types.HANDOFF_TABLES2, b"\x09TdxTable\0", "TD HOB"),
        (types.EVENT_TAG, struct.pack("<II", 0x8F3B22EC, 13) + b"Linux initrd\0", "initrd (Linux initrd)"),
    ],
)
def test_known_events_are_explained_in_words(event_type: int, data: bytes, words: str) -> None:
    assert words in explain.describe(Recorded(0, 0, event_type, bytes(48), data))


def test_constants_are_recognised_without_their_data() -> None:
    absent = sha384(uefi.variable_data("PK", uefi.GLOBAL_GUID, b""))
    assert (
        explain.describe(Recorded(0, 0, types.VARIABLE_DRIVER_CONFIG, absent, b"")) == "variable PK, absent"
    )
