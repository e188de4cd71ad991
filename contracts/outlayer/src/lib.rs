// SPDX-License-Identifier: MIT
//! The main contract: contracts and accounts request executions here, and get the result in a callback.

mod access;
mod admin;
mod blobs;
mod cost;
mod events;
mod execution;
mod lists;
mod migration;
mod payments;
mod pending;
mod pools;
mod projects;
mod requests;
mod secrets;
mod storage;
mod tasks;
mod types;
mod views;
mod withdrawals;
mod yields;

#[cfg(test)]
mod tests;

use near_sdk::store::LookupMap;
use near_sdk::{env, near, require, AccountId, BorshStorageKey, PanicOnDefault};

pub use access::{AccessCondition, Comparison, LogicOperator};
pub use payments::{DeleteResult, PaymentKeys, TopUpResult};
pub use pending::PendingIds;
pub use pools::Pools;
use requests::OldRequests;
pub use secrets::{SecretAccessor, SecretKey, SecretProfile, SystemSecret};
pub use types::*;

pub const STATE_VERSION: u32 = 3;

#[near(serializers = [borsh])]
#[derive(BorshStorageKey)]
enum StorageKey {
    /// of states before version 3
    OldRequests,
    Projects,
    ProjectVersions,
    UserProjects,
    DeveloperEarnings,
    StablecoinBalances,
    Secrets,
    UserSecrets,
    PaymentKeyTasks,
    TasksByDataId,
    PendingPages,
    Earnings,
    Balances,
    Tasks,
    TaskAnswers,
    HttpsBatches,
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
    /// Requests for more memory are refused: no worker would run them.
    max_memory_mb: u32,
    next_request_id: u64,
    total_executions: u64,
    total_fees_collected: u128,
    next_project_number: u64,
    /// Payments of requests that are not settled, in yoctoNEAR: never the contract's to use.
    held_payments: u128,
    /// What these requests occupy, in bytes; their own payments cover it.
    waiting_bytes: u64,
    /// Charged and not withdrawn, in yoctoNEAR.
    fees: u128,
    pending: PendingIds,
    /// what an upgrade has not carried over yet
    old_requests: Option<OldRequests>,
    projects: LookupMap<String, Project>,
    /// by `{uuid}/{slot}`
    project_versions: LookupMap<String, VersionInfo>,
    /// of states before version 3: ids of projects that are in no list
    user_projects: LookupMap<AccountId, Vec<String>>,
    pools: Pools,
    secrets: LookupMap<SecretKey, SecretProfile>,
    /// of states before version 3: accessor and profile of secrets that are in no list
    user_secrets: LookupMap<AccountId, Vec<(SecretAccessor, String)>>,
    payment_keys: PaymentKeys,
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
            max_memory_mb: DEFAULT_MOST_MEMORY_MB,
            next_request_id: 0,
            total_executions: 0,
            total_fees_collected: 0,
            next_project_number: 1,
            held_payments: 0,
            waiting_bytes: 0,
            fees: 0,
            pending: PendingIds::new(),
            old_requests: None,
            projects: LookupMap::new(StorageKey::Projects),
            project_versions: LookupMap::new(StorageKey::ProjectVersions),
            user_projects: LookupMap::new(StorageKey::UserProjects),
            pools: Pools::new(),
            secrets: LookupMap::new(StorageKey::Secrets),
            user_secrets: LookupMap::new(StorageKey::UserSecrets),
            payment_keys: PaymentKeys::new(),
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
}
