# SPDX-License-Identifier: MIT
"""Gets the worker's key approved by the register contract, and keeps it so (outlayer.md §2)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from outlayer_attestation.errors import AttestationError
from outlayer_attestation.record import registration_report_data, reverification_report_data
from outlayer_near.calls.register import register_worker_key, reverify_worker_key
from outlayer_near.errors import NearError
from outlayer_near.models import RegisterResult, WorkerKey
from outlayer_near.primitives import FunctionCall
from outlayer_near.rpc import NearRpc
from outlayer_near.sender import Sender
from outlayer_near.views import RegisterViews
from outlayer_worker.errors import KeyRemovedError, RegistrationError

log = structlog.get_logger(__name__)

CHECK_SECONDS = 60.0
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30.0
REMOVED = "key_removed"
"""The contract's reason for a key that it took away once, which never counts again."""

Quote = Callable[[bytes], Awaitable[bytes]]


def needs_renewal(verified_at: int, expires_at: int, now: float) -> bool:
    """Whether a key has a third of its life or less before it: room for failures before it expires."""
    return expires_at - now <= (expires_at - verified_at) / 3


class Registration:
    """Registers one key, paid by the init account whose key may do nothing else."""

    def __init__(
        self, rpc: NearRpc, init_sender: Sender, operator_id: str, public_key: str, quote: Quote
    ) -> None:
        self._rpc = rpc
        self._sender = init_sender
        self._operator_id = operator_id
        self._public_key = public_key
        self._quote = quote
        self._views = RegisterViews(rpc, operator_id)
        self.expires_at: int | None = None

    async def is_current(self) -> bool:
        """Whether the chain has the key approved, usable, and not about to expire."""
        return await self._is_current(await self._views.get_worker_key(self._public_key))

    async def _is_current(self, key: WorkerKey | None) -> bool:
        if key is None or not await self._views.is_worker_key_valid(self._public_key):
            return False
        if not await self._rpc.has_access_key(self._operator_id, self._public_key):
            return False
        self.expires_at = key.expires_at
        return not needs_renewal(key.verified_at, key.expires_at, time.time())

    async def register(self) -> None:
        """Send a first quote over the key. Raises ``RegistrationError`` when the contract rejects it."""
        quote = await self._quote(registration_report_data(self._public_key))
        await self._submit(register_worker_key(self._public_key, quote))

    async def renew(self, challenge: str) -> None:
        """Send a quote made for the contract's challenge: only a fresh one lets a known key live longer."""
        data = reverification_report_data(self._operator_id, self._public_key, bytes.fromhex(challenge))
        await self._submit(reverify_worker_key(self._public_key, await self._quote(data)))

    async def _submit(self, action: FunctionCall) -> None:
        outcome = await self._sender.send(self._operator_id, [action])
        result = RegisterResult.read(outcome.json())
        if result.reason == REMOVED:
            raise KeyRemovedError(
                f"the register contract has removed the key {self._public_key} for good: {result.detail}",
                hint="the worker starts again with a new key",
            )
        if result.status != "approved":
            raise RegistrationError(
                f"the register contract rejected this worker: {result.reason}: {result.detail}",
                hint="are the measurements of this build approved, and is the collateral current?",
            )
        self.expires_at = result.expires_at
        log.info(
            "key_registered",
            method=action.method_name,
            public_key=self._public_key,
            transaction=outcome.tx_hash,
            measurement_set=result.measurement_set,
            expires_at=result.expires_at,
        )

    async def ensure(self) -> None:
        """Return once the key is approved; a rejection is asked again, as approval may come later.

        Raises ``KeyRemovedError`` for a key that can never be approved again.
        """
        wait = FIRST_WAIT_SECONDS
        while True:
            try:
                key = await self._views.get_worker_key(self._public_key)
                if await self._is_current(key):
                    return
                if key is None or key.challenge is None:
                    await self.register()
                else:
                    await self.renew(key.challenge)
                return
            except (RegistrationError, NearError, AttestationError, OSError, ValueError) as error:
                log.warning("registration_failed", error=str(error), retry_seconds=wait)
                await asyncio.sleep(wait)
                wait = min(wait * 2, LONGEST_WAIT_SECONDS)

    async def keep(self) -> None:
        """Renew in time, until cancelled."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            await self.ensure()
