// SPDX-License-Identifier: MIT
//! What is earned, and how it leaves: developers' earnings, of which HTTPS calls bring some, and the owner's fees.

use near_sdk::json_types::U128;
use near_sdk::{borsh, env, near, require, AccountId, Gas, NearToken, Promise, PromiseError};

use crate::storage::{self, pay, Meter};
use crate::{Contract, ContractExt};

const FT_TRANSFER_GAS: Gas = Gas::from_tgas(10);
const CALLBACK_GAS: Gas = Gas::from_tgas(10);
const MOST_BATCH_ID: usize = 64;
const MOST_ENTRIES: usize = 100;

#[near]
impl Contract {
    /// Name the account that settles HTTPS calls. It is not a worker's: what it signs moves the payment keys' funds.
    pub fn set_settlement_account(&mut self, account_id: AccountId) {
        self.assert_owner();
        require!(account_id != self.operator_id, "The settlement account cannot be the operator");
        self.payment_keys.settlement_account = Some(account_id);
    }

    pub fn clear_settlement_account(&mut self) {
        self.assert_owner();
        self.payment_keys.settlement_account = None;
    }

    pub fn get_settlement_account(&self) -> Option<AccountId> {
        self.payment_keys.settlement_account.clone()
    }

    /// Move what HTTPS calls cost from the payment keys' funds to the developers of `entries` and, as `fees`, to the
    /// owner. A batch counts once: gives true when it was credited now, false for the same batch again. The attached
    /// deposit pays for the new entries of state.
    #[payable]
    pub fn credit_https_earnings(
        &mut self,
        batch_id: String,
        entries: Vec<(AccountId, U128)>,
        fees: Option<U128>,
    ) -> bool {
        self.check_settlement_account();
        check_batch(&batch_id, &entries);
        let fees = fees.map_or(0, |fees| fees.0);
        let digest = batch_digest(&entries, fees);
        if let Some(credited) = self.payment_keys.https_batches.get(&batch_id) {
            require!(
                *credited == digest,
                format!("Batch '{batch_id}' was credited with other entries: nothing is credited")
            );
            env::log_str(&format!("Batch '{batch_id}' was credited before: nothing is credited"));
            pay(&env::predecessor_account_id(), env::attached_deposit().as_yoctonear());
            return false;
        }
        // what an earlier version kept for these accounts moves first: that is not new
        entries.iter().for_each(|(developer, _)| {
            self.pools.adopt(developer);
        });
        self.pools.flush();
        let meter = Meter::start();
        self.payment_keys.https_batches.insert(batch_id.clone(), digest);
        self.payment_keys.https_batches.flush();
        self.pools.spend_payment_keys(&entries, fees);
        self.pools.flush();
        meter.settle();
        env::log_str(&format!("Batch '{batch_id}' was credited to {} developers", entries.len()));
        true
    }

    /// Whether a batch was credited.
    pub fn is_https_batch_credited(&self, batch_id: String) -> bool {
        self.payment_keys.https_batches.contains_key(&batch_id)
    }

    /// Send the caller what its projects earned.
    #[payable]
    pub fn withdraw_developer_earnings(&mut self) -> Promise {
        take_yocto();
        let account_id = env::predecessor_account_id();
        let token = self.payment_token();
        let amount = self.pools.take_earnings(&account_id);
        require!(amount > 0, "No earnings to withdraw");
        transfer(token, &account_id, amount, "OutLayer developer earnings")
            .then(callback().on_withdraw_developer_earnings(account_id, U128(amount)))
    }

    /// A transfer that failed leaves the earnings where they were.
    #[private]
    pub fn on_withdraw_developer_earnings(&mut self, account_id: AccountId, amount: U128) -> bool {
        let paid = is_paid();
        if !paid {
            env::log_str(&format!("The transfer of {} to {account_id} failed", amount.0));
        }
        self.pools.settle_earnings(&account_id, if paid { 0 } else { amount.0 });
        paid
    }

    /// Send the owner stablecoin of the pool of fees, all of it if no amount is given.
    #[payable]
    pub fn withdraw_stablecoin_fees(&mut self, amount: Option<U128>) -> Promise {
        self.assert_owner();
        take_yocto();
        let token = self.payment_token();
        let amount = self.pools.take_fees(amount.map(|amount| amount.0));
        transfer(token, &self.owner_id, amount, "OutLayer fees")
            .then(callback().on_withdraw_stablecoin_fees(U128(amount)))
    }

    #[private]
    pub fn on_withdraw_stablecoin_fees(&mut self, amount: U128) -> bool {
        let paid = is_paid();
        if !paid {
            env::log_str(&format!("The transfer of {} of fees failed", amount.0));
            self.pools.restore_fees(amount.0);
        }
        paid
    }

    /// Send the owner NEAR that was charged for executions, as much as can be taken if no amount is given. Payments that
    /// are held, what is locked for state, and the reserve stay.
    #[payable]
    pub fn withdraw_fees(&mut self, amount: Option<U128>) -> Promise {
        self.assert_owner();
        take_yocto();
        require!(
            self.old_requests.is_none(),
            "Requests of an earlier version's state hold payments that are not counted yet: call migrate_requests first"
        );
        let kept = self.kept_balance().saturating_add(storage::OUTPUT_ROOM);
        let most = storage::free_balance().saturating_sub(kept).min(self.fees);
        let amount = amount.map_or(most, |amount| amount.0);
        require!(
            0 < amount && amount <= most,
            format!(
                "At most {most} yoctoNEAR can be withdrawn: {} were charged, and {kept} must be kept",
                self.fees
            )
        );
        self.fees -= amount;
        Promise::new(self.owner_id.clone())
            .transfer(NearToken::from_yoctonear(amount))
            .then(callback().on_withdraw_fees(U128(amount)))
    }

    #[private]
    pub fn on_withdraw_fees(&mut self, amount: U128) -> bool {
        let paid = is_paid();
        if !paid {
            env::log_str(&format!("The transfer of {} yoctoNEAR of fees failed", amount.0));
            self.fees = self.fees.saturating_add(amount.0);
        }
        paid
    }
}

impl Contract {
    fn check_settlement_account(&self) {
        let settler = self.payment_keys.settlement_account.as_ref().unwrap_or_else(|| {
            env::panic_str("No settlement account is named: the owner names one with set_settlement_account")
        });
        require!(
            env::predecessor_account_id() == *settler && *settler != self.operator_id,
            "Only the settlement account, which is not the operator, can call this method"
        );
    }
}

fn check_batch(batch_id: &str, entries: &[(AccountId, U128)]) {
    require!(
        !batch_id.is_empty() && batch_id.len() <= MOST_BATCH_ID,
        format!("A batch_id has 1 to {MOST_BATCH_ID} bytes, this one has {}", batch_id.len())
    );
    require!(
        entries.len() <= MOST_ENTRIES,
        format!("A batch has at most {MOST_ENTRIES} entries, this one has {}", entries.len())
    );
    require!(entries.iter().all(|(_, amount)| amount.0 > 0), "An entry's amount must be above 0");
}

/// What tells a batch from another of the same id.
fn batch_digest(entries: &[(AccountId, U128)], fees: u128) -> [u8; 32] {
    let amounts: Vec<(&AccountId, u128)> = entries.iter().map(|(id, amount)| (id, amount.0)).collect();
    let bytes =
        borsh::to_vec(&(amounts, fees)).unwrap_or_else(|_| env::panic_str("The batch could not be written"));
    env::sha256_array(bytes)
}

fn transfer(token: AccountId, receiver_id: &AccountId, amount: u128, memo: &str) -> Promise {
    let arguments = serde_json::json!({ "receiver_id": receiver_id, "amount": U128(amount), "memo": memo });
    Promise::new(token).function_call(
        "ft_transfer".to_string(),
        arguments.to_string().into_bytes(),
        NearToken::from_yoctonear(1),
        FT_TRANSFER_GAS,
    )
}

fn callback() -> ContractExt {
    Contract::ext(env::current_account_id()).with_static_gas(CALLBACK_GAS)
}

/// Only whether it worked is asked: what the token contract returns, and how long it is, does not matter.
fn is_paid() -> bool {
    !matches!(env::promise_result_checked(0, 0), Err(PromiseError::Failed))
}

/// One yoctoNEAR shows that a full-access key signed; what is above it goes back.
pub(crate) fn take_yocto() {
    let attached = env::attached_deposit().as_yoctonear();
    require!(attached >= 1, "Requires an attached deposit of at least 1 yoctoNEAR");
    pay(&env::predecessor_account_id(), attached - 1);
}

#[cfg(test)]
mod tests {
    use near_sdk::test_utils::VMContextBuilder;
    use near_sdk::{test_vm_config, testing_env, PromiseResult, RuntimeFeesConfig};

    use super::*;

    fn contract_after(result: PromiseResult) -> Contract {
        let owner: AccountId = "owner.test".parse().unwrap();
        let mut builder = VMContextBuilder::new();
        let context = builder.current_account_id(owner.clone()).predecessor_account_id(owner.clone());
        let config = test_vm_config();
        testing_env!(context.build(), config, RuntimeFeesConfig::test(), Default::default(), vec![result]);
        Contract { fees: 3, ..Contract::new(owner, None, None, None) }
    }

    #[test]
    fn fees_that_do_not_arrive_are_fees_again() {
        for (result, fees, stablecoin) in
            [(PromiseResult::Failed, 10, 7), (PromiseResult::Successful(Vec::new()), 3, 0)]
        {
            let paid = result != PromiseResult::Failed;
            let mut contract = contract_after(result);
            assert_eq!(contract.on_withdraw_fees(U128(7)), paid);
            assert_eq!(contract.on_withdraw_stablecoin_fees(U128(7)), paid);
            assert_eq!((contract.fees, contract.get_stablecoin_pools().fees.0), (fees, stablecoin));
        }
    }

    #[test]
    fn batches_that_differ_in_anything_have_other_digests() {
        testing_env!(VMContextBuilder::new().build());
        let [a, b]: [AccountId; 2] = ["a.test", "b.test"].map(|name| name.parse().unwrap());
        let one = [(a.clone(), U128(1)), (b.clone(), U128(2))];
        let others = [
            (vec![(a.clone(), U128(1)), (b.clone(), U128(3))], 0),
            (vec![(a.clone(), U128(2)), (b.clone(), U128(1))], 0),
            (vec![(b, U128(2)), (a.clone(), U128(1))], 0),
            (vec![(a, U128(1))], 2),
            (one.to_vec(), 1),
        ];
        assert_eq!(batch_digest(&one, 0), batch_digest(&one.clone(), 0));
        for (entries, fees) in others {
            assert_ne!(batch_digest(&one, 0), batch_digest(&entries, fees));
        }
    }
}
