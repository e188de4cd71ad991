# SPDX-License-Identifier: MIT
"""Settings of the keeper, from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

from outlayer_keeper.errors import ConfigError

YOCTO = 10**24


@dataclass(frozen=True)
class Config:
    """All settings. ``max_daily_yocto``: what may be burnt in gas in any 24 hours, in yoctoNEAR."""

    near_rpc_url: str
    near_block_feed_url: str | None
    register_id: str
    dao_id: str | None
    account_id: str
    key_file: Path
    round_seconds: int = 3600
    max_daily_yocto: int = YOCTO
    health_port: int = 0


def from_environment(environ: Mapping[str, str]) -> Config:
    """Read and check the settings. Raises ``ConfigError`` that names what is missing or wrong."""
    required = ("NEAR_RPC_URL", "OPERATOR_ACCOUNT_ID", "KEEPER_ACCOUNT_ID", "KEEPER_KEY_FILE")
    missing = sorted(name for name in required if not environ.get(name))
    if missing:
        raise ConfigError(
            f"settings are missing: {', '.join(missing)}", hint="see docs/reference/configuration.md"
        )
    return Config(
        near_rpc_url=environ["NEAR_RPC_URL"],
        near_block_feed_url=environ.get("NEAR_BLOCK_FEED_URL") or None,
        register_id=environ["OPERATOR_ACCOUNT_ID"],
        dao_id=environ.get("KEYSTORE_DAO_ACCOUNT_ID") or None,
        account_id=environ["KEEPER_ACCOUNT_ID"],
        key_file=Path(environ["KEEPER_KEY_FILE"]),
        round_seconds=_number(environ, "ROUND_SECONDS", 3600, 10, 86_400),
        max_daily_yocto=_near(environ, "MAX_DAILY_NEAR", "1"),
        health_port=_number(environ, "HEALTH_PORT", 0, 0, 65_535),
    )


def _number(environ: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = environ.get(name) or str(default)
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and low <= int(text) <= high):
        raise ConfigError(f"{name} is {text!r}", hint=f"give a whole number from {low} to {high}")
    return int(text)


def _near(environ: Mapping[str, str], name: str, default: str) -> int:
    """An amount of NEAR in decimal notation, as yoctoNEAR."""
    text = environ.get(name) or default
    try:
        amount = Decimal(text)
        if not (amount.is_finite() and 0 <= amount <= 1_000_000):
            raise ConfigError(f"{name} is {text!r}", hint="give an amount of NEAR from 0 to 1000000")
        return int(amount.scaleb(24))
    except InvalidOperation as error:
        raise ConfigError(f"{name} is {text!r}", hint="give an amount of NEAR, for example 0.5") from error
