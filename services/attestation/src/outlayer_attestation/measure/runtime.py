# SPDX-License-Identifier: MIT
"""Events of RTMR3: what the agent inside the VM extends before any service starts.

Two digests are in use: version 1 of dstack, and version 2, the SHA-384 of the canonical JSON (RFC 8785) of
``{"name", "payload", "type"}``, which our agent uses too.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from outlayer_attestation.errors import EventLogError, ShapeError
from outlayer_attestation.measure.event_types import RUNTIME_EVENT
from outlayer_attestation.measure.registers import Event, sha384

MAX_CONFIGURATION: Final = 64 * 1024
ROLE: Final = "role"
CONFIG: Final = "config"
READY: Final = "ready"


@dataclass(frozen=True, slots=True)
class RuntimeEvent:
    """A named event with its payload."""

    name: str
    payload: bytes

    def __post_init__(self) -> None:
        try:
            self.name.encode()
        except UnicodeEncodeError as error:
            raise EventLogError("the name of a runtime event is not Unicode text") from error

    def digest_v1(self) -> bytes:
        """SHA-384 of u32 type ‖ ":" ‖ name ‖ ":" ‖ payload."""
        return sha384(struct.pack("<I", RUNTIME_EVENT) + b":" + self.name.encode() + b":" + self.payload)

    def digest_v2(self) -> bytes:
        """SHA-384 of the canonical JSON."""
        event = {"name": self.name, "payload": self.payload.hex(), "type": RUNTIME_EVENT}
        text = json.dumps(event, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return sha384(text.encode())

    def digest(self, version: int) -> bytes:
        """The digest of version 1 or 2."""
        return self.digest_v2() if version == 2 else self.digest_v1()


def role_events(role: str, configuration: bytes) -> tuple[RuntimeEvent, ...]:
    """What our agent extends, in order: the role, the SHA-256 of the configuration document, ready.

    Raises:
        ShapeError: no role, or a configuration that is too large to be handed to a VM.
    """
    if not role or len(configuration) > MAX_CONFIGURATION:
        raise ShapeError(
            f"the configuration of role {role!r} has {len(configuration)} bytes",
            hint=f"name a role; a configuration has up to {MAX_CONFIGURATION} bytes",
        )
    return (
        RuntimeEvent(ROLE, role.encode()),
        RuntimeEvent(CONFIG, hashlib.sha256(configuration).digest()),
        RuntimeEvent(READY, b""),
    )


_CAUSES: Final = {
    ROLE: "the image is of another role",
    CONFIG: "the configuration document differs in at least one byte",
    READY: "a service started, or failed, before the agent was ready",
    "app-id": "another application",
    "compose-hash": "the app-compose document differs in at least one byte",
    "instance-id": "another instance of the application, or another disk",
    "os-image-hash": "another version of the dstack OS image",
    "key-provider": "keys come from another key provider",
    "mr-kms": "keys come from another KMS",
    "rootfs-hash": "another root file system",
}


def runtime_events(events: Iterable[RuntimeEvent], version: int) -> list[Event]:
    """Predicted events of RTMR3, with digests of this version (1 or 2)."""
    return [
        Event(
            rtmr=3,
            type=RUNTIME_EVENT,
            name=event.name,
            digest=event.digest(version),
            cause=_CAUSES.get(event.name, f"the payload of {event.name} differs"),
            td_only=True,
        )
        for event in events
    ]
