// SPDX-License-Identifier: MIT
//! The register contract. It lives on the operator account of the main contract and gives it the keys of
//! workers: each key comes with a TDX quote that shows approved measurements and names the key.
//!
//! A quote that is not good enough is answered with a value (`rejected`, reason, detail), so that a worker
//! can tell "refused" from "unreachable". Time is block time; all times are unix seconds.

mod events;
mod keys;
mod policy;
mod removal;
mod state;
mod storage;
mod types;

#[cfg(test)]
mod tests;

use std::fmt::Display;

use approval::{now, Approvals, CollateralInfo, KeyIndex, Policies, RootCa};
use near_sdk::store::{IterableMap, LookupMap};
use near_sdk::{env, near, require, AccountId, BorshStorageKey, IntoStorageKey, NearToken, PanicOnDefault};

use events::{emit, Event, OwnershipTransferred};
use state::{State, StateV3};
pub use types::*;

const DEFAULT_KEY_TTL_SECONDS: u64 = 30 * 86_400;
const MIGRATED_AT_ONCE: u32 = 8;

#[near(serializers = [borsh])]
#[derive(BorshStorageKey)]
enum StorageKey {
    Collateral,
    Keys,
    Sets,
    Policies,
    Index,
    Removed,
}

#[near(contract_state)]
#[derive(PanicOnDefault)]
pub struct Contract {
    state: State,
}

#[near]
impl Contract {
    /// `root_ca_der_hex` is for local networks with a simulated platform; without it the root is Intel's.
    /// `policy_delay_seconds` is how long a policy version waits; 0 (the default) also allows the original's way of
    /// approving measurements at once.
    #[init]
    pub fn new(
        owner_id: AccountId,
        init_worker_account: AccountId,
        outlayer_contract_id: AccountId,
        root_ca_der_hex: Option<String>,
        key_ttl_seconds: Option<u64>,
        policy_delay_seconds: Option<u64>,
    ) -> Self {
        let sets = StorageKey::Sets.into_storage_key();
        let approvals = Approvals::new(root_ca_der_hex, LookupMap::new(StorageKey::Collateral), &sets);
        let key_ttl_seconds = key_ttl_seconds.unwrap_or(DEFAULT_KEY_TTL_SECONDS);
        require!(key_ttl_seconds > 0, "key_ttl_seconds must be positive");
        let policy_delay_seconds = policy_delay_seconds.unwrap_or(0);
        require!(policy_delay_seconds <= policy::MAX_DELAY_SECONDS, "The delay is longer than 90 days");
        let state = State(StateV3 {
            owner_id,
            init_worker_account,
            outlayer_contract_id,
            key_ttl_seconds,
            policy_delay_seconds,
            approvals,
            policies: Policies::new(&StorageKey::Policies.into_storage_key()),
            keys: IterableMap::new(StorageKey::Keys),
            index: KeyIndex::new(&StorageKey::Index.into_storage_key()),
            removed: LookupMap::new(StorageKey::Removed),
            storage_balance: NearToken::from_yoctonear(0),
            storage_owed: NearToken::from_yoctonear(0),
            unindexed: 0,
            search_at: 0,
            endings: 0,
        });
        Contract { state }
    }

    /// Give what an older version kept in lists keys of their own, as much as the attached gas allows. Everything works
    /// before that, at more gas. Gives what is left: call again until that is nothing.
    pub fn migrate(&mut self) -> MigrationLeft {
        let caller = env::predecessor_account_id();
        require!(
            caller == env::current_account_id() || caller == self.state().owner_id,
            "Only owner can call this method"
        );
        // half of the gas is for writing what is left
        let more = || env::used_gas().as_gas() < env::prepaid_gas().as_gas() / 2;
        let state = self.state_mut();
        state.approvals.refresh_collateral();
        let mut left = MigrationLeft { measurement_sets: 0, policies: 0, keys: 0 };
        loop {
            left.measurement_sets = state.approvals.sets.move_older(MIGRATED_AT_ONCE, now());
            left.policies = state.policies.move_older(MIGRATED_AT_ONCE);
            if left.measurement_sets + left.policies == 0 || !more() {
                break;
            }
        }
        state.index_older();
        left.keys = state.unindexed;
        left
    }

    // --- collateral (owner) ---

    /// Store collateral for the FMSPC that its TCB info names. It must verify to the root and be current, and
    /// no part of it may be older than what is stored. `index` is for the original's later clients, which number their
    /// platforms: here the collateral itself says which platform it is for.
    pub fn update_collateral(&mut self, collateral: String, index: Option<u32>) {
        self.assert_owner();
        let _ = index;
        let stored = self.state_mut().approvals.store_collateral(&collateral);
        let info = stored
            .unwrap_or_else(|refusal| env::panic_str(&format!("{}: {}", refusal.reason, refusal.detail)));
        emit(Event::CollateralUpdated([&info]));
    }

    pub fn transfer_ownership(&mut self, new_owner: AccountId) {
        self.assert_owner();
        let old_owner = std::mem::replace(&mut self.state_mut().owner_id, new_owner);
        emit(Event::OwnershipTransferred([OwnershipTransferred {
            old_owner: &old_owner,
            new_owner: &self.state().owner_id,
        }]));
    }

    // --- views ---

    /// The stored collateral of an FMSPC (12 hex digits), or what was stored last.
    pub fn get_collateral(&self, fmspc: Option<String>) -> Option<String> {
        self.state().approvals.collateral_json(fmspc)
    }

    /// The stored collateral of all platforms, at most 10.
    pub fn get_collaterals(&self, from_index: Option<u32>, limit: Option<u32>) -> Vec<String> {
        self.state().approvals.collaterals(from_index.unwrap_or(0), limit.unwrap_or(10).min(10))
    }

    pub fn get_collateral_info(&self) -> Vec<&CollateralInfo> {
        self.state().approvals.collateral_info()
    }

    pub fn get_root_ca(&self) -> RootCa {
        self.state().approvals.root_ca()
    }

    pub fn get_init_worker_account(&self) -> &AccountId {
        &self.state().init_worker_account
    }

    pub fn get_config(&self) -> Config {
        let state = self.state();
        Config {
            owner_id: state.owner_id.clone(),
            init_worker_account: state.init_worker_account.clone(),
            outlayer_contract_id: state.outlayer_contract_id.clone(),
            key_ttl_seconds: state.key_ttl_seconds,
            policy_delay_seconds: state.policy_delay_seconds,
        }
    }
}

impl Contract {
    fn state(&self) -> &StateV3 {
        &self.state.0
    }

    fn state_mut(&mut self) -> &mut StateV3 {
        &mut self.state.0
    }

    fn assert_owner(&self) {
        require!(env::predecessor_account_id() == self.state().owner_id, "Only owner can call this method");
    }
}

fn or_panic<T, E: Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| env::panic_str(&error.to_string()))
}
