# SPDX-License-Identifier: MIT
"""PE files, kernels and unified kernel images: what is hashed, and that any bytes are refused cleanly."""

from __future__ import annotations

import hashlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outlayer_attestation.errors import AttestationError, ImageError
from outlayer_attestation.measure import authenticode, image, linux, pe, testing, uki

SECTIONS = {".text": b"code" * 300, ".data": b"data"}


def test_authenticode_is_the_file_without_checksum_and_certificates() -> None:
    """Of a file whose sections follow each other that is all but twelve bytes and the certificate table."""
    signed = testing.pe_file(SECTIONS, certificates=b"certificate!" * 2)
    parsed = pe.parse_pe(signed)
    assert parsed.certificate_entry is not None
    parts = (
        signed[: parsed.checksum_offset],
        signed[parsed.checksum_offset + 4 : parsed.certificate_entry],
        signed[parsed.certificate_entry + 8 : -24],
    )
    assert authenticode.authenticode(signed) == hashlib.sha384(b"".join(parts)).digest()


@settings(max_examples=25, deadline=None)
@given(certificates=st.binary(max_size=64), checksum=st.binary(min_size=4, max_size=4))
def test_a_signature_does_not_change_the_authenticode_digest(certificates: bytes, checksum: bytes) -> None:
    plain = testing.pe_file(SECTIONS)
    signed = bytearray(testing.pe_file(SECTIONS, certificates=certificates))
    offset = pe.parse_pe(plain).checksum_offset
    signed[offset : offset + 4] = checksum
    assert authenticode.authenticode(bytes(signed)) == authenticode.authenticode(plain)


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 4096 + 1024 + 511), change=st.integers(1, 255))
def test_each_other_byte_changes_the_digest_or_breaks_the_file(place: int, change: int) -> None:
    plain = testing.pe_file(SECTIONS)
    parsed = pe.parse_pe(plain)
    assert parsed.certificate_entry is not None
    skipped = range(parsed.checksum_offset, parsed.checksum_offset + 4)
    if place in skipped or parsed.certificate_entry <= place < parsed.certificate_entry + 8:
        return
    other = bytearray(plain)
    other[place % len(plain)] ^= change
    try:
        assert authenticode.authenticode(bytes(other)) != authenticode.authenticode(plain)
    except ImageError as error:
        assert error.hint


def test_sections_are_hashed_in_file_order_and_trailing_data_counts() -> None:
    plain = testing.pe_file(SECTIONS)
    assert authenticode.authenticode(plain + b"more") != authenticode.authenticode(plain)


def test_overlapping_sections_are_refused() -> None:
    plain = bytearray(testing.pe_file(SECTIONS))
    table = 0x40 + 24 + 240
    plain[table + 40 + 20 : table + 40 + 24] = plain[table + 20 : table + 24]
    with pytest.raises(ImageError, match="overlaps"):
        pe.parse_pe(bytes(plain))


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_damaged_uki_is_read_or_refused_and_never_anything_else(data: st.DataObject) -> None:
    damaged = bytearray(testing.uki())
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, 0x400) | st.integers(0, len(damaged) - 1))] = data.draw(
            st.integers(0, 255)
        )
    cut = data.draw(st.sampled_from([len(damaged), len(damaged) - 1, 0x200, 0x41]))
    try:
        image.uki_digests(bytes(damaged[:cut]))
    except ImageError as error:
        assert error.hint


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=600) | st.binary(max_size=600).map(lambda tail: b"MZ" + bytes(58) + tail))
def test_any_bytes_are_no_image(data: bytes) -> None:
    for parse in (image.uki_digests, authenticode.authenticode, linux.kernel_version, uki.is_uki):
        with pytest.raises(ImageError) as raised:
            parse(data)
        assert raised.value.hint


# --- UKI -----------------------------------------------------------------------------------------------


def test_a_plain_kernel_is_no_uki() -> None:
    assert uki.is_uki(testing.uki())
    assert not uki.is_uki(testing.kernel())


@pytest.mark.parametrize("stub", [255, 263])
def test_a_stub_whose_events_are_not_known_is_refused(stub: int) -> None:
    with pytest.raises(ImageError, match=str(stub)) as raised:
        uki.stub_version(testing.uki(stub=stub))
    assert "256" in raised.value.hint


def test_sections_are_measured_in_the_order_of_the_stub_and_signatures_never() -> None:
    sections = {
        ".pcrsig": b"{}",
        ".hwids": b"h",
        ".uname": b"7",
        ".cmdline": b"console=x",
        ".initrd": b"i",
        ".efifw": b"f",
    }
    made = testing.uki(sections, stub=257)
    names = [name for name, _ in uki.measured_sections(made, 257)]
    assert names == [".linux", ".cmdline", ".initrd", ".uname", ".sbat", ".hwids"]
    assert [name for name, _ in uki.measured_sections(made, 258)][-1] == ".efifw"


def test_only_the_virtual_size_of_a_section_is_measured() -> None:
    sections = dict(uki.measured_sections(testing.uki(), 257))
    assert bytes(sections[".cmdline"]) == testing.DEFAULT_SECTIONS[".cmdline"]


def test_the_assembled_initrd_has_the_archives_of_the_stub() -> None:
    made = testing.uki({".initrd": b"12345", ".osrel": b"ID=x", ".ucode": b"u", ".cmdline": b"c"})
    assembled = b"".join(bytes(part) for part in uki.assembled_initrd(made, 257))
    assert assembled.startswith(b"u\0\0\0" + b"12345\0\0\0" + b"070701" + b"00000001" + b"0000416d")
    assert b".extra/os-release\0" in assembled
    assert assembled.count(b"TRAILER!!!") == 1
    assert b"0000000B" in assembled
    assert len(assembled) % 4 == 0
    assert hashlib.sha384(assembled).digest() == uki.assembled_initrd_digest(made, 257)


def test_files_under_extra_come_in_the_order_of_the_stub() -> None:
    sections = {".profile": b"p", ".osrel": b"o", ".pcrpkey": b"k", ".pcrsig": b"s", ".cmdline": b"c"}
    assembled = b"".join(bytes(part) for part in uki.assembled_initrd(testing.uki(sections), 257))
    names = [b"tpm2-pcr-signature.json", b"tpm2-pcr-public-key.pem", b"os-release", b"profile"]
    places = [assembled.index(b".extra/" + name) for name in names]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("section", "text"),
    [(b"  quiet\n", "quiet"), (b"a\tb\nc\0", "a b c"), (b"", ""), ("ä".encode(), "ä")],
)
def test_the_stub_cleans_the_command_line(section: bytes, text: str) -> None:
    assert uki.stub_command_line(section) == text


@pytest.mark.parametrize("section", [b"\xff", b"a\0b", bytes(70_000)])
def test_a_command_line_that_is_no_text_is_refused(section: bytes) -> None:
    with pytest.raises(ImageError):
        uki.stub_command_line(section)


@pytest.mark.parametrize(
    ("sections", "stub", "problem"),
    [
        ({".initrd": b"i"}, 257, "no .cmdline"),
        ({".cmdline": b"quiet"}, 261, "console="),
    ],
)
def test_a_uki_whose_command_line_depends_on_the_vm_is_refused(
    sections: dict[str, bytes], stub: int, problem: str
) -> None:
    with pytest.raises(ImageError, match=problem) as raised:
        image.uki_digests(testing.uki(sections, stub=stub))
    assert raised.value.hint


def test_a_section_with_less_data_than_memory_is_refused() -> None:
    section = pe.PeSection(".initrd", 2**31, 0, 512, 0)
    with pytest.raises(ImageError, match="memory"):
        pe.section_data(bytes(512), section)


# --- kernels -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "version"), [("6.12.1-x (y)", (6, 12)), ("7.3.4+deb13 #1", (7, 3)), ("10.0 z", (10, 0))]
)
def test_the_version_of_a_kernel_is_read(text: str, version: tuple[int, int]) -> None:
    assert linux.kernel_version(testing.kernel(text)) == version


def test_a_kernel_without_a_version_is_refused() -> None:
    with pytest.raises(ImageError, match="version"):
        linux.kernel_version(testing.kernel("unknown"))


def test_an_initrd_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ImageError, match="fit"):
        linux.patched_setup_header(testing.kernel(), linux.SetupHeaderPatch(64 * 1024**2, 2**31))


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x" * 70_000])
def test_a_command_line_that_cannot_be_measured_is_refused(text: str) -> None:
    with pytest.raises(AttestationError):
        linux.load_options_digest(text)


def test_a_large_image_is_hashed_within_two_seconds() -> None:
    sections = {**testing.DEFAULT_SECTIONS, ".initrd": bytes(48 * 1024**2)}
    made = testing.uki(sections)
    started = time.process_time()
    image.uki_digests(made)
    assert time.process_time() - started < 2
