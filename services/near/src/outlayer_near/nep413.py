# SPDX-License-Identifier: MIT
"""NEP-413: an account signs an off-chain message with one of its full-access keys."""

from __future__ import annotations

import base64
import binascii
import secrets
import time
from dataclasses import dataclass

from outlayer_near.errors import CodecError, SignatureError
from outlayer_near.primitives import KeyPair, PublicKey, Signature, nep413_hash
from outlayer_near.rpc import NearRpc

FRESH_SECONDS = 300


@dataclass(frozen=True)
class SignedMessage:
    """``nonce`` is 32 bytes whose first 8 are the time in milliseconds (u64 big-endian); base64 on the wire."""

    account_id: str
    public_key: str
    nonce: str
    signature: str


def timed_nonce(now: float | None = None) -> bytes:
    """A nonce that carries its time, so that a verifier can refuse old messages without remembering all."""
    milliseconds = int((time.time() if now is None else now) * 1000)
    return milliseconds.to_bytes(8, "big") + secrets.token_bytes(24)


def sign_message(account_id: str, key: KeyPair, message: str, recipient: str) -> SignedMessage:
    nonce = timed_nonce()
    signature = key.sign(nep413_hash(message, nonce, recipient))
    return SignedMessage(
        account_id=account_id,
        public_key=str(key.public_key),
        nonce=base64.b64encode(nonce).decode(),
        signature=base64.b64encode(signature.data).decode(),
    )


def check_signature(signed: SignedMessage, message: str, recipient: str, now: float) -> None:
    """Check signature and time. Raises ``SignatureError``; says nothing about whose key it is."""
    nonce = _decode(signed.nonce, 32, "nonce")
    raw = _decode(signed.signature, 64, "signature")
    age = now - int.from_bytes(nonce[:8], "big") / 1000
    if abs(age) > FRESH_SECONDS:
        raise SignatureError(
            f"the message was signed {age:.0f} s ago", hint=f"sign again; {FRESH_SECONDS} s are allowed"
        )
    try:
        key = PublicKey.parse(signed.public_key)
        good = key.verify(nep413_hash(message, nonce, recipient), Signature(key.key_type, raw))
    except CodecError as error:
        raise SignatureError(f"the signer's key cannot be read: {error}") from error
    if not good:
        raise SignatureError(
            "the signature does not belong to this message",
            hint=f"sign the text {message!r} for the recipient {recipient!r}",
        )


async def check_message(
    rpc: NearRpc, signed: SignedMessage, message: str, recipient: str, now: float | None = None
) -> None:
    """Check a message and, on chain, that the key is a full-access key of the account. Raises ``SignatureError``."""
    check_signature(signed, message, recipient, time.time() if now is None else now)
    if not await rpc.has_full_access_key(signed.account_id, signed.public_key):
        raise SignatureError(f"{signed.public_key} is not a full-access key of {signed.account_id}")


def _decode(text: str, size: int, what: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SignatureError(f"the {what} is not base64") from error
    if len(data) != size:
        raise SignatureError(f"the {what} has {len(data)} bytes, expected {size}")
    return data
