# SPDX-License-Identifier: MIT
"""Recordings of a boot: recognised by content, compared register by register, and why one cannot match."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outlayer_attestation import testing as quotes
from outlayer_attestation.errors import AttestationError, EventLogError, MetadataError, QuoteError
from outlayer_attestation.measure import event_types as types
from outlayer_attestation.measure import eventlog, recording, testing, uefi
from outlayer_attestation.measure.eventlog import LogKind
from outlayer_attestation.measure.model import UndecidedError
from outlayer_attestation.measure.recording import Outcome, Recording, Source
from outlayer_attestation.measure.registers import Event, extend, registers_of, sha384
from outlayer_attestation.measure.runtime import RuntimeEvent, runtime_events
from outlayer_attestation.measurements import Measurements

HOB = Event(0, types.HANDOFF_TABLES2, "td-hob", sha384(b"hob"), "another memory size")
LEAVE = Event(1, types.EFI_ACTION, "leave", sha384(uefi.EXIT_BOOT_SERVICES_SUCCESS), "a retry")
LINE = Event(2, types.EVENT_TAG, "command-line", sha384(b"line"), "another command line")
BOOT = [HOB, LEAVE, LINE]
READY = [RuntimeEvent("compose-hash", b"\1" * 32), RuntimeEvent("system-ready", b"")]


def measurements(
    events: list[Event] | None = None, runtime: list[RuntimeEvent] | None = None
) -> Measurements:
    rtmrs = registers_of([*(BOOT if events is None else events), *runtime_events(runtime or [], 1)])
    return Measurements("11" * 48, *(value.hex() for value in rtmrs))


def quote_of(registers: Measurements) -> bytes:
    return quotes.quote_with(quotes.platform(), quotes.Faults(), registers)


def tcb_info(**changes: Any) -> dict[str, Any]:
    log = testing.dstack_log(BOOT, READY)
    return measurements(runtime=READY).to_json() | {"event_log": log} | changes


def outcomes(log: eventlog.EventLog, registers: Measurements, *, ima: bool = False) -> dict[str, Outcome]:
    return {c.register: c.outcome for c in recording.compare_log(log, registers, ima=ima)}


def reasons(log: eventlog.EventLog, registers: Measurements, *, ima: bool = False) -> dict[str, str]:
    return {c.register: c.reason for c in recording.compare_log(log, registers, ima=ima)}


# --- recognised by content -----------------------------------------------------------------------------------


def test_a_quote_is_recognised_as_bytes_and_as_hex() -> None:
    raw = quote_of(measurements())
    forms = (raw, raw.hex().encode(), raw.hex().upper().encode() + b"\n", b"0x" + raw.hex().encode())
    for form in forms:
        assert recording.read(form) == Recording(None, measurements(), Source.QUOTE)


def test_a_log_is_recognised_as_bytes_hex_and_json() -> None:
    raw = testing.cc_log(BOOT)
    assert recording.read(raw).log == recording.read(raw.hex().encode()).log == eventlog.parse(raw)
    listed = json.dumps(testing.dstack_log(BOOT, READY)).encode()
    assert recording.read(listed).log == eventlog.parse(listed)


@pytest.mark.parametrize("as_text", [True, False])
def test_the_reply_of_an_agent_has_quote_and_log(as_text: bool) -> None:
    log = testing.dstack_log(BOOT, READY)
    registers = measurements(runtime=READY)
    reply = {"quote": quote_of(registers).hex(), "event_log": json.dumps(log) if as_text else log}
    found = recording.read(json.dumps(reply).encode())
    assert (found.registers, found.source) == (registers, Source.QUOTE)
    assert found.log is not None
    assert set(outcomes(found.log, registers).values()) == {Outcome.SAME}


@pytest.mark.parametrize(
    "wrap", [lambda v: v, lambda v: {"tcb_info": v}, lambda v: {"tcb_info": json.dumps(v)}]
)
def test_a_tcb_info_states_its_registers(wrap: Any) -> None:
    found = recording.read(json.dumps(wrap(tcb_info())).encode())
    assert (found.registers, found.source) == (measurements(runtime=READY), Source.TCB_INFO)
    assert any("nobody signed" in note for note in recording.notes(found))


def test_a_tcb_info_with_another_compose_hash_than_its_app_compose_is_refused() -> None:
    right = hashlib.sha256(b"{}").hexdigest()
    recording.read(json.dumps(tcb_info(app_compose="{}", compose_hash=right)).encode())
    with pytest.raises(MetadataError, match="contradicts itself"):
        recording.read(json.dumps(tcb_info(app_compose="{ }", compose_hash=right)).encode())


@pytest.mark.parametrize("key", ["rtmr4", "rtmr_0", "mrconfig"])
def test_an_unknown_key_of_a_tcb_info_is_named(key: str) -> None:
    with pytest.raises(MetadataError, match=key):
        recording.read(json.dumps(tcb_info(**{key: "00" * 48})).encode())


def test_an_unknown_key_of_an_event_is_named() -> None:
    log = testing.dstack_log(BOOT, READY)
    log[0]["sha384"] = log[0]["digest"]
    with pytest.raises(EventLogError, match="sha384"):
        recording.read(json.dumps(log).encode())


def test_a_key_that_is_there_twice_is_refused_at_any_depth() -> None:
    text = json.dumps(tcb_info())
    for first in ('"rtmr0"', '"imr"'):
        doubled = text.replace(f"{first}:", f'{first}: "00", {first}:', 1)
        with pytest.raises(EventLogError, match="there twice"):
            recording.read(doubled.encode())


@pytest.mark.parametrize(
    "value",
    [{}, {"a": 1}, {"quote": ""}, {"quote": "zz"}, {"quote": "00" * 40}, {"tcb_info": 1}, {"mrtd": 1}, 1],
)
def test_json_that_is_no_recording_is_refused(value: Any) -> None:
    with pytest.raises(AttestationError) as raised:
        recording.read(json.dumps(value).encode())
    assert raised.value.hint or isinstance(raised.value, QuoteError)


def test_one_boot_has_one_log_and_one_set_of_registers() -> None:
    log, quoted = recording.read(testing.cc_log(BOOT)), recording.read(quote_of(measurements()))
    both = recording.combined([log, quoted])
    assert (both.log, both.registers) == (log.log, quoted.registers)
    for twice in ([log, log], [quoted, quoted], [both, quoted]):
        with pytest.raises(EventLogError, match="two"):
            recording.combined(twice)


# --- what no register of a TD follows from -------------------------------------------------------------------


def sha1_record(index: int, event_type: int, data: bytes) -> bytes:
    return struct.pack("<II", index, event_type) + b"\1" * 20 + struct.pack("<I", len(data)) + data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"CCEL" + struct.pack("<I", 56) + bytes(48), "the ACPI table"),
        (sha1_record(0, types.S_CRTM_VERSION, b"1.0") + sha1_record(0, types.SEPARATOR, bytes(4)), "SHA-1"),
        (struct.pack("<I", 10) + bytes(20) + struct.pack("<I", 6) + b"ima-ng" + bytes(40), "IMA"),
        (b"10 " + b"ab" * 20 + b" ima-ng sha256:" + b"cd" * 32 + b" boot_aggregate\n", "IMA"),
    ],
)
def test_what_holds_no_sha384_digest_of_a_boot_is_said_to_be_that(data: bytes, reason: str) -> None:
    with pytest.raises(UndecidedError, match=reason) as raised:
        recording.read(data)
    assert raised.value.hint


@pytest.mark.parametrize("algorithm", [(0x4, 20), (0xB, 32)])
def test_a_log_without_the_sha384_bank_decides_nothing(algorithm: tuple[int, int]) -> None:
    number, size = algorithm
    body = (
        b"Spec ID Event03\0"
        + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, 1)
        + struct.pack("<HH", *algorithm)
        + b"\0"
    )
    data = struct.pack("<II20xI", 0, 3, len(body)) + body
    data += struct.pack("<IIIH", 1, 4, 1, number) + bytes(size) + struct.pack("<I", 4) + bytes(4)
    with pytest.raises(UndecidedError, match="no SHA-384"):
        recording.read(data)


# --- compared ------------------------------------------------------------------------------------------------


def test_the_log_of_the_quoted_boot_is_the_same_but_for_rtmr3() -> None:
    log = eventlog.parse(testing.cc_log(BOOT))
    found = outcomes(log, measurements(runtime=READY))
    assert [found[f"rtmr{n}"] for n in range(4)] == [Outcome.SAME] * 3 + [Outcome.UNPROVEN]
    assert "keep a log of their own" in reasons(log, measurements(runtime=READY))["rtmr3"]


@pytest.mark.parametrize("rtmr", [0, 1, 2])
def test_the_log_of_another_boot_differs(rtmr: int) -> None:
    other = Event(rtmr, types.IPL, "more", sha384(b"more"), "more")
    found = outcomes(eventlog.parse(testing.cc_log(BOOT)), measurements([*BOOT, other]))
    assert {name for name, outcome in found.items() if outcome is Outcome.DIFFERS} == {f"rtmr{rtmr}"}


def test_rtmr2_of_a_kernel_that_runs_ima_is_not_decided_by_a_log() -> None:
    log = eventlog.parse(testing.cc_log(BOOT))
    extended = measurements([*BOOT, Event(2, types.IPL, "ima", sha384(b"file"), "a file")])
    assert outcomes(log, extended, ima=True)["rtmr2"] is Outcome.UNPROVEN
    assert "IMA" in reasons(log, extended, ima=True)["rtmr2"]
    assert outcomes(log, measurements(), ima=True)["rtmr2"] is Outcome.SAME
    other = measurements([HOB, LEAVE, LEAVE, LINE])
    assert outcomes(log, other, ima=True)["rtmr1"] is Outcome.DIFFERS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"console=ttyS0 ima_policy=tcb", True),
        ("quiet ima=on".encode("utf-16-le"), True),
        (b"ima_hash=sha384", True),
        (b"console=ttyS0 anima=1 lima_policy=x", False),
        (b"", False),
    ],
)
def test_ima_is_recognised_by_the_command_line(text: bytes, expected: bool) -> None:
    assert recording.runs_ima([b"other", text]) is expected


def test_a_log_that_is_cut_off_decides_nothing_more_than_it_holds() -> None:
    whole = testing.cc_log(BOOT, padding=b"")
    log = recording.read(whole[:-3]).log
    assert log is not None
    assert log.cut_off.startswith("in record 2")
    assert outcomes(log, measurements())["rtmr1"] is Outcome.SAME
    assert outcomes(log, measurements())["rtmr2"] is Outcome.UNPROVEN
    with pytest.raises(EventLogError, match="outside the data"):
        eventlog.parse(whole[:-3])


def test_a_register_with_some_events_before_the_cut_is_not_decided() -> None:
    more = [Event(rtmr, types.IPL, "more", sha384(b"more"), "") for rtmr in (0, 1, 2)]
    log = recording.read(testing.cc_log([*BOOT, *more], padding=b"")[:-3]).log
    assert log is not None
    assert "cut off in record 5" in reasons(log, measurements([*BOOT, *more]))["rtmr2"]
    assert outcomes(log, measurements([*BOOT, *more]))["rtmr1"] is Outcome.SAME


def test_that_a_cut_off_log_ends_is_no_difference_from_a_prediction() -> None:
    log = recording.read(testing.cc_log(BOOT, padding=b"")[:-3]).log
    assert log is not None
    differences, open_reasons = recording.compare_events(BOOT, log)
    assert differences == []
    assert "cut off" in open_reasons[0]
    other = [Event(0, types.HANDOFF_TABLES2, "td-hob", sha384(b"other"), "memory"), LEAVE, LINE]
    assert [d.register for d in recording.compare_events(other, log)[0]] == ["rtmr0"]


def test_a_log_that_stops_inside_the_firmware_decides_nothing_later() -> None:
    log = eventlog.parse(testing.cc_log([HOB, Event(1, types.IPL, "image", sha384(b"image"), "")]))
    assert "stops before the kernel left the firmware" in reasons(log, measurements())["rtmr1"]
    assert any("left the firmware" in note for note in recording.notes(Recording(log)))


def test_an_agents_log_that_stops_before_ready_decides_nothing_of_rtmr3() -> None:
    log = eventlog.dstack_log(testing.dstack_log(BOOT, READY[:1]))
    registers = measurements(runtime=READY)
    assert outcomes(log, registers)["rtmr3"] is Outcome.UNPROVEN
    assert "before ready" in reasons(log, registers)["rtmr3"]
    assert any("before ready" in note for note in recording.notes(Recording(log)))
    ready = eventlog.dstack_log(testing.dstack_log(BOOT, READY))
    assert outcomes(ready, measurements(runtime=[*READY, READY[0]]))["rtmr3"] is Outcome.DIFFERS


def test_events_of_an_agent_without_digests_may_be_of_either_version() -> None:
    log = eventlog.dstack_log(testing.dstack_log(BOOT, READY))
    second = extend(event.digest_v2() for event in READY).hex()
    registers = Measurements(**(measurements(runtime=READY).to_json() | {"rtmr3": second}))
    assert outcomes(log, registers)["rtmr3"] is Outcome.SAME


def test_a_log_that_a_verifier_stripped_is_not_called_another_boot() -> None:
    log = eventlog.dstack_log(testing.dstack_log([], READY))
    found = outcomes(log, measurements(runtime=READY))
    assert [found[f"rtmr{n}"] for n in range(4)] == [Outcome.UNPROVEN] * 3 + [Outcome.SAME]
    acpi = Event(0, types.PLATFORM_CONFIG_FLAGS, "acpi", sha384(b"acpi"), "")
    stripped = eventlog.dstack_log(testing.dstack_log([acpi], READY))
    assert "taken out" in reasons(stripped, measurements(runtime=READY))["rtmr0"]


def test_a_tpms_log_decides_no_register_of_a_td() -> None:
    log = eventlog.parse(testing.cc_log(BOOT), LogKind.TPM)
    assert set(outcomes(log, measurements([])).values()) == {Outcome.UNPROVEN}
    assert "PCR 10" in reasons(log, measurements())["rtmr2"]


def test_a_register_that_nothing_was_measured_into_is_explained() -> None:
    empty = Measurements("11" * 48, *["00" * 48] * 4)
    log = eventlog.parse(testing.cc_log(BOOT))
    assert "paravisor" in reasons(log, empty)["rtmr0"]
    assert any(
        "paravisor" in note for note in recording.notes(Recording(registers=empty, source=Source.QUOTE))
    )
    found = recording.compare_prediction(measurements(), empty, rtmr3_predicted=True)
    assert "Linux before 6.9" in {c.register: c.reason for c in found}["rtmr2"]


def test_a_prediction_is_compared_with_all_five_registers() -> None:
    found = recording.compare_prediction(measurements(), measurements(), rtmr3_predicted=True)
    assert {c.outcome for c in found} == {Outcome.SAME}
    changed = Measurements(**dict.fromkeys(measurements().to_json(), "22" * 48))
    found = recording.compare_prediction(changed, measurements(), rtmr3_predicted=True)
    assert {c.outcome for c in found} == {Outcome.DIFFERS}
    assert all(c.reason for c in found)
    found = recording.compare_prediction(measurements(), measurements(), rtmr3_predicted=False)
    assert {c.register: c.outcome for c in found}["rtmr3"] is Outcome.UNPROVEN


def test_ima_explains_rtmr2_only_where_the_log_has_the_predicted_boot() -> None:
    predicted = measurements()
    extended = measurements([*BOOT, Event(2, types.IPL, "ima", sha384(b"file"), "a file")])
    log = eventlog.parse(testing.cc_log(BOOT))
    other = eventlog.parse(testing.cc_log([HOB, LEAVE]))
    for given_log, expected in ((log, Outcome.UNPROVEN), (None, Outcome.UNPROVEN), (other, Outcome.DIFFERS)):
        found = recording.compare_prediction(
            predicted, extended, rtmr3_predicted=True, log=given_log, ima=True
        )
        assert {c.register: c.outcome for c in found}["rtmr2"] is expected


# --- bytes that nobody vouches for ---------------------------------------------------------------------------


def samples() -> list[bytes]:
    log = testing.dstack_log(BOOT, READY)
    registers = measurements(runtime=READY)
    reply = {"quote": quote_of(registers).hex(), "event_log": json.dumps(log)}
    return [
        quote_of(registers),
        quote_of(registers).hex().encode(),
        testing.cc_log(BOOT),
        json.dumps(log).encode(),
        json.dumps(tcb_info()).encode(),
        json.dumps(reply).encode(),
        sha1_record(0, types.S_CRTM_VERSION, b"1.0") + sha1_record(0, types.SEPARATOR, bytes(4)),
    ]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_damaged_recording_is_read_or_refused(data: st.DataObject) -> None:
    raw = bytearray(data.draw(st.sampled_from(SAMPLES)))
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.integers(0, len(raw))) :]
    try:
        found = recording.read(bytes(raw))
    except AttestationError:
        return
    assert all(note.isprintable() for note in recording.notes(found))
    if found.log is not None:
        assert len(recording.compare_log(found.log, measurements())) == 4


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_recording_or_refused(data: bytes) -> None:
    try:
        recording.read(data)
    except AttestationError:
        return


def test_a_file_over_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(EventLogError, match="more than"):
        recording.read(b"[" * (16 * 1024**2 + 1))


SAMPLES = samples()
