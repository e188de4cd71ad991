# SPDX-License-Identifier: MIT
"""The chain: pending transactions in, blocks out, and everything that was ever true about them.

Threads: one thread at a time makes blocks and runs view calls (the caller sees to that); any thread may
submit transactions and look things up. ``lock`` guards what both sides touch and is never held while a
contract runs.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import structlog

from outlayer_localnet.admission import InvalidTxError, charge_transaction, check_transaction
from outlayer_localnet.blocks import ZERO_HASH, Block, next_gas_price
from outlayer_localnet.context import BlockContext
from outlayer_localnet.errors import ChainError, StoreError
from outlayer_localnet.genesis import DATABASE_FILE, write_genesis
from outlayer_localnet.params import Params, load
from outlayer_localnet.receipts import Receipt
from outlayer_localnet.runtime import ChunkResult, Outcome, Runtime, yield_indices, yield_timeout
from outlayer_localnet.state import (
    Overlay,
    Readable,
    State,
    yield_receipt_key,
)
from outlayer_localnet.store import SCHEMA_VERSION, Commit, Store
from outlayer_near.primitives import PublicKey, SignedTransaction

log = structlog.get_logger()

EPOCH_LENGTH = 43_200
MAX_TRANSACTIONS_PER_BLOCK = 500
VIEW_GAS = 3 * 10**14


class UnknownAccountError(ChainError):
    """A query names an account that does not exist."""

    def __init__(self, account_id: str) -> None:
        super().__init__(f"account {account_id} does not exist while viewing")
        self.account_id = account_id


class UnknownBlockError(ChainError):
    """A query names a block that does not exist (yet)."""


class ForgottenBlockError(ChainError):
    """A query names a block whose state is no longer kept."""


class NoContractError(ChainError):
    """A query asks for the code of an account that has none."""


@dataclass(frozen=True, slots=True)
class ChainConfig:
    """How a chain is made and kept. ``block_interval`` and ``min_yield_seconds`` are in seconds.

    ``min_yield_seconds`` is the wall time that a yield is sure to have before its 200 blocks are over:
    when traffic would use them up faster, blocks are made less often and hold more.
    """

    chain_id: str = "localnet"
    protocol_version: int = 86
    block_interval: float = 0.6
    history_blocks: int = 20_000
    min_yield_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class CallResult:
    """A view call's result: bytes and logs, or nearcore's Debug text of what went wrong."""

    value: bytes
    logs: list[str]
    error: str | None = None


class Chain:
    """A NEAR chain of one shard. Open with :meth:`open`; time is ``clock()`` ns plus a stored offset."""

    def __init__(
        self,
        store: Store,
        config: ChainConfig,
        genesis_key: PublicKey,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.config = config
        self.params: Params = load(config.protocol_version)
        self.lock = threading.RLock()
        self._store = store
        self._clock = clock
        self._genesis_key = genesis_key
        self._pool: OrderedDict[bytes, SignedTransaction] = OrderedDict()
        self._rejected: OrderedDict[bytes, InvalidTxError] = OrderedDict()
        self._snapshots: dict[str, Store] = {}
        self.state = State()
        self.head: Block
        self._incoming: list[Receipt] = []
        self._delayed: list[Receipt] = []
        self._time_offset = 0
        self._first_live_yield = 0
        self._load()

    @classmethod
    def open(
        cls,
        folder: Path | None,
        genesis_key: PublicKey,
        config: ChainConfig | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> Chain:
        """The chain kept in ``folder`` (None: in memory), continued from its last block."""
        store = Store(None if folder is None else folder / DATABASE_FILE)
        return cls(store, config or ChainConfig(), genesis_key, clock)

    def close(self) -> None:
        """Close the store; nothing is lost."""
        self._store.close()

    # -- start and restart -------------------------------------------------------------------------

    def _load(self) -> None:
        head = self._store.head()
        if head is None:
            self._begin()
            return
        chain_id, version = self._store.meta("chain_id"), self._store.meta("schema")
        if chain_id != self.config.chain_id or version != SCHEMA_VERSION:
            raise StoreError(
                f"the state directory holds chain {chain_id!r} (format {version}), "
                f"not {self.config.chain_id!r} (format {SCHEMA_VERSION})",
                hint="Use another state directory or another chain id.",
            )
        key = self._store.meta("genesis_key")
        if key is not None and key != str(self._genesis_key):
            raise StoreError(
                "the genesis key does not belong to the chain in this state directory",
                hint="Restore its genesis_key.json, or begin with an empty state directory.",
            )
        self.head = head
        self.state = State(self._store.state())
        queues = json.loads(self._store.meta("queues") or '{"incoming":[],"delayed":[]}')
        self._incoming = self._stored_receipts(queues["incoming"])
        self._delayed = self._stored_receipts(queues["delayed"])
        self._time_offset = int(self._store.meta("time_offset") or 0)
        self._first_live_yield = 0

    def _stored_receipts(self, ids: Iterable[str]) -> list[Receipt]:
        receipts = []
        for receipt_id in ids:
            receipt = self._store.receipt(bytes.fromhex(receipt_id))
            if receipt is None:
                raise StoreError("a queued receipt is missing", hint="The state directory is damaged.")
            receipts.append(receipt)
        return receipts

    def _begin(self) -> None:
        overlay = Overlay(self.state)
        supply = write_genesis(overlay, self._genesis_key, self.params)
        undo = self.state.undo_of(overlay.changes)
        self.state.apply(overlay.changes)
        root = _next_root(ZERO_HASH, undo, overlay.changes)
        self.head = Block(
            height=0,
            prev_height=0,
            prev_hash=ZERO_HASH,
            timestamp=self._clock(),
            gas_price=self.params.min_gas_price,
            total_supply=supply,
            state_root=root,
            prev_state_root=ZERO_HASH,
            random_value=hashlib.sha256(self.config.chain_id.encode()).digest(),
            ordinal=1,
        ).sealed()
        meta = {
            "chain_id": self.config.chain_id,
            "schema": SCHEMA_VERSION,
            "genesis_key": str(self._genesis_key),
            "time_offset": "0",
        }
        self._store.commit(Commit(self.head, overlay.changes, meta=meta))

    # -- transactions in ---------------------------------------------------------------------------

    def decode(self, data: bytes) -> SignedTransaction:
        """A signed transaction from its bytes; CodecError if they are not one."""
        return SignedTransaction.from_bytes(data)

    def submit(self, signed: SignedTransaction, size: int) -> bytes:
        """Check a transaction against the head and queue it; returns its hash.

        One that is queued or on the chain already is not an error. Raises :class:`InvalidTxError`.
        """
        tx_hash = signed.hash()
        with self.lock:
            if tx_hash in self._pool or self._store.transaction(tx_hash) is not None:
                return tx_hash
            ctx = self._context(self._next_time())
            self._check_block_hash(signed, ctx.height)
            check_transaction(signed, size, ctx)
            charge_transaction(Overlay(self.state), signed, ctx)
            self._rejected.pop(tx_hash, None)
            self._pool[tx_hash] = signed
        return tx_hash

    def _check_block_hash(self, signed: SignedTransaction, height: int) -> None:
        base = self._store.block_by_hash(signed.transaction.block_hash)
        if base is None or height - base.height > self.params.transaction_validity_period:
            raise InvalidTxError("Expired")

    def _next_transactions(self) -> list[SignedTransaction]:
        """Transactions for the next block: in order of arrival, but by nonce within one key.

        They stay in the pool until the block is committed, so that they can be found all the time.
        """
        with self.lock:
            taken = list(itertools.islice(self._pool.values(), MAX_TRANSACTIONS_PER_BLOCK))
        by_key: dict[tuple[str, PublicKey], list[SignedTransaction]] = {}
        for signed in taken:
            by_key.setdefault(_key_of(signed), []).append(signed)
        in_order = {
            key: iter(sorted(queue, key=lambda signed: signed.transaction.nonce))
            for key, queue in by_key.items()
        }
        return [next(in_order[_key_of(signed)]) for signed in taken]

    # -- blocks out --------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Whether a block made now would do anything."""
        return bool(self._pool or self._incoming or self._delayed)

    def _next_time(self) -> int:
        return max(self.head.timestamp + 1, self._clock() + self._time_offset)

    def _context(self, timestamp: int, height: int | None = None) -> BlockContext:
        height = self.head.height + 1 if height is None else height
        seed = b"outlayer-localnet/random\0" + self.head.hash + height.to_bytes(8, "little")
        return BlockContext(
            params=self.params,
            height=height,
            timestamp=timestamp,
            gas_price=self.head.gas_price,
            random_value=hashlib.sha256(seed).digest(),
            epoch_height=height // EPOCH_LENGTH,
            chain_id=self.config.chain_id,
        )

    def produce_block(self, height: int | None = None) -> Block:
        """Make and commit the next block, at ``height`` if given (heights between stay empty)."""
        ctx = self._context(self._next_time(), height)
        transactions = self._next_transactions()
        incoming, delayed = self._incoming, self._delayed
        runtime = Runtime(self.state, ctx)
        result = runtime.apply(transactions, delayed, incoming)
        self._commit(ctx, runtime, result, incoming)
        return self.head

    def _commit(
        self, ctx: BlockContext, runtime: Runtime, result: ChunkResult, incoming: list[Receipt]
    ) -> None:
        changes = runtime.block.changes
        executed = tuple(outcome.id for outcome, receipt in result.outcomes if receipt is not None)
        with self.lock:
            undo = self.state.undo_of(changes)
            block = Block(
                height=ctx.height,
                prev_height=self.head.height,
                prev_hash=self.head.hash,
                timestamp=ctx.timestamp,
                gas_price=next_gas_price(self.head.gas_price, result.gas_used, self.params),
                total_supply=self.head.total_supply - result.balance_burnt,
                state_root=_next_root(self.head.state_root, undo, changes),
                prev_state_root=self.head.state_root,
                random_value=ctx.random_value,
                ordinal=self.head.ordinal + 1,
                gas_used=result.gas_used,
                balance_burnt=result.balance_burnt,
                transactions=tuple(signed.hash() for signed in result.accepted),
                incoming=tuple(receipt.receipt_id for receipt in incoming),
                local=tuple(receipt.receipt_id for receipt in result.local),
                executed=executed,
            ).sealed()
            self._store.commit(
                Commit(
                    block=block,
                    changes={key: changes[key] for key in undo},
                    undo=undo,
                    causes=result.causes,
                    transactions=result.accepted,
                    receipts=result.new_receipts,
                    outcomes=[outcome for outcome, _ in result.outcomes],
                    meta=self._queues_meta(result),
                    forget_history_below=self._forget_below(block.height),
                )
            )
            # only what is stored safely becomes true in memory
            self.state.apply({key: changes[key] for key in undo})
            self.head = block
            self._incoming, self._delayed = result.outgoing, result.delayed
            for tx_hash in block.transactions:
                self._pool.pop(tx_hash, None)
            for tx_hash, error in result.rejected:
                self._pool.pop(tx_hash, None)
                self._rejected[tx_hash] = error
                if len(self._rejected) > 10_000:
                    self._rejected.popitem(last=False)

    def _queues_meta(self, result: ChunkResult) -> dict[str, str]:
        if not (result.outgoing or result.delayed or self._incoming or self._delayed):
            return {}
        queues = {
            "incoming": [receipt.receipt_id.hex() for receipt in result.outgoing],
            "delayed": [receipt.receipt_id.hex() for receipt in result.delayed],
        }
        return {"queues": json.dumps(queues)}

    def _forget_below(self, height: int) -> int:
        # now and then is enough: history may be a little longer than asked for
        return height - self.config.history_blocks if height % 100 == 0 else 0

    def fast_forward(self, delta: int) -> Block:
        """Jump ``delta`` heights ahead, time with them; the block there handles all expired yields."""
        if not 0 < delta <= 10**9:
            raise ChainError(f"cannot skip {delta} blocks", hint="Give a number from 1 to 1,000,000,000.")
        self._advance(delta * round(self.config.block_interval * 1e9))
        return self.produce_block(self.head.height + delta)

    def shift_time(self, delta_seconds: float) -> Block:
        """Move the chain's clock ahead (or a later shift back; block times never go backwards)."""
        self._advance(round(delta_seconds * 1e9))
        return self.produce_block()

    def _advance(self, delta_ns: int) -> None:
        with self.lock:
            self._time_offset += delta_ns
            self._store.set_meta({"time_offset": str(self._time_offset)})

    def block_delay(self) -> float:
        """Seconds to wait before a block with work, so that no yield runs out of blocks too early.

        Half of a yield's blocks may pass at any rate; the rest are spread over what remains of
        ``min_yield_seconds``.
        """
        oldest = self._oldest_yield()
        if oldest is None:
            return 0.0
        expires_at, created_ns = oldest
        timeout = self.params.limits.yield_timeout_length_in_blocks
        remaining = expires_at - self.head.height
        if remaining <= 0 or remaining > timeout // 2:
            return 0.0
        age = (self._clock() + self._time_offset - created_ns) / 1e9
        return min(max(0.0, self.config.min_yield_seconds - age) / remaining, 2 * self.config.block_interval)

    def _oldest_yield(self) -> tuple[int, int] | None:
        first, following = yield_indices(self.state)
        index = max(first, self._first_live_yield)
        while index < following:
            entry = yield_timeout(self.state, index)
            if entry is not None:
                waiting = self.state.get(yield_receipt_key(entry.account_id, entry.data_id))
                if waiting is not None:
                    self._first_live_yield = index
                    created = entry.expires_at - self.params.limits.yield_timeout_length_in_blocks
                    block = self._store.block_from(created) or self.head
                    return entry.expires_at, block.timestamp
            index += 1
        self._first_live_yield = index
        return None

    def patch(self, changes: dict[bytes, bytes | None]) -> Block:
        """Write state directly, in a block of its own; for tests."""
        ctx = self._context(self._next_time())
        runtime = Runtime(self.state, ctx)
        runtime.block.changes.update(changes)
        result = runtime.apply([], self._delayed, self._incoming)
        self._commit(ctx, runtime, result, self._incoming)
        return self.head

    # -- looking things up -------------------------------------------------------------------------

    def block(self, reference: int | bytes) -> Block:
        """A block by height or hash; raises :class:`UnknownBlockError`."""
        if isinstance(reference, bytes):
            found = self._store.block_by_hash(reference)
        elif reference == self.head.height:
            found = self.head
        elif 0 <= reference < 1 << 63:
            found = self._store.block_by_height(reference)
        else:
            found = None
        if found is None:
            raise UnknownBlockError(f"DB Not Found Error: BLOCK: {reference!r}")
        return found

    def first_block(self) -> Block:
        """The oldest block kept, genesis."""
        return self.block(self._store.first_height())

    def state_at(self, block: Block) -> Readable:
        """State after a block; raises :class:`ForgottenBlockError` beyond the history kept."""
        if block.height == self.head.height:
            return self.state
        if block.height < self.head.height - self.config.history_blocks:
            raise ForgottenBlockError(f"the state of block #{block.height} is no longer kept")
        return Overlay(self.state, self._store.undo_since(block.height))

    def transaction(self, tx_hash: bytes) -> tuple[SignedTransaction, int | None] | None:
        """A transaction and the height of its block, None while it is pending."""
        with self.lock:
            pending = self._pool.get(tx_hash)
        if pending is not None:
            return pending, None
        return self._store.transaction(tx_hash)

    def rejection(self, tx_hash: bytes) -> InvalidTxError | None:
        """Why a queued transaction did not make it into a block."""
        return self._rejected.get(tx_hash)

    def outcome(self, outcome_id: bytes) -> tuple[Outcome, int] | None:
        """An outcome and the height at which it came about."""
        return self._store.outcome(outcome_id)

    def receipt(self, receipt_id: bytes) -> Receipt | None:
        """A receipt that was ever made."""
        return self._store.receipt(receipt_id)

    def receipts_by_id(self, ids: Iterable[bytes]) -> list[Receipt]:
        """Receipts in the order of their ids."""
        found = (self.receipt(receipt_id) for receipt_id in ids)
        return [receipt for receipt in found if receipt is not None]

    def transactions_of(self, block: Block) -> list[SignedTransaction]:
        """The transactions of a block, in order."""
        found = (self._store.transaction(tx_hash) for tx_hash in block.transactions)
        return [pair[0] for pair in found if pair is not None]

    def block_of_chunk(self, chunk_hash: bytes) -> Block | None:
        """The block with this chunk."""
        return self._store.block_by_chunk(chunk_hash)

    def causes(self, height: int) -> list[tuple[dict[str, str], dict[bytes, bytes | None]]]:
        """What changed state in a block, in order."""
        return self._store.causes(height)

    # -- view calls --------------------------------------------------------------------------------

    def view_call(self, account_id: str, method: str, args: bytes, block: Block) -> CallResult:
        """Run a method without effects, on the state after ``block``."""
        from outlayer_localnet.viewcall import run_view

        return run_view(self, account_id, method, args, block)

    # -- snapshots ---------------------------------------------------------------------------------

    def snapshot(self, name: str) -> None:
        """Keep a copy of everything, in memory, under a name."""
        with self.lock:
            old = self._snapshots.pop(name, None)
            if old is not None:
                old.close()
            self._snapshots[name] = self._store.copy()

    def restore(self, name: str) -> Block:
        """Go back to a snapshot; later blocks never happened. Raises :class:`ChainError`."""
        with self.lock:
            saved = self._snapshots.get(name)
            if saved is None:
                known = ", ".join(sorted(self._snapshots)) or "none"
                raise ChainError(f"there is no snapshot {name!r}", hint=f"Snapshots: {known}.")
            self._store.copy_from(saved)
            self._pool.clear()
            self._rejected.clear()
            self._load()
            return self.head


def _key_of(signed: SignedTransaction) -> tuple[str, PublicKey]:
    """What has one sequence of nonces."""
    return signed.transaction.signer_id, signed.transaction.public_key


def _next_root(previous: bytes, undo: dict[bytes, bytes | None], changes: dict[bytes, bytes | None]) -> bytes:
    """A commitment to state as a hash chain over what changed; unchanged if nothing did."""
    if not undo:
        return previous
    digest = hashlib.sha256(previous)
    for key in sorted(undo):
        value = changes[key]
        digest.update(len(key).to_bytes(4, "little") + key)
        digest.update(b"\x00" if value is None else b"\x01" + hashlib.sha256(value).digest())
    return digest.digest()
