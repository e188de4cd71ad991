// SPDX-License-Identifier: MIT
//! The main contract: contracts and accounts request executions here, and get the result in a callback.

mod access;
mod admin;
mod cost;
mod events;
mod execution;
mod migration;
mod payments;
mod projects;
mod secrets;
mod storage;
mod types;
mod views;
mod yields;

#[cfg(test)]
mod tests;

use near_sdk::store::{IterableMap, LookupMap};
use near_sdk::{env, near, require, AccountId, BorshStorageKey, PanicOnDefault};

pub use access::{AccessCondition, Comparison, LogicOperator};
pub use payments::{DeleteResult, PaymentKeyTask, TopUpResult};
pub use secrets::{SecretAccessor, SecretKey, SecretProfile, SystemSecret};
pub use types::*;

pub const STATE_VERSION: u32 = 2;

#[near(serializers = [borsh])]
#[derive(BorshStorageKey)]
enum StorageKey {
    PendingRequests,
    Projects,
    ProjectVersions,
    UserProjects,
    DeveloperEarnings,
    StablecoinBalances,
    Secrets,
    UserSecrets,
    PaymentKeyTasks,
    TasksByDataId,
}

#[near(contract_state)]
#[derive(PanicOnDefault)]
pub struct Contract {
    state_version: u32,
    owner_id: AccountId,
    operator_id: AccountId,
    paused: bool,
    event_standard: String,
    event_version: String,
    pricing: Pricing,
    payment_token_contract: Option<AccountId>,
    next_request_id: u64,
    total_executions: u64,
    total_fees_collected: u128,
    next_project_number: u64,
    pending_requests: IterableMap<u64, ExecutionRequest>,
    projects: LookupMap<String, Project>,
    /// by `{uuid}/{version key}`
    project_versions: LookupMap<String, VersionInfo>,
    user_projects: LookupMap<AccountId, Vec<String>>,
    developer_earnings: LookupMap<AccountId, u128>,
    user_stablecoin_balances: LookupMap<AccountId, u128>,
    secrets: LookupMap<SecretKey, SecretProfile>,
    /// accessor and profile of each secret of an owner
    user_secrets: LookupMap<AccountId, Vec<(SecretAccessor, String)>>,
    /// owner and nonce of a payment key -> data id of its task
    payment_key_tasks: LookupMap<(AccountId, u32), [u8; 32]>,
    tasks_by_data_id: LookupMap<[u8; 32], PaymentKeyTask>,
}

#[near]
impl Contract {
    #[init]
    pub fn new(
        owner_id: AccountId,
        operator_id: Option<AccountId>,
        event_standard: Option<String>,
        event_version: Option<String>,
    ) -> Self {
        Contract {
            state_version: STATE_VERSION,
            operator_id: operator_id.unwrap_or_else(|| owner_id.clone()),
            owner_id,
            paused: false,
            event_standard: event_standard.unwrap_or_else(|| "near-outlayer".to_string()),
            event_version: event_version.unwrap_or_else(|| "1.0.0".to_string()),
            pricing: Pricing::default(),
            payment_token_contract: None,
            next_request_id: 0,
            total_executions: 0,
            total_fees_collected: 0,
            next_project_number: 1,
            pending_requests: IterableMap::new(StorageKey::PendingRequests),
            projects: LookupMap::new(StorageKey::Projects),
            project_versions: LookupMap::new(StorageKey::ProjectVersions),
            user_projects: LookupMap::new(StorageKey::UserProjects),
            developer_earnings: LookupMap::new(StorageKey::DeveloperEarnings),
            user_stablecoin_balances: LookupMap::new(StorageKey::StablecoinBalances),
            secrets: LookupMap::new(StorageKey::Secrets),
            user_secrets: LookupMap::new(StorageKey::UserSecrets),
            payment_key_tasks: LookupMap::new(StorageKey::PaymentKeyTasks),
            tasks_by_data_id: LookupMap::new(StorageKey::TasksByDataId),
        }
    }
}

impl Contract {
    fn assert_owner(&self) {
        require!(env::predecessor_account_id() == self.owner_id, "Only owner can call this method");
    }

    fn assert_operator(&self) {
        require!(env::predecessor_account_id() == self.operator_id, "Only operator can call this method");
    }

    fn emit<T: near_sdk::serde::Serialize>(&self, event: &str, data: T) {
        env::log_str(&self.event_line(event, data));
    }

    fn event_line<T: near_sdk::serde::Serialize>(&self, event: &str, data: T) -> String {
        events::render(&self.event_standard, &self.event_version, event, data)
    }

    /// Add to a balance of micro-USD; nothing is written for zero.
    fn credit_stablecoin(&mut self, account_id: &AccountId, amount: u128) {
        if amount > 0 {
            let balance = self.user_stablecoin_balances.get(account_id).copied().unwrap_or(0);
            self.user_stablecoin_balances.insert(account_id.clone(), balance.saturating_add(amount));
        }
    }

    fn credit_developer(&mut self, account_id: &AccountId, amount: u128) {
        if amount > 0 {
            let balance = self.developer_earnings.get(account_id).copied().unwrap_or(0);
            self.developer_earnings.insert(account_id.clone(), balance.saturating_add(amount));
        }
    }
}
