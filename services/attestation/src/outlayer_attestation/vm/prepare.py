# SPDX-License-Identifier: MIT
"""First program of a VM: measure role and configuration, write what services need, open the way for them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from outlayer_attestation.errors import VmError
from outlayer_attestation.measure.event_types import RUNTIME_EVENT
from outlayer_attestation.measure.model import Document, Model, Sha256Hex, Sha384Hex, load_document
from outlayer_attestation.measure.registers import extend
from outlayer_attestation.measure.runtime import MAX_CONFIGURATION, RuntimeEvent, role_events
from outlayer_attestation.measure.shape import CONFIGURATION_FILE, SECRETS_FILE
from outlayer_attestation.vm import firewall, rendering
from outlayer_attestation.vm.clock import check_clock
from outlayer_attestation.vm.configuration import (
    MAX_SECRETS,
    VmConfiguration,
    configuration_digest,
    parse_secrets,
)
from outlayer_attestation.vm.files import read_bounded
from outlayer_attestation.vm.places import ImageDocument, Places
from outlayer_attestation.vm.roles import Role
from outlayer_attestation.vm.rtmr import ZERO, Register

_MAX_AUTHORITIES: Final = 4 * 1024 * 1024
NOT_CONFIDENTIAL: Final = (
    "NOT A TRUST DOMAIN: nothing in this VM is protected from its host, and there will be no quotes"
)


class MeasuredEvent(Model):
    """An event of RTMR3, as it was extended."""

    name: str
    payload: Annotated[str, Field(pattern=r"^([0-9a-f]{2})*$")]
    digest: Sha384Hex


class ClockStatus(Model):
    """Whether the clock of the VM counts, as the agent sees it.

    Attributes:
        confirmed: time servers confirmed it, and nothing objects since.
        objection: why not.
        difference_seconds: from the servers at the last comparison, at most.
        compared_at: seconds since 1970 by this clock, at the last comparison.
    """

    confirmed: bool
    objection: str | None
    difference_seconds: float | None
    compared_at: float | None


class VmStatus(Document):
    """What a VM says about itself, format ``outlayer/vm-status/v1``. Nothing in it is proven: a quote proves.

    Attributes:
        tdx: whether this is a trust domain.
        measured_by: who extends RTMR3: this agent, or the platform that started the container.
        rtmr3: value after ``events``; what it would be in a trust domain, where ``tdx`` is false.
        clock: in the page of a running agent alone.
    """

    format: Literal["outlayer/vm-status/v1"]
    role: str
    variant: str
    source_date_epoch: int
    tdx: bool
    measured_by: Literal["agent", "platform"]
    config_sha256: Sha256Hex
    events: tuple[MeasuredEvent, ...]
    rtmr3: Sha384Hex | None
    clock: ClockStatus | None = None

    @classmethod
    def from_bytes(cls, data: bytes) -> VmStatus:
        """Read the document. Raises ``VmError``."""
        return load_document(cls, data, "the status", VmError, "restart the VM")


@dataclass(frozen=True, slots=True)
class Given:
    """What the VM was given, checked."""

    image: ImageDocument
    role: Role
    document: bytes
    configuration: VmConfiguration
    secrets: Mapping[str, str]


def check_given(image: ImageDocument, document: bytes, secrets: bytes, now: float) -> Given:
    """Decide whether this image may run with this configuration. Raises ``VmError``."""
    check_clock(now, image.source_date_epoch)
    configuration = VmConfiguration.from_bytes(document)
    role = configuration.of(image.role)
    return Given(image, role, document, configuration, parse_secrets(secrets, role))


def prepare_vm(places: Places, now: float) -> VmStatus:
    """Everything, in order. RTMR3 gets role, config and, when all else is done, ready.

    Raises:
        VmError: the VM must not serve.
    """
    given = check_given(
        places.image(),
        _host_file(places, CONFIGURATION_FILE, MAX_CONFIGURATION, needed=True),
        _host_file(places, SECRETS_FILE, MAX_SECRETS, needed=False),
        now,
    )
    tdx = places.is_tdx()
    register = Register(places.register) if tdx else None
    events = role_events(given.role.name, given.document)
    if register is not None and register.read() != ZERO:
        raise VmError(
            "RTMR3 was extended before the agent started",
            hint="only this agent extends it: the image is not one of ours",
        )
    for event in events[:-1]:
        _extend(register, event)
    write_files(places, given, host_network=True)
    _extend(register, events[-1])
    if register is not None:
        register.require(event.digest_v2() for event in events)
    status = status_of(given, events, tdx=tdx)
    write_status(places, status)
    return status


def write_status(places: Places, status: VmStatus) -> None:
    """Keep the status for ``serve``."""
    _write(places.status, status.to_text().encode())


def _extend(register: Register | None, event: RuntimeEvent) -> None:
    if register is not None:
        register.extend(event.digest_v2())


def _host_file(places: Places, name: str, limit: int, *, needed: bool) -> bytes:
    path = places.host_file(name)
    what = name.rpartition("/")[2]
    try:
        return read_bounded(path, limit, f"the {what} of the host", path.with_name("size"))
    except FileNotFoundError:
        if not needed:
            return b""
        raise VmError(
            f"the host gave no {what}",
            hint=f"start QEMU with -fw_cfg name={name},file=…",
        ) from None
    except OSError as error:
        raise VmError(f"the {what} of the host cannot be read: {error.strerror}") from error


def write_files(places: Places, given: Given, *, host_network: bool) -> None:
    """What services and units read. Secrets are of the role's user and for nobody else."""
    configuration = given.configuration
    places.run.mkdir(mode=0o755, parents=True, exist_ok=True)
    places.secrets.mkdir(mode=0o711, exist_ok=True)
    (places.run / "chrony").mkdir(mode=0o755, exist_ok=True)
    rules = firewall.nftables_rules(configuration, given.role, host_network=host_network)
    _write(places.configuration, given.document)
    _write(places.run / "service.env", rendering.environment_file(configuration.settings).encode())
    _write(places.run / "resolv.conf", rendering.resolver_file(configuration).encode())
    _write(places.run / "chrony/outlayer.sources", rendering.time_sources(configuration).encode())
    _write(places.run / "time-authorities.pem", _time_authorities(places, configuration))
    _write(places.run / "nftables.rules", rules.encode())
    for name, text in given.secrets.items():
        path = places.secrets / name
        _write(path, text.encode(), mode=0o400)
        if os.geteuid() == 0:
            os.chown(path, given.role.user, given.role.user)


def _time_authorities(places: Places, configuration: VmConfiguration) -> bytes:
    if configuration.time.authority is not None:
        return configuration.time.authority.encode()
    try:
        return read_bounded(places.authorities, _MAX_AUTHORITIES, "the list of public authorities")
    except OSError as error:
        raise VmError(f"{places.authorities} cannot be read: {error.strerror}") from error


def _write(path: Path, data: bytes, mode: int = 0o444) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(data)


def status_of(given: Given, events: tuple[RuntimeEvent, ...], *, tdx: bool) -> VmStatus:
    """The status document. Without events the platform measures, and RTMR3 is its own."""
    digests = [event.digest_v2() for event in events]
    return VmStatus(
        format="outlayer/vm-status/v1",
        role=given.role.name,
        variant=given.image.variant,
        source_date_epoch=given.image.source_date_epoch,
        tdx=tdx,
        measured_by="agent" if events else "platform",
        config_sha256=configuration_digest(given.document).hex(),
        events=tuple(
            MeasuredEvent(name=event.name, payload=event.payload.hex(), digest=digest.hex())
            for event, digest in zip(events, digests, strict=True)
        ),
        rtmr3=extend(digests).hex() if events else None,
    )


def dstack_event_log(status: VmStatus) -> list[dict[str, Any]]:
    """The events as dstack's agent gives them beside a quote."""
    return [
        {
            "imr": 3,
            "event_type": RUNTIME_EVENT,
            "digest": event.digest,
            "event": event.name,
            "event_payload": event.payload,
        }
        for event in status.events
    ]
