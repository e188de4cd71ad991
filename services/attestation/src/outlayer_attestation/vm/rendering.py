# SPDX-License-Identifier: MIT
"""Files that the agent writes for the rest of the VM, as pure functions of the configuration."""

from __future__ import annotations

from collections.abc import Mapping

from outlayer_attestation.vm.configuration import VmConfiguration


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
    """Sources of chronyd, authenticated by NTS (RFC 8915). Without any, the host's clock counts."""
    return "".join(f"server {name} nts iburst\n" for name in configuration.time.servers)
