# SPDX-License-Identifier: MIT
"""The contracts that tests put in the place of other people's: MPC signer, DAO policy, NFT, stablecoin."""

from __future__ import annotations

from typing import Any, Final

from outlayer_near.calls import main as on_main
from outlayer_near.calls import token as on_token
from outlayer_near.calls.build import call
from outlayer_near.models import CkdRequest, DepositMessage
from outlayer_near.primitives import b58encode
from tools.contracttable.scenarios.shared import ALICE, BOB, MAIN, OWNER, STORAGE, main_contract
from tools.contracttable.stage import Stage
from tools.contracttable.table import Scenario

PLACE: Final = "stand-in.test"
SECRET: Final = "01" * 32
# the generator of BLS12-381 G1, compressed
G1: Final = bytes.fromhex(
    "97f1d3a73197d7942695638c4fa9ac0fc3688c4f9774b905a14e3a3f171bac586c55e83ff97a1aeffb3af00adb22c6bb"
)
ROLES: Final[list[dict[str, Any]]] = [
    {"name": "council", "kind": {"Group": [ALICE, BOB]}, "permissions": ["*:*"]}
]


def signer(stage: Stage) -> None:
    stage.account(ALICE)
    stage.deploy(PLACE, "mpc-signer", call("new", {"secret_hex": SECRET}))
    request = CkdRequest(derivation_path="master", app_public_key="bls12381g1:" + b58encode(G1))
    stage.call(ALICE, PLACE, call("request_app_private_key", {"request": request.to_json()}, deposit=1))
    stage.view(PLACE, "public_key", domain_id=2)
    stage.view(PLACE, "contract_source_metadata")


def policy(stage: Stage) -> None:
    stage.deploy(PLACE, "dao-policy", call("new", {"roles": ROLES}))
    stage.call(PLACE, PLACE, call("set_roles", {"roles": ROLES}))
    stage.view(PLACE, "get_policy")
    stage.view(PLACE, "contract_source_metadata")


def nft(stage: Stage) -> None:
    for account in (ALICE, BOB):
        stage.account(account)
    stage.deploy(PLACE, "nft", call("new", {"minter_id": ALICE}))
    stage.call(ALICE, PLACE, call("nft_mint", {"token_id": "1", "receiver_id": ALICE}))
    stage.call(ALICE, PLACE, call("nft_transfer", {"token_id": "1", "receiver_id": BOB}, deposit=1))
    stage.view(PLACE, "nft_token", token_id="1")
    stage.view(PLACE, "nft_tokens_for_owner", account_id=BOB)
    stage.view(PLACE, "nft_supply_for_owner", account_id=BOB)
    stage.view(PLACE, "contract_source_metadata")


def stablecoin(stage: Stage) -> None:
    main_contract(stage)
    stage.deploy(PLACE, "stablecoin", call("new", {"minter_id": ALICE}))
    stage.call(OWNER, MAIN, on_main.set_payment_token_contract(PLACE))
    stage.call(ALICE, PLACE, call("mint", {"account_id": ALICE, "amount": "1000000"}))
    stage.call(BOB, PLACE, on_token.storage_deposit(deposit=STORAGE))
    stage.call(ALICE, PLACE, on_token.storage_deposit(MAIN, deposit=STORAGE))
    stage.call(ALICE, PLACE, on_token.ft_transfer(BOB, 400_000))
    stage.call(BOB, PLACE, on_token.ft_transfer_call(MAIN, 100_000, DepositMessage()))
    stage.call(ALICE, PLACE, call("set_frozen", {"account_id": BOB, "frozen": True}))
    stage.view(PLACE, "ft_balance_of", account_id=BOB)
    stage.view(PLACE, "ft_total_supply")
    stage.view(PLACE, "ft_metadata")
    stage.view(PLACE, "storage_balance_of", account_id=BOB)
    stage.view(PLACE, "contract_source_metadata")


SIGNER = Scenario("MPC signer (for tests)", signer)
POLICY = Scenario("DAO policy (for tests)", policy)
NFT = Scenario("NFT (for tests)", nft)
STABLECOIN = Scenario("Stablecoin (for tests)", stablecoin)
