# SPDX-License-Identifier: MIT
"""How far a platform is behind, in real quotes and in made ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outlayer_attestation import quote as layout
from outlayer_attestation import testing
from outlayer_attestation.appraisal import appraise
from outlayer_attestation.checks import Outcome
from outlayer_attestation.collateral import Collateral
from outlayer_attestation.platform import endorsements
from outlayer_attestation.platform.machine import SoftwarePlatform
from outlayer_attestation.tcb import Shortfall, shortfall_text, tcb_shortfall
from outlayer_attestation.testing import Faults, collateral_with, quote_with

NOVEMBER = "2024-11-13T00:00:00Z"


def read_quote(path: Path) -> layout.Quote:
    data = path.read_bytes()
    if path.suffix in (".hex", ".txt"):
        data = bytes.fromhex(data.decode().strip().removeprefix("0x"))
    return layout.parse(data)


def of_pair(vectors: Path, quote: str, collateral: str) -> list[Shortfall]:
    given_collateral = Collateral.from_json((vectors / collateral).read_text())
    return tcb_shortfall(read_quote(vectors / quote), given_collateral)


def test_a_real_platform_is_short_of_one_component(vectors: Path) -> None:
    found = of_pair(vectors, "dcap-qvl/tdx_quote_outdated", "dcap-qvl/tdx_quote_outdated_collateral.json")
    assert found == [Shortfall("SGX component 8 (OS/VMM: SEAMLDR ACM)", 3, 5, "UpToDate", NOVEMBER)]
    assert shortfall_text(found) == (
        "SGX component 8 (OS/VMM: SEAMLDR ACM) is 3, UpToDate of 2024-11-13 needs 5 (2 short)"
    )


def test_a_real_platform_is_short_of_components_and_its_tdx_module(vectors: Path) -> None:
    found = of_pair(vectors, "automata/quotev5.dat", "dcap-qvl/tdx_quote_outdated_collateral.json")
    assert [(item.component, item.have, item.need) for item in found] == [
        ("SGX component 1 (BIOS: Early Microcode Update)", 2, 3),
        ("SGX component 2 (OS/VMM: SGX Late Microcode Update)", 2, 3),
        ("SGX component 5 (BIOS)", 3, 4),
        ("TDX component 3 (OS/VMM: TDX Late Microcode Update)", 2, 3),
        ("TDX module TDX_01", 5, 6),
    ]


def test_a_real_sgx_platform_needs_a_configuration(vectors: Path) -> None:
    found = of_pair(vectors, "dcap-qvl/sgx_quote", "dcap-qvl/sgx_quote_collateral.json")
    assert [(item.component, item.have, item.need, item.level_status) for item in found] == [
        ("SGX component 7", 0, 12, "SWHardeningNeeded")
    ]


def test_a_real_platform_that_is_up_to_date_lacks_nothing(vectors: Path) -> None:
    assert of_pair(vectors, "dcap-qvl/tdx_quote", "dcap-qvl/tdx_quote_collateral.json") == []


def test_tcb_info_of_another_platform_says_nothing(vectors: Path) -> None:
    """Its levels number the components of other hardware."""
    assert of_pair(vectors, "automata/quotev4.hex", "dcap-qvl/tdx_quote_outdated_collateral.json") == []


SYNTHETIC = {
    "bad_tcb_pcesvn": [("PCESVN", 11, 12)],
    "bad_tcb_tdx_low": [("TDX component 3", 4, 5)],
    "bad_module_below_all": [("TDX module TDX_01", 1, 5)],
    "bad_qe_svn_low": [("quoting enclave", 3, 4)],
    "tcb_fallback": [("TDX component 3", 4, 5)],
    "tcb_module_old": [("TDX module TDX_01", 3, 5)],
    "tcb_qe_out_of_date": [("quoting enclave", 5, 6)],
    "tcb_skip_comp01": [],
    "ok_v4_td10": [],
    "ok_v5_td15": [],
}


@pytest.mark.parametrize("name", SYNTHETIC)
def test_a_synthetic_platform_is_short_of_what_it_was_made_with(vectors: Path, name: str) -> None:
    place = vectors / "synthetic" / name
    collateral = Collateral.from_json((place / "collateral.json").read_text())
    found = tcb_shortfall(layout.parse((place / "quote.bin").read_bytes()), collateral)
    assert [(item.component, item.have, item.need) for item in found] == SYNTHETIC[name]


def test_a_refused_level_says_what_is_short(machine: SoftwarePlatform) -> None:
    """In the detail of the check that fails, and as a list."""
    needed = endorsements.platform_tcb(pce_svn=13)
    collateral = collateral_with(
        machine, Faults(tcb_info={"tcbLevels": [endorsements.level("UpToDate", needed)]})
    )
    quote = quote_with(machine, Faults())
    result = appraise(quote, collateral, root_ca_der=machine.root_der, now=testing.NOW)
    check = next(item for item in result.checks if item.name == "tcb_level")
    assert check.outcome is Outcome.FAIL
    assert "PCESVN is 11, UpToDate of 2026-01-01 needs 13 (2 short)" in check.detail
    assert [item.component for item in result.tcb_shortfall] == ["PCESVN"]


def levels(*given_levels: tuple[str, dict[str, Any]]) -> Faults:
    return Faults(tcb_info={"tcbLevels": [endorsements.level(*item) for item in given_levels]})


def shortfall(machine: SoftwarePlatform, faults: Faults) -> list[Shortfall]:
    return tcb_shortfall(layout.parse(quote_with(machine, faults)), collateral_with(machine, faults))


def test_the_nearest_of_the_best_levels_is_named(machine: SoftwarePlatform) -> None:
    near, far = endorsements.platform_tcb(pce_svn=12), endorsements.platform_tcb(cpu_svn=bytes([9]) * 16)
    for faults in (
        levels(("UpToDate", far), ("UpToDate", near), ("OutOfDate", endorsements.platform_tcb())),
        levels(("UpToDate", near), ("UpToDate", far)),
        levels(("SWHardeningNeeded", endorsements.platform_tcb(pce_svn=11)), ("UpToDate", near)),
    ):
        assert [(item.component, item.need) for item in shortfall(machine, faults)] == [("PCESVN", 12)]


def test_a_level_that_is_no_better_is_not_named(machine: SoftwarePlatform) -> None:
    higher = endorsements.platform_tcb(pce_svn=12)
    assert shortfall(machine, levels(("OutOfDate", higher), ("OutOfDate", endorsements.platform_tcb()))) == []
    assert shortfall(machine, levels(("Revoked", higher))) == []


def test_an_old_module_without_a_version_is_compared_by_its_components(machine: SoftwarePlatform) -> None:
    """Components 1 and 2 count when the major version is 0, and there is no module identity then."""
    svn = bytes([4, 0, 3]) + bytes(13)
    faults = replace(Faults(), td={"tee_tcb_svn": svn})
    assert [(item.component, item.have, item.need) for item in shortfall(machine, faults)] == [
        ("TDX component 1", 4, 5)
    ]


def test_an_appraisal_without_a_quote_has_no_shortfall(machine: SoftwarePlatform) -> None:
    collateral = collateral_with(machine, Faults())
    assert appraise(b"", collateral, root_ca_der=machine.root_der, now=testing.NOW).tcb_shortfall == []


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    svns=st.lists(st.integers(0, 255), min_size=16, max_size=16),
    pce_svn=st.integers(0, 65535),
    status=st.sampled_from(["UpToDate", "OutOfDate", "SWHardeningNeeded"]),
)
def test_a_platform_is_short_exactly_when_the_library_finds_no_level(
    machine: SoftwarePlatform, svns: list[int], pce_svn: int, status: str
) -> None:
    tcb = endorsements.platform_tcb(cpu_svn=bytes(svns), pce_svn=pce_svn)
    faults = levels((status, tcb))
    collateral, quote = collateral_with(machine, faults), quote_with(machine, faults)
    result = appraise(quote, collateral, root_ca_der=machine.root_der, now=testing.NOW)
    assert (result.status is None) == bool(result.tcb_shortfall)
    for item in result.tcb_shortfall:
        assert item.have < item.need
        assert item.level_status == status


def test_names_from_tcb_info_cannot_break_a_line(machine: SoftwarePlatform) -> None:
    """Whoever wrote the collateral chose them."""
    tcb = endorsements.platform_tcb(cpu_svn=bytes([9]) * 16)
    hostile = {"svn": 9, "category": "a\nPASS", "type": "x" * 500}
    tcb = json.loads(json.dumps(tcb)) | {"sgxtcbcomponents": [hostile] * 16}
    text = shortfall_text(shortfall(machine, levels(("UpToDate", tcb)))[:1])
    assert text == f"SGX component 1 ({'x' * 60}) is 3, UpToDate of 2026-01-01 needs 9 (6 short)"
