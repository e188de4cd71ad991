# SPDX-License-Identifier: MIT
"""Worker tokens, TEE challenges and sessions (R21).

A session belongs to the token that opened it and to one worker key; it ends at its time, when the token is
switched off, or when the chain no longer calls the key valid.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from outlayer_coordinator.chain import ChainViews, Fresh
from outlayer_coordinator.config import Settings
from outlayer_coordinator.db import Database
from outlayer_coordinator.errors import ApiError
from outlayer_near.errors import CodecError
from outlayer_near.primitives import PublicKey, Signature

SESSION_TAG = b"outlayer/tee-session/v1\x00"
"""Domain separation: what a worker signs here is never a transaction or a NEP-413 message."""

_BEARER = re.compile(r"Bearer (?P<token>[\x21-\x7e]{16,512})")
_HEX64 = re.compile(r"[0-9a-f]{64}")
_HEX128 = re.compile(r"[0-9a-f]{128}")
_MAX_CACHED = 10_000
_ED25519_KEY_TYPE = 0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerToken:
    token_hash: str
    worker_name: str


@dataclass(frozen=True, slots=True)
class Session:
    """A session in force: who calls, and the attested key that it speaks for."""

    session_id: uuid.UUID
    token: WorkerToken
    worker_public_key: str
    expires_at: datetime


@dataclass
class _Cached:
    session: Session
    read_at: float


@dataclass
class Sessions:
    """Opens and checks sessions. Answers are kept for a second, the chain's for ten (settings)."""

    settings: Settings
    database: Database
    chain: ChainViews
    _sessions: dict[tuple[uuid.UUID, str], _Cached] = field(default_factory=dict)
    _tokens: dict[str, tuple[WorkerToken, float]] = field(default_factory=dict)
    _keys: dict[str, Fresh[bool]] = field(default_factory=dict)

    # -- tokens ------------------------------------------------------------------------------------------------

    async def token(self, authorization: str | None) -> WorkerToken:
        """The worker behind an ``Authorization`` header. Raises ``ApiError`` 401."""
        match = _BEARER.fullmatch(authorization or "")
        if match is None:
            raise ApiError(401, "Missing or invalid worker token")
        token_hash = hashlib.sha256(match["token"].encode()).hexdigest()
        cached = self._tokens.get(token_hash)
        if cached is not None and time.monotonic() - cached[1] < self.settings.session_cache_seconds:
            return cached[0]
        row = await self.database.quick.fetchrow(
            "SELECT worker_name FROM worker_auth_tokens WHERE token_hash = $1 AND is_active", token_hash
        )
        if row is None:
            self._tokens.pop(token_hash, None)
            raise ApiError(401, "Missing or invalid worker token")
        token = WorkerToken(token_hash, row["worker_name"])
        _make_room(self._tokens)
        self._tokens[token_hash] = (token, time.monotonic())
        return token

    # -- opening a session -------------------------------------------------------------------------------------

    async def challenge(self, token: WorkerToken) -> str:
        """32 random bytes in hex, good once, for this token, for a minute."""
        challenge = secrets.token_hex(32)
        expires = _now() + timedelta(seconds=self.settings.challenge_seconds)
        await self.database.main.execute(
            """
            WITH old AS (DELETE FROM tee_challenges WHERE expires_at < now())
            INSERT INTO tee_challenges (challenge, token_hash, expires_at) VALUES ($1, $2, $3)
            """,
            challenge,
            token.token_hash,
            expires,
        )
        return challenge

    async def open(self, token: WorkerToken, public_key: str, challenge: str, signature: str) -> Session:
        """Open a session for a worker key that signed the challenge.

        Raises:
            ApiError: 400 unknown, used or expired challenge; 403 wrong signature, or a key which the chain does
                not call valid.
            ChainError: the chain cannot be asked.
        """
        key = _worker_key(public_key)
        if _HEX64.fullmatch(challenge) is None or not await self._take_challenge(token, challenge):
            raise ApiError(400, "The challenge is unknown, used or expired")
        if _HEX128.fullmatch(signature) is None or not key.verify(
            SESSION_TAG + bytes.fromhex(challenge), Signature(key.key_type, bytes.fromhex(signature))
        ):
            raise ApiError(403, "The signature is not the worker key's over this challenge")
        # a worker opens its session just after it registered: never take an older "no" for an answer
        self._keys.pop(public_key, None)
        if not await self._key_is_good(public_key):
            raise ApiError(403, "The key is not a valid worker key: not registered, revoked or expired")
        session = Session(
            session_id=uuid.uuid4(),
            token=token,
            worker_public_key=public_key,
            expires_at=_now() + timedelta(seconds=self.settings.tee_session_seconds),
        )
        await self.database.main.execute(
            """
            INSERT INTO worker_tee_sessions (session_id, token_hash, worker_public_key, expires_at)
            VALUES ($1, $2, $3, $4)
            """,
            session.session_id,
            token.token_hash,
            public_key,
            session.expires_at,
        )
        log.info("tee_session_opened", worker=token.worker_name, worker_public_key=public_key)
        return session

    async def _take_challenge(self, token: WorkerToken, challenge: str) -> bool:
        """One-time: whoever presents it uses it up, whatever comes of the attempt."""
        row = await self.database.main.fetchrow(
            "DELETE FROM tee_challenges WHERE challenge = $1 RETURNING token_hash, expires_at", challenge
        )
        return row is not None and row["token_hash"] == token.token_hash and row["expires_at"] > _now()

    # -- using a session ---------------------------------------------------------------------------------------

    async def session(self, authorization: str | None, session_header: str | None) -> Session:
        """The session of a worker's request. Raises ``ApiError`` 401 or 403, ``ChainError``."""
        token = await self.token(authorization)
        try:
            session_id = uuid.UUID(session_header or "")
        except ValueError as error:
            raise ApiError(401, "Missing or invalid X-TEE-Session") from error
        session = await self._stored(session_id, token)
        if not await self._key_is_good(session.worker_public_key):
            await self._end(session, "worker key revoked or expired")
            raise ApiError(403, "The TEE session ended: the worker key is no longer valid")
        return session

    async def _stored(self, session_id: uuid.UUID, token: WorkerToken) -> Session:
        place = (session_id, token.token_hash)
        cached = self._sessions.get(place)
        if cached is None or time.monotonic() - cached.read_at >= self.settings.session_cache_seconds:
            row = await self.database.quick.fetchrow(
                """
                SELECT worker_public_key, expires_at FROM worker_tee_sessions
                WHERE session_id = $1 AND token_hash = $2 AND ended_at IS NULL
                """,
                session_id,
                token.token_hash,
            )
            if row is None:
                self._sessions.pop(place, None)
                raise ApiError(403, "The TEE session is not one of this worker's")
            cached = _Cached(
                Session(session_id, token, row["worker_public_key"], row["expires_at"]), time.monotonic()
            )
            _make_room(self._sessions)
            self._sessions[place] = cached
        if cached.session.expires_at <= _now():
            self._sessions.pop(place, None)
            raise ApiError(403, "The TEE session expired")
        return cached.session

    async def _key_is_good(self, public_key: str) -> bool:
        fresh = self._keys.get(public_key)
        if fresh is None:
            _make_room(self._keys)
            fresh = self._keys[public_key] = Fresh(
                lambda: self.chain.worker_key_is_good(public_key), self.settings.chain_check_seconds
            )
        return await fresh.get()

    async def _end(self, session: Session, reason: str) -> None:
        self._sessions.pop((session.session_id, session.token.token_hash), None)
        await self.database.main.execute(
            """
            UPDATE worker_tee_sessions SET ended_at = now(), end_reason = $2
            WHERE session_id = $1 AND ended_at IS NULL
            """,
            session.session_id,
            reason,
        )
        log.warning("tee_session_ended", worker=session.token.worker_name, reason=reason)


def _worker_key(text: str) -> PublicKey:
    try:
        key = PublicKey.parse(text)
    except CodecError as error:
        raise ApiError(400, f"public_key cannot be read: {error}") from error
    if key.key_type != _ED25519_KEY_TYPE or str(key) != text:
        raise ApiError(400, "public_key must be ed25519:<base58>")
    return key


def _make_room(cache: dict[Any, Any]) -> None:
    if len(cache) >= _MAX_CACHED:
        cache.clear()


def _now() -> datetime:
    return datetime.now(UTC)
