// SPDX-License-Identifier: MIT
//! State of earlier versions, and the way from each to the present one.

use near_sdk::borsh::BorshDeserialize;
use near_sdk::store::{IterableMap, LookupMap};
use near_sdk::{env, near, AccountId};

use crate::execution::has_gas_for_one_more;
use crate::requests::OldRequest;
use crate::secrets::{SecretAccessor, SecretKey, SecretProfile};
use crate::types::*;
use crate::{Contract, ContractExt, OldRequests, PaymentKeys, PendingIds, Pools, StorageKey, STATE_VERSION};

const STATE: &[u8] = b"STATE";

/// What versions 1 and 2 have in common: version 1 is this alone, before secrets and payment keys.
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
    pending_requests: IterableMap<u64, OldRequest>,
    projects: LookupMap<String, Project>,
    project_versions: LookupMap<String, VersionInfo>,
    user_projects: LookupMap<AccountId, Vec<String>>,
    developer_earnings: LookupMap<AccountId, u128>,
    user_stablecoin_balances: LookupMap<AccountId, u128>,
}

/// Requests that moved about in one map, and money without sums.
#[near(serializers = [borsh])]
struct StateV2 {
    common: StateV1,
    secrets: LookupMap<SecretKey, SecretProfile>,
    user_secrets: LookupMap<AccountId, Vec<(SecretAccessor, String)>>,
    payment_key_tasks: LookupMap<(AccountId, u32), [u8; 32]>,
    tasks_by_data_id: LookupMap<[u8; 32], crate::payments::OldTask>,
}

impl From<StateV1> for StateV2 {
    fn from(common: StateV1) -> Self {
        StateV2 {
            common,
            secrets: LookupMap::new(StorageKey::Secrets),
            user_secrets: LookupMap::new(StorageKey::UserSecrets),
            payment_key_tasks: LookupMap::new(StorageKey::PaymentKeyTasks),
            tasks_by_data_id: LookupMap::new(StorageKey::TasksByDataId),
        }
    }
}

impl From<StateV2> for Contract {
    fn from(old: StateV2) -> Self {
        let StateV2 { common, secrets, user_secrets, payment_key_tasks, tasks_by_data_id } = old;
        Contract {
            state_version: STATE_VERSION,
            owner_id: common.owner_id,
            operator_id: common.operator_id,
            paused: common.paused,
            event_standard: common.event_standard,
            event_version: common.event_version,
            pricing: common.pricing,
            payment_token_contract: common.payment_token_contract,
            max_memory_mb: DEFAULT_MOST_MEMORY_MB,
            next_request_id: common.next_request_id,
            total_executions: common.total_executions,
            total_fees_collected: common.total_fees_collected,
            next_project_number: common.next_project_number,
            held_payments: 0,
            waiting_bytes: 0,
            // no version before this one let the owner take any
            fees: common.total_fees_collected,
            pending: PendingIds::new(),
            old_requests: Some(OldRequests(common.pending_requests)).filter(|old| !old.0.is_empty()),
            projects: common.projects,
            project_versions: common.project_versions,
            user_projects: common.user_projects,
            pools: Pools::of_old(common.developer_earnings, common.user_stablecoin_balances),
            secrets,
            user_secrets,
            payment_keys: PaymentKeys::of_old(payment_key_tasks, tasks_by_data_id),
        }
    }
}

#[near]
impl Contract {
    /// Bring the state to this code's version; called by the contract itself, in the transaction that deploys
    /// the code. Does nothing to a state that is there already. Requests that this call has no gas for are carried over
    /// when they end, or by `migrate_requests`.
    #[private]
    #[init(ignore_state)]
    pub fn migrate() -> Self {
        let state =
            env::storage_read(STATE).unwrap_or_else(|| env::panic_str("There is no state to migrate"));
        let mut contract: Contract = match found(&state) {
            Found::Version(1) => StateV2::from(read::<StateV1>(&state)).into(),
            Found::Version(2) => read::<StateV2>(&state).into(),
            Found::Version(STATE_VERSION) => read(&state),
            Found::Version(version) => env::panic_str(&format!(
                "This code migrates state of version 1, 2 or {STATE_VERSION}, found {version}"
            )),
            Found::Original(owner) => env::panic_str(&format!(
                "This is the state of an original OutLayer contract, owned by {owner}. It cannot be taken over: its \
                 projects, secrets and balances are kept in other layouts. Put the original code back, let its \
                 requests end, withdraw its earnings, and deploy this contract to another account; owners create \
                 their projects and store their secrets there again"
            )),
            Found::Nothing => env::panic_str("The state is too short to have a version"),
        };
        contract.adopt_requests(u64::MAX, has_gas_for_one_more);
        contract
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// Every version of this contract's state begins with its number, u32 little endian.
    Version(u32),
    /// The original's begins with its owner's name, whose length is a u32 as well.
    Original(AccountId),
    Nothing,
}

fn found(state: &[u8]) -> Found {
    let Some(number) = state.first_chunk().map(|bytes| u32::from_le_bytes(*bytes)) else {
        return Found::Nothing;
    };
    // owner and operator, one after the other: no version of ours has two account ids at its first byte
    let mut rest = state;
    match (AccountId::deserialize(&mut rest), AccountId::deserialize(&mut rest)) {
        (Ok(owner), Ok(_)) => Found::Original(owner),
        _ => Found::Version(number),
    }
}

fn read<T: BorshDeserialize>(state: &[u8]) -> T {
    T::try_from_slice(state)
        .unwrap_or_else(|_| env::panic_str("The state does not have the layout of its version"))
}

#[cfg(test)]
mod tests {
    use near_sdk::borsh;

    use super::*;

    #[test]
    fn an_owners_name_is_no_version() {
        for owner in ["ab", "abc", "o.near", "outlayer.near"] {
            let owner: AccountId = owner.parse().unwrap();
            let operator: AccountId = "worker.outlayer.near".parse().unwrap();
            let state = borsh::to_vec(&(&owner, &operator, false, "near-outlayer", "1.0.0")).unwrap();
            assert_eq!(found(&state), Found::Original(owner));
        }
    }

    #[test]
    fn a_version_is_no_owners_name() {
        let owner: AccountId = "o.near".parse().unwrap();
        for version in 0..80_u32 {
            let state = borsh::to_vec(&(version, &owner, &owner, false)).unwrap();
            assert_eq!(found(&state), Found::Version(version));
        }
        assert_eq!(found(&[1, 0, 0]), Found::Nothing);
        assert_eq!(found(&[]), Found::Nothing);
    }
}
