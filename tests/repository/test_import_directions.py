# SPDX-License-Identifier: MIT
"""Imports between the packages point one way (docs/explanation/architecture.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = {
    "attestation": set(),
    "near": set(),
    "coordinator": {"attestation", "near"},
    "worker": {"attestation", "near"},
    "localnet": {"near"},
    "keeper": {"near"},
    "cli": {"attestation", "near", "coordinator", "worker", "localnet", "keeper"},
}


def imported_packages(source: str) -> set[str]:
    """The ``outlayer_…`` packages that a module imports, at any depth, lazily or not."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.split(".")[0].removeprefix("outlayer_") for name in names if name.startswith("outlayer_")}


def test_a_hidden_import_is_found() -> None:
    assert imported_packages("def f():\n    from outlayer_near.rpc import NearRpc\n") == {"near"}


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_package_imports_only_what_it_may(package: str) -> None:
    sources = sorted((ROOT / "services" / package / "src").rglob("*.py"))
    assert sources
    for source in sources:
        foreign = imported_packages(source.read_text()) - {package}
        assert foreign <= ALLOWED[package], f"{source.relative_to(ROOT)} imports {foreign - ALLOWED[package]}"


def test_the_contract_with_the_chain_is_only_what_localnet_takes_from_near() -> None:
    for source in sorted((ROOT / "services" / "localnet" / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("outlayer_near"):
                assert node.module in ("outlayer_near.primitives", "outlayer_near.errors"), source
