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
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self

from cryptography import x509
from pydantic import AfterValidator, Field, StringConstraints, model_validator

from outlayer_attestation.errors import VmError
from outlayer_attestation.measure.model import Document, Model, load_document
from outlayer_attestation.measure.runtime import MAX_CONFIGURATION
from outlayer_attestation.vm.addresses import IpAddress, check_transport, is_public
from outlayer_attestation.vm.roles import ROLES, Role

NTS_PORT: Final = 4460
"""TCP port of the NTS key establishment (RFC 8915)."""
WAIT_SECONDS: Final = 180
MAX_SECRETS: Final = 64 * 1024
MAX_AUTHORITY: Final = 16 * 1024
_HINT: Final = "see docs/reference/vm-configuration.md for the fields of the configuration"
_SECRETS_HINT: Final = "see docs/reference/vm-configuration.md for the secrets of each role"


_HOST_NAME: Final = (
    # the last label begins with a letter: "127.1" would be an address to a resolver
    r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$"
)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536):
        raise ValueError("has a port that is not 1 to 65535")
    return int(text)


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
        if not colon:
            raise ValueError("is not ADDRESS:PORT")
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
        if (address.version == 6) != bracketed or "%" in host:
            raise ValueError("is not ADDRESS:PORT, an IPv6 address in brackets and without a zone")
        return cls(address, _port(port))


@dataclass(frozen=True, slots=True)
class TimeServer:
    """A server of NTS: a public host name, or an address, and the TCP port of its key establishment."""

    host: str | IpAddress
    port: int

    @classmethod
    def parse(cls, text: str) -> TimeServer:
        """Read ``time.example.net``, ``time.example.net:4461``, ``10.0.0.5:4460`` or ``[fd00::5]:4460``.

        An address is always given with its port. Raises ``ValueError``.
        """
        name, colon, port = text.partition(":")
        if len(name) <= 253 and re.fullmatch(_HOST_NAME, name):
            return cls(name, _port(port) if colon else NTS_PORT)
        endpoint = Endpoint.parse(text)
        return cls(endpoint.address, endpoint.port)


def _address(text: str) -> str:
    address = ipaddress.ip_address(text)
    if address.is_loopback or address.is_unspecified or address.is_multicast or "%" in text:
        raise ValueError("is no address of another machine")
    return text


def _endpoint(text: str) -> str:
    address = Endpoint.parse(text).address
    _address(str(address))
    if is_public(address):
        raise ValueError("is a public address, which needs no listing")
    return text


def _time_server(text: str) -> str:
    host = TimeServer.parse(text).host
    if not isinstance(host, str):
        _address(str(host))
    return text


def _authority(text: str) -> str:
    try:
        certificates = x509.load_pem_x509_certificates(text.encode("ascii"))
        constraints = [
            item.extensions.get_extension_for_class(x509.BasicConstraints) for item in certificates
        ]
    except (ValueError, x509.ExtensionNotFound):
        raise ValueError("is not PEM of certificates of authorities") from None
    if not all(item.value.ca for item in constraints):
        raise ValueError("holds a certificate that is not of an authority")
    return text


def _distinct(items: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(items)) != len(items):
        raise ValueError("names something twice")
    return items


Address = Annotated[str, StringConstraints(max_length=45), AfterValidator(_address)]
EndpointText = Annotated[str, StringConstraints(max_length=53), AfterValidator(_endpoint)]
TimeServerText = Annotated[str, StringConstraints(max_length=260), AfterValidator(_time_server)]
Authority = Annotated[str, StringConstraints(max_length=MAX_AUTHORITY), AfterValidator(_authority)]
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
    """Where time comes from: never from the host alone.

    Attributes:
        servers: NTS servers, as ``TimeServer`` reads them; their certificates prove the time.
        authority: PEM of the authorities that sign the servers' certificates, and no other is trusted. When absent,
            the public authorities of the image.
        wait_seconds: how long the VM waits for the servers before it gives up.
    """

    servers: Annotated[
        tuple[TimeServerText, ...], Field(min_length=1, max_length=8), AfterValidator(_distinct)
    ]
    authority: Authority | None = None
    wait_seconds: Annotated[int, Field(ge=10, le=3600)] = WAIT_SECONDS


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
        self._check_urls(role)
        return self

    def _check_urls(self, role: Role) -> None:
        allowed = {(endpoint.address, endpoint.port) for endpoint in self.endpoints}
        for name in sorted(role.urls & self.settings.keys()):
            for url in self.settings[name].split(","):
                try:
                    check_transport(url.strip(), allowed)
                except ValueError as error:
                    raise ValueError(f"{name} {error}") from None

    @classmethod
    def make(
        cls,
        role: str,
        settings: Mapping[str, str],
        *,
        nameservers: Iterable[str],
        private_endpoints: Iterable[str] = (),
        time_servers: Iterable[str],
        time_authority: str | None = None,
        wait_seconds: int = WAIT_SECONDS,
    ) -> bytes:
        """The bytes of a document. Raises ``VmError``, as for one that was read."""
        time = {"servers": list(time_servers), "wait_seconds": wait_seconds}
        if time_authority is not None:
            time["authority"] = time_authority
        document = {
            "format": "outlayer/vm-config/v1",
            "role": role,
            "network": {"nameservers": list(nameservers), "private_endpoints": list(private_endpoints)},
            "time": time,
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
        return load_document(cls, _text(data, "the configuration"), "the configuration", VmError, _HINT)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The private endpoints."""
        return tuple(Endpoint.parse(text) for text in self.network.private_endpoints)

    @property
    def time_servers(self) -> tuple[TimeServer, ...]:
        """The servers of NTS."""
        return tuple(TimeServer.parse(text) for text in self.time.servers)

    def of(self, role: str) -> Role:
        """The role that is configured, which has to be the image's. Raises ``VmError``."""
        if self.role != role:
            raise VmError(
                f"the configuration is of role {self.role}, the image of role {role}",
                hint="give the VM the configuration of its role",
            )
        return ROLES[role]


def _text(data: bytes, what: str) -> str:
    """UTF-8 alone: the JSON parser would guess another encoding from the first bytes."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise VmError(
            f"{what}: this is not UTF-8", hint="write it as UTF-8, without a byte order mark"
        ) from None


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
    text = _text(data, "the secrets")
    try:
        value = json.loads(text, object_pairs_hook=_pairs) if text.strip() else {}
        json.dumps(value, ensure_ascii=False).encode()
    except _RepeatedKeyError:
        raise VmError("the secrets have a name twice", hint=_SECRETS_HINT) from None
    except UnicodeEncodeError:
        raise VmError(
            "the secrets hold half of a surrogate pair, which is no text", hint=_SECRETS_HINT
        ) from None
    except (ValueError, RecursionError):
        # the message of the parser would quote the secret
        raise VmError("the secrets are not JSON", hint=_SECRETS_HINT) from None
    if not isinstance(value, dict) or not all(isinstance(item, str) and item for item in value.values()):
        raise VmError("the secrets are not a JSON object of texts", hint=_SECRETS_HINT)
    if unknown := sorted(value.keys() - role.secrets.keys()):
        raise VmError(f"the {role.name} has no secret {', '.join(unknown)[:200]}", hint=_SECRETS_HINT)
    if missing := sorted(role.secrets.keys() - value.keys()):
        raise VmError(f"the {role.name} lacks the secrets {', '.join(missing)}", hint=_SECRETS_HINT)
    return value


class _RepeatedKeyError(Exception):
    """An object has a key twice."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _RepeatedKeyError
    return value
