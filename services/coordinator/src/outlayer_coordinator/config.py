# SPDX-License-Identifier: MIT
"""Settings from environment variables; docs/reference/configuration.md lists them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from outlayer_coordinator.errors import ConfigError

MAX_WASM_BYTES = 64 * 1024 * 1024
MAX_BODY_BYTES = 10 * 1024 * 1024
MAX_COMPLETION_BYTES = 64 * 1024 * 1024
"""A batch carries up to its size many outputs in base64."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Times in seconds, money in micro-USD."""

    database_url: str
    redis_url: str
    near_rpc_url: str
    near_network_id: str
    contract_id: str
    operator_account_id: str
    public_base_url: str
    admin_token: str
    wasm_dir: Path
    block_feed_url: str | None = None
    start_block_height: int | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    simulated: bool = False
    ingest: bool = True
    db_pool_size: int = 10
    lease_seconds: float = 30.0
    max_attempts: int = 3
    tee_session_seconds: float = 3600.0
    challenge_seconds: float = 60.0
    chain_check_seconds: float = 10.0
    session_cache_seconds: float = 1.0
    sync_timeout_seconds: float = 300.0
    stuck_call_seconds: float = 600.0
    sweep_seconds: float = 1.0
    poll_seconds: float = 1.0
    pricing_seconds: float = 60.0
    rate_per_minute: int = 1000
    max_concurrent_calls: int = 10
    default_compute_limit: int = 10_000
    min_compute_limit: int = 1_000

    def __repr__(self) -> str:  # URLs and tokens hold secrets
        return f"Settings(public_base_url={self.public_base_url!r}, contract_id={self.contract_id!r})"

    @property
    def nep413_recipient(self) -> str:
        """What an upload's signature must name: host and port of the public address."""
        return urlsplit(self.public_base_url).netloc

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """Read and check every variable.

        Raises:
            ConfigError: a required one is missing, or a number is not one.
        """
        read = _Reader(env)
        token_file = Path(read.text("ADMIN_TOKEN_FILE"))
        try:
            admin_token = token_file.read_text().strip()
        except OSError as error:
            raise ConfigError(
                f"ADMIN_TOKEN_FILE {token_file} cannot be read: {error.strerror}",
                hint="write a long random text into it, mode 0600",
            ) from error
        if len(admin_token) < 16:
            raise ConfigError(f"{token_file} holds no token of 16 characters or more")
        return cls(
            database_url=text_or_file(env, "DATABASE_URL"),
            redis_url=text_or_file(env, "REDIS_URL"),
            near_rpc_url=read.text("NEAR_RPC_URL"),
            block_feed_url=env.get("NEAR_BLOCK_FEED_URL") or None,
            near_network_id=read.text("NEAR_NETWORK_ID"),
            contract_id=read.text("OUTLAYER_CONTRACT_ID"),
            operator_account_id=read.text("OPERATOR_ACCOUNT_ID"),
            public_base_url=read.text("PUBLIC_BASE_URL").rstrip("/"),
            admin_token=admin_token,
            wasm_dir=Path(read.text("WASM_DIR")),
            start_block_height=read.integer("START_BLOCK_HEIGHT", None),
            host=env.get("HOST", "127.0.0.1"),
            port=read.integer("PORT", 8080) or 0,
            simulated=env.get("COORDINATOR_SIMULATED", "") == "1",
            ingest=env.get("COORDINATOR_INGEST", "1") == "1",
            db_pool_size=read.positive("DB_POOL_SIZE", 10),
            lease_seconds=read.seconds("LEASE_SECONDS", 30.0),
            max_attempts=read.positive("MAX_ATTEMPTS", 3),
            tee_session_seconds=read.seconds("TEE_SESSION_SECONDS", 3600.0),
            sync_timeout_seconds=read.seconds("SYNC_TIMEOUT_SECONDS", 300.0),
            stuck_call_seconds=read.seconds("STUCK_CALL_SECONDS", 600.0),
            rate_per_minute=read.positive("PAYMENT_KEY_RATE_LIMIT_PER_MINUTE", 1000),
            max_concurrent_calls=read.positive("MAX_CONCURRENT_CALLS_PER_KEY", 10),
            default_compute_limit=read.positive("DEFAULT_COMPUTE_LIMIT", 10_000),
            min_compute_limit=read.positive("MIN_COMPUTE_LIMIT", 1_000),
        )


def text_or_file(env: Mapping[str, str], name: str) -> str:
    """A variable, or the content of the file that ``<name>_FILE`` names: it may hold a password.

    Raises:
        ConfigError: neither is set, both are, or the file cannot be read.
    """
    value, file = env.get(name, ""), env.get(f"{name}_FILE", "")
    if value and file:
        raise ConfigError(f"{name} and {name}_FILE are both set", hint="set one of them")
    if file:
        try:
            value = Path(file).read_text().strip()
        except OSError as error:
            raise ConfigError(f"{name}_FILE {file} cannot be read: {error.strerror}") from error
    if not value:
        raise ConfigError(
            f"neither {name} nor {name}_FILE is set", hint="see docs/reference/configuration.md"
        )
    return value


@dataclass(frozen=True)
class _Reader:
    env: Mapping[str, str]

    def text(self, name: str) -> str:
        value = self.env.get(name, "")
        if not value:
            raise ConfigError(f"{name} is not set", hint="see docs/reference/configuration.md")
        return value

    def integer(self, name: str, default: int | None) -> int | None:
        value = self.env.get(name, "")
        if not value:
            return default
        if not (value.isascii() and value.isdigit()):
            raise ConfigError(f"{name}={value!r} is not a whole number")
        return int(value)

    def positive(self, name: str, default: int) -> int:
        value = self.integer(name, default)
        if not value:
            raise ConfigError(f"{name} must be at least 1")
        return value

    def seconds(self, name: str, default: float) -> float:
        value = self.env.get(name, "")
        try:
            number = float(value) if value else default
        except ValueError as error:
            raise ConfigError(f"{name}={value!r} is not a number of seconds") from error
        if not 0 < number < 1e9:
            raise ConfigError(f"{name}={value!r} must be more than 0")
        return number
