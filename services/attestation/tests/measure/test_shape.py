# SPDX-License-Identifier: MIT
"""A shape renders the command line of the VM, the dump of its tables and the prediction, all from one text."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from outlayer_attestation.errors import AttestationError, ShapeError
from outlayer_attestation.measure import acpi, hosttables, testing
from outlayer_attestation.measure.hosttables import HostTables
from outlayer_attestation.measure.shape import (
    Attachments,
    DiskDevice,
    NetworkDevice,
    PassthroughDevice,
    ShareDevice,
    VmShape,
    VsockDevice,
)
from outlayer_attestation.measure.tdvf import PageOrder

KINDS = st.sampled_from(["vsock", "disk", "network", "rng", "share", "passthrough"])


@st.composite
def shapes(draw: st.DrawFn) -> VmShape:
    devices: list[dict[str, Any]] = []
    for number, kind in enumerate(draw(st.lists(KINDS, max_size=10))):
        if kind == "vsock" and any(device["kind"] == "vsock" for device in devices):
            continue
        device: dict[str, Any] = {"kind": kind}
        if kind not in ("vsock", "rng"):
            device["name"] = f"d{number}"
        devices.append(device)
    if devices and all(device["kind"] == "passthrough" for device in devices):
        devices.append({"kind": "rng"})
    return testing.shape(
        vcpus=draw(st.integers(1, 255)),
        memory_mib=draw(st.integers(512, 1024 * 1024)),
        qemu=draw(st.sampled_from(["8.2.2", "9.2.1", "10.1.0", "11.1.3"])),
        page_add=draw(st.sampled_from(PageOrder)),
        hpet=draw(st.booleans()),
        smm=draw(st.booleans()),
        pic=draw(st.booleans()),
        serial=draw(st.booleans()),
        bridge_hotplug=draw(st.booleans()),
        pci_hole64_size=draw(st.none() | st.integers(0, 2**46)),
        devices=tuple(devices),
    )


def attachments(shape: VmShape, **changes: Any) -> Attachments:
    names = {
        kind: [device.name for device in shape.devices if isinstance(device, kind)]
        for kind in (DiskDevice, NetworkDevice, ShareDevice, PassthroughDevice)
    }
    fields: dict[str, Any] = {
        "firmware": Path("/fw.fd"),
        "kernel": Path("/uki.efi"),
        "disks": {name: Path(f"/{name}.raw") for name in names[DiskDevice]},
        "networks": {name: f"tap,ifname={name}" for name in names[NetworkDevice]},
        "shares": {name: Path(f"/{name}") for name in names[ShareDevice]},
        "passthrough": dict.fromkeys(names[PassthroughDevice], "17:00.0"),
        "vsock_cid": 5 if any(isinstance(device, VsockDevice) for device in shape.devices) else None,
    }
    return Attachments(**(fields | changes))


def options(arguments: list[str], name: str) -> list[str]:
    return [value for key, value in itertools.pairwise(arguments) if key == name]


def occupied(arguments: list[str]) -> list[str]:
    return [part for value in options(arguments, "-device") for part in value.split(",") if "addr=" in part]


@settings(max_examples=60, deadline=None)
@given(shape=shapes())
def test_the_vm_and_the_dump_of_its_tables_agree_in_all_that_is_measured(shape: VmShape) -> None:
    dump, command = shape.dump_arguments(), shape.command(attachments(shape))
    for option in ("-m", "-smp", "-global"):
        assert options(dump, option) == options(command, option)
    assert len(options(dump, "-serial")) == len(options(command, "-serial")) == shape.serial
    assert occupied(dump) == occupied(command)
    assert len(options(dump, "-device")) == len(options(command, "-device"))
    machine = shape.machine_argument()
    for arguments in (dump, command):
        assert options(arguments, "-machine")[0].startswith(machine + ",")
        assert {"-nodefaults", "-no-user-config"} <= set(arguments)


@settings(max_examples=60, deadline=None)
@given(shape=shapes())
def test_a_shape_travels_as_json(shape: VmShape) -> None:
    assert VmShape.from_bytes(shape.to_text()) == shape


@settings(max_examples=60, deadline=None)
@given(first=shapes(), second=shapes())
def test_tables_are_only_taken_for_the_shape_they_are_of(first: VmShape, second: VmShape) -> None:
    tables = testing.host_tables(first)
    tables.acpi_tables(first)
    if (first.dump_arguments(), first.qemu) == (second.dump_arguments(), second.qemu):
        tables.acpi_tables(second)
    else:
        with pytest.raises(ShapeError) as raised:
            tables.acpi_tables(second)
        assert raised.value.hint


def test_a_uki_gets_no_command_line_and_no_initrd() -> None:
    shape = testing.shape()
    command = shape.command(attachments(shape, configuration=Path("/etc/out,layer.json")))
    assert "-append" not in command
    assert "-initrd" not in command
    assert options(command, "-fw_cfg") == ["name=opt/outlayer/config,file=/etc/out,,layer.json"]
    assert "confidential-guest-support=tdx" in options(command, "-machine")[0]
    assert json.loads(options(command, "-object")[0]) == {"qom-type": "tdx-guest", "id": "tdx"}


def test_a_quote_service_is_the_hosts_choice() -> None:
    shape = testing.shape()
    socket = {"type": "vsock", "cid": "2", "port": "4050"}
    command = shape.command(attachments(shape, quote_socket=socket))
    assert json.loads(options(command, "-object")[0])["quote-generation-socket"] == socket


def test_network_cards_have_an_option_rom_only_if_the_shape_says_so() -> None:
    for rom, shown in ((None, True), ("ab" * 48, False)):
        shape = testing.shape(devices=({"kind": "network", "name": "net", "option_rom": rom},))
        [card] = options(shape.command(attachments(shape)), "-device")
        assert card.endswith(",romfile=") is shown


@pytest.mark.parametrize(
    "changes",
    [
        {"networks": {}},
        {"networks": {"net": "user", "more": "user"}},
        {"disks": {"data": Path("/x")}},
        {"vsock_cid": None},
    ],
)
def test_a_missing_or_extra_attachment_is_refused(changes: dict[str, Any]) -> None:
    shape = testing.shape()
    with pytest.raises(ShapeError) as raised:
        shape.command(attachments(shape, **changes))
    assert raised.value.hint


@pytest.mark.parametrize(
    "changes",
    [
        {"vcpus": 0},
        {"memory_mib": 100},
        {"qemu": "latest"},
        {"machine": "microvm"},
        {"edge_triggers": True},
        {"devices": ({"kind": "vsock"}, {"kind": "vsock"})},
        {"devices": ({"kind": "disk", "name": "a"}, {"kind": "disk", "name": "a"})},
        {"devices": ({"kind": "tpm"},)},
        {"devices": ({"kind": "passthrough", "name": "gpu"},)},
        {"devices": ({"kind": "rng"},) * 31},
        {"devices": ({"kind": "disk", "name": "a,file=/etc/shadow"},)},
        {"firmware": {"edk2": 202508}},
        {"cpus": 2},
    ],
)
def test_shapes_that_make_no_sense_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        testing.shape(**changes)


def test_an_error_in_a_shape_names_the_field() -> None:
    text = testing.shape().to_text().replace('"vcpus": 2', '"vcpus": 0')
    with pytest.raises(ShapeError, match="vcpus") as raised:
        VmShape.from_bytes(text)
    assert raised.value.hint


@pytest.mark.parametrize(("name", "value"), [("", "!"), ("", "AAAA"), ("etc/table-loader", None)])
def test_host_tables_that_cannot_be_unpacked_are_refused(name: str, value: str | None) -> None:
    document = json.loads(testing.host_tables(testing.shape()).to_text())
    if value is None:
        del document["files"][name]
    else:
        document["files"][acpi.TABLES_FILE] = value
    with pytest.raises(ShapeError) as raised:
        HostTables.from_bytes(json.dumps(document))
    assert raised.value.hint


def test_a_file_that_unpacks_to_gigabytes_is_refused_before_it_does() -> None:
    document = json.loads(testing.host_tables(testing.shape()).to_text())
    document["files"]["bomb"] = hosttables.packed(bytes(64 * 1024 * 1024))
    with pytest.raises(ShapeError):
        HostTables.from_bytes(json.dumps(document))


@settings(max_examples=25, deadline=None)
@given(data=st.binary(max_size=100))
def test_any_bytes_give_the_package_error(data: bytes) -> None:
    for kind in (VmShape, HostTables):
        with pytest.raises(AttestationError) as raised:
            kind.from_bytes(data)
        assert raised.value.hint


def test_a_key_that_stands_twice_is_refused() -> None:
    text = testing.shape().to_text().replace('"vcpus": 2', '"vcpus": 2, "vcpus": 3')
    with pytest.raises(ShapeError, match="twice"):
        VmShape.from_bytes(text)


def test_the_schema_names_every_field() -> None:
    assert set(VmShape.model_json_schema()["properties"]) == set(VmShape.model_fields)
