# SPDX-License-Identifier: MIT
"""Configuration documents for tests."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

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


def make_authority(*, ca: bool = True) -> str:
    """PEM of a certificate, of an authority or not."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + dt.timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
