# SPDX-License-Identifier: MIT
"""Packet filter, environment file and resolver: pure functions of the configuration."""

from __future__ import annotations

import ipaddress
import re
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlayer_attestation.errors import VmError
from outlayer_attestation.vm import rendering
from outlayer_attestation.vm.clock import LIFETIME_SECONDS, check_clock
from outlayer_attestation.vm.configuration import VmConfiguration
from outlayer_attestation.vm.firewall import NOT_PUBLIC_V4, NOT_PUBLIC_V6, nftables_rules
from outlayer_attestation.vm.roles import ROLES

from .documents import document, encoded

WORKER = VmConfiguration.from_bytes(encoded(document("worker")))


def rules(*, host_network: bool = True) -> str:
    return nftables_rules(WORKER, ROLES["worker"], host_network=host_network)


def chain(name: str, text: str) -> list[str]:
    found = re.search(rf"  chain {name} {{\n(.*?)\n  }}", text, re.DOTALL)
    assert found
    return [line.strip() for line in found[1].splitlines()]


def test_everything_is_dropped_unless_it_is_named() -> None:
    for name in ("input", "forward", "output"):
        assert "policy drop;" in chain(name, rules())[0]
    assert chain("output", rules())[-1] == "reject"


def test_r46_private_addresses_are_refused_before_the_service_may_connect_anywhere() -> None:
    lines = chain("output", rules())
    free = lines.index("meta skuid 961 meta l4proto tcp accept")
    assert lines.index("ip daddr @private4 reject") < free
    assert lines.index("ip6 daddr @private6 reject") < free


def test_listed_endpoints_and_name_servers_come_before_the_refusal() -> None:
    lines = chain("output", rules())
    refusal = lines.index("ip daddr @private4 reject")
    assert lines.index("ip daddr 10.0.0.5 tcp dport 5432 accept") < refusal
    assert lines.index("ip daddr 9.9.9.9 meta l4proto { tcp, udp } th dport 53 accept") < refusal
    assert lines.index("ip6 daddr 2620:fe::fe meta l4proto { tcp, udp } th dport 53 accept") < refusal


def test_a_guest_does_not_reach_what_the_vm_says_to_itself() -> None:
    lines = chain("output", rules())
    assert lines.index("oif lo meta skuid 961 reject") < lines.index("oif lo accept")


def test_only_the_ports_of_the_role_are_open() -> None:
    assert "tcp dport { 8090 } accept" in chain("input", rules())
    coordinator = VmConfiguration.from_bytes(encoded(document("coordinator")))
    text = nftables_rules(coordinator, ROLES["coordinator"], host_network=True)
    assert "tcp dport { 8080, 8090 } accept" in chain("input", text)


def test_a_container_gets_no_rule_for_dhcp_or_neighbours() -> None:
    text = rules(host_network=False)
    assert "nd-" not in text
    assert "dport 67" not in text


def covered(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    ranges = NOT_PUBLIC_V4 if address.version == 4 else NOT_PUBLIC_V6
    return any(address in ipaddress.ip_network(text) for text in ranges)


@given(st.ip_addresses())
def test_r46_every_address_that_is_not_global_is_in_a_refused_range(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if not address.is_global or address.is_multicast:
        assert covered(address), address


UNREACHABLE = (
    "169.254.169.254 100.64.0.1 10.1.2.3 172.31.0.1 192.168.1.1 0.0.0.0 255.255.255.255 ::1 ::ffff:10.0.0.1"
    " 64:ff9b::a00:1 2002:a00:1:: 2001:0:a00:1:: fd00::1 fe80::1 ff02::1 fd00:ec2::254"
)


@pytest.mark.parametrize("text", UNREACHABLE.split())
def test_r46_metadata_and_translated_addresses_are_refused(text: str) -> None:
    assert covered(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "text", ["1.1.1.1", "9.9.9.9", "2606:4700::1111", "2620:fe::fe", "172.32.0.1", "100.128.0.1"]
)
def test_public_addresses_are_not_refused(text: str) -> None:
    assert not covered(ipaddress.ip_address(text))


NAMES = st.from_regex(r"[A-Z][A-Z0-9_]{0,10}", fullmatch=True)


@given(st.dictionaries(NAMES, st.from_regex(r"[ -~]{1,40}", fullmatch=True)))
def test_an_environment_file_gives_back_the_settings(settings: dict[str, str]) -> None:
    text = rendering.environment_file(settings)
    # in double quotes, a shell escapes two characters more than shlex does; systemd escapes all four
    lines = text.replace("\\$", "$").replace("\\`", "`").splitlines()
    assert dict(shlex.split(line)[0].split("=", 1) for line in lines) == settings


def test_name_servers_and_time_sources_are_those_of_the_document() -> None:
    assert rendering.resolver_file(WORKER).splitlines()[:2] == [
        "nameserver 9.9.9.9",
        "nameserver 2620:fe::fe",
    ]
    assert rendering.time_sources(WORKER) == "server time.example.net nts iburst\n"


@pytest.mark.parametrize("now", [0.0, 999_999.0, 1_000_000.0 + LIFETIME_SECONDS + 1])
def test_a_clock_before_the_image_or_far_after_it_is_refused(now: float) -> None:
    with pytest.raises(VmError, match="the clock says"):
        check_clock(now, 1_000_000)


def test_a_clock_within_the_images_life_is_accepted() -> None:
    check_clock(1_000_000.0, 1_000_000)
    check_clock(1_000_000.0 + LIFETIME_SECONDS, 1_000_000)
