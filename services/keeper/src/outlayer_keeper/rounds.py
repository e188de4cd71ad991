# SPDX-License-Identifier: MIT
"""One round over one contract: look, clear away, look again, until nothing is left or nothing more may be spent."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from outlayer_keeper.budget import Budget
from outlayer_keeper.contracts import KeyContract
from outlayer_keeper.errors import BudgetSpentError, NoProgressError
from outlayer_keeper.keys import DeadKey, dead_keys, next_end
from outlayer_keeper.metrics import Metrics
from outlayer_near.errors import NoSuchMethodError, TransactionFailedError, ViewError
from outlayer_near.primitives import FunctionCall
from outlayer_near.rpc import NearRpc
from outlayer_near.sender import Sender, TxOutcome

log = structlog.get_logger(__name__)

MOST_KEYS = 50
"""In one call: half of what the contracts delete at most, so that its gas is enough for certain."""
_YOCTO = 10**24


class Rounds:
    """Clears contracts, by one account's key. Raises ``NearError`` when the chain cannot be asked or refuses."""

    def __init__(self, rpc: NearRpc, sender: Sender, budget: Budget, metrics: Metrics) -> None:
        self._rpc = rpc
        self._sender = sender
        self._budget = budget
        self._metrics = metrics

    async def clear(self, contract: KeyContract) -> float | None:
        """Take away every access key that no longer counts. Seconds until the next one will not; None without one.

        Raises ``NoProgressError`` when keys are left that the contract does not remove, after all others,
        ``BudgetSpentError`` before more is spent than may be.
        """
        stuck: set[str] = set()
        asked: set[str] = set()
        while True:
            header = await self._rpc.header()
            held = await contract.held(self._rpc, header.hash)
            dead = dead_keys(held.keys, held.ends, header.time)
            await self._note(contract, dead, header.time)
            left = {key.public_key for key in dead}
            gone = asked - left
            if asked and not gone:
                stuck |= asked
            elif gone:
                self._metrics.removed.labels(contract.name).inc(len(gone))
                log.info("keys_removed", contract=contract.account_id, removed=len(gone), left=len(dead))
            next_ones = [key.public_key for key in dead if key.public_key not in stuck][:MOST_KEYS]
            if not next_ones:
                break
            await self._send(contract, [contract.removal(next_ones)])
            asked = set(next_ones)
        if dead:
            raise NoProgressError(
                f"{contract.account_id} holds {len(dead)} keys that do not count, and does not remove them",
                hint="see that the contract is not newer than this program",
            )
        await self._prune(contract)
        end = next_end(held.keys, held.ends, header.time)
        return None if end is None else float(end - header.time)

    async def _note(self, contract: KeyContract, dead: Sequence[DeadKey], now: int) -> None:
        """Tell the metrics; of the keys only those count that still are on the account."""
        oldest = None
        for key in dead:
            if await self._rpc.has_access_key(contract.account_id, key.public_key):
                oldest = float(now - key.since)
                break
        self._metrics.found(contract.name, len(dead), oldest)

    async def _prune(self, contract: KeyContract) -> None:
        """Have a contract drop what is of no use any more, where it can. What it keeps, it keeps: that harms nobody."""
        before: frozenset[int] | None = None
        while True:
            header = await self._rpc.header()
            outdated = await contract.outdated(self._rpc, header.hash, header.time)
            if not outdated or (before is not None and not before - outdated):
                return
            if before is None and not await self._has(contract, contract.pruning().method_name, header.hash):
                return
            await self._send(contract, [contract.pruning()])
            before = outdated

    async def _has(self, contract: KeyContract, method: str, block: str) -> bool:
        """Whether a contract has a method that changes its state: as a view it fails, but in another way."""
        try:
            await self._rpc.view_bytes(contract.account_id, method, b"{}", block)
        except NoSuchMethodError:
            return False
        except ViewError:
            return True
        return True

    async def _send(self, contract: KeyContract, actions: Sequence[FunctionCall]) -> None:
        """Send and wait until a final block shows what came of it."""
        wait = self._budget.wait_seconds()
        if wait > 0:
            raise BudgetSpentError(
                f"{self._budget.spent() / _YOCTO:.3f} NEAR were spent within a day, which is all that may be",
                wait,
                hint="see why so many keys end; MAX_DAILY_NEAR is the bound",
            )
        try:
            outcome = await self._sender.send(contract.account_id, actions)
        except TransactionFailedError as error:
            if isinstance(error.outcome, TxOutcome):
                self._spend(error.outcome.tokens_burnt)
            raise
        self._spend(outcome.tokens_burnt)
        final = await self._rpc.transaction(outcome.tx_hash, self._sender.account_id, wait_until="FINAL")
        # refunds of gas, which burn some of it too, may have come later than the call's own end
        self._spend(max(0, TxOutcome.from_rpc(final).tokens_burnt - outcome.tokens_burnt))

    def _spend(self, yocto: int) -> None:
        self._budget.spend(yocto)
        self._metrics.spent.inc(yocto / _YOCTO)
