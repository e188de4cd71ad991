# SPDX-License-Identifier: MIT
"""Base58 of an ed25519 public key, as NEAR writes it. (This package imports no other of the project.)"""

from __future__ import annotations

from outlayer_attestation.errors import RecordError

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_VALUES = {character: value for value, character in enumerate(_ALPHABET)}
_PREFIX = "ed25519:"


def encode_ed25519_key(raw: bytes) -> str:
    """32 bytes -> "ed25519:<base58>"."""
    if len(raw) != 32:
        raise RecordError("an ed25519 public key is 32 bytes")
    number, digits = int.from_bytes(raw, "big"), ""
    while number:
        number, remainder = divmod(number, 58)
        digits = _ALPHABET[remainder] + digits
    return _PREFIX + "1" * (len(raw) - len(raw.lstrip(b"\0"))) + digits


def decode_ed25519_key(text: str) -> bytes:
    """ "ed25519:<base58>" -> 32 bytes; only the one canonical text of a key is read."""
    digits = text.removeprefix(_PREFIX)
    if digits == text or not 32 <= len(digits) <= 44 or any(digit not in _VALUES for digit in digits):
        raise RecordError(
            "the public key is not ed25519:<base58>", hint="ML-DSA and secp256k1 keys are not used here"
        )
    number = 0
    for digit in digits:
        number = number * 58 + _VALUES[digit]
    zeros = len(digits) - len(digits.lstrip("1"))
    raw = bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
    if len(raw) != 32:
        raise RecordError("the public key is not 32 bytes")
    return raw
