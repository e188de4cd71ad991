# SPDX-License-Identifier: MIT
"""What a call costs and who gets what. Pure; all amounts are integer micro-USD (outlayer.md §4.9, R33 to R36)."""

from __future__ import annotations

from dataclasses import dataclass

INSTRUCTIONS_PER_UNIT = 1_000_000
MS_PER_UNIT = 1_000


@dataclass(frozen=True, slots=True)
class Pricing:
    """The USD part of the contract's ``get_pricing_full`` view."""

    base_fee_usd: int
    per_million_instructions_fee_usd: int
    per_sec_fee_usd: int


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a call holds back from its key: at most so much for computing, and the developer's deposit."""

    compute_limit: int
    attached_deposit: int

    @property
    def amount(self) -> int:
        """The stored sum; exactly this is released once (R33)."""
        return self.compute_limit + self.attached_deposit


@dataclass(frozen=True, slots=True)
class Settlement:
    """``charged`` leaves the key, ``credit`` of it goes to the developer; the rest of the reservation is free again."""

    compute_cost: int
    refund: int
    credit: int

    @property
    def charged(self) -> int:
        return self.compute_cost + self.credit


def compute_cost(pricing: Pricing, instructions: int, time_ms: int) -> int:
    """Base fee, plus whole millions of instructions, plus whole seconds."""
    return (
        pricing.base_fee_usd
        + instructions // INSTRUCTIONS_PER_UNIT * pricing.per_million_instructions_fee_usd
        + time_ms // MS_PER_UNIT * pricing.per_sec_fee_usd
    )


def settle(
    pricing: Pricing,
    reservation: Reservation,
    *,
    success: bool,
    instructions: int,
    time_ms: int,
    refund: int,
) -> Settlement:
    """Settle a call that ran.

    The cost never exceeds the limit the client set (R34). The developer gets the deposit less the guest's
    refund, and only when the execution succeeded (R35, R36).
    """
    cost = min(compute_cost(pricing, instructions, time_ms), reservation.compute_limit)
    if not success:
        return Settlement(compute_cost=cost, refund=reservation.attached_deposit, credit=0)
    refund = min(refund, reservation.attached_deposit)
    return Settlement(compute_cost=cost, refund=refund, credit=reservation.attached_deposit - refund)


NOTHING_CHARGED = Settlement(compute_cost=0, refund=0, credit=0)
"""For a call whose outcome no worker proved: never claimed, given up, or refused before it ran."""
