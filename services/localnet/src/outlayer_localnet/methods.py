# SPDX-License-Identifier: MIT
"""The JSON-RPC methods: parameters in, neard's JSON out (near.md §4)."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Awaitable, Callable
from importlib import metadata
from typing import Any

from outlayer_localnet import rpcparams as read
from outlayer_localnet import views
from outlayer_localnet.admission import InvalidTxError
from outlayer_localnet.blocks import Block
from outlayer_localnet.chain import EPOCH_LENGTH, Chain, ForgottenBlockError, UnknownBlockError
from outlayer_localnet.errors import ChainError
from outlayer_localnet.node import Node
from outlayer_localnet.patch import patch_state
from outlayer_localnet.queries import run_query
from outlayer_localnet.rpcerrors import (
    RpcError,
    handler_error,
    internal_error,
    invalid_transaction,
    method_not_found,
    parse_error,
    timeout_error,
)
from outlayer_localnet.statechanges import changes_view, touched_view
from outlayer_localnet.txstatus import EXECUTED_OPTIMISTIC, WAIT_LEVELS, TxStatus, load_status, to_json
from outlayer_near.primitives import CodecError, PublicKey, b58encode

Json = Any
Handler = Callable[[Any], Awaitable[Json]]

VALIDATOR_ID = views.VALIDATOR_ID


class Methods:
    """All methods of one node; ``wait_seconds`` bounds how long a transaction's outcome is awaited."""

    def __init__(self, node: Node, rpc_address: str, *, wait_seconds: float = 10.0) -> None:
        self._node = node
        self._address = rpc_address
        self._wait_seconds = wait_seconds
        self._validator_key = str(PublicKey(0, hashlib.sha256(b"outlayer-localnet/validator").digest()))
        handlers: dict[str, Handler] = {
            "status": self.status,
            "block": self.block,
            "chunk": self.chunk,
            "query": self.query,
            "broadcast_tx_async": self.broadcast_tx_async,
            "broadcast_tx_commit": self.broadcast_tx_commit,
            "send_tx": self.send_tx,
            "tx": self.tx,
            "EXPERIMENTAL_tx_status": self.tx_status,
            "EXPERIMENTAL_receipt": self.receipt,
            "gas_price": self.gas_price,
            "validators": self.validators,
            "changes": self.changes,
            "EXPERIMENTAL_changes": self.changes,
            "block_effects": self.changes_in_block,
            "EXPERIMENTAL_changes_in_block": self.changes_in_block,
            "genesis_config": self.genesis_config,
            "EXPERIMENTAL_genesis_config": self.genesis_config,
            "EXPERIMENTAL_protocol_config": self.protocol_config,
            "health": self.health,
            "network_info": self.network_info,
            "client_config": self.client_config,
            "maintenance_windows": self.maintenance_windows,
            "EXPERIMENTAL_maintenance_windows": self.maintenance_windows,
            "sandbox_patch_state": self.sandbox_patch_state,
            "sandbox_fast_forward": self.sandbox_fast_forward,
            "localnet_snapshot": self.localnet_snapshot,
            "localnet_restore": self.localnet_restore,
            "localnet_set_time": self.localnet_set_time,
        }
        self._handlers = handlers

    @property
    def _chain(self) -> Chain:
        return self._node.chain

    async def call(self, method: str, params: Any) -> Json:
        """Run a method; every failure is a :class:`RpcError`."""
        handler = self._handlers.get(method)
        if handler is None:
            raise method_not_found(method)
        try:
            return await handler(params)
        except CodecError as error:
            raise parse_error(f"Failed parsing args: {error.message}") from error
        except InvalidTxError as error:
            raise invalid_transaction(error.detail) from error
        except UnknownBlockError as error:
            raise handler_error("UNKNOWN_BLOCK", error.message, status=422) from error
        except ForgottenBlockError as error:
            raise handler_error("GARBAGE_COLLECTED_BLOCK", error.message) from error
        except ChainError as error:
            raise handler_error("LOCALNET_ERROR", f"{error.message}. {error.hint}".strip()) from error

    def find_block(self, reference: int | bytes | str) -> Block:
        """The block a reference names."""
        if isinstance(reference, str):
            return self._chain.first_block() if reference == "genesis" else self._chain.head
        return self._chain.block(reference)

    # -- node and blocks ---------------------------------------------------------------------------

    async def status(self, _: Any) -> Json:
        """Node status."""
        chain = self._chain
        head, first = chain.head, chain.first_block()
        version = metadata.version("outlayer-localnet")
        protocol = chain.config.protocol_version
        return {
            "version": {"version": version, "build": "outlayer-localnet", "commit": "", "rustc_version": ""},
            "chain_id": chain.config.chain_id,
            "protocol_version": protocol,
            "latest_protocol_version": protocol,
            "rpc_addr": self._address,
            "validators": [{"account_id": VALIDATOR_ID}],
            "sync_info": {
                "latest_block_hash": b58encode(head.hash),
                "latest_block_height": head.height,
                "latest_state_root": b58encode(head.state_root),
                "latest_block_time": views.iso_time(head.timestamp),
                "syncing": False,
                "earliest_block_hash": b58encode(first.hash),
                "earliest_block_height": first.height,
                "earliest_block_time": views.iso_time(first.timestamp),
                "epoch_id": b58encode(views.epoch_id(head.height, EPOCH_LENGTH)),
                "epoch_start_height": head.height // EPOCH_LENGTH * EPOCH_LENGTH,
            },
            "validator_account_id": VALIDATOR_ID,
            "validator_public_key": self._validator_key,
            "node_public_key": self._validator_key,
            "node_key": None,
            "uptime_sec": int(time.time() - self._node.started_at),
            "genesis_hash": b58encode(first.hash),
            "detailed_debug_status": None,
        }

    async def health(self, _: Any) -> Json:
        """Whether blocks are being made."""
        if self._node.failure is not None:
            raise handler_error("NO_NEW_BLOCKS", "block production failed")
        return None

    def block_view(self, block: Block) -> Json:
        """BlockView."""
        header = views.block_header(
            block, epoch_length=EPOCH_LENGTH, protocol_version=self._chain.config.protocol_version
        )
        return {"author": VALIDATOR_ID, "header": header, "chunks": [self.chunk_header(block)]}

    def chunk_header(self, block: Block) -> Json:
        """ChunkHeaderView of a block's chunk."""
        return views.chunk_header(block, gas_limit=self._chain.params.gas_limit)

    async def block(self, params: Any) -> Json:
        """A block with its header."""
        return self.block_view(self.find_block(read.block_reference(read.as_object(params, "block_id"))))

    async def chunk(self, params: Any) -> Json:
        """A chunk with its transactions and incoming receipts."""
        chain = self._chain
        if isinstance(params, list) and len(params) == 1 and isinstance(params[0], list):
            params = dict(zip(("block_id", "shard_id"), params[0], strict=False))
        fields = read.as_object(params, "chunk_id")
        if "block_id" in fields:
            block = chain.block(read.block_id(fields["block_id"]))
            if fields.get("shard_id", 0) != 0:
                raise handler_error("INVALID_SHARD_ID", f"Shard id {fields['shard_id']} does not exist")
        else:
            wanted = read.hash32(fields.get("chunk_id", fields.get("chunk_hash")))
            found = chain.block_of_chunk(wanted)
            if found is None:
                body = {"chunk_hash": b58encode(wanted)}
                raise handler_error("UNKNOWN_CHUNK", f"ChunkMissing: {b58encode(wanted)}", body, status=422)
            block = found
        return {
            "author": VALIDATOR_ID,
            "header": self.chunk_header(block),
            "transactions": [views.transaction(s) for s in chain.transactions_of(block)],
            "receipts": [views.receipt(r) for r in chain.receipts_by_id(block.incoming)],
        }

    async def gas_price(self, params: Any) -> Json:
        """The gas price after a block."""
        fields = read.as_object(params, "block_id")
        return {"gas_price": str(self.find_block(read.block_reference(fields)).gas_price)}

    async def validators(self, _: Any) -> Json:
        """The only validator."""
        head = self._chain.head
        epoch = head.height // EPOCH_LENGTH
        validator = {
            "account_id": VALIDATOR_ID,
            "public_key": self._validator_key,
            "stake": "0",
            "shards": [0],
        }
        produced = {
            "is_slashed": False,
            "num_produced_blocks": head.height - epoch * EPOCH_LENGTH,
            "num_expected_blocks": head.height - epoch * EPOCH_LENGTH,
            "num_produced_chunks": head.height - epoch * EPOCH_LENGTH,
            "num_expected_chunks": head.height - epoch * EPOCH_LENGTH,
            "num_produced_chunks_per_shard": [head.height - epoch * EPOCH_LENGTH],
            "num_expected_chunks_per_shard": [head.height - epoch * EPOCH_LENGTH],
            "num_produced_endorsements": 0,
            "num_expected_endorsements": 0,
            "num_produced_endorsements_per_shard": [0],
            "num_expected_endorsements_per_shard": [0],
            "shards_endorsed": [0],
        }
        return {
            "current_validators": [validator | produced],
            "next_validators": [validator],
            "current_fishermen": [],
            "next_fishermen": [],
            "current_proposals": [],
            "prev_epoch_kickout": [],
            "epoch_start_height": epoch * EPOCH_LENGTH,
            "epoch_height": epoch,
        }

    # -- state -------------------------------------------------------------------------------------

    async def query(self, params: Any) -> Json:
        """Accounts, keys, code, contract state and view calls."""
        fields = read.legacy_query(params)
        block = self.find_block(read.block_reference(fields))
        return await run_query(self._node, fields, block)

    async def changes(self, params: Any) -> Json:
        """State changes of one block."""
        fields = read.as_object(params)
        block = self.find_block(read.block_reference(fields))
        return {
            "block_hash": b58encode(block.hash),
            "changes": changes_view(self._chain.causes(block.height), fields),
        }

    async def changes_in_block(self, params: Any) -> Json:
        """Which accounts a block touched."""
        block = self.find_block(read.block_reference(read.as_object(params)))
        return {
            "block_hash": b58encode(block.hash),
            "changes": touched_view(self._chain.causes(block.height)),
        }

    async def receipt(self, params: Any) -> Json:
        """A receipt by its id."""
        receipt_id = read.hash32(read.as_object(params, "receipt_id").get("receipt_id"))
        found = self._chain.receipt(receipt_id)
        if found is None:
            name = b58encode(receipt_id)
            raise handler_error(
                "UNKNOWN_RECEIPT", f"Receipt with id {name} has never been observed", {"receipt_id": name}
            )
        return views.receipt(found)

    # -- transactions ------------------------------------------------------------------------------

    async def broadcast_tx_async(self, params: Any) -> Json:
        """Queue a transaction; answers its hash. Unlike neard it says at once if it is invalid."""
        return b58encode(self._submit(read.as_object(params, "signed_tx_base64")))

    async def broadcast_tx_commit(self, params: Any) -> Json:
        """Queue a transaction and wait until its receipts have run, refunds excepted."""
        fields = read.as_object(params, "signed_tx_base64")
        return await self._outcome(self._submit(fields), EXECUTED_OPTIMISTIC)

    async def send_tx(self, params: Any) -> Json:
        """Queue a transaction and wait as long as asked."""
        fields = read.as_object(params, "signed_tx_base64", "wait_until")
        wait_until = self._wait_level(fields)
        return await self._outcome(self._submit(fields), wait_until)

    async def tx(self, params: Any) -> Json:
        """The outcome of a transaction."""
        return await self._tx(params, with_receipts=False)

    async def tx_status(self, params: Any) -> Json:
        """The outcome of a transaction with its receipts."""
        return await self._tx(params, with_receipts=True)

    async def _tx(self, params: Any, *, with_receipts: bool) -> Json:
        fields = read.as_object(params, "tx_hash", "sender_account_id")
        wait_until = self._wait_level(fields)
        if "signed_tx_base64" in fields:
            data = read.from_base64(fields["signed_tx_base64"], "signed_tx_base64")
            tx_hash = self._chain.decode(data).hash()
        else:
            tx_hash = read.hash32(fields.get("tx_hash"))
        return await self._outcome(tx_hash, wait_until, with_receipts=with_receipts)

    def _wait_level(self, fields: dict[str, Any]) -> str:
        level = fields.get("wait_until", EXECUTED_OPTIMISTIC)
        if level not in WAIT_LEVELS:
            raise parse_error(f"Failed parsing args: unknown wait_until {level!r}")
        return str(level)

    def _submit(self, fields: dict[str, Any]) -> bytes:
        return self._node.submit(read.from_base64(fields.get("signed_tx_base64"), "signed_tx_base64"))

    async def _outcome(self, tx_hash: bytes, wait_until: str, *, with_receipts: bool = False) -> Json:
        status: TxStatus | None = None

        def done() -> bool:
            nonlocal status
            status = load_status(self._chain, tx_hash)
            return status is None or status.reached(wait_until)

        finished = await self._node.wait_until(done, self._wait_seconds)
        if status is None:
            rejection = self._chain.rejection(tx_hash)
            if rejection is not None:
                raise invalid_transaction(rejection.detail)
            name = b58encode(tx_hash)
            raise handler_error(
                "UNKNOWN_TRANSACTION",
                f"Transaction {name} doesn't exist",
                {"requested_transaction_hash": name},
            )
        if not finished:
            raise timeout_error() if self._node.failure is None else internal_error("the node has stopped")
        return to_json(self._chain, status, with_receipts=with_receipts)

    # -- configuration -----------------------------------------------------------------------------

    async def genesis_config(self, _: Any) -> Json:
        """How the chain began."""
        chain = self._chain
        first, params = chain.first_block(), chain.params
        return {
            "protocol_version": params.protocol_version,
            "genesis_time": views.iso_time(first.timestamp),
            "chain_id": chain.config.chain_id,
            "genesis_height": first.height,
            "num_block_producer_seats": 1,
            "num_block_producer_seats_per_shard": [1],
            "avg_hidden_validator_seats_per_shard": [0],
            "dynamic_resharding": False,
            "protocol_upgrade_stake_threshold": [4, 5],
            "epoch_length": EPOCH_LENGTH,
            "gas_limit": params.gas_limit,
            "min_gas_price": str(params.min_gas_price),
            "max_gas_price": str(params.max_gas_price),
            "gas_price_adjustment_rate": list(params.gas_price_adjustment_rate),
            "transaction_validity_period": params.transaction_validity_period,
            "validators": [{"account_id": VALIDATOR_ID, "public_key": self._validator_key, "amount": "0"}],
            "total_supply": str(first.total_supply),
            "num_blocks_per_year": 52_560_000,
        }

    async def protocol_config(self, params: Any) -> Json:
        """Protocol parameters in force at a block."""
        self.find_block(read.block_reference(read.as_object(params)))
        config = await self.genesis_config(None)
        config.pop("validators")
        config.pop("total_supply")
        return config | {
            "shard_layout": {"V0": {"num_shards": 1, "version": 0}},
            "minimum_stake_ratio": [1, 62500],
            "runtime_config": self._chain.params.to_runtime_config(),
        }

    async def network_info(self, _: Any) -> Json:
        """No peers: the chain has one node."""
        return {
            "active_peers": [],
            "num_active_peers": 0,
            "peer_max_count": 0,
            "sent_bytes_per_sec": 0,
            "received_bytes_per_sec": 0,
            "known_producers": [],
        }

    async def client_config(self, _: Any) -> Json:
        """The node's own settings."""
        config = self._chain.config
        return {
            "chain_id": config.chain_id,
            "rpc_addr": self._address,
            "min_block_production_delay": {"secs": 0, "nanos": round(config.block_interval * 1e9)},
            "gc": {"gc_blocks_limit": config.history_blocks},
        }

    async def maintenance_windows(self, _: Any) -> Json:
        """There are none."""
        return []

    # -- time and state control --------------------------------------------------------------------

    async def sandbox_patch_state(self, params: Any) -> Json:
        """Write state records directly (accounts, keys, code, data), in neard's StateRecord JSON."""
        records = read.as_object(params, "records").get("records")
        await self._node.run_then_announce(lambda: patch_state(self._chain, records))
        return {}

    async def sandbox_fast_forward(self, params: Any) -> Json:
        """Skip ``delta_height`` heights, and the time they would have taken."""
        delta = read.number(read.as_object(params, "delta_height").get("delta_height"), "delta_height")
        await self._node.fast_forward(int(delta))
        return {}

    async def localnet_snapshot(self, params: Any) -> Json:
        """Keep a copy of the chain in memory under ``name``."""
        name = read.text(read.as_object(params, "name"), "name")
        await self._node.snapshot(name)
        return {"name": name, "block_height": self._chain.head.height}

    async def localnet_restore(self, params: Any) -> Json:
        """Go back to the copy kept under ``name``."""
        name = read.text(read.as_object(params, "name"), "name")
        block = await self._node.restore(name)
        return {"name": name, "block_height": block.height}

    async def localnet_set_time(self, params: Any) -> Json:
        """Move the chain's clock by ``delta_seconds``; block times never go backwards."""
        delta = read.number(read.as_object(params, "delta_seconds").get("delta_seconds"), "delta_seconds")
        block = await self._node.shift_time(delta)
        return {"block_height": block.height, "block_timestamp": block.timestamp}


def decode_args(value: Any) -> bytes:
    """Method arguments from their base64 form; none at all is empty."""
    if value in (None, ""):
        return b""
    return base64.b64decode(value)


__all__ = ["Methods", "RpcError"]
