# SPDX-License-Identifier: MIT
"""What the worker reads from the chain by its own connection, and the results it sends there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from outlayer_near.errors import (
    EventError,
    NoSuchMethodError,
    RpcError,
    RpcUnavailableError,
    TransactionFailedError,
    TransactionRefusedError,
)
from outlayer_near.events import BlockSource, RequestEvent, charge_of, find_execution_request
from outlayer_near.models import ExecutionSource, SizeLimits
from outlayer_near.primitives import KeyPair, b58encode
from outlayer_near.rpc import Header, NearRpc
from outlayer_near.sender import Sender, TxOutcome
from outlayer_near.views import OutlayerViews
from outlayer_worker.errors import JobError, OutputRefusedError, RequestRefusedError, SubmissionError
from outlayer_worker.guest_env import ProjectContext
from outlayer_worker.jobs import NearRequest
from outlayer_worker.resolution import Resolution, resolve_call

PROJECT_SECONDS = 3.0
PRICES_SECONDS = 60.0
CALLBACK_WAITS = (0.0, 1.0, 3.0)
YIELD_BLOCKS = 200
"""After so many blocks a request's yield ends by itself, and the request with it (near.md: yield timeout)."""
OVER_BLOCKS = YIELD_BLOCKS + 20
"""After so many blocks that end has been executed too."""


@dataclass(frozen=True)
class ResolvedProject:
    """What a project id stands for at this moment: its uuid, a version, and that version's code."""

    context: ProjectContext
    version_key: str
    source: ExecutionSource


@dataclass(frozen=True)
class ChainRequest:
    """A request as the chain shows it: the event, the input, and that it is still waiting for its result."""

    event: RequestEvent
    input: bytes


@dataclass(frozen=True)
class AnswerPrices:
    """What the contract takes of an answer, in bytes of the JSON text that the caller gets, and at what price."""

    base_fee: int
    limits: SizeLimits

    def needed(self, output_bytes: int, stored_input_bytes: int) -> int:
        """YoctoNEAR that a request must pay for an answer of this size.

        ``stored_input_bytes``: of an input that only the state holds, else 0.
        """
        input_price = stored_input_bytes * self.limits.input_byte_price
        return self.base_fee + input_price + self.limits.output_price(output_bytes)


@dataclass(frozen=True)
class Submitted:
    """A result that the contract took."""

    tx_hash: str


class RequestGoneError(JobError):
    """The contract does not hold the request any more: somebody else resolved it, or its time is over."""

    def __init__(self, request_id: int) -> None:
        super().__init__("already_settled", f"request {request_id} is no longer waiting on chain")


# an answer came before, or the request's end did: views may show a request for a moment that is gone
_GONE = ("is already answered", "Execution request not found")
# of the contract's refusals of an answer, those that are about its output
_TOO_LARGE = ("The output is ", "does not pay for an output of")
# and those that a later try may not meet: the yield that ends in this moment, the contract short of NEAR
_PASSING = ("Unable to resume execution promise", "The contract's reserve is used up")
# a transaction that no chain takes, at whatever time
_UNSENDABLE = ("TransactionSizeExceeded", "TotalPrepaidGasExceeded", "ActionsValidation")


def failed_answer(message: str, *, success: bool, request_id: int) -> Exception:
    """What follows from an answer's transaction that ran and failed with this message; the request still waits."""
    if any(words in message for words in _GONE):
        return RequestGoneError(request_id)
    if any(words in message for words in _PASSING):
        return SubmissionError(message, ran=True)
    if success:
        return OutputRefusedError(message, too_large=any(words in message for words in _TOO_LARGE))
    return SubmissionError(message, ran=True)


class Chain:
    """Views, events and submissions. Raises ``NearError`` when the chain cannot be reached."""

    def __init__(
        self, rpc: NearRpc, source: BlockSource, *, contract_id: str, operator_id: str, key: KeyPair
    ) -> None:
        self._rpc = rpc
        self._source = source
        self._contract_id = contract_id
        self._views = OutlayerViews(rpc, contract_id)
        self._sender = Sender(rpc, operator_id, key)
        self._projects: dict[tuple[str, str | None], tuple[float, ResolvedProject]] = {}
        self._prices: tuple[float, AnswerPrices | None] | None = None

    async def close(self) -> None:
        await self._source.close()
        await self._rpc.close()

    async def head(self) -> Header:
        """The newest final block."""
        return await self._rpc.header()

    async def project(self, project_id: str, version_key: str | None) -> ResolvedProject:
        """A project's uuid and code, at most ``PROJECT_SECONDS`` old. Raises ``JobError`` (project_not_found)."""
        now = time.monotonic()
        known = self._projects.get((project_id, version_key))
        if known is not None and now - known[0] < PROJECT_SECONDS:
            return known[1]
        found = await self._read_project(project_id, version_key)
        if len(self._projects) > 4096:
            self._projects.clear()
        self._projects[project_id, version_key] = (now, found)
        return found

    async def _read_project(self, project_id: str, version_key: str | None) -> ResolvedProject:
        project = await self._views.get_project(project_id)
        if project is None:
            raise JobError("project_not_found", f"there is no project {project_id} on chain")
        key = version_key or project.active_version
        version = await self._views.get_version(project_id, key) if key else None
        if version is None:
            raise JobError("project_not_found", f"project {project_id} has no version {key or '(active)'}")
        return ResolvedProject(ProjectContext(project_id, project.uuid), key, version.source)

    async def project_uuid(self, project_id: str) -> str | None:
        project = await self._views.get_project(project_id)
        return None if project is None else project.uuid

    async def answer_prices(self) -> AnswerPrices | None:
        """Bounds and prices of answers, at most ``PRICES_SECONDS`` old; None for a contract that tells none."""
        now = time.monotonic()
        if self._prices is None or now - self._prices[0] > PRICES_SECONDS:
            self._prices = (now, await self._read_prices())
        return self._prices[1]

    async def _read_prices(self) -> AnswerPrices | None:
        try:
            limits = await self._views.get_size_limits()
        except NoSuchMethodError:
            return None
        base_fee, *_ = await self._views.get_pricing()
        return AnswerPrices(base_fee, limits)

    async def request(self, near: NearRequest) -> ChainRequest:
        """Read a request again from the chain.

        Raises ``RequestRefusedError`` when the block does not hold it as stated, ``RequestGoneError`` when it has been
        settled.
        """
        if near.contract_id != self._contract_id:
            raise RequestRefusedError(f"the request is for {near.contract_id}, not for {self._contract_id}")
        try:
            event = await find_execution_request(
                self._source, self._contract_id, near.block_height, near.request_id, near.data_id
            )
        except EventError as error:
            raise RequestRefusedError(str(error)) from error
        if event is None:
            raise RequestRefusedError(
                f"block {near.block_height} holds no request {near.request_id} with data id {near.data_id.hex()}"
            )
        await self._check_project(event)
        pending = await self._views.get_request(near.request_id)
        if pending is None:
            raise RequestGoneError(near.request_id)
        if bytes(pending.data_id) != event.data_id or pending.sender_id != event.predecessor_id:
            raise RequestRefusedError(f"request {near.request_id} differs between event and contract state")
        text = pending.input_data if event.request.input_data_in_state else event.request.input_data
        return ChainRequest(event, (text or "").encode())

    async def _check_project(self, event: RequestEvent) -> None:
        """R1: a uuid counts only when the chain gives it for the event's own project."""
        request = event.request
        if request.project_uuid is None and request.project_id is None:
            return
        if request.project_id is None:
            raise RequestRefusedError(f"request {request.request_id} names a project uuid without a project")
        if await self.project_uuid(request.project_id) != request.project_uuid:
            raise RequestRefusedError(f"request {request.request_id} names a uuid that is not its project's")

    async def is_waiting(self, request_id: int) -> bool:
        return await self._views.get_request(request_id) is not None

    async def succeeded(self, tx_hash: str) -> bool:
        """Whether a transaction that this worker sent in an earlier life has run to a good end."""
        try:
            answer = await self._rpc.transaction(tx_hash, self._sender.account_id)
            return TxOutcome.from_rpc(answer).succeeded
        except RpcError:
            return False

    async def is_over(self, near: NearRequest) -> bool:
        """Whether the request's time is over: no answer can reach it any more."""
        return (await self.head()).height > near.block_height + OVER_BLOCKS

    async def charged(self, event: RequestEvent, answer_tx: str) -> int | None:
        """YoctoNEAR that the request was charged, by its own transaction or by the operator's that answered it."""
        own = self._sender.account_id
        for wait in CALLBACK_WAITS:
            await asyncio.sleep(wait)
            for tx_hash, signer_id in ((event.tx_hash, event.signer_id), (answer_tx, own)):
                status = await self._rpc.transaction(tx_hash, signer_id, receipts=True)
                if "receipts" not in status:
                    continue  # not executed yet
                found = charge_of(status, self._contract_id, event.request.request_id)
                if found is not None:
                    return found
        return None

    async def resolve(self, resolution: Resolution, on_sent: Callable[[str], None]) -> Submitted:
        """Deliver a result; ``on_sent`` learns the transaction's hash before its end is known.

        Raises ``RequestGoneError``, ``OutputRefusedError``, or ``SubmissionError`` (worth another try).
        """
        if not await self.is_waiting(resolution.request_id):
            raise RequestGoneError(resolution.request_id)
        action = resolve_call(resolution)
        try:
            signed = await self._sender.submit(self._contract_id, [action])
            on_sent(b58encode(signed.hash()))
            outcome = await self._sender.wait(signed)
        except TransactionFailedError as error:
            if not await self.is_waiting(resolution.request_id):
                raise RequestGoneError(resolution.request_id) from error
            raise failed_answer(
                str(error), success=resolution.success, request_id=resolution.request_id
            ) from error
        except TransactionRefusedError as error:
            if error.kind in _UNSENDABLE and resolution.success:
                too_large = error.kind == "TransactionSizeExceeded"
                raise OutputRefusedError(str(error), too_large=too_large) from error
            raise SubmissionError(str(error)) from error
        except (RpcError, RpcUnavailableError) as error:
            raise SubmissionError(str(error)) from error
        return Submitted(outcome.tx_hash)
