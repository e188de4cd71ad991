# SPDX-License-Identifier: MIT
"""WASM files by their SHA-256: uploaded by an account (NEP-413), served to anyone."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from outlayer_coordinator.chain import ChainViews
from outlayer_coordinator.config import MAX_WASM_BYTES, Settings
from outlayer_coordinator.db import Database
from outlayer_coordinator.errors import ApiError
from outlayer_near.errors import SignatureError
from outlayer_near.nep413 import SignedMessage, check_signature
from outlayer_near.primitives import is_valid_account_id

WASM_MAGIC = b"\x00asm"
_SHA256 = re.compile(r"[0-9a-f]{64}")

log = structlog.get_logger(__name__)


@dataclass
class WasmStore:
    """Files in one folder, named by their hash; a file is complete or not there."""

    settings: Settings
    database: Database
    chain: ChainViews

    def path(self, sha256: str) -> Path:
        """Where the file is, if it is there. Raises ``ApiError`` 404 for a text that is no hash."""
        if _SHA256.fullmatch(sha256) is None:
            raise ApiError(404, "There is no such file; expected /wasm/<sha256 in lower-case hex>")
        return self.settings.wasm_dir / f"{sha256}.wasm"

    async def authenticate(self, sha256: str, headers: Mapping[str, str]) -> str:
        """The account that signed "upload <sha256>" for this host, with a full-access key.

        A replay within the five minutes can only upload the same bytes again, so nonces need no memory.

        Raises:
            ApiError: 401 with what is wrong.
            ChainError: the chain cannot be asked.
        """
        names = ("x-near-account", "x-near-public-key", "x-near-nonce", "x-near-signature")
        missing = [name for name in names if not headers.get(name)]
        if missing:
            raise ApiError(401, f"Missing headers: {', '.join(missing)}")
        signed = SignedMessage(*(headers[name] for name in names))
        if not is_valid_account_id(signed.account_id):
            raise ApiError(401, "X-Near-Account is not an account id")
        try:
            check_signature(signed, f"upload {sha256}", self.settings.nep413_recipient, time.time())
        except SignatureError as error:
            raise ApiError(401, f"{error}. {error.hint}".strip()) from error
        if not await self.chain.has_full_access_key(signed.account_id, signed.public_key):
            raise ApiError(401, f"{signed.public_key} is not a full-access key of {signed.account_id}")
        return signed.account_id

    async def put(self, sha256: str, uploader: str, length: int | None, chunks: AsyncIterator[bytes]) -> bool:
        """Store bytes that hash to ``sha256``; False when they were there already.

        Raises:
            ApiError: 400 other bytes, or no WASM; 413 too large.
        """
        target = self.path(sha256)
        if length is not None and length > MAX_WASM_BYTES:
            raise ApiError(413, f"A WASM file may have {MAX_WASM_BYTES} bytes")
        await asyncio.to_thread(target.parent.mkdir, parents=True, exist_ok=True)
        temporary = target.with_name(f".{sha256}.{secrets.token_hex(8)}")
        try:
            size = await _receive(temporary, sha256, chunks)
            created = not target.exists()
            await asyncio.to_thread(_commit, temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        await self.database.main.execute(
            "INSERT INTO wasm_files (sha256, size, uploader) VALUES ($1, $2, $3) ON CONFLICT (sha256) DO NOTHING",
            sha256,
            size,
            uploader,
        )
        log.info("wasm_stored", sha256=sha256, size=size, uploader=uploader)
        return created


async def _receive(file: Path, sha256: str, chunks: AsyncIterator[bytes]) -> int:
    digest, size, head = hashlib.sha256(), 0, b""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    with os.fdopen(descriptor, "wb") as output:
        async for chunk in chunks:
            size += len(chunk)
            if size > MAX_WASM_BYTES:
                raise ApiError(413, f"A WASM file may have {MAX_WASM_BYTES} bytes")
            head = (head + chunk[:4])[:4]
            digest.update(chunk)
            await asyncio.to_thread(output.write, chunk)
        await asyncio.to_thread(_sync, output)
    if digest.hexdigest() != sha256:
        raise ApiError(400, f"The body's SHA-256 is {digest.hexdigest()}, not {sha256}")
    if head != WASM_MAGIC:
        raise ApiError(400, "The body is not a WASM module or component")
    return size


def _sync(output: Any) -> None:
    output.flush()
    os.fsync(output.fileno())


def _commit(temporary: Path, target: Path) -> None:
    temporary.replace(target)
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
