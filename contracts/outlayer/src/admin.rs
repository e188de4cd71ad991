// SPDX-License-Identifier: MIT
//! What only the owner may do.

use near_sdk::json_types::U128;
use near_sdk::{env, near, require, AccountId};

use crate::types::DEFAULT_MAX_MEMORY_MB;
use crate::{Contract, ContractExt};

const MOST_CLEARED: u64 = 100;

#[near]
impl Contract {
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

    /// Change the prices that are given; the others stay.
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
        let pricing = &mut self.pricing;
        for (price, given) in [
            (&mut pricing.base_fee, base_fee),
            (&mut pricing.per_million_instructions_fee, per_million_instructions_fee),
            (&mut pricing.per_ms_fee, per_ms_fee),
            (&mut pricing.per_compile_ms_fee, per_compile_ms_fee),
            (&mut pricing.base_fee_usd, base_fee_usd),
            (&mut pricing.per_million_instructions_fee_usd, per_million_instructions_fee_usd),
            (&mut pricing.per_sec_fee_usd, per_sec_fee_usd),
            (&mut pricing.per_compile_ms_fee_usd, per_compile_ms_fee_usd),
        ] {
            if let Some(value) = given {
                *price = value.0;
            }
        }
    }

    /// Name the stablecoin, as `token_contract` (the original's argument) or `payment_token_contract`. A call that names
    /// none changes nothing; `clear_payment_token_contract` takes it away.
    pub fn set_payment_token_contract(
        &mut self,
        token_contract: Option<AccountId>,
        payment_token_contract: Option<AccountId>,
    ) {
        self.assert_owner();
        let named = token_contract.or(payment_token_contract).unwrap_or_else(|| {
            env::panic_str(
                "token_contract must name the stablecoin's contract; clear_payment_token_contract takes it away",
            )
        });
        self.payment_token_contract = Some(named);
    }

    pub fn clear_payment_token_contract(&mut self) {
        self.assert_owner();
        self.payment_token_contract = None;
    }

    /// Refuse requests for more memory than the workers give.
    pub fn set_max_memory_mb(&mut self, max_memory_mb: u32) {
        self.assert_owner();
        require!(
            max_memory_mb >= DEFAULT_MAX_MEMORY_MB,
            "max_memory_mb must be at least the default of requests, 128"
        );
        self.max_memory_mb = max_memory_mb;
    }

    pub fn set_event_metadata(&mut self, standard: Option<String>, version: Option<String>) {
        self.assert_owner();
        if let Some(standard) = standard {
            self.event_standard = standard;
        }
        if let Some(version) = version {
            self.event_version = version;
        }
    }

    /// Cancel one request; everything goes back to who paid.
    pub fn emergency_cancel_execution(&mut self, request_id: u64) {
        self.assert_owner();
        require!(self.cancel(request_id), "Execution request not found");
    }

    /// Cancel the requests that are pending; gives how many were.
    pub fn cancel_pending_requests(&mut self, request_ids: Vec<u64>) -> u64 {
        self.assert_owner();
        request_ids.into_iter().map(|id| u64::from(self.cancel(id))).sum()
    }

    /// Cancel the first requests of the list, at most 100; gives how many were.
    pub fn clear_all_pending_requests(&mut self, limit: Option<u64>) -> u64 {
        self.assert_owner();
        let limit = limit.unwrap_or(MOST_CLEARED);
        require!(limit <= MOST_CLEARED, "At most 100 requests can be cleared at once");
        let ids = self.get_pending_request_ids(None, Some(limit));
        ids.into_iter().map(|id| u64::from(self.cancel(id))).sum()
    }
}
