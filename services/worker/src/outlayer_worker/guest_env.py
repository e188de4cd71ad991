# SPDX-License-Identifier: MIT
"""Names and values of the environment that guests see (outlayer.md §5.7).

This is the one list of these names: a secret must never have one of them (R20), and whoever checks that takes
``RESERVED`` from here.
"""

from __future__ import annotations

from dataclasses import dataclass

from outlayer_worker.executor.model import bounded_text

ALWAYS = (
    "OUTLAYER_EXECUTION_TYPE",
    "NEAR_NETWORK_ID",
    "NEAR_SENDER_ID",
    "NEAR_USER_ACCOUNT_ID",
    "NEAR_MAX_INSTRUCTIONS",
    "NEAR_MAX_MEMORY_MB",
    "NEAR_MAX_EXECUTION_SECONDS",
    "NEAR_PAYMENT_YOCTO",
    "ATTACHED_USD",
    "USD_PAYMENT",
    "OUTLAYER_CALL_ID",
)
NEAR_ONLY = (
    "NEAR_CONTRACT_ID",
    "NEAR_BLOCK_HEIGHT",
    "NEAR_BLOCK_TIMESTAMP",
    "NEAR_RECEIPT_ID",
    "NEAR_PREDECESSOR_ID",
    "NEAR_SIGNER_PUBLIC_KEY",
    "NEAR_GAS_BURNT",
    "NEAR_TRANSACTION_HASH",
    "NEAR_REQUEST_ID",
)
PROJECT_ONLY = (
    "OUTLAYER_PROJECT_ID",
    "OUTLAYER_PROJECT_OWNER",
    "OUTLAYER_PROJECT_NAME",
    "OUTLAYER_PROJECT_UUID",
)
LATER = ("NEAR_RPC_PROXY_AVAILABLE", "WALLET_ID")

RESERVED = frozenset(ALWAYS + NEAR_ONLY + PROJECT_ONLY + LATER)


@dataclass(frozen=True)
class ProjectContext:
    """The project a guest runs for: ``owner/name`` and the uuid that the contract gave it."""

    project_id: str
    uuid: str

    @property
    def owner(self) -> str:
        return self.project_id.partition("/")[0]

    @property
    def name(self) -> str:
        return self.project_id.partition("/")[2]


@dataclass(frozen=True)
class GuestContext:
    """Who asks for the run and what it may cost. ``near`` holds the values of ``NEAR_ONLY``, empty for HTTPS."""

    execution_type: str
    network_id: str
    sender_id: str
    user_account_id: str
    max_instructions: int
    max_memory_mb: int
    max_execution_seconds: int
    payment_yocto: str = "0"
    attached_usd: str = "0"
    usd_payment: str = "0"
    call_id: str = ""
    near: tuple[str, ...] = ("",) * len(NEAR_ONLY)
    project: ProjectContext | None = None


def guest_environment(context: GuestContext) -> dict[str, str]:
    """The variables of one run, in a fixed order."""
    always = (
        context.execution_type,
        context.network_id,
        context.sender_id,
        context.user_account_id,
        str(context.max_instructions),
        str(context.max_memory_mb),
        str(context.max_execution_seconds),
        context.payment_yocto,
        context.attached_usd,
        context.usd_payment,
        context.call_id,
    )
    pairs = [*zip(ALWAYS, always, strict=True), *zip(NEAR_ONLY, context.near, strict=True)]
    if context.project is not None:
        project = context.project
        values = (project.project_id, project.owner, project.name, project.uuid)
        pairs += zip(PROJECT_ONLY, values, strict=True)
    # a NUL would end the value early; ids and numbers never hold one
    return {name: bounded_text(value, 4096) for name, value in pairs}
