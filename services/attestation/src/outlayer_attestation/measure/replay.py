# SPDX-License-Identifier: MIT
"""Replaying a log: the register values that its digests give. A log is true if a quote has them."""

from __future__ import annotations

from outlayer_attestation.errors import EventLogError
from outlayer_attestation.measure import event_types
from outlayer_attestation.measure.eventlog import SHA384, EventLog, LogKind
from outlayer_attestation.measure.registers import extend, sha384
from outlayer_attestation.measure.runtime import RuntimeEvent
from outlayer_attestation.measurements import REGISTER_SIZE

_STARTUP_LOCALITY = b"StartupLocality\0"


def replay(log: EventLog) -> tuple[bytes, bytes, bytes, bytes]:
    """RTMR0 to RTMR3 after the events of a log; a register without events is zero."""
    values = [extend(event.digest for event in log.events if event.rtmr == rtmr) for rtmr in range(4)]
    return values[0], values[1], values[2], values[3]


def replay_runtime(log: EventLog, version: int) -> bytes:
    """RTMR3 of dstack's log when the digests of its runtime events are of this version (1 or 2)."""
    return extend(
        RuntimeEvent(event.name, event.data).digest(version)
        if event.type == event_types.RUNTIME_EVENT
        else event.digest
        for event in log.events
        if event.rtmr == 3
    )


def replay_pcrs(log: EventLog) -> dict[int, bytes]:
    """PCR -> value (SHA-384 bank) of a TPM's log.

    Raises:
        EventLogError: the log is not a TPM's.
    """
    if log.kind is not LogKind.TPM:
        raise EventLogError("only the log of a TPM has PCRs", hint="replay() gives the registers of a TD")
    values: dict[int, bytes] = {}
    for record in log.records:
        if record.type == event_types.NO_ACTION:
            if record.data.startswith(_STARTUP_LOCALITY) and len(record.data) == len(_STARTUP_LOCALITY) + 1:
                values[0] = bytes(REGISTER_SIZE - 1) + record.data[-1:]
            continue
        if SHA384 not in record.digests:
            raise EventLogError(f"record {record.number} has no SHA-384 digest", hint="use a SHA-384 bank")
        before = values.get(record.index, bytes(REGISTER_SIZE))
        values[record.index] = sha384(before + record.digests[SHA384])
    return values
