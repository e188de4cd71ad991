# SPDX-License-Identifier: MIT
"""Event logs: the CCEL of a TD, the TPM log of a measured boot, and dstack's JSON list. Parsed strictly.

Formats: TCG PC Client Platform Firmware Profile, "crypto agile log"; UEFI 2.10, section 38 (CC log and
its mapping of PCRs); dstack ``cc-eventlog``. A log proves nothing by itself: only its digests count, and
only when they replay to a register of a quote.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from outlayer_attestation.errors import EventLogError
from outlayer_attestation.measure import event_types
from outlayer_attestation.measure.model import UndecidedLogError, load_json
from outlayer_attestation.measure.reader import Reader
from outlayer_attestation.measure.runtime import RuntimeEvent
from outlayer_attestation.measurements import REGISTER_SIZE

MAX_LOG_SIZE: Final = 8 * 1024 * 1024
MAX_RECORDS: Final = 16_384
SHA384: Final = 0xC
DIGEST_SIZES: Final = {0x4: 20, 0xB: 32, SHA384: 48, 0xD: 64, 0x12: 32}
MAX_INDEX: Final = 31

_TABLE_SIZE: Final = 56
_IMA_TEMPLATES: Final = (b"ima-ng", b"ima-sig", b"ima-buf", b"boot_aggregate")
_DSTACK_KEYS: Final = {"imr", "event_type", "digest", "event", "event_payload"}
_SPEC_ID: Final = b"Spec ID Event03\0"
_END: Final = 0xFFFFFFFF
_HINT: Final = (
    "give the CCEL data (/sys/firmware/acpi/tables/data/CCEL), a TPM's binary_bios_measurements,"
    " or dstack's event log as JSON"
)


class LogKind(StrEnum):
    """Who wrote a log, and so what its index means."""

    CC = "cc"
    """A TD's firmware: index 1 to 4 is RTMR0 to RTMR3."""
    TPM = "tpm"
    """A firmware with a TPM: the index is a PCR."""
    DSTACK = "dstack"
    """dstack's agent: ``imr`` 0 to 3 is RTMR0 to RTMR3."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a binary log; ``digests`` by TCG algorithm id."""

    number: int
    index: int
    type: int
    digests: Mapping[int, bytes]
    data: bytes


@dataclass(frozen=True, slots=True)
class Recorded:
    """One event that extended a runtime register, whoever recorded it.

    Attributes:
        number: its place in the log, from 0.
        rtmr: 0 to 3.
        digest: SHA-384, 48 bytes.
        data: the event data; never part of what is compared, except in RTMR3.
        name: dstack's name for it, "" in binary logs.
    """

    number: int
    rtmr: int
    type: int
    digest: bytes
    data: bytes
    name: str = ""


@dataclass(frozen=True, slots=True)
class EventLog:
    """A parsed log: its events in order, and for a binary one its records as they stand.

    Attributes:
        vendor: vendor info of a binary log's first record (td-shim writes its name there).
        cut_off: where a log ends inside a record; "" for a whole one. Events after that place are not known.
    """

    kind: LogKind
    events: tuple[Recorded, ...]
    records: tuple[Record, ...] = ()
    vendor: bytes = b""
    cut_off: str = ""


def parse(data: bytes, kind: LogKind | None = None, *, partial: bool = False) -> EventLog:
    """Read a log of any known format.

    Args:
        data: the bytes; text of dstack's JSON is UTF-8.
        kind: for a binary log, who wrote it. By default a log with SHA-384 alone and no index above 4 is
            a TD's, any other a TPM's.
        partial: read a binary log that ends inside a record up to there, and say so in ``cut_off``.

    Raises:
        EventLogError: the bytes are not such a log.
        UndecidedLogError: they are one from which no register of a TD can be computed.
    """
    if len(data) > MAX_LOG_SIZE:
        raise EventLogError(f"the event log has {len(data)} bytes, more than {MAX_LOG_SIZE}", hint=_HINT)
    if data[:64].lstrip()[:1] in (b"[", b"{"):
        return parse_dstack(data)
    _refuse_other_recordings(data)
    reader = Reader(data, "event log", EventLogError, hint=_HINT)
    algorithms, vendor = _spec_id(reader)
    records, cut_off = _records(reader, algorithms, partial=partial)
    if kind is None:
        alone = algorithms == {SHA384: 48} and all(record.index <= 4 for record in records)
        kind = LogKind.CC if alone else LogKind.TPM
    if kind is LogKind.DSTACK:
        raise EventLogError("the event log is binary, not dstack's JSON", hint=_HINT)
    if SHA384 not in algorithms:
        raise UndecidedLogError(
            "the event log has no SHA-384 digests, and the registers of a TD are SHA-384",
            hint="give the log of the TD itself (CCEL), or make the TPM with a SHA-384 bank (swtpm_setup)",
        )
    events = _cc_events(records) if kind is LogKind.CC else _tpm_events(records)
    return EventLog(kind, events, records, vendor, cut_off)


def _refuse_other_recordings(data: bytes) -> None:
    """Raise ``UndecidedLogError`` for what is no log of a boot in this form, with the reason."""
    if data[:4] == b"CCEL" and int.from_bytes(data[4:8], "little") == _TABLE_SIZE:
        raise UndecidedLogError(
            "this is the ACPI table that says where the log lies, not the log",
            hint="give the log: /sys/firmware/acpi/tables/data/CCEL inside the VM",
        )
    if any(template in data[:256] for template in _IMA_TEMPLATES):
        raise UndecidedLogError(
            "this is IMA's list of files measured after boot: it extends PCR 10, or RTMR2 where a kernel"
            " maps it, and holds nothing that the firmware measured",
            hint=_HINT,
        )
    if _is_sha1_log(data):
        raise UndecidedLogError(
            "the event log has SHA-1 digests only (the format of TPM 1.2), and the registers of a TD are SHA-384",
            hint="give the log of the TD itself (CCEL), or one of a TPM 2.0 with a SHA-384 bank",
        )


def _is_sha1_log(data: bytes) -> bool:
    """Whether these are two or more records of the old form: PCR, type, SHA-1 digest, size, data."""
    if data[32 : 32 + len(_SPEC_ID)] == _SPEC_ID:
        return False
    reader = Reader(data, "event log", EventLogError, hint=_HINT)
    for _ in range(2):
        if reader.remaining < 32:
            return False
        index, event_type = reader.u32("index"), reader.u32("event type")
        reader.take(20, "SHA-1 digest")
        size = reader.u32("event size")
        if index > MAX_INDEX or event_type not in event_types.NAMES or size > reader.remaining:
            return False
        reader.take(size, "event data")
    return True


def _records(
    reader: Reader, algorithms: Mapping[int, int], *, partial: bool
) -> tuple[tuple[Record, ...], str]:
    """The records up to the padding, and in which one the log is cut off ("" for none)."""
    found: list[Record] = []
    while reader.remaining:
        rest = reader.take(min(8, reader.remaining), "index and event type")
        if len(rest) < 8 and (rest in (bytes(len(rest)), b"\xff" * len(rest))):
            break
        index, event_type = int.from_bytes(rest[:4], "little"), int.from_bytes(rest[4:], "little")
        if len(rest) == 8 and (index == _END or (index == 0 and event_type == 0)):
            break
        if len(found) >= MAX_RECORDS:
            raise reader.fail(f"more than {MAX_RECORDS} records")
        start = reader.offset - len(rest)
        try:
            if len(rest) < 8:
                reader.take(8 - len(rest), f"the rest of record {len(found)}")
            if index > MAX_INDEX:
                raise reader.fail(f"record at {start:#x} has index {index}")
            digests = _digests(reader, algorithms)
            event_data = reader.take(reader.u32("event size"), "event data")
        except EventLogError:
            if not (partial and reader.ran_out):
                raise
            return tuple(found), f"in record {len(found)}, at byte {start}"
        found.append(Record(len(found), index, event_type, digests, event_data))
    return tuple(found), ""


def _spec_id(reader: Reader) -> tuple[dict[int, int], bytes]:
    """The first record, in the old SHA-1 form: it lists the digest algorithms and their sizes; vendor info."""
    reader.u32("index")
    if reader.u32("event type") != event_types.NO_ACTION:
        raise reader.fail("does not start with EV_NO_ACTION")
    reader.take(20, "SHA-1 digest")
    size = reader.u32("event size")
    end = reader.offset + size
    if size > reader.remaining or reader.take(16, "signature") != _SPEC_ID:
        raise reader.fail("does not start with a Spec ID Event03")
    reader.take(8, "platform class and version")
    count = reader.u32("number of algorithms")
    if not 0 < count <= len(DIGEST_SIZES):
        raise reader.fail(f"names {count} digest algorithms")
    algorithms: dict[int, int] = {}
    for _ in range(count):
        algorithm, digest_size = reader.u16("algorithm"), reader.u16("digest size")
        if DIGEST_SIZES.get(algorithm) != digest_size or algorithm in algorithms:
            raise reader.fail(f"algorithm {algorithm:#x} with digests of {digest_size} bytes is not known")
        algorithms[algorithm] = digest_size
    vendor = reader.take(reader.u8("size of vendor info"), "vendor info")
    if reader.offset > end:
        raise reader.fail("the Spec ID Event is longer than its record")
    reader.offset = end
    return algorithms, vendor


def _digests(reader: Reader, algorithms: Mapping[int, int]) -> dict[int, bytes]:
    count = reader.u32("number of digests")
    if count > len(algorithms):
        raise reader.fail(f"a record has {count} digests, the log {len(algorithms)} algorithms")
    digests: dict[int, bytes] = {}
    for _ in range(count):
        algorithm = reader.u16("algorithm")
        if algorithm not in algorithms or algorithm in digests:
            raise reader.fail(f"a record has a digest of algorithm {algorithm:#x}")
        digests[algorithm] = reader.take(algorithms[algorithm], "digest")
    return digests


def _extending(records: tuple[Record, ...]) -> list[Record]:
    """EV_NO_ACTION records are notes; all others extended their register."""
    return [record for record in records if record.type != event_types.NO_ACTION]


def _recorded(record: Record, rtmr: int) -> Recorded:
    digest = record.digests.get(SHA384)
    if digest is None:
        raise EventLogError(f"record {record.number} of the event log has no SHA-384 digest", hint=_HINT)
    return Recorded(record.number, rtmr, record.type, digest, record.data)


def _cc_events(records: tuple[Record, ...]) -> tuple[Recorded, ...]:
    found = []
    for record in _extending(records):
        if not 1 <= record.index <= 4:
            raise EventLogError(
                f"record {record.number} extends index {record.index}; a TD's log has 1 to 4",
                hint="is it the log of a TPM?",
            )
        found.append(_recorded(record, record.index - 1))
    return tuple(found)


def _tpm_events(records: tuple[Record, ...]) -> tuple[Recorded, ...]:
    """A TPM's events as a TD would have them: PCR 1 and 7 are RTMR0, 2 to 6 RTMR1, 8 to 15 RTMR2.

    A TPM has a separator in each of PCR 0 to 7, a TD one in RTMR0 (PCR 7's) and one in RTMR1.
    """
    found: list[Recorded] = []
    separated = False
    for record in _extending(records):
        separator = record.type == event_types.SEPARATOR
        if record.index in (1, 7):
            if not (separator and record.index == 1):
                found.append(_recorded(record, 0))
        elif 2 <= record.index <= 6:
            if not (separator and separated):
                found.append(_recorded(record, 1))
            separated = separated or separator
        elif 8 <= record.index <= 15:
            found.append(_recorded(record, 2))
    return tuple(found)


def parse_dstack(data: bytes | str) -> EventLog:
    """Read dstack's JSON list of ``{imr, event_type, digest, event, event_payload}``.

    An RTMR3 event's digest is computed from name and payload (newer agents leave it empty); one that is
    there must be of either version of the digest.

    Raises:
        EventLogError: it is not such a list.
    """
    return dstack_log(load_json(data, "the event log", EventLogError, _HINT, MAX_LOG_SIZE))


def dstack_log(listed: object) -> EventLog:
    """The same from a JSON value."""
    if not isinstance(listed, list) or len(listed) > MAX_RECORDS:
        raise EventLogError("dstack's event log is a JSON list", hint=_HINT)
    return EventLog(LogKind.DSTACK, tuple(_dstack_event(item, n) for n, item in enumerate(listed)))


def _dstack_event(item: Any, number: int) -> Recorded:
    def bad(problem: str) -> EventLogError:
        return EventLogError(f"event {number} of dstack's log: {problem}", hint=_HINT)

    if not isinstance(item, dict):
        raise bad("is not an object")
    unknown = sorted(set(item) - _DSTACK_KEYS)
    if unknown:
        raise bad(f"has the unknown key {unknown[0][:60]!r}")
    rtmr, event_type = item.get("imr"), item.get("event_type")
    name, payload = item.get("event", ""), item.get("event_payload", "")
    if type(rtmr) is not int or not 0 <= rtmr <= 3:
        raise bad(f"imr {rtmr!r} is not 0 to 3")
    if type(event_type) is not int or not 0 <= event_type <= 0xFFFFFFFF:
        raise bad("event_type is not a 32-bit number")
    texts = (name, payload, item.get("digest", ""))
    if not all(isinstance(text, str) for text in texts):
        raise bad("event, event_payload or digest is not text")
    try:
        data, digest = bytes.fromhex(payload), bytes.fromhex(texts[2])
    except ValueError as error:
        raise bad("event_payload or digest is not hex") from error
    if len(digest) not in (0, REGISTER_SIZE):
        raise bad(f"the digest has {len(digest)} bytes")
    if rtmr == 3 and event_type == event_types.RUNTIME_EVENT:
        event = RuntimeEvent(name, data)
        known = (event.digest_v1(), event.digest_v2())
        if digest and digest not in known:
            raise bad(f"{name!r} has a digest that is not one of its name and payload")
        digest = digest or known[0]
    elif not digest:
        raise bad("has no digest")
    return Recorded(number, rtmr, event_type, digest, data, name)
