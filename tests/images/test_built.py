# SPDX-License-Identifier: MIT
"""The images that were built: minimal, without a login, of a bounded size, and what is pinned."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from outlayer_attestation.vm.configuration import VmConfiguration
from outlayer_attestation.vm.rendering import time_sources
from outlayer_attestation.vm.roles import ROLES
from tests.images.conftest import ROOT, run
from tests.images.unpack import layer_of, tree_of
from tools.imageaudit.cpio import Entry
from tools.imagebuild.manifest import is_pinned
from tools.imagebuild.stage import NOT_IN_IMAGES, belongs

pytestmark = [pytest.mark.images, pytest.mark.timeout(2400)]

MAX_BYTES = 120_000_000
# nothing of this may be in any artifact
FORBIDDEN = [
    r"(^|/)(apt|apt-get|dpkg|rpm|pip3?|ensurepip)(/|$|-)",
    r"^usr/bin/(ba|da|z|k|c|tc)?sh$",
    r"^(usr/)?s?bin/(su|sudo|login|passwd|chsh|newgrp|sulogin|runuser|agetty|getty|sshd?|dropbear|busybox)$",
    r"^usr/bin/(perl|curl|wget|nc|gdb|strace|env|cat|cp|dd|tar|systemd-run|busctl|machinectl|journalctl|gpg)",
    r"/(emergency|rescue|debug-shell|getty@?|serial-getty@?|container-getty@?|console-getty|autovt@?)\.(service|target)$",
    r"systemd-(sulogin-shell|debug-generator|ssh-generator|ssh-proxy|import|homed|userdbd|logind|coredump)",
    r"^usr/lib/systemd/system-generators/",
    r"^usr/share/(locale|man|info|i18n|perl|bash-completion)(/|$)",
    r"^usr/lib/locale/(?!C\.utf8(/|$))",
    r"^var/(lib/dpkg|cache|log)/.",
    r"^boot/.",
    r"\.(a|h|pyi)$",
    r"(^|/)(id_rsa|authorized_keys|\.ssh|\.netrc|\.bash)",
    r"/(credstore|credstore\.encrypted)(/|$)",
    r"(^|/)(ld\.so\.preload|faketimerc|libfaketime.*|elsewhere(\.so)?)$",
]
FORBIDDEN_IN_OCI = [
    r"vmlinuz", r"\.ko(\.xz)?$", r"^usr/lib/modules", r"^usr/lib/systemd", r"^etc/systemd", r"^usr/lib/udev",
    r"^(usr/)?s?bin/(init|mount|umount|systemctl|udevadm|kmod|modprobe|mkfs|chronyc)", r"^init$",
]  # fmt: skip
ROLE_NAMES = sorted(ROLES)
SETTINGS = {
    name: "https://a.example" if name in ROLES["worker"].urls else "x" for name in ROLES["worker"].needed
}


def forbidden(paths: set[str], patterns: list[str]) -> list[str]:
    return sorted(path for path in paths for pattern in patterns if re.search(pattern, path))


@pytest.fixture(scope="module")
def trees(artifacts: dict[str, Path]) -> dict[str, dict[str, Entry]]:
    return {role: tree_of(folder / f"{role}.efi") for role, folder in artifacts.items()}


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_the_kernel_image_holds_nothing_that_is_forbidden(
    trees: dict[str, dict[str, Entry]], role: str
) -> None:
    assert len(trees[role]) > 1000
    allowed = {path for path in trees[role] if path.startswith("usr/lib/outlayer/site-packages/")}
    assert forbidden(set(trees[role]) - allowed, FORBIDDEN) == []
    # Python packages may have what they like, except programs of a shell or another package manager
    assert forbidden(allowed, [r"/(pip|ensurepip|setuptools)/", r"\.(sh|bash)$"]) == []


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_the_oci_image_has_no_kernel_no_systemd_and_nothing_forbidden(
    artifacts: dict[str, Path], role: str
) -> None:
    configuration, layer = layer_of(artifacts[role] / f"{role}.oci")
    paths = set(layer.getnames())
    outside = {path for path in paths if not path.startswith("usr/lib/outlayer/site-packages/")}
    assert forbidden(outside, FORBIDDEN + FORBIDDEN_IN_OCI) == []
    process = configuration["config"]
    assert process["Entrypoint"][0] == "/usr/bin/tini"
    assert "usr/bin/tini" in paths
    assert "usr/sbin/nft" in paths


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_nobody_can_log_in(trees: dict[str, dict[str, Entry]], role: str) -> None:
    passwd = trees[role]["etc/passwd"].content.decode().splitlines()
    assert all(line.endswith(":/usr/sbin/nologin") for line in passwd)
    shadow = trees[role]["etc/shadow"].content.decode().splitlines()
    assert all(line.split(":")[1] in ("*", "!", "!*", "!!") for line in shadow)
    number = ROLES[role].user
    assert any(line.startswith(f"outlayer-{role}:x:{number}:{number}:") for line in passwd)


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_every_account_and_every_file_carries_the_time_of_the_lock(
    artifacts: dict[str, Path], trees: dict[str, dict[str, Entry]], role: str
) -> None:
    epoch = json.loads(trees[role]["usr/lib/outlayer/image.json"].content)["source_date_epoch"]
    shadow = trees[role]["etc/shadow"].content.decode().splitlines()
    assert len(shadow) > 4
    assert {line.split(":")[2] for line in shadow} == {str(epoch // 86400)}
    assert {entry.mtime for entry in trees[role].values()} == {epoch}
    _, layer = layer_of(artifacts[role] / f"{role}.oci")
    assert {item.mtime for item in layer} == {epoch}


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_no_file_gives_rights_and_all_are_roots(trees: dict[str, dict[str, Entry]], role: str) -> None:
    for path, entry in trees[role].items():
        mode = entry.mode
        link = mode & 0o170000 == 0o120000
        assert entry.user == 0, path
        assert entry.group in (0, 42), path  # 42: shadow
        assert not mode & 0o6000, path
        sticky = mode & 0o1000 and mode & 0o170000 == 0o040000
        assert link or sticky or not mode & 0o022, path


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_the_kernel_image_holds_the_code_of_the_checkout(
    trees: dict[str, dict[str, Entry]], role: str
) -> None:
    site = "usr/lib/outlayer/site-packages"
    for name in ("attestation", "near", role):
        top = ROOT / f"services/{name}/src"
        sources = [path for path in top.rglob("*.py") if belongs(path.relative_to(top))]
        assert sources
        for path in sources:
            assert trees[role][f"{site}/{path.relative_to(top).as_posix()}"].content == path.read_bytes()


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_no_image_can_simulate_a_platform_and_no_folder_is_left_over(
    trees: dict[str, dict[str, Entry]], role: str
) -> None:
    site = "usr/lib/outlayer/site-packages"
    for name in NOT_IN_IMAGES:
        assert not [path for path in trees[role] if path.startswith(f"{site}/{name}")], name
    folders = {path for path, entry in trees[role].items() if entry.mode & 0o170000 == 0o040000}
    full = {path.rpartition("/")[0] for path in trees[role]}
    assert folders - full <= {"dev", "proc", "sys", "run", "tmp", "root", "var/lib", "var/tmp"}


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_the_image_is_small_enough_to_sit_in_memory(artifacts: dict[str, Path], role: str) -> None:
    assert (artifacts[role] / f"{role}.efi").stat().st_size <= MAX_BYTES


def test_the_command_line_is_the_one_in_the_definition(artifacts: dict[str, Path]) -> None:
    from outlayer_attestation.measure.pe import parse_pe, section_data

    for role, folder in artifacts.items():
        data = (folder / f"{role}.efi").read_bytes()
        (section,) = (item for item in parse_pe(data).sections if item.name == ".cmdline")
        words = bytes(section_data(data, section)).rstrip(b"\0\n").decode().split()
        assert "console=ttyS0" in words
        assert "systemd.import_credentials=no" in words
        assert not any(word.startswith(("root=", "init=", "rd.break", "systemd.debug")) for word in words)


def test_pinned_values_are_those_of_the_build(artifacts: dict[str, Path], firmware: Path) -> None:
    del firmware
    done = run("-m", "tools.imagepins", "check", *artifacts, "--allow-current")
    for role, folder in artifacts.items():
        if is_pinned(folder):
            assert f"images/pins/{role}-small.json: as pinned" in done.stdout
        else:
            assert f"NOTICE  {role} was built from packages that are not the locked ones" in done.stderr


def test_the_time_sources_that_the_agent_writes_are_ones_that_chronyd_reads(
    trees: dict[str, dict[str, Entry]], tmp_path: Path
) -> None:
    """The image's own chronyd prints the configuration that it understood, and refuses one that it does not."""
    for path, entry in trees["worker"].items():
        target = tmp_path / path
        if entry.mode & 0o170000 == 0o040000:
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if entry.mode & 0o170000 == 0o120000:
            target.symlink_to(entry.content.decode())
        else:
            target.write_bytes(entry.content)
            target.chmod(entry.mode & 0o777)
    sources = tmp_path / "run/outlayer/chrony"
    sources.mkdir(parents=True)
    servers = ["time.example.net", "nts.example.org"]
    document = VmConfiguration.make("worker", SETTINGS, nameservers=["9.9.9.9"], time_servers=servers)
    (sources / "outlayer.sources").write_text(time_sources(VmConfiguration.from_bytes(document)))
    # a folder of sources is read when chronyd runs; as a file of the configuration it is checked now
    check = tmp_path / "etc/chrony/check.conf"
    check.write_text("include /etc/chrony/chrony.conf\ninclude /run/outlayer/chrony/outlayer.sources\n")
    words = ["chroot", str(tmp_path), "/usr/sbin/chronyd", "-p", "-f", "/etc/chrony/check.conf"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    printed = done.stdout.splitlines()
    for line in ("makestep 1 3", "maxchange 3600 3 1", "authselectmode require", "port 0"):
        assert line in printed
    assert [line for line in printed if line.startswith("server ")] == [
        f"server {name} nts iburst" for name in servers
    ]
    check.write_text("server a nts iburst wrong\n")
    assert subprocess.run(words, capture_output=True, check=False).returncode != 0
