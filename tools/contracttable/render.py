# SPDX-License-Identifier: MIT
"""The page as text, out of what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

INTRODUCTION = """\
# Contracts: size and gas

Made by `make contracts-table`; a test fails when it is not current. Do not edit.

The gas is what the method's own call burns in the virtual machine, protocol version 86, in Tgas (10^12): with
loading the code, without the fees of the transaction and its receipts, and without the calls that it makes. The
localnet that measures it burns the same as nearcore's own machine, to the unit (`tests/nearcore-oracle`). Quotes
and collateral are a recording of a simulated platform's. Where several calls were measured, the least and the
most is given: state grows, inputs differ. What is called, with which arguments, is in
`tools/contracttable/scenarios`.
"""


@dataclass(frozen=True)
class Row:
    """``kind``: view, change or callback. ``reason`` says why there is no gas, where there is none."""

    method: str
    kind: str
    gas: tuple[int, ...]
    reason: str = ""


@dataclass(frozen=True)
class Section:
    """One contract; ``size`` in bytes."""

    artifact: str
    title: str
    size: int
    sha256: str
    rows: Sequence[Row]


def page(sections: Sequence[Section]) -> str:
    """The whole page, which depends on nothing else."""
    sizes = [
        f"| [{item.title}](#{_anchor(item)}) | `{item.artifact}.wasm` | {item.size:,} | `{item.sha256}` |"
        for item in sections
    ]
    head = ["| contract | file | bytes | SHA-256 |", "|---|---|---:|---|"]
    parts = [INTRODUCTION, "\n".join([*head, *sizes]) + "\n"]
    parts += [_section(item) for item in sections]
    return "\n".join(parts)


def _section(item: Section) -> str:
    lines = [f"## {item.artifact}", "", "| method | kind | Tgas |", "|---|---|---:|"]
    lines += [f"| `{row.method}` | {row.kind} | {_gas(row)} |" for row in item.rows]
    return "\n".join(lines) + "\n"


def _anchor(item: Section) -> str:
    return item.artifact


def _gas(row: Row) -> str:
    if not row.gas:
        return row.reason
    least, most = tgas(min(row.gas)), tgas(max(row.gas))
    return least if least == most else f"{least} to {most}"


def tgas(gas: int) -> str:
    """Gas units as Tgas with three decimals, rounded half up."""
    thousandths = (gas + 5 * 10**8) // 10**9
    return f"{thousandths // 1000}.{thousandths % 1000:03d}"
