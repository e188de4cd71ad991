# SPDX-License-Identifier: MIT
"""A chain on which scenarios call contracts, with the gas of every call.

Nothing on it is left to chance: accounts' keys come from their names, time from the block height, quotes from a
recording, and blocks are made one after another in this thread. So the same code burns the same gas each time,
to the unit.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import wasmtime

from outlayer_localnet.blocks import Block
from outlayer_localnet.chain import Chain
from outlayer_localnet.hostctx import PromiseResult, VMContext
from outlayer_localnet.vm import External, VMOutcome, add_tap, remove_tap
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
from tools.contracttable.errors import TableError
from tools.contracttable.quotes import START

NEAR: Final = 10**24
ARTIFACTS: Final = Path(__file__).resolve().parents[2] / "contracts" / "artifacts"
_BLOCK_NS: Final = 600_000_000
_MOST_BLOCKS: Final = 50


def key_of(account_id: str, number: int = 0) -> KeyPair:
    """A key that follows from a name."""
    seed = hashlib.sha256(f"contract table/{account_id}/{number}".encode()).digest()
    return KeyPair(seed)


def methods_of(code: bytes) -> list[str]:
    """What the code exports as methods: functions without parameters and results, in alphabetical order."""
    exports = wasmtime.Module(wasmtime.Engine(), code).exports
    return sorted(
        item.name
        for item in exports
        if isinstance(item.type, wasmtime.FuncType) and not item.type.params and not item.type.results
    )


@dataclass(frozen=True)
class Measured:
    """Gas of one call that succeeded; ``view`` if it was one, ``own`` if the contract called itself."""

    burnt: int
    view: bool
    own: bool


@dataclass
class Stage:
    """The chain, and what was measured on it by code (its SHA-256) and method."""

    chain: Chain
    folder: Path
    gas: dict[tuple[str, str], list[Measured]] = field(default_factory=lambda: defaultdict(list))
    _open: dict[int, tuple[str, str, bool, bool]] = field(default_factory=dict)
    _logs: list[str] = field(default_factory=list)
    _nonces: int = 0

    # -- accounts and contracts ----------------------------------------------------------------------

    def account(self, account_id: str, balance: int = 100 * NEAR) -> str:
        actions = (CreateAccount(), Transfer(balance), AddKey(key_of(account_id).public_key, AccessKey()))
        self._succeed("test", account_id, actions)
        return account_id

    def deploy(self, account_id: str, artifact: str | bytes, init: FunctionCall | None = None) -> str:
        """A new account with an artifact (by its name without ``.wasm``) or other code, and its state."""
        self.account(account_id)
        code = artifact if isinstance(artifact, bytes) else (self.folder / f"{artifact}.wasm").read_bytes()
        self._succeed(account_id, account_id, [DeployContract(code), *([init] if init else [])])
        return account_id

    def upgrade(self, account_id: str, artifact: str) -> None:
        """Deploy an artifact over what an account has; its state stays."""
        code = (self.folder / f"{artifact}.wasm").read_bytes()
        self._succeed(account_id, account_id, (DeployContract(code),))

    # -- calls ---------------------------------------------------------------------------------------

    def call(self, signer: str, receiver: str, *actions: Action, key: KeyPair | None = None) -> Any:
        """Send and run until nothing moves; the value as JSON, None while a yield is open or for no value.

        ``key``: another key of the signer than its first.
        """
        return self._succeed(signer, receiver, actions, key or key_of(signer))

    def view(self, contract: str, method: str, **args: Any) -> Any:
        data = json.dumps(args, separators=(",", ":")).encode()
        answer = self.chain.view_call(contract, method, data, self.chain.head)
        if answer.error is not None:
            raise TableError(f"{contract}.{method} failed: {answer.error}")
        return json.loads(answer.value) if answer.value else None

    def all_events(self) -> list[dict[str, Any]]:
        """The events logged so far, oldest first."""
        lines = [line for line in self._logs if line.startswith("EVENT_JSON:")]
        return [json.loads(line.removeprefix("EVENT_JSON:")) for line in lines]

    def events(self, name: str) -> list[Any]:
        """Data of the events of this name so far, oldest first."""
        return [item for event in self.all_events() if event["event"] == name for item in event["data"]]

    def pass_blocks(self, count: int) -> None:
        """Let blocks go by, and time with them."""
        self._look_at(self.chain.fast_forward(count))
        self._settle()

    def pass_time(self, seconds: int) -> None:
        self._look_at(self.chain.shift_time(seconds))
        self._settle()

    @property
    def now(self) -> int:
        """Block time in unix seconds."""
        return self.chain.head.timestamp // 10**9

    # -- inside ----------------------------------------------------------------------------------------

    def _succeed(
        self, signer: str, receiver: str, actions: Sequence[Action], key: KeyPair | None = None
    ) -> Any:
        key = key or key_of(signer)
        self._nonces += 1
        signed = Transaction(
            signer_id=signer,
            public_key=key.public_key,
            # above the nonce that any key got when it was added, below what its block allows
            nonce=self.chain.head.height * 10**6 + self._nonces,
            receiver_id=receiver,
            block_hash=self.chain.head.hash,
            actions=tuple(actions),
        ).sign(key)
        tx_hash = self.chain.submit(signed, len(signed.to_bytes()))
        self._settle()
        return self._value(tx_hash)

    def _settle(self) -> None:
        for _ in range(_MOST_BLOCKS):
            if not self.chain.has_work:
                return
            self._look_at(self.chain.produce_block())
        raise TableError(f"a call did not come to its end within {_MOST_BLOCKS} blocks")

    def _look_at(self, block: Block) -> None:
        """Keep what was logged; nothing in a scenario may fail."""
        for outcome_id in (*block.transactions, *block.executed):
            found = self.chain.outcome(outcome_id)
            if found is None:
                continue
            outcome, _ = found
            self._logs += outcome.logs
            if "Failure" in outcome.status:
                raise TableError(f"a call to {outcome.executor_id} failed: {json.dumps(outcome.status)}")

    def _value(self, outcome_id: bytes) -> Any:
        while (found := self.chain.outcome(outcome_id)) is not None:
            status = found[0].status
            if "SuccessReceiptId" not in status:
                value = base64.b64decode(status["SuccessValue"])
                return json.loads(value) if value else None
            outcome_id = decode_hash(status["SuccessReceiptId"])
        return None

    def before(
        self,
        code: bytes,
        method: str,
        ctx: VMContext,
        ext: External,
        results: tuple[PromiseResult, ...],  # noqa: ARG002 - the signature is the tap's
    ) -> External:
        """See :class:`outlayer_localnet.vm.Tap`."""
        own = not ctx.is_view and ctx.predecessor_account_id == ctx.current_account_id
        self._open[id(ext)] = (hashlib.sha256(code).hexdigest(), method, ctx.is_view, own)
        return ext

    def after(self, ext: External, outcome: VMOutcome) -> None:
        """See :class:`outlayer_localnet.vm.Tap`."""
        digest, method, view, own = self._open.pop(id(ext))
        if outcome.error is None:
            self.gas[digest, method].append(Measured(outcome.burnt_gas, view, own))


@contextmanager
def stage(folder: Path = ARTIFACTS) -> Iterator[Stage]:
    """A fresh chain of protocol version 86, for the artifacts of a folder."""
    chain: Chain | None = None

    def clock() -> int:
        return START * 10**9 + (0 if chain is None else (chain.head.height + 1) * _BLOCK_NS)

    chain = Chain.open(None, key_of("test").public_key, None, clock)
    made = Stage(chain, folder)
    add_tap(made)
    try:
        yield made
    finally:
        remove_tap(made)
        chain.close()
