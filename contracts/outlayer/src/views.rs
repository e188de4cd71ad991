// SPDX-License-Identifier: MIT
//! Views.

use near_sdk::json_types::U128;
use near_sdk::{near, AccountId};

use crate::types::*;
use crate::{cost, Contract, ContractExt};

const MOST_IDS_LISTED: u64 = 1_000;

#[near]
impl Contract {
    pub fn get_request(&self, request_id: u64) -> Option<ExecutionRequestView> {
        self.pending_requests.get(&request_id).map(ExecutionRequestView::from)
    }

    /// Executions so far, and yoctoNEAR charged for them.
    pub fn get_stats(&self) -> (u64, U128) {
        (self.total_executions, U128(self.total_fees_collected))
    }

    pub fn get_pricing(&self) -> (U128, U128, U128, U128) {
        let pricing = &self.pricing;
        (
            U128(pricing.base_fee),
            U128(pricing.per_million_instructions_fee),
            U128(pricing.per_ms_fee),
            U128(pricing.per_compile_ms_fee),
        )
    }

    pub fn get_pricing_full(&self) -> PricingView {
        PricingView::from(&self.pricing)
    }

    pub fn get_payment_token_contract(&self) -> Option<AccountId> {
        self.payment_token_contract.clone()
    }

    /// YoctoNEAR that a request with these limits must attach; without limits, a compile-only one.
    pub fn estimate_execution_cost(&self, resource_limits: Option<PartialLimits>) -> U128 {
        let limits = resource_limits.map(ResourceLimits::from);
        U128(cost::estimate(&self.pricing, limits.as_ref()))
    }

    pub fn get_max_limits(&self) -> (u64, u64, u64) {
        (MAX_INSTRUCTIONS, MAX_EXECUTION_SECONDS, MAX_COMPILATION_SECONDS)
    }

    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Owner and operator.
    pub fn get_config(&self) -> (AccountId, AccountId) {
        (self.owner_id.clone(), self.operator_id.clone())
    }

    /// Standard and version of the events.
    pub fn get_event_metadata(&self) -> (String, String) {
        (self.event_standard.clone(), self.event_version.clone())
    }

    /// What the stored large output of a request will return, base64.
    pub fn get_pending_output(&self, request_id: u64) -> Option<near_sdk::json_types::Base64VecU8> {
        let request = self.pending_requests.get(&request_id)?;
        request.pending_output.as_ref().map(|output| output.to_return_value().into())
    }

    pub fn has_pending_output(&self, request_id: u64) -> bool {
        self.pending_requests.get(&request_id).is_some_and(|request| request.pending_output.is_some())
    }

    pub fn get_pending_request_ids(&self, from_index: Option<u64>, limit: Option<u64>) -> Vec<u64> {
        let limit = limit.unwrap_or(100).min(MOST_IDS_LISTED);
        self.pending_requests
            .keys()
            .copied()
            .skip(from_index.unwrap_or(0) as usize)
            .take(limit as usize)
            .collect()
    }

    pub fn get_developer_earnings(&self, account_id: AccountId) -> U128 {
        U128(self.developer_earnings.get(&account_id).copied().unwrap_or(0))
    }

    pub fn get_user_stablecoin_balance(&self, account_id: AccountId) -> U128 {
        U128(self.user_stablecoin_balances.get(&account_id).copied().unwrap_or(0))
    }

    pub fn get_storage_version(&self) -> u32 {
        self.state_version
    }
}
