# SPDX-License-Identifier: MIT
"""Prometheus metrics of the keeper."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge


class Metrics:
    """A registry of its own, so that several keepers fit into one process of tests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        self._clock = clock
        self._oldest: dict[str, float | None] = {}
        self._last_round: dict[str, float] = {}
        self.rounds = self._counter("rounds", "Rounds by contract and end", "contract", "end")
        self.removed = self._counter("keys_removed", "Keys that are gone after a call", "contract")
        self.spent = self._counter("spent_near", "NEAR burnt in gas")
        self.invalid = self._gauge("invalid_keys", "Keys held that no longer count, at the last look")
        self._age = self._gauge(
            "oldest_invalid_key_seconds",
            "For how long the oldest key that still has an access key has not counted; 0 without one",
        )
        self._lag = self._gauge("seconds_since_round", "Since the last round that came to its end")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"outlayer_keeper_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"outlayer_keeper_{name}", text, ["contract"], registry=self.registry)

    def watch(self, contract: str) -> None:
        """Show a contract's ages as they are when somebody looks."""
        self._last_round[contract], self._oldest[contract] = self._clock(), None
        self._age.labels(contract).set_function(lambda: self.invalid_seconds(contract))
        self._lag.labels(contract).set_function(lambda: self.round_seconds(contract))

    def found(self, contract: str, invalid: int, oldest_seconds: float | None) -> None:
        """What a look has found; ``oldest_seconds``: for how long, by the chain's time, or None."""
        self.invalid.labels(contract).set(invalid)
        self._oldest[contract] = None if oldest_seconds is None else self._clock() - oldest_seconds

    def round_ended(self, contract: str) -> None:
        self._last_round[contract] = self._clock()

    def invalid_seconds(self, contract: str) -> float:
        oldest = self._oldest[contract]
        return 0.0 if oldest is None else max(0.0, self._clock() - oldest)

    def round_seconds(self, contract: str) -> float:
        """Since the last round that came to its end, or since the start."""
        return self._clock() - self._last_round[contract]
