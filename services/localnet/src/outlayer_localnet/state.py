# SPDX-License-Identifier: MIT
"""World state: a flat map with nearcore's trie keys, and overlays that commit or vanish."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from outlayer_localnet.trie import Trie
from outlayer_near.primitives import (
    AccessKey,
    PublicKey,
    Reader,
    encode_string,
    encode_u64,
    encode_u128,
)

# first byte of each kind of key, as in nearcore's trie_key.rs where it has one
_ACCOUNT: Final = b"\x00"
_CODE: Final = b"\x01"
_ACCESS_KEY: Final = b"\x02"
_RECEIVED_DATA: Final = b"\x03"
_POSTPONED_ID: Final = b"\x04"
_PENDING_COUNT: Final = b"\x05"
_POSTPONED: Final = b"\x06"
_DATA: Final = b"\x09"
_YIELD_INDICES: Final = b"\x0b"
_YIELD_TIMEOUT: Final = b"\x0c"
_YIELD_RECEIPT: Final = b"\x0d"
_GLOBAL_CODE: Final = b"\x11"
_YIELD_STATUS: Final = b"\x14"
_YIELD_ID: Final = b"\x15"

NUM_BYTES_ACCOUNT: Final = 100
NUM_EXTRA_BYTES_RECORD: Final = 40


def account_key(account_id: str) -> bytes:
    """Key of the account record."""
    return _ACCOUNT + account_id.encode()


def code_key(account_id: str) -> bytes:
    """Key of the account's own contract code."""
    return _CODE + account_id.encode()


def access_key_prefix(account_id: str) -> bytes:
    """Prefix of the account's access keys; the borsh public key follows."""
    return _ACCESS_KEY + account_id.encode() + _ACCESS_KEY


def access_key_key(account_id: str, public_key: PublicKey) -> bytes:
    """Key of one access key."""
    return access_key_prefix(account_id) + public_key.to_bytes()


def data_prefix(account_id: str) -> bytes:
    """Prefix of the contract's data; the contract's key follows."""
    return _DATA + account_id.encode() + b","


def received_data_key(account_id: str, data_id: bytes) -> bytes:
    """Key of a promise result that waits for its receipt."""
    return _RECEIVED_DATA + account_id.encode() + b"," + data_id


def postponed_id_key(account_id: str, data_id: bytes) -> bytes:
    """Key that leads from a data id to the receipt waiting for it."""
    return _POSTPONED_ID + account_id.encode() + b"," + data_id


def pending_count_key(account_id: str, receipt_id: bytes) -> bytes:
    """Key of the number of results a postponed receipt still waits for."""
    return _PENDING_COUNT + account_id.encode() + b"," + receipt_id


def postponed_key(account_id: str, receipt_id: bytes) -> bytes:
    """Key of a receipt that waits for its input data."""
    return _POSTPONED + account_id.encode() + b"," + receipt_id


YIELD_INDICES_KEY: Final = _YIELD_INDICES


def yield_timeout_key(index: int) -> bytes:
    """Key of an entry in the first-in-first-out queue of yield timeouts."""
    return _YIELD_TIMEOUT + encode_u64(index)


def yield_receipt_key(account_id: str, data_id: bytes) -> bytes:
    """Key of a yielded callback that waits to be resumed."""
    return _YIELD_RECEIPT + account_id.encode() + b"," + data_id


def yield_status_key(account_id: str, data_id: bytes) -> bytes:
    """Key of a yield's status: 0 yielded, 1 resume initiated."""
    return _YIELD_STATUS + account_id.encode() + b"," + data_id


def yield_id_key(account_id: str, yield_id: bytes) -> bytes:
    """Key that leads from an id the contract chose to the data id of its yield."""
    return _YIELD_ID + account_id.encode() + b"," + yield_id


def global_code_key(code_hash: bytes | None, account_id: str | None) -> bytes:
    """Key of a distributed global contract, by hash or by account."""
    if code_hash is not None:
        return _GLOBAL_CODE + b"\x00" + code_hash
    return _GLOBAL_CODE + b"\x01" + (account_id or "").encode()


@dataclass(slots=True)
class Account:
    """An account record; amounts in yoctoNEAR. At most one of the three contract fields is set."""

    amount: int
    locked: int = 0
    storage_usage: int = NUM_BYTES_ACCOUNT
    code_hash: bytes | None = None
    global_hash: bytes | None = None
    global_account: str | None = None

    def to_bytes(self) -> bytes:
        """Bytes as kept in state."""
        if self.code_hash is not None:
            contract = b"\x01" + self.code_hash
        elif self.global_hash is not None:
            contract = b"\x02" + self.global_hash
        elif self.global_account is not None:
            contract = b"\x03" + encode_string(self.global_account)
        else:
            contract = b"\x00"
        return encode_u128(self.amount) + encode_u128(self.locked) + encode_u64(self.storage_usage) + contract

    @classmethod
    def from_bytes(cls, data: bytes) -> Account:
        """The record from its bytes in state."""
        reader = Reader(data)
        account = cls(reader.u128(), reader.u128(), reader.u64())
        kind = reader.u8()
        if kind == 1:
            account.code_hash = reader.take(32)
        elif kind == 2:
            account.global_hash = reader.take(32)
        elif kind == 3:
            account.global_account = reader.string()
        reader.end()
        return account


class Readable(Protocol):
    """Anything state can be read from."""

    def get(self, key: bytes) -> bytes | None:
        """The value, or None."""

    def keys(self, prefix: bytes) -> Iterator[bytes]:
        """Keys with the prefix, in byte order."""

    def path_nodes(self, key: bytes) -> int:
        """Trie nodes read to look the key up in committed state; 0 if it is decided above it."""


class State:
    """Committed state at the head of the chain."""

    def __init__(self, data: dict[bytes, bytes] | None = None) -> None:
        self._data = data if data is not None else {}
        self._trie = Trie()
        for key in self._data:
            self._trie.insert(key)

    def get(self, key: bytes) -> bytes | None:
        """The value, or None."""
        return self._data.get(key)

    def keys(self, prefix: bytes) -> Iterator[bytes]:
        """Keys with the prefix, in byte order."""
        return self._trie.keys(prefix)

    def path_nodes(self, key: bytes) -> int:
        """Trie nodes on the lookup path; reading an existing value counts as one more."""
        return self._trie.path_nodes(key) + (key in self._data)

    def undo_of(self, changes: Mapping[bytes, bytes | None]) -> dict[bytes, bytes | None]:
        """The values that these changes would replace by others; applying them undoes the changes."""
        current = ((key, value, self._data.get(key)) for key, value in changes.items())
        return {key: old for key, value, old in current if old != value}

    def apply(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Apply a block's changes."""
        for key, value in changes.items():
            if value is not None:
                self._data[key] = value
                self._trie.insert(key)
            elif self._data.pop(key, None) is not None:
                self._trie.remove(key)


class Overlay:
    """Changes on top of a parent, invisible to it until :meth:`commit`."""

    __slots__ = ("changes", "parent")

    def __init__(self, parent: Readable, changes: dict[bytes, bytes | None] | None = None) -> None:
        self.parent = parent
        self.changes: dict[bytes, bytes | None] = changes if changes is not None else {}

    def get(self, key: bytes) -> bytes | None:
        """The value, or None."""
        if key in self.changes:
            return self.changes[key]
        return self.parent.get(key)

    def set(self, key: bytes, value: bytes) -> None:
        """Write a value."""
        self.changes[key] = value

    def remove(self, key: bytes) -> None:
        """Remove a value."""
        self.changes[key] = None

    def keys(self, prefix: bytes) -> Iterator[bytes]:
        """Keys with the prefix, in byte order."""
        mine = {key: value is not None for key, value in self.changes.items() if key.startswith(prefix)}
        if not mine:
            return iter(list(self.parent.keys(prefix)))
        merged = {key for key in self.parent.keys(prefix) if key not in mine}
        merged.update(key for key, present in mine.items() if present)
        return iter(sorted(merged))

    def path_nodes(self, key: bytes) -> int:
        """Trie nodes on the lookup path; a key changed in this chunk is read from memory, for free."""
        return 0 if key in self.changes else self.parent.path_nodes(key)

    def commit(self) -> None:
        """Move the changes into the parent overlay."""
        if not isinstance(self.parent, Overlay):
            raise TypeError("only an overlay can take an overlay's changes")
        self.parent.changes.update(self.changes)
        self.changes = {}

    # -- typed access ------------------------------------------------------------------------------

    def account(self, account_id: str) -> Account | None:
        """The account record, a copy."""
        return get_account(self, account_id)

    def set_account(self, account_id: str, account: Account) -> None:
        """Write the account record."""
        self.set(account_key(account_id), account.to_bytes())

    def access_key(self, account_id: str, public_key: PublicKey) -> AccessKey | None:
        """One access key."""
        return get_access_key(self, account_id, public_key)

    def set_access_key(self, account_id: str, public_key: PublicKey, key: AccessKey) -> None:
        """Write one access key."""
        self.set(access_key_key(account_id, public_key), key.to_bytes())


def get_account(state: Readable, account_id: str) -> Account | None:
    """The account record, a copy."""
    data = state.get(account_key(account_id))
    return None if data is None else Account.from_bytes(data)


def get_access_key(state: Readable, account_id: str, public_key: PublicKey) -> AccessKey | None:
    """One access key."""
    data = state.get(access_key_key(account_id, public_key))
    return None if data is None else AccessKey.from_bytes(data)


def contract_code(state: Readable, account_id: str, account: Account) -> bytes | None:
    """The code the account runs: its own, or the global contract it points to."""
    if account.code_hash is not None:
        return state.get(code_key(account_id))
    if account.global_hash is not None or account.global_account is not None:
        return state.get(global_code_key(account.global_hash, account.global_account))
    return None


def access_key_storage(public_key: PublicKey, key: AccessKey) -> int:
    """Bytes an access key counts for: key, value and 40 for the record."""
    return len(public_key.to_bytes()) + len(key.to_bytes()) + NUM_EXTRA_BYTES_RECORD
