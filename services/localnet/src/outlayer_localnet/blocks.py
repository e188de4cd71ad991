# SPDX-License-Identifier: MIT
"""Blocks of the one-shard chain: what a header commits to, and the arithmetic of the gas price."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields
from typing import Any

from outlayer_localnet.errors import StoreError
from outlayer_localnet.params import Params

ZERO_HASH = bytes(32)


@dataclass(frozen=True, slots=True)
class Block:
    """A block with its only chunk. ``timestamp`` in ns; ``gas_price`` and ``balance_burnt`` in yoctoNEAR.

    ``gas_price`` is the price that the next block charges. ``incoming`` are the receipts that earlier
    blocks sent here, ``local`` those of transactions to oneself, ``executed`` the receipts with an
    outcome, in order. ``hash`` commits to all other fields.
    """

    height: int
    prev_height: int
    prev_hash: bytes
    timestamp: int
    gas_price: int
    total_supply: int
    state_root: bytes
    prev_state_root: bytes
    random_value: bytes
    ordinal: int
    gas_used: int = 0
    balance_burnt: int = 0
    transactions: tuple[bytes, ...] = ()
    incoming: tuple[bytes, ...] = ()
    local: tuple[bytes, ...] = ()
    executed: tuple[bytes, ...] = ()
    hash: bytes = field(default=b"")

    def sealed(self) -> Block:
        """The block with its hash computed."""
        body: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "hash"}
        digest = hashlib.sha256(b"outlayer-localnet/block\0" + _pack(body)).digest()
        return Block(**body, hash=digest)

    @property
    def chunk_hash(self) -> bytes:
        """Hash of the block's only chunk."""
        return hashlib.sha256(b"outlayer-localnet/chunk\0" + self.hash).digest()

    def to_bytes(self) -> bytes:
        """Bytes for the store."""
        return _pack({f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Block:
        """The block from the store; StoreError if the record is damaged."""
        try:
            raw = json.loads(data)
            return cls(**{f.name: _unpack(raw[f.name]) for f in fields(cls)})  # type: ignore[arg-type]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                "a stored block cannot be read", hint="The state directory is damaged."
            ) from error


def _pack(body: dict[str, object]) -> bytes:
    return json.dumps(body, default=_to_text, separators=(",", ":"), sort_keys=True).encode()


def _to_text(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"cannot store {type(value).__name__}")


def _unpack(value: object) -> object:
    if isinstance(value, str):
        return bytes.fromhex(value)
    if isinstance(value, list):
        return tuple(_unpack(item) for item in value)
    return value


def next_gas_price(price: int, gas_used: int, params: Params) -> int:
    """The price after a block: it moves by at most 1 % towards half-full blocks, within its bounds."""
    numerator, denominator = params.gas_price_adjustment_rate
    limit = params.gas_limit
    scale = 2 * denominator * limit
    moved = price * (scale + numerator * (2 * min(gas_used, limit) - limit)) // scale
    return min(max(moved, params.min_gas_price), params.max_gas_price)
