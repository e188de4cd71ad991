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
from outlayer_cli.embedded import free_port, temporary_postgres, temporary_valkey

HOST: Final = "10.0.2.2"
"""Where a VM behind QEMU's user network finds this machine's loopback."""
NAMESERVER: Final = "10.0.2.3"
_PLACE: Final = {
    "NEAR_NETWORK_ID": "localnet",
    "OPERATOR_ACCOUNT_ID": "worker.outlayer.test",
    "OUTLAYER_CONTRACT_ID": "outlayer.test",
}


@dataclass(frozen=True, slots=True)
class TimeSource:
    """The time server that a VM is given: its port on this machine, and the authority that it is under."""

    port: int
    authority: str
    wait_seconds: int = 120


@dataclass(frozen=True, slots=True)
class Given:
    """Configuration document and secrets."""

    configuration: bytes
    secrets: bytes


@contextmanager
def given_to(role: str, folder: Path, source: TimeSource) -> Iterator[Given]:
    """What this role is given, with its servers running for the length of the block."""
    match role:
        case "worker":
            yield _worker(source)
        case "coordinator":
            with temporary_postgres(folder) as database, temporary_valkey(folder) as redis:
                yield _coordinator(source, database.url, database.port, redis.url, redis.port)
        case _:
            raise ValueError(role)


def _document(role: str, source: TimeSource, settings: Mapping[str, str], ports: list[int]) -> bytes:
    # nobody listens there: a stack that may run on this machine is left alone
    rpc = free_port()
    return VmConfiguration.make(
        role,
        {**_PLACE, "NEAR_RPC_URL": f"http://{HOST}:{rpc}", **settings},
        nameservers=[NAMESERVER],
        private_endpoints=[f"{HOST}:{port}" for port in (rpc, *ports)],
        time_servers=[f"{HOST}:{source.port}"],
        time_authority=source.authority,
        wait_seconds=source.wait_seconds,
    )


def _worker(source: TimeSource) -> Given:
    """A worker is healthy while it waits for quotes, which only TDX gives."""
    coordinator = free_port()
    settings = {
        "COORDINATOR_URL": f"http://{HOST}:{coordinator}",
        "INIT_ACCOUNT_ID": "worker.outlayer.test",
    }
    texts = {"worker-token": secrets.token_hex(32), "init-account-key": "{}"}
    return Given(_document("worker", source, settings, [coordinator]), _json(texts))


def _coordinator(
    source: TimeSource, database_url: str, database_port: int, redis_url: str, redis_port: int
) -> Given:
    texts = {
        "admin-token": secrets.token_hex(32),
        "database-url": database_url.replace("127.0.0.1", HOST),
        "redis-url": redis_url.replace("127.0.0.1", HOST),
    }
    settings = {"PUBLIC_BASE_URL": "https://coordinator.test"}
    return Given(_document("coordinator", source, settings, [database_port, redis_port]), _json(texts))


def _json(value: Mapping[str, str]) -> bytes:
    return json.dumps(value).encode()
