# SPDX-License-Identifier: MIT
"""A bound on what is spent in any day. Pure but for the clock it is given."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

WINDOW_SECONDS = 86_400.0


class Budget:
    """YoctoNEAR spent within the last 24 hours, against a limit."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._spent: deque[tuple[float, int]] = deque()

    def spend(self, yocto: int) -> None:
        """Note what a transaction has burnt."""
        self._spent.append((self._clock(), yocto))

    def spent(self) -> int:
        """YoctoNEAR of the last 24 hours."""
        while self._spent and self._spent[0][0] <= self._clock() - WINDOW_SECONDS:
            self._spent.popleft()
        return sum(amount for _, amount in self._spent)

    def wait_seconds(self) -> float:
        """How long until something may be spent again; 0 when now."""
        if self.spent() < self._limit:
            return 0.0
        return self._spent[0][0] + WINDOW_SECONDS - self._clock() if self._spent else WINDOW_SECONDS
