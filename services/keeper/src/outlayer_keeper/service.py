# SPDX-License-Identifier: MIT
"""The keeper as a whole: a round at the start, at every event, when the next key ends, and every hour at least."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import structlog

from outlayer_keeper import health
from outlayer_keeper.budget import Budget
from outlayer_keeper.config import Config
from outlayer_keeper.contracts import DaoContract, KeyContract, RegisterContract
from outlayer_keeper.errors import BudgetSpentError, KeeperError, NoProgressError
from outlayer_keeper.metrics import Metrics
from outlayer_keeper.rounds import Rounds
from outlayer_near.credentials import load_credentials
from outlayer_near.errors import NearError, TransactionFailedError
from outlayer_near.events import BlockStream, events_of_block, open_source
from outlayer_near.rpc import NearRpc
from outlayer_near.sender import Sender

log = structlog.get_logger(__name__)

FIRST_WAIT_SECONDS = 5.0
LONGEST_SILENT_SECONDS = 60.0
GAP_SECONDS = 1.0
"""At most so often a contract is looked at, however many events there are."""
AFTER_END_SECONDS = 2.0
"""A key's end is in a final block only some time after it."""


class Keeper:
    """One process over one or two contracts. ``run`` serves until ``stop`` is set."""

    def __init__(self, config: Config, metrics: Metrics | None = None) -> None:
        self._config = config
        self._metrics = Metrics() if metrics is None else metrics
        self._contracts: list[KeyContract] = [RegisterContract(config.register_id)]
        if config.dao_id is not None:
            self._contracts.append(DaoContract(config.dao_id))
        self._wake = {contract.name: asyncio.Event() for contract in self._contracts}
        self._good = dict.fromkeys(self._wake, False)
        for contract in self._contracts:
            self._metrics.watch(contract.name)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop``. Raises ``KeeperError`` or ``NearError`` only for unusable settings."""
        config = self._config
        credentials = load_credentials(config.key_file)
        async with contextlib.AsyncExitStack() as stack:
            if config.health_port:
                runner = await health.serve(config.health_port, self._metrics.registry, self.conditions)
                stack.push_async_callback(runner.cleanup)
            rpc = await stack.enter_async_context(NearRpc(config.near_rpc_url))
            sender = Sender(rpc, config.account_id, credentials.key_pair)
            rounds = Rounds(rpc, sender, Budget(config.max_daily_yocto), self._metrics)
            log.info("keeper_starts", contracts=[item.account_id for item in self._contracts])
            tasks = [asyncio.create_task(self._watch(contract, rounds)) for contract in self._contracts]
            tasks.append(asyncio.create_task(self._listen(self._contracts)))
            stopped = asyncio.create_task(stop.wait())
            try:
                done, _ = await asyncio.wait({stopped, *tasks}, return_when=asyncio.FIRST_COMPLETED)
                for task in done - {stopped}:
                    task.result()  # they end by a fault of ours alone
            finally:
                for task in (stopped, *tasks):
                    task.cancel()
                await asyncio.gather(stopped, *tasks, return_exceptions=True)

    def conditions(self) -> dict[str, bool]:
        """What readiness is made of: the last round of each contract came to its end, and not too long ago."""
        late = 2 * self._config.round_seconds + 60
        return {name: good and self._metrics.round_seconds(name) < late for name, good in self._good.items()}

    async def _watch(self, contract: KeyContract, rounds: Rounds) -> None:
        """Round after round over one contract. Whatever the chain does, it is tried again."""
        wake, failures = self._wake[contract.name], 0
        while True:
            wake.clear()
            wait: float = self._config.round_seconds
            try:
                next_end = await rounds.clear(contract)
                failures = 0
                if next_end is not None:
                    wait = min(wait, next_end + AFTER_END_SECONDS)
                self._ended(contract, "good")
            except BudgetSpentError as error:
                log.error("keys_are_left", contract=contract.account_id, error=str(error))  # noqa: TRY400
                wait = min(wait, error.seconds)
                self._ended(contract, "budget")
            except (KeeperError, NearError, ValueError) as error:  # ValueError: an answer of another form
                failures += 1
                # what costs gas is tried again ever more seldom; a silent node is just waited for
                costly = isinstance(error, NoProgressError | TransactionFailedError)
                longest = wait if costly else min(wait, LONGEST_SILENT_SECONDS)
                wait = min(longest, FIRST_WAIT_SECONDS * 2.0 ** min(failures - 1, 20))
                log.warning(
                    "round_failed", contract=contract.account_id, error=str(error), retry_seconds=wait
                )
                self._ended(contract, "failed")
            if failures:  # an event is no reason to try sooner what has just failed
                await asyncio.sleep(wait)
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wake.wait(), wait)
            await asyncio.sleep(GAP_SECONDS)

    def _ended(self, contract: KeyContract, end: str) -> None:
        self._good[contract.name] = end == "good"
        self._metrics.rounds.labels(contract.name, end).inc()
        if end == "good":
            self._metrics.round_ended(contract.name)

    async def _listen(self, contracts: Sequence[KeyContract]) -> None:
        """Wake the round of a contract at each of its events. A gap does no harm: a round looks at all there is."""
        config = self._config
        while True:
            source = open_source(config.near_rpc_url, config.near_block_feed_url)
            try:
                async with BlockStream(source, await source.head()) as stream:
                    async for block in stream:
                        for contract in contracts:
                            found = events_of_block(block, contract.account_id, standard=contract.standard)
                            if next(found, None) is not None:
                                self._wake[contract.name].set()
            except NearError as error:
                log.warning("events_interrupted", error=str(error), retry_seconds=FIRST_WAIT_SECONDS)
                await source.close()
            await asyncio.sleep(FIRST_WAIT_SECONDS)
