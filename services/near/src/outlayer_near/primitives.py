# SPDX-License-Identifier: MIT
"""NEAR's wire types: borsh, keys, actions, transactions and the messages that get signed.

Layouts follow nearcore's ``near-primitives`` (transaction V0, actions 0-10), NEP-366 for
meta-transactions and NEP-413 for signed messages. Decoding is strict: unknown tags, presence bytes
other than 0 and 1, invalid account ids and trailing bytes raise :class:`CodecError`, and nothing else
is ever raised for malformed input. Amounts are yoctoNEAR, gas is in gas units, all plain ``int``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature

from outlayer_near.errors import CodecError

__all__ = [
    "ED25519",
    "SECP256K1",
    "AccessKey",
    "Action",
    "AddKey",
    "CodecError",
    "CreateAccount",
    "Delegate",
    "DelegateAction",
    "DeleteAccount",
    "DeleteKey",
    "DeployContract",
    "DeployGlobalContract",
    "FullAccess",
    "FunctionCall",
    "FunctionCallPermission",
    "KeyPair",
    "Permission",
    "PublicKey",
    "Reader",
    "Signature",
    "SignedTransaction",
    "Stake",
    "Transaction",
    "Transfer",
    "UseGlobalContract",
    "b58decode",
    "b58encode",
    "decode_action",
    "decode_hash",
    "delegate_hash",
    "encode_action",
    "encode_string",
    "encode_u32",
    "encode_u64",
    "encode_u128",
    "encode_vec",
    "is_valid_account_id",
    "nep413_hash",
]

ED25519: Final = 0
SECP256K1: Final = 1

_KEY_NAMES: Final = {ED25519: "ed25519", SECP256K1: "secp256k1"}
_KEY_TAGS: Final = {name: tag for tag, name in _KEY_NAMES.items()}
_KEY_SIZES: Final = {ED25519: 32, SECP256K1: 64}
_SIGNATURE_SIZES: Final = {ED25519: 64, SECP256K1: 65}

_U32_MAX: Final = (1 << 32) - 1
_U64_MAX: Final = (1 << 64) - 1
_U128_MAX: Final = (1 << 128) - 1

_NEP366_PREFIX: Final = (1 << 30) + 366
_NEP413_PREFIX: Final = (1 << 31) + 413

_SECP256K1_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

_ACCOUNT_ID = re.compile(r"(?:[a-z0-9]+[-_])*[a-z0-9]+(?:\.(?:[a-z0-9]+[-_])*[a-z0-9]+)*")

T = TypeVar("T")


# -- base58 ----------------------------------------------------------------------------------------

_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_PAIRS: Final = [high + low for high in _ALPHABET for low in _ALPHABET]
_DIGITS: Final = {c: i for i, c in enumerate(_ALPHABET)}


def b58encode(data: bytes) -> str:
    """Base58 (Bitcoin alphabet) text of ``data``; leading zero bytes become ``1``."""
    zeros = len(data) - len(data.lstrip(b"\0"))
    number = int.from_bytes(data, "big")
    pairs: list[str] = []
    while number:
        number, remainder = divmod(number, 58 * 58)
        pairs.append(_PAIRS[remainder])
    return "1" * zeros + "".join(reversed(pairs)).lstrip("1")


def b58decode(text: str, *, size: int | None = None, max_chars: int = 4096) -> bytes:
    """Bytes of base58 ``text``; ``size`` is the exact length expected, if known.

    Decoding is quadratic, so text longer than ``max_chars`` is refused.
    """
    if len(text) > max_chars:
        raise CodecError(f"base58 text of {len(text)} characters is too long")
    number = 0
    for char in text:
        digit = _DIGITS.get(char)
        if digit is None:
            raise CodecError(f"{char!r} is not a base58 character")
        number = number * 58 + digit
    zeros = len(text) - len(text.lstrip("1"))
    data = b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")
    if size is not None and len(data) != size:
        raise CodecError(f"expected {size} bytes of base58, found {len(data)}")
    return data


def decode_hash(text: str) -> bytes:
    """The 32 bytes of a base58 hash (block hash, transaction hash, receipt id, code hash)."""
    return b58decode(text, size=32, max_chars=64)


# -- account ids -----------------------------------------------------------------------------------


def is_valid_account_id(account_id: str) -> bool:
    """Whether the text is an account id: 2-64 characters of ``[a-z0-9]`` with single ``-_.`` between."""
    return 2 <= len(account_id) <= 64 and _ACCOUNT_ID.fullmatch(account_id) is not None


# -- borsh -----------------------------------------------------------------------------------------


class Reader:
    """Strict borsh reader over a byte string."""

    __slots__ = ("_data", "_pos")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._pos = 0

    @property
    def position(self) -> int:
        """Bytes consumed so far."""
        return self._pos

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        end = self._pos + size
        if end > len(self._data):
            raise CodecError(f"input ends at byte {len(self._data)}, needed {size} more at byte {self._pos}")
        chunk = self._data[self._pos : end]
        self._pos = end
        return chunk

    def uint(self, size: int) -> int:
        """A little-endian unsigned integer of ``size`` bytes."""
        return int.from_bytes(self.take(size), "little")

    def u8(self) -> int:
        """One byte."""
        return self.uint(1)

    def u32(self) -> int:
        """Four bytes, little-endian."""
        return self.uint(4)

    def u64(self) -> int:
        """Eight bytes, little-endian."""
        return self.uint(8)

    def u128(self) -> int:
        """Sixteen bytes, little-endian."""
        return self.uint(16)

    def boolean(self) -> bool:
        """A byte that must be 0 or 1."""
        value = self.u8()
        if value > 1:
            raise CodecError(f"expected 0 or 1 at byte {self._pos - 1}, found {value}")
        return value == 1

    def data(self) -> bytes:
        """A length-prefixed byte vector."""
        return self.take(self.u32())

    def string(self) -> str:
        """A length-prefixed UTF-8 string."""
        start = self._pos
        try:
            return self.data().decode("utf-8")
        except UnicodeDecodeError:
            raise CodecError(f"the string at byte {start} is not UTF-8") from None

    def account_id(self) -> str:
        """A string that is a valid account id."""
        text = self.string()
        if not is_valid_account_id(text):
            raise CodecError(f"{text[:80]!r} is not a valid account id")
        return text

    def option(self, read: Callable[[], T]) -> T | None:
        """A presence byte, then the value if present."""
        return read() if self.boolean() else None

    def vec(self, read: Callable[[], T]) -> tuple[T, ...]:
        """A length-prefixed vector; the length is bounded by the bytes that are left."""
        count = self.u32()
        if count > len(self._data) - self._pos:
            raise CodecError(f"a vector of {count} items cannot fit in the bytes that are left")
        return tuple(read() for _ in range(count))

    def end(self) -> None:
        """Raise unless every byte was consumed."""
        if self._pos != len(self._data):
            raise CodecError(f"{len(self._data) - self._pos} trailing bytes after byte {self._pos}")


def _uint(value: int, size: int, limit: int) -> bytes:
    if not 0 <= value <= limit:
        raise CodecError(f"{value} does not fit in {size * 8} unsigned bits")
    return value.to_bytes(size, "little")


def encode_u32(value: int) -> bytes:
    """Four bytes, little-endian."""
    return _uint(value, 4, _U32_MAX)


def encode_u64(value: int) -> bytes:
    """Eight bytes, little-endian."""
    return _uint(value, 8, _U64_MAX)


def encode_u128(value: int) -> bytes:
    """Sixteen bytes, little-endian."""
    return _uint(value, 16, _U128_MAX)


def encode_vec(data: bytes) -> bytes:
    """A byte vector with its u32 length."""
    return encode_u32(len(data)) + data


def encode_string(text: str) -> bytes:
    """A UTF-8 string with its u32 length in bytes."""
    try:
        return encode_vec(text.encode("utf-8"))
    except UnicodeEncodeError:
        raise CodecError("text with lone surrogates cannot be encoded") from None


def _encode_items(items: Sequence[bytes]) -> bytes:
    return encode_u32(len(items)) + b"".join(items)


# -- keys and signatures ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, order=True)
class PublicKey:
    """A public key: 32 bytes for ed25519, 64 (x ‖ y) for secp256k1. Ordered as nearcore orders keys."""

    key_type: int
    data: bytes

    def __post_init__(self) -> None:
        if self.key_type not in _KEY_SIZES:
            raise CodecError(f"unknown public key type {self.key_type}")
        if len(self.data) != _KEY_SIZES[self.key_type]:
            raise CodecError(
                f"{_KEY_NAMES[self.key_type]} public key must be {_KEY_SIZES[self.key_type]} bytes, "
                f"found {len(self.data)}"
            )

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """From ``ed25519:<base58>`` or ``secp256k1:<base58>``; without prefix it is ed25519."""
        name, colon, value = text.partition(":")
        if not colon:
            name, value = "ed25519", text
        if name not in _KEY_TAGS:
            raise CodecError(
                f"unknown key type {name[:20]!r}", hint="Use ed25519:<base58> or secp256k1:<base58>."
            )
        return cls(_KEY_TAGS[name], b58decode(value, max_chars=128))

    @classmethod
    def read(cls, reader: Reader) -> PublicKey:
        """From borsh: tag byte, then the key."""
        tag = reader.u8()
        if tag not in _KEY_SIZES:
            raise CodecError(f"unknown public key type {tag}")
        return cls(tag, reader.take(_KEY_SIZES[tag]))

    @classmethod
    def from_bytes(cls, data: bytes) -> PublicKey:
        """From borsh bytes, all of which must be used."""
        return _decode_all(data, cls.read)

    def to_bytes(self) -> bytes:
        """Borsh: tag byte, then the key."""
        return bytes([self.key_type]) + self.data

    def __str__(self) -> str:
        return f"{_KEY_NAMES[self.key_type]}:{b58encode(self.data)}"

    def verify(self, message: bytes, signature: Signature) -> bool:
        """Whether ``signature`` by this key covers ``message`` (for secp256k1, a 32-byte hash)."""
        if signature.key_type != self.key_type:
            return False
        if self.key_type == ED25519:
            return _verify_ed25519(self.data, message, signature.data)
        return _verify_secp256k1(self.data, message, signature.data)


def _verify_ed25519(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _verify_secp256k1(key: bytes, digest: bytes, signature: bytes) -> bool:
    # r ‖ s ‖ recovery id; libsecp256k1 refuses a high s, so it is refused here too
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
    if len(digest) != 32 or not 0 < r < _SECP256K1_ORDER or not 0 < s <= _SECP256K1_ORDER // 2:
        return False
    try:
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), b"\x04" + key)
        public.verify(encode_dss_signature(r, s), digest, ec.ECDSA(Prehashed(hashes.SHA256())))
    except (InvalidSignature, ValueError):
        return False
    return True


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature: 64 bytes for ed25519, 65 (r ‖ s ‖ v) for secp256k1."""

    key_type: int
    data: bytes

    def __post_init__(self) -> None:
        if self.key_type not in _SIGNATURE_SIZES:
            raise CodecError(f"unknown signature type {self.key_type}")
        if len(self.data) != _SIGNATURE_SIZES[self.key_type]:
            raise CodecError(
                f"{_KEY_NAMES[self.key_type]} signature must be {_SIGNATURE_SIZES[self.key_type]} bytes, "
                f"found {len(self.data)}"
            )

    @classmethod
    def parse(cls, text: str) -> Signature:
        """From ``ed25519:<base58>`` or ``secp256k1:<base58>``."""
        name, _, value = text.partition(":")
        if name not in _KEY_TAGS:
            raise CodecError(f"unknown signature type {name[:20]!r}")
        return cls(_KEY_TAGS[name], b58decode(value, max_chars=128))

    @classmethod
    def read(cls, reader: Reader) -> Signature:
        """From borsh: tag byte, then the signature."""
        tag = reader.u8()
        if tag not in _SIGNATURE_SIZES:
            raise CodecError(f"unknown signature type {tag}")
        return cls(tag, reader.take(_SIGNATURE_SIZES[tag]))

    def to_bytes(self) -> bytes:
        """Borsh: tag byte, then the signature."""
        return bytes([self.key_type]) + self.data

    def __str__(self) -> str:
        return f"{_KEY_NAMES[self.key_type]}:{b58encode(self.data)}"


class KeyPair:
    """An ed25519 key pair. The secret shows neither in ``repr`` nor in errors."""

    __slots__ = ("_private", "_seed", "public_key")

    public_key: PublicKey

    def __init__(self, seed: bytes) -> None:
        if len(seed) != 32:
            raise CodecError(f"an ed25519 seed is 32 bytes, found {len(seed)}")
        self._seed = seed
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        raw = self._private.public_key().public_bytes(
            serialization.Encoding.Raw, serialization.PublicFormat.Raw
        )
        self.public_key = PublicKey(ED25519, raw)

    @classmethod
    def generate(cls) -> KeyPair:
        """A new random key."""
        return cls(Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def from_secret(cls, secret: str) -> KeyPair:
        """From ``ed25519:<base58 of 64 bytes (seed ‖ public key) or of a 32-byte seed>``."""
        name, colon, value = secret.partition(":")
        if not colon or name != "ed25519":
            raise CodecError("a secret key must start with 'ed25519:'")
        try:
            data = b58decode(value, max_chars=128)
        except CodecError:
            raise CodecError("the secret key is not base58") from None
        if len(data) not in (32, 64):
            raise CodecError(f"a secret key is 32 or 64 bytes, found {len(data)}")
        pair = cls(data[:32])
        if len(data) == 64 and data[32:] != pair.public_key.data:
            raise CodecError("the public half of the secret key does not belong to its seed")
        return pair

    @property
    def secret(self) -> str:
        """``ed25519:<base58 of seed ‖ public key>``, the form near-cli credentials files use."""
        return "ed25519:" + b58encode(self._seed + self.public_key.data)

    def sign(self, message: bytes) -> Signature:
        """Signature over the bytes as given."""
        return Signature(ED25519, self._private.sign(message))

    def __repr__(self) -> str:
        return f"KeyPair({self.public_key})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeyPair) and self._seed == other._seed

    def __hash__(self) -> int:
        return hash(self.public_key)


# -- access keys -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FullAccess:
    """A key that may do anything."""


@dataclass(frozen=True, slots=True)
class FunctionCallPermission:
    """A key limited to calls of one receiver; ``allowance`` None is unlimited, no names means any method."""

    receiver_id: str
    method_names: tuple[str, ...] = ()
    allowance: int | None = None


Permission: TypeAlias = FullAccess | FunctionCallPermission


@dataclass(frozen=True, slots=True)
class AccessKey:
    """An access key as stored: last used nonce and permission."""

    nonce: int = 0
    permission: Permission = FullAccess()

    @classmethod
    def read(cls, reader: Reader) -> AccessKey:
        """From borsh."""
        nonce = reader.u64()
        tag = reader.u8()
        if tag == 1:
            return cls(nonce, FullAccess())
        if tag != 0:
            raise CodecError(f"unknown access key permission {tag}")
        allowance = reader.option(reader.u128)
        receiver_id = reader.string()
        return cls(nonce, FunctionCallPermission(receiver_id, reader.vec(reader.string), allowance))

    @classmethod
    def from_bytes(cls, data: bytes) -> AccessKey:
        """From borsh bytes, all of which must be used."""
        return _decode_all(data, cls.read)

    def to_bytes(self) -> bytes:
        """Borsh encoding."""
        nonce = encode_u64(self.nonce)
        if isinstance(self.permission, FullAccess):
            return nonce + b"\x01"
        limit = self.permission.allowance
        allowance = b"\x00" if limit is None else b"\x01" + encode_u128(limit)
        names = _encode_items([encode_string(name) for name in self.permission.method_names])
        return nonce + b"\x00" + allowance + encode_string(self.permission.receiver_id) + names


# -- actions ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateAccount:
    """Create the receiver account."""


@dataclass(frozen=True, slots=True)
class DeployContract:
    """Store WASM code on the receiver."""

    code: bytes


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """Call a method: ``gas`` in gas units, ``deposit`` in yoctoNEAR."""

    method_name: str
    args: bytes
    gas: int
    deposit: int = 0


@dataclass(frozen=True, slots=True)
class Transfer:
    """Move ``deposit`` yoctoNEAR to the receiver."""

    deposit: int


@dataclass(frozen=True, slots=True)
class Stake:
    """Lock ``stake`` yoctoNEAR for a validator key."""

    stake: int
    public_key: PublicKey


@dataclass(frozen=True, slots=True)
class AddKey:
    """Add an access key (the chain sets its first nonce itself)."""

    public_key: PublicKey
    access_key: AccessKey


@dataclass(frozen=True, slots=True)
class DeleteKey:
    """Remove an access key."""

    public_key: PublicKey


@dataclass(frozen=True, slots=True)
class DeleteAccount:
    """Delete the receiver; what it holds goes to ``beneficiary_id``."""

    beneficiary_id: str


@dataclass(frozen=True, slots=True)
class DelegateAction:
    """What the sender of a meta-transaction signs (NEP-366); its actions cannot be Delegate."""

    sender_id: str
    receiver_id: str
    actions: tuple[Action, ...]
    nonce: int
    max_block_height: int
    public_key: PublicKey

    @classmethod
    def read(cls, reader: Reader) -> DelegateAction:
        """From borsh."""
        return cls(
            sender_id=reader.account_id(),
            receiver_id=reader.account_id(),
            actions=reader.vec(lambda: _read_action(reader, nested=True)),
            nonce=reader.u64(),
            max_block_height=reader.u64(),
            public_key=PublicKey.read(reader),
        )

    def to_bytes(self) -> bytes:
        """Borsh encoding."""
        if any(isinstance(action, Delegate) for action in self.actions):
            raise CodecError("a delegate action cannot hold another one")
        return b"".join(
            (
                encode_string(self.sender_id),
                encode_string(self.receiver_id),
                _encode_items([encode_action(action) for action in self.actions]),
                encode_u64(self.nonce),
                encode_u64(self.max_block_height),
                self.public_key.to_bytes(),
            )
        )


@dataclass(frozen=True, slots=True)
class Delegate:
    """A signed delegate action, carried by a relayer's transaction (NEP-366)."""

    delegate_action: DelegateAction
    signature: Signature


@dataclass(frozen=True, slots=True)
class DeployGlobalContract:
    """Publish code for everybody: by its hash, or (``by_account``) under the deployer's account id."""

    code: bytes
    by_account: bool = False


@dataclass(frozen=True, slots=True)
class UseGlobalContract:
    """Use published code: exactly one of ``code_hash`` (32 bytes) and ``account_id`` is set."""

    code_hash: bytes | None = None
    account_id: str | None = None

    def __post_init__(self) -> None:
        if (self.code_hash is None) == (self.account_id is None):
            raise CodecError("name the global contract by code hash or by account id, not both")
        if self.code_hash is not None and len(self.code_hash) != 32:
            raise CodecError(f"a code hash is 32 bytes, found {len(self.code_hash)}")


Action: TypeAlias = (
    CreateAccount
    | DeployContract
    | FunctionCall
    | Transfer
    | Stake
    | AddKey
    | DeleteKey
    | DeleteAccount
    | Delegate
    | DeployGlobalContract
    | UseGlobalContract
)


def encode_action(action: Action) -> bytes:  # noqa: PLR0911, RUF100 - one branch per wire tag
    """Borsh of one action: tag byte, then its fields."""
    match action:
        case CreateAccount():
            return b"\x00"
        case DeployContract(code):
            return b"\x01" + encode_vec(code)
        case FunctionCall(method_name, args, gas, deposit):
            body = encode_string(method_name) + encode_vec(args)
            return b"\x02" + body + encode_u64(gas) + encode_u128(deposit)
        case Transfer(deposit):
            return b"\x03" + encode_u128(deposit)
        case Stake(stake, public_key):
            return b"\x04" + encode_u128(stake) + public_key.to_bytes()
        case AddKey(public_key, access_key):
            return b"\x05" + public_key.to_bytes() + access_key.to_bytes()
        case DeleteKey(public_key):
            return b"\x06" + public_key.to_bytes()
        case DeleteAccount(beneficiary_id):
            return b"\x07" + encode_string(beneficiary_id)
        case Delegate(delegate_action, signature):
            return b"\x08" + delegate_action.to_bytes() + signature.to_bytes()
        case DeployGlobalContract(code, by_account):
            return b"\x09" + encode_vec(code) + bytes([by_account])
        case UseGlobalContract(code_hash, account_id):
            if code_hash is not None:
                return b"\x0a\x00" + code_hash
            return b"\x0a\x01" + encode_string(account_id or "")


def _read_action(reader: Reader, *, nested: bool = False) -> Action:
    tag = reader.u8()
    if tag == 8 and nested:
        raise CodecError("a delegate action cannot hold another one")
    read = _ACTION_READERS.get(tag)
    if read is None:
        raise CodecError(f"unsupported action tag {tag}")
    return read(reader)


def _read_function_call(reader: Reader) -> Action:
    return FunctionCall(
        method_name=reader.string(), args=reader.data(), gas=reader.u64(), deposit=reader.u128()
    )


def _read_global_identifier(reader: Reader) -> Action:
    by_account = reader.boolean()
    if by_account:
        return UseGlobalContract(account_id=reader.account_id())
    return UseGlobalContract(code_hash=reader.take(32))


_ACTION_READERS: Final[dict[int, Callable[[Reader], Action]]] = {
    0: lambda _: CreateAccount(),
    1: lambda r: DeployContract(r.data()),
    2: _read_function_call,
    3: lambda r: Transfer(r.u128()),
    4: lambda r: Stake(r.u128(), PublicKey.read(r)),
    5: lambda r: AddKey(PublicKey.read(r), AccessKey.read(r)),
    6: lambda r: DeleteKey(PublicKey.read(r)),
    7: lambda r: DeleteAccount(r.account_id()),
    8: lambda r: Delegate(DelegateAction.read(r), Signature.read(r)),
    9: lambda r: DeployGlobalContract(r.data(), r.boolean()),
    10: _read_global_identifier,
}


def decode_action(data: bytes) -> Action:
    """One action from borsh bytes, all of which must be used."""
    return _decode_all(data, _read_action)


def _decode_all(data: bytes, read: Callable[[Reader], T]) -> T:
    reader = Reader(data)
    value = read(reader)
    reader.end()
    return value


# -- transactions ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Transaction:
    """Transaction V0. ``block_hash`` (32 bytes) names a recent block and bounds its validity."""

    signer_id: str
    public_key: PublicKey
    nonce: int
    receiver_id: str
    block_hash: bytes
    actions: tuple[Action, ...]

    @classmethod
    def read(cls, reader: Reader) -> Transaction:
        """From borsh; later versions begin with a byte that no V0 signer length can have."""
        return cls(
            signer_id=reader.account_id(),
            public_key=PublicKey.read(reader),
            nonce=reader.u64(),
            receiver_id=reader.account_id(),
            block_hash=reader.take(32),
            actions=reader.vec(lambda: _read_action(reader)),
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Transaction:
        """From borsh bytes, all of which must be used."""
        _refuse_versioned(data)
        return _decode_all(data, cls.read)

    def to_bytes(self) -> bytes:
        """Borsh encoding."""
        if len(self.block_hash) != 32:
            raise CodecError(f"a block hash is 32 bytes, found {len(self.block_hash)}")
        return b"".join(
            (
                encode_string(self.signer_id),
                self.public_key.to_bytes(),
                encode_u64(self.nonce),
                encode_string(self.receiver_id),
                self.block_hash,
                _encode_items([encode_action(action) for action in self.actions]),
            )
        )

    def hash(self) -> bytes:
        """The transaction hash, SHA-256 of the borsh bytes; this is what gets signed."""
        return hashlib.sha256(self.to_bytes()).digest()

    def sign(self, key: KeyPair) -> SignedTransaction:
        """This transaction with a signature by ``key``, which must be its public key."""
        if key.public_key != self.public_key:
            raise CodecError("the key does not belong to the transaction's public key")
        return SignedTransaction(self, key.sign(self.hash()))


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """A transaction and the signature over its hash."""

    transaction: Transaction
    signature: Signature

    @classmethod
    def from_bytes(cls, data: bytes) -> SignedTransaction:
        """From borsh bytes, all of which must be used."""
        _refuse_versioned(data)
        reader = Reader(data)
        signed = cls(Transaction.read(reader), Signature.read(reader))
        reader.end()
        return signed

    def to_bytes(self) -> bytes:
        """Borsh encoding."""
        return self.transaction.to_bytes() + self.signature.to_bytes()

    def hash(self) -> bytes:
        """The transaction hash."""
        return self.transaction.hash()

    def verify(self) -> bool:
        """Whether the signature is by the transaction's public key."""
        return self.transaction.public_key.verify(self.hash(), self.signature)


def _refuse_versioned(data: bytes) -> None:
    # V0 begins with a u32 length of at most 64, so its second byte is 0; V1 puts a version byte first
    if len(data) > 1 and data[1] != 0:
        raise CodecError("only transaction version 0 is supported", hint="Sign a version 0 transaction.")


# -- signed messages -------------------------------------------------------------------------------


def delegate_hash(action: DelegateAction) -> bytes:
    """What a meta-transaction's sender signs: SHA-256(u32le(2^30+366) ‖ borsh), NEP-366 and NEP-461."""
    return hashlib.sha256(encode_u32(_NEP366_PREFIX) + action.to_bytes()).digest()


def nep413_hash(message: str, nonce: bytes, recipient: str, callback_url: str | None = None) -> bytes:
    """What a wallet signs for an off-chain message: SHA-256(u32le(2^31+413) ‖ borsh payload), NEP-413.

    ``nonce`` is 32 bytes.
    """
    if len(nonce) != 32:
        raise CodecError(f"a NEP-413 nonce is 32 bytes, found {len(nonce)}")
    callback = b"\x00" if callback_url is None else b"\x01" + encode_string(callback_url)
    payload = encode_string(message) + nonce + encode_string(recipient) + callback
    return hashlib.sha256(encode_u32(_NEP413_PREFIX) + payload).digest()
