# SPDX-License-Identifier: MIT
"""Which keys may work: what the coordinator makes of the chain's answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

import pytest

from outlayer_coordinator.chain import NearChain
from outlayer_near.rpc import NearRpc

KEY = "ed25519:3KyUutQQ8Xw1DxwW2WJyUkFmWZqzVBTFKvVzkjnKjJkC"


@dataclass
class Answers:
    """An RPC endpoint that gives the same answers always."""

    on_account: bool = True
    valid: bool = True
    role: str | None = "worker"

    async def has_access_key(self, account_id: str, public_key: str) -> bool:
        assert (account_id, public_key) == ("worker.test", KEY)
        return self.on_account

    async def view_bytes(self, contract_id: str, method: str, args: bytes, block: Any) -> bytes:
        assert (contract_id, json.loads(args)) == ("worker.test", {"public_key": KEY})
        return json.dumps({"is_worker_key_valid": self.valid, "get_worker_key": self._key()}[method]).encode()

    def _key(self) -> Any:
        return self.role and {
            "public_key": KEY,
            "role": self.role,
            "measurement_set": 1,
            "measurements": {},
            "tcb_status": "UpToDate",
            "fmspc": "00" * 6,
            "verified_at": 1,
            "expires_at": 2,
        }


@pytest.mark.parametrize(
    ("answers", "good"),
    [
        (Answers(), True),
        (Answers(on_account=False), False),
        (Answers(valid=False), False),
        (Answers(role="compiler"), False),
        (Answers(role=None), False),
    ],
)
async def test_only_a_valid_key_of_a_worker_on_the_operators_account_is_good(
    answers: Answers, good: bool
) -> None:
    chain = NearChain(cast("NearRpc", answers), "outlayer.test", "worker.test")
    assert await chain.worker_key_is_good(KEY) is good
