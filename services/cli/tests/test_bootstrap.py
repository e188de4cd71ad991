# SPDX-License-Identifier: MIT
"""What ``up`` does to a chain that an older version has prepared: contracts keep what they hold."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from outlayer_cli import bootstrap, layout
from outlayer_cli.layout import Layout
from outlayer_localnet.testing import NEAR, TGAS, Localnet, TestAccount, localnet
from outlayer_near.calls import caller as on_caller
from outlayer_near.calls import main as on_main
from outlayer_near.credentials import Credentials, load_credentials, save_credentials
from outlayer_near.errors import TransactionFailedError
from outlayer_near.models import wasm_url_source
from outlayer_near.primitives import AccessKey, AddKey, FunctionCallPermission, KeyPair
from outlayer_near.rpc import NearRpc
from outlayer_near.views import OutlayerViews

ROOT = Path(__file__).resolve().parents[3]
OLDER = ROOT / "contracts" / "tests" / "fixtures" / "outlayer-v2.wasm"
MAIN = bootstrap._Contract(
    layout.MAIN_CONTRACT,
    "outlayer.wasm",
    on_main.new(layout.MAIN_CONTRACT),
    on_main.migrate(),
    on_main.migrate_requests(),
)


@pytest.fixture(scope="module")
def net() -> Iterator[tuple[Localnet, dict[str, TestAccount]]]:
    with localnet() as chain:
        main = chain.create_account(layout.MAIN_CONTRACT, 300 * NEAR)
        accounts = {
            layout.MAIN_CONTRACT: main,
            layout.INIT_ACCOUNT: chain.create_account(layout.INIT_ACCOUNT, 100 * NEAR, creator=main),
            layout.DEVELOPER: chain.create_account(layout.DEVELOPER, 100 * NEAR),
        }
        chain.snapshot("bare")
        yield chain, accounts


@pytest.fixture
async def chain(
    net: tuple[Localnet, dict[str, TestAccount]], tmp_path: Path
) -> AsyncIterator[bootstrap._Chain]:
    net[0].restore("bare")
    place = Layout(tmp_path)
    for name, account in net[1].items():
        save_credentials(place.credential(f"{name}.json"), Credentials(name, account.key))
    async with NearRpc(net[0].rpc_url) as rpc:
        yield bootstrap._Chain(rpc, place)


def installed() -> Any:
    import hashlib

    from outlayer_near.primitives import b58encode

    code = (ROOT / "contracts" / "artifacts" / "outlayer.wasm").read_bytes()
    return b58encode(hashlib.sha256(code).digest())


async def test_an_older_contract_is_moved_to_the_installed_one_with_what_it_holds(
    net: Any, chain: bootstrap._Chain
) -> None:
    node, accounts = net
    node.deploy(accounts[layout.MAIN_CONTRACT], OLDER, "new", {"owner_id": layout.MAIN_CONTRACT})
    create = on_main.create_project("echo", wasm_url_source("http://w", "ab" * 32), deposit=NEAR)
    assert node.send(accounts[layout.DEVELOPER], layout.MAIN_CONTRACT, [create]).failure is None
    asked = {"source": {"Project": {"project_id": f"{layout.DEVELOPER}/echo"}}, "resource_limits": {}}
    node.call(
        accounts[layout.DEVELOPER],
        layout.MAIN_CONTRACT,
        "request_execution",
        asked,
        deposit=NEAR // 10,
        gas=200 * TGAS,
        wait_until="INCLUDED",
    )
    views = OutlayerViews(chain.rpc, layout.MAIN_CONTRACT)
    for _ in range(3):
        node.produce_block()
    before = await views.get_request(0)
    said: list[str] = []
    await bootstrap._ensure_contract(chain, MAIN, said.append)
    assert said == [f"outlayer.wasm updated at {layout.MAIN_CONTRACT}"]
    assert await chain.rpc.code_hash(layout.MAIN_CONTRACT) == installed()
    assert await views.get_pending_request_ids() == [0]
    after = await views.get_request(0)
    assert before is not None
    assert after is not None
    left = node.call(accounts[layout.DEVELOPER], layout.MAIN_CONTRACT, "migrate_requests", {"limit": 0})
    assert left.json() == 0, "what the older state held is carried over"
    assert (after.data_id, after.payment, after.sender_id) == (
        before.data_id,
        before.payment,
        before.sender_id,
    )


async def test_an_installed_contract_is_left_alone(net: Any, chain: bootstrap._Chain) -> None:
    said: list[str] = []
    await bootstrap._ensure_contract(chain, MAIN, said.append)
    height = net[0].height
    await bootstrap._ensure_contract(chain, MAIN, said.append)
    assert said == [f"outlayer.wasm deployed at {layout.MAIN_CONTRACT}"]
    balance = net[0].balance(layout.MAIN_CONTRACT)
    await bootstrap._ensure_contract(chain, MAIN, said.append)
    assert net[0].balance(layout.MAIN_CONTRACT) == balance
    assert net[0].height - height < 5


async def test_code_that_cannot_take_over_the_state_is_not_left_there(
    net: Any, chain: bootstrap._Chain
) -> None:
    node, accounts = net
    other = on_caller.new(layout.MAIN_CONTRACT)
    caller = ROOT / "contracts" / "artifacts" / "caller.wasm"
    node.deploy(accounts[layout.MAIN_CONTRACT], caller, "new", json.loads(other.args))
    before = await chain.rpc.code_hash(layout.MAIN_CONTRACT)
    with pytest.raises(TransactionFailedError):
        await bootstrap._ensure_contract(chain, MAIN, lambda _: None)
    assert await chain.rpc.code_hash(layout.MAIN_CONTRACT) == before


async def scope_of(chain: bootstrap._Chain, public_key: str) -> tuple[list[str], int]:
    found = await chain.rpc.view_access_key(layout.INIT_ACCOUNT, public_key)
    assert found is not None
    scope = found["permission"]["FunctionCall"]
    return scope["method_names"], int(scope["allowance"])


@pytest.mark.parametrize(
    ("methods", "allowance"),
    [(("register_worker_key",), 20 * NEAR), (bootstrap.INIT_METHODS, NEAR)],
    ids=["an older scope", "little allowance left"],
)
async def test_a_registering_key_of_an_older_stack_is_made_anew(
    net: Any, chain: bootstrap._Chain, methods: tuple[str, ...], allowance: int
) -> None:
    key = KeyPair.generate()
    save_credentials(chain.place.credential("worker-1.init.json"), Credentials(layout.INIT_ACCOUNT, key))
    permission = FunctionCallPermission(layout.OPERATOR, methods, allowance)
    add = AddKey(key.public_key, AccessKey(0, permission))
    node, accounts = net
    assert node.send(accounts[layout.INIT_ACCOUNT], layout.INIT_ACCOUNT, [add]).failure is None
    await bootstrap._ensure_init_key(chain, chain.place, "worker-1")
    assert await scope_of(chain, str(key.public_key)) == (
        ["register_worker_key", "reverify_worker_key"],
        20 * NEAR,
    )


async def test_a_registering_key_that_is_good_stays_as_it_is(net: Any, chain: bootstrap._Chain) -> None:
    await bootstrap._ensure_init_key(chain, chain.place, "worker-1")
    key = load_credentials(chain.place.credential("worker-1.init.json")).key_pair.public_key
    nonce = (await chain.rpc.view_access_key(layout.INIT_ACCOUNT, str(key)))["nonce"]  # type: ignore[index]
    await bootstrap._ensure_init_key(chain, chain.place, "worker-1")
    assert (await chain.rpc.view_access_key(layout.INIT_ACCOUNT, str(key)))["nonce"] == nonce  # type: ignore[index]


@pytest.mark.parametrize(("answers", "calls"), [([0], 1), ([5, 3, 0], 3), ([5, 5], 2), ([None], 1)], ids=str)
async def test_what_one_transaction_cannot_carry_over_is_carried_by_more_until_none_is_left_or_none_can_be(
    answers: list[Any], calls: int
) -> None:
    sent: list[Any] = []

    class Answering:
        async def act(self, *action: Any) -> Any:
            sent.append(action)
            return self

        def json(self) -> Any:
            return answers[len(sent) - 1]

    await bootstrap._carry_over(Answering(), layout.MAIN_CONTRACT, on_main.migrate_requests())  # type: ignore[arg-type]
    assert len(sent) == calls
