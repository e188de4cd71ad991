// SPDX-License-Identifier: MIT
//! Stablecoin (micro-USD) that comes in: top-ups of payment keys and deposits for `attached_usd`.
//!
//! An amount counts only when the token contract itself says that it has arrived (R9).

use near_sdk::json_types::U128;
use near_sdk::serde::Deserialize;
use near_sdk::store::LookupMap;
use near_sdk::{env, near, require, AccountId, Gas, Promise};

use crate::pools::MIN_FIRST_DEPOSIT;
use crate::secrets::SecretKey;
use crate::storage;
use crate::tasks::Tasks;
use crate::{lists, Contract, ContractExt, StorageKey};

pub use crate::tasks::{DeleteResult, OldTask, TopUpResult};

/// For a swap and the `ft_transfer_call` with which it ends; whatever else is attached goes there, too.
const SWAP_GAS: Gas = Gas::from_tgas(120);
/// 0.01 NEAR, as the original asks.
const MIN_NEAR_DEPOSIT: u128 = 10_000_000_000_000_000_000_000;

/// `msg` of an `ft_transfer_call`.
#[derive(Deserialize)]
#[serde(crate = "near_sdk::serde", tag = "action", rename_all = "snake_case")]
enum TransferMessage {
    TopUpPaymentKey { nonce: u32, owner: Option<AccountId> },
    DepositBalance,
}

#[near(serializers = [borsh])]
pub struct PaymentKeys {
    pub(crate) tasks: Tasks,
    /// Who settles HTTPS calls.
    pub(crate) settlement_account: Option<AccountId>,
    /// Who turns NEAR into top-ups.
    pub(crate) swap_contract: Option<AccountId>,
    /// By batch id: the digest of what was credited.
    pub(crate) https_batches: LookupMap<String, [u8; 32]>,
}

impl PaymentKeys {
    pub(crate) fn new() -> Self {
        PaymentKeys {
            tasks: Tasks::new(),
            settlement_account: None,
            swap_contract: None,
            https_batches: LookupMap::new(StorageKey::HttpsBatches),
        }
    }

    pub fn of_old(
        data_ids: LookupMap<(AccountId, u32), [u8; 32]>,
        by_data_id: LookupMap<[u8; 32], OldTask>,
    ) -> Self {
        PaymentKeys { tasks: Tasks::of_old(data_ids, by_data_id), ..PaymentKeys::new() }
    }
}

#[near]
impl Contract {
    /// Tokens arrived (NEP-141). Gives the amount that goes back: 0, or all of it when a top-up fails.
    pub fn ft_on_transfer(&mut self, sender_id: AccountId, amount: U128, msg: String) {
        require!(!self.paused, "Contract is paused");
        let token = self.payment_token();
        require!(
            env::predecessor_account_id() == token,
            format!("Invalid token contract. Expected {token}, got {}", env::predecessor_account_id())
        );
        let message = serde_json::from_str(&msg)
            .unwrap_or_else(|error| env::panic_str(&format!("Invalid msg format: {error}")));
        match message {
            TransferMessage::TopUpPaymentKey { nonce, owner } => {
                let owner = owner.unwrap_or_else(|| sender_id.clone());
                self.start_top_up(&sender_id, owner, nonce, amount);
            }
            TransferMessage::DepositBalance => {
                self.deposit_balance(&sender_id, amount.0);
                env::value_return(b"\"0\"");
            }
        }
    }

    /// Buy stablecoin with the attached NEAR through the contract that the owner chose, and top up one of the caller's
    /// keys with it. What is credited is what that contract then sends here (R9). If its call fails, the NEAR goes back
    /// to the caller.
    #[payable]
    pub fn top_up_payment_key_with_near(&mut self, nonce: u32, swap_contract_id: AccountId) -> Promise {
        require!(!self.paused, "Contract is paused");
        self.check_swap_contract(nonce, &swap_contract_id);
        let attached = env::attached_deposit();
        require!(
            attached.as_yoctonear() >= MIN_NEAR_DEPOSIT,
            format!("Attach at least {MIN_NEAR_DEPOSIT} yoctoNEAR (0.01 NEAR) to swap")
        );
        let owner = env::predecessor_account_id();
        self.check_top_up(&owner, nonce);
        self.check_way_of_swap(&owner, nonce);
        let message = serde_json::json!({ "action": "top_up_payment_key", "nonce": nonce, "owner": owner });
        let arguments = serde_json::json!({
            "sender_id": owner,
            "token_id": self.payment_token(),
            "receiver_id": env::current_account_id(),
            "msg": message.to_string(),
        });
        // the protocol gives the deposit of a call that fails to whom `refund_to` names: it never comes through here
        Promise::new(swap_contract_id).refund_to(owner).function_call_weight(
            "swap_near_to_stablecoin".to_string(),
            arguments.to_string().into_bytes(),
            attached,
            SWAP_GAS,
            near_sdk::GasWeight(1),
        )
    }

    /// Not offered (R9): an amount that is only stated is never credited.
    #[payable]
    pub fn top_up_payment_key_with_token(
        &mut self,
        nonce: u32,
        token_id: AccountId,
        amount: U128,
        swap_contract_id: AccountId,
    ) {
        let _ = (token_id, amount);
        env::panic_str(&format!(
            "Swaps of tokens through {swap_contract_id} are not offered: {}",
            by_hand(nonce)
        ))
    }

    /// Let `top_up_payment_key_with_near` work, through this contract.
    pub fn set_swap_contract(&mut self, swap_contract_id: AccountId) {
        self.assert_owner();
        self.payment_keys.swap_contract = Some(swap_contract_id);
    }

    pub fn clear_swap_contract(&mut self) {
        self.assert_owner();
        self.payment_keys.swap_contract = None;
    }

    pub fn get_swap_contract(&self) -> Option<AccountId> {
        self.payment_keys.swap_contract.clone()
    }

    /// One more than the highest nonce that the account has used; 1 for the first, and when all its secrets are gone.
    pub fn get_next_payment_key_nonce(&self, account_id: AccountId) -> u32 {
        let old = self.user_secrets.get(&account_id).map_or(&[][..], Vec::as_slice);
        let nonces = old.iter().filter_map(|(accessor, profile)| {
            let (accessor, profile) = (accessor.clone(), profile.clone());
            SecretKey { accessor, profile, owner: account_id.clone() }.payment_nonce()
        });
        nonces.max().unwrap_or(0).max(lists::SECRETS.mark(account_id.as_str())).saturating_add(1)
    }
}

impl Contract {
    pub(crate) fn payment_token(&self) -> AccountId {
        self.payment_token_contract
            .clone()
            .unwrap_or_else(|| env::panic_str("Payment token contract not configured"))
    }

    /// YoctoNEAR beside the stake that are not the contract's to use: payments of requests that wait, less what these
    /// occupy, which is in the stake already, and the reserve.
    pub(crate) fn kept_balance(&self) -> u128 {
        let occupied = storage::price(usize::try_from(self.waiting_bytes).unwrap_or(usize::MAX));
        self.held_payments.saturating_sub(occupied).saturating_add(storage::RESERVE)
    }

    /// Panics when the contract has too little NEAR of its own for new entries that nobody pays for.
    pub(crate) fn check_reserve(&self) {
        let free = storage::free_balance();
        let kept = self.kept_balance();
        require!(
            free >= kept,
            format!(
                "The contract's reserve is used up: {free} yoctoNEAR are free and {kept} must be kept. Until its owner \
                 sends NEAR to {}, it makes no new entries of balances and earnings",
                env::current_account_id()
            )
        );
    }

    fn deposit_balance(&mut self, sender_id: &AccountId, amount: u128) {
        if self.pools.is_first_deposit(sender_id) {
            require!(
                amount >= MIN_FIRST_DEPOSIT,
                format!("Minimum first deposit is $0.01 ({MIN_FIRST_DEPOSIT}), got {amount}")
            );
            self.check_reserve();
        }
        self.pools.deposit(sender_id, amount);
    }

    fn check_swap_contract(&self, nonce: u32, named: &AccountId) {
        match &self.payment_keys.swap_contract {
            Some(configured) => require!(
                configured == named,
                format!("Swaps go through {configured}, not through {named}; or {}", by_hand(nonce))
            ),
            None => env::panic_str(&format!(
                "No swap contract is configured: the owner names one with set_swap_contract. Until then {}",
                by_hand(nonce)
            )),
        }
    }
}

fn by_hand(nonce: u32) -> String {
    format!(
        "buy the stablecoin, then ft_transfer_call it here with msg \
         {{\"action\":\"top_up_payment_key\",\"nonce\":{nonce}}}"
    )
}
