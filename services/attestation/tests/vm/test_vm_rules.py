# SPDX-License-Identifier: MIT
"""Packet filter, environment file and resolver: pure functions of the configuration."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlayer_attestation.errors import VmError
from outlayer_attestation.vm import rendering
from outlayer_attestation.vm.addresses import NOT_PUBLIC_V4, NOT_PUBLIC_V6, check_transport, is_public
from outlayer_attestation.vm.clock import LIFETIME_SECONDS, check_clock
from outlayer_attestation.vm.configuration import VmConfiguration
from outlayer_attestation.vm.firewall import nftables_rules
from outlayer_attestation.vm.roles import ROLES

from .documents import document, encoded

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
WORKER = VmConfiguration.from_bytes(encoded(document("worker")))


def rules(*, host_network: bool = True) -> str:
    return nftables_rules(WORKER, ROLES["worker"], host_network=host_network)


RULES = rules()


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


def refused_by(text: str, address: IpAddress) -> bool:
    """Whether the rules refuse a role's connection to this address, by the sets that they name."""
    name = "private4" if address.version == 4 else "private6"
    found = re.search(rf"set {name} {{\n.*\n    elements = {{ (.*) }}", text)
    assert found
    return any(address in ipaddress.ip_network(item) for item in found[1].split(", "))


@given(st.ip_addresses())
def test_r46_the_filter_lets_through_what_the_address_check_lets_through(address: IpAddress) -> None:
    assert refused_by(RULES, address) == (not is_public(address))


def neighbours(network: str) -> list[IpAddress]:
    """The first and the last address of a range, and the ones before and after it."""
    parsed = ipaddress.ip_network(network)
    first, last = int(parsed[0]), int(parsed[-1])
    kind = type(parsed[0])
    return [
        kind(number) for number in (first - 1, first, last, last + 1) if 0 <= number < 2**parsed.max_prefixlen
    ]


@pytest.mark.parametrize("network", [*NOT_PUBLIC_V4, *NOT_PUBLIC_V6])
def test_r46_filter_and_address_check_agree_at_the_edge_of_every_range(network: str) -> None:
    assert not is_public(ipaddress.ip_network(network)[0])
    assert not is_public(ipaddress.ip_network(network)[-1])
    for address in neighbours(network):
        assert refused_by(RULES, address) == (not is_public(address)), address


@given(st.ip_addresses())
def test_r46_every_address_that_python_calls_not_global_is_refused(address: IpAddress) -> None:
    if not address.is_global or address.is_multicast or address.is_reserved:
        assert not is_public(address), address


# RFC 6890 and the registries that it made, as of 2026: nothing here is reachable from the whole internet, or it
# carries an IPv4 address, or a cloud's host answers there
UNREACHABLE = (
    "169.254.169.254 100.64.0.1 100.100.100.200 10.1.2.3 172.31.0.1 192.168.1.1 0.0.0.0 255.255.255.255 ::1 :: "
    "::ffff:10.0.0.1 ::ffff:1.1.1.1 64:ff9b::a00:1 64:ff9b::101:101 64:ff9b:1::1 64:ff9b:1:ffff::1 2002:a00:1:: "
    "2001:0:a00:1:: fd00::1 fe80::1 ff02::1 fd00:ec2::254 fd20:ce::254 168.63.129.16 192.0.0.0 192.0.0.9 192.0.0.10 "
    "192.0.0.192 192.0.0.255 192.88.99.1 198.18.0.1 198.19.255.255 192.31.196.1 192.52.193.1 192.175.48.1 "
    "2001:1::1 2001:2::1 2001:3::1 2001:4:112::1 2001:10::1 2001:20::1 2001:30::1 2001:1ff:: 2620:4f:8000::1 "
    "fec0::1 3fff::1 3fff:fff:ffff::1 5f00::1 100::1 100:0:0:1::1 4000::1 8000::1 3ffe::1"
)


@pytest.mark.parametrize("text", UNREACHABLE.split())
def test_r46_metadata_and_translated_addresses_are_refused(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


def test_r46_an_address_with_a_zone_is_refused() -> None:
    assert not is_public(ipaddress.ip_address("2606:4700::1111%eth0"))


@pytest.mark.parametrize(
    "text",
    [
        "1.1.1.1",
        "9.9.9.9",
        "2606:4700::1111",
        "2620:fe::fe",
        "172.32.0.1",
        "100.128.0.1",
        "168.63.129.15",
        "168.63.129.17",
        "192.0.1.1",
        "2001:200::1",
        "2003::1",
        "3fff:1000::1",
        "2a00:1450:4001::1",
    ],
)
def test_public_addresses_are_not_refused(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


# --- transport ---------------------------------------------------------------------------------------------------

ALLOWED = {(ipaddress.ip_address("10.0.0.5"), 8080), (ipaddress.ip_address("fd00::5"), 80)}


@pytest.mark.parametrize(
    "url",
    [
        "https://rpc.example",
        "https://1.1.1.1:3030/x",
        "http://10.0.0.5:8080/a",
        "http://[fd00::5]",
        "http://127.0.0.1:1",
    ],
)
def test_https_and_http_to_listed_endpoints_are_allowed(url: str) -> None:
    check_transport(url, ALLOWED)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://rpc.example", "plain http to a name"),
        ("HTTP://rpc.example", "plain http to a name"),
        ("http://localhost:3030", "plain http to a name"),
        ("http://0x7f000001/", "plain http to a name"),
        ("http://1.1.1.1", "not a listed private endpoint"),
        ("http://10.0.0.5:8081", "not a listed private endpoint"),
        ("http://10.0.0.6:8080", "not a listed private endpoint"),
        ("http://[::ffff:127.0.0.1]", "not a listed private endpoint"),
        ("https://u:p@rpc.example", "credentials"),
        ("http://u@127.0.0.1", "credentials"),
        ("ftp://rpc.example", "not an http or https URL"),
        ("http://", "not an http or https URL"),
        ("http://[", "not an http or https URL"),
        ("https://rpc.example:x", "not an http or https URL"),
        (" http://127.0.0.1", "not an http or https URL"),
        ("rpc.example", "not an http or https URL"),
        ("", "not an http or https URL"),
    ],
)
def test_plain_http_to_anywhere_else_is_refused(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_transport(url, ALLOWED)


@given(st.text(max_size=30) | st.from_regex(r"[hH][tT]{2}[pP]s?://[ -~]{0,20}", fullmatch=True))
def test_any_text_is_a_url_that_is_allowed_or_a_value_error(url: str) -> None:
    with contextlib.suppress(ValueError):
        check_transport(url, ALLOWED)
        assert url.lower().startswith(
            ("https://", "http://127.", "http://[::1]", "http://10.0.0.5:8080", "http://[fd00")
        )


NAMES = st.from_regex(r"[A-Z][A-Z0-9_]{0,10}", fullmatch=True)


@given(st.dictionaries(NAMES, st.from_regex(r"[ -~]{1,40}", fullmatch=True)))
def test_an_environment_file_gives_back_the_settings(settings: dict[str, str]) -> None:
    text = rendering.environment_file(settings)
    # in double quotes, a shell escapes two characters more than shlex does; systemd escapes all four
    lines = text.replace("\\$", "$").replace("\\`", "`").splitlines()
    assert dict(shlex.split(line)[0].split("=", 1) for line in lines) == settings


def timed(*servers: str) -> VmConfiguration:
    return VmConfiguration.from_bytes(encoded({**document("worker"), "time": {"servers": servers}}))


def test_name_servers_and_time_sources_are_those_of_the_document() -> None:
    assert rendering.resolver_file(WORKER).splitlines()[:2] == [
        "nameserver 9.9.9.9",
        "nameserver 2620:fe::fe",
    ]
    assert rendering.time_sources(WORKER) == "server time.example.net nts iburst\n"
    sources = rendering.time_sources(timed("a.example:4461", "10.0.0.9:4460", "[fd00::9]:14460"))
    assert sources.splitlines() == [
        "server a.example nts iburst ntsport 4461",
        "server 10.0.0.9 nts iburst",
        "server fd00::9 nts iburst ntsport 14460",
    ]


def test_a_comparison_trusts_the_authorities_of_the_document_and_no_other() -> None:
    query = rendering.time_query(WORKER)
    assert query[0] == "server time.example.net nts iburst"
    assert {"ntstrustedcerts /run/outlayer/time-authorities.pem", "nosystemcert"} <= set(query)
    assert not any("nocerttimecheck" in line for line in query)


def test_time_servers_are_reached_by_everything_but_the_service() -> None:
    lines = chain("output", rules())
    assert "meta skuid != 961 tcp dport { 4460 } accept" in lines
    assert "meta skuid != 961 udp dport 123 accept" in lines
    assert lines.index("ip daddr @private4 reject") < lines.index("meta skuid != 961 udp dport 123 accept")


def test_a_time_server_with_an_address_may_be_private_and_is_the_only_one_that_is_reached() -> None:
    text = nftables_rules(timed("10.0.0.9:4461", "[fd00::9]:4460"), ROLES["worker"], host_network=True)
    lines = chain("output", text)
    refusal = lines.index("ip daddr @private4 reject")
    assert lines.index("ip daddr 10.0.0.9 meta skuid != 961 tcp dport 4461 accept") < refusal
    assert lines.index("ip daddr 10.0.0.9 meta skuid != 961 meta l4proto udp accept") < refusal
    assert lines.index("ip6 daddr fd00::9 meta skuid != 961 tcp dport 4460 accept") < refusal
    assert not any("dport 123" in line for line in lines)


@pytest.mark.parametrize("now", [0.0, 999_999.0, 1_000_000.0 + LIFETIME_SECONDS + 1])
def test_a_clock_before_the_image_or_far_after_it_is_refused(now: float) -> None:
    with pytest.raises(VmError, match="the clock says"):
        check_clock(now, 1_000_000)


def test_a_clock_within_the_images_life_is_accepted() -> None:
    check_clock(1_000_000.0, 1_000_000)
    check_clock(1_000_000.0 + LIFETIME_SECONDS, 1_000_000)
