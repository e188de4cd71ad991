# SPDX-License-Identifier: MIT
"""Settings of the worker, from the environment."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from outlayer_attestation.vm.addresses import is_public
from outlayer_worker.errors import ConfigError


@dataclass(frozen=True)
class Config:
    """All settings. Sizes in bytes where the name says so, times in seconds.

    ``worker_id`` is a label; without it one is made from the worker's key, so that all workers of a cluster can
    have the same (measured) configuration.
    """

    coordinator_url: str
    worker_token_file: Path
    worker_id: str | None
    near_rpc_url: str
    near_block_feed_url: str | None
    contract_id: str
    operator_id: str
    init_account_id: str
    init_account_key_file: Path
    network_id: str
    dstack_socket: str
    state_dir: Path
    executors: int = 2
    max_batch: int = 32
    health_port: int = 0
    max_memory_mb: int = 1024
    max_output_bytes: int = 8 * 1024 * 1024
    max_near_output_bytes: int = 256 * 1024
    max_execution_seconds: int = 180
    code_cache_bytes: int = 1024 * 1024 * 1024
    drain_seconds: float = 20.0
    block_seconds: float = 0.6

    def worker_token(self) -> str:
        """The bearer token for the coordinator. Raises ``ConfigError`` when its file cannot be read."""
        try:
            token = self.worker_token_file.read_text().strip()
        except OSError as error:
            raise ConfigError(
                f"WORKER_TOKEN_FILE cannot be read: {error}", hint="the supervisor writes it"
            ) from error
        if not token:
            raise ConfigError(f"{self.worker_token_file} is empty", hint="write the worker's token into it")
        return token


def from_environment(environ: Mapping[str, str]) -> Config:
    """Read and check the settings. Raises ``ConfigError`` that names what is missing or wrong."""
    required = {
        "COORDINATOR_URL", "WORKER_TOKEN_FILE", "NEAR_RPC_URL", "OUTLAYER_CONTRACT_ID",
        "OPERATOR_ACCOUNT_ID", "INIT_ACCOUNT_ID", "INIT_ACCOUNT_KEY_FILE", "NEAR_NETWORK_ID",
        "WORKER_STATE_DIR",
    }  # fmt: skip
    missing = sorted(name for name in required if not environ.get(name))
    if missing:
        raise ConfigError(f"settings are missing: {', '.join(missing)}", hint="see docs/reference")
    return Config(
        coordinator_url=_url(environ, "COORDINATOR_URL"),
        worker_token_file=Path(environ["WORKER_TOKEN_FILE"]),
        worker_id=environ.get("WORKER_ID") or None,
        near_rpc_url=",".join(_urls(environ, "NEAR_RPC_URL")),
        near_block_feed_url=_url(environ, "NEAR_BLOCK_FEED_URL")
        if environ.get("NEAR_BLOCK_FEED_URL")
        else None,
        contract_id=environ["OUTLAYER_CONTRACT_ID"],
        operator_id=environ["OPERATOR_ACCOUNT_ID"],
        init_account_id=environ["INIT_ACCOUNT_ID"],
        init_account_key_file=Path(environ["INIT_ACCOUNT_KEY_FILE"]),
        network_id=environ["NEAR_NETWORK_ID"],
        dstack_socket=environ.get("DSTACK_SOCKET") or "/var/run/dstack.sock",
        state_dir=Path(environ["WORKER_STATE_DIR"]),
        executors=_number(environ, "EXECUTORS", 2, 1, 256),
        max_batch=_number(environ, "MAX_BATCH", 32, 1, 4096),
        health_port=_number(environ, "HEALTH_PORT", 0, 0, 65535),
        max_memory_mb=_number(environ, "MAX_MEMORY_MB", 1024, 1, 4096),
        max_output_bytes=_number(environ, "MAX_OUTPUT_BYTES", 8 * 1024 * 1024, 1, 32 * 1024 * 1024),
        max_near_output_bytes=_number(environ, "MAX_NEAR_OUTPUT_BYTES", 256 * 1024, 1, 1024 * 1024),
    )


def _urls(environ: Mapping[str, str], name: str) -> list[str]:
    """One or more addresses with commas between."""
    return [_checked_url(name, item.strip()) for item in environ[name].split(",")]


def _url(environ: Mapping[str, str], name: str) -> str:
    return _checked_url(name, environ[name])


def _checked_url(name: str, text: str) -> str:
    value = text.rstrip("/")
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{name} is not an http or https address", hint="for example http://127.0.0.1:8080")
    if parts.scheme == "http" and not _is_local(parts.hostname):
        raise ConfigError(
            f"{name} is plain http to another network: whoever is on the way could read and change what is said",
            hint="use https; http is for localhost and for private addresses, written as addresses",
        )
    return value


def _is_local(host: str) -> bool:
    """Whether this is the machine itself or a private address. A name could be led anywhere."""
    try:
        return host == "localhost" or not is_public(ipaddress.ip_address(host))
    except ValueError:
        return False


def _number(environ: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = environ.get(name)
    if not text:
        return default
    try:
        value = int(text)
    except ValueError as error:
        raise ConfigError(f"{name} is not a whole number", hint=f"{low} to {high}") from error
    if not low <= value <= high:
        raise ConfigError(f"{name} is {value}, which is out of range", hint=f"{low} to {high}")
    return value
