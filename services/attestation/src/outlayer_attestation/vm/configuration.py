# SPDX-License-Identifier: MIT
"""Configuration of a VM, format ``outlayer/vm-config/v1``: one document, measured before any service starts.

It reaches a VM as the fw_cfg file ``opt/outlayer/config``, and a container as the variable ``OUTLAYER_CONFIG`` of
the app-compose, which the platform measures. No secret is in it: it is public by design. Secrets come apart, as one
JSON object name -> text (``opt/outlayer/secrets``, or ``OUTLAYER_SECRETS``); whoever runs a bare-metal host sees them.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from outlayer_attestation.errors import VmError
from outlayer_attestation.measure.model import Document, Model, load_document
from outlayer_attestation.measure.runtime import MAX_CONFIGURATION
from outlayer_attestation.vm.roles import ROLES, Role

MAX_SECRETS: Final = 64 * 1024
_HINT: Final = "see docs/reference/vm-configuration.md for the fields of the configuration"
_SECRETS_HINT: Final = "see docs/reference/vm-configuration.md for the secrets of each role"

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address and TCP port."""

    address: IpAddress
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read ``10.0.0.5:5432`` or ``[fd00::5]:5432``. Raises ``ValueError``."""
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if not (colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError("is not ADDRESS:PORT")
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
        if (address.version == 6) != bracketed or "%" in host:
            raise ValueError("is not ADDRESS:PORT, an IPv6 address in brackets and without a zone")
        return cls(address, int(port))


def _address(text: str) -> str:
    address = ipaddress.ip_address(text)
    if address.is_loopback or address.is_unspecified or address.is_multicast or "%" in text:
        raise ValueError("is no address of another machine")
    return text


def _endpoint(text: str) -> str:
    _address(str(Endpoint.parse(text).address))
    return text


def _distinct(items: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(items)) != len(items):
        raise ValueError("names something twice")
    return items


HostName = Annotated[
    str,
    StringConstraints(
        max_length=253,
        pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)+$",
    ),
]
Address = Annotated[str, StringConstraints(max_length=45), AfterValidator(_address)]
EndpointText = Annotated[str, StringConstraints(max_length=53), AfterValidator(_endpoint)]
SettingName = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{0,63}$")]
SettingValue = Annotated[str, StringConstraints(pattern=r"^[ -~]{1,4096}$")]


class Network(Model):
    """What the VM may reach besides public addresses.

    Attributes:
        nameservers: addresses of the name servers; they may be private.
        private_endpoints: ``ADDRESS:PORT`` of services in private ranges, for example a coordinator or a database.
    """

    nameservers: Annotated[tuple[Address, ...], Field(min_length=1, max_length=8), AfterValidator(_distinct)]
    private_endpoints: Annotated[
        tuple[EndpointText, ...], Field(max_length=64), AfterValidator(_distinct)
    ] = ()


class Time(Model):
    """Where time comes from.

    Attributes:
        servers: names of NTS servers; their certificates prove the time. Empty: the host's clock counts, within
            the bounds that the image sets, and this is measured like the rest.
    """

    servers: Annotated[tuple[HostName, ...], Field(max_length=8), AfterValidator(_distinct)]


class VmConfiguration(Document):
    """The configuration of a VM.

    Attributes:
        role: has to be the image's.
        settings: the role's settings, as environment variables; the list in ``vm/roles.py`` is complete.
    """

    format: Literal["outlayer/vm-config/v1"]
    role: Annotated[str, StringConstraints(pattern=r"^[a-z]{1,32}$")]
    network: Network
    time: Time
    settings: dict[SettingName, SettingValue]

    @model_validator(mode="after")
    def _settings_of_role(self) -> Self:
        role = ROLES.get(self.role)
        if role is None:
            raise ValueError(f"the role {self.role} is unknown; known are {', '.join(sorted(ROLES))}")
        if unknown := sorted(self.settings.keys() - role.settings - role.needed):
            raise ValueError(f"the {self.role} takes no setting {', '.join(unknown)}")
        if missing := sorted(role.needed - self.settings.keys()):
            raise ValueError(f"the {self.role} needs the settings {', '.join(missing)}")
        return self

    @classmethod
    def make(
        cls,
        role: str,
        settings: Mapping[str, str],
        *,
        nameservers: Iterable[str],
        private_endpoints: Iterable[str] = (),
        time_servers: Iterable[str] = (),
    ) -> bytes:
        """The bytes of a document. Raises ``VmError``, as for one that was read."""
        document = {
            "format": "outlayer/vm-config/v1",
            "role": role,
            "network": {"nameservers": list(nameservers), "private_endpoints": list(private_endpoints)},
            "time": {"servers": list(time_servers)},
            "settings": dict(sorted(settings.items())),
        }
        return cls.from_bytes(json.dumps(document).encode()).to_text().encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> VmConfiguration:
        """Read a document. Raises ``VmError`` that names the field."""
        if len(data) > MAX_CONFIGURATION:
            raise VmError(
                f"the configuration has {len(data)} bytes", hint=f"it may have {MAX_CONFIGURATION} of them"
            )
        return load_document(cls, data, "the configuration", VmError, _HINT)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The private endpoints."""
        return tuple(Endpoint.parse(text) for text in self.network.private_endpoints)

    def of(self, role: str) -> Role:
        """The role that is configured, which has to be the image's. Raises ``VmError``."""
        if self.role != role:
            raise VmError(
                f"the configuration is of role {self.role}, the image of role {role}",
                hint="give the VM the configuration of its role",
            )
        return ROLES[role]


def configuration_digest(data: bytes) -> bytes:
    """SHA-256 of the document's bytes, the payload of the event ``config``."""
    return hashlib.sha256(data).digest()


def parse_secrets(data: bytes, role: Role) -> Mapping[str, str]:
    """Secrets by name; errors name the secret and never show it.

    Raises:
        VmError: not an object of texts, one that the role does not have, or one that is missing.
    """
    if len(data) > MAX_SECRETS:
        raise VmError(f"the secrets have {len(data)} bytes", hint=f"they may have {MAX_SECRETS} of them")
    try:
        value = json.loads(data) if data.strip() else {}
    except (ValueError, RecursionError):
        # the message of the parser would quote the secret
        raise VmError("the secrets are not JSON", hint=_SECRETS_HINT) from None
    if not isinstance(value, dict) or not all(isinstance(text, str) and text for text in value.values()):
        raise VmError("the secrets are not a JSON object of texts", hint=_SECRETS_HINT)
    if unknown := sorted(value.keys() - role.secrets.keys()):
        raise VmError(f"the {role.name} has no secret {', '.join(unknown)[:200]}", hint=_SECRETS_HINT)
    if missing := sorted(role.secrets.keys() - value.keys()):
        raise VmError(f"the {role.name} lacks the secrets {', '.join(missing)}", hint=_SECRETS_HINT)
    return value
