# SPDX-License-Identifier: MIT
"""dstack's published metadata: read strictly; what contradicts itself is refused."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outlayer_attestation.errors import MetadataError, ShapeError
from outlayer_attestation.measure import cbor, dstack
from outlayer_attestation.measure.runtime import RuntimeEvent
from outlayer_attestation.measure.tdvf import PageOrder, SectionType


def encode(value: Any) -> bytes:
    """CBOR in its shortest form, for tests."""

    def head(major: int, count: int) -> bytes:
        if count < 24:
            return bytes([major << 5 | count])
        for size, code in ((1, 24), (2, 25), (4, 26), (8, 27)):
            if count < 1 << (8 * size):
                return bytes([major << 5 | code]) + count.to_bytes(size, "big")
        raise ValueError(count)

    if isinstance(value, int):
        return head(0, value)
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return head(4, len(value)) + b"".join(map(encode, value))
    return head(5, len(value)) + b"".join(encode(key) + encode(item) for key, item in value.items())


VALUES = st.recursive(
    st.integers(0, 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=40).filter(str.isprintable),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=4), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(value=VALUES)
def test_cbor_is_read_back(value: Any) -> None:
    assert cbor.loads(encode(value)) == value


@settings(max_examples=80, deadline=None)
@given(data=st.binary(max_size=60))
def test_any_bytes_are_cbor_in_one_form_or_refused(data: bytes) -> None:
    try:
        value = cbor.loads(data)
    except MetadataError as error:
        assert error.hint
    else:
        assert encode(value) == data


@pytest.mark.parametrize(
    "data",
    [b"", b"\x18\x01", b"\x9f\xff", b"\xa2\x61a\x01\x61a\x02", b"\xa1\x01\x01", b"\x01\x01", b"\x81" * 64],
)
def test_cbor_in_another_form_is_refused(data: bytes) -> None:
    with pytest.raises(MetadataError):
        cbor.loads(data)


def measurement(**changes: Any) -> bytes:
    value: dict[str, Any] = {
        "version": 3,
        "image": {
            "cmdline_sha384": b"c" * 48,
            "kernel_authenticode": b"k" * 48,
            "initrd_sha384": b"i" * 48,
        },
        "tdvf": {
            "ovmf": "pre202505",
            "mrtd": {"single_pass": b"1" * 48, "two_pass": b"2" * 48},
            "td_hob": bytes([0x80, 0x10, 9, 4, 0, 6, 9, 2, 0xB, 2, 0x10, 0x10]),
        },
    }
    return encode(value | changes)


def config(raw: bytes | None = None, **changes: Any) -> dict[str, Any]:
    raw = measurement() if raw is None else raw
    checksums = f"{hashlib.sha256(raw).hexdigest()}  measurement.tdx.cbor\n".encode()
    published = {
        "measurement": base64.b64encode(raw).decode(),
        "checksum_file": base64.b64encode(checksums).decode(),
    }
    return {
        "os_image_hash": hashlib.sha256(checksums).hexdigest(),
        "cpu_count": 4,
        "memory_size": 4 * 1024**3,
        "qemu_version": "9.2.1",
        "tdx_measurement": published,
    } | changes


def test_a_published_image_is_read() -> None:
    vm = dstack.parse_vm(json.dumps(config()))
    assert vm.shape.vcpus == 4
    assert vm.shape.page_add is PageOrder.SINGLE_PASS
    assert not vm.shape.edge_triggers
    assert not vm.shape.pic
    assert vm.firmware.mrtd.of(PageOrder.TWO_PASS) == (b"2" * 48).hex()
    assert vm.image.load_options == (b"c" * 48).hex()
    hobs = [s for s in vm.firmware.memory_sections() if s.type is SectionType.TD_HOB]
    assert [(s.memory_address, s.memory_size) for s in hobs] == [(0x809000, 0x2000)]


def test_the_same_inside_the_reply_of_an_agent() -> None:
    reply = {"quote": "", "vm_config": json.dumps(config())}
    assert dstack.parse_vm(json.dumps(reply)) == dstack.parse_vm(json.dumps(config()))


def test_the_old_host_adds_pages_in_two_passes_with_edge_triggers() -> None:
    shape = dstack.vm_shape(config(qemu_version="8.2.2"))
    assert shape.page_add is PageOrder.TWO_PASS
    assert shape.edge_triggers
    assert shape.pic


def test_the_misnamed_field_selects_two_passes() -> None:
    for value, order in ((True, PageOrder.TWO_PASS), (False, PageOrder.SINGLE_PASS)):
        assert dstack.vm_shape(config(qemu_single_pass_add_pages=value)).page_add is order


def test_gpus_lie_behind_root_ports() -> None:
    shape = dstack.vm_shape(config(num_gpus=2, hotplug_off=True, pci_hole64_size=2**44))
    assert len(shape.devices) == 7
    assert "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off" in shape.dump_arguments()


@pytest.mark.parametrize(
    "changes",
    [
        {"os_image_hash": "00" * 32},
        {"tdx_measurement": None},
        {"tdx_measurement": {"measurement": "!", "checksum_file": "!"}},
        {"tdx_measurement": {"measurement": "AA==", "checksum_file": "AA=="}},
        {"qemu_version": None},
        {"qemu_version": "9"},
        {"cpu_count": 0},
        {"cpu_count": "4"},
        {"memory_size": -1},
        {"memory_size": 1},
        {"num_nvswitches": 1},
        {"num_gpus": 99},
        {"ovmf_variant": "unknown"},
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(MetadataError) as raised:
        dstack.parse_vm(json.dumps(config() | changes))
    assert raised.value.hint


@pytest.mark.parametrize(
    "raw",
    [
        measurement(version=2),
        measurement(image={}),
        measurement(more=1),
        measurement(tdvf={"ovmf": "new", "mrtd": {"single_pass": b"", "two_pass": b""}, "td_hob": b""}),
        measurement(
            tdvf={
                "ovmf": "pre202505",
                "mrtd": {"single_pass": b"1" * 48, "two_pass": b"2" * 48},
                "td_hob": b"\xff" * 12,
            }
        ),
        measurement(
            tdvf={
                "ovmf": "pre202505",
                "mrtd": {"single_pass": b"1" * 47, "two_pass": b"2" * 48},
                "td_hob": bytes([0x80, 0x10, 9, 1, 9, 2]),
            }
        ),
    ],
)
def test_a_measurement_of_another_form_is_refused(raw: bytes) -> None:
    with pytest.raises(MetadataError) as raised:
        dstack.parse_vm(json.dumps(config(raw)))
    assert raised.value.hint


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_measurement_is_read_or_refused(data: st.DataObject) -> None:
    raw = bytearray(measurement())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        dstack.parse_vm(json.dumps(config(bytes(raw))))
    except MetadataError as error:
        assert error.hint


@settings(max_examples=15, deadline=None)
@given(value=st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda v: st.lists(v, max_size=3)))
@pytest.mark.parametrize("name", sorted(config()))
def test_a_field_of_another_kind_is_refused(name: str, value: Any) -> None:
    try:
        dstack.parse_vm(json.dumps(config() | {name: value}))
    except MetadataError as error:
        assert error.hint


@pytest.mark.parametrize("data", ["", "[]", "{", '{"vm_config": "x"}', '{"vm_config": []}', "[" * 2000])
def test_texts_that_are_no_configuration_are_refused(data: str) -> None:
    with pytest.raises(MetadataError):
        dstack.parse_vm(data)


def test_an_instance_id_follows_from_the_seed_and_the_app_id() -> None:
    assert dstack.instance_id(b"s" * 20, b"a" * 20) == hashlib.sha256(b"s" * 20 + b"a" * 20).digest()[:20]
    with pytest.raises(ShapeError):
        dstack.instance_id(b"", b"a" * 20)


def test_an_app_compose_fills_its_events_and_contradicts_others() -> None:
    template = [RuntimeEvent(name, b"") for name in ("system-preparing", "app-id", "compose-hash")]
    filled = dstack.with_app_compose(template, b"{}")
    digest = hashlib.sha256(b"{}").digest()
    assert [event.payload for event in filled] == [b"", digest[:20], digest]
    assert dstack.with_app_compose(filled, b"{}") == filled
    for events, compose in ((filled, b"{ }"), (template[:1], b"{}")):
        with pytest.raises(MetadataError) as raised:
            dstack.with_app_compose(events, compose)
        assert raised.value.hint
