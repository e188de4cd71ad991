# SPDX-License-Identifier: MIT
"""Files that the agent writes for the rest of the VM, as pure functions of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from outlayer_attestation.vm.configuration import NTS_PORT, TimeServer, VmConfiguration

TIME_AUTHORITIES: Final = "/run/outlayer/time-authorities.pem"
"""Certificates that may prove the time; images/mkosi.extra/etc/chrony/chrony.conf names it, too."""


def environment_file(settings: Mapping[str, str]) -> str:
    """An EnvironmentFile of systemd.exec(5): values in double quotes, special characters escaped."""
    lines = []
    for name, value in sorted(settings.items()):
        escaped = "".join(f"\\{char}" if char in '\\"$`' else char for char in value)
        lines.append(f'{name}="{escaped}"')
    return "".join(line + "\n" for line in lines)


def resolver_file(configuration: VmConfiguration) -> str:
    """resolv.conf(5)."""
    servers = "".join(f"nameserver {address}\n" for address in configuration.network.nameservers)
    return servers + "options timeout:2 attempts:3\n"


def time_sources(configuration: VmConfiguration) -> str:
    """Sources of chronyd, authenticated by NTS (RFC 8915); at least one, so the host's clock never counts alone."""
    return "".join(f"{_source(server)}\n" for server in configuration.time_servers)


def time_query(configuration: VmConfiguration) -> list[str]:
    """Directives for a chronyd that only compares the clock, whatever user runs it (``chronyd -Q``)."""
    return [
        *(_source(server) for server in configuration.time_servers),
        f"ntstrustedcerts {TIME_AUTHORITIES}",
        "nosystemcert",
        "authselectmode require",
    ]


def _source(server: TimeServer) -> str:
    port = "" if server.port == NTS_PORT else f" ntsport {server.port}"
    return f"server {server.host} nts iburst{port}"
