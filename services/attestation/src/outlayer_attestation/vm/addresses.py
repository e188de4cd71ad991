# SPDX-License-Identifier: MIT
"""Which addresses are public: one list of ranges for the packet filter and for whoever checks an address itself.

The list is explicit because ``ipaddress.is_global`` changes between releases of Python. Sources: the IANA IPv4 and
IPv6 special-purpose address registries, the registry of IPv6 global unicast assignments, and the documentation of
Azure, whose hosts answer guests at an address that looks public.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

NOT_PUBLIC_V4: Final = (
    "0.0.0.0/8",  # this network
    "10.0.0.0/8",  # private
    "100.64.0.0/10",  # shared by carriers; holds the metadata service of Alibaba
    "127.0.0.0/8",  # loopback
    "168.63.129.16/32",  # the host of an Azure VM
    "169.254.0.0/16",  # link-local; holds most metadata services
    "172.16.0.0/12",  # private
    "192.0.0.0/24",  # protocol assignments; holds the metadata service of Oracle
    "192.0.2.0/24",  # documentation
    "192.31.196.0/24",  # AS112: answered by whoever is near
    "192.52.193.0/24",  # AMT: the same
    "192.88.99.0/24",  # relays of 6to4
    "192.168.0.0/16",  # private
    "192.175.48.0/24",  # AS112
    "198.18.0.0/15",  # benchmarks
    "198.51.100.0/24",  # documentation
    "203.0.113.0/24",  # documentation
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, broadcast
)
NOT_PUBLIC_V6: Final = (
    # all that is not global unicast (2000::/3): loopback, mapped and compatible IPv4, NAT64 (64:ff9b::/96 and
    # 64:ff9b:1::/48), discard-only, segment routing (5f00::/16), unique local, link-local, site-local, multicast
    "::/3",
    "4000::/2",
    "8000::/1",
    "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks, AMT, AS112
    "2001:db8::/32",  # documentation
    "2002::/16",  # 6to4, which carries an IPv4 address
    "2620:4f:8000::/48",  # AS112
    "3ffe::/16",  # 6bone, given back
    "3fff::/20",  # documentation
)

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_NETWORKS_V4: Final = tuple(ipaddress.IPv4Network(text) for text in NOT_PUBLIC_V4)
_NETWORKS_V6: Final = tuple(ipaddress.IPv6Network(text) for text in NOT_PUBLIC_V6)


def is_public(address: IpAddress) -> bool:
    """Whether this is a public unicast address: exactly what the packet filter lets a guest reach."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _NETWORKS_V4)
    # a zone names an interface of this machine
    return address.scope_id is None and not any(address in network for network in _NETWORKS_V6)


def check_transport(url: str, allowed: Collection[tuple[IpAddress, int]]) -> None:
    """Raise ``ValueError`` unless the URL is https, or http to the loopback or one of ``allowed``.

    Plain http would let everybody on the way read and change what is said.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in ("http", "https") or url != url.strip():
        raise ValueError("is not an http or https URL")
    if parts.username is not None or parts.password is not None:
        raise ValueError("holds credentials")
    if parts.scheme == "https":
        return
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError("is plain http to a name: use https, or a private address") from None
    if not address.is_loopback and (address, port or 80) not in allowed:
        raise ValueError("is plain http to an address that is not a listed private endpoint: use https")
