// SPDX-License-Identifier: MIT
//! Test only: a non-fungible token as far as the access condition `NftOwned` reads it (NEP-171, NEP-181), and mint.

use near_sdk::json_types::U128;
use near_sdk::store::IterableMap;
use near_sdk::{env, near, require, AccountId, PanicOnDefault};

#[near(serializers = [json])]
pub struct Token {
    pub token_id: String,
    pub owner_id: AccountId,
}

#[near(contract_state)]
#[derive(PanicOnDefault)]
pub struct Nft {
    minter_id: AccountId,
    owners: IterableMap<String, AccountId>,
}

#[near]
impl Nft {
    #[init]
    pub fn new(minter_id: AccountId) -> Self {
        Nft { minter_id, owners: IterableMap::new(b"t") }
    }

    pub fn nft_mint(&mut self, token_id: String, receiver_id: AccountId) -> Token {
        require!(env::predecessor_account_id() == self.minter_id, "Only the minter mints");
        require!(!self.owners.contains_key(&token_id), "This token is there already");
        self.owners.insert(token_id.clone(), receiver_id.clone());
        Token { token_id, owner_id: receiver_id }
    }

    #[payable]
    pub fn nft_transfer(&mut self, receiver_id: AccountId, token_id: String) {
        require!(
            env::attached_deposit().as_yoctonear() == 1,
            "Requires attached deposit of exactly 1 yoctoNEAR"
        );
        let owner =
            self.owners.get_mut(&token_id).unwrap_or_else(|| env::panic_str("There is no such token"));
        require!(*owner == env::predecessor_account_id(), "Only the token's owner transfers it");
        *owner = receiver_id;
    }

    pub fn nft_token(&self, token_id: String) -> Option<Token> {
        self.owners.get(&token_id).map(|owner| Token { token_id: token_id.clone(), owner_id: owner.clone() })
    }

    pub fn nft_tokens_for_owner(
        &self,
        account_id: AccountId,
        from_index: Option<U128>,
        limit: Option<u64>,
    ) -> Vec<Token> {
        let from = from_index.map_or(0, |index| index.0 as usize);
        let limit = limit.unwrap_or(50).min(100) as usize;
        let owned = self.owners.iter().filter(|(_, owner)| **owner == account_id);
        owned
            .skip(from)
            .take(limit)
            .map(|(token_id, owner)| Token { token_id: token_id.clone(), owner_id: owner.clone() })
            .collect()
    }

    pub fn nft_supply_for_owner(&self, account_id: AccountId) -> U128 {
        U128(self.owners.values().filter(|owner| **owner == account_id).count() as u128)
    }
}
