# SPDX-License-Identifier: MIT
"""The original's main contract (the stand-in) and ours on one chain: the same calls, the same answers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from main_world import ARTIFACTS, MINTED, OPERATOR, TOKEN, USERS
from main_world import wasm_url as without_target

from outlayer_localnet.testing import NEAR, TGAS, Localnet, TestAccount, TxResult, localnet

OURS, ORIGINAL = "ours.test", "original.test"
# what the original's clients attach to an answer and to a request of their own
GAS = 300 * TGAS
# of the moment or of storage: their types are compared, not their values
VOLATILE = {"timestamp", "created_at", "updated_at", "added_at", "data_id", "storage_deposit"}


def wasm_url(digit: str) -> dict[str, Any]:
    """A version's source that names its target: ours fills in what is left out (R11)."""
    [members] = without_target(digit).values()
    return {"WasmUrl": {**members, "build_target": "wasm32-wasip1"}}


@dataclass
class Side:
    """One of the two contracts, and the methods that were called on it."""

    chain: Localnet
    accounts: dict[str, TestAccount]
    contract: str
    called: set[str] = field(default_factory=set)

    def send(self, who: str, method: str, deposit: int = 0, wait: str = "FINAL", **args: Any) -> TxResult:
        self.called.add(method)
        name = self.contract if who == "owner" else who
        return self.chain.call(
            self.accounts[name], self.contract, method, args, deposit=deposit, gas=GAS, wait_until=wait
        )

    def do(self, who: str, method: str, deposit: int = 0, **args: Any) -> Any:
        """A call that succeeds; its value."""
        result = self.send(who, method, deposit, **args)
        assert result.failure is None, f"{self.contract}.{method}: {result.failure}"
        return result.json() if result.value else None

    def refused(self, who: str, method: str, deposit: int = 0, **args: Any) -> str:
        """A call that fails; the words of the panic."""
        result = self.send(who, method, deposit, **args)
        assert result.failure is not None, f"{self.contract}.{method} was taken"
        return panic(result)

    def view(self, method: str, **args: Any) -> Any:
        self.called.add(method)
        return self.chain.view(self.contract, method, args)

    def request(self, who: str = "bob.test", deposit: int = NEAR // 10, **args: Any) -> tuple[TxResult, int]:
        """A request that waits: the transaction and the id."""
        before = set(self.view("get_pending_request_ids", limit=1_000))
        source = {"Project": {"project_id": "alice.test/app"}}
        full = {"source": source, "resource_limits": LIMITS, **args}
        sent = self.send(who, "request_execution", deposit, wait="INCLUDED", **full)
        fresh = self.until(lambda: set(self.view("get_pending_request_ids", limit=1_000)) - before)
        return sent, fresh.pop()

    def pay(self, who: str, amount: int, message: Any) -> TxResult:
        """``ft_transfer_call`` of the stablecoin to the contract; it may wait for the operator."""
        self.called.add("ft_on_transfer")
        args = {"receiver_id": self.contract, "amount": str(amount), "msg": json.dumps(message)}
        return self.chain.call(
            self.accounts[who],
            TOKEN,
            "ft_transfer_call",
            args,
            deposit=1,
            gas=GAS,
            wait_until="INCLUDED",
        )

    def until(self, found: Callable[[], Any]) -> Any:
        for _ in range(10):
            if value := found():
                return value
            self.chain.produce_block()
        raise AssertionError("nothing came within 10 blocks")

    def final(self, sent: TxResult) -> TxResult:
        return self.chain.tx(sent.hash, wait_until="FINAL")

    def events(self, sent: TxResult, name: str) -> list[Any]:
        """The data of the events of this name that the transaction logged so far."""
        return events(self.chain.tx(sent.hash), name)

    def tokens(self, account_id: str) -> int:
        return int(self.chain.view(TOKEN, "ft_balance_of", {"account_id": account_id}))


LIMITS = {"max_instructions": 1_000_000_000, "max_memory_mb": 128, "max_execution_seconds": 60}


def events(result: TxResult, name: str) -> list[Any]:
    found = [json.loads(line[11:]) for line in result.logs if line.startswith("EVENT_JSON:")]
    return [item for event in found if event["event"] == name for item in event["data"]]


def panic(result: TxResult) -> str:
    """What the contract said when it failed, without what the runtime puts around it."""
    text = json.dumps(result.failure)
    start = text.find("panicked: ")
    words = text[start + len("panicked: ") :] if start >= 0 else text
    return words.split('"}')[0].rstrip("\\").replace('\\"', '"')


def plain(value: Any, contract: str) -> Any:
    """An answer without what differs from one moment, or one account, to another."""
    if isinstance(value, dict):
        return {
            key: type(item).__name__ if key in VOLATILE else plain(item, contract)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [plain(item, contract) for item in value]
    return value.replace(contract, "main.test") if isinstance(value, str) else value


@contextlib.contextmanager
def deployed() -> Iterator[tuple[Side, Side]]:
    """The original's contract and ours with one stablecoin and one developer; snapshot ``deployed``."""
    with localnet() as chain:
        names = (OURS, ORIGINAL, TOKEN, OPERATOR, *USERS)
        accounts = {name: chain.create_account(name, 200 * NEAR) for name in names}
        chain.deploy(accounts[TOKEN], ARTIFACTS / "stablecoin.wasm", "new", {"minter_id": TOKEN})
        for name in (*USERS, OURS, ORIGINAL):
            args = {"account_id": name, "amount": str(MINTED if name in USERS else 0)}
            assert chain.call(accounts[TOKEN], TOKEN, "mint", args).failure is None
        sides = []
        for name, wasm in ((ORIGINAL, "original-main.wasm"), (OURS, "outlayer.wasm")):
            new = {"owner_id": name, "operator_id": OPERATOR}
            chain.deploy(accounts[name], ARTIFACTS / wasm, "new", new)
            side = Side(chain, accounts, name)
            side.do("owner", "set_payment_token_contract", token_contract=TOKEN)
            side.do("alice.test", "create_project", NEAR // 10, name="app", source=wasm_url("a"))
            sides.append(side)
        chain.snapshot("deployed")
        yield sides[0], sides[1]
