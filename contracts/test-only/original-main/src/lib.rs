// SPDX-License-Identifier: MIT
//! Test only: a stand-in of the original's main contract, with its methods, arguments, JSON and events.
//!
//! What is compared with ours is how a client sees the original, its defects included where the two differ. It is no
//! contract to deploy: it holds strangers' requests as the original does. Left out: swaps of NEAR and tokens, and what
//! later versions of the original added (wallets, vaults, agents, subscriptions).

mod execution;
mod payments;
mod projects;
mod secrets;
mod types;

#[cfg(test)]
mod tests;

use near_sdk::json_types::U128;
use near_sdk::store::LookupMap;
use near_sdk::{env, near, require, AccountId, BorshStorageKey, NearToken, PanicOnDefault, Promise};
use serde_json::{json, Value};

pub use types::*;

const MOST_CLEARED: u64 = 100;
const BYTE_PRICE: u128 = 10_000_000_000_000_000_000;

#[near(serializers = [borsh])]
#[derive(BorshStorageKey)]
enum Key {
    Requests,
    Secrets,
    UserSecrets,
    Projects,
    Versions,
    UserProjects,
    Earnings,
    Balances,
}

/// The state begins with the owner's name: no number of a version is in it.
#[near(contract_state)]
#[derive(PanicOnDefault)]
pub struct OriginalMain {
    owner_id: AccountId,
    operator_id: AccountId,
    paused: bool,
    event_standard: String,
    event_version: String,
    prices: Prices,
    payment_token_contract: Option<AccountId>,
    next_request_id: u64,
    pending_requests: LookupMap<u64, Request>,
    total_executions: u64,
    total_fees_collected: u128,
    secrets: LookupMap<SecretKey, Secret>,
    user_secrets: LookupMap<AccountId, Vec<SecretKey>>,
    projects: LookupMap<String, Project>,
    versions: LookupMap<String, Vec<(String, Version)>>,
    user_projects: LookupMap<AccountId, Vec<String>>,
    next_project_id: u64,
    developer_earnings: LookupMap<AccountId, u128>,
    user_stablecoin_balances: LookupMap<AccountId, u128>,
}

#[near]
impl OriginalMain {
    #[init]
    pub fn new(
        owner_id: AccountId,
        operator_id: Option<AccountId>,
        event_standard: Option<String>,
        event_version: Option<String>,
    ) -> Self {
        OriginalMain {
            operator_id: operator_id.unwrap_or_else(|| owner_id.clone()),
            owner_id,
            paused: false,
            event_standard: event_standard.unwrap_or_else(|| "near-outlayer".to_string()),
            event_version: event_version.unwrap_or_else(|| "1.0.0".to_string()),
            prices: Prices::default(),
            payment_token_contract: None,
            next_request_id: 0,
            pending_requests: LookupMap::new(Key::Requests),
            total_executions: 0,
            total_fees_collected: 0,
            secrets: LookupMap::new(Key::Secrets),
            user_secrets: LookupMap::new(Key::UserSecrets),
            projects: LookupMap::new(Key::Projects),
            versions: LookupMap::new(Key::Versions),
            user_projects: LookupMap::new(Key::UserProjects),
            next_project_id: 1,
            developer_earnings: LookupMap::new(Key::Earnings),
            user_stablecoin_balances: LookupMap::new(Key::Balances),
        }
    }

    #[private]
    #[init(ignore_state)]
    pub fn migrate() -> Self {
        env::state_read().unwrap_or_else(|| env::panic_str("There is no state"))
    }

    // -- the owner -------------------------------------------------------------------------------------

    pub fn set_owner(&mut self, new_owner_id: AccountId) {
        self.assert_owner();
        self.owner_id = new_owner_id;
    }

    pub fn set_operator(&mut self, new_operator_id: AccountId) {
        self.assert_owner();
        self.operator_id = new_operator_id;
    }

    pub fn set_paused(&mut self, paused: bool) {
        self.assert_owner();
        self.paused = paused;
    }

    pub fn set_pricing(
        &mut self,
        base_fee: Option<U128>,
        per_million_instructions_fee: Option<U128>,
        per_ms_fee: Option<U128>,
        per_compile_ms_fee: Option<U128>,
        base_fee_usd: Option<U128>,
        per_million_instructions_fee_usd: Option<U128>,
        per_sec_fee_usd: Option<U128>,
        per_compile_ms_fee_usd: Option<U128>,
    ) {
        self.assert_owner();
        let set = |price: &mut U128, given: Option<U128>| *price = given.unwrap_or(*price);
        set(&mut self.prices.base_fee, base_fee);
        set(&mut self.prices.per_million_instructions_fee, per_million_instructions_fee);
        set(&mut self.prices.per_ms_fee, per_ms_fee);
        set(&mut self.prices.per_compile_ms_fee, per_compile_ms_fee);
        set(&mut self.prices.base_fee_usd, base_fee_usd);
        set(&mut self.prices.per_million_instructions_fee_usd, per_million_instructions_fee_usd);
        set(&mut self.prices.per_sec_fee_usd, per_sec_fee_usd);
        set(&mut self.prices.per_compile_ms_fee_usd, per_compile_ms_fee_usd);
    }

    /// Null takes the token away.
    pub fn set_payment_token_contract(&mut self, token_contract: Option<AccountId>) {
        self.assert_owner();
        self.payment_token_contract = token_contract;
    }

    pub fn set_event_metadata(&mut self, standard: Option<String>, version: Option<String>) {
        self.assert_owner();
        self.event_standard = standard.unwrap_or_else(|| self.event_standard.clone());
        self.event_version = version.unwrap_or_else(|| self.event_version.clone());
    }

    pub fn emergency_cancel_execution(&mut self, request_id: u64) {
        self.assert_owner();
        require!(self.cancel(request_id), "Execution request not found");
    }

    pub fn cancel_pending_requests(&mut self, request_ids: Vec<u64>) -> u64 {
        self.assert_owner();
        request_ids.into_iter().filter(|id| self.cancel(*id)).count() as u64
    }

    pub fn clear_all_pending_requests(&mut self, limit: Option<u64>) -> u64 {
        self.assert_owner();
        let ids = self.get_pending_request_ids(None, Some(limit.unwrap_or(MOST_CLEARED).min(MOST_CLEARED)));
        self.cancel_pending_requests(ids)
    }

    // -- views -----------------------------------------------------------------------------------------

    pub fn get_stats(&self) -> (u64, U128) {
        (self.total_executions, U128(self.total_fees_collected))
    }

    pub fn get_pricing(&self) -> (U128, U128, U128, U128) {
        let prices = &self.prices;
        (prices.base_fee, prices.per_million_instructions_fee, prices.per_ms_fee, prices.per_compile_ms_fee)
    }

    pub fn get_pricing_full(&self) -> Prices {
        self.prices.clone()
    }

    pub fn get_payment_token_contract(&self) -> Option<AccountId> {
        self.payment_token_contract.clone()
    }

    pub fn estimate_execution_cost(&self, resource_limits: Option<ResourceLimits>) -> U128 {
        U128(self.prices.estimate(&resource_limits.unwrap_or_default()))
    }

    pub fn get_max_limits(&self) -> (u64, u64, u64) {
        (MAX_INSTRUCTIONS, MAX_EXECUTION_SECONDS, MAX_COMPILATION_SECONDS)
    }

    pub fn is_paused(&self) -> bool {
        self.paused
    }

    pub fn get_config(&self) -> (AccountId, AccountId) {
        (self.owner_id.clone(), self.operator_id.clone())
    }

    pub fn get_event_metadata(&self) -> (String, String) {
        (self.event_standard.clone(), self.event_version.clone())
    }

    pub fn get_storage_version(&self) -> String {
        "original".to_string()
    }

    pub fn get_developer_earnings(&self, account_id: AccountId) -> U128 {
        U128(self.developer_earnings.get(&account_id).copied().unwrap_or(0))
    }

    pub fn get_user_stablecoin_balance(&self, account_id: AccountId) -> U128 {
        U128(self.user_stablecoin_balances.get(&account_id).copied().unwrap_or(0))
    }
}

impl OriginalMain {
    fn assert_owner(&self) {
        require!(env::predecessor_account_id() == self.owner_id, "Only owner can call this method");
    }

    fn assert_operator(&self) {
        require!(env::predecessor_account_id() == self.operator_id, "Only operator can call this method");
    }

    fn emit(&self, event: &str, data: Value) {
        let (standard, version) = (&self.event_standard, &self.event_version);
        let line = json!({ "standard": standard, "version": version, "event": event, "data": [data] });
        env::log_str(&format!("EVENT_JSON:{line}"));
    }

    fn credit_balance(&mut self, account_id: &AccountId, amount: u128) {
        if amount > 0 {
            *self.user_stablecoin_balances.entry(account_id.clone()).or_insert(0) += amount;
        }
    }

    fn credit_earnings(&mut self, account_id: &AccountId, amount: u128) {
        if amount > 0 {
            *self.developer_earnings.entry(account_id.clone()).or_insert(0) += amount;
        }
    }
}

/// YoctoNEAR for so many bytes of state.
fn price(bytes: usize) -> u128 {
    bytes as u128 * BYTE_PRICE
}

fn pay(account_id: &AccountId, amount: u128) {
    if amount > 0 {
        let _ = Promise::new(account_id.clone()).transfer(NearToken::from_yoctonear(amount));
    }
}

/// Take a storage deposit, of which `held` is here already, and give back what is over.
fn take_deposit(required: u128, held: u128) {
    let attached = env::attached_deposit().as_yoctonear();
    if held > 0 {
        require!(
            attached + held >= required,
            format!("Insufficient deposit for update. Required: {required} yoctoNEAR, attached: {attached}")
        );
    }
    require!(
        attached + held >= required,
        format!("Insufficient storage deposit. Required: {required} yoctoNEAR, attached: {attached}")
    );
    pay(&env::predecessor_account_id(), attached + held - required);
}

/// Make a yield whose end is `method`, and this call's value; gives its data id.
fn begin_yield(method: &str, arguments: &Value, gas: near_sdk::Gas) -> [u8; 32] {
    const REGISTER: u64 = 37;
    let text = arguments.to_string();
    let promise =
        env::promise_yield_create(method, text.as_bytes(), gas, near_sdk::GasWeight::default(), REGISTER);
    env::promise_return(promise);
    let data_id = env::read_register(REGISTER).and_then(|bytes| bytes.try_into().ok());
    data_id.unwrap_or_else(|| env::panic_str("The yield has no data id"))
}

/// What a yield was resumed with; None when it timed out.
fn yielded() -> Option<Vec<u8>> {
    env::promise_result_checked(0, 1_024).ok()
}
