# SPDX-License-Identifier: MIT
"""JSON shapes of the RPC, as neard prints them (near.md §4). Pure: no state is read here.

Clients such as py-near build typed objects from these, so keys are exactly neard's: none missing where
one is read, none added where the client takes keyword arguments.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
from typing import Any

from outlayer_localnet.blocks import ZERO_HASH, Block
from outlayer_localnet.receipts import ActionReceipt, DataReceipt, Receipt
from outlayer_localnet.runtime import Outcome
from outlayer_localnet.state import Account
from outlayer_near.primitives import (
    AccessKey,
    Action,
    AddKey,
    CreateAccount,
    Delegate,
    DeleteAccount,
    DeleteKey,
    DeployContract,
    DeployGlobalContract,
    FullAccess,
    FunctionCall,
    SignedTransaction,
    Stake,
    Transfer,
    UseGlobalContract,
    b58encode,
)

VALIDATOR_ID = "localnet.near"
NO_SIGNATURE = "ed25519:" + b58encode(bytes(64))
NO_CODE = b58encode(ZERO_HASH)

Json = Any


def b64(data: bytes) -> str:
    """Base64 with padding."""
    return base64.b64encode(data).decode()


def _code_hash64(code: bytes) -> str:
    return b64(hashlib.sha256(code).digest())


# -- actions, transactions, receipts ---------------------------------------------------------------


def access_key(key: AccessKey) -> Json:
    """AccessKeyView."""
    permission = key.permission
    if isinstance(permission, FullAccess):
        return {"nonce": key.nonce, "permission": "FullAccess"}
    body = {
        "allowance": None if permission.allowance is None else str(permission.allowance),
        "receiver_id": permission.receiver_id,
        "method_names": list(permission.method_names),
    }
    return {"nonce": key.nonce, "permission": {"FunctionCall": body}}


def action(item: Action) -> Json:  # noqa: PLR0911, RUF100 - one line per kind of action
    """ActionView; contract code is shown as its hash."""
    match item:
        case CreateAccount():
            return "CreateAccount"
        case DeployContract(code):
            return {"DeployContract": {"code": _code_hash64(code)}}
        case FunctionCall(method_name, args, gas, deposit):
            body = {"method_name": method_name, "args": b64(args), "gas": gas, "deposit": str(deposit)}
            return {"FunctionCall": body}
        case Transfer(deposit):
            return {"Transfer": {"deposit": str(deposit)}}
        case Stake(stake, public_key):
            return {"Stake": {"stake": str(stake), "public_key": str(public_key)}}
        case AddKey(public_key, key):
            return {"AddKey": {"public_key": str(public_key), "access_key": access_key(key)}}
        case DeleteKey(public_key):
            return {"DeleteKey": {"public_key": str(public_key)}}
        case DeleteAccount(beneficiary_id):
            return {"DeleteAccount": {"beneficiary_id": beneficiary_id}}
        case Delegate():
            return _delegate(item)
        case DeployGlobalContract(code, by_account):
            name = "DeployGlobalContractByAccountId" if by_account else "DeployGlobalContract"
            return {name: {"code": _code_hash64(code)}}
        case UseGlobalContract(code_hash, account_id):
            if code_hash is not None:
                return {"UseGlobalContract": {"code_hash": b58encode(code_hash)}}
            return {"UseGlobalContractByAccountId": {"account_id": account_id}}


def _delegate(item: Delegate) -> Json:
    inner = item.delegate_action
    body = {
        "sender_id": inner.sender_id,
        "receiver_id": inner.receiver_id,
        "actions": [action(each) for each in inner.actions],
        "nonce": inner.nonce,
        "max_block_height": inner.max_block_height,
        "public_key": str(inner.public_key),
    }
    return {"Delegate": {"delegate_action": body, "signature": str(item.signature)}}


def transaction(signed: SignedTransaction) -> Json:
    """SignedTransactionView."""
    tx = signed.transaction
    return {
        "signer_id": tx.signer_id,
        "public_key": str(tx.public_key),
        "nonce": tx.nonce,
        "receiver_id": tx.receiver_id,
        "actions": [action(each) for each in tx.actions],
        "priority_fee": 0,
        "signature": str(signed.signature),
        "hash": b58encode(tx.hash()),
    }


def receipt(item: Receipt) -> Json:
    """ReceiptView."""
    return {
        "predecessor_id": item.predecessor_id,
        "receiver_id": item.receiver_id,
        "receipt_id": b58encode(item.receipt_id),
        "receipt": _receipt_body(item),
        "priority": 0,
    }


def _receipt_body(item: Receipt) -> Json:
    body = item.body
    if isinstance(body, ActionReceipt):
        view = {
            "signer_id": body.signer_id,
            "signer_public_key": str(body.signer_public_key),
            "gas_price": str(body.gas_price),
            "output_data_receivers": [
                {"data_id": b58encode(data_id), "receiver_id": receiver}
                for data_id, receiver in body.output_data_receivers
            ],
            "input_data_ids": [b58encode(data_id) for data_id in body.input_data_ids],
            "actions": [action(each) for each in body.actions],
            "is_promise_yield": body.is_promise_yield,
        }
        if body.refund_to is not None:
            view["refund_to"] = body.refund_to
        return {"Action": view}
    if isinstance(body, DataReceipt):
        return {
            "Data": {
                "data_id": b58encode(body.data_id),
                "data": None if body.data is None else b64(body.data),
                "is_promise_resume": body.is_promise_resume,
            }
        }
    identifier = (
        {"CodeHash": b58encode(hashlib.sha256(body.code).digest())}
        if body.account_id is None
        else {"AccountId": body.account_id}
    )
    return {
        "GlobalContractDistribution": {
            "id": identifier,
            "target_shard": 0,
            "already_delivered_shards": [],
            "code": b64(body.code),
        }
    }


def outcome(item: Outcome, block_hash: bytes) -> Json:
    """ExecutionOutcomeWithIdView."""
    is_transaction = item.profile is None
    return {
        "proof": [],
        "block_hash": b58encode(block_hash),
        "id": b58encode(item.id),
        "outcome": {
            "logs": item.logs,
            "receipt_ids": [b58encode(receipt_id) for receipt_id in item.receipt_ids],
            "gas_burnt": item.gas_burnt,
            "tokens_burnt": str(item.tokens_burnt),
            "executor_id": item.executor_id,
            "status": item.status,
            "metadata": {
                "version": 1 if is_transaction else 3,
                "gas_profile": None if is_transaction else item.profile,
            },
        },
    }


# -- accounts --------------------------------------------------------------------------------------


def account(item: Account) -> Json:
    """AccountView, without the block it was read at."""
    view = {
        "amount": str(item.amount),
        "locked": str(item.locked),
        "code_hash": NO_CODE if item.code_hash is None else b58encode(item.code_hash),
        "storage_usage": item.storage_usage,
        "storage_paid_at": 0,
    }
    if item.global_hash is not None:
        view["global_contract_hash"] = b58encode(item.global_hash)
    if item.global_account is not None:
        view["global_contract_account_id"] = item.global_account
    return view


# -- blocks ----------------------------------------------------------------------------------------


def _digest(tag: bytes, *parts: bytes) -> bytes:
    return hashlib.sha256(tag + b"".join(parts)).digest()


def epoch_id(height: int, epoch_length: int) -> bytes:
    """A stable id for the epoch a height belongs to; zero for the first two, as on a new chain."""
    epoch = height // epoch_length
    return ZERO_HASH if epoch < 2 else _digest(b"epoch", epoch.to_bytes(8, "little"))


def block_header(block: Block, *, epoch_length: int, protocol_version: int) -> Json:
    """BlockHeaderView."""
    chunk = block.chunk_hash
    return {
        "height": block.height,
        "prev_height": block.prev_height if block.height else None,
        "epoch_id": b58encode(epoch_id(block.height, epoch_length)),
        "next_epoch_id": b58encode(epoch_id(block.height + epoch_length, epoch_length)),
        "hash": b58encode(block.hash),
        "prev_hash": b58encode(block.prev_hash),
        "prev_state_root": b58encode(block.prev_state_root),
        "block_body_hash": b58encode(_digest(b"body", chunk)),
        "chunk_receipts_root": b58encode(_digest(b"receipts", *block.incoming)),
        "chunk_headers_root": b58encode(_digest(b"headers", chunk)),
        "chunk_tx_root": b58encode(_digest(b"transactions", *block.transactions)),
        "outcome_root": b58encode(_digest(b"outcomes", *block.transactions, *block.executed)),
        "chunks_included": 1,
        "challenges_root": b58encode(ZERO_HASH),
        "timestamp": block.timestamp,
        "timestamp_nanosec": str(block.timestamp),
        "random_value": b58encode(block.random_value),
        "validator_proposals": [],
        "chunk_mask": [True],
        "gas_price": str(block.gas_price),
        "block_ordinal": block.ordinal,
        "rent_paid": "0",
        "validator_reward": "0",
        "total_supply": str(block.total_supply),
        "challenges_result": [],
        "last_final_block": b58encode(block.prev_hash),
        "last_ds_final_block": b58encode(block.prev_hash),
        "next_bp_hash": b58encode(_digest(b"producers")),
        "block_merkle_root": b58encode(_digest(b"merkle", block.prev_hash)),
        "epoch_sync_data_hash": None,
        "approvals": [NO_SIGNATURE],
        "signature": NO_SIGNATURE,
        "latest_protocol_version": protocol_version,
        "chunk_endorsements": [[1]],
    }


def chunk_header(block: Block, *, gas_limit: int) -> Json:
    """ChunkHeaderView of the block's only chunk."""
    return {
        "chunk_hash": b58encode(block.chunk_hash),
        "prev_block_hash": b58encode(block.prev_hash),
        "outcome_root": b58encode(_digest(b"outcomes", *block.transactions, *block.executed)),
        "prev_state_root": b58encode(block.prev_state_root),
        "encoded_merkle_root": b58encode(_digest(b"encoded", block.hash)),
        "encoded_length": 8,
        "height_created": block.height,
        "height_included": block.height,
        "shard_id": 0,
        "gas_used": block.gas_used,
        "gas_limit": gas_limit,
        "rent_paid": "0",
        "validator_reward": "0",
        "balance_burnt": str(block.balance_burnt),
        "outgoing_receipts_root": b58encode(_digest(b"outgoing", block.hash)),
        "tx_root": b58encode(_digest(b"transactions", *block.transactions)),
        "validator_proposals": [],
        "congestion_info": {
            "allowed_shard": 0,
            "buffered_receipts_gas": "0",
            "delayed_receipts_gas": "0",
            "receipt_bytes": 0,
        },
        "bandwidth_requests": {"V1": {"requests": []}},
        "signature": NO_SIGNATURE,
    }


def iso_time(timestamp_ns: int) -> str:
    """RFC 3339 with nanoseconds and Z."""
    seconds, nanos = divmod(timestamp_ns, 10**9)
    moment = dt.datetime.fromtimestamp(seconds, dt.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanos:09d}Z"
