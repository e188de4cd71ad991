// SPDX-License-Identifier: MIT
//! What state costs: whoever makes it grow pays for the growth, to the byte, and gets that back when it shrinks.
//!
//! The growth is measured. Maps keep their changes until they are flushed, so flush before looking at a meter.

use near_sdk::{borsh, env, require, AccountId, NearToken, Promise};

/// YoctoNEAR that the protocol locks for a byte of state.
pub const BYTE_PRICE: u128 = 10_000_000_000_000_000_000;
/// YoctoNEAR beyond stake and held payments that first deposits, fees and long outputs leave alone: what ends a request
/// or a task may need some bytes, and nobody pays for those.
pub const RESERVE: u128 = 1_000_000_000_000_000_000_000_000;
/// YoctoNEAR beyond that which fees leave alone: the stake of four of the longest outputs, until they are delivered.
pub const OUTPUT_ROOM: u128 = 10_000_000_000_000_000_000_000_000;
/// Bytes that the protocol counts for an entry beside its key and its value.
const ENTRY_OVERHEAD: usize = 40;

/// YoctoNEAR for this many bytes of state.
pub fn price(bytes: usize) -> u128 {
    bytes as u128 * BYTE_PRICE
}

/// Bytes of an entry of state, by the lengths of its key and its value.
pub const fn entry_bytes(key: usize, value: usize) -> usize {
    ENTRY_OVERHEAD + key + value
}

pub fn bytes_of<T: borsh::BorshSerialize>(value: &T) -> usize {
    borsh::object_length(value).unwrap_or_else(|_| env::panic_str("A value could not be written"))
}

/// Bytes that state has grown by since `env::storage_usage()` was `before`; 0 if it has shrunk.
pub fn used_since(before: u64) -> usize {
    env::storage_usage().saturating_sub(before) as usize
}

/// YoctoNEAR of the contract that are not locked for its state; payments and fees are among them.
pub fn free_balance() -> u128 {
    let stake = u128::from(env::storage_usage()) * BYTE_PRICE;
    env::account_balance().as_yoctonear().saturating_sub(stake)
}

/// How much state has changed since this was made.
pub struct Meter(u64);

impl Meter {
    pub fn start() -> Self {
        Meter(env::storage_usage())
    }

    pub fn grown(&self) -> usize {
        used_since(self.0)
    }

    pub fn freed(&self) -> usize {
        self.0.saturating_sub(env::storage_usage()) as usize
    }

    /// The caller pays for the growth, or gets the price of what was freed.
    pub fn settle(&self) {
        take_deposit(price(self.grown()));
        pay(&env::predecessor_account_id(), price(self.freed()));
    }
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

/// The same; if the account is not there, the NEAR goes to `otherwise` and does not come back here.
pub fn pay_or(account_id: &AccountId, otherwise: &AccountId, amount: u128) {
    if account_id == otherwise {
        pay(account_id, amount);
    } else if amount > 0 {
        let amount = NearToken::from_yoctonear(amount);
        let _ = Promise::new(account_id.clone()).refund_to(otherwise.clone()).transfer(amount);
    }
}
