// SPDX-License-Identifier: MIT
//! Views.

use near_sdk::json_types::U128;
use near_sdk::{near, AccountId};

use crate::execution::{MOST_INPUT_BYTES, MOST_OUTPUT_BYTES};
use crate::requests::Request;
use crate::types::*;
use crate::{cost, Contract, ContractExt};

const MOST_IDS_LISTED: u64 = 1_000;

#[near]
impl Contract {
    /// A request that waits for its answer.
    pub fn get_request(&self, request_id: u64) -> Option<ExecutionRequestView> {
        if let Some(old) = self.old_request(request_id) {
            return Some(old.view());
        }
        let request = self.request(request_id).filter(|request| request.settled.is_none())?;
        Some(ExecutionRequestView {
            request_id,
            data_id: request.data_id.to_vec(),
            sender_id: request.sender_id.clone(),
            execution_source: request.execution_source(),
            resolved_source: request.code.clone(),
            resource_limits: request.limits.clone(),
            payment: request.payment,
            timestamp: request.timestamp,
            secrets_ref: request.secrets_ref.clone(),
            response_format: request.response_format,
            input_data: request.input_text(request_id),
            payer_account_id: request.payer().clone(),
            attached_usd: request.attached_usd,
            project_owner: request.project_owner(),
            pending_output: self.get_pending_output(request_id).map(OutputBytes::from),
            output_submitted: request.output.is_some(),
        })
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

    /// YoctoNEAR for a run with these limits; absent ones are the defaults. A request must also cover what it occupies
    /// while it waits (`get_size_limits`), and a compile-only one costs the base fee.
    pub fn estimate_execution_cost(&self, resource_limits: Option<PartialLimits>) -> U128 {
        let limits = ResourceLimits::from(resource_limits.unwrap_or_default());
        U128(cost::estimate(&self.pricing, Some(&limits)))
    }

    pub fn get_max_limits(&self) -> (u64, u64, u64) {
        (MAX_INSTRUCTIONS, MAX_EXECUTION_SECONDS, MAX_COMPILATION_SECONDS)
    }

    pub fn get_max_memory_mb(&self) -> u32 {
        self.max_memory_mb
    }

    pub fn get_size_limits(&self) -> SizeLimits {
        SizeLimits {
            max_input_bytes: MOST_INPUT_BYTES as u64,
            max_output_bytes: MOST_OUTPUT_BYTES as u64,
            free_output_bytes: cost::FREE_OUTPUT_BYTES as u64,
            output_byte_price: U128(cost::OUTPUT_BYTE_PRICE),
            bytes_output_byte_price: U128(cost::BYTES_OUTPUT_BYTE_PRICE),
            input_byte_price: U128(cost::INPUT_BYTE_PRICE),
        }
    }

    /// Of the contract's NEAR: payments of requests that wait, and what was charged and not withdrawn.
    pub fn get_near_books(&self) -> NearBooks {
        NearBooks { held_payments: U128(self.held_payments), fees: U128(self.fees) }
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

    /// The output that was submitted for a request that waits.
    pub fn get_pending_output(&self, request_id: u64) -> Option<ExecutionOutput> {
        if let Some(old) = self.old_request(request_id) {
            return old.output();
        }
        let request = self.request(request_id).filter(|request| request.settled.is_none())?;
        let kind = request.output.as_ref()?.kind;
        ExecutionOutput::of_return_value(kind, request.return_value(request_id)?)
    }

    pub fn has_pending_output(&self, request_id: u64) -> bool {
        self.old_request(request_id).map_or_else(
            || {
                let waits = |request: Request| request.settled.is_none() && request.output.is_some();
                self.request(request_id).is_some_and(waits)
            },
            |old| old.pending_output.is_some(),
        )
    }

    /// Requests that wait, ascending; those that an upgrade has not carried over yet come last.
    pub fn get_pending_request_ids(&self, from_index: Option<u64>, limit: Option<u64>) -> Vec<u64> {
        let from = from_index.unwrap_or(0);
        let limit = limit.unwrap_or(100).min(MOST_IDS_LISTED);
        let mut ids = self.pending.list(from, limit);
        let skip = from.saturating_sub(self.pending.count());
        let room = limit - ids.len() as u64;
        ids.extend(self.old_request_ids().skip(skip as usize).take(room as usize));
        ids
    }

    pub fn get_developer_earnings(&self, account_id: AccountId) -> U128 {
        U128(self.pools.earnings(&account_id))
    }

    pub fn get_user_stablecoin_balance(&self, account_id: AccountId) -> U128 {
        U128(self.pools.balance(&account_id))
    }

    pub fn get_storage_version(&self) -> String {
        self.state_version.to_string()
    }
}
