// SPDX-License-Identifier: MIT
//! Test only: a stablecoin with 6 decimals. Transfers, transfer calls and what comes back of them are as NEP-141 has
//! them; accounts register as in NEP-145. The minter can freeze an account, so that transfers to it fail.

use near_sdk::json_types::U128;
use near_sdk::store::{IterableMap, IterableSet};
use near_sdk::{env, near, require, AccountId, Gas, GasWeight, NearToken, PanicOnDefault, Promise};

const STORAGE_DEPOSIT: NearToken = NearToken::from_yoctonear(1_250_000_000_000_000_000_000);
const RESOLVE_GAS: Gas = Gas::from_tgas(5);
/// What a receiver may return is a number; anything longer is no answer.
const MAX_ANSWER: usize = 100;

#[near(serializers = [json])]
pub struct Metadata {
    pub spec: String,
    pub name: String,
    pub symbol: String,
    pub decimals: u8,
}

#[near(serializers = [json])]
pub struct StorageBalance {
    pub total: NearToken,
    pub available: NearToken,
}

#[near(contract_state)]
#[derive(PanicOnDefault)]
pub struct Stablecoin {
    minter_id: AccountId,
    supply: u128,
    balances: IterableMap<AccountId, u128>,
    frozen: IterableSet<AccountId>,
}

#[near]
impl Stablecoin {
    #[init]
    pub fn new(minter_id: AccountId) -> Self {
        Stablecoin { minter_id, supply: 0, balances: IterableMap::new(b"b"), frozen: IterableSet::new(b"f") }
    }

    /// New tokens; registers the account.
    pub fn mint(&mut self, account_id: AccountId, amount: U128) {
        self.assert_minter();
        self.supply += amount.0;
        *self.balances.entry(account_id).or_insert(0) += amount.0;
    }

    pub fn set_frozen(&mut self, account_id: AccountId, frozen: bool) {
        self.assert_minter();
        if frozen {
            self.frozen.insert(account_id);
        } else {
            self.frozen.remove(&account_id);
        }
    }

    #[payable]
    pub fn ft_transfer(&mut self, receiver_id: AccountId, amount: U128, memo: Option<String>) {
        let _ = memo;
        assert_one_yocto();
        self.transfer(&env::predecessor_account_id(), &receiver_id, amount.0);
    }

    /// Transfer, tell the receiver, and take back what it does not use.
    #[payable]
    pub fn ft_transfer_call(
        &mut self,
        receiver_id: AccountId,
        amount: U128,
        memo: Option<String>,
        msg: String,
    ) -> Promise {
        let _ = memo;
        assert_one_yocto();
        let sender_id = env::predecessor_account_id();
        self.transfer(&sender_id, &receiver_id, amount.0);
        let arguments = serde_json::json!({ "sender_id": sender_id, "amount": amount, "msg": msg });
        Promise::new(receiver_id.clone())
            .function_call_weight(
                "ft_on_transfer".to_string(),
                arguments.to_string().into_bytes(),
                NearToken::from_yoctonear(0),
                Gas::from_tgas(0),
                GasWeight(1),
            )
            .then(
                Self::ext(env::current_account_id())
                    .with_static_gas(RESOLVE_GAS)
                    .with_unused_gas_weight(0)
                    .ft_resolve_transfer(sender_id, receiver_id, amount),
            )
    }

    /// Gives the amount that the receiver kept.
    #[private]
    pub fn ft_resolve_transfer(
        &mut self,
        sender_id: AccountId,
        receiver_id: AccountId,
        amount: U128,
    ) -> U128 {
        let unused = match env::promise_result_checked(0, MAX_ANSWER) {
            Ok(answer) => {
                serde_json::from_slice::<U128>(&answer).map_or(amount.0, |unused| unused.0.min(amount.0))
            }
            Err(_) => amount.0,
        };
        let held = self.balances.get(&receiver_id).copied().unwrap_or(0);
        let back = unused.min(held);
        if back > 0 {
            self.balances.insert(receiver_id, held - back);
            *self.balances.entry(sender_id).or_insert(0) += back;
        }
        U128(amount.0 - back)
    }

    pub fn ft_balance_of(&self, account_id: AccountId) -> U128 {
        U128(self.balances.get(&account_id).copied().unwrap_or(0))
    }

    pub fn ft_total_supply(&self) -> U128 {
        U128(self.supply)
    }

    pub fn ft_metadata(&self) -> Metadata {
        Metadata {
            spec: "ft-1.0.0".to_string(),
            name: "Test dollar".to_string(),
            symbol: "USDt".to_string(),
            decimals: 6,
        }
    }

    /// Register an account; what is attached above the price goes back.
    #[payable]
    pub fn storage_deposit(
        &mut self,
        account_id: Option<AccountId>,
        registration_only: Option<bool>,
    ) -> StorageBalance {
        let _ = registration_only;
        let payer = env::predecessor_account_id();
        let account_id = account_id.unwrap_or_else(|| payer.clone());
        let attached = env::attached_deposit();
        let price = if self.balances.contains_key(&account_id) {
            NearToken::from_yoctonear(0)
        } else {
            require!(
                attached >= STORAGE_DEPOSIT,
                "The attached deposit is less than the minimum storage balance"
            );
            self.balances.insert(account_id, 0);
            STORAGE_DEPOSIT
        };
        let back = attached.saturating_sub(price);
        if !back.is_zero() {
            let _ = Promise::new(payer).transfer(back);
        }
        StorageBalance { total: STORAGE_DEPOSIT, available: NearToken::from_yoctonear(0) }
    }

    pub fn storage_balance_of(&self, account_id: AccountId) -> Option<StorageBalance> {
        self.balances
            .contains_key(&account_id)
            .then_some(StorageBalance { total: STORAGE_DEPOSIT, available: NearToken::from_yoctonear(0) })
    }
}

impl Stablecoin {
    fn assert_minter(&self) {
        require!(env::predecessor_account_id() == self.minter_id, "Only the minter may do this");
    }

    fn transfer(&mut self, sender_id: &AccountId, receiver_id: &AccountId, amount: u128) {
        require!(sender_id != receiver_id, "Sender and receiver should be different");
        require!(amount > 0, "The amount should be a positive number");
        for account_id in [sender_id, receiver_id] {
            require!(!self.frozen.contains(account_id), format!("The account {account_id} is frozen"));
            require!(
                self.balances.contains_key(account_id),
                format!("The account {account_id} is not registered")
            );
        }
        let held = self.balances[sender_id];
        require!(held >= amount, "The account doesn't have enough balance");
        self.balances.insert(sender_id.clone(), held - amount);
        *self.balances.entry(receiver_id.clone()).or_insert(0) += amount;
    }
}

fn assert_one_yocto() {
    require!(
        env::attached_deposit() == NearToken::from_yoctonear(1),
        "Requires attached deposit of exactly 1 yoctoNEAR"
    );
}
