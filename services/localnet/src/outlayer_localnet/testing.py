# SPDX-License-Identifier: MIT
"""A node inside the test process: real RPC and block feed on a free port, blocks on demand.

``with localnet() as chain:`` starts one in a thread of its own. The helpers talk to it over HTTP, as any
client would, except for those that say they look inside. As a pytest fixture::

    @pytest.fixture
    def chain():
        with localnet() as node:
            yield node

Starting takes a few milliseconds; :meth:`Localnet.snapshot` and :meth:`Localnet.restore` let tests share
a chain on which contracts are deployed already.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from outlayer_localnet.chain import Chain, ChainConfig
from outlayer_localnet.errors import LocalnetError
from outlayer_localnet.genesis import TEST_ACCOUNT, load_or_create_key
from outlayer_localnet.node import Node
from outlayer_localnet.server import Server
from outlayer_near.primitives import (
    AccessKey,
    Action,
    AddKey,
    CreateAccount,
    DeployContract,
    FunctionCall,
    KeyPair,
    Transaction,
    Transfer,
    decode_hash,
)

__all__ = [
    "NEAR",
    "TGAS",
    "CallFailedError",
    "Localnet",
    "RpcFailedError",
    "TestAccount",
    "TxResult",
    "localnet",
]

NEAR = 10**24
TGAS = 10**12
T = TypeVar("T")


class RpcFailedError(LocalnetError):
    """The node answered with an error; ``error`` is its JSON."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['cause']['name']}: {error['data']}")
        self.error = error

    @property
    def cause(self) -> str:
        """Name of the cause, such as UNKNOWN_ACCOUNT."""
        return str(self.error["cause"]["name"])


class CallFailedError(LocalnetError):
    """A transaction or view call failed; ``failure`` is nearcore's JSON or text."""

    def __init__(self, failure: Any) -> None:
        super().__init__(failure if isinstance(failure, str) else json.dumps(failure))
        self.failure = failure


@dataclass(frozen=True, slots=True)
class TestAccount:
    """An account and a full-access key of it."""

    __test__ = False

    account_id: str
    key: KeyPair


@dataclass(frozen=True, slots=True)
class TxResult:
    """A transaction's outcome as ``tx`` answers it."""

    raw: dict[str, Any]

    @property
    def hash(self) -> str:
        """Transaction hash, base58."""
        return str(self.raw["transaction"]["hash"])

    @property
    def status(self) -> Any:
        """FinalExecutionStatus."""
        return self.raw["status"]

    @property
    def failure(self) -> Any:
        """What went wrong as JSON, or None."""
        return self.status.get("Failure") if isinstance(self.status, dict) else None

    @property
    def value(self) -> bytes:
        """The value returned; raises :class:`CallFailedError` if the transaction failed."""
        if self.failure is not None or not isinstance(self.status, dict):
            raise CallFailedError(self.failure or self.status)
        return base64.b64decode(self.status["SuccessValue"])

    def json(self) -> Any:
        """The value as JSON."""
        return json.loads(self.value)

    @property
    def outcomes(self) -> list[dict[str, Any]]:
        """Outcomes of the transaction and its receipts, in tree order."""
        return [self.raw["transaction_outcome"], *self.raw["receipts_outcome"]]

    @property
    def logs(self) -> list[str]:
        """All log lines, in tree order."""
        return [line for item in self.outcomes for line in item["outcome"]["logs"]]

    @property
    def gas_burnt(self) -> int:
        """Gas burnt by the transaction and all its receipts."""
        return sum(int(item["outcome"]["gas_burnt"]) for item in self.outcomes)

    @property
    def tokens_burnt(self) -> int:
        """yoctoNEAR burnt by the transaction and all its receipts."""
        return sum(int(item["outcome"]["tokens_burnt"]) for item in self.outcomes)


class Localnet:
    """Handle of a running node. Not for use from several threads at once."""

    def __init__(self, node: Node, server: Server, loop: asyncio.AbstractEventLoop, genesis: KeyPair) -> None:
        self.node = node
        self._server = server
        self._loop = loop
        self.test_account = TestAccount(TEST_ACCOUNT, genesis)
        self._nonces: dict[tuple[str, KeyPair], int] = {}

    @property
    def rpc_url(self) -> str:
        """JSON-RPC address."""
        return self._server.url

    @property
    def feed_url(self) -> str:
        """Base address of the block feed."""
        return self._server.url

    @property
    def chain(self) -> Chain:
        """The chain itself, to look inside."""
        return self.node.chain

    # -- RPC ---------------------------------------------------------------------------------------

    def request(self, method: str, params: Any) -> dict[str, Any]:
        """The whole JSON-RPC answer, whatever its HTTP status."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        request = urllib.request.Request(  # noqa: S310 - the node's own http address
            self.rpc_url, body, {"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310
                answer: dict[str, Any] = json.load(reply)
        except urllib.error.HTTPError as error:
            with error:
                answer = json.load(error)
        return answer

    def rpc(self, method: str, params: Any) -> Any:
        """The result of a method; raises :class:`RpcFailedError`."""
        answer = self.request(method, params)
        if "error" in answer:
            raise RpcFailedError(answer["error"])
        return answer["result"]

    def query(self, request_type: str, **fields: Any) -> Any:
        """A query at the head, or where ``block_id`` says."""
        where = {} if "block_id" in fields else {"finality": "optimistic"}
        return self.rpc("query", {"request_type": request_type, **where, **fields})

    # -- transactions ------------------------------------------------------------------------------

    def next_nonce(self, account: TestAccount) -> int:
        """The nonce after the last one used with this key."""
        slot = (account.account_id, account.key)
        key = self.query(
            "view_access_key", account_id=account.account_id, public_key=str(account.key.public_key)
        )
        if "error" in key:
            raise CallFailedError(key["error"])
        self._nonces[slot] = max(self._nonces.get(slot, 0), key["nonce"]) + 1
        return self._nonces[slot]

    def sign(
        self,
        account: TestAccount,
        receiver_id: str,
        actions: Sequence[Action],
        *,
        nonce: int | None = None,
        block_hash: bytes | None = None,
    ) -> bytes:
        """A signed transaction's bytes."""
        transaction = Transaction(
            signer_id=account.account_id,
            public_key=account.key.public_key,
            nonce=self.next_nonce(account) if nonce is None else nonce,
            receiver_id=receiver_id,
            block_hash=decode_hash(self.block()["header"]["hash"]) if block_hash is None else block_hash,
            actions=tuple(actions),
        )
        return transaction.sign(account.key).to_bytes()

    def send_bytes(self, signed: bytes, *, wait_until: str = "FINAL") -> TxResult:
        """Send signed bytes and wait; refunds included unless told otherwise."""
        params = {"signed_tx_base64": base64.b64encode(signed).decode(), "wait_until": wait_until}
        return TxResult(self.rpc("send_tx", params))

    def send(
        self, account: TestAccount, receiver_id: str, actions: Sequence[Action], *, wait_until: str = "FINAL"
    ) -> TxResult:
        """Sign, send and wait. Does not raise if execution fails: see ``TxResult.failure``."""
        return self.send_bytes(self.sign(account, receiver_id, actions), wait_until=wait_until)

    def tx(self, tx_hash: str, *, wait_until: str = "NONE") -> TxResult:
        """A transaction's outcome as it is now."""
        params = {"tx_hash": tx_hash, "sender_account_id": TEST_ACCOUNT, "wait_until": wait_until}
        return TxResult(self.rpc("tx", params))

    def create_account(
        self, account_id: str, balance: int = 100 * NEAR, *, creator: TestAccount | None = None
    ) -> TestAccount:
        """A new account with a new full-access key, paid by ``creator`` (by default ``test``)."""
        key = KeyPair.generate()
        actions = (CreateAccount(), Transfer(balance), AddKey(key.public_key, AccessKey()))
        result = self.send(creator or self.test_account, account_id, actions)
        if result.failure is not None:
            raise CallFailedError(result.failure)
        return TestAccount(account_id, key)

    def deploy(
        self, account: TestAccount, wasm: bytes | Path, init: str | None = None, args: Any = None
    ) -> TxResult:
        """Deploy code, and call ``init`` in the same transaction if given; raises if that fails."""
        code = wasm.read_bytes() if isinstance(wasm, Path) else wasm
        actions: list[Action] = [DeployContract(code)]
        if init is not None:
            actions.append(FunctionCall(init, _encode(args), 100 * TGAS))
        result = self.send(account, account.account_id, actions)
        if result.failure is not None:
            raise CallFailedError(result.failure)
        return result

    def call(
        self,
        account: TestAccount,
        contract_id: str,
        method: str,
        args: Any = None,
        *,
        gas: int = 100 * TGAS,
        deposit: int = 0,
        wait_until: str = "FINAL",
    ) -> TxResult:
        """Call a method. ``args``: bytes as they are, anything else as JSON."""
        action = FunctionCall(method, _encode(args), gas, deposit)
        return self.send(account, contract_id, [action], wait_until=wait_until)

    # -- views -------------------------------------------------------------------------------------

    def view_bytes(self, contract_id: str, method: str, args: Any = None) -> bytes:
        """A view call's value; raises :class:`CallFailedError`."""
        encoded = base64.b64encode(_encode(args)).decode()
        answer = self.query("call_function", account_id=contract_id, method_name=method, args_base64=encoded)
        if "error" in answer:
            raise CallFailedError(answer["error"])
        return bytes(answer["result"])

    def view(self, contract_id: str, method: str, args: Any = None) -> Any:
        """A view call's value as JSON; None if it is empty."""
        value = self.view_bytes(contract_id, method, args)
        return json.loads(value) if value else None

    def account(self, account_id: str) -> Any:
        """``view_account``."""
        return self.query("view_account", account_id=account_id)

    def balance(self, account_id: str) -> int:
        """yoctoNEAR the account holds."""
        return int(self.account(account_id)["amount"])

    def block(self, block_id: int | str | None = None) -> Any:
        """``block``: the head by default."""
        return self.rpc("block", {"finality": "final"} if block_id is None else {"block_id": block_id})

    @property
    def height(self) -> int:
        """Height of the head."""
        return int(self.block()["header"]["height"])

    # -- control -----------------------------------------------------------------------------------

    def _run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(timeout=120)

    def produce_block(self) -> int:
        """Make one block now, empty or not; returns its height."""
        return self._run(self.node.produce_block).height

    def fast_forward(self, delta: int) -> int:
        """Skip ``delta`` heights; returns the new height."""
        self.rpc("sandbox_fast_forward", {"delta_height": delta})
        return self.height

    def set_time(self, delta_seconds: float) -> None:
        """Move the chain's clock."""
        self.rpc("localnet_set_time", {"delta_seconds": delta_seconds})

    def snapshot(self, name: str = "default") -> None:
        """Keep a copy of the whole chain."""
        self.rpc("localnet_snapshot", {"name": name})

    def restore(self, name: str = "default") -> None:
        """Go back to a copy."""
        self.rpc("localnet_restore", {"name": name})
        self._nonces.clear()


def _encode(args: Any) -> bytes:
    if args is None:
        return b"{}"
    return args if isinstance(args, bytes) else json.dumps(args, separators=(",", ":")).encode()


def clock_from(start: int) -> Callable[[], int]:
    """A clock for ``localnet``: it begins at ``start`` (unix seconds) when it is made, and gives nanoseconds."""
    made = time.monotonic_ns()
    return lambda: start * 10**9 + time.monotonic_ns() - made


@contextlib.contextmanager
def localnet(
    state: Path | None = None,
    *,
    config: ChainConfig | None = None,
    heartbeat: bool = False,
    clock: Callable[[], int] | None = None,
    wait_seconds: float = 10.0,
) -> Iterator[Localnet]:
    """A running node, in memory unless ``state`` names a directory.

    Without ``heartbeat`` a block is made only when there is something to do, so tests can count blocks.
    ``clock`` gives nanoseconds; ``wait_seconds`` is how long RPC waits for an outcome before it gives up.
    """
    if state is None:
        genesis = KeyPair.generate()
    else:
        state.mkdir(parents=True, exist_ok=True)
        genesis = load_or_create_key(state)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=_run_loop, args=(loop,), name="localnet", daemon=True)
    thread.start()

    def run(work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, loop).result(timeout=60)

    async def start() -> tuple[Node, Server]:
        extra = {} if clock is None else {"clock": clock}
        node = Node(Chain.open(state, genesis.public_key, config, **extra), heartbeat=heartbeat)
        server = Server(node, wait_seconds=wait_seconds)
        await server.start()
        await node.start()
        return node, server

    try:
        node, server = run(start())
        try:
            yield Localnet(node, server, loop, genesis)
        finally:
            run(server.stop())
            run(node.stop())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)
        loop.close()


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
