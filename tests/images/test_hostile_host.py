# SPDX-License-Identifier: MIT
"""The table of what a hostile host can do: every row has its test, and the image is defined as the rows say."""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path

import pytest

from outlayer_attestation.vm.configuration import VmConfiguration
from outlayer_attestation.vm.rendering import time_query, time_sources
from outlayer_attestation.vm.roles import ROLES
from tests.images.conftest import ROOT
from tools.bootproof.hostile import HOSTILE

PAGE = ROOT / "docs/reference/vm-configuration.md"
TESTS = {
    "agent": ROOT / "services/attestation/tests/vm/test_vm_hostile_host.py",
    "boot": ROOT / "tools/bootproof/hostile.py",
    "container": ROOT / "tests/images/test_container.py",
    "definition": Path(__file__),
}
SETTINGS = {
    name: "https://a.example" if name in ROLES["worker"].urls else "x" for name in ROLES["worker"].needed
}
ONLY_HARDWARE = "TDX hardware"
EXTRA = ROOT / "images/mkosi.extra"
UNITS = sorted((ROOT / "images").rglob("outlayer-*.service"))
# the first makes the secrets; the other is a program of systemd, which runs before anything of ours
WITHOUT_SECRETS = ("outlayer-prepare.service", "outlayer-data-disk.service")


def rows() -> dict[str, list[str]]:
    """Name of a row -> what shows it."""
    table = PAGE.read_text().partition("## What a hostile host can do")[2]
    found = {}
    for line in table.splitlines():
        if line.startswith("| `"):
            names, *_, shown, _ = line.split("|")[1:]
            for name in re.findall(r"`([a-z0-9-]+)`", names):
                assert name not in found, name
                found[name] = shown.strip().split(", ")
    return found


def names_something(text: str, name: str) -> bool:
    """Whether a test or a row of tests has this name."""
    return f'"{name}"' in text or f"def test_{name.replace('-', '_')}" in text


def test_the_table_has_at_least_thirty_rows_that_are_tested_here() -> None:
    assert sum(shown != [ONLY_HARDWARE] for shown in rows().values()) >= 30


@pytest.mark.parametrize("name", rows())
def test_a_row_of_the_table_has_its_tests(name: str) -> None:
    for shown in rows()[name]:
        if shown != ONLY_HARDWARE:
            assert names_something(TESTS[shown].read_text(), name), f"{name} is not in {TESTS[shown]}"


def test_every_boot_on_a_hostile_host_is_in_the_table() -> None:
    assert {name for name, shown in rows().items() if "boot" in shown} == HOSTILE.keys()


def ini(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(path.read_text())
    return parser


def command_line() -> list[str]:
    return ini(ROOT / "images/mkosi.conf")["Content"]["KernelCommandLine"].split()


def test_dhcp_options() -> None:
    network = ini(EXTRA / "usr/lib/systemd/network/80-ethernet.network")
    for section in ("DHCPv4", "DHCPv6", "IPv6AcceptRA"):
        for option in ("UseDNS", "UseDomains"):
            assert network[section][option] == "no"
    for section in ("DHCPv4", "DHCPv6"):
        assert network[section]["UseNTP"] == network[section]["UseHostname"] == "no"
    # name servers and time servers are files that the agent writes
    chrony = (EXTRA / "etc/chrony/chrony.conf").read_text()
    assert "sourcedir /run/outlayer/chrony\n" in chrony
    assert not re.search(r"^(server|pool|peer|allow)\b", chrony, re.MULTILINE)


def test_only_the_authorities_of_the_configuration_prove_the_time_and_at_their_time() -> None:
    chrony = (EXTRA / "etc/chrony/chrony.conf").read_text().splitlines()
    assert {
        "nosystemcert",
        "ntstrustedcerts /run/outlayer/time-authorities.pem",
        "authselectmode require",
    } <= set(chrony)
    assert not any(line.startswith("nocerttimecheck") for line in chrony)


def test_time_without_nts() -> None:
    servers = ["a.example", "b.example:4461", "10.0.0.9:4460"]
    document = VmConfiguration.make("worker", SETTINGS, nameservers=["9.9.9.9"], time_servers=servers)
    configuration = VmConfiguration.from_bytes(document)
    sources = time_sources(configuration).splitlines()
    query = [line for line in time_query(configuration) if line.startswith("server ")]
    assert sources == query
    assert len(sources) == 3
    assert all(" nts " in line for line in sources)
    assert "authselectmode require" in time_query(configuration)


def test_random_seed() -> None:
    assert "random.trust_bootloader=off" in command_line()
    kept = json.loads((ROOT / "images/content.json").read_text())
    assert not any("random-seed" in text for text in [*kept["kept"], *kept["units"]])


def test_kernel_modules() -> None:
    assert "lockdown=confidentiality" in command_line()
    assert "kernel.kexec_load_disabled = 1" in (EXTRA / "usr/lib/sysctl.d/50-outlayer.conf").read_text()


def test_the_kernel_takes_no_time_from_a_page_of_the_host() -> None:
    assert "no-kvmclock" in command_line()


def test_console_input() -> None:
    units = json.loads((ROOT / "images/content.json").read_text())["units"]
    assert not any(re.search(r"getty|sulogin|rescue|emergency|debug-shell", unit) for unit in units)
    assert not any("StandardInput" in path.read_text() for path in UNITS)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_sees_neither_the_manager_nor_the_secrets_of_others(path: Path) -> None:
    hidden = ini(path)["Service"]["InaccessiblePaths"].split()
    assert "-/run/systemd/private" in hidden
    assert ("/run/outlayer/secrets" in hidden) == (path.name not in WITHOUT_SECRETS)


@pytest.mark.parametrize("role", ["worker", "coordinator"])
def test_no_service_starts_before_the_clock_is_confirmed(role: str) -> None:
    folder = ROOT / f"images/mkosi.profiles/{role}/mkosi.extra/usr/lib/systemd/system"
    unit = ini(folder / f"outlayer-{role}.service")["Unit"]
    assert "outlayer-clock.service" in unit["Requires"].split()
    assert "outlayer-clock.service" in unit["After"].split()
    clock = ini(EXTRA / "usr/lib/systemd/system/outlayer-clock.service")
    assert clock["Unit"]["FailureAction"] == "poweroff"
    assert (
        "enable outlayer-clock.service"
        in (EXTRA / "usr/lib/systemd/system-preset/00-outlayer.preset").read_text()
    )
