# SPDX-License-Identifier: MIT
"""Single calls as data: to run one without a chain, and to have nearcore's own VM run the same.

:class:`Call` is one function call with all it depends on. :func:`run_here` runs it in this package's VM
over :class:`MemoryExternal`; :class:`Oracle` hands it to the program in ``tests/nearcore-oracle`` (built
on ``near-vm-runner``). Both give an :class:`Observed`, and equal calls must give equal ones.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, cast

from outlayer_localnet import vm
from outlayer_localnet.errors import LocalnetError
from outlayer_localnet.hostctx import PromiseResult, VMContext
from outlayer_localnet.params import Params
from outlayer_near.primitives import (
    Action,
    AddKey,
    CreateAccount,
    DeleteAccount,
    DeleteKey,
    DeployContract,
    DeployGlobalContract,
    FullAccess,
    FunctionCall,
    PublicKey,
    Stake,
    Transfer,
    UseGlobalContract,
    b58encode,
)

__all__ = ["Call", "MemoryExternal", "Observed", "Oracle", "OracleError", "Recorded", "Recorder", "run_here"]

Json: TypeAlias = Any


class OracleError(LocalnetError):
    """The oracle program failed or said something that is no answer."""


@dataclass(frozen=True, slots=True)
class Call:
    """One function call.

    ``trie_nodes``: how many trie nodes each write or removal in turn is charged for; the last number
    stands for all that follow. ``data_ids``: what the call's own yields are named, in turn; where they end,
    names are made up. ``pending_yields``: yields of earlier calls that wait, each with its data id and, if
    it has one, the id that the contract chose.
    """

    code: bytes
    method: str
    context: VMContext
    storage: Mapping[bytes, bytes] = field(default_factory=dict)
    promise_results: tuple[PromiseResult, ...] = ()
    trie_nodes: tuple[int, ...] = (0,)
    data_ids: tuple[bytes, ...] = ()
    pending_yields: tuple[tuple[bytes, bytes | None], ...] = ()

    def to_json(self, protocol_version: int) -> dict[str, Json]:
        """The line that the oracle reads."""
        data: dict[str, Json] = {
            name: value.hex() if isinstance(value, bytes) else value
            for name, value in asdict(self.context).items()
        }
        for name in ("account_balance", "account_locked_balance", "attached_deposit"):
            data[name] = str(data[name])
        data |= {
            "protocol_version": protocol_version,
            "code": self.code.hex(),
            "method": self.method,
            "promise_results": [None if r is None else r.hex() for r in self.promise_results],
            "storage": {key.hex(): value.hex() for key, value in self.storage.items()},
            "trie_nodes": list(self.trie_nodes),
            "data_ids": [data_id.hex() for data_id in self.data_ids],
            "pending_yields": [
                {"data_id": data_id.hex(), "yield_id": None if chosen is None else chosen.hex()}
                for data_id, chosen in self.pending_yields
            ],
        }
        return data


@dataclass(frozen=True, slots=True)
class Observed:
    """All that can be seen of a call; ``error`` is Rust's Debug text."""

    burnt_gas: int
    used_gas: int
    returned: Json
    logs: list[str]
    error: str | None
    display: str | None
    balance: int
    storage_usage: int
    storage: dict[str, str]
    actions: list[Json]
    profile: dict[str, int]


class MemoryExternal:
    """State and receipts of one call in memory; behaves as ``near-vm-runner``'s ``MockedExternal``.

    A receipt's index is its position in ``actions``, which lists everything that was asked for.
    """

    def __init__(
        self,
        storage: Mapping[bytes, bytes],
        *,
        trie_nodes: tuple[int, ...] = (0,),
        code: bytes = b"",
        data_ids: tuple[bytes, ...] = (),
        pending_yields: tuple[tuple[bytes, bytes | None], ...] = (),
    ) -> None:
        self.storage = dict(storage)
        self.actions: list[dict[str, Json]] = []
        self.validators: dict[str, int] = {}
        self._trie_nodes = trie_nodes
        self._changes = 0
        self._touched = 0
        self._known_ids = list(data_ids)
        self._pending = pending_yields
        self._data_ids = 0
        self._code_hash = hashlib.sha256(code).digest()

    def storage_get(self, key: bytes) -> bytes | None:
        """The value, if there is one."""
        return self.storage.get(key)

    def storage_set(self, key: bytes, value: bytes) -> bytes | None:
        """Store; the old value is returned."""
        self._touch()
        old = self.storage.get(key)
        self.storage[key] = value
        return old

    def storage_remove(self, key: bytes) -> bytes | None:
        """Remove; the old value is returned."""
        self._touch()
        return self.storage.pop(key, None)

    def storage_has(self, key: bytes) -> bool:
        """Whether there is a value."""
        return key in self.storage

    def _touch(self) -> None:
        numbers = self._trie_nodes
        self._touched += numbers[min(self._changes, len(numbers) - 1)] if numbers else 0
        self._changes += 1

    def trie_nodes(self) -> int:
        """The given numbers, added up."""
        return self._touched

    def _log(self, kind: str, **fields: Json) -> int:
        self.actions.append({kind: fields})
        return len(self.actions) - 1

    def _data_id(self) -> bytes:
        if self._known_ids:
            return self._known_ids.pop(0)
        digest = hashlib.sha256(self._data_ids.to_bytes(8, "little")).digest()
        self._data_ids += 1
        return digest

    def create_action_receipt(self, deps: list[int], receiver: str) -> int:
        """A receipt that waits for others."""
        return self._log("CreateReceipt", receipt_indices=deps, receiver_id=receiver)

    def get_receipt_receiver(self, index: int) -> str:
        """The account a receipt goes to."""
        (fields,) = self.actions[index].values()
        return str(fields["receiver_id"])

    def create_promise_yield_receipt(self, receiver: str) -> tuple[int, bytes]:
        """A yielded receipt."""
        data_id = self._data_id()
        index = self._log("YieldCreate", data_id=b58encode(data_id), receiver_id=receiver, yield_id=None)
        return index, data_id

    def create_promise_yield_receipt_with_id(
        self, receiver: str, yield_id: bytes
    ) -> tuple[int, bytes] | None:
        """A yielded receipt, unless the id is taken."""
        if any(chosen == yield_id for _, chosen in self._pending):
            return None
        name = b58encode(yield_id)
        if any(action.get("YieldCreate", {}).get("yield_id") == name for action in self.actions):
            return None
        data_id = self._data_id()
        index = self._log("YieldCreate", data_id=b58encode(data_id), receiver_id=receiver, yield_id=name)
        return index, data_id

    def submit_promise_resume_data(self, data_id: bytes, data: bytes) -> bool:
        """Whether the yield was created in this call or waits from an earlier one."""
        name = b58encode(data_id)
        self._log("YieldResume", data_id=name, data=list(data))
        if any(waiting == data_id for waiting, _ in self._pending):
            return True
        return any(action.get("YieldCreate", {}).get("data_id") == name for action in self.actions)

    def submit_promise_resume_data_with_yield_id(self, yield_id: bytes, data: bytes) -> bool:
        """Whether the yield was created in this call or waits from an earlier one."""
        for data_id, chosen in self._pending:
            if chosen == yield_id:
                return self.submit_promise_resume_data(data_id, data)
        name = b58encode(yield_id)
        for action in self.actions:
            created = action.get("YieldCreate", {})
            if created.get("yield_id") == name:
                self._log("YieldResume", data_id=created["data_id"], data=list(data))
                return True
        return False

    def set_refund_to(self, index: int, account_id: str) -> None:
        """Where refunds go."""
        self._log("SetRefundTo", receipt_index=index, refund_to=account_id)

    def validator_stake(self, account_id: str) -> int | None:
        """A validator's stake."""
        return self.validators.get(account_id)

    def validator_total_stake(self) -> int:
        """All stake."""
        return sum(self.validators.values())

    def code_of_current(self) -> tuple[int, bytes]:
        """The code that runs is the account's own."""
        return 1, self._code_hash

    def append_action(self, index: int, action: Action, gas_weight: int = 0) -> None:
        """Note an action as nearcore's mock does."""
        kind, fields = _mock_action(action, gas_weight)
        self._log(kind, receipt_index=index, **fields)


def _key(key: PublicKey) -> str:
    return str(key)


def _mock_action(action: Action, gas_weight: int) -> tuple[str, dict[str, Json]]:  # noqa: C901, PLR0911, RUF100
    match action:
        case CreateAccount():
            return "CreateAccount", {}
        case DeployContract(code):
            return "DeployContract", {"code": list(code)}
        case DeployGlobalContract(code, by_account):
            mode = "AccountId" if by_account else "CodeHash"
            return "DeployGlobalContract", {"code": list(code), "mode": mode}
        case UseGlobalContract(code_hash, account_id):
            if code_hash is not None:
                return "UseGlobalContract", {"contract_id": {"CodeHash": b58encode(code_hash)}}
            return "UseGlobalContract", {"contract_id": {"AccountId": account_id}}
        case FunctionCall(method_name, args, gas, deposit):
            return "FunctionCallWeight", {
                "method_name": list(method_name.encode()),
                "args": list(args),
                "attached_deposit": str(deposit),
                "prepaid_gas": gas,
                "gas_weight": gas_weight,
            }
        case Transfer(deposit):
            return "Transfer", {"deposit": str(deposit)}
        case Stake(stake, public_key):
            return "Stake", {"stake": str(stake), "public_key": _key(public_key)}
        case DeleteKey(public_key):
            return "DeleteKey", {"public_key": _key(public_key)}
        case DeleteAccount(beneficiary_id):
            return "DeleteAccount", {"beneficiary_id": beneficiary_id}
        case AddKey(public_key, access_key):
            common: dict[str, Json] = {"public_key": _key(public_key), "nonce": access_key.nonce}
            permission = access_key.permission
            if isinstance(permission, FullAccess):
                return "AddKeyWithFullAccess", common
            allowance = permission.allowance
            return "AddKeyWithFunctionCall", common | {
                "allowance": None if allowance is None else str(allowance),
                "receiver_id": permission.receiver_id,
                "method_names": [list(name.encode()) for name in permission.method_names],
            }
        case _:
            raise OracleError(f"a contract cannot ask for {type(action).__name__}")


def run_here(call: Call, params: Params, *, cache_dir: Path | None = None) -> Observed:
    """Run the call in this package's VM."""
    ext = MemoryExternal(
        call.storage,
        trie_nodes=call.trie_nodes,
        code=call.code,
        data_ids=call.data_ids,
        pending_yields=call.pending_yields,
    )
    outcome = vm.run(
        call.code, call.method, call.context, ext, call.promise_results, params, cache_dir=cache_dir
    )
    returned: Json = "none"
    if isinstance(outcome.return_data, bytes):
        returned = {"value": outcome.return_data.hex()}
    elif outcome.return_data is not None:
        returned = {"receipt": outcome.return_data}
    return Observed(
        burnt_gas=outcome.burnt_gas,
        used_gas=outcome.used_gas,
        returned=returned,
        logs=list(outcome.logs),
        error=None if outcome.error is None else outcome.error.debug(),
        display=None if outcome.error is None else str(outcome.error),
        balance=outcome.balance,
        storage_usage=outcome.storage_usage,
        storage={key.hex(): value.hex() for key, value in ext.storage.items()},
        actions=ext.actions,
        profile={
            f"{row['cost_category']}/{row['cost'].lower()}": int(row["gas_used"])
            for row in outcome.profile.to_json()
        },
    )


class _Watched:
    """Stands before a chain's external and notes what the call's outcome depends on."""

    def __init__(self, inner: vm.External) -> None:
        self._inner = inner
        self.storage: dict[bytes, bytes] = {}
        self.trie_nodes_each: list[int] = []
        self.data_ids: list[bytes] = []
        self.pending_yields: list[tuple[bytes, bytes | None]] = []
        self._seen: set[bytes] = set()
        self._own_yield_ids: set[bytes] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _note(self, key: bytes, value: bytes | None) -> None:
        if key not in self._seen:
            self._seen.add(key)
            if value is not None:
                self.storage[key] = value

    def storage_get(self, key: bytes) -> bytes | None:
        """Read."""
        value = self._inner.storage_get(key)
        self._note(key, value)
        return value

    def storage_has(self, key: bytes) -> bool:
        """Look."""
        self._note(key, self._inner.storage_get(key))
        return self._inner.storage_has(key)

    def storage_set(self, key: bytes, value: bytes) -> bytes | None:
        """Write."""
        before = self._inner.trie_nodes()
        old = self._inner.storage_set(key, value)
        self.trie_nodes_each.append(self._inner.trie_nodes() - before)
        self._note(key, old)
        return old

    def storage_remove(self, key: bytes) -> bytes | None:
        """Remove."""
        before = self._inner.trie_nodes()
        old = self._inner.storage_remove(key)
        self.trie_nodes_each.append(self._inner.trie_nodes() - before)
        self._note(key, old)
        return old

    def create_promise_yield_receipt(self, receiver: str) -> tuple[int, bytes]:
        """Yield."""
        made = self._inner.create_promise_yield_receipt(receiver)
        self.data_ids.append(made[1])
        return made

    def create_promise_yield_receipt_with_id(
        self, receiver: str, yield_id: bytes
    ) -> tuple[int, bytes] | None:
        """Yield under an id; a taken one is that of an earlier call, or of this one."""
        made = self._inner.create_promise_yield_receipt_with_id(receiver, yield_id)
        if made is not None:
            self.data_ids.append(made[1])
            self._own_yield_ids.add(yield_id)
        elif yield_id not in self._own_yield_ids:
            # which data id it has cannot be seen and does not matter
            self.pending_yields.append((hashlib.sha256(yield_id).digest(), yield_id))
        return made

    def submit_promise_resume_data(self, data_id: bytes, data: bytes) -> bool:
        """Resume."""
        known = self._inner.submit_promise_resume_data(data_id, data)
        if known and data_id not in self.data_ids:
            self.pending_yields.append((data_id, None))
        return known

    def submit_promise_resume_data_with_yield_id(self, yield_id: bytes, data: bytes) -> bool:
        """Resume by id."""
        known = self._inner.submit_promise_resume_data_with_yield_id(yield_id, data)
        if known and yield_id not in self._own_yield_ids:
            self.pending_yields.append((hashlib.sha256(yield_id).digest(), yield_id))
        return known


@dataclass(frozen=True, slots=True)
class Recorded:
    """A call that ran on a chain, and what came out."""

    call: Call
    outcome: vm.VMOutcome

    def unlike(self, again: Observed) -> dict[str, tuple[Json, Json]]:
        """What a replay shows that the chain did not: name, then the chain's value and the replay's.

        Receipts are numbered otherwise on a chain; that one was returned is compared, not its number.
        """
        here = self.outcome
        returned: Json = "none"
        if isinstance(here.return_data, bytes):
            returned = {"value": here.return_data.hex()}
        elif here.return_data is not None:
            returned = "receipt"
        there = (
            "receipt" if isinstance(again.returned, dict) and "receipt" in again.returned else again.returned
        )
        pairs: dict[str, tuple[Json, Json]] = {
            "burnt_gas": (here.burnt_gas, again.burnt_gas),
            "used_gas": (here.used_gas, again.used_gas),
            "returned": (returned, there),
            "logs": (list(here.logs), again.logs),
            "error": (None if here.error is None else here.error.debug(), again.error),
            "balance": (here.balance, again.balance),
            "storage_usage": (here.storage_usage, again.storage_usage),
        }
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


class Recorder:
    """Records the calls of this process while it is entered, with the state that each one read."""

    def __init__(self) -> None:
        self.calls: list[Recorded] = []
        self._open: dict[int, tuple[_Watched, bytes, str, VMContext, tuple[PromiseResult, ...]]] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Recorder:
        vm.add_tap(self)
        return self

    def __exit__(self, *_: object) -> None:
        vm.remove_tap(self)

    def before(
        self, code: bytes, method: str, ctx: VMContext, ext: vm.External, results: tuple[PromiseResult, ...]
    ) -> vm.External:
        """See :class:`outlayer_localnet.vm.Tap`."""
        watched = _Watched(ext)
        with self._lock:
            self._open[id(watched)] = (watched, code, method, ctx, results)
        return cast("vm.External", watched)

    def after(self, ext: vm.External, outcome: vm.VMOutcome) -> None:
        """See :class:`outlayer_localnet.vm.Tap`."""
        with self._lock:
            watched, code, method, ctx, results = self._open.pop(id(ext))
            nodes = tuple(watched.trie_nodes_each) or (0,)
            call = Call(
                code,
                method,
                ctx,
                dict(watched.storage),
                results,
                nodes,
                tuple(watched.data_ids),
                tuple(watched.pending_yields),
            )
            self.calls.append(Recorded(call, outcome))


class Oracle:
    """The running oracle program; a context manager."""

    def __init__(self, program: Path, protocol_version: int = 86) -> None:
        self._protocol_version = protocol_version
        self._process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def __enter__(self) -> Oracle:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _ask(self, question: Json) -> Json:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise OracleError("the oracle has no pipes")
        stdin.write(json.dumps(question) + "\n")
        stdin.flush()
        line = stdout.readline()
        if not line:
            raise OracleError("the oracle program ended", hint="Run it by hand with the same line.")
        return json.loads(line)

    def random_module(self, seed: bytes) -> bytes:
        """A valid module that exports ``go``, made of these bytes by wasm-smith; more bytes, larger modules."""
        return bytes.fromhex(self._ask({"smith": seed.hex()})["code"])

    def run(self, call: Call) -> Observed:
        """Run the call in nearcore's VM."""
        answer = self._ask(call.to_json(self._protocol_version))
        if "runner_error" in answer:
            raise OracleError(f"nearcore's VM could not run the call: {answer['runner_error']}")
        error = answer.pop("error")
        return Observed(
            **(answer | {"balance": int(answer["balance"])}),
            error=None if error is None else error["debug"],
            display=None if error is None else error["display"],
        )
