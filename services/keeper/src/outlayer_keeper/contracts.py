# SPDX-License-Identifier: MIT
"""The contracts whose keys end: what they hold, and the calls that clear it away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from outlayer_keeper.keys import HeldKey, SetEnds
from outlayer_near.calls import dao as on_dao
from outlayer_near.calls import register as on_register
from outlayer_near.calls.build import REGISTER_GAS, call
from outlayer_near.models import DAO_STANDARD, REGISTER_STANDARD
from outlayer_near.primitives import FunctionCall
from outlayer_near.rpc import NearRpc
from outlayer_near.views import DaoViews, RegisterViews

PAGE = 100
MOST_PRUNED = 50
RETENTION_SECONDS = 90 * 86_400
"""How long the contracts keep what ended or was decided, at the least, for who looks back."""

T = TypeVar("T")


@dataclass(frozen=True)
class Held:
    """What a contract holds at one block."""

    keys: tuple[HeldKey, ...]
    ends: SetEnds


class KeyContract(Protocol):
    """A contract that holds keys, on its own account."""

    @property
    def name(self) -> str:
        """For logs and metrics."""
        ...

    @property
    def account_id(self) -> str: ...

    @property
    def standard(self) -> str:
        """The standard of its events."""
        ...

    async def held(self, rpc: NearRpc, block: str) -> Held:
        """What it holds at the block with this hash. Raises ``NearError``."""
        ...

    def removal(self, public_keys: Sequence[str]) -> FunctionCall:
        """The call that deletes the access keys of these, if they no longer count."""
        ...

    async def outdated(self, rpc: NearRpc, block: str, now: int) -> frozenset[int]:
        """Ids of what else stands in its state and is of no use any more. Raises ``NearError``."""
        ...

    def pruning(self) -> FunctionCall:
        """The call that removes some of that; contracts of older versions do not have it."""
        ...


@dataclass(frozen=True)
class RegisterContract:
    """Workers' and compilers' keys."""

    account_id: str
    name: str = "register"
    standard: str = REGISTER_STANDARD

    async def held(self, rpc: NearRpc, block: str) -> Held:
        views = RegisterViews(rpc, self.account_id, block)
        keys = await all_pages(views.get_worker_keys)
        sets = await views.get_measurement_sets()
        held = (HeldKey(key.public_key, key.measurement_set, key.expires_at) for key in keys)
        return Held(tuple(held), {entry.id: entry.not_after for entry in sets})

    def removal(self, public_keys: Sequence[str]) -> FunctionCall:
        return on_register.remove_expired_keys(public_keys)

    async def outdated(self, rpc: NearRpc, block: str, now: int) -> frozenset[int]:
        """Measurement sets that ended long ago."""
        sets = await RegisterViews(rpc, self.account_id, block).get_measurement_sets()
        before = now - RETENTION_SECONDS
        return frozenset(
            entry.id for entry in sets if entry.not_after is not None and entry.not_after < before
        )

    def pruning(self) -> FunctionCall:
        return call("prune_measurement_sets", {"limit": MOST_PRUNED}, gas=REGISTER_GAS)


@dataclass(frozen=True)
class DaoContract:
    """Keystores' keys."""

    account_id: str
    name: str = "keystore-dao"
    standard: str = DAO_STANDARD

    async def held(self, rpc: NearRpc, block: str) -> Held:
        views = DaoViews(rpc, self.account_id, block)
        keys = await all_pages(views.get_keystores)
        sets = await views.get_measurement_sets()
        held = (HeldKey(key.public_key, key.measurement_set, key.expires_at) for key in keys)
        return Held(tuple(held), {entry.id: entry.not_after for entry in sets})

    def removal(self, public_keys: Sequence[str]) -> FunctionCall:
        return on_dao.remove_expired_keystores(public_keys)

    async def outdated(self, rpc: NearRpc, block: str, now: int) -> frozenset[int]:
        """Proposals that were not decided in time, and those that were decided long ago."""
        proposals = await all_pages(DaoViews(rpc, self.account_id, block).get_proposals)
        before = now - RETENTION_SECONDS
        return frozenset(
            item.id for item in proposals if item.status == "Expired" or item.expires_at < before
        )

    def pruning(self) -> FunctionCall:
        return on_dao.prune_proposals(MOST_PRUNED)


async def all_pages(page: Callable[[int, int], Awaitable[list[T]]]) -> list[T]:
    """Everything that a view gives page by page, however long it makes its pages.

    To be asked at one block: an item might be missed that moved meanwhile.
    """
    found: list[T] = []
    while part := await page(len(found), PAGE):
        found += part
    return found
