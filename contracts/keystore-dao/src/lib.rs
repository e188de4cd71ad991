// SPDX-License-Identifier: MIT
//! The keystore DAO. No single party admits a keystore: its quote must show approved measurements, and a majority of
//! the members must vote for it. Then its key may do one thing on this account: ask the MPC network for the key that
//! belongs to this account, which is the same for every keystore.
//!
//! The owner sets the DAO up: members, measurements, collateral. `hand_over` ends that for good; from then on all of
//! it takes a vote, and the owner can only bring newer collateral, which Intel has signed.
//!
//! Times are unix seconds of the block.

mod actions;
mod admin;
mod events;
mod index;
mod keystores;
mod proposals;
mod state;
mod storage;
mod types;
mod views;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt::Display;

use approval::{now, Approvals};
use near_sdk::store::{IterableMap, LookupMap};
use near_sdk::{env, near, require, AccountId, BorshStorageKey, Gas, IntoStorageKey, PanicOnDefault};

use index::KeystoreIndex;
use state::{Proposals, State, StateV2};
pub use types::*;

const DEFAULT_PROPOSAL_TTL_SECONDS: u64 = 7 * 86_400;
const DEFAULT_KEYSTORE_TTL_SECONDS: u64 = 30 * 86_400;
const MAX_PROPOSAL_TTL_SECONDS: u64 = 90 * 86_400;
/// Keystores of the first version's state that any call lists; measurement sets that a migration moves before it looks at
/// its gas, and what it needs to end after them.
const LISTED_IN_PASSING: usize = 4;
const MIGRATED_AT_ONCE: u32 = 20;
const MIGRATION_GAS: Gas = Gas::from_tgas(100);
/// All of them are read with the state.
const MAX_MEMBERS: usize = 100;

#[near(serializers = [borsh])]
#[derive(BorshStorageKey)]
enum StorageKey {
    Collateral,
    Proposals,
    Keystores,
    Actions,
    WholeActions,
    History,
    Registrations,
    Carried,
    KeysBySet,
    Admitted,
    Sets,
}

#[near(contract_state)]
#[derive(PanicOnDefault)]
pub struct Contract {
    state: State,
}

#[near]
impl Contract {
    /// `root_ca_der_hex` is for local networks with a simulated platform; without it the root is Intel's.
    #[init]
    pub fn new(
        owner_id: AccountId,
        init_account_id: AccountId,
        dao_members: Vec<AccountId>,
        mpc_contract_id: AccountId,
        register_contract_id: Option<AccountId>,
        root_ca_der_hex: Option<String>,
        proposal_ttl_seconds: Option<u64>,
        keystore_ttl_seconds: Option<u64>,
    ) -> Self {
        let members: BTreeSet<AccountId> = dao_members.into_iter().collect();
        require!(!members.is_empty(), "DAO must have at least one member");
        require!(members.len() <= MAX_MEMBERS, "DAO has too many members");
        let proposal_ttl_seconds = proposal_ttl_seconds.unwrap_or(DEFAULT_PROPOSAL_TTL_SECONDS);
        require!(
            (1..=MAX_PROPOSAL_TTL_SECONDS).contains(&proposal_ttl_seconds),
            "proposal_ttl_seconds must be positive and at most 90 days"
        );
        let keystore_ttl_seconds = keystore_ttl_seconds.unwrap_or(DEFAULT_KEYSTORE_TTL_SECONDS);
        require!(keystore_ttl_seconds > 0, "keystore_ttl_seconds must be positive");
        // a vote must not be a way to ask the MPC network for the secret
        require!(
            register_contract_id.as_ref().is_none_or(|id| *id != mpc_contract_id),
            "register_contract_id must not be the MPC contract"
        );
        let state = State(StateV2 {
            owner_id,
            handed_over: false,
            init_account_id,
            mpc_contract_id,
            register_contract_id,
            proposal_ttl_seconds,
            keystore_ttl_seconds,
            members,
            approvals: Approvals::new(
                root_ca_der_hex,
                LookupMap::new(StorageKey::Collateral),
                &StorageKey::Sets.into_storage_key(),
            ),
            proposals: Proposals::new(1, LookupMap::new(StorageKey::Proposals)),
            keystores: IterableMap::new(StorageKey::Keystores),
            index: KeystoreIndex::new(0),
        });
        Contract { state }
    }

    /// Write the state in its newest form, for the account itself or the owner. Gives what one call had no gas for: call
    /// again until that is nothing. Until then all works as it should, but ended keystores may be found later.
    pub fn migrate(&mut self) -> MigrationLeft {
        let caller = env::predecessor_account_id();
        require!(
            caller == env::current_account_id() || caller == self.state().owner_id,
            "Only owner can call this method"
        );
        let state = self.state_mut();
        state.approvals.refresh_collateral();
        let keystores = state.complete_index(usize::MAX);
        loop {
            let measurement_sets = state.approvals.sets.move_older(MIGRATED_AT_ONCE, now());
            if measurement_sets == 0 || gas_left() < MIGRATION_GAS {
                return MigrationLeft { keystores, measurement_sets };
            }
        }
    }
}

impl Contract {
    fn state(&self) -> &StateV2 {
        &self.state.0
    }

    fn state_mut(&mut self) -> &mut StateV2 {
        let state = &mut self.state.0;
        state.complete_index(LISTED_IN_PASSING);
        state
    }
}

impl StateV2 {
    /// More than half of the members.
    fn threshold(&self) -> usize {
        self.members.len() / 2 + 1
    }

    fn is_member(&self, account_id: &AccountId) -> bool {
        self.members.contains(account_id)
    }

    fn add_member(&mut self, account_id: AccountId) -> Result<(), String> {
        if self.members.len() >= MAX_MEMBERS {
            return Err("DAO has too many members".to_string());
        }
        if !self.members.insert(account_id) {
            return Err("Already a DAO member".to_string());
        }
        Ok(())
    }

    fn remove_member(&mut self, account_id: &AccountId) -> Result<(), String> {
        if !self.is_member(account_id) {
            return Err("Not a DAO member".to_string());
        }
        if self.members.len() == 1 {
            return Err("Cannot remove last DAO member".to_string());
        }
        self.members.remove(account_id);
        Ok(())
    }
}

fn or_panic<T, E: Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| env::panic_str(&error.to_string()))
}

fn gas_left() -> Gas {
    env::prepaid_gas().saturating_sub(env::used_gas())
}

/// Refuse a call that has less gas left than what it is about to start takes, in words that say how much to attach.
fn require_gas(needed: Gas, what: &str) {
    let attach = env::used_gas().saturating_add(needed).as_gas().div_ceil(Gas::from_tgas(1).as_gas());
    require!(gas_left() >= needed, format!("Too little gas: {what}. Attach at least {attach} Tgas"));
}
