# SPDX-License-Identifier: MIT
"""Recordings of a boot: quotes, dstack's documents and event logs, recognised by their content and compared.

A recording says which registers a TD had, or which events it measured. Whether they belong together is computed
here; a register that cannot match is told apart from one that does not, with the reason. Nothing here checks a
quote's signature, and a ``tcb_info`` has none.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import Field

from outlayer_attestation import quote
from outlayer_attestation.errors import EventLogError, MetadataError
from outlayer_attestation.measure import event_types as types
from outlayer_attestation.measure import eventlog, replay, uefi
from outlayer_attestation.measure.dstack import AgentReply
from outlayer_attestation.measure.eventlog import EventLog, LogKind, Recorded
from outlayer_attestation.measure.explain import Difference, compare, compare_registers
from outlayer_attestation.measure.model import MAX_DOCUMENT_SIZE, Model, Sha384Hex, load_json, validated
from outlayer_attestation.measure.registers import RTMR_NAMES, Event, sha384
from outlayer_attestation.measurements import REGISTER_SIZE, Measurements

_HINT: Final = (
    "give a quote (binary or hex), dstack's GetQuote reply or tcb_info, or an event log: a CCEL"
    " (/sys/firmware/acpi/tables/data/CCEL), a TPM's binary_bios_measurements, dstack's JSON list"
)
_HEX_TEXT: Final = re.compile(rb"(0x)?([0-9A-Fa-f]{2}){64,}")
_IMA_ON: Final = re.compile(rb"(^|[\s\"'])ima(_policy|_hash|_template|_appraise)?=")
_GOOGLE_HOB: Final = bytes.fromhex(
    "458994daa60deac8dea19dba79748f6ff93fd0aebb8e3e0be5a65eb12309d342c3ce31cc67af7bbd22af1a44e7d9fe21"
)
"""Digest of the TD HOB in each known log of Google's firmware."""
_AAEL_TAG: Final = (0x4141454C).to_bytes(4, "little")
_ZERO: Final = "00" * REGISTER_SIZE

Text = Annotated[str, Field(max_length=MAX_DOCUMENT_SIZE)]


class Source(StrEnum):
    """Where the registers come from."""

    QUOTE = "quote"
    """A quote, whose signature is not checked here."""
    TCB_INFO = "tcb_info"
    """A document of dstack's agent, which states them: nobody signed it."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What a file says of a boot: the registers at its end, the events, or both."""

    log: EventLog | None = None
    registers: Measurements | None = None
    source: Source | None = None


class TcbInfo(Model):
    """``tcb_info`` of dstack's agent (/Info)."""

    mrtd: Sha384Hex
    rtmr0: Sha384Hex
    rtmr1: Sha384Hex
    rtmr2: Sha384Hex
    rtmr3: Sha384Hex
    event_log: Annotated[list[Any], Field(max_length=eventlog.MAX_RECORDS, default_factory=list)]
    app_compose: Text = ""
    compose_hash: Text = ""
    mr_aggregated: Text = ""
    os_image_hash: Text = ""
    rootfs_hash: Text = ""
    device_id: Text = ""


# --- reading -------------------------------------------------------------------------------------------


def read(data: bytes) -> Recording:
    """Recognise a recording by its content.

    Raises:
        EventLogError: it is none, or one that cannot be read.
        QuoteError: a quote that cannot be read, or of no TD.
        MetadataError: a document of dstack's with an unknown key, or that contradicts itself.
    """
    if len(data) > MAX_DOCUMENT_SIZE:
        raise EventLogError(f"the file has {len(data)} bytes, more than {MAX_DOCUMENT_SIZE}", hint=_HINT)
    if data[:64].lstrip()[:1] in (b"[", b"{"):
        return _document(load_json(data, "the file", EventLogError, _HINT))
    text = data.strip()
    if _HEX_TEXT.fullmatch(text):
        data = bytes.fromhex(text.decode().removeprefix("0x"))
    if _is_quote(data):
        return _quoted(data)
    if len(data) < 32:
        raise EventLogError(f"the file has {len(data)} bytes: it is no recording of a boot", hint=_HINT)
    return Recording(log=eventlog.parse(data, partial=True))


def _is_quote(data: bytes) -> bool:
    """A quote starts with its version and, in the second word, the TEE type; a log has EV_NO_ACTION there."""
    version, tee = int.from_bytes(data[:2], "little"), int.from_bytes(data[4:8], "little")
    return len(data) >= 48 and version in (3, 4, 5) and tee in (quote.TEE_TYPE_SGX, quote.TEE_TYPE_TDX)


def _quoted(data: bytes) -> Recording:
    return Recording(registers=quote.parse(data).td_report.measurements, source=Source.QUOTE)


def _document(value: object) -> Recording:
    if isinstance(value, list):
        return Recording(log=eventlog.dstack_log(value))
    if isinstance(value, dict):
        kinds = [kind for kind in ("quote", "tcb_info", "mrtd") if kind in value]
        if len(kinds) > 1:
            raise MetadataError(f"the document is {' and '.join(kinds)} at once", hint=_HINT)
        if kinds == ["quote"]:
            return _reply(validated(AgentReply, value, "the agent's reply", MetadataError, _HINT))
        if kinds == ["mrtd"]:
            return _tcb_info(value)
        if kinds == ["tcb_info"]:
            inner = value["tcb_info"]
            if isinstance(inner, str):
                inner = load_json(inner, "the tcb_info", MetadataError, _HINT)
            return _tcb_info(inner)
    raise EventLogError("the JSON is no recording of a boot", hint=_HINT)


def _reply(reply: AgentReply) -> Recording:
    text = reply.quote.encode()
    if not _HEX_TEXT.fullmatch(text):
        raise MetadataError("the quote of the agent's reply is not hex", hint=_HINT)
    quoted = _quoted(bytes.fromhex(reply.quote.removeprefix("0x")))
    log = None
    if reply.event_log:
        listed = reply.event_log
        log = eventlog.parse_dstack(listed) if isinstance(listed, str) else eventlog.dstack_log(listed)
    return Recording(log, quoted.registers, Source.QUOTE)


def _tcb_info(value: object) -> Recording:
    info = validated(TcbInfo, value, "the tcb_info", MetadataError, _HINT)
    if info.app_compose and info.compose_hash:
        digest = hashlib.sha256(info.app_compose.encode()).hexdigest()
        if digest != info.compose_hash:
            raise MetadataError(
                f"the tcb_info contradicts itself: its compose_hash is not that of its app_compose, {digest}",
                hint="nothing in a tcb_info is proven: compare with a quote",
            )
    registers = Measurements(info.mrtd, info.rtmr0, info.rtmr1, info.rtmr2, info.rtmr3)
    return Recording(
        eventlog.dstack_log(info.event_log) if info.event_log else None, registers, Source.TCB_INFO
    )


def combined(recordings: Iterable[Recording]) -> Recording:
    """Several files of one boot as one recording. Raises ``EventLogError`` when two say the same thing."""
    log: EventLog | None = None
    registers: Measurements | None = None
    source: Source | None = None
    for recording in recordings:
        if (log and recording.log) or (registers and recording.registers):
            what = "event logs" if log and recording.log else "sets of registers"
            raise EventLogError(f"there are two {what}", hint="name one quote and one event log")
        log, registers = recording.log or log, recording.registers or registers
        source = recording.source or source
    return Recording(log, registers, source)


# --- comparing -----------------------------------------------------------------------------------------


class Outcome(StrEnum):
    """Of one comparison."""

    SAME = "same"
    DIFFERS = "differs"
    UNPROVEN = "unproven"
    """The two cannot be the same by their nature, or not all of one is known: nothing follows."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One register against its log or its prediction.

    Attributes:
        against: ``event log`` or ``prediction``.
        value: what that gives (hex); None when it gives none.
        register_value: what the register has (hex).
        reason: why it differs or cannot match; "" when it is the same.
    """

    register: str
    against: str
    outcome: Outcome
    value: str | None
    register_value: str
    reason: str = ""

    def to_json(self) -> dict[str, object]:
        """As a JSON object."""
        return {
            "register": self.register,
            "against": self.against,
            "outcome": self.outcome.value,
            "value": self.value,
            "register_value": self.register_value,
            "reason": self.reason,
        }


def compare_log(log: EventLog, registers: Measurements, *, ima: bool = False) -> list[Comparison]:
    """RTMR0 to RTMR3 against the replay of a log.

    Args:
        ima: the kernel was asked to run IMA, see ``runs_ima``.
    """
    found = []
    for rtmr, name in enumerate(RTMR_NAMES):
        recorded = registers.to_json()[name]
        candidates = _replayed(log, rtmr)
        if recorded in candidates and log.kind is not LogKind.TPM:
            found.append(Comparison(name, "event log", Outcome.SAME, recorded, recorded))
            continue
        reason = _cannot_match(log, rtmr, ima=ima)
        outcome = Outcome.UNPROVEN if reason else Outcome.DIFFERS
        found.append(
            Comparison(
                name, "event log", outcome, candidates[0], recorded, reason or _differs(rtmr, recorded)
            )
        )
    return found


def _replayed(log: EventLog, rtmr: int) -> list[str]:
    """What the log's events give. dstack's runtime events may lack their digest, and so its version."""
    values = [replay.replay(log)[rtmr].hex()]
    if rtmr == 3 and log.kind is LogKind.DSTACK:
        values.append(replay.replay_runtime(log, 2).hex())
    return values


def _cannot_match(log: EventLog, rtmr: int, *, ima: bool) -> str:
    """Why the log cannot hold all that extended this register; "" when it should."""
    events = [event for event in log.events if event.rtmr == rtmr]
    if log.kind is LogKind.TPM:
        return _TPM_NOTE
    if log.cut_off:
        return f"the log is cut off {log.cut_off}"
    if rtmr == 3 and log.kind is LogKind.CC:
        return (
            "the firmware's log ends before RTMR3 is extended: the agent and the applications do that,"
            " and keep a log of their own"
        )
    if not events:
        return f"the log has no events of {RTMR_NAMES[rtmr].upper()}"
    if rtmr == 3:
        return "" if _is_ready(log) else _NOT_READY_NOTE
    if rtmr == 0 and log.kind is LogKind.DSTACK and events[0].type != types.HANDOFF_TABLES2:
        return "the log does not start with the TD HOB: events were taken out of it"
    if not _left_firmware(log) and not log.vendor:
        return _STOPPED_NOTE
    if rtmr == 2 and ima:
        return _IMA_NOTE
    return ""


def _differs(rtmr: int, recorded: str) -> str:
    if recorded == _ZERO:
        return _ZERO_NOTES[RTMR_NAMES[rtmr]]
    after = "; or the kernel extended it after boot, as IMA does where PCR 10 is RTMR2" if rtmr == 2 else ""
    return f"the log is of another boot, or was changed{after}"


_TPM_NOTE: Final = (
    "the log is a TPM's: it lacks the events of a TD's own (TD HOB, CFV, fw_cfg items, RTMR3), and IMA extends"
    " PCR 10 after boot, which no boot log holds; a TD has other registers"
)
_NOT_READY_NOTE: Final = "the log stops before ready: the agent had not extended all of RTMR3"
_STOPPED_NOTE: Final = "the log stops before the kernel left the firmware: later events are missing"
_IMA_NOTE: Final = (
    "the kernel runs IMA, which extends PCR 10, or RTMR2 where that is mapped, with each file read after boot:"
    " no boot log and no prediction holds these"
)
_ZERO_NOTES: Final = {
    "rtmr0": "RTMR0 is zero: this VM's firmware measures nothing into it, as under Azure's paravisor",
    "rtmr1": "RTMR1 is zero: this VM's firmware measures nothing into it, as under Azure's paravisor",
    "rtmr2": "RTMR2 is zero: neither boot loader nor kernel measured into it, as with Linux before 6.9",
    "rtmr3": "RTMR3 is zero: no agent extended it",
}


def compare_prediction(
    predicted: Measurements,
    registers: Measurements,
    *,
    rtmr3_predicted: bool,
    log: EventLog | None = None,
    ima: bool = False,
) -> list[Comparison]:
    """The five registers against a prediction."""
    found = []
    for name, value in predicted.to_json().items():
        recorded = registers.to_json()[name]
        outcome, reason, given = Outcome.SAME, "", value
        if name == "rtmr3" and not rtmr3_predicted:
            outcome, reason = Outcome.UNPROVEN, "RTMR3 was not predicted: name --role and --config"
        elif value != recorded:
            outcome, reason = Outcome.DIFFERS, f"likely cause: {compare_registers([name])[name]}"
            if recorded == _ZERO and name in _ZERO_NOTES:
                reason = _ZERO_NOTES[name]
            elif name == "rtmr2" and ima and (log is None or replay.replay(log)[2].hex() == value):
                outcome, reason = Outcome.UNPROVEN, _IMA_NOTE
        shown = None if name == "rtmr3" and not rtmr3_predicted else given
        found.append(Comparison(name, "prediction", outcome, shown, recorded, reason))
    return found


def compare_events(predicted: Sequence[Event], log: EventLog) -> tuple[list[Difference], list[str]]:
    """The first wrong event of each register, and why some could not be compared.

    Where a log is cut off, that it ends is no difference.
    """
    differences = compare(predicted, log)
    open_reasons = [f"the event log is cut off {log.cut_off}"] if log.cut_off else []
    if log.kind is LogKind.TPM:
        open_reasons.append("the log is a TPM's: it cannot show the TD HOB, the CFV, fw_cfg items or RTMR3")
    return [d for d in differences if not (log.cut_off and d.recorded is None)], open_reasons


# --- what a log says of its origin ---------------------------------------------------------------------


def runs_ima(texts: Iterable[bytes]) -> bool:
    """Whether a kernel command line among these texts asks for IMA (``ima_policy=`` and the like)."""
    return any(_IMA_ON.search(text.replace(b"\0", b"")) for text in texts)


def notes(recording: Recording) -> list[str]:
    """What limits a recording: who wrote its log, where that ends, what it cannot show."""
    found = []
    if recording.source is Source.TCB_INFO:
        found.append("the registers are those that tcb_info states: nobody signed them, compare with a quote")
    if recording.registers is not None and recording.registers.rtmr0 == _ZERO:
        found.append(_ZERO_NOTES["rtmr0"])
    log = recording.log
    if log is None:
        return found
    if log.kind is LogKind.TPM:
        found.append(_TPM_NOTE)
    if log.cut_off:
        found.append(f"the log is cut off {log.cut_off}: what came after is not known")
    found += _origin(log)
    if runs_ima(event.data for event in log.events):
        found.append(_IMA_NOTE)
    if not log.cut_off and not _left_firmware(log) and not log.vendor and log.kind is not LogKind.DSTACK:
        found.append(_STOPPED_NOTE)
    if log.kind is LogKind.DSTACK and not _is_ready(log):
        found.append(_NOT_READY_NOTE)
    if log.kind is LogKind.CC and not any(event.rtmr == 3 for event in log.events):
        found.append("RTMR3 is not in the firmware's log: the agent extends it and keeps a log of its own")
    return found


def _origin(log: EventLog) -> list[str]:
    """Whose firmware or boot loader wrote it, where that is not what is predicted."""
    other, events = "; its events are not those that are predicted", log.events
    hobs = [event.digest for event in events if event.type == types.HANDOFF_TABLES2]
    informed = [record.data for record in log.records if record.type == types.NO_ACTION]
    found = []
    if log.vendor:
        found.append(f"the log was written by {_clean(log.vendor)}{other}")
    if _GOOGLE_HOB in hobs or any(b"Google" in data for data in informed):
        found.append(f"the log is of Google's firmware{other}")
    if _has(events, types.POST_CODE, b"ACPI DATA"):
        found.append(f"the log is of an early TDVF, as Alibaba's cloud has it{other}")
    if _has(events, types.EVENT_TAG, _AAEL_TAG, rtmr=3):
        found.append("RTMR3 has events of the attestation agent of Confidential Containers (AAEL)")
    if _has(events, types.IPL, b"MokList") or _has(events, types.IPL, b"grub_cmd"):
        found.append("the VM was started from a disk by shim and GRUB, which is not predicted")
    elif any(event.type == types.GPT_EVENT for event in events):
        found.append("the VM was started from a disk, which is not predicted")
    return found


def _has(events: Iterable[Recorded], kind: int, start: bytes, rtmr: int | None = None) -> bool:
    return any(
        event.type == kind and event.data.startswith(start) and rtmr in (None, event.rtmr) for event in events
    )


def _clean(data: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 else "·" for byte in data[:64])


def _left_firmware(log: EventLog) -> bool:
    success = sha384(uefi.EXIT_BOOT_SERVICES_SUCCESS)
    return any(event.digest == success for event in log.events)


def _is_ready(log: EventLog) -> bool:
    """Whether the agent's last event before services start is there: dstack's, or ours."""
    return any(event.rtmr == 3 and event.name in ("system-ready", "ready") for event in log.events)
