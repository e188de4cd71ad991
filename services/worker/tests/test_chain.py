# SPDX-License-Identifier: MIT
"""Answers on a real chain with the real main contract: which are sent, which are refused, and what was charged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from outlayer_localnet.testing import NEAR, TGAS, Localnet, TestAccount, TxResult, localnet
from outlayer_near.calls import main as on_main
from outlayer_near.events import open_source
from outlayer_near.models import wasm_url_source
from outlayer_near.primitives import FunctionCall
from outlayer_near.rpc import NearRpc
from outlayer_worker import chain as chain_module
from outlayer_worker.chain import AnswerPrices, Chain, RequestGoneError
from outlayer_worker.errors import OutputRefusedError, RequestRefusedError, SubmissionError
from outlayer_worker.jobs import NearRequest
from outlayer_worker.preparation import AnswerBounds
from outlayer_worker.resolution import Resolution

ARTIFACTS = Path(__file__).parents[3] / "contracts" / "artifacts"
MAIN, OPERATOR, ALICE, BOB = "outlayer.test", "worker.test", "alice.test", "bob.test"


class World:
    """A chain with the main contract, its operator and two users."""

    def __init__(self, net: Localnet) -> None:
        self.net = net
        self.accounts: dict[str, TestAccount] = {
            name: net.create_account(name, 100 * NEAR) for name in (MAIN, OPERATOR, ALICE, BOB)
        }
        new = {"owner_id": MAIN, "operator_id": OPERATOR}
        net.deploy(self.accounts[MAIN], ARTIFACTS / "outlayer.wasm", "new", new)

    def ask(
        self, who: str = ALICE, *, deposit: int = NEAR // 10, **more: Any
    ) -> tuple[TxResult, NearRequest]:
        """A request that waits; its transaction, and the job for it."""
        source = wasm_url_source("https://example.test/a.wasm", "ab" * 32)
        action = on_main.request_execution(source, resource_limits={}, deposit=deposit, **more)
        sent = self.net.send(self.accounts[who], MAIN, [action], wait_until="INCLUDED")
        ids: list[int] = []
        for _ in range(5):
            self.net.produce_block()
            ids = self.net.view(MAIN, "get_pending_request_ids")
            if ids:
                break
        shown = self.net.view(MAIN, "get_request", {"request_id": ids[-1]})
        return sent, NearRequest(ids[-1], bytes(shown["data_id"]), self.block_of(sent), MAIN)

    def block_of(self, sent: TxResult) -> int:
        """The height at which the request's receipt ran."""
        for item in self.net.tx(sent.hash).outcomes:
            if any("execution_requested" in line for line in item["outcome"]["logs"]):
                return int(self.net.block(item["block_hash"])["header"]["height"])
        raise AssertionError("the request logged no event")


@pytest.fixture(scope="module")
def prepared() -> Iterator[World]:
    with localnet() as net:
        world = World(net)
        net.snapshot("ready")
        yield world


@pytest.fixture
def world(prepared: World) -> World:
    prepared.net.restore("ready")
    return prepared


@pytest.fixture
async def chain(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Chain]:
    monkeypatch.setattr(chain_module, "CALLBACK_WAITS", (0.0, 0.1, 0.3))
    source = open_source(world.net.rpc_url, world.net.feed_url)
    key = world.accounts[OPERATOR].key
    chain = Chain(NearRpc(world.net.rpc_url), source, contract_id=MAIN, operator_id=OPERATOR, key=key)
    yield chain
    await chain.close()


def answer(near: NearRequest, output: bytes | None = b"1", *, success: bool = True) -> Resolution:
    argument = None if output is None else b'{"Json":' + output + b"}"
    return Resolution(near.request_id, success, argument, None if success else "no", 5_000_000, 12)


def unnoticed(_: str) -> None:
    pass


@pytest.mark.parametrize("success", [True, False])
async def test_an_answer_is_delivered_and_its_charge_is_read(
    world: World, chain: Chain, success: bool
) -> None:
    _, near = world.ask()
    found = await chain.request(near)
    output = b'"' + b"x" * 50_000 + b'"' if success else None
    sent: list[str] = []
    submitted = await chain.resolve(answer(near, output, success=success), sent.append)
    assert sent == [submitted.tx_hash]
    final = world.net.tx(found.event.tx_hash, wait_until="FINAL")
    assert final.value == (output or b"null")
    charged = await chain.charged(found.event, submitted.tx_hash)
    completed = next(
        json.loads(line.removeprefix("EVENT_JSON:")) for line in final.logs if "execution_completed" in line
    )
    assert charged == int(completed["data"][0]["payment_charged"]) > 0


async def test_of_two_answers_the_second_finds_its_request_gone(
    world: World, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, near = world.ask()

    async def still_waiting(_: int) -> bool:
        return True

    monkeypatch.setattr(chain, "is_waiting", still_waiting)  # as both workers have seen it
    first = asyncio.create_task(chain.resolve(answer(near, b'"first"'), unnoticed))
    second = asyncio.create_task(chain.resolve(answer(near, b'"second"'), unnoticed))
    ends = await asyncio.gather(first, second, return_exceptions=True)
    assert sorted(type(end).__name__ for end in ends) == ["RequestGoneError", "Submitted"]


async def test_an_answer_for_a_request_that_is_gone_is_not_sent(world: World, chain: Chain) -> None:
    _, near = world.ask()
    await chain.resolve(answer(near), unnoticed)
    spent = world.net.balance(OPERATOR)
    with pytest.raises(RequestGoneError):
        await chain.resolve(answer(near), unnoticed)
    assert world.net.balance(OPERATOR) == spent


async def test_the_contract_and_the_worker_agree_on_the_largest_output(world: World, chain: Chain) -> None:
    prices = await chain.answer_prices()
    assert prices is not None
    largest = prices.limits.max_output_bytes
    _, near = world.ask()
    bounds = AnswerBounds(prices, NEAR // 10, 0)
    assert bounds.problem(largest) is None
    assert bounds.problem(largest + 1) is not None
    with pytest.raises(OutputRefusedError) as refused:
        await chain.resolve(answer(near, b'"' + b"x" * (largest - 1) + b'"'), unnoticed)
    assert refused.value.too_large
    assert await chain.is_waiting(near.request_id)
    await chain.resolve(answer(near, b'"' + b"x" * (largest - 2) + b'"'), unnoticed)


@pytest.mark.parametrize("input_bytes", [0, 12_000])
async def test_the_contract_and_the_worker_agree_on_what_an_output_costs(
    world: World, chain: Chain, input_bytes: int
) -> None:
    """With fees so high that the payment is what decides."""
    raise_fees = {"base_fee": str(NEAR // 2)}
    assert world.net.call(world.accounts[MAIN], MAIN, "set_pricing", raise_fees).failure is None
    prices = await chain.answer_prices()
    assert prices is not None
    size = 5_000
    needed = prices.needed(size, input_bytes)
    compute = int(world.net.view(MAIN, "estimate_execution_cost", {"resource_limits": {}}))
    stored = input_bytes * prices.limits.input_byte_price
    least = compute + stored
    assert least < needed + compute, "the request itself is taken"
    _, near = world.ask(deposit=least, input_data="x" * input_bytes)
    # the fees rise after the request: what it paid covers less than its output now
    higher = prices.base_fee + least - needed + 1
    assert higher > prices.base_fee
    raised = {"base_fee": str(higher)}
    assert world.net.call(world.accounts[MAIN], MAIN, "set_pricing", raised).failure is None
    now = AnswerPrices(higher, prices.limits)
    problem = AnswerBounds(now, least, input_bytes).problem(size)
    assert problem is not None
    with pytest.raises(OutputRefusedError) as refused:
        await chain.resolve(answer(near, b'"' + b"x" * (size - 2) + b'"'), unnoticed)
    assert refused.value.too_large
    wanted = f"{now.needed(size, input_bytes)} yoctoNEAR"
    assert wanted in str(refused.value)
    assert wanted in problem
    lowered = {"base_fee": str(higher - 1)}
    assert world.net.call(world.accounts[MAIN], MAIN, "set_pricing", lowered).failure is None
    assert AnswerBounds(AnswerPrices(higher - 1, prices.limits), least, input_bytes).problem(size) is None
    await chain.resolve(answer(near, b'"' + b"x" * (size - 2) + b'"'), unnoticed)


async def test_a_request_whose_time_is_over_is_known_to_be(world: World, chain: Chain) -> None:
    _, near = world.ask()
    assert not await chain.is_over(near)
    world.net.fast_forward(chain_module.OVER_BLOCKS + 5)
    assert await chain.is_over(near)
    with pytest.raises(RequestGoneError):
        await chain.resolve(answer(near), unnoticed)


@pytest.mark.parametrize("failed_first", [True, False])
async def test_a_failed_call_of_the_same_block_does_not_hide_a_request(
    world: World, chain: Chain, failed_first: bool
) -> None:
    """It has logged the id that the next request gets, and then its receipt fails."""
    source = wasm_url_source("https://example.test/a.wasm", "ab" * 32)
    ask = on_main.request_execution(source, resource_limits={}, deposit=NEAR // 10, gas=100 * TGAS)
    fails = FunctionCall("no_such_method", b"{}", TGAS, 0)
    parts = [
        world.net.sign(world.accounts[BOB], MAIN, [ask, fails]),
        world.net.sign(world.accounts[ALICE], MAIN, [ask]),
    ]

    async def both() -> None:
        for part in parts if failed_first else reversed(parts):
            world.net.node.submit(part)

    world.net._run(both)
    for _ in range(4):
        world.net.produce_block()
    failed, good = (world.net.tx(_hash_of(part)) for part in parts)
    assert failed.failure is not None
    assert any("execution_requested" in line for item in failed.outcomes for line in item["outcome"]["logs"])
    (request_id,) = world.net.view(MAIN, "get_pending_request_ids")
    shown = world.net.view(MAIN, "get_request", {"request_id": request_id})
    near = NearRequest(request_id, bytes(shown["data_id"]), world.block_of(good), MAIN)
    assert (await chain.request(near)).event.predecessor_id == ALICE
    with pytest.raises(RequestRefusedError):
        await chain.request(NearRequest(request_id, bytes(32), near.block_height, MAIN))


def _hash_of(signed: bytes) -> str:
    from outlayer_near.primitives import SignedTransaction, b58encode

    return b58encode(SignedTransaction.from_bytes(signed).hash())


def test_what_may_pass_costs_gas_and_is_worth_another_try() -> None:
    error = chain_module.failed_answer("Unable to resume execution promise", success=True, request_id=1)
    assert isinstance(error, SubmissionError)
    assert error.ran
