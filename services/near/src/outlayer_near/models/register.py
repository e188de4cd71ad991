# SPDX-License-Identifier: MIT
"""Register contract: measurement sets, worker keys, collateral (outlayer.md §2). Times are unix seconds."""

from __future__ import annotations

from typing import Literal

from outlayer_near.models.base import Model


class MeasurementSet(Model):
    """Times are unix seconds; None means no bound on that side."""

    id: int
    name: str | None = None
    measurements: dict[str, str]
    not_before: int | None = None
    not_after: int | None = None
    added_at: int = 0

    def active_at(self, now: int) -> bool:
        return (self.not_before is None or self.not_before <= now) and (
            self.not_after is None or now < self.not_after
        )


class WorkerKey(Model):
    public_key: str
    measurement_set: int
    measurements: dict[str, str]
    tcb_status: str
    fmspc: str
    verified_at: int
    expires_at: int
    quote_report_sha256: str | None = None


class RegisterResult(Model):
    """Answer of ``register_worker_key``: ``approved``, or ``rejected`` with a reason code."""

    status: Literal["approved", "rejected"]
    public_key: str | None = None
    measurement_set: int | None = None
    tcb_status: str | None = None
    fmspc: str | None = None
    verified_at: int | None = None
    expires_at: int | None = None
    reason: str | None = None
    detail: str | None = None


class CollateralInfo(Model):
    """What the register contract holds for one platform. Times are unix seconds."""

    fmspc: str
    sha256: str
    tcb_evaluation_data_number: int
    issue_date: int
    next_update: int
    stored_at: int


class RootCa(Model):
    """The root that quotes must chain to; ``simulated`` when it is not Intel's."""

    sha256: str
    simulated: bool


class RegisterConfig(Model):
    owner_id: str
    init_worker_account: str
    outlayer_contract_id: str
    key_ttl_seconds: int
