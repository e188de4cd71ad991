// SPDX-License-Identifier: MIT
//! Top-ups and deletions of payment keys: tasks that wait for the operator's answer, one at a time for each key, because
//! each rewrites the ciphertext that the next begins with.
//!
//! A task has a number, and its callback counts only while the key's task is the one of that number. So a task never
//! locks a key: it ends by its callback, by its age, or because the key's owner goes on without it, and then its callback
//! finds another number or none, and its tokens go back. Whatever the callback does is committed there and not before:
//! a token contract gives the tokens back whenever that callback fails.

use near_sdk::json_types::U128;
use near_sdk::serde::{Deserialize, Serialize};
use near_sdk::store::LookupMap;
use near_sdk::{env, near, require, AccountId, Gas};

use crate::events::{escaped_len, SystemEvent};
use crate::lists;
use crate::secrets::{SecretKey, SecretProfile};
use crate::storage::{bytes_of, entry_bytes};
use crate::{yields, Contract, ContractExt, StorageKey};

const MIN_TOP_UP_AMOUNT: u128 = 10_000;
/// The callback needs at most half of it, with the longest ciphertext and condition.
const CALLBACK_GAS: Gas = Gas::from_tgas(30);
const MAX_MESSAGE_LENGTH: usize = 500;
/// Of a payment key, as JSON text: it stands in the event of each top-up.
const MOST_CIPHERTEXT: usize = 8_192;
/// Of a payment key's access condition in state: each top-up rewrites it.
const MOST_CONDITION: usize = 16_384;
/// A yield ends after 200 blocks; its callback comes some blocks later.
const MOST_BLOCKS: u64 = 200 + 20;

/// Bytes that a task occupies while it is under way, for the longest account id. The price of a payment key's entry
/// holds them, so that the tasks that strangers begin do not use the contract's own stake.
pub const TASK_BYTES: usize = {
    const ACCOUNT: usize = 4 + 64;
    const NONCE: usize = 4;
    let task = entry_bytes(1 + ACCOUNT + NONCE, 8 + 1 + 1 + 32 + 8);
    let answer = entry_bytes(1 + 32, ACCOUNT + NONCE + 1 + 1);
    task + answer
};

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

#[near(serializers = [borsh])]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskKind {
    TopUp,
    Delete,
}

/// Who began a task. A top-up makes way for one of a higher rank.
#[near(serializers = [borsh])]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Stranger,
    /// The swap contract that the owner of this contract named.
    Swap,
    KeyOwner,
}

/// What waits for the operator, by key.
#[near(serializers = [borsh])]
#[derive(Clone, Debug)]
struct Task {
    number: u64,
    kind: TaskKind,
    rank: Rank,
    data_id: [u8; 32],
    /// The last height at which it counts as under way.
    until: u64,
}

/// What the operator needs to find the task, and its answer until the callback has seen it.
#[near(serializers = [borsh])]
#[derive(Clone, Debug)]
struct Answer {
    owner: AccountId,
    nonce: u32,
    answered: bool,
    /// The ciphertext of a top-up. It may be longer than what a yield is resumed with.
    new_encrypted_data: Option<String>,
}

#[near(serializers = [borsh])]
pub struct Tasks {
    next_number: u64,
    by_key: LookupMap<(AccountId, u32), Task>,
    by_data_id: LookupMap<[u8; 32], Answer>,
    old: Option<OldTasks>,
}

/// Tasks that were under way when the state became version 3. Their callbacks know no number.
#[near(serializers = [borsh])]
struct OldTasks {
    data_ids: LookupMap<(AccountId, u32), [u8; 32]>,
    by_data_id: LookupMap<[u8; 32], OldTask>,
    until: u64,
}

#[near(serializers = [borsh])]
#[derive(Clone, Debug)]
pub struct OldTask {
    owner: AccountId,
    nonce: u32,
    kind: TaskKind,
    answered: bool,
    new_encrypted_data: Option<String>,
}

/// What a task's yield is resumed with.
#[derive(Serialize, Deserialize)]
#[serde(crate = "near_sdk::serde")]
enum TaskEnd {
    Done,
    Failed(String),
}

impl Tasks {
    pub fn new() -> Self {
        Tasks {
            next_number: 0,
            by_key: LookupMap::new(StorageKey::Tasks),
            by_data_id: LookupMap::new(StorageKey::TaskAnswers),
            old: None,
        }
    }

    pub fn of_old(
        data_ids: LookupMap<(AccountId, u32), [u8; 32]>,
        by_data_id: LookupMap<[u8; 32], OldTask>,
    ) -> Self {
        let until = env::block_height() + MOST_BLOCKS;
        Tasks { old: Some(OldTasks { data_ids, by_data_id, until }), ..Tasks::new() }
    }

    /// The task of a key that is under way, and who began it.
    fn under_way(&self, owner: &AccountId, nonce: u32) -> Option<(TaskKind, Rank)> {
        let key = (owner.clone(), nonce);
        let height = env::block_height();
        let task = self.by_key.get(&key).filter(|task| height <= task.until);
        task.map(|task| (task.kind, task.rank)).or_else(|| {
            let old = self.old.as_ref().filter(|old| height <= old.until)?;
            let task = old.by_data_id.get(old.data_ids.get(&key)?)?;
            Some((task.kind, Rank::Stranger))
        })
    }

    /// Forget the task of a key, under way or not: its callback will find that it does not count.
    fn forget(&mut self, owner: &AccountId, nonce: u32) {
        let key = (owner.clone(), nonce);
        if let Some(task) = self.by_key.remove(&key) {
            self.by_data_id.remove(&task.data_id);
        }
        if let Some(old) = self.old.as_mut() {
            if let Some(data_id) = old.data_ids.remove(&key) {
                old.by_data_id.remove(&data_id);
            }
        }
    }

    /// In the callback of task `number`: forget the task; gives the ciphertext that came with its answer.
    fn take(&mut self, owner: &AccountId, nonce: u32, number: Option<u64>) -> Result<Option<String>, String> {
        const ENDED: &str = "the key's owner has gone on without it";
        let key = (owner.clone(), nonce);
        let Some(number) = number else {
            let old = self.old.as_mut().ok_or(ENDED)?;
            let data_id = old.data_ids.remove(&key).ok_or(ENDED)?;
            return Ok(old.by_data_id.remove(&data_id).and_then(|task| task.new_encrypted_data));
        };
        if self.by_key.get(&key).is_none_or(|task| task.number != number) {
            return Err(ENDED.to_string());
        }
        let task = self.by_key.remove(&key).ok_or(ENDED)?;
        Ok(self.by_data_id.remove(&task.data_id).and_then(|answer| answer.new_encrypted_data))
    }

    /// Mark a task of this kind as answered. Panics for one that does not wait; gives its key.
    fn answer(&mut self, data_id: &[u8; 32], kind: TaskKind, ciphertext: Option<String>) -> (AccountId, u32) {
        const NONE: &str =
            "No task of this kind waits under this data_id: it has ended or timed out, or the key's \
                            owner has gone on without it";
        if let Some(answer) = self.by_data_id.get_mut(data_id) {
            let key = (answer.owner.clone(), answer.nonce);
            let is_kind = self.by_key.get(&key).is_some_and(|task| task.kind == kind);
            require!(is_kind && !answer.answered, NONE);
            answer.answered = true;
            answer.new_encrypted_data = ciphertext;
            return key;
        }
        let old = self.old.as_mut().and_then(|old| old.by_data_id.get_mut(data_id));
        match old.filter(|task| task.kind == kind && !task.answered) {
            Some(task) => {
                task.answered = true;
                task.new_encrypted_data = ciphertext;
                (task.owner.clone(), task.nonce)
            }
            None => env::panic_str(NONE),
        }
    }
}

#[near]
impl Contract {
    /// The operator's answer to a top-up. The new ciphertext waits for the callback: in the block in which the
    /// time-out is delivered a yield still takes an answer that nobody will see.
    pub fn resume_topup(&mut self, data_id: String, result: TopUpResult) {
        self.assert_operator();
        let (ciphertext, end) = match result {
            TopUpResult::Success { new_encrypted_data } => {
                check_ciphertext(&new_encrypted_data);
                (Some(new_encrypted_data), TaskEnd::Done)
            }
            TopUpResult::Error { message } => (None, TaskEnd::Failed(clip(&message))),
        };
        self.answer_task(&data_id, TaskKind::TopUp, ciphertext, &end);
    }

    /// The end of a top-up: what goes back to the sender of the tokens. Tasks of states before version 3 have no number.
    #[private]
    pub fn on_top_up_response(
        &mut self,
        owner: AccountId,
        nonce: u32,
        amount: U128,
        task: Option<u64>,
    ) -> U128 {
        match self
            .task_end(&owner, nonce, task)
            .and_then(|ciphertext| self.apply_top_up(&owner, nonce, ciphertext))
        {
            Ok(()) => {
                self.pools.fund_payment_keys(amount.0);
                U128(0)
            }
            Err(reason) => {
                env::log_str(&format!("Top-up of payment key {owner}:{nonce} failed: {reason}"));
                amount
            }
        }
    }

    /// Delete one of the caller's payment keys; its storage deposit comes back once the operator agrees. A top-up that
    /// is under way ends.
    #[payable]
    pub fn delete_payment_key(&mut self, nonce: u32) {
        crate::withdrawals::take_yocto();
        let owner = env::predecessor_account_id();
        let key = SecretKey::payment_key(&owner, nonce);
        require!(self.secrets.contains_key(&key), "Payment key not found");
        self.end_top_up(&key);
        let data_id = self.start_task(&owner, nonce, TaskKind::Delete, Rank::KeyOwner, None);
        self.emit("system_event", SystemEvent::DeletePaymentKey { data_id, owner: &owner, nonce });
    }

    pub fn resume_delete_payment_key(&mut self, data_id: String, result: DeleteResult) {
        self.assert_operator();
        let end = match result {
            DeleteResult::Success => TaskEnd::Done,
            DeleteResult::Error { message } => TaskEnd::Failed(clip(&message)),
        };
        self.answer_task(&data_id, TaskKind::Delete, None, &end);
    }

    /// The end of a deletion: whether the key is gone.
    #[private]
    pub fn on_delete_payment_key_response(
        &mut self,
        owner: AccountId,
        nonce: u32,
        task: Option<u64>,
    ) -> bool {
        let key = SecretKey::payment_key(&owner, nonce);
        match self.task_end(&owner, nonce, task) {
            Ok(_) if self.secrets.contains_key(&key) => self.remove_secret(&key),
            Ok(_) => {}
            Err(reason) => {
                env::log_str(&format!("Payment key {owner}:{nonce} was not deleted: {reason}"));
            }
        }
        !self.secrets.contains_key(&key)
    }
}

impl Contract {
    /// The owner changes a key: a top-up of it that is under way ends. Panics while a deletion is.
    pub(crate) fn end_top_up(&mut self, key: &SecretKey) {
        let Some(nonce) = key.payment_nonce() else { return };
        require!(
            !matches!(self.payment_keys.tasks.under_way(&key.owner, nonce), Some((TaskKind::Delete, _))),
            "The deletion of this payment key is under way, try again when it has ended"
        );
        self.forget_task(key);
    }

    /// The owner removes a key: whatever is under way for it ends.
    pub(crate) fn forget_task(&mut self, key: &SecretKey) {
        let Some(nonce) = key.payment_nonce() else { return };
        if self.payment_keys.tasks.under_way(&key.owner, nonce).is_some() {
            env::log_str(&format!("Payment key {}:{nonce}: its owner ends the task under way", key.owner));
        }
        self.payment_keys.tasks.forget(&key.owner, nonce);
    }

    /// Begin a top-up of a key with tokens of `sender`. The owner's takes the place of a stranger's.
    pub(crate) fn start_top_up(&mut self, sender: &AccountId, owner: AccountId, nonce: u32, amount: U128) {
        require!(
            amount.0 >= MIN_TOP_UP_AMOUNT,
            format!("Minimum top-up is $0.01 ({MIN_TOP_UP_AMOUNT}), got {}", amount.0)
        );
        self.check_top_up(&owner, nonce);
        let rank = if *sender == owner {
            Rank::KeyOwner
        } else if self.payment_keys.swap_contract.as_ref() == Some(sender) {
            Rank::Swap
        } else {
            Rank::Stranger
        };
        self.check_way(&owner, nonce, rank);
        self.payment_keys.tasks.forget(&owner, nonce);
        let data_id = self.start_task(&owner, nonce, TaskKind::TopUp, rank, Some(amount));
        let encrypted_data = &self.secret(&SecretKey::payment_key(&owner, nonce)).encrypted_secrets;
        self.emit(
            "system_event",
            SystemEvent::TopUpPaymentKey { data_id, owner: &owner, nonce, amount, encrypted_data },
        );
    }

    /// Panics while a task of this key is under way that a top-up through the swap contract does not replace.
    pub(crate) fn check_way_of_swap(&self, owner: &AccountId, nonce: u32) {
        self.check_way(owner, nonce, Rank::Swap);
    }

    fn check_way(&self, owner: &AccountId, nonce: u32, rank: Rank) {
        match self.payment_keys.tasks.under_way(owner, nonce) {
            None => {}
            Some((TaskKind::TopUp, held)) if held < rank => {}
            Some(_) => env::panic_str(
                "A top-up or deletion of this payment key is under way, try again when it has ended",
            ),
        }
    }

    /// Panics, with what to do, for a key that cannot be topped up.
    pub(crate) fn check_top_up(&self, owner: &AccountId, nonce: u32) {
        let key = SecretKey::payment_key(owner, nonce);
        let secret = self
            .secrets
            .get(&key)
            .unwrap_or_else(|| env::panic_str("Payment key not found. Create it first with store_secrets()"));
        // one of an earlier version's state may be longer than what is stored now
        check_size(secret);
        if !lists::SECRETS.contains(owner.as_str(), &key.list_item()) {
            // it has not paid for its task
            self.check_reserve();
        }
    }

    /// Create the task's yield, which becomes this call's result. The key has no other task.
    fn start_task(
        &mut self,
        owner: &AccountId,
        nonce: u32,
        kind: TaskKind,
        rank: Rank,
        amount: Option<U128>,
    ) -> [u8; 32] {
        let tasks = &mut self.payment_keys.tasks;
        let number = tasks.next_number;
        tasks.next_number += 1;
        let mut arguments = serde_json::json!({ "owner": owner, "nonce": nonce, "task": number });
        let callback = match amount {
            Some(amount) => {
                arguments["amount"] = amount.0.to_string().into();
                "on_top_up_response"
            }
            None => "on_delete_payment_key_response",
        };
        let data_id = yields::create(callback, arguments.to_string().as_bytes(), CALLBACK_GAS);
        let until = env::block_height() + MOST_BLOCKS;
        tasks.by_key.insert((owner.clone(), nonce), Task { number, kind, rank, data_id, until });
        let answer = Answer { owner: owner.clone(), nonce, answered: false, new_encrypted_data: None };
        tasks.by_data_id.insert(data_id, answer);
        data_id
    }

    /// Resume the task's yield, once: a second answer finds no task that waits.
    fn answer_task(&mut self, data_id: &str, kind: TaskKind, ciphertext: Option<String>, end: &TaskEnd) {
        let data_id = parse_data_id(data_id);
        let (owner, nonce) = self.payment_keys.tasks.answer(&data_id, kind, ciphertext);
        let payload = serde_json::to_vec(end)
            .unwrap_or_else(|_| env::panic_str("The result could not be written as JSON"));
        env::log_str(&format!("Payment key {owner}:{nonce}: the operator answered"));
        yields::resume(&data_id, &payload);
    }

    /// In a task's callback: forget the task, and tell how its yield ended.
    fn task_end(
        &mut self,
        owner: &AccountId,
        nonce: u32,
        number: Option<u64>,
    ) -> Result<Option<String>, String> {
        let ciphertext = self.payment_keys.tasks.take(owner, nonce, number)?;
        let payload = yields::result()?;
        match serde_json::from_slice(&payload) {
            Ok(TaskEnd::Done) => Ok(ciphertext),
            Ok(TaskEnd::Failed(reason)) => Err(reason),
            Err(error) => Err(error.to_string()),
        }
    }

    fn apply_top_up(
        &mut self,
        owner: &AccountId,
        nonce: u32,
        ciphertext: Option<String>,
    ) -> Result<(), String> {
        let ciphertext = ciphertext.ok_or("the answer holds no ciphertext")?;
        let secret = self.secrets.get_mut(&SecretKey::payment_key(owner, nonce)).ok_or("the key is gone")?;
        secret.encrypted_secrets = ciphertext;
        secret.updated_at = env::block_timestamp();
        Ok(())
    }
}

/// Panics for a payment key whose top-up could not be announced or could not end within its gas.
pub fn check_size(secret: &SecretProfile) {
    check_ciphertext(&secret.encrypted_secrets);
    let condition = bytes_of(&secret.access);
    require!(
        condition <= MOST_CONDITION,
        format!(
            "A payment key's access condition has at most {MOST_CONDITION} bytes in state, so that it can be topped \
             up; this one has {condition}"
        )
    );
}

fn check_ciphertext(text: &str) {
    require!(!text.is_empty(), "Encrypted secrets cannot be empty");
    let length = escaped_len(text);
    require!(
        length <= MOST_CIPHERTEXT,
        format!(
            "A payment key's ciphertext has at most {MOST_CIPHERTEXT} bytes as JSON text, so that it can be topped \
             up; this one has {length}"
        )
    );
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
