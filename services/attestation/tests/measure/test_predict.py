# SPDX-License-Identifier: MIT
"""Which change moves which register, and no other: kernel, command line, initrd, firmware, shape, configuration."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outlayer_attestation.errors import FirmwareError, ImageError, MetadataError, ShapeError
from outlayer_attestation.measure import image, linux, testing
from outlayer_attestation.measure.metadata import ImageMetadata, RuntimeEvents
from outlayer_attestation.measure.predict import Prediction, predict
from outlayer_attestation.measure.registers import registers_of
from outlayer_attestation.measure.runtime import role_events, runtime_events
from outlayer_attestation.measure.shape import FirmwareProfile, VmShape
from outlayer_attestation.measure.tdvf import PageOrder
from outlayer_attestation.measurements import Measurements

BLOB = st.binary(min_size=1, max_size=200)
NEW_FIRMWARE = {"edk2": 202608, "smbios": {"vendor": "v", "version": "1", "date": "01/01/2026"}}


def metadata(
    *,
    code: bytes = b"code",
    variables: dict[str, bytes] | None = None,
    uki: bytes | None = None,
    config: bytes = b"{}",
    role: str = "worker",
    **shape: Any,
) -> ImageMetadata:
    vm = testing.shape(**shape)
    return ImageMetadata.make(
        vm,
        image.firmware_digests(testing.firmware(code, variables), vm.firmware),
        image.uki_digests(testing.uki() if uki is None else uki),
        testing.host_tables(vm),
        RuntimeEvents.make(role_events(role, config), 2),
    )


def measure(**changes: Any) -> Measurements:
    return metadata(**changes).predict().measurements


def moved(before: Measurements, **changes: Any) -> set[str]:
    return set(before.differences(measure(**changes)))


UKI_PARTS = testing.DEFAULT_SECTIONS


@settings(max_examples=15, deadline=None)
@given(kernel=BLOB)
def test_the_kernel_moves_rtmr1_and_rtmr2(kernel: bytes) -> None:
    other = testing.uki(linux=testing.kernel(code=b"another " + kernel))
    assert moved(measure(), uki=other) == {"rtmr1", "rtmr2"}


@settings(max_examples=15, deadline=None)
@given(section=st.sampled_from([".cmdline", ".initrd", ".osrel"]), text=st.text("abc =/", max_size=40))
def test_the_command_line_and_the_initrd_of_a_uki_move_rtmr1_and_rtmr2(section: str, text: str) -> None:
    other = testing.uki({**UKI_PARTS, section: UKI_PARTS[section] + b" x" + text.encode()})
    assert moved(measure(), uki=other) == {"rtmr1", "rtmr2"}


@settings(max_examples=15, deadline=None)
@given(code=BLOB)
def test_firmware_code_moves_mrtd(code: bytes) -> None:
    assert moved(measure(), code=b"other " + code) == {"mrtd"}


@settings(max_examples=15, deadline=None)
@given(name=st.sampled_from(["PK", "KEK", "db", "dbx"]), value=BLOB)
def test_firmware_variables_move_rtmr0(name: str, value: bytes) -> None:
    assert moved(measure(), variables={name: value}) == {"rtmr0"}


SHAPE_CHANGES = st.one_of(
    st.builds(lambda n: {"vcpus": n}, st.integers(3, 255)),
    st.builds(lambda n: {"memory_mib": n}, st.integers(2049, 65536)),
    st.builds(lambda on: {"devices": ({"kind": "rng"},) * on}, st.integers(3, 20)),
    st.just({"hpet": True}),
    st.just({"pic": True}),
    st.just({"serial": False}),
    st.just({"bridge_hotplug": False}),
    st.builds(lambda n: {"pci_hole64_size": n}, st.integers(1, 2**46)),
    st.just({"qemu": "11.1.2"}),
)


@settings(max_examples=25, deadline=None)
@given(change=SHAPE_CHANGES)
def test_the_shape_moves_rtmr0(change: dict[str, Any]) -> None:
    # another QEMU gives other tables; the stand-in's depend on its arguments alone
    expected = set() if "qemu" in change else {"rtmr0"}
    assert moved(measure(), **change) == expected


@settings(max_examples=10, deadline=None)
@given(config=BLOB)
def test_the_configuration_moves_rtmr3(config: bytes) -> None:
    assert moved(measure(), config=b"{}" + config) == {"rtmr3"}


def test_the_role_moves_rtmr3() -> None:
    assert moved(measure(), role="keystore") == {"rtmr3"}


def test_the_page_order_of_the_host_moves_mrtd() -> None:
    assert moved(measure(), page_add=PageOrder.TWO_PASS) == {"mrtd"}


def test_an_option_rom_moves_rtmr1() -> None:
    devices = ({"kind": "vsock"}, {"kind": "network", "name": "net", "option_rom": "ab" * 48})
    assert moved(measure(), devices=devices) == {"rtmr1"}


# --- kernel, initrd and command line as files of their own ----------------------------------------------


def direct(
    *, kernel: bytes | None = None, initrd: bytes | None = b"initrd", command_line: str = "console=ttyS0"
) -> Prediction:
    vm = testing.shape()
    return predict(
        image.firmware_digests(testing.firmware(), vm.firmware),
        image.direct_digests(kernel or testing.kernel(), initrd, command_line, None),
        vm,
        testing.acpi_tables(),
        [],
    )


@settings(max_examples=15, deadline=None)
@given(value=BLOB)
def test_a_kernel_alone_moves_rtmr1_and_its_initrd_rtmr2(value: bytes) -> None:
    before = direct().measurements
    other = direct(kernel=testing.kernel(code=b"another " + value))
    assert set(before.differences(other.measurements)) == {"rtmr1"}
    assert set(before.differences(direct(initrd=b"another " + value).measurements)) == {"rtmr2"}


@settings(max_examples=15, deadline=None)
@given(text=st.text("abc =", min_size=1))
def test_the_command_line_of_a_kernel_moves_rtmr2(text: str) -> None:
    before = direct().measurements
    assert set(before.differences(direct(command_line="console=ttyS0" + text).measurements)) == {"rtmr2"}


def test_a_kernel_before_6_9_measures_nothing_in_rtmr2() -> None:
    old = direct(kernel=testing.kernel("6.8.12 (old)"))
    assert old.measurements.rtmr2 == "00" * 48


def test_the_firmware_adds_the_initrd_to_the_command_line_by_its_release() -> None:
    add = linux.command_line_for_boot
    assert add("quiet", initrd=True, edk2=202502) == "quiet initrd=initrd"
    assert add("quiet", initrd=True, edk2=202508) == "initrd=initrd quiet"
    assert add("quiet", initrd=False, edk2=202508) == "quiet"


# --- QEMU's changes to a kernel's header ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("qemu", "edk2", "patched"),
    [
        ("8.2.2", 202502, True),
        ("9.2.1", 202502, True),
        ("10.0.13", 202502, False),
        ("10.1.0", 202411, True),
        ("10.2.0", 202411, False),
    ],
)
def test_the_header_of_a_kernel_is_changed_by_older_hosts(qemu: str, edk2: int, patched: bool) -> None:
    assert testing.shape(qemu=qemu, firmware={"edk2": edk2}).patches_setup_header is patched


def test_a_kernel_hashed_for_another_host_is_refused() -> None:
    vm = testing.shape(qemu="9.2.1")
    plain = image.direct_digests(testing.kernel(), b"initrd", "", None)
    firmware = image.firmware_digests(testing.firmware(), vm.firmware)
    with pytest.raises(ImageError, match="header") as raised:
        predict(firmware, plain, vm, testing.acpi_tables(), [])
    assert "UKI" in raised.value.hint
    for memory, fits in ((2048, True), (1024, False)):
        patch = linux.SetupHeaderPatch(memory * 1024**2, 6)
        changed = image.direct_digests(testing.kernel(), b"initrd", "", patch)
        if fits:
            predict(firmware, changed, vm, testing.acpi_tables(), [])
        else:
            with pytest.raises(ImageError, match="memory"):
                predict(firmware, changed, vm, testing.acpi_tables(), [])


def test_the_changed_header_has_the_documented_fields() -> None:
    patch = linux.SetupHeaderPatch(4096 * 1024**2, 0x1234)
    changed = linux.patched_setup_header(testing.kernel(), patch)
    assert changed[0x210] == 0xB0
    assert changed[0x211] & 0x80
    assert changed[0x224:0x226] == (0xFE00).to_bytes(2, "little")
    assert changed[0x228:0x22C] == (0x20000).to_bytes(4, "little")
    highest = min(0x7FFFFFFF, 0x80000000 - 0x28000 - 1)
    assert int.from_bytes(changed[0x218:0x21C], "little") == (highest - 0x1234) & ~0xFFF
    assert int.from_bytes(changed[0x21C:0x220], "little") == 0x1234
    assert len(changed) == len(testing.kernel())


# --- layouts -------------------------------------------------------------------------------------------


def names(prediction: Prediction, rtmr: int) -> list[str]:
    return [event.name for event in prediction.events if event.rtmr == rtmr]


VARIABLES = ["SecureBoot", "PK", "KEK", "db", "dbx"]
ACPI = ["acpi-loader", "acpi-rsdp", "acpi-tables"]


def test_the_layout_before_202505_has_thirteen_events() -> None:
    listed = names(metadata().predict(), 0)
    assert listed == ["td-hob", "cfv", *VARIABLES, "separator", *ACPI, "BootOrder", "Boot0000"]


def test_firmware_before_202411_has_its_second_separator_in_rtmr0() -> None:
    old = metadata(firmware={"edk2": 202405}).predict()
    assert names(old, 0)[-1] == "separator"
    assert "separator" not in names(old, 1)
    assert "separator" in names(metadata().predict(), 1)


def test_the_layout_from_202505_measures_fw_cfg_and_smbios() -> None:
    new = metadata(firmware=NEW_FIRMWARE, processor_id="f2060c00fffba91f").predict()
    expected = ["td-hob", "cfv", "fw_cfg BootMenu", "fw_cfg bootorder", *VARIABLES, "separator", *ACPI]
    assert names(new, 0) == [*expected, "smbios", "BootOrder", "Boot0000", "Boot0001"]
    assert any("SMBIOS type 4" in note for note in new.unverified()["rtmr0"])


def test_the_cpu_of_the_host_moves_rtmr0_with_newer_firmware() -> None:
    before = measure(firmware=NEW_FIRMWARE, processor_id="f2060c00fffba91f")
    other = measure(firmware=NEW_FIRMWARE, processor_id="f2060c00fffba91e")
    assert set(before.differences(other)) == {"rtmr0"}


@pytest.mark.parametrize(("stub", "inner"), [(257, True), (258, False)])
def test_a_stub_up_to_257_has_the_firmware_measure_the_inner_kernel(stub: int, inner: bool) -> None:
    listed = names(metadata(uki=testing.uki(stub=stub)).predict(), 1)
    expected = ["image", "Calling EFI Application from Boot Option", "separator"]
    expected += ["inner-kernel"] if inner else []
    assert listed == [
        *expected,
        "Exit Boot Services Invocation",
        "Exit Boot Services Returned with Success",
    ]


def test_a_stub_from_261_measures_smbios_structures() -> None:
    with pytest.raises(ShapeError, match="SMBIOS"):
        metadata(uki=testing.uki(stub=261))
    new = metadata(uki=testing.uki(stub=261), firmware=NEW_FIRMWARE, processor_id="00" * 8).predict()
    assert names(new, 0)[-1] == "smbios:type1"


def test_releases_without_known_boot_options_are_refused() -> None:
    with pytest.raises(FirmwareError, match="202605"):
        metadata(firmware=NEW_FIRMWARE | {"edk2": 202605}, processor_id="00" * 8)


# --- what is said about hardware -----------------------------------------------------------------------


def test_what_only_hardware_can_show_is_marked() -> None:
    notes = metadata().predict().unverified()
    assert notes["mrtd"]
    assert any("TD HOB" in note for note in notes["rtmr0"])
    assert notes["rtmr3"] == []


def test_the_registers_are_the_replay_of_the_events() -> None:
    prediction = metadata().predict()
    values = registers_of(prediction.events)
    assert prediction.measurements.registers()[1:] == values


# --- published metadata --------------------------------------------------------------------------------


def test_metadata_travels_as_json_and_predicts_the_same() -> None:
    made = metadata()
    read = ImageMetadata.from_bytes(made.to_text())
    assert read == made
    assert read.predict() == made.predict()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("measurements", "mrtd"), "00" * 48),
        (("measurements", "rtmr2"), "00" * 48),
        (("firmware", "cfv"), "00" * 48),
        (("image", "authenticode"), "00" * 48),
        (("shape", "memory_mib"), 4096),
        (("runtime", "digest_version"), 1),
        (("events", 3, "sha384"), "00" * 48),
        (("events", 3, "name"), "other"),
    ],
)
def test_metadata_that_contradicts_itself_is_refused(path: tuple[Any, ...], value: Any) -> None:
    document = metadata().model_dump(mode="json", by_alias=True)
    place = document
    for part in path[:-1]:
        place = place[part]
    assert place[path[-1]] != value
    place[path[-1]] = value
    import json

    with pytest.raises((MetadataError, ShapeError)) as raised:
        ImageMetadata.from_bytes(json.dumps(document)).predict()
    assert raised.value.hint


def test_a_shape_with_another_firmware_profile_is_refused() -> None:
    vm = testing.shape()
    firmware = image.firmware_digests(testing.firmware(), FirmwareProfile(edk2=202411))
    with pytest.raises(ShapeError, match="profile"):
        predict(firmware, image.uki_digests(testing.uki()), vm, testing.acpi_tables(), [])


def test_runtime_events_of_both_versions_differ() -> None:
    events = role_events("worker", b"{}")
    assert [event.name for event in events] == ["role", "config", "ready"]
    first, second = (runtime_events(events, version) for version in (1, 2))
    assert not {event.digest for event in first} & {event.digest for event in second}


@pytest.mark.parametrize(("role", "config"), [("", b"{}"), ("worker", bytes(65 * 1024))])
def test_a_configuration_that_no_vm_takes_is_refused(role: str, config: bytes) -> None:
    with pytest.raises(ShapeError):
        role_events(role, config)


def test_the_shape_is_part_of_the_metadata() -> None:
    assert isinstance(metadata().shape, VmShape)
