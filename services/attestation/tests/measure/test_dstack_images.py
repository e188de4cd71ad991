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
from outlayer_attestation.measure import cbor, dstack, image, linux, testing
from outlayer_attestation.measure.model import UndecidedError
from outlayer_attestation.measure.registers import sha384
from outlayer_attestation.measure.runtime import RuntimeEvent
from outlayer_attestation.measure.tdvf import PageOrder, SectionType

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
    assert cbor.loads(testing.cbor(value)) == value


@settings(max_examples=80, deadline=None)
@given(data=st.binary(max_size=60))
def test_any_bytes_are_cbor_in_one_form_or_refused(data: bytes) -> None:
    try:
        value = cbor.loads(data)
    except MetadataError as error:
        assert error.hint
    else:
        assert testing.cbor(value) == data


@pytest.mark.parametrize(
    "data",
    [b"", b"\x18\x01", b"\x9f\xff", b"\xa2\x61a\x01\x61a\x02", b"\xa1\x01\x01", b"\x01\x01", b"\x81" * 64],
)
def test_cbor_in_another_form_is_refused(data: bytes) -> None:
    with pytest.raises(MetadataError):
        cbor.loads(data)


def test_a_published_image_is_read() -> None:
    vm = dstack.parse_vm(json.dumps(testing.dstack_config()))
    assert vm.shape.vcpus == 4
    assert vm.shape.page_add is PageOrder.SINGLE_PASS
    assert not vm.shape.edge_triggers
    assert not vm.shape.pic
    assert vm.firmware.mrtd.of(PageOrder.TWO_PASS) == (b"2" * 48).hex()
    assert vm.image.load_options == (b"c" * 48).hex()
    hobs = [s for s in vm.firmware.memory_sections() if s.type is SectionType.TD_HOB]
    assert [(s.memory_address, s.memory_size) for s in hobs] == [(0x809000, 0x2000)]


def test_the_same_inside_the_reply_of_an_agent() -> None:
    reply = {"quote": "", "vm_config": json.dumps(testing.dstack_config())}
    assert dstack.parse_vm(json.dumps(reply)) == dstack.parse_vm(json.dumps(testing.dstack_config()))


def test_the_old_host_adds_pages_in_two_passes_with_edge_triggers() -> None:
    shape = dstack.vm_shape(testing.dstack_config(qemu_version="8.2.2"))
    assert shape.page_add is PageOrder.TWO_PASS
    assert shape.edge_triggers
    assert shape.pic


def test_the_misnamed_field_selects_two_passes() -> None:
    for value, order in ((True, PageOrder.TWO_PASS), (False, PageOrder.SINGLE_PASS)):
        assert dstack.vm_shape(testing.dstack_config(qemu_single_pass_add_pages=value)).page_add is order


def test_gpus_lie_behind_root_ports() -> None:
    shape = dstack.vm_shape(testing.dstack_config(num_gpus=2, hotplug_off=True, pci_hole64_size=2**44))
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
        dstack.parse_vm(json.dumps(testing.dstack_config() | changes))
    assert raised.value.hint


@pytest.mark.parametrize(
    "raw",
    [
        testing.dstack_measurement(version=2),
        testing.cbor({"version": 3, "image": {}, "tdvf": {}}),
        testing.dstack_measurement(more=1),
        testing.dstack_measurement(
            tdvf={"ovmf": "new", "mrtd": {"single_pass": b"", "two_pass": b""}, "td_hob": b""}
        ),
        testing.dstack_measurement(
            tdvf={
                "ovmf": "pre202505",
                "mrtd": {"single_pass": b"1" * 48, "two_pass": b"2" * 48},
                "td_hob": b"\xff" * 12,
            }
        ),
        testing.dstack_measurement(
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
        dstack.parse_vm(json.dumps(testing.dstack_config(raw)))
    assert raised.value.hint


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_measurement_is_read_or_refused(data: st.DataObject) -> None:
    raw = bytearray(testing.dstack_measurement())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        dstack.parse_vm(json.dumps(testing.dstack_config(bytes(raw))))
    except MetadataError as error:
        assert error.hint


@settings(max_examples=15, deadline=None)
@given(value=st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda v: st.lists(v, max_size=3)))
@pytest.mark.parametrize("name", sorted(testing.dstack_config()))
def test_a_field_of_another_kind_is_refused(name: str, value: Any) -> None:
    try:
        dstack.parse_vm(json.dumps(testing.dstack_config() | {name: value}))
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


# --- what does not follow from what is published -------------------------------------------------------------


KERNEL, INITRD = testing.kernel(), b"070701 an initrd"


def published_image(memory: int = 2 * 1024**3, **changes: Any) -> dict[str, Any]:
    """The vm_config of an image with this kernel and initrd, as dstack publishes them for 2 GiB below 4 GiB."""
    header = linux.SetupHeaderPatch(2 * 1024**3, len(INITRD))
    digest = image.direct_digests(KERNEL, INITRD, "", header).authenticode
    digests = {"kernel_authenticode": bytes.fromhex(digest), "initrd_sha384": sha384(INITRD)}
    return testing.dstack_config(testing.dstack_measurement(image=digests), memory_size=memory, **changes)


@pytest.mark.parametrize("qemu", ["10.0.0", "10.1.2", "10.2.1", "11.1.3"])
def test_from_qemu_10_on_the_published_kernel_digest_is_refused(qemu: str) -> None:
    with pytest.raises(UndecidedError, match=f"QEMU {qemu} hands the kernel over unchanged") as raised:
        dstack.parse_vm(json.dumps(published_image(qemu_version=qemu)))
    assert "--kernel" in raised.value.hint


@pytest.mark.parametrize("qemu", ["8.2.2", "9.2.1"])
def test_before_qemu_10_the_published_kernel_digest_is_the_measured_one(qemu: str) -> None:
    vm = dstack.parse_vm(json.dumps(published_image(qemu_version=qemu)))
    files = dstack.KernelFiles(KERNEL, INITRD)
    assert dstack.parse_vm(json.dumps(published_image(qemu_version=qemu)), files).image.authenticode == (
        vm.image.authenticode
    )


@pytest.mark.parametrize(("qemu", "patched"), [("9.2.1", True), ("10.0.0", False), ("10.2.1", False)])
def test_the_kernel_itself_gives_the_digest_that_is_not_published(qemu: str, patched: bool) -> None:
    vm = dstack.parse_vm(
        json.dumps(published_image(qemu_version=qemu)), dstack.KernelFiles(KERNEL, memoryview(INITRD))
    )
    plain = image.direct_digests(KERNEL, INITRD, "", None).authenticode
    assert (vm.image.authenticode != plain) is patched
    assert (vm.image.setup_header is not None) is patched


def test_below_2816_mib_the_published_kernel_digest_is_of_another_memory_size() -> None:
    config = published_image(1024 * 1024**2)
    with pytest.raises(UndecidedError, match="1024 MiB below 4 GiB"):
        dstack.parse_vm(json.dumps(config))
    vm = dstack.parse_vm(json.dumps(config), dstack.KernelFiles(KERNEL, INITRD))
    patch = linux.SetupHeaderPatch(1024 * 1024**2, len(INITRD))
    assert vm.image.authenticode == image.direct_digests(KERNEL, INITRD, "", patch).authenticode


@pytest.mark.parametrize(
    ("kernel", "initrd", "problem"),
    [
        (testing.kernel(code=b"another"), INITRD, "the kernel is not the one"),
        (KERNEL, INITRD + b"\0", "the initrd is not the one"),
    ],
)
def test_the_files_of_another_image_are_refused(kernel: bytes, initrd: bytes, problem: str) -> None:
    for qemu in ("9.2.1", "10.2.1"):
        with pytest.raises(MetadataError, match=problem):
            dstack.parse_vm(
                json.dumps(published_image(qemu_version=qemu)), dstack.KernelFiles(kernel, initrd)
            )


# --- one reading of each document ----------------------------------------------------------------------------


@pytest.mark.parametrize("key", sorted(testing.dstack_config()))
def test_a_key_that_is_there_twice_is_refused(key: str) -> None:
    text = json.dumps(testing.dstack_config())
    doubled = text[:-1] + f", {json.dumps(key)}: {json.dumps(testing.dstack_config()[key])}" + "}"
    for document in (doubled, json.dumps({"quote": "", "vm_config": doubled})):
        with pytest.raises(MetadataError, match=f"'{key}' is there twice"):
            dstack.parse_vm(document)


def test_a_key_that_is_not_known_is_refused_by_name() -> None:
    nested = testing.dstack_config()
    nested["tdx_measurement"] |= {"kernel_header_normalized": True}
    for value, key in (
        (testing.dstack_config(num_vgpus=1), "num_vgpus"),
        (nested, "tdx_measurement.kernel_header_normalized"),
        ({"quote": "", "vm_config": json.dumps(testing.dstack_config()), "attestation": ""}, "attestation"),
    ):
        with pytest.raises(MetadataError, match=f"unknown key '{key}'"):
            dstack.parse_vm(json.dumps(value))
    with pytest.raises(MetadataError, match="unknown key 'kernel_header_normalized'"):
        raw = testing.dstack_measurement(kernel_header_normalized=1)
        dstack.parse_vm(json.dumps(testing.dstack_config(raw)))


@pytest.mark.parametrize(
    "changes",
    [
        {"hugepages": True},
        {"num_nics": 2},
        {"num_verity_volumes": 1},
        {"swtpm": True},
        {"host_share_mode": "vvfat"},
        {"spec_version": 2},
        {"gcp_measurement": {}},
        {"pic": "off"},
        {"hotplug_off": 0},
        {"qemu_single_pass_add_pages": "false"},
        {"ovmf_variant": []},
        {"tdx_attestation_variant": {}},
    ],
)
def test_what_would_change_the_tables_unseen_is_refused_by_name(changes: dict[str, Any]) -> None:
    [key] = changes
    with pytest.raises(MetadataError, match=key):
        dstack.parse_vm(json.dumps(testing.dstack_config(**changes)))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32-le", "utf-8-sig"])
def test_json_in_another_encoding_is_refused(encoding: str) -> None:
    with pytest.raises(MetadataError, match="not JSON"):
        dstack.parse_vm(json.dumps(testing.dstack_config()).encode(encoding))


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", '"\\ud800"'])
def test_json_that_is_no_interchangeable_json_is_refused(value: str) -> None:
    text = json.dumps(testing.dstack_config())[:-1] + f', "image": {value}' + "}"
    with pytest.raises(MetadataError, match="not JSON"):
        dstack.parse_vm(text)


def test_a_checksum_file_that_lists_a_name_twice_is_refused() -> None:
    config = testing.dstack_config()
    checksums = base64.b64decode(config["tdx_measurement"]["checksum_file"])
    doubled = checksums + b"0" * 64 + b"  measurement.tdx.cbor\n"
    config["tdx_measurement"]["checksum_file"] = base64.b64encode(doubled).decode()
    config["os_image_hash"] = hashlib.sha256(doubled).hexdigest()
    with pytest.raises(MetadataError, match="twice"):
        dstack.parse_vm(json.dumps(config))


@pytest.mark.parametrize("compose", [b"", b"[]", b'{"a": 1, "a": 2}', b'{"a": {"b": 1, "b": 1}}', b"\xff"])
def test_an_app_compose_that_two_readers_may_read_differently_is_refused(compose: bytes) -> None:
    with pytest.raises(MetadataError) as raised:
        dstack.with_app_compose([RuntimeEvent("compose-hash", b"")], compose)
    assert raised.value.hint


def test_memory_that_is_described_twice_is_refused() -> None:
    tdvf = {
        "ovmf": "pre202505",
        "mrtd": {"single_pass": b"1" * 48, "two_pass": b"2" * 48},
        "td_hob": bytes([0x80, 0x10, 9, 2, 0, 10, 9, 2]),
    }
    with pytest.raises(MetadataError, match="overlap"):
        dstack.parse_vm(json.dumps(testing.dstack_config(testing.dstack_measurement(tdvf=tdvf))))


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_a_damaged_vm_config_is_read_or_refused(data: st.DataObject) -> None:
    raw = bytearray(json.dumps(testing.dstack_config()).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        dstack.parse_vm(bytes(raw))
    except MetadataError as error:
        assert error.hint
