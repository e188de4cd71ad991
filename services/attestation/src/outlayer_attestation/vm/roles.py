# SPDX-License-Identifier: MIT
"""What the agent knows of each role: the settings and secrets it may be given, its ports and its user.

Settings are an allow-list: one that is not here could turn off what the image promises (a token file elsewhere,
a library path, an interpreter switch).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

STATUS_PORT: Final = 8090
GROUP: Final = 960
"""Group that may talk to the agent's socket; in a container also the user of the status port."""


@dataclass(frozen=True, slots=True)
class Role:
    """A role, as its image has it.

    Attributes:
        user: number of its user and group.
        module: what Python runs.
        before: modules that run once before it.
        settings: variables that a configuration may set.
        needed: those that it has to set.
        urls: those of the settings that hold addresses, comma-separated, which https protects.
        secrets: name -> variable that holds the path of the secret's file.
        ports: TCP ports that others may connect to.
        health: (port, path) of its health check on loopback.
        environment: what the image sets itself.
    """

    name: str
    user: int
    module: str
    needed: frozenset[str]
    settings: frozenset[str]
    urls: frozenset[str]
    secrets: Mapping[str, str]
    ports: tuple[int, ...]
    health: tuple[int, str]
    environment: Mapping[str, str]
    before: tuple[str, ...] = ()


_WORKER: Final = Role(
    name="worker",
    user=961,
    module="outlayer_worker",
    needed=frozenset(
        {
            "COORDINATOR_URL",
            "INIT_ACCOUNT_ID",
            "NEAR_NETWORK_ID",
            "NEAR_RPC_URL",
            "OPERATOR_ACCOUNT_ID",
            "OUTLAYER_CONTRACT_ID",
        }
    ),
    settings=frozenset(
        {
            "EXECUTORS",
            "MAX_BATCH",
            "MAX_MEMORY_MB",
            "MAX_NEAR_OUTPUT_BYTES",
            "MAX_OUTPUT_BYTES",
            "NEAR_BLOCK_FEED_URL",
            "WORKER_ID",
        }
    ),
    urls=frozenset({"COORDINATOR_URL", "NEAR_BLOCK_FEED_URL", "NEAR_RPC_URL"}),
    secrets={"worker-token": "WORKER_TOKEN_FILE", "init-account-key": "INIT_ACCOUNT_KEY_FILE"},
    ports=(STATUS_PORT,),
    health=(8091, "/health"),
    environment={"HEALTH_PORT": "8091", "WORKER_STATE_DIR": "/var/lib/outlayer"},
)
_COORDINATOR: Final = Role(
    name="coordinator",
    user=962,
    module="outlayer_coordinator",
    needed=frozenset(
        {
            "NEAR_NETWORK_ID",
            "NEAR_RPC_URL",
            "OPERATOR_ACCOUNT_ID",
            "OUTLAYER_CONTRACT_ID",
            "PUBLIC_BASE_URL",
        }
    ),
    settings=frozenset(
        {
            "DB_POOL_SIZE",
            "DEFAULT_COMPUTE_LIMIT",
            "LEASE_SECONDS",
            "MAX_ATTEMPTS",
            "MAX_CONCURRENT_CALLS_PER_KEY",
            "MIN_COMPUTE_LIMIT",
            "NEAR_BLOCK_FEED_URL",
            "PAYMENT_KEY_RATE_LIMIT_PER_MINUTE",
            "START_BLOCK_HEIGHT",
            "STUCK_CALL_SECONDS",
            "SYNC_TIMEOUT_SECONDS",
            "TEE_SESSION_SECONDS",
        }
    ),
    urls=frozenset({"NEAR_BLOCK_FEED_URL", "NEAR_RPC_URL", "PUBLIC_BASE_URL"}),
    secrets={
        "admin-token": "ADMIN_TOKEN_FILE",
        "database-url": "DATABASE_URL_FILE",
        "redis-url": "REDIS_URL_FILE",
    },
    ports=(8080, STATUS_PORT),
    health=(8080, "/health"),
    environment={"HOST": "", "PORT": "8080", "WASM_DIR": "/var/lib/outlayer/wasm"},
    before=("outlayer_coordinator.migrate",),
)
ROLES: Final[Mapping[str, Role]] = {role.name: role for role in (_WORKER, _COORDINATOR)}
