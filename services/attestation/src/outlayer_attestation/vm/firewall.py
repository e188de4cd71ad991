# SPDX-License-Identifier: MIT
"""The packet filter of a VM as an nftables script: a pure function of the configuration.

Guests of a worker may talk to public addresses over TCP and to nothing else (R46: no private, loopback, link-local,
metadata or translated address), besides the name servers and endpoints that the configuration lists. Whoever reads
RTMR3 therefore knows them all.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

from outlayer_attestation.vm.addresses import NOT_PUBLIC_V4, NOT_PUBLIC_V6, IpAddress
from outlayer_attestation.vm.configuration import Endpoint, TimeServer, VmConfiguration
from outlayer_attestation.vm.roles import Role

_NEIGHBOURS: Final = (
    "nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, nd-router-advert, mld-listener-query"
)


def nftables_rules(configuration: VmConfiguration, role: Role, *, host_network: bool) -> str:
    """The script for ``nft --file``; loading it replaces what was there in one step.

    Args:
        host_network: the VM has its own network cards, so addresses come over DHCP and neighbour discovery.
            False in a container, whose network namespace is made for it.
    """
    lines = [
        "flush ruleset",
        "table inet outlayer {",
        *_set("private4", "ipv4_addr", NOT_PUBLIC_V4, "flags interval; auto-merge"),
        *_set("private6", "ipv6_addr", NOT_PUBLIC_V6, "flags interval; auto-merge"),
        *_input(role, host_network=host_network),
        "  chain forward {",
        "    type filter hook forward priority 0; policy drop;",
        "  }",
        *_output(configuration, role, host_network=host_network),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _set(name: str, kind: str, elements: Iterable[str], flags: str) -> list[str]:
    return [
        f"  set {name} {{",
        f"    type {kind}; {flags}",
        f"    elements = {{ {', '.join(elements)} }}",
        "  }",
    ]


def _input(role: Role, *, host_network: bool) -> list[str]:
    ports = ", ".join(str(port) for port in sorted(role.ports))
    lines = [
        "  chain input {",
        "    type filter hook input priority 0; policy drop;",
        "    iif lo accept",
        "    ct state established,related accept",
        "    ct state invalid drop",
        f"    tcp dport {{ {ports} }} accept",
        "    icmp type echo-request limit rate 10/second accept",
        "    icmpv6 type echo-request limit rate 10/second accept",
    ]
    if host_network:
        lines.append(f"    icmpv6 type {{ {_NEIGHBOURS} }} accept")
        lines.append("    udp sport 67 udp dport 68 accept")
        lines.append("    ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept")
    return [*lines, "  }"]


def _output(configuration: VmConfiguration, role: Role, *, host_network: bool) -> list[str]:
    lines = [
        "  chain output {",
        "    type filter hook output priority 0; policy drop;",
        "    ct state established,related accept",
        # a guest must not reach what the VM says to itself
        f"    oif lo meta skuid {role.user} reject",
        "    oif lo accept",
        *(
            f"    {_to(ipaddress.ip_address(server))} meta l4proto {{ tcp, udp }} th dport 53 accept"
            for server in configuration.network.nameservers
        ),
        *(_to_endpoint(endpoint) for endpoint in configuration.endpoints),
        *_to_time_addresses(configuration.time_servers, role),
    ]
    if host_network:
        lines.append("    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } accept")
        lines.append("    udp sport 68 udp dport 67 accept")
        lines.append("    ip6 daddr { ff02::1:2, fe80::/10 } udp sport 546 udp dport 547 accept")
        lines.append("    ip6 daddr ff02::16 icmpv6 type mld2-listener-report accept")
    lines += [
        "    ip daddr @private4 reject",
        "    ip6 daddr @private6 reject",
        f"    meta skuid {role.user} meta l4proto tcp accept",
    ]
    return [*lines, *_to_time_names(configuration.time_servers, role), "    reject", "  }"]


def _to(address: IpAddress) -> str:
    return f"{'ip6' if address.version == 6 else 'ip'} daddr {address}"


def _to_endpoint(endpoint: Endpoint) -> str:
    return f"    {_to(endpoint.address)} tcp dport {endpoint.port} accept"


def _to_time_addresses(servers: Iterable[TimeServer], role: Role) -> list[str]:
    """A server that is named by address may be private, and says itself on which port it speaks NTP."""
    return [
        f"    {_to(server.host)} meta skuid != {role.user} {what} accept"
        for server in servers
        if not isinstance(server.host, str)
        for what in (f"tcp dport {server.port}", "meta l4proto udp")
    ]


def _to_time_names(servers: Iterable[TimeServer], role: Role) -> list[str]:
    """A server that is named by host name is at a public address."""
    ports = sorted({server.port for server in servers if isinstance(server.host, str)})
    if not ports:
        return []
    listed = ", ".join(str(port) for port in ports)
    return [
        f"    meta skuid != {role.user} tcp dport {{ {listed} }} accept",
        f"    meta skuid != {role.user} udp dport 123 accept",
    ]
