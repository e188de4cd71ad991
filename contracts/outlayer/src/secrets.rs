// SPDX-License-Identifier: MIT
//! Secrets: ciphertext for keystores, by what it belongs to, a profile and the owner.

use near_sdk::json_types::U128;
use near_sdk::{borsh, env, near, require, AccountId};

use crate::access::{AccessCondition, VersionedAccess};
use crate::events::SystemEvent;
use crate::lists::{self, Lists};
use crate::storage::{bytes_of, change_deposit, entry_bytes, pay, price, take_deposit, Meter};
use crate::tasks::{check_size, TASK_BYTES};
use crate::types::is_sha256_hex;
use crate::{Contract, ContractExt};

const MAX_BRANCH_LENGTH: usize = 255;
const MAX_PROFILE_LENGTH: usize = 64;
/// Of a key of state (protocol limit).
const MOST_KEY_BYTES: usize = 2_048;
/// As many as the original's clients read in all.
const MOST_LISTED: u64 = 500;

#[near(serializers = [json, borsh])]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SystemSecret {
    PaymentKey,
}

/// What a secret belongs to. The order of the variants is part of the storage key.
#[near(serializers = [json, borsh])]
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SecretAccessor {
    Repo {
        repo: String,
        #[serde(default)]
        branch: Option<String>,
    },
    WasmHash {
        hash: String,
    },
    Project {
        project_id: String,
    },
    System(SystemSecret),
}

#[near(serializers = [borsh])]
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretKey {
    pub accessor: SecretAccessor,
    pub profile: String,
    pub owner: AccountId,
}

impl SecretKey {
    /// The profile of a payment key is its nonce.
    pub fn payment_key(owner: &AccountId, nonce: u32) -> Self {
        SecretKey {
            accessor: SecretAccessor::System(SystemSecret::PaymentKey),
            profile: nonce.to_string(),
            owner: owner.clone(),
        }
    }

    pub fn payment_nonce(&self) -> Option<u32> {
        match self.accessor {
            SecretAccessor::System(SystemSecret::PaymentKey) => self.profile.parse().ok(),
            _ => None,
        }
    }

    /// What stands for it in its owner's list.
    pub fn list_item(&self) -> Vec<u8> {
        borsh::to_vec(&(&self.accessor, &self.profile))
            .unwrap_or_else(|_| env::panic_str("A secret's name could not be written"))
    }

    fn of_list_item(owner: &AccountId, item: &[u8]) -> Option<Self> {
        let (accessor, profile) = borsh::from_slice(item).ok()?;
        Some(SecretKey { accessor, profile, owner: owner.clone() })
    }
}

#[near(serializers = [borsh])]
#[derive(Clone, Debug)]
pub struct SecretProfile {
    pub encrypted_secrets: String,
    pub access: VersionedAccess,
    pub created_at: u64,
    pub updated_at: u64,
    pub storage_deposit: u128,
}

#[near(serializers = [json])]
pub struct SecretProfileView {
    pub encrypted_secrets: String,
    pub access: AccessCondition,
    pub created_at: u64,
    pub updated_at: u64,
    pub storage_deposit: U128,
    pub accessor: SecretAccessor,
}

#[near(serializers = [json])]
pub struct UserSecretInfo {
    pub accessor: SecretAccessor,
    pub profile: String,
    pub created_at: u64,
    pub updated_at: u64,
    pub storage_deposit: U128,
    pub access: AccessCondition,
}

#[near]
impl Contract {
    /// Store or replace a secret. What was held for it counts, what is over comes back.
    #[payable]
    pub fn store_secrets(
        &mut self,
        accessor: SecretAccessor,
        profile: String,
        encrypted_secrets_base64: String,
        access: AccessCondition,
    ) {
        self.check_accessor(&accessor);
        check_profile(&accessor, &profile);
        require!(!encrypted_secrets_base64.is_empty(), "Encrypted secrets cannot be empty");
        access.check();
        let key = SecretKey { accessor, profile, owner: env::predecessor_account_id() };
        check_key(&key);
        let now = env::block_timestamp();
        let secret = SecretProfile {
            encrypted_secrets: encrypted_secrets_base64,
            access: VersionedAccess::V1(access),
            created_at: now,
            updated_at: now,
            storage_deposit: 0,
        };
        if let Some(nonce) = key.payment_nonce() {
            check_size(&secret);
            self.end_top_up(&key);
            self.emit(
                "system_event",
                SystemEvent::TopUpPaymentKey {
                    data_id: [0; 32],
                    owner: &key.owner,
                    nonce,
                    amount: U128(0),
                    encrypted_data: &secret.encrypted_secrets,
                },
            );
        }
        match self.secrets.get(&key).map(|old| old.created_at) {
            Some(created_at) => self.replace_secret(key, SecretProfile { created_at, ..secret }),
            None => self.insert_secret(key, secret),
        }
    }

    /// Remove a secret; its deposit comes back. A top-up or deletion of a payment key that is under way ends.
    pub fn delete_secrets(&mut self, accessor: SecretAccessor, profile: String) {
        let key = SecretKey { accessor, profile, owner: env::predecessor_account_id() };
        self.forget_task(&key);
        self.remove_secret(&key);
    }

    /// Change who may use a secret; storage is priced as when it was stored (R5).
    #[payable]
    pub fn update_access(&mut self, accessor: SecretAccessor, profile: String, new_access: AccessCondition) {
        new_access.check();
        let key = SecretKey { accessor, profile, owner: env::predecessor_account_id() };
        let mut secret = self.secret(&key).clone();
        secret.access = VersionedAccess::V1(new_access);
        secret.updated_at = env::block_timestamp();
        if key.payment_nonce().is_some() {
            check_size(&secret);
            self.end_top_up(&key);
        }
        self.replace_secret(key, secret);
    }

    /// YoctoNEAR that storing this needs: for a new entry all of it, with what the owner's first one needs beside it; for
    /// one that exists, what it holds counts towards it.
    pub fn estimate_storage_cost(
        &self,
        accessor: SecretAccessor,
        profile: String,
        owner: AccountId,
        encrypted_secrets_base64: String,
        access: AccessCondition,
    ) -> U128 {
        let key = SecretKey { accessor, profile, owner };
        let secret = SecretProfile {
            encrypted_secrets: encrypted_secrets_base64,
            access: VersionedAccess::V1(access),
            created_at: 0,
            updated_at: 0,
            storage_deposit: 0,
        };
        let is_first = !self.secrets.contains_key(&key) && lists::SECRETS.count(key.owner.as_str()) == 0;
        let head = if is_first { Lists::head_bytes(key.owner.as_str()) } else { 0 };
        U128(self.deposit(&key, &secret) + price(head))
    }

    /// For a repository the entry of the branch comes first, then the one for every branch.
    pub fn get_secrets(
        &self,
        accessor: SecretAccessor,
        profile: String,
        owner: AccountId,
    ) -> Option<SecretProfileView> {
        let key = SecretKey { accessor, profile, owner };
        self.secret_view(&key).or_else(|| match &key.accessor {
            SecretAccessor::Repo { repo, branch: Some(_) } => {
                let accessor = SecretAccessor::Repo { repo: repo.clone(), branch: None };
                self.secret_view(&SecretKey { accessor, ..key.clone() })
            }
            _ => None,
        })
    }

    /// Whether exactly this entry is there.
    pub fn secrets_exist(&self, accessor: SecretAccessor, profile: String, owner: AccountId) -> bool {
        self.secrets.contains_key(&SecretKey { accessor, profile, owner })
    }

    /// The profiles under one accessor, of an account's secrets from the `from_index`-th on, at most 500 of them.
    pub fn list_profiles(
        &self,
        accessor: SecretAccessor,
        owner: AccountId,
        from_index: Option<u64>,
        limit: Option<u64>,
    ) -> Vec<String> {
        let keys = self.secret_keys(&owner, from_index, limit).into_iter();
        keys.filter(|key| key.accessor == accessor).map(|key| key.profile).collect()
    }

    /// Secrets of an account from the `from_index`-th on, at most 500; past the end none.
    pub fn list_user_secrets(
        &self,
        account_id: AccountId,
        from_index: Option<u64>,
        limit: Option<u64>,
    ) -> Vec<UserSecretInfo> {
        let keys = self.secret_keys(&account_id, from_index, limit).into_iter();
        keys.filter_map(|key| {
            let secret = self.secrets.get(&key)?;
            Some(UserSecretInfo {
                created_at: secret.created_at,
                updated_at: secret.updated_at,
                storage_deposit: U128(secret.storage_deposit),
                access: secret.access.condition().clone(),
                accessor: key.accessor,
                profile: key.profile,
            })
        })
        .collect()
    }
}

impl Contract {
    pub(crate) fn secret(&self, key: &SecretKey) -> &SecretProfile {
        self.secrets.get(key).unwrap_or_else(|| env::panic_str("Secrets not found"))
    }

    /// Remove an entry and pay its deposit back; with the owner's last one, what the list needed as well.
    pub(crate) fn remove_secret(&mut self, key: &SecretKey) {
        let meter = Meter::start();
        let secret = self.secrets.remove(key).unwrap_or_else(|| env::panic_str("Secrets not found"));
        self.secrets.flush();
        let mut refund = secret.storage_deposit;
        if lists::SECRETS.remove(key.owner.as_str(), &key.list_item()) {
            // what is freed beyond the entry is the list's head
            refund += price((meter.freed() + task_bytes(key)).saturating_sub(own_bytes(key, &secret)));
        } else {
            self.unindex_secret(key);
        }
        pay(&key.owner, refund);
    }

    fn insert_secret(&mut self, key: SecretKey, secret: SecretProfile) {
        let meter = Meter::start();
        let storage_deposit = self.deposit(&key, &secret);
        lists::SECRETS.add(key.owner.as_str(), &key.list_item(), key.payment_nonce().unwrap_or(0));
        let task = task_bytes(&key);
        self.secrets.insert(key, SecretProfile { storage_deposit, ..secret });
        self.secrets.flush();
        take_deposit(price(meter.grown() + task));
    }

    fn replace_secret(&mut self, key: SecretKey, secret: SecretProfile) {
        let storage_deposit = self.deposit(&key, &secret);
        change_deposit(storage_deposit, self.secret(&key).storage_deposit);
        self.secrets.insert(key, SecretProfile { storage_deposit, ..secret });
    }

    /// What an entry must hold when it becomes `secret`. One of a state before version 3 holds what it was charged then,
    /// and the change of its record: nobody gains or loses by the new prices.
    fn deposit(&self, key: &SecretKey, secret: &SecretProfile) -> u128 {
        match self.secrets.get(key) {
            Some(old) if !lists::SECRETS.contains(key.owner.as_str(), &key.list_item()) => {
                (old.storage_deposit + price(bytes_of(secret))).saturating_sub(price(bytes_of(old)))
            }
            _ => price(own_bytes(key, secret)),
        }
    }

    /// Entries of states before version 3 stand in one list for each owner.
    fn unindex_secret(&mut self, key: &SecretKey) {
        let Some(index) = self.user_secrets.get_mut(&key.owner) else { return };
        index.retain(|(accessor, profile)| (accessor, profile) != (&key.accessor, &key.profile));
        if index.is_empty() {
            self.user_secrets.remove(&key.owner);
        }
    }

    /// Those of states before version 3 come first.
    fn secret_keys(&self, owner: &AccountId, from_index: Option<u64>, limit: Option<u64>) -> Vec<SecretKey> {
        let old = self.user_secrets.get(owner).map_or(&[][..], Vec::as_slice);
        let from = from_index.unwrap_or(0);
        let limit = limit.unwrap_or(MOST_LISTED).min(MOST_LISTED);
        let mut keys: Vec<SecretKey> = old
            .iter()
            .skip(usize::try_from(from).unwrap_or(usize::MAX))
            .take(limit as usize)
            .map(|(accessor, profile)| SecretKey {
                accessor: accessor.clone(),
                profile: profile.clone(),
                owner: owner.clone(),
            })
            .collect();
        let rest = from.saturating_sub(old.len() as u64);
        let items = lists::SECRETS.page(owner.as_str(), rest, limit - keys.len() as u64);
        keys.extend(items.iter().filter_map(|item| SecretKey::of_list_item(owner, item)));
        keys
    }

    fn secret_view(&self, key: &SecretKey) -> Option<SecretProfileView> {
        self.secrets.get(key).map(|secret| SecretProfileView {
            encrypted_secrets: secret.encrypted_secrets.clone(),
            access: secret.access.condition().clone(),
            created_at: secret.created_at,
            updated_at: secret.updated_at,
            storage_deposit: U128(secret.storage_deposit),
            accessor: key.accessor.clone(),
        })
    }

    fn check_accessor(&self, accessor: &SecretAccessor) {
        match accessor {
            SecretAccessor::Repo { repo, branch } => {
                require!(!repo.is_empty(), "Repository cannot be empty");
                if let Some(branch) = branch {
                    require!(!branch.is_empty(), "Branch name cannot be empty if provided");
                    require!(branch.len() <= MAX_BRANCH_LENGTH, "Branch name too long (max 255 chars)");
                }
            }
            SecretAccessor::WasmHash { hash } => {
                require!(is_sha256_hex(hash), "WASM hash must be 64 hex characters (SHA256), in lower case");
            }
            SecretAccessor::Project { project_id } => {
                let parts: Vec<&str> = project_id.split('/').collect();
                require!(
                    parts.len() == 2 && parts.iter().all(|part| !part.is_empty()),
                    "Project ID must be in format 'owner.near/name'"
                );
                require!(
                    self.projects.contains_key(project_id),
                    format!("Project '{project_id}' does not exist")
                );
            }
            SecretAccessor::System(SystemSecret::PaymentKey) => {}
        }
    }
}

fn check_key(key: &SecretKey) {
    let length = 1 + bytes_of(key);
    require!(
        length <= MOST_KEY_BYTES,
        format!(
            "Repository, branch, profile and owner name a secret with at most {MOST_KEY_BYTES} bytes in all; these have \
             {length}"
        )
    );
}

fn check_profile(accessor: &SecretAccessor, profile: &str) {
    require!(!profile.is_empty(), "Profile name cannot be empty");
    require!(profile.len() <= MAX_PROFILE_LENGTH, "Profile name too long (max 64 chars)");
    require!(
        profile.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'),
        "Profile name can only contain letters, digits, '-' and '_'"
    );
    if *accessor == SecretAccessor::System(SystemSecret::PaymentKey) {
        // one text for each number, so that a nonce names one key
        let canonical = profile.parse::<u32>().is_ok_and(|nonce| nonce.to_string() == profile);
        require!(canonical, "PaymentKey profile must be a valid u32 nonce");
    }
}

/// Bytes that an entry occupies: its record, its item in the owner's list, and for a payment key a task's.
fn own_bytes(key: &SecretKey, secret: &SecretProfile) -> usize {
    entry_bytes(1 + bytes_of(key), bytes_of(secret))
        + Lists::item_bytes(key.owner.as_str(), bytes_of(&(&key.accessor, &key.profile)))
        + task_bytes(key)
}

/// Bytes that are paid for and occupied only while a task of this key is under way.
fn task_bytes(key: &SecretKey) -> usize {
    key.payment_nonce().map_or(0, |_| TASK_BYTES)
}
