# SPDX-License-Identifier: MIT
"""The package against a real node with the real contracts, and py-near beside it on the same chain."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from pathlib import Path

import pytest
from py_near.account import Account

from outlayer_localnet.testing import NEAR, Localnet, localnet
from outlayer_near import nep413
from outlayer_near.calls import build
from outlayer_near.calls import main as on_main
from outlayer_near.calls import register as on_register
from outlayer_near.errors import (
    SignatureError,
    TransactionFailedError,
    TransactionRefusedError,
    ViewError,
)
from outlayer_near.events import (
    BlockStream,
    find_execution_request,
    open_source,
    requests_of_block,
    requests_of_transaction,
    settlement_of,
)
from outlayer_near.models import (
    STORAGE_BYTE_PRICE,
    AllowAll,
    Logic,
    Not,
    ProjectSecret,
    RegisterResult,
    ResourceMetrics,
    Whitelist,
    project_source,
    wasm_url_source,
)
from outlayer_near.primitives import (
    AccessKey,
    AddKey,
    FunctionCall,
    FunctionCallPermission,
    KeyPair,
    Transfer,
)
from outlayer_near.rpc import NearRpc
from outlayer_near.sender import Sender
from outlayer_near.views import OutlayerViews, RegisterViews

ARTIFACTS = Path(__file__).parents[3] / "contracts" / "artifacts"
CODE = wasm_url_source("http://127.0.0.1/wasm", "ab" * 32)
MAIN = "outlayer.test"


@pytest.fixture(scope="module")
def prepared():
    """A chain with the main contract, a caller contract, and alice's project; tests go back to it."""
    with localnet() as chain:
        main = chain.create_account(MAIN)
        alice = chain.create_account("alice.test")
        bob = chain.create_account("bob.test")
        operator = chain.create_account("worker.test")
        chain.deploy(
            main, ARTIFACTS / "outlayer.wasm", "new", {"owner_id": MAIN, "operator_id": "worker.test"}
        )
        chain.deploy(bob, ARTIFACTS / "caller.wasm", "new", {"outlayer_contract_id": MAIN})
        registration = {
            "owner_id": MAIN,
            "init_worker_account": "alice.test",
            "outlayer_contract_id": MAIN,
            "key_ttl_seconds": 3600,
        }
        chain.deploy(operator, ARTIFACTS / "register.wasm", "new", registration)
        create = on_main.create_project("echo", CODE, deposit=NEAR)
        assert chain.send(alice, MAIN, [create]).failure is None
        chain.snapshot("prepared")
        yield chain, {"alice": alice, "bob": bob, "main": main, "operator": operator}


@pytest.fixture
def chain(prepared) -> Localnet:
    prepared[0].restore("prepared")
    return prepared[0]


@pytest.fixture
async def rpc(chain):
    async with NearRpc(chain.rpc_url) as client:
        yield client


@pytest.fixture
def send_as(prepared, rpc):
    def sender(name: str) -> Sender:
        account = prepared[1][name]
        return Sender(rpc, account.account_id, account.key)

    return sender


@pytest.fixture
def views(rpc) -> OutlayerViews:
    return OutlayerViews(rpc, MAIN)


def request_echo(text: str, *, deposit: int = NEAR // 10) -> FunctionCall:
    return on_main.request_execution(
        project_source("alice.test/echo"),
        input_data=text,
        resource_limits={"max_instructions": 1_000_000},
        response_format="Json",
        deposit=deposit,
    )


async def pending(views: OutlayerViews) -> int:
    while not (ids := await views.get_pending_request_ids()):  # noqa: ASYNC110 - a chain does not signal
        await asyncio.sleep(0.005)
    return ids[0]


async def test_a_request_is_found_resolved_and_its_value_is_the_workers_own_bytes(chain, rpc, send_as, views):
    """Request, event, resolve, value: what the callback returns is byte for byte what the worker wrote."""
    asking = asyncio.create_task(send_as("alice").send(MAIN, [request_echo('{"x": 1}')]))
    request_id = await pending(views)
    found = None
    async with BlockStream(open_source(chain.rpc_url, chain.feed_url), 0) as stream:
        while found is None:
            found = next(iter(requests_of_block(await asyncio.wait_for(stream.next(), 10), MAIN)), None)
    assert found.request.request_id == request_id
    assert found.request.input_data == '{"x": 1}'
    assert found.request.project_id == "alice.test/echo"
    assert found.request.resource_limits.max_memory_mb == 128
    shown = await views.get_request(request_id)
    assert shown is not None
    assert bytes(shown.data_id) == found.data_id
    assert shown.sender_id == found.predecessor_id == "alice.test"

    odd = b'{ "b":1.0, "a":"\\u00e4", "big":123456789012345678901234567890 }'
    resolve = on_main.resolve_execution(
        request_id,
        success=True,
        output=build.json_output(odd),
        resources=ResourceMetrics(instructions=10, time_ms=1),
    )
    await send_as("operator").send(MAIN, [resolve])
    outcome = await asyncio.wait_for(asking, 20)
    assert outcome.value == odd
    assert outcome.tx_hash == found.tx_hash
    assert await views.get_request(request_id) is None


@pytest.mark.parametrize("through_feed", [True, False])
async def test_a_request_made_by_a_contract_is_found_in_its_block(chain, send_as, views, through_feed):
    asking = asyncio.create_task(
        send_as("alice").call(
            "bob.test",
            "ask",
            {"project_id": "alice.test/echo", "input_data": "hello"},
            gas=300 * 10**12,
            deposit=NEAR // 10,
        )
    )
    request_id = await pending(views)
    height = await _height_of(chain, request_id)
    source = open_source(chain.rpc_url, chain.feed_url if through_feed else None)
    found = await find_execution_request(source, MAIN, height, request_id)
    assert found is not None
    assert (found.predecessor_id, found.signer_id) == ("bob.test", "alice.test")
    assert await find_execution_request(source, MAIN, height, request_id + 1) is None
    await source.close()
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking


async def _height_of(chain: Localnet, request_id: int) -> int:
    async with BlockStream(open_source(chain.rpc_url, chain.feed_url), 0) as stream:
        while True:
            block = await asyncio.wait_for(stream.next(), 10)
            if any(item.request.request_id == request_id for item in requests_of_block(block, MAIN)):
                return block.height


async def test_r48_feed_and_plain_rpc_give_the_same_events(chain, send_as, views):
    sender = send_as("alice")
    waiting = [asyncio.create_task(sender.send(MAIN, [request_echo(f'"{number}"')])) for number in range(6)]
    while len(await views.get_pending_request_ids()) < 6:  # noqa: ASYNC110 - a chain does not signal
        await asyncio.sleep(0.005)
    head = chain.height
    found = []
    for feed in (chain.feed_url, None):
        async with BlockStream(open_source(chain.rpc_url, feed), 0) as stream:
            events = []
            while stream.next_height <= head:
                events += requests_of_block(await asyncio.wait_for(stream.next(), 10), MAIN)
        found.append(sorted(events, key=lambda event: event.request.request_id))
    assert [len(events) for events in found] == [6, 6]
    assert found[0] == found[1]
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_projects_and_prices_are_read_as_the_contract_holds_them(views, send_as):
    project = await views.get_project("alice.test/echo")
    assert project is not None
    assert (project.owner, project.name, project.active_version) == ("alice.test", "echo", "ab" * 32)
    second = wasm_url_source("http://127.0.0.1/second", "cd" * 32)
    outcome = await send_as("alice").send(
        MAIN, [on_main.add_version("echo", second, set_active=False, deposit=NEAR)]
    )
    assert outcome.json() == "cd" * 32
    await send_as("alice").send(MAIN, [on_main.set_active_version("echo", "cd" * 32)])
    versions = await views.list_versions("alice.test/echo")
    assert {item.wasm_hash: item.is_active for item in versions} == {"ab" * 32: False, "cd" * 32: True}
    assert await views.get_version_count("alice.test/echo") == 2
    found = await views.get_version("alice.test/echo", "cd" * 32)
    assert found is not None
    assert found.source.wasm_url is not None
    assert found.source.wasm_url.url == "http://127.0.0.1/second"
    assert [item.project_id for item in await views.list_user_projects("alice.test")] == ["alice.test/echo"]
    assert await views.get_project("alice.test/other") is None
    assert await views.get_version("alice.test/echo", "ef" * 32) is None
    await send_as("alice").send(MAIN, [on_main.remove_version("echo", "ab" * 32)])
    await send_as("alice").send(MAIN, [on_main.delete_project("echo")])
    assert await views.list_user_projects("alice.test") == []


async def test_the_owners_calls_reach_the_contract(views, send_as):
    owner = send_as("main")
    before = await views.get_pricing_full()
    await owner.send(MAIN, [on_main.set_pricing({"base_fee": 7}), on_main.set_paused(True)])
    assert (await views.get_pricing_full()).base_fee == 7
    assert (await views.get_pricing_full()).per_ms_fee == before.per_ms_fee
    assert await views.is_paused()
    with pytest.raises(TransactionFailedError, match="Contract is paused"):
        await send_as("alice").send(MAIN, [request_echo("1")])
    await owner.send(MAIN, [on_main.set_paused(False), on_main.set_event_metadata(version="1.2.0")])
    assert await views.get_event_metadata() == ("near-outlayer", "1.2.0")
    await owner.send(MAIN, [on_main.set_operator("alice.test"), on_main.set_owner("bob.test")])
    assert await views.get_config() == ("bob.test", "alice.test")
    assert await views.get_max_limits() == (500_000_000_000, 180, 300)
    limits = {"max_instructions": 2_000_000, "max_execution_seconds": 1}
    assert await views.estimate_execution_cost(limits) == 7 + 2 * 10**14 + 1000 * 10**17
    assert await views.estimate_execution_cost(None) == await views.estimate_execution_cost({})
    assert (await views.get_stats())[0] == 0


async def test_a_view_that_panics_and_one_that_is_not_there_are_told(rpc):
    with pytest.raises(ViewError, match="MethodNotFound"):
        await rpc.view(MAIN, "no_such_method")


async def test_an_account_without_means_is_refused_before_anything_runs(chain, rpc):
    poor = chain.create_account("poor.test", NEAR // 100)
    with pytest.raises(TransactionRefusedError) as caught:
        await Sender(rpc, "poor.test", poor.key).send("alice.test", [Transfer(NEAR)])
    assert caught.value.kind == "NotEnoughBalance"


async def test_two_processes_with_one_key_both_get_through(chain, send_as):
    """Each has its own idea of the nonce; none of their transactions is lost or runs twice."""
    before = chain.balance("bob.test")
    first, second = send_as("alice"), send_as("alice")
    await asyncio.gather(
        *(sender.send("bob.test", [Transfer(1)]) for _ in range(8) for sender in (first, second))
    )
    assert chain.balance("bob.test") - before == 16


async def test_py_near_and_our_sender_share_a_chain(chain, prepared, rpc, send_as):
    """py-near, unmodified, reads what we wrote, sends what we read, and its nonces and ours do not collide."""
    alice = prepared[1]["alice"]
    await send_as("alice").send("bob.test", [Transfer(5)])
    account = Account("alice.test", alice.key.secret.removeprefix("ed25519:"), chain.rpc_url)
    await account.startup()
    before = chain.balance("bob.test")
    result = await account.send_money("bob.test", 11)
    assert chain.balance("bob.test") - before == 11
    outcome = await rpc.transaction(result.transaction.hash, "alice.test")
    assert "SuccessValue" in outcome["status"]
    ours = send_as("alice")
    await ours.send("bob.test", [Transfer(3)])
    await account.send_money("bob.test", 2)
    await ours.send("bob.test", [Transfer(4)])
    assert chain.balance("bob.test") - before == 20
    shown = await account.view_function(MAIN, "get_project", {"project_id": "alice.test/echo"})
    assert shown.result == await rpc.view(MAIN, "get_project", {"project_id": "alice.test/echo"})


# -- the register contract -------------------------------------------------------------------------------

MEASUREMENTS = {
    name: f"{number:02x}" * 48 for number, name in enumerate(["mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"])
}


async def test_measurement_sets_are_approved_from_and_until_their_times(rpc, send_as):
    register, owner = RegisterViews(rpc, "worker.test"), send_as("main")
    assert not await register.is_measurements_approved(MEASUREMENTS)
    add = on_register.add_measurement_set(MEASUREMENTS, name="worker 1")
    set_id = (await owner.send("worker.test", [add])).json()
    (found,) = await register.get_measurement_sets()
    assert (found.id, found.name, found.measurements) == (set_id, "worker 1", MEASUREMENTS)
    assert found.active_at(int(time.time()))
    assert await register.is_measurements_approved(MEASUREMENTS)
    assert await register.get_approved_measurements() == [MEASUREMENTS]
    await owner.send("worker.test", [on_register.expire_measurement_set(set_id, 1)])
    assert not await register.is_measurements_approved(MEASUREMENTS)
    assert not (await register.get_measurement_sets())[0].active_at(int(time.time()))


async def test_a_rejected_quote_is_a_value_with_a_reason(rpc, send_as):
    key = str(KeyPair.generate().public_key)
    outcome = await send_as("alice").send("worker.test", [on_register.register_worker_key(key, b"no quote")])
    answer = RegisterResult.model_validate(outcome.json())
    assert (answer.status, answer.reason) == ("rejected", "quote_malformed")
    register = RegisterViews(rpc, "worker.test")
    assert await register.get_worker_key(key) is None
    assert await register.get_worker_keys() == []
    assert not await register.is_worker_key_valid(key)
    await send_as("alice").send("worker.test", [on_register.remove_expired_keys()])


async def test_only_the_owner_changes_the_register_contract(rpc, send_as):
    for call in (
        on_register.add_measurement_set(MEASUREMENTS),
        on_register.update_collateral("{}"),
        on_register.transfer_ownership("alice.test"),
        on_register.remove_worker_keys([]),
    ):
        with pytest.raises(TransactionFailedError):
            await send_as("alice").send("worker.test", [call])
    await send_as("main").send("worker.test", [on_register.transfer_ownership("alice.test")])
    register = RegisterViews(rpc, "worker.test")
    config = await register.get_config()
    assert (config.owner_id, config.key_ttl_seconds) == ("alice.test", 3600)
    root = await register.get_root_ca()
    assert not root.simulated
    assert await register.get_collateral() is None
    assert await register.get_collateral_info() == []


# -- NEP-413 on chain ------------------------------------------------------------------------------------


async def test_a_message_counts_only_with_a_full_access_key_of_the_account(prepared, rpc, send_as):
    alice = prepared[1]["alice"]
    limited, stranger = KeyPair.generate(), KeyPair.generate()
    permission = FunctionCallPermission(MAIN, (), None)
    await send_as("alice").send("alice.test", [AddKey(limited.public_key, AccessKey(0, permission))])
    good = nep413.sign_message("alice.test", alice.key, "upload ab", "127.0.0.1:1")
    await nep413.check_message(rpc, good, "upload ab", "127.0.0.1:1")
    for key in (limited, stranger):
        signed = nep413.sign_message("alice.test", key, "upload ab", "127.0.0.1:1")
        nep413.check_signature(signed, "upload ab", "127.0.0.1:1", time.time())
        with pytest.raises(SignatureError, match="full-access"):
            await nep413.check_message(rpc, signed, "upload ab", "127.0.0.1:1")
    other = nep413.sign_message("nobody.test", alice.key, "upload ab", "127.0.0.1:1")
    with pytest.raises(SignatureError):
        await nep413.check_message(rpc, other, "upload ab", "127.0.0.1:1")


@pytest.mark.parametrize("success", [True, False])
@pytest.mark.parametrize("large", [True, False], ids=["through state", "inline"])
async def test_a_settlement_shows_the_record_in_a_block_of_the_chain(rpc, send_as, views, success, large):
    asking = asyncio.create_task(send_as("alice").send(MAIN, [request_echo("1")]))
    request_id = await pending(views)
    leaf = hashlib.sha256(b"record").hexdigest()
    output = build.json_output(b'"%s"' % (b"x" * (5000 if large else 5)))
    call = on_main.submit_execution_output_and_resolve if large else on_main.resolve_execution
    used = ResourceMetrics(instructions=10, time_ms=1)
    resolve = call(request_id, success=success, output=output, resources=used, record_sha256=leaf)
    await send_as("operator").send(MAIN, [resolve])
    outcome = await asyncio.wait_for(asking, 20)
    status = await rpc.transaction(outcome.tx_hash, "alice.test", wait_until="FINAL", receipts=True)
    (request,) = requests_of_transaction(status, MAIN)
    settlement = settlement_of(status, MAIN, request)
    assert settlement is not None
    assert (settlement.record_sha256, settlement.success) == (leaf, success)
    assert settlement.value == outcome.value
    block = await rpc.header(settlement.block_hash)
    assert (await rpc.header(request.block_hash)).height < block.height <= (await rpc.header()).height
    assert await rpc.header(block.height) == block
    assert abs(block.time - time.time()) < 60


async def test_a_request_that_timed_out_is_settled_without_a_record(chain, rpc, send_as, views):
    asking = asyncio.create_task(send_as("alice").send(MAIN, [request_echo("1")]))
    await pending(views)
    await asyncio.to_thread(chain.fast_forward, 210)
    outcome = await asyncio.wait_for(asking, 20)
    status = await rpc.transaction(outcome.tx_hash, "alice.test", wait_until="FINAL", receipts=True)
    (request,) = requests_of_transaction(status, MAIN)
    settlement = settlement_of(status, MAIN, request)
    assert settlement is not None
    assert (settlement.record_sha256, settlement.success, settlement.value) == (None, None, b"null")


async def test_a_large_result_is_delivered_through_state(views, send_as):
    asking = asyncio.create_task(send_as("alice").send(MAIN, [request_echo("1")]))
    request_id = await pending(views)
    large = json.dumps({"data": "x" * 5000}).encode()
    resolve = on_main.submit_execution_output_and_resolve(
        request_id,
        success=True,
        output=build.json_output(large),
        resources=ResourceMetrics(instructions=10, time_ms=1),
    )
    await send_as("operator").send(MAIN, [resolve])
    assert (await asyncio.wait_for(asking, 20)).value == large


async def test_r5_a_secret_costs_what_its_bytes_say_and_is_shown_as_it_was_stored(chain, send_as, views):
    accessor = ProjectSecret(project_id="alice.test/echo")
    access = Logic(operator="Or", conditions=(Whitelist(accounts=("bob.test",)), Not(condition=AllowAll())))
    price = await views.estimate_storage_cost(accessor, "default", "alice.test", "AQID", access)
    before = chain.account(MAIN)["storage_usage"]
    store = on_main.store_secrets(accessor, "default", "AQID", access, deposit=NEAR)
    await send_as("alice").send(MAIN, [store])
    shown = await views.get_secrets(accessor, "default", "alice.test")
    assert shown is not None
    assert (shown.encrypted_secrets, shown.access, shown.accessor) == ("AQID", access, accessor)
    assert price == (chain.account(MAIN)["storage_usage"] - before) * STORAGE_BYTE_PRICE
    assert 0 < shown.storage_deposit <= price
    (listed,) = await views.list_user_secrets("alice.test")
    assert (listed.profile, listed.access, listed.accessor) == ("default", access, accessor)
    assert await views.list_profiles(accessor, "alice.test") == ["default"]
    await send_as("alice").send(MAIN, [on_main.delete_secrets(accessor, "default")])
    assert not await views.secrets_exist(accessor, "default", "alice.test")
    assert chain.account(MAIN)["storage_usage"] == before
