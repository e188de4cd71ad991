# SPDX-License-Identifier: MIT
"""Waking waiters. PostgreSQL holds the truth; a bell that is not heard costs at most one poll interval.

Within a process a bell rings at once. Other coordinators hear it through Redis, on two channels: one for "there
is work", one for the ids of finished calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import redis.asyncio as redis
import structlog
from redis.exceptions import RedisError

_WORK = "outlayer:work"
_DONE = "outlayer:done"
_RETRY_SECONDS = 1.0
_REDIS_TIMEOUT_SECONDS = 1.0
_REST_SECONDS = 2.0
"""After a failure Redis is left alone for so long: a call must not wait for a dead doorbell."""

log = structlog.get_logger(__name__)


class Doorbell:
    """One per process: its waiting workers, the clients that wait for their calls, and a line to the others."""

    def __init__(self, redis_url: str) -> None:
        self._redis: redis.Redis = redis.Redis.from_url(
            redis_url,
            socket_timeout=_REDIS_TIMEOUT_SECONDS,
            socket_connect_timeout=_REDIS_TIMEOUT_SECONDS,
        )
        self._listener_redis: redis.Redis = redis.Redis.from_url(
            redis_url, socket_connect_timeout=_REDIS_TIMEOUT_SECONDS
        )
        self._name = uuid.uuid4().hex.encode()
        self._workers: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        self._clients: dict[uuid.UUID, set[asyncio.Future[Any]]] = {}
        self._resting_until = 0.0
        self._task: asyncio.Task[None] | None = None
        self._rings: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._task = asyncio.create_task(self._listen(), name="doorbell")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*self._rings, return_exceptions=True)
        for client in (self._redis, self._listener_redis):
            with contextlib.suppress(RedisError, OSError):
                await client.aclose()

    # -- workers wait for work ---------------------------------------------------------------------------------

    async def wait_for_work(self, seconds: float) -> None:
        """Return when there may be work, or when the time is over."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._workers[future] = None
        try:
            await asyncio.wait_for(future, seconds)
        except TimeoutError:
            return
        except asyncio.CancelledError:
            # this worker went away with a bell in hand: the next one gets it
            if future.done() and not future.cancelled():
                self._wake_one()
            raise
        finally:
            self._workers.pop(future, None)

    def work(self) -> None:
        """There is one more job: wake one worker here, or else ask the other coordinators to."""
        if not self._wake_one():
            self._ring(_WORK, self._name)

    def wake_all(self) -> None:
        """Wake every worker and client: at shutdown, and when bells may have been missed."""
        while self._wake_one():
            continue
        for futures in self._clients.values():
            for future in futures:
                if not future.done():
                    future.set_result(None)

    def _wake_one(self) -> bool:
        while self._workers:
            future, _ = self._workers.popitem(last=False)
            if not future.done():
                future.set_result(None)
                return True
        return False

    # -- clients wait for their call ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def waiting(self, call_id: uuid.UUID) -> Iterator[asyncio.Future[Any]]:
        """Gives a future that is done once the call may have finished; its result is the settled call when that
        happened in this process, else None. Enter before the call's row is written."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        waiters = self._clients.setdefault(call_id, set())
        waiters.add(future)
        try:
            yield future
        finally:
            waiters.discard(future)
            if not waiters:
                self._clients.pop(call_id, None)

    def done(self, calls: Mapping[uuid.UUID, Any]) -> None:
        """These calls are settled, with these results. What nobody waits for here is told to the others."""
        elsewhere = [call_id for call_id, result in calls.items() if not self._wake_client(call_id, result)]
        if elsewhere:
            self._ring(_DONE, b"".join(call_id.bytes for call_id in elsewhere))

    def _wake_client(self, call_id: uuid.UUID, result: Any = None) -> bool:
        futures = self._clients.get(call_id, ())
        for future in futures:
            if not future.done():
                future.set_result(result)
        return bool(futures)

    # -- Redis -------------------------------------------------------------------------------------------------

    def _ring(self, channel: str, message: bytes) -> None:
        if time.monotonic() < self._resting_until:
            return
        task = asyncio.create_task(self._publish(channel, message))
        self._rings.add(task)
        task.add_done_callback(self._rings.discard)

    async def _publish(self, channel: str, message: bytes) -> None:
        try:
            await self._redis.publish(channel, message)
        except (RedisError, OSError) as error:
            self._rest(error)

    def _rest(self, error: Exception) -> None:
        self._resting_until = time.monotonic() + _REST_SECONDS
        log.warning("redis_unavailable", error=type(error).__name__)

    async def count(self, key: str, seconds: int) -> int | None:
        """Count one more use of a key in its window of so many seconds; None when Redis is away."""
        if time.monotonic() < self._resting_until:
            return None
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.incr(key)
                pipe.expire(key, seconds)
                used, _ = await pipe.execute()
            return int(used)
        except (RedisError, OSError) as error:
            self._rest(error)
            return None

    async def ping(self) -> float:
        """Milliseconds of one round trip. Raises ``RedisError`` or ``OSError``."""
        started = time.perf_counter()
        await self._redis.ping()
        return (time.perf_counter() - started) * 1e3

    async def _listen(self) -> None:
        while True:
            try:
                async with self._listener_redis.pubsub(ignore_subscribe_messages=True) as pubsub:
                    await pubsub.subscribe(_WORK, _DONE)
                    self.wake_all()  # bells that rang while nobody listened
                    async for message in pubsub.listen():
                        self._hear(message["channel"], message["data"])
            except (RedisError, OSError) as error:
                log.warning("doorbell_lost", error=type(error).__name__)
            await asyncio.sleep(_RETRY_SECONDS)

    def _hear(self, channel: bytes, data: bytes) -> None:
        if channel == _WORK.encode():
            if data != self._name:
                self._wake_one()
            return
        for start in range(0, len(data) - 15, 16):
            self._wake_client(uuid.UUID(bytes=data[start : start + 16]))
