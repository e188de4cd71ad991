# SPDX-License-Identifier: MIT
"""What a fresh local chain needs before the services start: accounts, contracts, approvals, keys, a policy.

Each step looks at the chain first and does only what is missing, so it can be repeated at any time.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outlayer_attestation.measurements import Measurements
from outlayer_cli import layout
from outlayer_cli.errors import StackError
from outlayer_cli.layout import Layout, Stack
from outlayer_cli.modules import run_module
from outlayer_near.calls import caller as on_caller
from outlayer_near.calls import main as on_main
from outlayer_near.calls import register as on_register
from outlayer_near.calls.build import call
from outlayer_near.credentials import Credentials, load_credentials, save_credentials
from outlayer_near.errors import NearError, NoSuchMethodError
from outlayer_near.models import MeasurementSet
from outlayer_near.primitives import (
    AccessKey,
    Action,
    AddKey,
    CreateAccount,
    DeleteKey,
    DeployContract,
    FullAccess,
    FunctionCall,
    FunctionCallPermission,
    KeyPair,
    Transfer,
    b58encode,
)
from outlayer_near.rpc import NearRpc
from outlayer_near.sender import Sender
from outlayer_near.views import RegisterViews

Say = Callable[[str], None]
NEAR = 10**24
COLLATERAL_RENEWAL_SECONDS = 15 * 24 * 3600
GENESIS_ACCOUNT = "test"
INIT_METHODS = ("register_worker_key", "reverify_worker_key")
INIT_ALLOWANCE = 20 * NEAR
STORAGE_BALANCE = 2 * NEAR


@dataclass(frozen=True)
class _Account:
    account_id: str
    parent: str
    balance: int


ACCOUNTS = (
    _Account(layout.MAIN_CONTRACT, GENESIS_ACCOUNT, 2_000 * NEAR),
    _Account(layout.OPERATOR, layout.MAIN_CONTRACT, 500 * NEAR),
    _Account(layout.INIT_ACCOUNT, layout.MAIN_CONTRACT, 200 * NEAR),
    _Account(layout.KEEPER, layout.MAIN_CONTRACT, 10 * NEAR),
    _Account(layout.DEVELOPER, GENESIS_ACCOUNT, 500 * NEAR),
    _Account(layout.CALLER, GENESIS_ACCOUNT, 200 * NEAR),
)


@dataclass(frozen=True)
class _Contract:
    """``migrate`` brings an older state to the form of the code; None for a contract whose state has one form.

    ``carry_over`` brings along what one transaction cannot, and answers how much is left.
    """

    account_id: str
    artifact: str
    init: FunctionCall
    migrate: FunctionCall | None = None
    carry_over: FunctionCall | None = None


class _Chain:
    """The chain with the credentials of the stack's own accounts."""

    def __init__(self, rpc: NearRpc, place: Layout) -> None:
        self.rpc = rpc
        self.place = place
        self._senders: dict[str, Sender] = {}

    def credentials(self, account_id: str) -> Credentials:
        """The account's key; one is made, and kept in a file, before the chain ever hears of it."""
        if account_id == GENESIS_ACCOUNT:
            return load_credentials(self.place.state / "localnet" / "genesis_key.json")
        path = self.place.credential(f"{account_id}.json")
        if not path.exists():
            save_credentials(path, Credentials(account_id, KeyPair.generate()))
        return load_credentials(path)

    def sender(self, account_id: str) -> Sender:
        if account_id not in self._senders:
            held = self.credentials(account_id)
            self._senders[account_id] = Sender(self.rpc, account_id, held.key_pair)
        return self._senders[account_id]

    async def act(self, signer: str, receiver: str, *actions: Action) -> Any:
        return await self.sender(signer).send(receiver, actions)

    @property
    def register(self) -> RegisterViews:
        return RegisterViews(self.rpc, layout.OPERATOR)


async def prepare_chain(place: Layout, stack: Stack, say: Say) -> None:
    """Bring the chain to where the services can start. Raises ``StackError`` with the step that failed."""
    async with NearRpc(stack.rpc_url) as rpc:
        chain = _Chain(rpc, place)
        try:
            await _ensure_accounts(chain, say)
            for contract in _contracts(place):
                await _ensure_contract(chain, contract, say)
            await _ensure_collateral(chain, place, say)
            await _ensure_measurements(chain, place, say)
            await _ensure_storage_balance(chain, say)
            for worker in layout.worker_names(stack.workers):
                await _ensure_init_key(chain, place, worker)
            await _write_policy(chain, place)
        except NearError as error:
            raise StackError(f"the local chain could not be prepared: {error}", hint=error.hint) from error


async def _ensure_accounts(chain: _Chain, say: Say) -> None:
    made = []
    for account in ACCOUNTS:
        if await chain.rpc.account_exists(account.account_id):
            continue
        key = AccessKey(0, FullAccess())
        await chain.act(
            account.parent,
            account.account_id,
            CreateAccount(),
            Transfer(account.balance),
            AddKey(chain.credentials(account.account_id).key_pair.public_key, key),
        )
        made.append(account.account_id)
    if made:
        say("accounts made: " + ", ".join(made))


def _contracts(place: Layout) -> tuple[_Contract, ...]:
    register = on_register.new(
        owner_id=layout.MAIN_CONTRACT,
        init_worker_account=layout.INIT_ACCOUNT,
        outlayer_contract_id=layout.MAIN_CONTRACT,
        root_ca_der=(place.tdx / "root_ca.der").read_bytes(),
    )
    main = on_main.new(layout.MAIN_CONTRACT, layout.OPERATOR)
    return (
        _Contract(layout.MAIN_CONTRACT, "outlayer.wasm", main, on_main.migrate(), on_main.migrate_requests()),
        _Contract(layout.OPERATOR, "register.wasm", register, on_register.migrate(), on_register.migrate()),
        _Contract(layout.CALLER, "caller.wasm", on_caller.new(layout.MAIN_CONTRACT)),
    )


async def _ensure_contract(chain: _Chain, contract: _Contract, say: Say) -> None:
    path = layout.repository_root() / "contracts" / "artifacts" / contract.artifact
    if not path.exists():
        raise StackError(
            f"there is no {path}", hint="it is part of the repository; or build it: make contracts"
        )
    code = path.read_bytes()
    wanted = b58encode(hashlib.sha256(code).digest())
    present = await chain.rpc.code_hash(contract.account_id)
    if present == wanted:
        return
    # in one transaction: code that cannot take over the state is not left there
    follow_up = contract.init if present is None else contract.migrate
    actions: list[Action] = [DeployContract(code), *([] if follow_up is None else [follow_up])]
    await chain.act(contract.account_id, contract.account_id, *actions)
    if present is not None and contract.carry_over is not None:
        await _carry_over(chain, contract.account_id, contract.carry_over)
    say(f"{contract.artifact} {'deployed' if present is None else 'updated'} at {contract.account_id}")


async def _carry_over(chain: _Chain, account_id: str, action: FunctionCall) -> None:
    """Repeat until nothing is left. What cannot be carried over stays where it is, and the contract works with it."""
    left: int | None = None
    while left != 0:
        found = _left((await chain.act(account_id, account_id, action)).json())
        if left is not None and found >= left:
            return
        left = found


def _left(answer: Any) -> int:
    """How much a contract says is left: one number, or one for each kind; nothing said is nothing left."""
    return sum(answer.values()) if isinstance(answer, dict) else int(answer or 0)


async def _ensure_collateral(chain: _Chain, place: Layout, say: Say) -> None:
    """Give the register contract collateral of the simulated platform; renew it half-way through its life."""
    stored = await chain.register.get_collateral_info()
    if any(item.next_update - time.time() > COLLATERAL_RENEWAL_SECONDS for item in stored):
        return
    path = place.tdx / "collateral.json"
    run_module("outlayer_attestation.platform", "collateral", "--state", str(place.tdx), "--out", str(path))
    await chain.act(layout.MAIN_CONTRACT, layout.OPERATOR, on_register.update_collateral(path.read_text()))
    say("collateral of the simulated platform stored on chain")


async def _ensure_measurements(chain: _Chain, place: Layout, say: Say) -> None:
    """Approve what is predicted for the installed worker, and nothing else: other workers' sets expire now."""
    wanted = Measurements.from_file(place.measurements).to_json()
    now = int(time.time())
    active = False
    for entry in await _worker_sets(chain):
        expired = entry.not_after is not None and entry.not_after <= now
        if entry.measurements == wanted and not expired:
            active = True
        elif not expired:
            expire = on_register.expire_measurement_set(entry.id, now)
            await chain.act(layout.MAIN_CONTRACT, layout.OPERATOR, expire)
            say(f"measurement set {entry.id} of other code has expired")
    if not active:
        name = f"worker-simulated-{wanted['rtmr1'][:12]}"
        add = on_register.add_measurement_set(wanted, name=name)
        await chain.act(layout.MAIN_CONTRACT, layout.OPERATOR, add)
        say(f"measurements predicted for the installed worker are approved on chain ({name})")


async def _worker_sets(chain: _Chain) -> list[MeasurementSet]:
    return [entry for entry in await chain.register.get_measurement_sets() if entry.role == "worker"]


async def _ensure_storage_balance(chain: _Chain, say: Say) -> None:
    """Pay for the storage of workers' keys in advance: the workers' own key of that account cannot attach a deposit."""
    account = {"account_id": layout.INIT_ACCOUNT}
    try:
        balance = await chain.rpc.view(layout.OPERATOR, "storage_balance_of", account)
    except NoSuchMethodError:
        return
    if balance is not None and int(balance["available"]) >= STORAGE_BALANCE // 4:
        return
    deposit = call("storage_deposit", account, deposit=STORAGE_BALANCE)
    await chain.act(layout.INIT_ACCOUNT, layout.OPERATOR, deposit)
    say(f"{STORAGE_BALANCE // NEAR} NEAR paid in advance for the storage of workers' keys")


async def _ensure_init_key(chain: _Chain, place: Layout, worker: str) -> None:
    """A key of the registering account that can do one thing: have a worker's key registered, and verified again.

    One with another scope, as older versions made it, or with little allowance left is made anew.
    """
    path = place.credential(f"{worker}.init.json")
    if not path.exists():
        save_credentials(path, Credentials(layout.INIT_ACCOUNT, KeyPair.generate()))
    public_key = load_credentials(path).key_pair.public_key
    present = await chain.rpc.view_access_key(layout.INIT_ACCOUNT, str(public_key))
    if present is not None and _may_register(present):
        return
    permission = FunctionCallPermission(layout.OPERATOR, INIT_METHODS, INIT_ALLOWANCE)
    old: list[Action] = [] if present is None else [DeleteKey(public_key)]
    key = AddKey(public_key, AccessKey(0, permission))
    await chain.act(layout.INIT_ACCOUNT, layout.INIT_ACCOUNT, *old, key)


def _may_register(access_key: dict[str, Any]) -> bool:
    permission = access_key.get("permission")
    scope = permission.get("FunctionCall") if isinstance(permission, dict) else None
    return (
        isinstance(scope, dict)
        and scope.get("receiver_id") == layout.OPERATOR
        and set(scope.get("method_names", ())) == set(INIT_METHODS)
        and int(scope.get("allowance") or 0) >= INIT_ALLOWANCE // 4
    )


async def _write_policy(chain: _Chain, place: Layout) -> None:
    """The policy that ``verify`` judges approval by when it has no network, signed by this stack's maintainer."""
    from outlayer_cli.local_policy import write_local_policy

    entries = await _worker_sets(chain)
    sets = [
        (entry.name or f"set {entry.id}", Measurements.from_json(entry.measurements)) for entry in entries
    ]
    first = min(entry.added_at for entry in entries)
    write_local_policy(place, sets, fmspc=_fmspc(place.tdx / "collateral.json"), not_before=first)


def _fmspc(collateral: Path) -> str:
    tcb_info = json.loads(json.loads(collateral.read_text())["tcb_info"])
    value: str = tcb_info["fmspc"]
    return value.lower()
