# SPDX-License-Identifier: MIT
"""Payment keys as they are stored: the hash of a secret that only the client has."""

from __future__ import annotations

from dataclasses import dataclass

from outlayer_coordinator.db import Database


@dataclass(frozen=True, slots=True)
class NewKey:
    """Amounts in micro-USD; ``max_per_call`` 0 and no ``project_ids`` mean no restriction."""

    owner: str
    nonce: int
    key_hash: str
    initial_balance: int
    project_ids: tuple[str, ...] = ()
    max_per_call: int = 0
    is_grant: bool = True


async def create_key(database: Database, key: NewKey) -> bool:
    """Create a key; False when one with this owner and nonce exists, also a deleted one."""
    status = await database.main.execute(
        """
        INSERT INTO payment_keys (owner, nonce, key_hash, initial_balance, project_ids, max_per_call, is_grant)
        VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (owner, nonce) DO NOTHING
        """,
        key.owner,
        key.nonce,
        key.key_hash,
        key.initial_balance,
        list(key.project_ids),
        key.max_per_call,
        key.is_grant,
    )
    return bool(status == "INSERT 0 1")
