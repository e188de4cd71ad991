# SPDX-License-Identifier: MIT
"""Everything the chain keeps, in one SQLite database: one transaction per block.

The journal is a write-ahead log, so a block is either there whole or not at all after the process is
killed at any moment. All methods may be called from any thread; one lock serialises them.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from outlayer_localnet.blocks import Block
from outlayer_localnet.errors import StoreError
from outlayer_localnet.receipts import Receipt, decode_receipt, encode_receipt
from outlayer_localnet.runtime import Outcome
from outlayer_near.primitives import Reader, SignedTransaction, encode_u32, encode_vec

SCHEMA_VERSION = "1"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS state (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blocks (height INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, chunk BLOB NOT NULL UNIQUE,
  record BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS history (height INTEGER PRIMARY KEY, undo BLOB NOT NULL, changes BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS transactions (
  hash BLOB PRIMARY KEY, height INTEGER NOT NULL, signed BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS receipts (id BLOB PRIMARY KEY, height INTEGER NOT NULL, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outcomes (
  id BLOB PRIMARY KEY, height INTEGER NOT NULL, tx_hash BLOB NOT NULL, record TEXT NOT NULL) WITHOUT ROWID;
"""

Cause = tuple[dict[str, str], dict[bytes, "bytes | None"]]


@dataclass(slots=True)
class Commit:
    """What one block adds to the store."""

    block: Block
    changes: Mapping[bytes, bytes | None] = field(default_factory=dict)
    undo: Mapping[bytes, bytes | None] = field(default_factory=dict)
    causes: list[Cause] = field(default_factory=list)
    transactions: list[SignedTransaction] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    meta: dict[str, str] = field(default_factory=dict)
    forget_history_below: int = 0


K = TypeVar("K")
V = TypeVar("V")


class _Recent(Generic[K, V]):
    """The entries added last; what clients poll for is nearly always among them."""

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit
        self._entries: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        return self._entries.get(key)

    def put(self, key: K, value: V) -> None:
        self._entries[key] = value
        if len(self._entries) > self._limit:
            self._entries.pop(next(iter(self._entries)), None)

    def clear(self) -> None:
        self._entries.clear()


class Store:
    """The node's database, in a file or in memory (``path`` None)."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._blocks: _Recent[int, Block] = _Recent()
        self._transactions: _Recent[bytes, tuple[SignedTransaction, int]] = _Recent()
        self._receipts: _Recent[bytes, Receipt] = _Recent()
        self._outcomes: _Recent[bytes, tuple[Outcome, int]] = _Recent()
        try:
            self._db = sqlite3.connect(
                ":memory:" if path is None else path,
                check_same_thread=False,
                isolation_level=None,
                timeout=0.2,
            )
            # one node per state directory: the lock goes when the process does, however it ends
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise StoreError(
                f"cannot open the chain database {path}: {error}",
                hint="Check that the state directory is writable and not used by another node.",
            ) from error

    def close(self) -> None:
        """Close the database; what was committed stays."""
        with self._lock:
            self._db.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise StoreError(
                    f"cannot write to the chain database: {error}",
                    hint="Check the free space of the state directory.",
                ) from error

    def _row(self, sql: str, *args: object) -> tuple[Any, ...] | None:
        with self._lock:
            row = self._db.execute(sql, args).fetchone()
        return None if row is None else tuple(row)

    # -- writing -----------------------------------------------------------------------------------

    def commit(self, commit: Commit) -> None:
        """Write one block and all that belongs to it, atomically."""
        height = commit.block.height
        with self._transaction() as db:
            db.execute(
                "INSERT INTO blocks VALUES (?, ?, ?, ?)",
                (height, commit.block.hash, commit.block.chunk_hash, commit.block.to_bytes()),
            )
            self._write_state(db, commit.changes)
            if commit.undo or commit.causes:
                record = (height, _pack_changes(commit.undo), _pack_causes(commit.causes))
                db.execute("INSERT INTO history VALUES (?, ?, ?)", record)
            db.executemany(
                "INSERT INTO transactions VALUES (?, ?, ?)",
                [(tx.hash(), height, tx.to_bytes()) for tx in commit.transactions],
            )
            db.executemany(
                "INSERT INTO receipts VALUES (?, ?, ?)",
                [(r.receipt_id, height, encode_receipt(r)) for r in commit.receipts],
            )
            db.executemany(
                "INSERT INTO outcomes VALUES (?, ?, ?, ?)",
                [(o.id, height, o.tx_hash, _pack_outcome(o)) for o in commit.outcomes],
            )
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(commit.meta.items()))
            if commit.forget_history_below > 0:
                db.execute("DELETE FROM history WHERE height < ?", (commit.forget_history_below,))
        self._remember(commit)

    def _remember(self, commit: Commit) -> None:
        height = commit.block.height
        with self._lock:
            self._blocks.put(height, commit.block)
            for signed in commit.transactions:
                self._transactions.put(signed.hash(), (signed, height))
            for receipt in commit.receipts:
                self._receipts.put(receipt.receipt_id, receipt)
            for outcome in commit.outcomes:
                self._outcomes.put(outcome.id, (outcome, height))

    def _write_state(self, db: sqlite3.Connection, changes: Mapping[bytes, bytes | None]) -> None:
        db.executemany(
            "INSERT OR REPLACE INTO state VALUES (?, ?)",
            [(key, value) for key, value in changes.items() if value is not None],
        )
        db.executemany(
            "DELETE FROM state WHERE key = ?", [(key,) for key, value in changes.items() if value is None]
        )

    def set_meta(self, values: Mapping[str, str]) -> None:
        """Write settings outside a block."""
        with self._transaction() as db:
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(values.items()))

    # -- reading -----------------------------------------------------------------------------------

    def meta(self, name: str) -> str | None:
        """A setting."""
        row = self._row("SELECT value FROM meta WHERE name = ?", name)
        return None if row is None else str(row[0])

    def state(self) -> dict[bytes, bytes]:
        """The whole committed state."""
        with self._lock:
            return dict(self._db.execute("SELECT key, value FROM state").fetchall())

    def head(self) -> Block | None:
        """The last committed block."""
        return self._block("SELECT record FROM blocks ORDER BY height DESC LIMIT 1")

    def block_by_height(self, height: int) -> Block | None:
        """The block at this height, None where there is none."""
        known = self._blocks.get(height)
        return known or self._block("SELECT record FROM blocks WHERE height = ?", height)

    def block_by_hash(self, block_hash: bytes) -> Block | None:
        """The block with this hash."""
        return self._block("SELECT record FROM blocks WHERE hash = ?", block_hash)

    def block_by_chunk(self, chunk_hash: bytes) -> Block | None:
        """The block with this chunk."""
        return self._block("SELECT record FROM blocks WHERE chunk = ?", chunk_hash)

    def first_height(self) -> int:
        """Height of the oldest block."""
        row = self._row("SELECT MIN(height) FROM blocks")
        return int(row[0]) if row is not None and row[0] is not None else 0

    def block_from(self, height: int) -> Block | None:
        """The first block at this height or above."""
        return self._block("SELECT record FROM blocks WHERE height >= ? ORDER BY height LIMIT 1", height)

    def _block(self, sql: str, *args: object) -> Block | None:
        row = self._row(sql, *args)
        return None if row is None else Block.from_bytes(row[0])

    def transaction(self, tx_hash: bytes) -> tuple[SignedTransaction, int] | None:
        """A transaction and the height of its block."""
        known = self._transactions.get(tx_hash)
        if known is not None:
            return known
        row = self._row("SELECT signed, height FROM transactions WHERE hash = ?", tx_hash)
        return None if row is None else (SignedTransaction.from_bytes(row[0]), int(row[1]))

    def receipt(self, receipt_id: bytes) -> Receipt | None:
        """A receipt that was ever made."""
        known = self._receipts.get(receipt_id)
        if known is not None:
            return known
        row = self._row("SELECT record FROM receipts WHERE id = ?", receipt_id)
        return None if row is None else decode_receipt(row[0])

    def outcome(self, outcome_id: bytes) -> tuple[Outcome, int] | None:
        """The outcome of a transaction or receipt, and the height at which it ran."""
        known = self._outcomes.get(outcome_id)
        if known is not None:
            return known
        row = self._row("SELECT record, height FROM outcomes WHERE id = ?", outcome_id)
        return None if row is None else (_unpack_outcome(row[0]), int(row[1]))

    def undo_since(self, height: int) -> dict[bytes, bytes | None]:
        """Values as they were at the end of block ``height``, for every key changed since."""
        changes: dict[bytes, bytes | None] = {}
        with self._lock:
            rows = self._db.execute(
                "SELECT undo FROM history WHERE height > ? ORDER BY height DESC", (height,)
            ).fetchall()
        for (blob,) in rows:
            changes.update(_unpack_changes(blob))
        return changes

    def causes(self, height: int) -> list[Cause]:
        """What changed state in a block, and how; empty once the block's history is forgotten."""
        row = self._row("SELECT changes FROM history WHERE height = ?", height)
        return [] if row is None else _unpack_causes(row[0])

    # -- snapshots ---------------------------------------------------------------------------------

    def copy(self) -> Store:
        """A copy in memory."""
        other = Store(None)
        with self._lock:
            self._db.backup(other._db)
        return other

    def copy_from(self, other: Store) -> None:
        """Become a copy of another store."""
        with self._lock, other._lock:
            other._db.backup(self._db)
            for recent in (self._blocks, self._transactions, self._receipts, self._outcomes):
                recent.clear()


# -- record forms ----------------------------------------------------------------------------------


def _pack_changes(changes: Mapping[bytes, bytes | None]) -> bytes:
    parts = [encode_u32(len(changes))]
    for key, value in changes.items():
        parts += [encode_vec(key), b"\x00" if value is None else b"\x01" + encode_vec(value)]
    return b"".join(parts)


def _read_changes(reader: Reader) -> dict[bytes, bytes | None]:
    return dict(reader.vec(lambda: (reader.data(), reader.option(reader.data))))


def _unpack_changes(data: bytes) -> dict[bytes, bytes | None]:
    return _read_changes(Reader(data))


def _pack_causes(causes: Iterable[Cause]) -> bytes:
    items = [
        encode_vec(json.dumps(cause, sort_keys=True).encode()) + _pack_changes(changes)
        for cause, changes in causes
    ]
    return encode_u32(len(items)) + b"".join(items)


def _unpack_causes(data: bytes) -> list[Cause]:
    reader = Reader(data)
    return list(reader.vec(lambda: (json.loads(reader.data()), _read_changes(reader))))


def _pack_outcome(outcome: Outcome) -> str:
    body = {
        "id": outcome.id.hex(),
        "executor_id": outcome.executor_id,
        "status": outcome.status,
        "gas_burnt": outcome.gas_burnt,
        "tokens_burnt": outcome.tokens_burnt,
        "logs": outcome.logs,
        "receipt_ids": [receipt_id.hex() for receipt_id in outcome.receipt_ids],
        "profile": outcome.profile,
        "tx_hash": outcome.tx_hash.hex(),
    }
    return json.dumps(body, separators=(",", ":"))


def _unpack_outcome(text: str) -> Outcome:
    body = json.loads(text)
    body["id"] = bytes.fromhex(body["id"])
    body["tx_hash"] = bytes.fromhex(body["tx_hash"])
    body["receipt_ids"] = [bytes.fromhex(item) for item in body["receipt_ids"]]
    return Outcome(**body)
