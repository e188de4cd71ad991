// SPDX-License-Identifier: MIT
//! Deposits for storage, and payments out of the contract.

use near_sdk::{env, require, AccountId, NearToken, Promise};

const STORAGE_PRICE_PER_BYTE: u128 = 10_000_000_000_000_000_000;

/// YoctoNEAR for this many bytes of state.
pub fn price(bytes: usize) -> u128 {
    bytes as u128 * STORAGE_PRICE_PER_BYTE
}

/// Require a storage deposit and give back what was attached above it.
pub fn take_deposit(required: u128) {
    let attached = env::attached_deposit().as_yoctonear();
    require!(
        attached >= required,
        format!("Insufficient storage deposit. Required: {required} yoctoNEAR, attached: {attached}")
    );
    pay(&env::predecessor_account_id(), attached - required);
}

/// The same for an entry that already holds a deposit: that counts, and what is over goes back.
pub fn change_deposit(required: u128, held: u128) {
    let attached = env::attached_deposit().as_yoctonear();
    require!(
        attached.saturating_add(held) >= required,
        format!(
            "Insufficient deposit for update. Required: {required} yoctoNEAR, held: {held}, attached: {attached}"
        )
    );
    pay(&env::predecessor_account_id(), attached + held - required);
}

/// Transfer; nothing is sent for zero.
pub fn pay(account_id: &AccountId, amount: u128) {
    if amount > 0 {
        let _ = Promise::new(account_id.clone()).transfer(NearToken::from_yoctonear(amount));
    }
}
