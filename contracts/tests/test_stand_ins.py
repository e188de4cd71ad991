# SPDX-License-Identifier: MIT
"""Test-only contracts that access conditions read: a DAO's policy, a non-fungible token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from outlayer_localnet.testing import NEAR, Localnet, TestAccount, localnet

ARTIFACTS = Path(__file__).resolve().parents[1] / "artifacts"
NFT, POLICY = "nft.test", "dao-policy.test"


@pytest.fixture(scope="module")
def chain() -> Iterator[Localnet]:
    with localnet() as started:
        yield started


@pytest.fixture(scope="module")
def minter(chain: Localnet) -> TestAccount:
    account = chain.create_account(NFT, 20 * NEAR)
    chain.deploy(account, ARTIFACTS / "nft.wasm", "new", {"minter_id": NFT})
    for token in ("one", "two", "three"):
        receiver = "bob.test" if token == "two" else "alice.test"
        assert (
            chain.call(account, NFT, "nft_mint", {"token_id": token, "receiver_id": receiver}).failure is None
        )
    return account


def owned(chain: Localnet, account: str, **page: Any) -> list[str]:
    tokens = chain.view(NFT, "nft_tokens_for_owner", {"account_id": account, **page})
    assert all(token["owner_id"] == account for token in tokens)
    return [token["token_id"] for token in tokens]


def test_tokens_are_found_by_id_and_by_owner(chain: Localnet, minter: TestAccount) -> None:
    assert chain.view(NFT, "nft_token", {"token_id": "two"}) == {"token_id": "two", "owner_id": "bob.test"}
    assert chain.view(NFT, "nft_token", {"token_id": "four"}) is None
    assert owned(chain, "alice.test") == ["one", "three"]
    assert owned(chain, "alice.test", limit=1) == ["one"]
    assert owned(chain, "alice.test", from_index="1") == ["three"]
    assert owned(chain, "carol.test") == []
    assert chain.view(NFT, "nft_supply_for_owner", {"account_id": "alice.test"}) == "2"


def test_a_token_is_minted_once_by_the_minter_and_moved_by_its_owner(
    chain: Localnet, minter: TestAccount
) -> None:
    dave = chain.create_account("dave.test", 5 * NEAR)
    args = {"token_id": "mine", "receiver_id": "dave.test"}
    assert "Only the minter" in json.dumps(chain.call(dave, NFT, "nft_mint", args).failure)
    assert chain.call(minter, NFT, "nft_mint", args).failure is None
    assert "there already" in json.dumps(chain.call(minter, NFT, "nft_mint", args).failure)
    away = {"token_id": "mine", "receiver_id": "erin.test"}
    assert "owner transfers" in json.dumps(chain.call(minter, NFT, "nft_transfer", away, deposit=1).failure)
    assert "1 yoctoNEAR" in json.dumps(chain.call(dave, NFT, "nft_transfer", away).failure)
    assert chain.call(dave, NFT, "nft_transfer", away, deposit=1).failure is None
    assert owned(chain, "erin.test") == ["mine"]


def test_a_policy_has_the_shape_of_a_sputnik_dao(chain: Localnet) -> None:
    account = chain.create_account(POLICY, 20 * NEAR)
    council = {"name": "council", "kind": {"Group": ["alice.test"]}, "permissions": ["*:*"]}
    everyone = {"name": "all", "kind": "Everyone", "permissions": ["*:AddProposal"]}
    holders = {"name": "holders", "kind": {"Member": "100"}, "permissions": ["*:VoteApprove"]}
    chain.deploy(account, ARTIFACTS / "dao-policy.wasm", "new", {"roles": [council, everyone, holders]})
    policy = chain.view(POLICY, "get_policy")
    roles = [{name: role[name] for name in ("name", "kind", "permissions")} for role in policy["roles"]]
    assert roles == [council, everyone, holders]
    assert {"default_vote_policy", "proposal_bond", "proposal_period"} < set(policy)
    assert chain.call(account, POLICY, "set_roles", {"roles": [everyone]}).failure is None
    assert [role["kind"] for role in chain.view(POLICY, "get_policy")["roles"]] == ["Everyone"]
    stranger = chain.call(chain.test_account, POLICY, "set_roles", {"roles": [council]})
    assert "private" in json.dumps(stranger.failure)
