# SPDX-License-Identifier: MIT
"""The quote parser: real quotes give the values of other parsers, hostile bytes give QuoteError."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outlayer_attestation import quote as layout
from outlayer_attestation import testing
from outlayer_attestation.errors import QuoteError
from outlayer_attestation.platform.machine import SoftwarePlatform

REAL = {
    "dcap-qvl/tdx_quote": 4,
    "dcap-qvl/tdx_quote_outdated": 5,
    "dcap-qvl/quote-from-tappd.hex": 4,
    "dcap-qvl/tdx-quote.hex": 4,
    "dcap-qvl/near-gas/quote_hex.txt": 4,
    "dstack/ra-tls-tdx_quote": 4,
    "automata/quotev4.hex": 4,
    "automata/quotev5.dat": 5,
    "trustee/tdx_quote_4.dat": 4,
    "trustee/tdx_quote_5.dat": 5,
}


def read_quote(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix in (".hex", ".txt"):
        return bytes.fromhex(data.decode().strip().removeprefix("0x"))
    return data


@pytest.mark.parametrize("name", REAL)
def test_a_real_quote_parses_like_dcap_qvl_does(vectors: Path, name: str) -> None:
    import dcap_qvl

    data = read_quote(vectors / name)
    ours, theirs = layout.parse(data), dcap_qvl.parse_quote(data)
    report = ours.td_report
    assert ours.header.version == REAL[name] == theirs.header.version
    assert ours.header.user_data == theirs.header.user_data
    for name_of_ours, name_of_theirs in (
        ("mr_td", "mr_td"),
        ("rtmr0", "rt_mr0"),
        ("rtmr1", "rt_mr1"),
        ("rtmr2", "rt_mr2"),
        ("rtmr3", "rt_mr3"),
        ("report_data", "report_data"),
        ("td_attributes", "td_attributes"),
        ("mr_config_id", "mr_config_id"),
    ):
        assert getattr(report, name_of_ours) == getattr(theirs.report, name_of_theirs)
    assert ours.is_canonical
    assert ours.auth.certification_type == layout.CERTIFICATION_QE_REPORT
    assert len(ours.pck_chain) == 3
    extension = theirs.pck_extension()
    assert ours.pck_extension.fmspc == extension.fmspc
    assert ours.pck_extension.cpu_svn == extension.cpu_svn
    assert ours.pck_extension.pce_svn == extension.pce_svn
    assert ours.pck_extension.ppid == extension.ppid
    assert ours.pck_extension.platform_instance_id == extension.platform_instance_id


def test_an_sgx_quote_is_recognised_and_is_no_tdx_quote(vectors: Path) -> None:
    parsed = layout.parse((vectors / "dcap-qvl/sgx_quote").read_bytes())
    assert parsed.header.version == 3
    assert parsed.body_type == layout.BODY_SGX
    assert isinstance(parsed.report, layout.SgxReport)
    assert len(parsed.pck_chain) == 3
    with pytest.raises(QuoteError, match="SGX"):
        _ = parsed.td_report


def test_r14_rtmr3_is_at_byte_520_in_every_parser(vectors: Path) -> None:
    import dcap_qvl

    assert layout.RTMR3_OFFSET == 520
    data = (vectors / "dcap-qvl/tdx_quote").read_bytes()
    raw = data[layout.RTMR3_OFFSET : layout.RTMR3_OFFSET + layout.REGISTER]
    parsed = layout.parse(data)
    assert raw == parsed.td_report.rtmr3 == dcap_qvl.parse_quote(data).report.rt_mr3
    assert raw.hex() == parsed.td_report.measurements.rtmr3
    constants = (layout.MRTD_OFFSET, layout.RTMR0_OFFSET, layout.RTMR1_OFFSET, layout.RTMR2_OFFSET)
    fields = ("mr_td", "rtmr0", "rtmr1", "rtmr2")
    for offset, field in zip(constants, fields, strict=True):
        assert data[offset : offset + 48] == getattr(parsed.td_report, field)


def test_r14_version_5_moves_every_field_by_six_bytes(machine: SoftwarePlatform) -> None:
    quote = testing.quote_with(machine, testing.Faults(version=5, body_type=layout.BODY_TD15))
    start = layout.RTMR3_OFFSET + layout.V5_BODY_DESCRIPTOR_SIZE
    assert quote[start : start + 48].hex() == testing.MEASUREMENTS.rtmr3
    assert layout.parse(quote).td_report.mr_service_td == bytes(48)


def test_the_signed_part_is_header_and_body(machine: SoftwarePlatform) -> None:
    sizes = {
        (4, layout.BODY_TD10): 632,
        (5, layout.BODY_TD10): 638,
        (5, layout.BODY_TD15): 702,
    }
    for (version, body_type), size in sizes.items():
        quote = testing.quote_with(machine, testing.Faults(version=version, body_type=body_type))
        assert layout.parse(quote).signed == quote[:size]


def test_a_published_v1_record_holds_a_readable_quote(vectors: Path) -> None:
    published = json.loads((vectors / "outlayer/testnet-2008-chain.json").read_text())
    parsed = layout.parse(base64.b64decode(published["tdx_quote"]))
    assert parsed.td_report.measurements.rtmr3 == published["worker_measurement"]


def test_padding_may_be_zero_and_nothing_else(machine: SoftwarePlatform) -> None:
    quote = testing.quote_with(machine, testing.Faults())
    padded = layout.parse(quote + bytes(434))
    assert padded.is_canonical
    assert padded.canonical == quote
    assert not layout.parse(quote + b"\0\1").is_canonical


def test_every_cut_of_a_quote_is_a_quote_error(machine: SoftwarePlatform) -> None:
    quote = testing.quote_with(machine, testing.Faults())
    for size in [*range(1300), *range(1300, len(quote), 97)]:
        with pytest.raises(QuoteError):
            layout.parse(quote[:size])


def touch(data: bytes) -> None:
    """Read everything that a parsed quote offers."""
    parsed = layout.parse(data)
    assert parsed.canonical + parsed.trailing == data
    _ = (parsed.is_canonical, parsed.signed)
    _ = parsed.pck_extension
    _ = parsed.td_report.measurements


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=1400))
def test_random_bytes_give_quote_error_or_a_quote(data: bytes) -> None:
    try:
        touch(data)
    except QuoteError as error:
        assert str(error)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_mutated_quote_gives_quote_error_or_a_quote(machine: SoftwarePlatform, data: st.DataObject) -> None:
    version = data.draw(st.sampled_from([4, 5]))
    quote = bytearray(machine.quote(testing.MEASUREMENTS, testing.REPORT_DATA, version=version))
    for _ in range(data.draw(st.integers(1, 6))):
        # the structure is in the first 1,300 bytes and in the certificates' DER
        place = data.draw(
            st.one_of(st.integers(0, 60), st.integers(630, 1300), st.integers(0, len(quote) - 1))
        )
        quote[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, 3))
    try:
        touch(bytes(quote[: len(quote) - cut]))
    except QuoteError as error:
        assert str(error)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_mutated_pck_extension_gives_quote_error_or_values(
    machine: SoftwarePlatform, data: st.DataObject
) -> None:
    from cryptography import x509

    certificate = machine.pck.certificate
    oid = x509.ObjectIdentifier(layout.PCK_EXTENSION_OID)
    value = certificate.extensions.get_extension_for_oid(oid).value
    assert isinstance(value, x509.UnrecognizedExtension)
    der = bytearray(value.value)
    for _ in range(data.draw(st.integers(1, 4))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = layout.pck_extension_from_der(bytes(der))
        assert len(found.fmspc) == 6
    except QuoteError as error:
        assert str(error)
