# SPDX-License-Identifier: MIT
"""Firmware files: TDX metadata, page-add orders, the TD HOB, the variable store, ACPI and SMBIOS tables."""

from __future__ import annotations

import hashlib
import itertools
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outlayer_attestation.errors import AttestationError, FirmwareError, ShapeError
from outlayer_attestation.measure import acpi, hob, smbios, tdvf, testing, uefi
from outlayer_attestation.measure.tdvf import PageOrder, Section, SectionType

FIRMWARE = testing.firmware(variables={"PK": b"platform key"})


def test_the_sections_of_a_firmware_are_read_in_table_order() -> None:
    kinds = [section.type.name for section in tdvf.parse_sections(FIRMWARE)]
    assert kinds == ["BFV", "CFV", "TEMP_MEM", "TEMP_MEM", "TD_HOB", "TEMP_MEM"]


@pytest.mark.parametrize("order", PageOrder)
def test_mrtd_is_the_hash_of_the_add_and_extend_records(order: PageOrder) -> None:
    """Written out a second time, record by record, as the module specification lists them."""
    stream = []
    for section in tdvf.parse_sections(FIRMWARE):
        adds, extends = [], []
        for page in range(section.memory_address, section.memory_address + section.memory_size, 4096):
            add = bytearray(128)
            add[:12], add[16:24] = b"MEM.PAGE.ADD", page.to_bytes(8, "little")
            records = []
            for chunk in range(page, page + 4096, 256):
                extend = bytearray(128)
                extend[:9], extend[16:24] = b"MR.EXTEND", chunk.to_bytes(8, "little")
                start = section.data_offset + chunk - section.memory_address
                records.append(bytes(extend) + FIRMWARE[start : start + 256])
            adds.append(bytes(add))
            extends.append(b"".join(records) if section.type is SectionType.BFV else b"")
        if order is PageOrder.TWO_PASS:
            stream += adds + extends
        else:
            stream += [part for pair in zip(adds, extends, strict=True) for part in pair]
    assert tdvf.mrtd(FIRMWARE, order) == hashlib.sha384(b"".join(stream)).digest()


def test_the_two_page_orders_give_two_values() -> None:
    assert tdvf.mrtd(FIRMWARE, PageOrder.SINGLE_PASS) != tdvf.mrtd(FIRMWARE, PageOrder.TWO_PASS)


def section(
    kind: SectionType, address: int, size: int, *, raw: int = 0, attributes: int = 0, offset: int = 0
) -> Section:
    return Section(offset, raw, address, size, kind, attributes)


HOB = section(SectionType.TD_HOB, 0x809000, 0x2000)


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ((), "TD_HOB"),
        ((HOB, section(SectionType.TD_HOB, 0x1000, 0x1000)), "2 TD_HOB"),
        ((HOB, section(SectionType.TEMP_MEM, 0x1001, 0x1000)), "aligned"),
        ((HOB, section(SectionType.TEMP_MEM, 0x80A000, 0x1000)), "overlaps"),
        ((HOB, section(SectionType.TEMP_MEM, 0x1000, 0x1000, raw=1)), "has data"),
        ((HOB, section(SectionType.BFV, 0x1000, 0x1000, raw=0x1000)), "not measured"),
        ((HOB, section(SectionType.CFV, 0x1000, 0x1000, raw=0x2000)), "more data"),
        ((HOB, section(SectionType.CFV, 0x1000, 0x1000, raw=0x1000, offset=0x10000)), "outside the file"),
        ((HOB, section(SectionType.CFV, 0x1000, 0x1000, attributes=4)), "attributes"),
        ((HOB, section(SectionType.TEMP_MEM, 2**63, 0x1000)), "outside memory"),
        ((HOB, section(SectionType.TEMP_MEM, 0, 2**40)), "overlaps"),
        ((HOB, section(SectionType.TEMP_MEM, 2**32, 2**40)), "no real firmware"),
        ((HOB, section(SectionType.BFV, 2**32, 2**30, attributes=1)), "no real firmware"),
    ],
)
def test_metadata_that_breaks_a_rule_is_refused(sections: tuple[Section, ...], problem: str) -> None:
    with pytest.raises(FirmwareError, match=problem) as raised:
        tdvf.check_sections(sections, 0x8000)
    assert raised.value.hint


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_a_damaged_firmware_is_read_or_refused_and_never_anything_else(data: st.DataObject) -> None:
    damaged = bytearray(FIRMWARE)
    # the metadata lies in the last 2 KiB, the variable store at the start
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(len(damaged) - 2048, len(damaged) - 1) | st.integers(0, 200))
        damaged[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(damaged), len(damaged) - 1, 4096, 40]))
    try:
        tdvf.parse_sections(bytes(damaged[:cut]))
        uefi.parse_variables(tdvf.configuration_volume(bytes(damaged[:cut])))
    except FirmwareError as error:
        assert error.hint


@settings(max_examples=80, deadline=None)
@given(data=st.binary(max_size=400))
def test_any_bytes_are_no_firmware(data: bytes) -> None:
    for parse in (tdvf.parse_sections, uefi.parse_variables):
        with pytest.raises(FirmwareError) as raised:
            parse(data)
        assert raised.value.hint


# --- TD HOB --------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(memory=st.integers(16, 2**24).map(lambda mib: mib * 1024**2))
def test_the_td_hob_covers_all_memory_once(memory: int) -> None:
    ranges = hob.memory_ranges(memory, tdvf.parse_sections(FIRMWARE))
    assert sum(end - start for _, start, end in ranges) == memory
    assert all(start < end for _, start, end in ranges)
    ends = [(start, end) for _, start, end in ranges]
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(ends))
    hob_bytes = hob.td_hob(memory, tdvf.parse_sections(FIRMWARE))
    assert len(hob_bytes) == 56 + 48 * len(ranges)


def test_the_td_hob_of_the_documented_example() -> None:
    hob_bytes = hob.td_hob(2 * 1024**3, tdvf.parse_sections(FIRMWARE))
    assert len(hob_bytes) == 440
    assert struct.unpack_from("<Q", hob_bytes, 48) == (0x8091C0,)
    assert hashlib.sha384(hob_bytes).hexdigest().startswith("0b8772e5b0b41b83")


def test_too_little_memory_for_the_firmware_is_refused() -> None:
    with pytest.raises(ShapeError):
        hob.td_hob(8 * 1024**2, tdvf.parse_sections(FIRMWARE))


# --- variables -----------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.sampled_from(["PK", "KEK", "db", "dbx", "dbt"]), st.binary(max_size=300)))
def test_the_variables_of_a_store_are_measured_with_their_data(values: dict[str, bytes]) -> None:
    variables = uefi.parse_variables(testing.variable_volume(values))
    assert {variable.name: variable.data for variable in variables} == values
    measured = uefi.secure_boot_variables(variables, uefi.SecureBoot.OFF)
    assert [name for name, _ in measured][:5] == ["SecureBoot", "PK", "KEK", "db", "dbx"]
    assert ("dbt" in dict(measured)) == ("dbt" in values)
    for name, data in values.items():
        assert dict(measured)[name].endswith(data)


def test_a_deleted_variable_does_not_count() -> None:
    volume = bytearray(testing.variable_volume({"PK": b"old"}))
    volume[volume.index(b"\xaa\x55") + 2] = 0x3C
    assert uefi.parse_variables(bytes(volume)) == ()


def test_secure_boot_without_a_platform_key_is_refused() -> None:
    with pytest.raises(FirmwareError, match="PK") as raised:
        uefi.secure_boot_variables((), uefi.SecureBoot.ON)
    assert raised.value.hint


# --- ACPI and SMBIOS -----------------------------------------------------------------------------------


def test_edge_triggers_replace_the_overrides_and_change_the_interrupts() -> None:
    before = acpi.split_tables(testing.acpi_tables().tables)
    after = acpi.split_tables(acpi.with_edge_triggers(testing.acpi_tables().tables).tables)
    madt = {table.signature: table.data for table in after}[b"APIC"]
    assert len(madt) == len({t.signature: t.data for t in before}[b"APIC"]) - 10 + 160
    assert int.from_bytes(madt[4:8], "little") == len(madt)
    assert b"\x89\x06\x00\x0b" in {table.signature: table.data for table in after}[b"DSDT"]


@pytest.mark.parametrize("signature", [b"TPM2", b"SSDT"])
def test_a_table_whose_loader_commands_are_not_known_is_refused(signature: bytes) -> None:
    blob = testing.acpi_tables().tables.replace(b"WAET", signature)
    with pytest.raises(ShapeError, match=signature.decode()):
        acpi.rebuild(blob)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_damaged_tables_are_read_or_refused_and_never_anything_else(data: st.DataObject) -> None:
    blob = bytearray(testing.acpi_tables().tables[:1200])
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    for parse in (acpi.rebuild, acpi.with_edge_triggers):
        try:
            parse(bytes(blob))
        except ShapeError as error:
            assert error.hint


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=600))
def test_any_bytes_are_no_tables(data: bytes) -> None:
    for parse in (acpi.rebuild, acpi.allocated_files, smbios.filtered, smbios.stub_events):
        try:
            parse(data)
        except ShapeError as error:
            assert error.hint


def test_the_smbios_filter_clears_what_is_of_one_machine() -> None:
    table = smbios.with_firmware_structure(testing.smbios_table(), "vendor", "version", "date")
    other = bytearray(table)
    other[table.index(b"serial") : table.index(b"serial") + 6] = b"SERIAL"
    other[8:24] = bytes(range(16))  # the UUID of type 1
    assert smbios.filtered(bytes(other)) == smbios.filtered(table)
    other[table.index(b"pc-q35")] = ord("x")
    assert smbios.filtered(bytes(other)) != smbios.filtered(table)


def test_strings_set_by_the_host_are_cleared_and_structures_of_type_127_stay() -> None:
    text = struct.pack("<BBH", 11, 5, 1) + b"\x01" + b"a secret\0\0"
    filtered = smbios.filtered(text + smbios.END_OF_TABLE)
    # everything after the header is cleared; 127 is of 128 and below, so it stays
    assert filtered == text[:4] + bytes(len(text) - 4) + smbios.END_OF_TABLE


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_a_damaged_smbios_table_is_read_or_refused(data: st.DataObject) -> None:
    table = bytearray(smbios.with_firmware_structure(testing.smbios_table(), "v", "1", "d"))
    for _ in range(data.draw(st.integers(1, 4))):
        table[data.draw(st.integers(0, len(table) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert len(smbios.filtered(bytes(table))) == len(table)
        smbios.with_processor_id(bytes(table), bytes(8))
        smbios.stub_events(bytes(table))
    except AttestationError as error:
        assert error.hint
