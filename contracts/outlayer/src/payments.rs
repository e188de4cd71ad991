// SPDX-License-Identifier: MIT
//! Money in the stablecoin (micro-USD): top-ups of payment keys, balances for `attached_usd`, earnings.
//!
//! An amount counts only when the token contract itself says that it has arrived (R9).

use near_sdk::json_types::U128;
use near_sdk::serde::{Deserialize, Serialize};
use near_sdk::{env, near, require, AccountId, Gas, NearToken, Promise};

use crate::events::SystemEvent;
use crate::secrets::SecretKey;
use crate::storage::pay;
use crate::{yields, Contract, ContractExt};

const MIN_TOP_UP_AMOUNT: u128 = 10_000;
const TASK_CALLBACK_GAS: Gas = Gas::from_tgas(30);
const FT_TRANSFER_GAS: Gas = Gas::from_tgas(10);
const WITHDRAW_CALLBACK_GAS: Gas = Gas::from_tgas(5);
const MAX_MESSAGE_LENGTH: usize = 500;

/// `msg` of an `ft_transfer_call`.
#[derive(Deserialize)]
#[serde(crate = "near_sdk::serde", tag = "action", rename_all = "snake_case")]
enum TransferMessage {
    TopUpPaymentKey { nonce: u32, owner: Option<AccountId> },
    DepositBalance,
}

/// The operator's answer to a top-up: the key's ciphertext with the new balance, or why there is none.
#[near(serializers = [json])]
pub enum TopUpResult {
    Success { new_encrypted_data: String },
    Error { message: String },
}

#[near(serializers = [json])]
pub enum DeleteResult {
    Success,
    Error { message: String },
}

/// A top-up or a deletion that waits for the operator; a key has one at a time.
#[near(serializers = [borsh])]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaymentKeyTask {
    pub owner: AccountId,
    pub nonce: u32,
    pub kind: TaskKind,
    /// The operator has answered; the answer counts when the callback has seen it, and not if time ran out first.
    pub answered: bool,
    /// The ciphertext of a top-up that was answered. It may be longer than what a yield is resumed with.
    pub new_encrypted_data: Option<String>,
}

#[near(serializers = [borsh])]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskKind {
    TopUp,
    Delete,
}

/// What a task's yield is resumed with.
#[derive(Serialize, Deserialize)]
#[serde(crate = "near_sdk::serde")]
enum TaskEnd {
    Done,
    Failed(String),
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
                self.start_top_up(owner.unwrap_or(sender_id), nonce, amount);
            }
            TransferMessage::DepositBalance => {
                self.credit_stablecoin(&sender_id, amount.0);
                env::value_return(b"\"0\"");
            }
        }
    }

    /// The operator's answer to a top-up. The new ciphertext waits for the callback: in the block in which the
    /// time-out is delivered a yield still takes an answer that nobody will see.
    pub fn resume_topup(&mut self, data_id: String, result: TopUpResult) {
        self.assert_operator();
        let (data_id, mut task) = self.task(&data_id, TaskKind::TopUp);
        let end = match result {
            TopUpResult::Success { new_encrypted_data } => {
                require!(!new_encrypted_data.is_empty(), "Encrypted secrets cannot be empty");
                task.new_encrypted_data = Some(new_encrypted_data);
                TaskEnd::Done
            }
            TopUpResult::Error { message } => TaskEnd::Failed(clip(&message)),
        };
        self.answer_task(data_id, task, &end);
    }

    /// The end of a top-up: what goes back to the sender of the tokens.
    #[private]
    pub fn on_top_up_response(&mut self, owner: AccountId, nonce: u32, amount: U128) -> U128 {
        match self.task_end(&owner, nonce).and_then(|task| self.apply_top_up(task)) {
            Ok(()) => U128(0),
            Err(reason) => {
                env::log_str(&format!("Top-up of payment key {owner}:{nonce} failed: {reason}"));
                amount
            }
        }
    }

    /// Delete one of the caller's payment keys; its storage deposit comes back once the operator agrees.
    #[payable]
    pub fn delete_payment_key(&mut self, nonce: u32) {
        take_yocto();
        let owner = env::predecessor_account_id();
        let key = SecretKey::payment_key(&owner, nonce);
        require!(self.secrets.contains_key(&key), "Payment key not found");
        self.check_no_task(&key);
        let arguments = serde_json::json!({ "owner": owner, "nonce": nonce });
        let data_id =
            self.start_task("on_delete_payment_key_response", arguments, &owner, nonce, TaskKind::Delete);
        self.emit("system_event", SystemEvent::DeletePaymentKey { data_id, owner: &owner, nonce });
    }

    pub fn resume_delete_payment_key(&mut self, data_id: String, result: DeleteResult) {
        self.assert_operator();
        let (data_id, task) = self.task(&data_id, TaskKind::Delete);
        let end = match result {
            DeleteResult::Success => TaskEnd::Done,
            DeleteResult::Error { message } => TaskEnd::Failed(clip(&message)),
        };
        self.answer_task(data_id, task, &end);
    }

    /// The end of a deletion: whether the key is gone.
    #[private]
    pub fn on_delete_payment_key_response(&mut self, owner: AccountId, nonce: u32) -> bool {
        match self.task_end(&owner, nonce) {
            Ok(_) => {
                self.remove_secret(&SecretKey::payment_key(&owner, nonce));
                true
            }
            Err(reason) => {
                env::log_str(&format!("Payment key {owner}:{nonce} was not deleted: {reason}"));
                false
            }
        }
    }

    /// Send the caller what its projects earned.
    #[payable]
    pub fn withdraw_developer_earnings(&mut self) -> Promise {
        take_yocto();
        let token = self.payment_token();
        let account_id = env::predecessor_account_id();
        let amount = self.developer_earnings.remove(&account_id).unwrap_or(0);
        require!(amount > 0, "No earnings to withdraw");
        let arguments = serde_json::json!({
            "receiver_id": account_id,
            "amount": U128(amount),
            "memo": "OutLayer developer earnings",
        });
        Promise::new(token)
            .function_call(
                "ft_transfer".to_string(),
                arguments.to_string().into_bytes(),
                NearToken::from_yoctonear(1),
                FT_TRANSFER_GAS,
            )
            .then(
                Self::ext(env::current_account_id())
                    .with_static_gas(WITHDRAW_CALLBACK_GAS)
                    .on_withdraw_developer_earnings(account_id, U128(amount)),
            )
    }

    /// A transfer that failed leaves the earnings where they were.
    #[private]
    pub fn on_withdraw_developer_earnings(&mut self, account_id: AccountId, amount: U128) -> bool {
        // only whether it worked is asked: what the token contract returns, and how long it is, does not matter
        let paid = !matches!(env::promise_result_checked(0, 0), Err(near_sdk::PromiseError::Failed));
        if !paid {
            env::log_str(&format!("The transfer of {} to {account_id} failed", amount.0));
            self.credit_developer(&account_id, amount.0);
        }
        paid
    }

    /// Not offered: what a swap brings is known only when its tokens arrive, and that is `ft_on_transfer`.
    #[payable]
    pub fn top_up_payment_key_with_near(&mut self, nonce: u32, swap_contract_id: AccountId) {
        refuse_swap(nonce, &swap_contract_id);
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
        refuse_swap(nonce, &swap_contract_id);
    }

    /// One more than the highest nonce of the account's payment keys; 1 for the first.
    pub fn get_next_payment_key_nonce(&self, account_id: AccountId) -> u32 {
        let index = self.user_secrets.get(&account_id).cloned().unwrap_or_default();
        let nonces = index.into_iter().filter_map(|(accessor, profile)| {
            SecretKey { accessor, profile, owner: account_id.clone() }.payment_nonce()
        });
        nonces.max().unwrap_or(0).saturating_add(1)
    }
}

impl Contract {
    /// Panics while a top-up or a deletion of this payment key is under way: its ciphertext is being rewritten.
    pub(crate) fn check_no_task(&self, key: &SecretKey) {
        let Some(nonce) = key.payment_nonce() else { return };
        require!(
            !self.payment_key_tasks.contains_key(&(key.owner.clone(), nonce)),
            "A top-up or deletion of this payment key is under way, try again when it has ended"
        );
    }

    fn payment_token(&self) -> AccountId {
        self.payment_token_contract
            .clone()
            .unwrap_or_else(|| env::panic_str("Payment token contract not configured"))
    }

    fn start_top_up(&mut self, owner: AccountId, nonce: u32, amount: U128) {
        require!(
            amount.0 >= MIN_TOP_UP_AMOUNT,
            format!("Minimum top-up is $0.01 ({MIN_TOP_UP_AMOUNT}), got {}", amount.0)
        );
        let key = SecretKey::payment_key(&owner, nonce);
        let encrypted_data =
            self.secrets.get(&key).map(|secret| secret.encrypted_secrets.clone()).unwrap_or_else(|| {
                env::panic_str("Payment key not found. Create it first with store_secrets()")
            });
        self.check_no_task(&key);
        let arguments = serde_json::json!({ "owner": owner, "nonce": nonce, "amount": amount });
        let data_id = self.start_task("on_top_up_response", arguments, &owner, nonce, TaskKind::TopUp);
        self.emit(
            "system_event",
            SystemEvent::TopUpPaymentKey {
                data_id,
                owner: &owner,
                nonce,
                amount,
                encrypted_data: &encrypted_data,
            },
        );
    }

    /// Create the task's yield, which becomes this call's result.
    fn start_task(
        &mut self,
        callback: &str,
        arguments: serde_json::Value,
        owner: &AccountId,
        nonce: u32,
        kind: TaskKind,
    ) -> [u8; 32] {
        let data_id = yields::create(callback, arguments.to_string().as_bytes(), TASK_CALLBACK_GAS);
        self.payment_key_tasks.insert((owner.clone(), nonce), data_id);
        let task =
            PaymentKeyTask { owner: owner.clone(), nonce, kind, answered: false, new_encrypted_data: None };
        self.tasks_by_data_id.insert(data_id, task);
        data_id
    }

    fn task(&self, data_id: &str, kind: TaskKind) -> ([u8; 32], PaymentKeyTask) {
        let data_id = parse_data_id(data_id);
        match self.tasks_by_data_id.get(&data_id) {
            Some(task) if task.kind == kind && !task.answered => (data_id, task.clone()),
            _ => env::panic_str("No task of this kind waits under this data_id: it has ended or timed out"),
        }
    }

    /// Resume the task's yield, once: a second answer finds no task that waits.
    fn answer_task(&mut self, data_id: [u8; 32], task: PaymentKeyTask, end: &TaskEnd) {
        let payload = serde_json::to_vec(end)
            .unwrap_or_else(|_| env::panic_str("The result could not be written as JSON"));
        env::log_str(&format!("Payment key {}:{}: the operator answered", task.owner, task.nonce));
        self.tasks_by_data_id.insert(data_id, PaymentKeyTask { answered: true, ..task });
        yields::resume(&data_id, &payload);
    }

    /// In a task's callback: forget the task, and tell how its yield ended.
    fn task_end(&mut self, owner: &AccountId, nonce: u32) -> Result<PaymentKeyTask, String> {
        let data_id = self.payment_key_tasks.remove(&(owner.clone(), nonce));
        let task = data_id.and_then(|data_id| self.tasks_by_data_id.remove(&data_id));
        let payload = yields::result()?;
        match serde_json::from_slice(&payload) {
            Ok(TaskEnd::Done) => task.ok_or_else(|| "no task is known".to_string()),
            Ok(TaskEnd::Failed(reason)) => Err(reason),
            Err(error) => Err(error.to_string()),
        }
    }

    fn apply_top_up(&mut self, task: PaymentKeyTask) -> Result<(), String> {
        let key = SecretKey::payment_key(&task.owner, task.nonce);
        let mut secret = self.secrets.get(&key).cloned().ok_or("the key is gone")?;
        secret.encrypted_secrets = task.new_encrypted_data.ok_or("the answer holds no ciphertext")?;
        secret.updated_at = env::block_timestamp();
        self.secrets.insert(key, secret);
        Ok(())
    }
}

/// One yoctoNEAR shows that a full-access key signed; what is above it goes back.
fn take_yocto() {
    let attached = env::attached_deposit().as_yoctonear();
    require!(attached >= 1, "Requires an attached deposit of at least 1 yoctoNEAR");
    pay(&env::predecessor_account_id(), attached - 1);
}

fn parse_data_id(text: &str) -> [u8; 32] {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|value| value as u8);
    let bytes: Option<Vec<u8>> =
        text.as_bytes().chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .unwrap_or_else(|| env::panic_str("data_id must be 64 hex characters"))
}

/// As much of a message as fits into a resumed yield.
fn clip(message: &str) -> String {
    message
        .chars()
        .scan(0, |length, c| {
            *length += c.len_utf8();
            (*length <= MAX_MESSAGE_LENGTH).then_some(c)
        })
        .collect()
}

fn refuse_swap(nonce: u32, swap_contract_id: &AccountId) {
    env::panic_str(&format!(
        "Swaps through {swap_contract_id} are not offered: buy the stablecoin, then ft_transfer_call it here with msg \
         {{\"action\":\"top_up_payment_key\",\"nonce\":{nonce}}}"
    ))
}
