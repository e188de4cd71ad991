# SPDX-License-Identifier: MIT
"""The attestation archive: records with their inclusion proofs and quoted batches, public by design."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import orjson

from outlayer_attestation.record import BATCH_VERSION
from outlayer_coordinator.completion import split_proof
from outlayer_coordinator.db import Database
from outlayer_coordinator.errors import ApiError

_SELECT = """
SELECT a.job_id, a.call_id, a.request_id, a.record, a.leaf_index, a.inclusion_proof, a.created_at,
       b.tree_size, b.root, b.quote
FROM task_attestations a JOIN attestation_batches b USING (batch_id)
"""
_BY_JOB = f"{_SELECT} WHERE a.job_id = $1"
_BY_CALL = f"{_SELECT} WHERE a.call_id = $1 ORDER BY a.created_at"
_BY_REQUEST = f"{_SELECT} WHERE a.request_id = $1 ORDER BY a.created_at LIMIT 100"
_BY_TX = f"{_SELECT} WHERE a.transaction_hash = $1 ORDER BY a.created_at LIMIT 100"

_MAX_REQUEST_ID = 2**63 - 1


@dataclass
class Archive:
    """Reads only; completions write it."""

    database: Database

    async def by_job(self, job_id: str) -> bytes:
        row = await self.database.main.fetchrow(_BY_JOB, _uuid(job_id))
        if row is None:
            raise ApiError(404, "No attestation of this job")
        return orjson.dumps(_item(row))

    async def by_call(self, call_id: str) -> bytes:
        return await self._items(_BY_CALL, _uuid(call_id))

    async def by_request(self, request_id: str) -> bytes:
        if not (request_id.isascii() and request_id.isdigit() and int(request_id[:20]) <= _MAX_REQUEST_ID):
            raise ApiError(400, "A request id is a whole number")
        return await self._items(_BY_REQUEST, int(request_id[:20]))

    async def by_tx(self, tx_hash: str) -> bytes:
        if not (tx_hash.isascii() and tx_hash.isalnum()):
            raise ApiError(400, "A transaction hash is base58 text")
        return await self._items(_BY_TX, tx_hash)

    async def _items(self, query: str, value: Any) -> bytes:
        rows = await self.database.main.fetch(query, value)
        return orjson.dumps({"items": [_item(row) for row in rows]})


def _item(row: Any) -> dict[str, Any]:
    return {
        "job_id": str(row["job_id"]),
        "call_id": None if row["call_id"] is None else str(row["call_id"]),
        "request_id": row["request_id"],
        "created_at": row["created_at"].isoformat(),
        "record": orjson.Fragment(row["record"]),
        "leaf_index": row["leaf_index"],
        "inclusion_proof": split_proof(row["inclusion_proof"]),
        "batch": {
            "version": BATCH_VERSION,
            "tree_size": row["tree_size"],
            "root": row["root"].hex(),
            "quote": row["quote"].hex(),
        },
    }


def _uuid(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError as error:
        raise ApiError(404, "There is no such id") from error
