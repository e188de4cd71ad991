# SPDX-License-Identifier: MIT
"""Receipts, and the ids that nearcore derives for them (protocol version 77 and later)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TypeAlias

from outlayer_near.primitives import (
    ED25519,
    Action,
    PublicKey,
    Reader,
    decode_action,
    encode_action,
    encode_string,
    encode_u32,
    encode_u64,
    encode_u128,
    encode_vec,
)

SYSTEM = "system"
NO_KEY = PublicKey(ED25519, bytes(32))


@dataclass(slots=True)
class ActionReceipt:
    """Actions to carry out. ``gas_price`` is the price at which the gas was bought, in yoctoNEAR."""

    signer_id: str
    signer_public_key: PublicKey
    gas_price: int
    actions: tuple[Action, ...]
    output_data_receivers: list[tuple[bytes, str]] = field(default_factory=list)
    input_data_ids: list[bytes] = field(default_factory=list)
    is_promise_yield: bool = False
    refund_to: str | None = None


@dataclass(slots=True)
class DataReceipt:
    """A promise's result; None means it failed."""

    data_id: bytes
    data: bytes | None
    is_promise_resume: bool = False


@dataclass(slots=True)
class DistributionReceipt:
    """Global contract code on its way into state; ``account_id`` None means known by its hash."""

    code: bytes
    account_id: str | None = None


Body: TypeAlias = ActionReceipt | DataReceipt | DistributionReceipt


@dataclass(slots=True)
class Receipt:
    """A receipt; ``tx_hash`` is the transaction it descends from (not part of its identity)."""

    predecessor_id: str
    receiver_id: str
    body: Body
    receipt_id: bytes = b""
    tx_hash: bytes = b""

    @property
    def is_action(self) -> bool:
        """Whether the receipt is listed in its creator's outcome and gets an outcome of its own."""
        return not isinstance(self.body, DataReceipt)

    @property
    def is_refund(self) -> bool:
        """Whether the receipt only gives tokens back."""
        return self.predecessor_id == SYSTEM

    @property
    def is_instant(self) -> bool:
        """Whether the receipt runs in the chunk that made it (protocol version 83)."""
        body = self.body
        if not isinstance(body, ActionReceipt):
            return False
        if body.is_promise_yield:
            return True
        return len(body.actions) == 1 and type(body.actions[0]).__name__ == "DeleteAccount"


def derive_id(base: bytes, height: int, salt: int) -> bytes:
    """SHA-256(base ‖ u64le height ‖ u64le salt): the rule behind every id below."""
    return hashlib.sha256(base + encode_u64(height) + encode_u64(salt)).digest()


def action_hash(receipt_id: bytes, height: int, index: int) -> bytes:
    """The hash that seeds randomness and data ids of the action with this index."""
    return derive_id(receipt_id, height, (1 << 64) - 1 - index)


def balance_refund(receiver_id: str, amount: int) -> Receipt:
    """A refund of a deposit, or of what a deleted account held."""
    from outlayer_near.primitives import Transfer

    return Receipt(SYSTEM, receiver_id, ActionReceipt(SYSTEM, NO_KEY, 0, (Transfer(amount),)))


def gas_refund(receiver_id: str, amount: int, key: PublicKey) -> Receipt:
    """A refund of unused gas; it also restores the allowance of ``key``."""
    from outlayer_near.primitives import Transfer

    return Receipt(SYSTEM, receiver_id, ActionReceipt(receiver_id, key, 0, (Transfer(amount),)))


# -- storage form ----------------------------------------------------------------------------------


def _encode_option(text: str | None) -> bytes:
    return b"\x00" if text is None else b"\x01" + encode_string(text)


def encode_receipt(receipt: Receipt) -> bytes:
    """Bytes for the node's own store (close to borsh; not nearcore's wire form)."""
    head = [
        encode_string(receipt.predecessor_id),
        encode_string(receipt.receiver_id),
        receipt.receipt_id,
        receipt.tx_hash,
    ]
    body = receipt.body
    if isinstance(body, ActionReceipt):
        head += [
            b"\x00",
            encode_string(body.signer_id),
            body.signer_public_key.to_bytes(),
            encode_u128(body.gas_price),
            encode_u32(len(body.actions)),
            *(encode_vec(encode_action(action)) for action in body.actions),
            encode_u32(len(body.output_data_receivers)),
            *(data_id + encode_string(receiver) for data_id, receiver in body.output_data_receivers),
            encode_u32(len(body.input_data_ids)),
            *body.input_data_ids,
            bytes([body.is_promise_yield]),
            _encode_option(body.refund_to),
        ]
    elif isinstance(body, DataReceipt):
        data = b"\x00" if body.data is None else b"\x01" + encode_vec(body.data)
        head += [b"\x01", body.data_id, data, bytes([body.is_promise_resume])]
    else:
        head += [b"\x02", encode_vec(body.code), _encode_option(body.account_id)]
    return b"".join(head)


def decode_receipt(data: bytes) -> Receipt:
    """The receipt that :func:`encode_receipt` wrote; CodecError if the bytes are damaged."""
    reader = Reader(data)
    predecessor_id, receiver_id = reader.string(), reader.string()
    receipt_id, tx_hash = reader.take(32), reader.take(32)
    kind = reader.u8()
    body: Body
    if kind == 0:
        body = ActionReceipt(
            signer_id=reader.string(),
            signer_public_key=PublicKey.read(reader),
            gas_price=reader.u128(),
            actions=reader.vec(lambda: decode_action(reader.data())),
            output_data_receivers=list(reader.vec(lambda: (reader.take(32), reader.string()))),
            input_data_ids=list(reader.vec(lambda: reader.take(32))),
            is_promise_yield=reader.boolean(),
            refund_to=reader.option(reader.string),
        )
    elif kind == 1:
        body = DataReceipt(reader.take(32), reader.option(reader.data), reader.boolean())
    else:
        body = DistributionReceipt(reader.data(), reader.option(reader.string))
    reader.end()
    return Receipt(predecessor_id, receiver_id, body, receipt_id, tx_hash)
