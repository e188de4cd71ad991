# SPDX-License-Identifier: MIT
"""The block feed, in the shape of neardata: one document per height with everything that happened."""

from __future__ import annotations

from typing import Any

from outlayer_localnet import views
from outlayer_localnet.blocks import Block
from outlayer_localnet.chain import Chain
from outlayer_localnet.methods import Methods
from outlayer_localnet.statechanges import all_changes
from outlayer_near.primitives import b58encode


def block_document(methods: Methods, chain: Chain, block: Block) -> dict[str, Any]:
    """The feed's document for a block: the block view and its only shard."""
    return {"block": methods.block_view(block), "shards": [shard_document(methods, chain, block)]}


def shard_document(methods: Methods, chain: Chain, block: Block) -> dict[str, Any]:
    """Chunk, outcomes in order of execution, and state changes."""
    return {
        "shard_id": 0,
        "chunk": chunk_document(methods, chain, block),
        "receipt_execution_outcomes": [_executed(chain, block, outcome_id) for outcome_id in block.executed],
        "state_changes": list(all_changes(chain.causes(block.height))),
    }


def chunk_document(methods: Methods, chain: Chain, block: Block) -> dict[str, Any]:
    """The chunk: its transactions with their outcomes, and the receipts that came in."""
    return {
        "author": views.VALIDATOR_ID,
        "header": methods.chunk_header(block),
        "transactions": [_transaction(chain, block, tx_hash) for tx_hash in block.transactions],
        "receipts": [views.receipt(receipt) for receipt in chain.receipts_by_id(block.incoming)],
        "local_receipts": [views.receipt(receipt) for receipt in chain.receipts_by_id(block.local)],
    }


def _transaction(chain: Chain, block: Block, tx_hash: bytes) -> dict[str, Any]:
    found, executed = chain.transaction(tx_hash), chain.outcome(tx_hash)
    if found is None or executed is None:
        raise LookupError(f"transaction {b58encode(tx_hash)} of block {block.height} is not stored")
    first = chain.receipt(executed[0].receipt_ids[0])
    return {
        "transaction": views.transaction(found[0]),
        "outcome": {
            "execution_outcome": views.outcome(executed[0], block.hash),
            "receipt": None if first is None else views.receipt(first),
        },
    }


def _executed(chain: Chain, block: Block, receipt_id: bytes) -> dict[str, Any]:
    receipt, executed = chain.receipt(receipt_id), chain.outcome(receipt_id)
    if receipt is None or executed is None:
        raise LookupError(f"receipt {b58encode(receipt_id)} of block {block.height} is not stored")
    return {
        "execution_outcome": views.outcome(executed[0], block.hash),
        "receipt": views.receipt(receipt),
        "tx_hash": b58encode(receipt.tx_hash) if receipt.tx_hash else None,
    }
