# SPDX-License-Identifier: MIT
"""Register contract: measurement sets, worker keys, collateral (outlayer.md §2). Times are unix seconds."""

from __future__ import annotations

from typing import Literal

from outlayer_near.models.base import U32, U64, U128, Model

Role = Literal["worker", "compiler", "keystore"]
TcbStatus = Literal[
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
]


class PlatformRules(Model):
    """What the platform of a TD must be. The default is R12: up to date, and no advisory.

    Advisories with one of the prefixes (``INTEL-DOC-``) are informational.
    """

    statuses: tuple[TcbStatus, ...] = ("UpToDate",)
    advisory_prefix_informational: tuple[str, ...] = ()
    min_tcb_evaluation_data_number: U32 = 0


class NewMeasurementSet(Model):
    """What is to be approved. ``measurements``: MRTD and RTMR0 to 3, 96 hex digits each."""

    role: Role = "worker"
    name: str | None = None
    measurements: dict[str, str]
    not_before: U64 | None = None
    not_after: U64 | None = None
    platform: PlatformRules = PlatformRules()


class MeasurementSet(Model):
    """A set that was approved; None means no bound on that side. ``policy_version``: what it came with, if any."""

    id: int
    name: str | None = None
    measurements: dict[str, str]
    not_before: int | None = None
    not_after: int | None = None
    added_at: int = 0
    role: Role = "worker"
    platform: PlatformRules = PlatformRules()
    policy_version: int | None = None

    def active_at(self, now: int) -> bool:
        return (self.not_before is None or self.not_before <= now) and (
            self.not_after is None or now < self.not_after
        )


class PendingPolicy(Model):
    """A policy version that waits. ``sha256`` is of the exact bytes of the policy file.

    ``grace_seconds``: how long after activation the other sets of the same roles hold at most; None leaves them.
    """

    version: U32
    sha256: str
    sets: tuple[NewMeasurementSet, ...]
    grace_seconds: U64 | None = None
    proposed_at: U64
    activates_at: U64


class WaitingPolicy(PendingPolicy):
    """What ``get_pending_policy`` shows."""

    seconds_until_activation: U64


class PolicyVersion(Model):
    """A policy version that was activated; ``sets`` are ids."""

    version: U32
    sha256: str
    sets: tuple[U32, ...]
    proposed_at: U64
    activated_at: U64
    revoked_at: U64 | None = None


class WorkerKey(Model):
    """A registered key. ``challenge``: what the next quote for it must commit to, 64 hex digits."""

    public_key: str
    measurement_set: int
    measurements: dict[str, str]
    tcb_status: str
    fmspc: str
    verified_at: int
    expires_at: int
    quote_report_sha256: str | None = None
    role: Role = "worker"
    challenge: str | None = None


class RegisterResult(Model):
    """Answer to a registration or re-verification: ``approved``, or ``rejected`` with a reason code."""

    status: Literal["approved", "rejected"]
    public_key: str | None = None
    role: Role | None = None
    measurement_set: int | None = None
    tcb_status: str | None = None
    fmspc: str | None = None
    verified_at: int | None = None
    expires_at: int | None = None
    reason: str | None = None
    detail: str | None = None


class KeysRemoved(Model):
    """What became of keys that lost their approval; ``remaining`` is for ``remove_expired_keys``."""

    removed: U32
    remaining: U32


class StorageBalance(Model):
    """NEP-145, in yoctoNEAR. ``owed``: for registrations that nothing paid."""

    total: U128
    available: U128
    owed: U128 = 0


class StorageBalanceBounds(Model):
    """NEP-145, in yoctoNEAR. ``min``: what one registration costs."""

    min: U128
    max: U128 | None = None


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
    policy_delay_seconds: int = 0
