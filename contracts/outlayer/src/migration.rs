// SPDX-License-Identifier: MIT
//! State of earlier versions, and the way from each to the present one.

use near_sdk::borsh::BorshDeserialize;
use near_sdk::store::{IterableMap, LookupMap};
use near_sdk::{env, near, AccountId};

use crate::types::*;
use crate::{Contract, ContractExt, StorageKey, STATE_VERSION};

const STATE: &[u8] = b"STATE";

/// Before secrets and payment keys.
#[near(serializers = [borsh])]
struct StateV1 {
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
    project_versions: LookupMap<String, VersionInfo>,
    user_projects: LookupMap<AccountId, Vec<String>>,
    developer_earnings: LookupMap<AccountId, u128>,
    user_stablecoin_balances: LookupMap<AccountId, u128>,
}

impl From<StateV1> for Contract {
    fn from(old: StateV1) -> Self {
        Contract {
            state_version: STATE_VERSION,
            owner_id: old.owner_id,
            operator_id: old.operator_id,
            paused: old.paused,
            event_standard: old.event_standard,
            event_version: old.event_version,
            pricing: old.pricing,
            payment_token_contract: old.payment_token_contract,
            next_request_id: old.next_request_id,
            total_executions: old.total_executions,
            total_fees_collected: old.total_fees_collected,
            next_project_number: old.next_project_number,
            pending_requests: old.pending_requests,
            projects: old.projects,
            project_versions: old.project_versions,
            user_projects: old.user_projects,
            developer_earnings: old.developer_earnings,
            user_stablecoin_balances: old.user_stablecoin_balances,
            secrets: LookupMap::new(StorageKey::Secrets),
            user_secrets: LookupMap::new(StorageKey::UserSecrets),
            payment_key_tasks: LookupMap::new(StorageKey::PaymentKeyTasks),
            tasks_by_data_id: LookupMap::new(StorageKey::TasksByDataId),
        }
    }
}

#[near]
impl Contract {
    /// Bring the state to this code's version; called by the contract itself, in the transaction that deploys
    /// the code. Does nothing to a state that is there already.
    #[private]
    #[init(ignore_state)]
    pub fn migrate() -> Self {
        let state =
            env::storage_read(STATE).unwrap_or_else(|| env::panic_str("There is no state to migrate"));
        match state_version(&state) {
            Some(1) => read::<StateV1>(&state).into(),
            Some(STATE_VERSION) => read(&state),
            version => env::panic_str(&format!(
                "This code migrates state of version 1 or {STATE_VERSION}, found {}",
                version.map_or("none".to_string(), |number| number.to_string())
            )),
        }
    }
}

/// Every version of the state begins with its number, u32 little endian.
fn state_version(state: &[u8]) -> Option<u32> {
    state.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn read<T: BorshDeserialize>(state: &[u8]) -> T {
    T::try_from_slice(state)
        .unwrap_or_else(|_| env::panic_str("The state does not have the layout of its version"))
}
