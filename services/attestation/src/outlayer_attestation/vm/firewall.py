# SPDX-License-Identifier: MIT
"""The packet filter of a VM as an nftables script: a pure function of the configuration.

Guests of a worker may talk to public addresses over TCP and to nothing else (R46: no private, loopback, link-local,
metadata or translated address), besides the name servers and endpoints that the configuration lists. Whoever reads
RTMR3 therefore knows them all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from outlayer_attestation.vm.configuration import Endpoint, VmConfiguration
from outlayer_attestation.vm.roles import Role

# IANA special-purpose registries (RFC 6890 and later): what is not globally reachable, and multicast
NOT_PUBLIC_V4: Final = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
    "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
)  # fmt: skip
# and what carries an IPv4 address inside: mapped, NAT64, Teredo, 6to4
NOT_PUBLIC_V6: Final = (
    "::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16",
    "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
)  # fmt: skip
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
            f"    {_to(server)} meta l4proto {{ tcp, udp }} th dport 53 accept"
            for server in configuration.network.nameservers
        ),
        *(_to_endpoint(endpoint) for endpoint in configuration.endpoints),
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
    if configuration.time.servers:
        lines.append(f"    meta skuid != {role.user} tcp dport 4460 accept")
        lines.append(f"    meta skuid != {role.user} udp dport 123 accept")
    return [*lines, "    reject", "  }"]


def _to(address: str) -> str:
    return f"{'ip6' if ':' in address else 'ip'} daddr {address}"


def _to_endpoint(endpoint: Endpoint) -> str:
    return f"    {_to(str(endpoint.address))} tcp dport {endpoint.port} accept"
