// SPDX-License-Identifier: MIT
//! What the storage of a key costs, measured, and who pays: the registering account, from the deposit of the call or from
//! its storage balance (NEP-145), since a function-call access key cannot attach a deposit. What neither covers it owes;
//! so the original's clients, which pay nothing in advance, can register, and no more than `CREDIT` is ever owed.
//!
//! A removed key gives back what it stored, but for the trace that it was known.

use approval::Refusal;
use measurements::Role;
use near_sdk::{env, near, require, AccountId, NearToken, Promise, PublicKey};

use crate::{Contract, ContractExt, KeyRecord, StateV3, StorageBalance, StorageBalanceBounds, StoredKey};

/// What a key stores beside its access key: its record and its place in the index. Charged is what is measured; this is
/// for what must be known before.
const KEY_BYTES: u64 = 592;
/// The trace that a removed key leaves for ever: 40 for the storage record, one byte of prefix, a SHA-256, and no value.
const TRACE_BYTES: u64 = 40 + 1 + 32;
/// What a set's first key stores besides, for the queue that is there for all its keys.
const QUEUE_BYTES: u64 = 147;
/// What the registering account can owe: about a thousand keys.
const CREDIT: NearToken = NearToken::from_near(10);

#[near]
impl Contract {
    /// Add to the storage balance of the registering account, the only one that has any.
    #[payable]
    pub fn storage_deposit(
        &mut self,
        account_id: Option<AccountId>,
        registration_only: Option<bool>,
    ) -> StorageBalance {
        let _ = registration_only;
        let account_id = account_id.unwrap_or_else(env::predecessor_account_id);
        let state = self.state_mut();
        require!(
            account_id == state.init_worker_account,
            format!("Only {} has a storage balance here: name it as account_id", state.init_worker_account)
        );
        state.give(env::attached_deposit());
        state.balance()
    }

    /// Take back from the storage balance: an amount, or all of it.
    #[payable]
    pub fn storage_withdraw(&mut self, amount: Option<NearToken>) -> StorageBalance {
        near_sdk::assert_one_yocto();
        let state = self.state_mut();
        let account_id = env::predecessor_account_id();
        require!(account_id == state.init_worker_account, "The account has no storage balance here");
        let amount = amount.unwrap_or(state.storage_balance);
        let Some(left) = state.storage_balance.checked_sub(amount) else {
            env::panic_str(&format!("The storage balance is {} yoctoNEAR", yocto(state.storage_balance)))
        };
        state.storage_balance = left;
        let _ = Promise::new(account_id).transfer(amount.saturating_add(env::attached_deposit()));
        state.balance()
    }

    pub fn storage_balance_of(&self, account_id: AccountId) -> Option<StorageBalance> {
        (account_id == self.state().init_worker_account).then(|| self.state().balance())
    }

    /// `min` is what the registration of a worker's key costs.
    pub fn storage_balance_bounds(&self) -> StorageBalanceBounds {
        let bytes = KEY_BYTES + TRACE_BYTES + self.state().access_key_bytes(Role::Worker);
        StorageBalanceBounds { min: price(bytes), max: None }
    }
}

impl StateV3 {
    fn balance(&self) -> StorageBalance {
        let balance = self.storage_balance;
        StorageBalance { total: balance, available: balance, owed: self.storage_owed }
    }

    /// Pay what is owed, then add to the balance.
    pub(crate) fn give(&mut self, amount: NearToken) {
        let rest = amount.saturating_sub(self.storage_owed);
        self.storage_owed = self.storage_owed.saturating_sub(amount);
        self.storage_balance = self.storage_balance.saturating_add(rest);
    }

    /// Store a key that was not known. Gives the bytes, with those of the trace that it will leave, and without those of
    /// the set's queue, which is there for all keys.
    pub(crate) fn store_new(&mut self, public_key: &PublicKey, mut record: KeyRecord) -> u64 {
        let set = record.measurement_set;
        record.place = self.index.reserve(set);
        let before = env::storage_usage();
        self.index.put(set, record.place, public_key);
        self.keys.insert(public_key.clone(), StoredKey::V3(record));
        self.flush_key();
        env::storage_usage().saturating_sub(before) + TRACE_BYTES
    }

    /// Delete a key's record and its place in the index, and give back what was paid for them and for its access key.
    pub(crate) fn unstore(&mut self, public_key: &PublicKey) {
        self.flush_key();
        let before = env::storage_usage();
        let Some(stored) = self.keys.remove(public_key) else { return };
        let StoredKey::V3(record) = stored else {
            return;
        };
        self.index.remove(record.measurement_set, record.place);
        self.flush_key();
        let freed = before.saturating_sub(env::storage_usage());
        self.index.close_if_empty(record.measurement_set);
        if record.paid {
            let bytes = freed + self.access_key_bytes(record.role);
            self.give(price(bytes));
        }
    }

    /// Whether this account has the balance that a registration locks: if not, the access key could not be added.
    pub(crate) fn afford(&self, role: Role) -> Result<(), Refusal> {
        let locked = price(env::storage_usage());
        let has = env::account_balance().saturating_add(env::account_locked_balance()).saturating_sub(locked);
        let needs = price(KEY_BYTES + QUEUE_BYTES + self.access_key_bytes(role));
        if has >= needs {
            return Ok(());
        }
        let detail = format!(
            "{} has {} yoctoNEAR free, and the access key and what is kept of it lock up to {}: fund the account",
            env::current_account_id(),
            yocto(has),
            yocto(needs)
        );
        Err(Refusal { reason: "access_key_failed", detail })
    }

    /// Charge for storage: the balance, to which the deposit of the call was added, then it is owed. The rest of the
    /// deposit goes back to the registering account.
    pub(crate) fn charge(&mut self, bytes: u64, deposit: NearToken) {
        let cost = price(bytes);
        let owed = self.storage_owed.saturating_add(cost.saturating_sub(self.storage_balance));
        if owed > CREDIT {
            env::panic_str(&format!(
                "The registration stores {bytes} bytes, which cost {} yoctoNEAR. The storage balance of {} is {}, and it \
                 owes {}: pay at least {} with storage_deposit, or attach it",
                yocto(cost),
                self.init_worker_account,
                yocto(self.storage_balance),
                yocto(self.storage_owed),
                yocto(owed.saturating_sub(CREDIT)),
            ))
        }
        self.storage_balance = self.storage_balance.saturating_sub(cost);
        self.storage_owed = owed;
        let rest = deposit.saturating_sub(cost).min(self.storage_balance);
        self.storage_balance = self.storage_balance.saturating_sub(rest);
        if !rest.is_zero() {
            let _ = Promise::new(self.init_worker_account.clone()).transfer(rest);
        }
    }

    /// Of an access key on chain: public key (33), nonce (8), kind (1), allowance (17), receiver and methods with their
    /// lengths, and 40 for the record (near.md §4).
    pub(crate) fn access_key_bytes(&self, role: Role) -> u64 {
        let (receiver, methods) = self.scope(role);
        let methods: usize = methods.split(',').map(|method| 4 + method.len()).sum();
        (33 + 40 + 8 + 1 + 17 + 4 + receiver.len() + 4 + methods) as u64
    }

    pub(crate) fn flush_key(&mut self) {
        self.keys.flush();
        self.index.flush();
    }
}

fn price(bytes: u64) -> NearToken {
    env::storage_byte_cost().saturating_mul(u128::from(bytes))
}

fn yocto(amount: NearToken) -> u128 {
    amount.as_yoctonear()
}
