# SPDX-License-Identifier: MIT
"""What the coordinator asks of the chain, and how long it believes an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from outlayer_coordinator.errors import ChainError
from outlayer_coordinator.money import Pricing
from outlayer_near.errors import NearError
from outlayer_near.rpc import NearRpc
from outlayer_near.views import OutlayerViews, RegisterViews

PROJECT_SECONDS = 30.0
NO_PROJECT_SECONDS = 1.0
MAX_PROJECTS = 10_000

T = TypeVar("T")


class ChainViews(Protocol):
    """Everything the coordinator reads from the chain. Each raises ``ChainError`` when it cannot be asked."""

    async def pricing(self) -> Pricing:
        """USD fees of the main contract."""
        ...

    async def project_uuid(self, project_id: str) -> str | None:
        """The project's uuid, None when there is no such project."""
        ...

    async def worker_key_is_good(self, public_key: str) -> bool:
        """Whether the operator account has this key, and the register contract calls it a worker's, valid now."""
        ...

    async def has_full_access_key(self, account_id: str, public_key: str) -> bool:
        """Whether the account may be acted for with this key."""
        ...

    async def close(self) -> None: ...


class NearChain:
    """The chain by JSON-RPC."""

    def __init__(self, rpc: NearRpc, contract_id: str, operator_account_id: str) -> None:
        self._rpc = rpc
        self._operator = operator_account_id
        self._main = OutlayerViews(rpc, contract_id)
        self._register = RegisterViews(rpc, operator_account_id)

    async def pricing(self) -> Pricing:
        found = await _asked(self._main.get_pricing_full())
        return Pricing(found.base_fee_usd, found.per_million_instructions_fee_usd, found.per_sec_fee_usd)

    async def project_uuid(self, project_id: str) -> str | None:
        found = await _asked(self._main.get_project(project_id))
        return None if found is None else found.uuid

    async def worker_key_is_good(self, public_key: str) -> bool:
        on_account, valid, key = await asyncio.gather(
            _asked(self._rpc.has_access_key(self._operator, public_key)),
            _asked(self._register.is_worker_key_valid(public_key)),
            _asked(self._register.get_worker_key(public_key)),
        )
        # a compiler's key is on the account too, for its own renewal alone
        return on_account and valid and key is not None and key.role == "worker"

    async def has_full_access_key(self, account_id: str, public_key: str) -> bool:
        return await _asked(self._rpc.has_full_access_key(account_id, public_key))

    async def close(self) -> None:
        await self._rpc.close()


async def _asked(question: Awaitable[T]) -> T:
    try:
        return await question
    except (NearError, ValueError) as error:  # ValueError: an answer of another form than the contract's
        raise ChainError(
            f"the chain could not be asked: {error}", hint="see that NEAR_RPC_URL answers"
        ) from error


@dataclass
class _Entry(Generic[T]):
    value: T
    asked_at: float


class Fresh(Generic[T]):
    """A value that is asked again when it is older than ``seconds``; many askers make one question.

    When asking fails, a value of up to ``stale_seconds`` still serves; past that the failure is the answer.
    """

    def __init__(
        self, ask: Callable[[], Awaitable[T]], seconds: float, *, stale_seconds: float | None = None
    ) -> None:
        self._ask = ask
        self._seconds = seconds
        self._stale_seconds = seconds if stale_seconds is None else stale_seconds
        self._entry: _Entry[T] | None = None
        self._lock = asyncio.Lock()

    async def get(self) -> T:
        entry = self._entry
        if entry is not None and time.monotonic() - entry.asked_at <= self._seconds:
            return entry.value
        async with self._lock:
            entry = self._entry
            if entry is not None and time.monotonic() - entry.asked_at <= self._seconds:
                return entry.value
            asked_at = time.monotonic()
            try:
                value = await self._ask()
            except ChainError:
                if entry is not None and asked_at - entry.asked_at <= self._stale_seconds:
                    return entry.value
                raise
            self._entry = _Entry(value, asked_at)
            return value


class ProjectCache:
    """Project ids -> uuid. A uuid never changes while the project exists, so it may be kept a while."""

    def __init__(self, chain: ChainViews) -> None:
        self._chain = chain
        self._entries: dict[str, _Entry[str | None]] = {}

    async def uuid(self, project_id: str) -> str | None:
        entry = self._entries.get(project_id)
        now = time.monotonic()
        if entry is not None:
            life = NO_PROJECT_SECONDS if entry.value is None else PROJECT_SECONDS
            if now - entry.asked_at <= life:
                return entry.value
        value = await self._chain.project_uuid(project_id)
        if len(self._entries) >= MAX_PROJECTS:
            self._entries.clear()
        self._entries[project_id] = _Entry(value, now)
        return value
