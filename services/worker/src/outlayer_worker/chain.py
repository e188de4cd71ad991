# SPDX-License-Identifier: MIT
"""What the worker reads from the chain by its own connection, and the results it sends there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from outlayer_near.errors import (
    EventError,
    RpcError,
    RpcUnavailableError,
    TransactionFailedError,
    TransactionRefusedError,
)
from outlayer_near.events import BlockSource, RequestEvent, find_execution_request
from outlayer_near.models import ExecutionSource
from outlayer_near.primitives import KeyPair, b58encode
from outlayer_near.rpc import Header, NearRpc
from outlayer_near.sender import Sender, TxOutcome
from outlayer_near.views import OutlayerViews
from outlayer_worker.errors import JobError, OutputRefusedError, RequestRefusedError, SubmissionError
from outlayer_worker.guest_env import ProjectContext
from outlayer_worker.jobs import NearRequest
from outlayer_worker.resolution import Resolution, resolve_call

PROJECT_SECONDS = 3.0
CALLBACK_WAITS = (0.0, 1.0, 3.0)


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
class Submitted:
    """A result that the contract took."""

    tx_hash: str


class RequestGoneError(JobError):
    """The contract does not hold the request any more: somebody else resolved it, or its time is over."""

    def __init__(self, request_id: int) -> None:
        super().__init__("already_settled", f"request {request_id} is no longer waiting on chain")


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

    async def request(self, near: NearRequest) -> ChainRequest:
        """Read a request again from the chain.

        Raises ``RequestRefusedError`` when the block does not hold it as stated, ``RequestGoneError`` when it has been
        settled.
        """
        if near.contract_id != self._contract_id:
            raise RequestRefusedError(f"the request is for {near.contract_id}, not for {self._contract_id}")
        try:
            event = await find_execution_request(
                self._source, self._contract_id, near.block_height, near.request_id
            )
        except EventError as error:
            raise RequestRefusedError(str(error)) from error
        if event is None:
            raise RequestRefusedError(f"block {near.block_height} holds no request {near.request_id}")
        if event.data_id != near.data_id:
            raise RequestRefusedError(f"request {near.request_id} has another data id on chain")
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

    async def charged(self, event: RequestEvent) -> tuple[int, ...]:
        """What the callback has charged in the request's own transaction, where its receipt belongs."""
        for wait in CALLBACK_WAITS:
            await asyncio.sleep(wait)
            try:
                answer = await self._rpc.transaction(event.tx_hash, event.signer_id)
                return charged_costs(TxOutcome.from_rpc(answer))
            except RpcError as error:
                if error.name != "NOT_FINISHED":
                    raise
        return ()

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
            if resolution.success:
                raise OutputRefusedError(str(error)) from error
            raise SubmissionError(str(error)) from error
        except TransactionRefusedError as error:
            if error.kind in ("TransactionSizeExceeded", "TotalPrepaidGasExceeded", "ActionsValidation"):
                raise OutputRefusedError(str(error)) from error
            raise SubmissionError(str(error)) from error
        except (RpcError, RpcUnavailableError) as error:
            raise SubmissionError(str(error)) from error
        return Submitted(outcome.tx_hash)


def charged_costs(outcome: TxOutcome) -> tuple[int, ...]:
    """The amounts out of the contract's log lines ``[[yNEAR charged: "<cost>"]]``, one for each settled request."""
    found = []
    for line in outcome.logs:
        head, mark, rest = line.partition('[[yNEAR charged: "')
        amount = rest.partition('"')[0]
        if mark and not head and amount.isascii() and amount.isdecimal():
            found.append(int(amount))
    return tuple(found)
