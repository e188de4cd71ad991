// SPDX-License-Identifier: MIT
//! Money in the stablecoin: payment keys, balances, earnings.

use near_sdk::json_types::U128;
use near_sdk::serde::{Deserialize, Serialize};
use near_sdk::{env, near, require, AccountId, Gas, NearToken, Promise, PromiseError};
use serde_json::json;

use crate::types::*;
use crate::{begin_yield, yielded, OriginalMain, OriginalMainExt};

const MIN_TOP_UP_AMOUNT: u128 = 10_000;
const TASK_GAS: Gas = Gas::from_tgas(30);

#[derive(Deserialize)]
#[serde(crate = "near_sdk::serde", tag = "action", rename_all = "snake_case")]
enum Message {
    TopUpPaymentKey { nonce: u32, owner: Option<AccountId> },
    DepositBalance,
}

#[near(serializers = [json])]
pub enum TopUpResult {
    Success { new_encrypted_data: String },
    Error { message: String },
}

#[derive(Serialize, Deserialize)]
#[serde(crate = "near_sdk::serde")]
pub enum DeleteResult {
    Success,
    Error { message: String },
}

#[near]
impl OriginalMain {
    pub fn ft_on_transfer(&mut self, sender_id: AccountId, amount: U128, msg: String) {
        let token = self.token();
        let from = env::predecessor_account_id();
        require!(from == token, format!("Invalid token contract. Expected {token}, got {from}"));
        let message = serde_json::from_str(&msg)
            .unwrap_or_else(|error| env::panic_str(&format!("Invalid msg format: {error}")));
        match message {
            Message::DepositBalance => {
                self.credit_balance(&sender_id, amount.0);
                env::value_return(b"\"0\"");
            }
            Message::TopUpPaymentKey { nonce, owner } => {
                require!(
                    amount.0 >= MIN_TOP_UP_AMOUNT,
                    format!("Minimum top-up is $0.01 ({MIN_TOP_UP_AMOUNT}), got {}", amount.0)
                );
                let owner = owner.unwrap_or(sender_id);
                let found = self.secrets.get(&payment_key(&owner, nonce)).cloned();
                let secret = found.unwrap_or_else(|| {
                    env::panic_str("Payment key not found. Create it first with store_secrets()")
                });
                let arguments = json!({ "owner": owner, "nonce": nonce, "amount": amount });
                let data_id = begin_yield("on_top_up_response", &arguments, TASK_GAS);
                self.announce_top_up(data_id, &owner, nonce, amount.0, &secret.encrypted_secrets);
            }
        }
    }

    pub fn resume_topup(&mut self, data_id: String, result: TopUpResult) {
        self.assert_operator();
        resume(&data_id, &json!(result).to_string());
    }

    #[private]
    pub fn on_top_up_response(&mut self, owner: AccountId, nonce: u32, amount: U128) -> U128 {
        let result = yielded().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let key = payment_key(&owner, nonce);
        match (result, self.secrets.get_mut(&key)) {
            (Some(TopUpResult::Success { new_encrypted_data }), Some(secret)) => {
                secret.encrypted_secrets = new_encrypted_data;
                secret.updated_at = env::block_timestamp();
                U128(0)
            }
            _ => amount,
        }
    }

    #[payable]
    pub fn delete_payment_key(&mut self, nonce: u32) {
        require_yocto();
        let owner = env::predecessor_account_id();
        require!(self.secrets.contains_key(&payment_key(&owner, nonce)), "Payment key not found");
        let arguments = json!({ "owner": owner, "nonce": nonce });
        let data_id = begin_yield("on_delete_payment_key_response", &arguments, TASK_GAS);
        let data = json!({ "data_id": data_id, "owner": owner, "nonce": nonce });
        self.emit("system_event", json!({ "DeletePaymentKey": data }));
    }

    pub fn resume_delete_payment_key(&mut self, data_id: String, result: DeleteResult) {
        self.assert_operator();
        resume(&data_id, &json!(result).to_string());
    }

    #[private]
    pub fn on_delete_payment_key_response(&mut self, owner: AccountId, nonce: u32) -> bool {
        let result = yielded().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let agreed = matches!(result, Some(DeleteResult::Success));
        if agreed {
            self.remove_secret(&payment_key(&owner, nonce));
        }
        agreed
    }

    #[payable]
    pub fn withdraw_developer_earnings(&mut self) -> Promise {
        require_yocto();
        let account_id = env::predecessor_account_id();
        let amount = U128(self.developer_earnings.remove(&account_id).unwrap_or(0));
        require!(amount.0 > 0, "No earnings to withdraw");
        let arguments = json!({ "receiver_id": account_id, "amount": amount }).to_string();
        let transfer = Promise::new(self.token()).function_call(
            "ft_transfer".to_string(),
            arguments.into_bytes(),
            NearToken::from_yoctonear(1),
            Gas::from_tgas(10),
        );
        let callback = Self::ext(env::current_account_id()).with_static_gas(Gas::from_tgas(5));
        transfer.then(callback.on_withdraw_developer_earnings(account_id, amount))
    }

    #[private]
    pub fn on_withdraw_developer_earnings(&mut self, account_id: AccountId, amount: U128) -> bool {
        let paid = !matches!(env::promise_result_checked(0, 0), Err(PromiseError::Failed));
        if !paid {
            self.credit_earnings(&account_id, amount.0);
        }
        paid
    }
}

impl OriginalMain {
    fn token(&self) -> AccountId {
        let token = self.payment_token_contract.clone();
        token.unwrap_or_else(|| env::panic_str("Payment token contract not configured"))
    }

    pub(crate) fn announce_top_up(
        &self,
        data_id: [u8; 32],
        owner: &AccountId,
        nonce: u32,
        amount: u128,
        ciphertext: &str,
    ) {
        let data = json!({
            "data_id": data_id,
            "owner": owner,
            "nonce": nonce,
            "amount": U128(amount),
            "encrypted_data": ciphertext,
        });
        self.emit("system_event", json!({ "TopUpPaymentKey": data }));
    }
}

fn payment_key(owner: &AccountId, nonce: u32) -> SecretKey {
    let accessor = Accessor::System(SystemSecret::PaymentKey);
    SecretKey { accessor, profile: nonce.to_string(), owner: owner.clone() }
}

fn require_yocto() {
    require!(
        env::attached_deposit().as_yoctonear() >= 1,
        "Requires attached deposit of at least 1 yoctoNEAR"
    );
}

fn resume(data_id: &str, payload: &str) {
    let digits: Option<Vec<u8>> = (0..data_id.len())
        .step_by(2)
        .map(|at| data_id.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
        .collect();
    let bytes: Option<[u8; 32]> = digits.and_then(|digits| digits.try_into().ok());
    let bytes = bytes.unwrap_or_else(|| env::panic_str("data_id must be 64 hex characters"));
    require!(env::promise_yield_resume(&bytes, payload.as_bytes()), "Unable to resume promise");
}
