# SPDX-License-Identifier: MIT
"""Configuration documents for tests."""

from __future__ import annotations

import json
from typing import Any

SETTINGS = {
    "worker": {
        "COORDINATOR_URL": "https://coordinator.example",
        "INIT_ACCOUNT_ID": "worker.example.testnet",
        "NEAR_NETWORK_ID": "testnet",
        "NEAR_RPC_URL": "https://rpc.example",
        "OPERATOR_ACCOUNT_ID": "register.example.testnet",
        "OUTLAYER_CONTRACT_ID": "outlayer.example.testnet",
    },
    "coordinator": {
        "NEAR_NETWORK_ID": "testnet",
        "NEAR_RPC_URL": "https://rpc.example",
        "OPERATOR_ACCOUNT_ID": "register.example.testnet",
        "OUTLAYER_CONTRACT_ID": "outlayer.example.testnet",
        "PUBLIC_BASE_URL": "https://coordinator.example",
    },
}
SECRETS = {
    "worker": {"worker-token": "t" * 32, "init-account-key": "{}"},
    "coordinator": {"admin-token": "a" * 32, "database-url": "postgresql://h/d", "redis-url": "redis://h/0"},
}


def document(role: str) -> dict[str, Any]:
    """A document that is as it should be."""
    return {
        "format": "outlayer/vm-config/v1",
        "role": role,
        "network": {"nameservers": ["9.9.9.9", "2620:fe::fe"], "private_endpoints": ["10.0.0.5:5432"]},
        "time": {"servers": ["time.example.net"]},
        "settings": dict(SETTINGS[role]),
    }


def encoded(value: object) -> bytes:
    """As it reaches a VM."""
    return json.dumps(value).encode()
