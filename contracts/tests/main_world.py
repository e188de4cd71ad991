# SPDX-License-Identifier: MIT
"""The main contract with a stablecoin, users and a developer, for the tests of money and secrets."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outlayer_localnet.testing import NEAR, TGAS, Localnet, TestAccount, TxResult, localnet

ARTIFACTS = Path(__file__).resolve().parents[1] / "artifacts"
MAIN, TOKEN, OPERATOR = "outlayer.test", "usdc.test", "worker.test"
USERS = ("alice.test", "bob.test", "carol.test")
BYTE = 10**19
BASE_FEE = 10**21
PAYMENT = NEAR // 10
USED = {"instructions": 5_000_000, "time_ms": 12}
COST = BASE_FEE + 5 * 10**14 + 12 * 10**17
MINTED = 100_000_000
PAYMENT_KEY = {"System": "PaymentKey"}
PROJECT = "alice.test/app"


def wasm_url(digit: str) -> dict[str, Any]:
    """A version's source; digits give different hashes."""
    return {"WasmUrl": {"url": "https://example.test/a.wasm", "hash": digit * 64, "build_target": None}}


@dataclass
class World:
    chain: Localnet
    accounts: dict[str, TestAccount]
    # the main contract's code when the chain was made
    code: Path

    def call(self, who: str, method: str, deposit: int = 0, gas: int = 150 * TGAS, **args: Any) -> TxResult:
        return self.chain.call(self.accounts[who], MAIN, method, args, deposit=deposit, gas=gas)

    def ok(self, who: str, method: str, deposit: int = 0, gas: int = 150 * TGAS, **args: Any) -> TxResult:
        result = self.call(who, method, deposit, gas, **args)
        assert result.failure is None, result.failure
        return result

    def refused(self, who: str, method: str, words: str, deposit: int = 0, **args: Any) -> None:
        """The call fails with these words, leaves the state as it was, and gives every yocto of the deposit back."""
        usage, balance = self.chain.account(MAIN)["storage_usage"], self.chain.balance(who)
        result = self.call(who, method, deposit, **args)
        assert words in json.dumps(result.failure), result.failure
        assert self.chain.account(MAIN)["storage_usage"] == usage
        if who != MAIN:  # which earns a share of the gas
            assert balance - self.chain.balance(who) == result.tokens_burnt

    def view(self, method: str, **args: Any) -> Any:
        return self.chain.view(MAIN, method, args)

    def tokens(self, account_id: str) -> int:
        return int(self.chain.view(TOKEN, "ft_balance_of", {"account_id": account_id}))

    def usd(self, account_id: str) -> int:
        """The balance for ``attached_usd``."""
        return int(self.view("get_user_stablecoin_balance", account_id=account_id))

    def earnings(self, account_id: str) -> int:
        return int(self.view("get_developer_earnings", account_id=account_id))

    # -- what waits for the operator -------------------------------------------------------------------

    def _begin(
        self, who: str, contract: str, method: str, args: Any, deposit: int, gas: int = 200 * TGAS
    ) -> TxResult:
        return self.chain.call(
            self.accounts[who], contract, method, args, deposit=deposit, gas=gas, wait_until="INCLUDED"
        )

    def _until(self, found: Callable[[], Any]) -> Any:
        for _ in range(10):
            value = found()
            if value is not None:
                return value
            self.chain.produce_block()
        raise AssertionError("nothing came within 10 blocks")

    def request(
        self, who: str = "bob.test", deposit: int = PAYMENT, gas: int = 200 * TGAS, **args: Any
    ) -> tuple[TxResult, int]:
        """A request that waits; the transaction and the request's id."""
        before = set(self.pending())
        full = {"source": {"Project": {"project_id": PROJECT}}, "resource_limits": {}, **args}
        sent = self._begin(who, MAIN, "request_execution", full, deposit, gas)
        fresh = self._until(lambda: (set(self.pending()) - before) or None)
        return sent, fresh.pop()

    def pending(self) -> list[int]:
        return self.view("get_pending_request_ids", limit=1000)

    def resolve(self, request_id: int, **response: Any) -> TxResult:
        full = {"success": True, "resources_used": USED, "output": {"Json": 1}, **response}
        return self.ok(OPERATOR, "resolve_execution", request_id=request_id, response=full)

    def final(self, sent: TxResult) -> TxResult:
        return self.chain.tx(sent.hash, wait_until="FINAL")

    def pay(self, who: str, amount: int, message: Any) -> TxResult:
        """``ft_transfer_call`` to the main contract that ends by itself."""
        return self.final(self._pay(who, amount, message))

    def _pay(self, who: str, amount: int, message: Any) -> TxResult:
        text = message if isinstance(message, str) else json.dumps(message)
        args = {"receiver_id": MAIN, "amount": str(amount), "msg": text}
        return self._begin(who, TOKEN, "ft_transfer_call", args, 1)

    def deposit_usd(self, who: str, amount: int) -> None:
        self.pay(who, amount, {"action": "deposit_balance"})

    def top_up(self, who: str, nonce: int, amount: int, **more: Any) -> tuple[TxResult, dict[str, Any]]:
        """A top-up that waits; the transaction and its event."""
        sent = self._pay(who, amount, {"action": "top_up_payment_key", "nonce": nonce, **more})
        return sent, self._event(sent, "TopUpPaymentKey")

    def delete_key(self, who: str, nonce: int) -> tuple[TxResult, dict[str, Any]]:
        sent = self._begin(who, MAIN, "delete_payment_key", {"nonce": nonce}, 1)
        return sent, self._event(sent, "DeletePaymentKey")

    def _event(self, sent: TxResult, name: str) -> dict[str, Any]:
        return self._until(lambda: next(iter(system_events(self.chain.tx(sent.hash), name)), None))

    def make_key(self, who: str, nonce: int = 1, ciphertext: str = "b64") -> TxResult:
        return self.store(who, PAYMENT_KEY, str(nonce), ciphertext)

    # -- secrets ---------------------------------------------------------------------------------------

    def store(
        self, who: str, accessor: Any, profile: str = "default", text: str = "b64", access: Any = "AllowAll"
    ) -> TxResult:
        args = {"accessor": accessor, "profile": profile, "encrypted_secrets_base64": text, "access": access}
        return self.ok(who, "store_secrets", NEAR, **args)

    def secret(self, owner: str, accessor: Any, profile: str = "default") -> Any:
        return self.view("get_secrets", accessor=accessor, profile=profile, owner=owner)


def system_events(result: TxResult, name: str) -> list[dict[str, Any]]:
    """The ``system_event`` items of this name that a transaction logged."""
    events = [json.loads(line[11:]) for line in result.logs if line.startswith("EVENT_JSON:")]
    items = [item for event in events if event["event"] == "system_event" for item in event["data"]]
    return [item[name] for item in items if name in item]


def data_id(event: dict[str, Any]) -> str:
    return bytes(event["data_id"]).hex()


@contextlib.contextmanager
def deployed(main: Path = ARTIFACTS / "outlayer.wasm") -> Iterator[World]:
    """A chain with everything in place, as the snapshot ``deployed``."""
    with localnet() as chain:
        names = (MAIN, TOKEN, OPERATOR, *USERS)
        world = World(chain, {name: chain.create_account(name, 100 * NEAR) for name in names}, main)
        new = {"owner_id": MAIN, "operator_id": OPERATOR}
        chain.deploy(world.accounts[MAIN], main, "new", new)
        chain.deploy(world.accounts[TOKEN], ARTIFACTS / "stablecoin.wasm", "new", {"minter_id": TOKEN})
        for account in (*USERS, MAIN):
            args = {"account_id": account, "amount": str(MINTED if account in USERS else 0)}
            assert chain.call(world.accounts[TOKEN], TOKEN, "mint", args).failure is None
        world.ok(MAIN, "set_payment_token_contract", payment_token_contract=TOKEN)
        world.ok("alice.test", "create_project", NEAR // 10, name="app", source=wasm_url("a"))
        chain.snapshot("deployed")
        yield world
