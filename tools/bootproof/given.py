# SPDX-License-Identifier: MIT
"""What a VM under proof is given: a configuration, secrets and the servers that its service needs to be healthy."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from outlayer_attestation.vm.configuration import VmConfiguration
from outlayer_cli.embedded import temporary_postgres, temporary_valkey

HOST: Final = "10.0.2.2"
"""Where a VM behind QEMU's user network finds this machine's loopback."""
NAMESERVER: Final = "10.0.2.3"
_PLACE: Final = {
    "NEAR_NETWORK_ID": "localnet",
    "NEAR_RPC_URL": f"http://{HOST}:3030",
    "OPERATOR_ACCOUNT_ID": "worker.outlayer.test",
    "OUTLAYER_CONTRACT_ID": "outlayer.test",
}


@dataclass(frozen=True, slots=True)
class Given:
    """Configuration document and secrets; whether the VM may reach this machine."""

    configuration: bytes
    secrets: bytes
    isolated: bool


def _document(role: str, settings: Mapping[str, str], endpoints: list[str]) -> bytes:
    return VmConfiguration.make(
        role, {**_PLACE, **settings}, nameservers=[NAMESERVER], private_endpoints=endpoints
    )


@contextmanager
def given_to(role: str, folder: Path) -> Iterator[Given]:
    """What this role is given, with its servers running for the length of the block."""
    match role:
        case "worker":
            yield _worker()
        case "coordinator":
            with temporary_postgres(folder) as database, temporary_valkey(folder) as redis:
                yield _coordinator(database.url, database.port, redis.url, redis.port)
        case _:
            raise ValueError(role)


def _worker() -> Given:
    """A worker is healthy while it waits for quotes, which only TDX gives; it may reach nobody."""
    settings = {
        "COORDINATOR_URL": f"http://{HOST}:8080",
        "INIT_ACCOUNT_ID": "worker.outlayer.test",
    }
    texts = {"worker-token": secrets.token_hex(32), "init-account-key": "{}"}
    return Given(_document("worker", settings, [f"{HOST}:8080", f"{HOST}:3030"]), _json(texts), isolated=True)


def _coordinator(database_url: str, database_port: int, redis_url: str, redis_port: int) -> Given:
    texts = {
        "admin-token": secrets.token_hex(32),
        "database-url": database_url.replace("127.0.0.1", HOST),
        "redis-url": redis_url.replace("127.0.0.1", HOST),
    }
    endpoints = [f"{HOST}:{port}" for port in (3030, database_port, redis_port)]
    settings = {"PUBLIC_BASE_URL": "http://coordinator.test"}
    return Given(_document("coordinator", settings, endpoints), _json(texts), isolated=False)


def _json(value: Mapping[str, str]) -> bytes:
    return json.dumps(value).encode()
