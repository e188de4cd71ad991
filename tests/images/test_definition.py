# SPDX-License-Identifier: MIT
"""What images/ says, held against the services and against itself; nothing is built here."""

from __future__ import annotations

import ast
import configparser
import re
from pathlib import Path

import pytest

from outlayer_attestation.measure.shape import VmShape
from outlayer_attestation.simulated import ROLE_PACKAGES
from outlayer_attestation.vm.roles import GROUP, ROLES, STATUS_PORT, Role
from tools.debroot.__main__ import read_lock
from tools.imagebuild.build import PORTS
from tools.imagebuild.content import parse_content
from tools.imagebuild.locks import FAKETIME, TOOLS, lock_path
from tools.imagebuild.stage import PACKAGES

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "images"
UNITS = "usr/lib/systemd/system"
VARIABLE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+|HOST|PORT|EXECUTORS")
# what every process of a role has to be held by
SANDBOX = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "PrivateUsers": "yes",
    "ProtectClock": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectControlGroups": "yes",
    "ProtectProc": "invisible",
    "RestrictNamespaces": "yes",
    "RestrictSUIDSGID": "yes",
    "LockPersonality": "yes",
    "CapabilityBoundingSet": "",
    "SystemCallArchitectures": "native",
}


def unit(role: str) -> dict[str, list[str]]:
    """Directives of the role's service; a name may come several times."""
    path = IMAGES / f"mkosi.profiles/{role}/mkosi.extra/{UNITS}/outlayer-{role}.service"
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def environment(role: str) -> dict[str, str]:
    words = " ".join(unit(role)["Environment"]).split(" ")
    return dict(word.split("=", 1) for word in words)


def read_settings(role: Role) -> set[str]:
    """Every variable that the role's programs read from their environment, by the text of their source."""
    source = ROOT / f"services/{role.name}/src/{role.module}/config.py"
    names = {node.value for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Constant)}
    return {name for name in names if isinstance(name, str) and VARIABLE.fullmatch(name)}


@pytest.mark.parametrize("role", sorted(ROLES))
def test_a_service_is_held_by_its_sandbox(role: str) -> None:
    directives = unit(role)
    assert {name: directives[name][-1] for name in SANDBOX} == SANDBOX
    assert directives["User"] == [f"outlayer-{role}"]
    assert "~@privileged @resources" in directives["SystemCallFilter"]


@pytest.mark.parametrize("role", sorted(ROLES))
def test_a_service_starts_only_after_measuring_and_filtering(role: str) -> None:
    needed = unit(role)["Requires"][0].split()
    assert {"outlayer-prepare.service", "outlayer-firewall.service"} <= set(needed)


@pytest.mark.parametrize("role", sorted(ROLES))
def test_the_agent_and_the_unit_agree_on_secrets_and_environment(role: str) -> None:
    known = ROLES[role]
    given = environment(role)
    assert given.pop("SSL_CERT_FILE") == "/etc/ssl/certs/ca-certificates.crt"
    secrets = {f"%d/{name}": variable for name, variable in known.secrets.items()}
    assert {value: name for name, value in given.items() if value.startswith("%d/")} == secrets
    assert {name: value for name, value in given.items() if not value.startswith("%d/")} == known.environment
    loaded = {line.split(":")[0] for line in unit(role)["LoadCredential"]}
    assert loaded == set(known.secrets)


@pytest.mark.parametrize("role", sorted(ROLES))
def test_a_configuration_may_set_what_the_service_reads_and_nothing_that_the_image_sets(role: str) -> None:
    known = ROLES[role]
    allowed = known.needed | known.settings
    fixed = set(known.environment) | set(known.secrets.values())
    not_in_an_image = {
        "COORDINATOR_SIMULATED",
        "COORDINATOR_INGEST",
        "DSTACK_SOCKET",
        "DATABASE_URL",
        "REDIS_URL",
    }
    read = read_settings(known)
    assert allowed & fixed == set()
    assert allowed <= read
    assert read - allowed - fixed <= not_in_an_image


@pytest.mark.parametrize("role", sorted(ROLES))
def test_users_have_the_numbers_that_the_packet_filter_names(role: str) -> None:
    lines = (IMAGES / "mkosi.extra/usr/lib/sysusers.d/outlayer.conf").read_text().splitlines()
    assert f"g outlayer {GROUP} -" in lines
    user = ROLES[role].user
    assert any(line.startswith(f"u outlayer-{role} {user}:{user} ") for line in lines)
    assert f"outlayer-{role}" in parse_content((IMAGES / "content.json").read_text()).accounts


def test_an_image_holds_the_packages_that_its_code_digest_covers() -> None:
    assert {
        role: tuple(f"outlayer_{name}" for name in sorted(names)) for role, names in PACKAGES.items()
    } == {role: tuple(sorted(names)) for role, names in ROLE_PACKAGES.items()}
    assert set(PACKAGES) == set(ROLES)


def test_the_command_line_names_a_console_and_refuses_what_the_host_would_add() -> None:
    text = (IMAGES / "mkosi.conf").read_text()
    for word in ("console=ttyS0", "systemd.import_credentials=no", "random.trust_bootloader=off"):
        assert f"\n    {word}\n" in text
    assert STATUS_PORT == 8090


def test_nothing_is_enabled_but_what_is_named() -> None:
    folder = IMAGES / "mkosi.extra/usr/lib/systemd/system-preset"
    presets = sorted(path.name for path in folder.iterdir())
    assert presets == ["00-outlayer.preset", "02-nothing-else.preset"]
    assert (folder / presets[-1]).read_text().splitlines()[-1] == "disable *"


@pytest.mark.parametrize("path", sorted(IMAGES.glob("shapes/*.json")), ids=lambda path: path.stem)
def test_a_shape_is_named_after_its_role_and_file(path: Path) -> None:
    shape = VmShape.from_bytes(path.read_bytes())
    assert shape.name == path.stem
    assert path.stem.partition("-")[0] in ROLES
    assert (IMAGES / "pins" / path.name).is_file(), "make images-pin"


def test_what_shifts_clocks_in_tests_is_in_no_root_that_builds_and_in_no_image() -> None:
    for path in (TOOLS, *(lock_path(role) for role in sorted(ROLES))):
        names = {package.package for package in read_lock(ROOT / path).packages}
        assert len(names) > 50
        assert not {name for name in names if "faketime" in name}
    assert read_lock(ROOT / FAKETIME).request.packages == ("libfaketime",)


def test_mkosi_gets_its_settings_from_one_file() -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True)
    parser.read(IMAGES / "mkosi.conf")
    assert parser["Output"]["Format"] == "uki"
    assert parser["Build"]["WithNetwork"] == "no"


@pytest.mark.parametrize("role", sorted(ROLES))
def test_the_oci_image_exposes_the_ports_that_the_filter_opens(role: str) -> None:
    assert PORTS[role] == tuple(f"{port}/tcp" for port in sorted(ROLES[role].ports))


@pytest.mark.parametrize("role", sorted(ROLES))
def test_the_reference_page_lists_settings_and_secrets_of_the_role_and_no_other(role: str) -> None:
    page = (ROOT / "docs/reference/vm-configuration.md").read_text()
    rows = [
        [re.findall(r"`([^`]+)`", cell) for cell in line.strip("|").split("|")[1:]]
        for line in page.splitlines()
        if line.startswith(f"| {role} |")
    ]
    (needed, allowed), (secrets,) = rows
    known = ROLES[role]
    assert (set(needed), set(allowed)) == (known.needed, known.settings)
    assert set(secrets) == set(known.secrets)
